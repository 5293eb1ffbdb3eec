//! Mutation testing: breaks one expression or function after the other (`cargo-mutants`) and runs the
//! quick tests on each, which have to fail.
//!
//! The tree is copied to `target/mutants/tree` and changed there, so that work can go on and what was
//! built is used again. `.cargo/mutants.toml` names mutants that no test can tell from the original.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cargo;

/// Its line of the usage message.
pub(crate) const USAGE: &str =
    "mutants  break the code of `proto` and of the engine in many places; every test run must notice";

/// Code whose mutants the same tests have to find.
struct Part {
    name: &'static str,
    package: &'static str,
    /// Globs of its source files.
    files: &'static [&'static str],
    /// Which tests cargo builds and runs, also of another package: ones that need neither privilege nor
    /// a release build.
    tests: &'static [&'static str],
}

const PARTS: &[Part] = &[
    Part {
        name: "proto",
        package: "passt-proto",
        files: &["crates/proto/src/*.rs", "crates/proto/src/wire/*.rs", "crates/proto/src/responder/*.rs"],
        tests: &["--lib"],
    },
    Part {
        name: "tcp",
        package: "passt-proto",
        files: &["crates/proto/src/tcp/*.rs"],
        tests: &["--lib", "--test=tcp_ops"],
    },
    Part {
        name: "engine",
        package: "passt",
        files: &[
            "crates/passt/src/flow/*.rs",
            "crates/passt/src/forward/*.rs",
            "crates/passt/src/from_guest.rs",
            "crates/passt/src/to_guest.rs",
            "crates/passt/src/host/**/*.rs",
        ],
        tests: &[
            "--package=passt-tests",
            "--lib",
            "--test=datagrams",
            "--test=loopback",
            "--test=crowd",
            "--test=sim",
        ],
    },
];

/// Fewer cases of each property and one seed of the simulation: there are many mutants.
const FEWER: [(&str, &str); 2] = [("PROPTEST_CASES", "200"), ("SIM_SEED", "1")];
/// A mutant's tests may take this many seconds, or three times as long as without it.
const TIMEOUT: [&str; 2] = ["--minimum-test-timeout=60", "--timeout-multiplier=3"];
/// Arguments of the tests: without slow ones of what no part has.
const SKIPPED: [&str; 4] = ["--", "--", "--skip", "netconf"];

/// Tests the parts that `options` begins with, all if it names none; what follows is for
/// `cargo mutants`, as `--file GLOB` or `--shard 0/8`. True if nothing was missed.
pub(crate) fn run(root: &Path, options: &[String]) -> Result<bool> {
    install(root)?;
    let tree = copy(root)?;
    let is_part = |option: &String| PARTS.iter().any(|part| part.name == option);
    let (named, options) = options.split_at(options.iter().take_while(|&option| is_part(option)).count());
    let wanted = PARTS.iter().filter(|part| named.is_empty() || named.iter().any(|name| name == part.name));
    let mut missed = 0;
    for part in wanted {
        missed += test(root, &tree, part, options)?;
    }
    Ok(missed == 0)
}

fn install(root: &Path) -> Result<()> {
    if cargo(root, &["mutants", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success()
    {
        return Ok(());
    }
    let installed = cargo(root, &["install", "--locked", "cargo-mutants"]).status()?;
    ensure!(installed.success(), "cargo-mutants could not be installed");
    Ok(())
}

/// Makes the copy like the tree, and leaves alone what is the same, so that it is not built again.
fn copy(root: &Path) -> Result<PathBuf> {
    let tree = root.join("target/mutants/tree");
    // Failures that properties noted for the mutants of earlier runs.
    let _ = fs::remove_dir_all(tree.join("crates/proto/proptest-regressions"));
    let _ = fs::remove_dir_all(tree.join("crates/passt/proptest-regressions"));
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let list = Command::new("git").args(list).current_dir(root).output().context("git ls-files")?;
    for name in String::from_utf8(list.stdout)?.split_terminator('\0') {
        let (from, to) = (root.join(name), tree.join(name));
        let Ok(content) = fs::read(&from) else {
            // Deleted, but not yet in the index.
            let _ = fs::remove_file(&to);
            continue;
        };
        if fs::read(&to).ok().as_ref() != Some(&content) {
            fs::create_dir_all(to.parent().context("directory")?)?;
            fs::write(&to, content)?;
        }
    }
    Ok(tree)
}

/// Runs one part and prints its table; how many mutants no test noticed.
fn test(root: &Path, tree: &Path, part: &Part, options: &[String]) -> Result<u64> {
    let output = root.join("target/mutants").join(part.name);
    fs::create_dir_all(&output)?;
    let mut command = cargo(tree, &["mutants", "--in-place", "--profile=mutants", "--cap-lints=true"]);
    command.args(["--package", part.package]).args(TIMEOUT);
    command.arg("--output").arg(&output);
    if !options.iter().any(|option| ["--file", "-f"].contains(&option.as_str())) {
        command.args(part.files.iter().flat_map(|glob| ["--file", glob]));
    }
    // For the baseline and the build as well, which would otherwise make every test that there is.
    command.args(part.tests.iter().map(|tests| format!("--cargo-arg={tests}")));
    command.args(options).args(SKIPPED).envs(FEWER);
    let status = command.status()?;
    // 0: all caught, 2: some missed, 3: some timed out.
    ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo mutants: {status}");
    report(&output.join("mutants.out/outcomes.json"))
}

/// Prints what became of the mutants of each module.
fn report(outcomes: &Path) -> Result<u64> {
    const KINDS: [&str; 4] = ["CaughtMutant", "MissedMutant", "Timeout", "Unviable"];
    let outcomes: Value = serde_json::from_slice(&fs::read(outcomes)?)?;
    let mut table: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    for outcome in outcomes["outcomes"].as_array().context("outcomes")? {
        let file = outcome["scenario"]["Mutant"]["file"].as_str();
        let kind = KINDS.iter().position(|kind| outcome["summary"] == *kind);
        if let (Some(file), Some(kind)) = (file, kind) {
            for row in [file, "all"] {
                table.entry(row).or_default()[kind] += 1;
            }
        }
    }
    println!("{:>7}{:>7}{:>7}{:>9}  module", "caught", "missed", "late", "unviable");
    for (file, [caught, missed, late, unviable]) in &table {
        println!("{caught:>7}{missed:>7}{late:>7}{unviable:>9}  {file}");
    }
    Ok(table.get("all").map_or(0, |counts| counts[1]))
}
