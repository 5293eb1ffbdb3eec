//! Examples in README, in the documents and in the manual pages, and how each of them is run.
//!
//! An example is a block of indented lines of which one starts a program of this workspace. A
//! comment above it says what a test does with it; in a manual page it is a comment of roff:
//!
//! ```text
//! <!-- run -->                  each line by itself, to its success
//! <!-- run: serves 8080 -->     each line until port 8080 of the host answers HTTP
//! <!-- run: with NAME -->       the block before it is in the file NAME
//! <!-- terminal 1 -->           a session: "$ " or "# " and a command, then what it prints
//! <!-- not run: REASON -->      not at all
//! ```
//!
//! `user` and `root` limit an example to one of both, `loopback` and `elsewhere` to a host whose
//! resolver is there; several go with commas. In a session `...` is anything, within a line or as a
//! line of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::User;

/// Programs whose examples have to say how they are run.
const PROGRAMS: [&str; 7] = ["pasta", "passt", "pesto", "passtop", "qrap", "slirp4netns", "vpnkit"];

/// An example.
#[derive(Clone, Debug)]
pub struct Example {
    /// Page and line, as a compiler says it.
    pub place: String,
    /// Its lines, without the indentation.
    pub lines: Vec<String>,
    /// What is done with it.
    pub how: How,
    /// The only user that it is for.
    pub user: Option<User>,
    /// Whether it is only for hosts whose resolver is on the loopback, or only for others.
    pub on_loopback: Option<bool>,
}

/// What is done with an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Each line is run by itself.
    Run {
        /// The port of the host where each of them serves HTTP; else it ends.
        serves: Option<u16>,
        /// A file that it needs: name and content.
        file: Option<(String, String)>,
    },
    /// It is typed into the terminal of this number.
    Terminal(u8),
    /// It is not run, for this reason.
    Not(String),
}

/// Examples of a page, in order.
pub type Page = Vec<Example>;

/// All examples, page by page.
///
/// # Errors
/// If a page can't be read, or an example doesn't say how it is run.
pub fn all(root: &Path) -> Result<Vec<Page>> {
    let mut paths = vec![root.join("README.md")];
    for directory in ["docs", "docs/man"] {
        let entries = fs::read_dir(root.join(directory)).context(directory)?;
        let mut found = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
        found.retain(|path| path.extension().is_some_and(|end| end == "md" || end == "1"));
        found.sort();
        paths.append(&mut found);
    }
    paths.iter().map(|path| page(root, path)).collect()
}

fn page(root: &Path, path: &Path) -> Result<Page> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
    let is_manual = path.extension().is_some_and(|end| end == "1");
    let blocks = if is_manual { manual_blocks(&text) } else { blocks(&text) };
    let mut examples = Vec::new();
    let mut before = String::new();
    for block in blocks {
        let place = format!("{name}:{}", block.at);
        if let Some(comment) = &block.comment {
            examples.push(example(comment, &block, &before).with_context(|| place.clone())?);
            examples.last_mut().context("just added")?.place = place;
        } else if let Some(line) = block.lines.iter().find(|line| starts_ours(line)) {
            bail!("{place}: nothing says whether this is run: {line}");
        }
        before = block.lines.join("\n") + "\n";
    }
    Ok(examples)
}

/// Whether a line starts a program of ours.
fn starts_ours(line: &str) -> bool {
    let line = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")).unwrap_or(line);
    let word = line.split_whitespace().find(|word| *word != "sudo" && !word.contains('='));
    word.is_some_and(|word| PROGRAMS.contains(&word))
}

/// What a comment says about a block; `before` is the block before it.
fn example(comment: &str, block: &Block, before: &str) -> Result<Example> {
    let (kind, words) = comment.split_once(": ").unwrap_or((comment, ""));
    let mut example = Example {
        place: String::new(),
        lines: block.lines.clone(),
        how: How::Run { serves: None, file: None },
        user: None,
        on_loopback: None,
    };
    match kind {
        "run" => {}
        "not run" => {
            example.how = How::Not(words.to_owned());
            return Ok(example);
        }
        "terminal 1" => example.how = How::Terminal(1),
        "terminal 2" => example.how = How::Terminal(2),
        _ => bail!("unknown: {comment}"),
    }
    for word in words.split(", ").filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once(' ').unwrap_or((word, ""));
        match (key, &mut example.how) {
            ("user", _) => example.user = Some(User::Normal),
            ("root", _) => example.user = Some(User::Root),
            ("loopback", _) => example.on_loopback = Some(true),
            ("elsewhere", _) => example.on_loopback = Some(false),
            ("serves", How::Run { serves, .. }) => *serves = Some(value.parse()?),
            ("with", How::Run { file, .. }) => *file = Some((value.to_owned(), before.to_owned())),
            _ => bail!("unknown: {word}"),
        }
    }
    Ok(example)
}

