//! Spelling of the documents, of the manual pages' texts, and of what the programs say, be it help,
//! advice, reasons to drop or messages, by codespell: words that are often written wrong. Words that
//! it takes for such and that are not are in `xtask/words.txt`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::links::DOCUMENTS;
use crate::tally::Tally;

/// What is looked at beside the documents: directories with all that is in them.
const TEXTS: [&str; 2] = ["xtask/src/manual", "crates"];
const WORDS: &str = "xtask/words.txt";

/// All that is looked at.
fn texts() -> impl Iterator<Item = &'static str> {
    DOCUMENTS.into_iter().chain(TEXTS)
}

/// Prints words that are wrong; whether there are none.
pub(crate) fn print(root: &Path) -> Result<bool> {
    let mut command = Command::new("codespell");
    // The sources of the manual pages are looked at, without roff in them.
    command.args(["--ignore-words", WORDS, "--skip", "*.json,*.svg,*.1"]).args(texts());
    let status = command.current_dir(root).stdin(Stdio::null()).status().context("codespell")?;
    Ok(status.success())
}

/// The same as a test.
pub(crate) fn check(root: &Path, tally: &mut Tally) -> Result<()> {
    if !crate::machine::installed("codespell") {
        tally.skip("spelling of the documents: not installed: codespell");
        return Ok(());
    }
    let passed = print(root)?;
    tally.record(passed, "spelling of the documents");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What users read is looked at, wherever it is.
    #[test]
    fn texts_are_looked_at() {
        let root = crate::root().expect("the workspace");
        for text in texts() {
            assert!(root.join(text).exists(), "{text} is not there");
        }
        for file in [
            "crates/passt/src/advice.rs",
            "crates/passt/src/app/advice.rs",
            "crates/passt/src/cli/advice.rs",
            "crates/passt/src/cli/options/announce.rs",
            "crates/proto/src/drop.rs",
            "crates/tools/src/lib.rs",
        ] {
            assert!(root.join(file).exists(), "{file} is not there");
            assert!(texts().any(|text| Path::new(file).starts_with(text)), "{file} is left out");
        }
    }
}
