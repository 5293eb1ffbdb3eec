//! Releases: `cargo xtask release VERSION` is the whole list of what has to be done for one.
//!
//! All of it happens in a clone of what is committed, so that nothing of the working directory gets
//! in and a release that fails leaves nothing behind. At the end the clone's commit and tag are
//! taken over; `--dry-run` ends before that. Publishing is left to whoever does it.

pub(crate) mod dependencies;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use passt_tests::packages::output;

pub(crate) const USAGE: &str = "release VERSION [--dry-run] [--skip-tests]
           make a release of what is committed: version, changes, what is given away (twice, which
           must be the same), all tests, none skipped, commit and tag; with --dry-run without the
           last two, which alone can go without tests";

/// The heading in the list of changes is this behind the version, before a release.
const OPEN: &str = ", not released";
const CHANGES: &str = "CHANGELOG.md";

struct Options {
    version: String,
    dry: bool,
    tests: bool,
}

/// Makes the release that `options` ask for; true, as what fails is an error.
pub(crate) fn run(root: &Path, options: &[String]) -> Result<bool> {
    let options = parse(options)?;
    let version = options.version.as_str();
    step("what is committed is what is here");
    let changed = output(root, "git", &["status", "--porcelain"])?;
    ensure!(changed.is_empty(), "not committed:\n{changed}");
    let tag = format!("v{version}");
    ensure!(output(root, "git", &["tag", "--list", &tag])?.is_empty(), "{tag} was released");
    let branch = output(root, "git", &["branch", "--show-current"])?;
    ensure!(!branch.trim().is_empty(), "no branch is checked out");

    let work = tempfile::tempdir()?;
    let first = clone(root, &work.path().join("first"), branch.trim())?;
    step("version, changes, manual pages");
    set_version(&first, version)?;
    let today = output(&first, "date", &["--utc", "+%Y-%m-%d"])?;
    let changes = fs::read_to_string(first.join(CHANGES)).context(CHANGES)?;
    fs::write(first.join(CHANGES), dated(&changes, version, today.trim())?)?;
    xtask(&first, &["man"])?;
    let all = ["commit", "--quiet", "--all", "--allow-empty", "--message"];
    output(&first, "git", &[all.as_slice(), &[&format!("Release {version}")]].concat())?;
    output(&first, "git", &["tag", "--annotate", &tag, "--message", &format!("Release {version}")])?;

    step("what is given away, made twice");
    let second = clone(&first, &work.path().join("second"), branch.trim())?;
    let sums = [given_away(&first)?, given_away(&second)?];
    ensure!(sums[0] == sums[1], "the two differ:\n{}\n{}", sums[0], sums[1]);

    if options.tests {
        step("tests, also of what is given away");
        succeed(Command::new(first.join(".ci/run")).current_dir(&first).env(crate::WHOLE, "1"))?;
        let given_away =
            ["test", "--package", "passt-tests", "--test", "given_away", "--", "--test-threads=1"];
        cargo_in(&first, &given_away)?;
    } else {
        step("tests: NOT run");
    }
    if options.dry {
        println!("\nAll is well. Nothing was changed, as this was a dry run.");
        return Ok(true);
    }
    step("commit and tag");
    let place = keep(root, &first, version)?;
    let from = first.to_string_lossy();
    output(root, "git", &["pull", "--quiet", "--ff-only", "--tags", &from, branch.trim()])
        .with_context(|| format!("what is given away is in {}", place.display()))?;
    println!("\nReleased: commit and tag {tag}, and in {}:\n{}", place.display(), sums[0]);
    println!("To publish: git push --follow-tags; sign SHA256SUMS; upload what is in the directory.");
    Ok(true)
}

fn parse(options: &[String]) -> Result<Options> {
    let mut parsed = Options { version: String::new(), dry: false, tests: true };
    for option in options {
        match option.as_str() {
            "--dry-run" => parsed.dry = true,
            "--skip-tests" => parsed.tests = false,
            version if is_version(version) && parsed.version.is_empty() => {
                version.clone_into(&mut parsed.version);
            }
            other => bail!("'{other}' is no version like 0.1.0, nor an option\nusage: cargo xtask {USAGE}"),
        }
    }
    ensure!(!parsed.version.is_empty(), "no version\nusage: cargo xtask {USAGE}");
    ensure!(parsed.tests || parsed.dry, "no release without tests: --skip-tests is for --dry-run");
    Ok(parsed)
}

/// Three numbers.
fn is_version(text: &str) -> bool {
    let numbers: Vec<&str> = text.split('.').collect();
    numbers.len() == 3
        && numbers.iter().all(|number| number.parse::<u32>().is_ok_and(|n| n.to_string() == *number))
}

fn step(what: &str) {
    println!("== {what}");
}

