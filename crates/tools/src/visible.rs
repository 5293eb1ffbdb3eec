//! Text of others on a terminal: whoever made a control socket may be anybody, and a terminal obeys
//! what it is sent.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};

use passt::cli::{is_hidden, printable};

/// Characters of a line at most.
const LINE: usize = 1000;
/// Characters at most of a name, an address or another text that a server tells.
pub const TEXT: usize = 200;

/// One line: what is hidden in a text is written as an escape, and blanks at its end are left out.
/// What is long is cut.
pub fn line(text: impl Display) -> String {
    let mut text = text.to_string();
    text.truncate(text.trim_end_matches(' ').len());
    cut(&mut text, LINE);
    // An escape is longer than what it is for.
    let mut text = printable(&text);
    cut(&mut text, LINE);
    text
}

/// Leaves so many characters of a text at most; the last one says that there were more.
pub fn cut(text: &mut String, most: usize) {
    let mut places = text.char_indices().map(|(place, _)| place).skip(most.saturating_sub(1));
    if let (Some(last), Some(_)) = (places.next(), places.next()) {
        text.truncate(last);
        text.push('…');
        text.shrink_to_fit();
    }
}

/// JSON of the same meaning without characters that are hidden: of these JSON has only in strings.
pub fn json(text: &str) -> String {
    text.chars().fold(String::new(), |mut all, letter| {
        if is_hidden(letter) {
            // Writing to a string can't fail.
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(all, "\\u{unit:04x}");
            }
        } else {
            all.push(letter);
        }
        all
    })
}

/// Says something on standard error, as one [line](line()), if there is somebody left to read it.
pub fn tell(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", line(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\r\n\u{7}\u{7f}\u{9b}\u{202e}\u{2066}\u{200b}\u{2028}\u{ad}\u{e0041}ö";

    #[test]
    fn lines_are_seen() {
        let escaped = r"a\u{1b}[2J\r\n\u{7}\u{7f}\u{9b}\u{202e}\u{2066}\u{200b}\u{2028}\u{ad}\u{e0041}ö";
        assert_eq!(line(HOSTILE), escaped);
        assert_eq!(line("TCP [*]:80  =>  80 "), "TCP [*]:80  =>  80");
    }

    #[test]
    fn long_lines_are_cut() {
        let cut = |text: &str, most| {
            let mut text = text.to_owned();
            super::cut(&mut text, most);
            text
        };
        assert_eq!([cut("öäü", 3), cut("öäüß", 3)], ["öäü", "öä…"]);
        for text in ["x".repeat(300_000), "\u{1b}".repeat(300), "\u{1b}".repeat(300_000)] {
            let line = line(text);
            assert!(line.chars().count() == LINE && line.ends_with('…'), "{line}");
        }
    }

    #[test]
    fn json_means_the_same() {
        let text = serde_json::to_string(&[HOSTILE, "\\\u{202e}"]).expect("text");
        let plain = json(&text);
        assert!(!plain.chars().any(is_hidden) && plain.contains(r"\u009b\u202e"), "{plain}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&plain).expect("JSON"), [HOSTILE, "\\\u{202e}"]);
    }
}
