//! Spelling of the documents and of the manual pages' texts, by codespell: words that are often
//! written wrong. Words that it takes for such and that are not are in `xtask/words.txt`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::tally::Tally;

/// What is looked at: files, and directories with all that is in them.
const TEXTS: [&str; 9] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "fuzz/README.md",
    "docs",
    "xtask/src/manual",
    "crates/passt/src/cli/options.rs",
];
const WORDS: &str = "xtask/words.txt";

/// Prints words that are wrong; whether there are none.
pub(crate) fn print(root: &Path) -> Result<bool> {
    let mut command = Command::new("codespell");
    // The sources of the manual pages are looked at, without roff in them.
    command.args(["--ignore-words", WORDS, "--skip", "*.json,*.svg,*.1"]).args(TEXTS);
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