/// A clone in `to`, of a branch, whose programs are built in it.
fn clone(from: &Path, to: &Path, branch: &str) -> Result<PathBuf> {
    let (source, target) = (from.to_string_lossy(), to.to_string_lossy());
    output(Path::new("/"), "git", &["clone", "--quiet", "--branch", branch, &source, &target])?;
    for key in ["user.name", "user.email"] {
        if let Ok(value) = output(from, "git", &["config", key]) {
            output(to, "git", &["config", key, value.trim()])?;
        }
    }
    Ok(to.to_owned())
}

/// Writes the workspace's version.
fn set_version(clone: &Path, version: &str) -> Result<()> {
    let path = clone.join("Cargo.toml");
    let text = fs::read_to_string(&path).context("Cargo.toml")?;
    let old = format!("\nversion = \"{}\"\n", env!("CARGO_PKG_VERSION"));
    ensure!(text.matches(&old).count() == 1, "Cargo.toml has not this version once: {}", old.trim());
    fs::write(&path, text.replace(&old, &format!("\nversion = \"{version}\"\n")))?;
    // The fuzz targets are a workspace of their own.
    for workspace in [clone.to_owned(), clone.join("fuzz")] {
        cargo_in(&workspace, &["update", "--quiet", "--workspace"])?;
    }
    Ok(())
}

/// The list of changes, in which what was not released is of this version and this day.
fn dated(changes: &str, version: &str, day: &str) -> Result<String> {
    let heading = format!("## {version}{OPEN}\n");
    let (before, after) =
        changes.split_once(&heading).with_context(|| format!("{CHANGES} has no '{}'", heading.trim()))?;
    let told = after.split("\n## ").next().unwrap_or_default();
    ensure!(!told.trim().is_empty(), "{CHANGES} tells nothing of {version}");
    ensure!(!after.contains(OPEN) && !before.contains(OPEN), "{CHANGES} has another version{OPEN}");
    Ok(format!("{before}## {version}, {day}\n{after}"))
}

/// Makes what is given away; the checksums of it.
fn given_away(clone: &Path) -> Result<String> {
    xtask(clone, &["dist"])?;
    let made = directory(clone)?;
    fs::read_to_string(made.join("SHA256SUMS")).context("SHA256SUMS")
}

/// Where a clone has what was made of it for this machine.
fn directory(clone: &Path) -> Result<PathBuf> {
    let dist = clone.join("target/dist");
    for entry in fs::read_dir(&dist).context("target/dist")? {
        let path = entry?.path();
        if path.join("SHA256SUMS").is_file() {
            return Ok(path);
        }
    }
    bail!("nothing was made in {}", dist.display())
}

/// Moves what is given away to the real tree's `target/release-VERSION`.
fn keep(root: &Path, clone: &Path, version: &str) -> Result<PathBuf> {
    let to = root.join(format!("target/release-{version}"));
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(directory(clone)?)? {
        let path = entry?.path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap_or(OsStr::new(""))))?;
        }
    }
    Ok(to)
}

fn xtask(clone: &Path, arguments: &[&str]) -> Result<()> {
    cargo_in(clone, &[&["xtask"], arguments].concat())
}

/// Runs cargo where nothing else builds.
fn cargo_in(clone: &Path, arguments: &[&str]) -> Result<()> {
    succeed(&mut crate::cargo(clone, arguments))
}

fn succeed(command: &mut Command) -> Result<()> {
    command.env_remove("CARGO_TARGET_DIR").stdin(Stdio::null());
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_get_their_day() {
        let text = "# Changes\n\n## 0.2.0, not released\n\nMuch.\n\n## 0.1.0, 2026-01-01\n\nAll.\n";
        let dated = dated(text, "0.2.0", "2026-12-24").expect("dated");
        assert_eq!(dated, text.replace("0.2.0, not released", "0.2.0, 2026-12-24"));
    }

    #[test]
    fn changes_that_are_not_ready() {
        for (text, version) in [
            ("## 0.1.0, 2026-01-01\n\nAll.\n", "0.2.0"),
            ("## 0.2.0, not released\n\n## 0.1.0, 2026-01-01\n\nAll.\n", "0.2.0"),
            ("## 0.2.0, not released\n\nMuch.\n", "0.2.1"),
            ("## 0.3.0, not released\n\nX.\n\n## 0.2.0, not released\n\nMuch.\n", "0.2.0"),
        ] {
            assert!(dated(text, version, "2026-12-24").is_err(), "{text}");
        }
    }

    #[test]
    fn versions_have_three_numbers() {
        for (text, is) in
            [("0.1.0", true), ("1.20.3", true), ("1.2", false), ("v1.2.3", false), ("1.2.03", false)]
        {
            assert_eq!(is_version(text), is, "{text}");
        }
    }
}
