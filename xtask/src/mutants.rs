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
    /// a release build. In stages, quick ones first: each has to notice what those before it missed, and
    /// the last one has all of them.
    stages: &'static [&'static [&'static str]],
}

const PARTS: &[Part] = &[
    Part {
        name: "proto",
        package: "passt-proto",
        files: &["crates/proto/src/*.rs", "crates/proto/src/wire/*.rs", "crates/proto/src/responder/*.rs"],
        stages: &[&["--lib"]],
    },
    Part {
        name: "tcp",
        package: "passt-proto",
        files: &["crates/proto/src/tcp/*.rs"],
        stages: &[&["--lib", "--test=tcp_ops"]],
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
        stages: &[
            &["--lib", "--test=datagrams", "--test=forwarding", "--test=loopback", "--test=crowd"],
            &[
                "--package=passt-tests",
                "--lib",
                "--test=datagrams",
                "--test=forwarding",
                "--test=loopback",
                "--test=crowd",
                "--test=sim",
            ],
        ],
    },
];

/// Fewer cases of each property and one seed of the simulation: there are many mutants.
const FEWER: [(&str, &str); 2] = [("PROPTEST_CASES", "200"), ("SIM_SEED", "1")];
/// A mutant's tests may take this many seconds, or three times as long as without it.
const TIMEOUT: [&str; 2] = ["--minimum-test-timeout=20", "--timeout-multiplier=3"];
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

/// What became of the mutants of a module: caught, missed, late and unviable.
type Counts = [u64; 4];

/// Runs one part and prints its table; how many mutants no test noticed.
fn test(root: &Path, tree: &Path, part: &Part, options: &[String]) -> Result<u64> {
    let output = root.join("target/mutants").join(part.name);
    fs::create_dir_all(&output)?;
    // Which mutants belong to a shard depends on how many there are, and each stage has fewer.
    let skipped = if options.iter().any(|option| option == "--shard") { part.stages.len() - 1 } else { 0 };
    let mut table = BTreeMap::new();
    for (index, tests) in part.stages.iter().enumerate().skip(skipped) {
        let mut options = options.to_vec();
        options.extend((index > skipped).then(|| "--iterate".to_owned()));
        run_stage(tree, part, tests, &options, &output)?;
        let is_last = index + 1 == part.stages.len();
        count(&output.join("mutants.out/outcomes.json"), is_last, &mut table)?;
    }
    println!("{:>7}{:>7}{:>7}{:>9}  module", "caught", "missed", "late", "unviable");
    for (file, [caught, missed, late, unviable]) in &table {
        println!("{caught:>7}{missed:>7}{late:>7}{unviable:>9}  {file}");
    }
    Ok(table.get("all").map_or(0, |counts| counts[1]))
}

fn run_stage(tree: &Path, part: &Part, tests: &[&str], options: &[String], output: &Path) -> Result<()> {
    let mut command = cargo(tree, &["mutants", "--in-place", "--profile=mutants", "--cap-lints=true"]);
    command.args(["--package", part.package]).args(TIMEOUT);
    command.arg("--output").arg(output);
    if !options.iter().any(|option| ["--file", "-f"].contains(&option.as_str())) {
        command.args(part.files.iter().flat_map(|glob| ["--file", glob]));
    }
    // For the baseline and the build as well, which would otherwise make every test that there is.
    command.args(tests.iter().map(|tests| format!("--cargo-arg={tests}")));
    command.args(options).args(SKIPPED).envs(FEWER);
    let status = command.status()?;
    // 0: all caught, 2: some missed, 3: some timed out.
    ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo mutants: {status}");
    Ok(())
}

/// Adds what became of the mutants of each module in a stage. What is missed or late before the last one is
/// tested again.
fn count(outcomes: &Path, is_last: bool, table: &mut BTreeMap<String, Counts>) -> Result<()> {
    const KINDS: [&str; 4] = ["CaughtMutant", "MissedMutant", "Timeout", "Unviable"];
    const CAUGHT: usize = 0;
    const UNVIABLE: usize = 3;
    let outcomes: Value = serde_json::from_slice(&fs::read(outcomes)?)?;
    for outcome in outcomes["outcomes"].as_array().context("outcomes")? {
        let file = outcome["scenario"]["Mutant"]["file"].as_str();
        let kind = KINDS.iter().position(|kind| outcome["summary"] == *kind);
        if let (Some(file), Some(kind)) = (file, kind)
            && (is_last || [CAUGHT, UNVIABLE].contains(&kind))
        {
            for row in [file, "all"] {
                table.entry(row.to_owned()).or_default()[kind] += 1;
            }
        }
    }
    Ok(())
}
