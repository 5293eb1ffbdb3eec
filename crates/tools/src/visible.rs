//! Text of others on a terminal: whoever made a control socket may be anybody, and a terminal obeys
//! what it is sent.

use std::fmt::{Display, Write as _};

use passt::cli::{is_hidden, printable};

/// One line: what is hidden in a text is written as an escape, and blanks at its end are left out.
pub fn line(text: impl Display) -> String {
    printable(text.to_string().trim_end_matches(' '))
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

/// Says something on standard error, as one [line](line()).
pub fn tell(text: impl Display) {
    eprintln!("{}", line(text));
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
    fn json_means_the_same() {
        let text = serde_json::to_string(&[HOSTILE, "\\\u{202e}"]).expect("text");
        let plain = json(&text);
        assert!(!plain.chars().any(is_hidden) && plain.contains(r"\u009b\u202e"), "{plain}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&plain).expect("JSON"), [HOSTILE, "\\\u{202e}"]);
    }
}
