//! Runs each fuzz target for a short while.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::tally::Tally;
use crate::{cargo, machine, schedule};

/// Seconds for each target.
const SECONDS: u32 = 10;

/// What cargo-fuzz passes to the compiler, without its need for another one.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Builds the targets in `dir` and runs them; each counts as a test.
pub(crate) fn run(dir: &Path, tally: &mut Tally) -> Result<()> {
    if !machine::installed("g++") {
        tally.skip("fuzzing: libfuzzer needs g++ to build");
        return Ok(());
    }
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().context("rustc")?;
    let host = String::from_utf8(host.stdout)?.trim().to_owned();
    // A named target keeps build scripts free of the instrumentation.
    let mut build = cargo(dir, &["build", "--release", "--target", &host]);
    if !build.env("RUSTFLAGS", FLAGS).env("RUSTC_BOOTSTRAP", "1").status()?.success() {
        tally.record(false, "the fuzz targets do not build");
        return Ok(());
    }
    let mut names = Vec::new();
    for source in fs::read_dir(dir.join("fuzz_targets"))? {
        names.push(source?.path().file_stem().context("target")?.to_string_lossy().into_owned());
    }
    names.sort();
    let all = Mutex::new(tally);
    schedule::side_by_side(names, |name| {
        let program = dir.join("target").join(&host).join("release").join(&name);
        let (output, succeeded) = fuzz(dir, &program, &name)?;
        print!("fuzzing {name} for {SECONDS} s\n{output}");
        let mut tally = all.lock().unwrap_or_else(PoisonError::into_inner);
        tally.record(succeeded, &format!("fuzzing {name}"));
        Ok(())
    })
}

/// What a target wrote, and whether it found nothing.
fn fuzz(dir: &Path, program: &Path, name: &str) -> Result<(String, bool)> {
    let corpus = format!("corpus/{name}");
    fs::create_dir_all(dir.join(&corpus))?;
    let time = format!("-max_total_time={SECONDS}");
    let seeds = format!("seeds/{name}");
    let mut command = Command::new(program);
    command.args([&time, "-verbosity=0", &corpus]).current_dir(dir).stdin(Stdio::null());
    // A target may have none.
    if dir.join(&seeds).is_dir() {
        command.arg(&seeds);
    }
    schedule::gather(&mut command)
}