/// Lines that belong together, and what is above them.
struct Block {
    /// The line of the page where it begins.
    at: usize,
    comment: Option<String>,
    lines: Vec<String>,
}

/// Indented blocks of a document. One begins behind an empty line or a comment.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut comment = None;
    let mut previous = "";
    for (i, line) in text.lines().enumerate() {
        let found = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->"));
        let is_known = |text: &&str| ["run", "not run", "terminal"].iter().any(|word| text.starts_with(word));
        if let Some(code) = line.strip_prefix("    ") {
            let goes_on = previous.starts_with("    ");
            match blocks.last_mut().filter(|_| goes_on) {
                Some(block) => block.lines.push(code.to_owned()),
                None if previous.is_empty() || previous.starts_with("<!-- ") => {
                    blocks.push(Block { at: i + 1, comment: comment.take(), lines: vec![code.to_owned()] });
                }
                None => {}
            }
        } else {
            comment = found.filter(is_known).map(str::to_owned);
        }
        previous = line;
    }
    blocks
}

/// The same of a manual page, where a comment is one of roff.
fn manual_blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut comment = None;
    let mut inside = false;
    for (i, line) in text.lines().enumerate() {
        match line {
            ".nf" => {
                inside = true;
                blocks.push(Block { at: i + 2, comment: comment.take(), lines: Vec::new() });
            }
            ".fi" => inside = false,
            _ if inside => {
                let plain = line.replace("\\*(Aq", "'").replace("\\&", "").replace('\\', "");
                blocks.last_mut().expect("begun").lines.push(plain);
            }
            _ => comment = line.strip_prefix(".\\\" ").map(str::to_owned).or(comment),
        }
    }
    blocks
}

/// Whether what a command printed is what a page says, line by line.
#[must_use]
pub fn agrees(printed: &[String], expected: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=printed.len()).any(|from| agrees(&printed[from..], rest))
        }
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, more)| line_agrees(line, first) && agrees(more, rest))
        }
    }
}

/// Whether a line is like a pattern, in which `...` is anything and white space is all alike.
fn line_agrees(line: &str, pattern: &str) -> bool {
    let even = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, pattern) = (even(line), even(pattern));
    let mut parts = pattern.split("...");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part.trim_end());
        }
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_comments() {
        let text = "Text:\n\n<!-- run: user, serves 80 -->\n    pasta a\n    pasta b\n\n    other\n\n- list\n    no block\n";
        let found = blocks(text);
        let lines: Vec<_> = found.iter().map(|block| (block.at, block.lines.join("|"))).collect();
        assert_eq!(lines, [(4, "pasta a|pasta b".to_owned()), (7, "other".to_owned())]);
        let first = example(found[0].comment.as_deref().expect("a comment"), &found[0], "").expect("known");
        assert_eq!(first.user, Some(User::Normal));
        assert_eq!(first.how, How::Run { serves: Some(80), file: None });
        assert!(example("run: what", &found[0], "").is_err());
        assert!(starts_ours("$ pasta x") && starts_ours("A=b qrap -m 1G") && !starts_ours("ls pasta"));
    }

    #[test]
    fn manual_pages_too() {
        let found = manual_blocks(".\\\" run\n.PP\n.nf\npasta \\-\\-help it\\*(Aqs\n.fi\n.nf\nx\n.fi\n");
        assert_eq!(found[0].comment.as_deref(), Some("run"));
        assert_eq!(found[0].lines, ["pasta --help it's"]);
        assert_eq!(found[1].comment, None);
    }

    #[test]
    fn output_is_compared() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        for (printed, expected, like) in [
            ("", "", true),
            ("a", "", false),
            ("a  b", "a b", true),
            ("a\nb\nc", "a\n...", true),
            ("a\nb\nc", "...\nc", true),
            ("a\nb", "...\nc", false),
            ("x 12 ms: no", "x ... ms...", true),
            ("x 12 ms", "x ... s", false),
            ("abc", "ab", false),
        ] {
            assert_eq!(agrees(&lines(printed), &lines(expected)), like, "{printed} {expected}");
        }
    }
}
