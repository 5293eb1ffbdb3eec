//! What the engine does for a frame, a transaction or a datagram, in instructions: valgrind counts
//! them, always the same, whatever else the machine does. More than were counted before is a
//! regression.
//!
//! The traffic is that of `tests/sim/gauge.rs`; what is counted is the engine's rounds, in user
//! space alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::tally::Tally;
use crate::{built, cargo, machine};

/// Kinds of traffic.
const KINDS: [&str; 5] = ["tcp_out", "tcp_in", "tcp_rr", "tcp_crr", "udp_rr"];
/// How many more are no regression yet, in percent.
const TOLERANCE: u64 = 5;
/// Where the counts are kept.
const KEPT: &str = "docs/bench/instructions.json";

/// Counts, and what they depend on besides the program.
#[derive(Deserialize, Serialize)]
struct Counts {
    /// The compiler's version and the machine's architecture.
    compiler: String,
    /// Instructions for each of what a kind of traffic consists of.
    instructions: BTreeMap<String, u64>,
}

/// Counts, and keeps the result instead of the one before.
pub(crate) fn write(root: &Path) -> Result<()> {
    let counts = Counts { compiler: compiler()?, instructions: count(root)? };
    let text = serde_json::to_string_pretty(&counts)? + "\n";
    fs::write(root.join(KEPT), text).context(KEPT)
}

/// Counts, and compares; each kind of traffic is a test.
pub(crate) fn compare(root: &Path, tally: &mut Tally) -> Result<()> {
    if !machine::installed("valgrind") {
        tally.skip("instructions: valgrind is not installed");
        return Ok(());
    }
    let kept: Counts = serde_json::from_slice(&fs::read(root.join(KEPT)).context(KEPT)?)?;
    let compiler = compiler()?;
    if kept.compiler != compiler {
        tally.skip(&format!("instructions: counted with {}, here is {compiler}", kept.compiler));
        return Ok(());
    }
    for (kind, now) in count(root)? {
        let before = kept.instructions.get(&kind).copied().unwrap_or(0);
        println!("{kind}: {now} instructions, {before} before");
        tally.record(
            now * 100 <= before * (100 + TOLERANCE),
            &format!("instructions of {kind}: {now}, {before} before"),
        );
    }
    Ok(())
}

/// What determines the code that is made of the program.
fn compiler() -> Result<String> {
    let version = Command::new("rustc").arg("--version").output().context("rustc")?;
    Ok(format!("{}, {}", String::from_utf8(version.stdout)?.trim(), std::env::consts::ARCH))
}

fn count(root: &Path) -> Result<BTreeMap<String, u64>> {
    let program = build(root)?;
    KINDS.iter().map(|kind| Ok(((*kind).to_owned(), count_one(&program, kind)?))).collect()
}

/// Builds the program as the programs for users are, so without what interferes with calls; where it
/// is.
fn build(root: &Path) -> Result<PathBuf> {
    let options = ["build", "--release", "--package", "passt-tests", "--example", "gauge"];
    let mut command = cargo(root, &options);
    command.arg("--no-default-features");
    let messages = built::run(command.arg("--message-format=json"), "the gauge does not build")?;
    let mut programs = messages.iter().filter(|message| message["target"]["name"] == "gauge");
    let program = programs.find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    program.context("cargo names no program")
}

/// Instructions for each of what a kind of traffic consists of.
fn count_one(program: &Path, kind: &str) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    command.arg("--toggle-collect=*engine*turn*").args([program, Path::new(kind)]);
    let output = command.stdin(Stdio::null()).output().context("valgrind")?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let number = |text: &str, before: &str| {
        let behind = text.lines().find_map(|line| Some(line.split_once(before)?.1.trim().to_owned()))?;
        behind.split_whitespace().next_back()?.parse::<u64>().ok()
    };
    let times = number(&stdout, "GAUGE ").filter(|_| output.status.success());
    let instructions = number(&stderr, "Collected :").filter(|&count| count > 0);
    let count = instructions.zip(times).map(|(instructions, times)| instructions / times.max(1));
    count.with_context(|| format!("{kind} can't be counted: {stderr}"))
}
