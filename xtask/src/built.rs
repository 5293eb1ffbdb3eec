//! Programs of tests, as cargo builds them. All are built at once: for some packages alone cargo
//! chooses other features of what these depend on, and would build all of that again.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use passt_tests::boot::quoted;
use serde_json::Value;

use crate::cargo;

/// A program of tests.
pub(crate) struct Tests {
    /// The package's directory.
    pub(crate) directory: PathBuf,
    program: PathBuf,
}

impl Tests {
    /// What the program is called: after the file, or the package, that the tests are in.
    pub(crate) fn name(&self) -> &str {
        let name = self.program.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.rsplit_once('-').map_or(name, |(name, _)| name)
    }

    /// Runs them all, where cargo would, and says so.
    pub(crate) fn command(&self) -> Command {
        println!("Running {}", self.program.display());
        let mut command = Command::new(&self.program);
        command.current_dir(&self.directory).stdin(Stdio::null());
        command.env("CARGO_MANIFEST_DIR", &self.directory);
        command
    }

    /// Which of these names no test here has.
    pub(crate) fn missing<'n>(&self, names: &[&'n str]) -> Result<Vec<&'n str>> {
        let output = Command::new(&self.program).arg("--list").stdin(Stdio::null()).output()?;
        let listed = String::from_utf8(output.stdout)?;
        let tests: Vec<_> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        Ok(names.iter().copied().filter(|name| !tests.contains(name)).collect())
    }

    /// For a shell elsewhere: what to do before the program runs, and the program.
    pub(crate) fn shell(&self) -> (String, String) {
        let directory = quoted(&self.directory.to_string_lossy());
        let before = format!("cd {directory} && CARGO_MANIFEST_DIR={directory}");
        (before, quoted(&self.program.to_string_lossy()))
    }
}

/// Builds all tests but those in documentation.
pub(crate) fn tests(root: &Path) -> Result<Vec<Tests>> {
    let mut all =
        cargo(root, &["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    among(&mut all)
}

/// Those that a command of cargo builds, which says so in JSON.
pub(crate) fn among(command: &mut Command) -> Result<Vec<Tests>> {
    let messages = run(command, "the tests do not build")?;
    let mut tests: Vec<_> = messages.iter().filter_map(program).collect();
    // Cargo names them as they are built.
    tests.sort_by(|one, other| one.program.cmp(&other.program));
    ensure!(!tests.is_empty(), "cargo names no tests");
    Ok(tests)
}

/// Has cargo build something; what it says of that in JSON.
pub(crate) fn run(command: &mut Command, failure: &'static str) -> Result<Vec<Value>> {
    std::io::stdout().flush()?;
    let output = command.stderr(Stdio::inherit()).output().context("cargo")?;
    ensure!(output.status.success(), failure);
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The program that a message is about, if it is one of tests.
fn program(message: &Value) -> Option<Tests> {
    let is_test = message["profile"]["test"].as_bool()?;
    let program = is_test.then(|| message["executable"].as_str())??;
    let directory = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some(Tests { directory: directory.into(), program: program.into() })
}
