//! Development commands: `cargo xtask test`, `cargo xtask bench`.

mod bench;
mod machine;
mod tally;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tally::Tally;

/// How long each fuzz target runs.
const FUZZ_TIME: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first() {
        Some((command, [])) if command == "test" => test(),
        Some((command, options)) if command == "bench" => bench(options),
        _ => {
            let test = "test     install what the tests need, build, run all of them";
            eprintln!("usage: cargo xtask COMMAND\n\n  {test}\n  {}", bench::USAGE);
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Compares with other programs; true if this one did not fail.
fn bench(options: &[String]) -> Result<bool> {
    machine::prepare();
    bench::bench(root()?, options)
}

/// Runs every test there is; true if none failed.
fn test() -> Result<bool> {
    let root = root()?;
    machine::prepare();
    let build = cargo(root, &["build", "--release", "--package", "passt", "--bins"]).status()?;
    ensure!(build.success(), "the release build failed");

    let skips = std::env::temp_dir().join(format!("passt-skips-{}", std::process::id()));
    let mut tally = Tally::default();
    let quick = ["test", "--workspace", "--exclude", "passt-tests", "--no-fail-fast"];
    tally.run(&mut cargo(root, &quick))?;
    // One at a time: the namespace tests measure, and use all the machine has.
    let namespaces = ["test", "--package", "passt-tests", "--no-fail-fast", "--", "--test-threads=1"];
    tally.run(cargo(root, &namespaces).env("PASST_TEST_SKIPS", &skips))?;
    tally.count_skips(&skips)?;
    fuzz(&root.join("fuzz"), &mut tally)?;
    tally.print();
    Ok(tally.failed == 0)
}

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace")
}

fn cargo(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs each fuzz target for a short while; each counts as a test.
#[expect(clippy::disallowed_methods, reason = "only protocol code is given its clock")]
fn fuzz(dir: &Path, tally: &mut Tally) -> Result<()> {
    if !dir.join("Cargo.toml").exists() {
        return Ok(());
    }
    // What cargo-fuzz passes, without its need for another toolchain.
    let flags = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                 -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
    // With a target named, build scripts are spared the instrumentation, which they cannot link.
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let host = Command::new(rustc).args(["--print", "host-tuple"]).output()?.stdout;
    let host = String::from_utf8(host)?.trim().to_owned();
    let build = cargo(dir, &["build", "--release", "--target", &host])
        .env("RUSTFLAGS", flags)
        .env("RUSTC_BOOTSTRAP", "1")
        .status()?;
    if !build.success() {
        tally.skip("fuzz: its build failed, see above");
        return Ok(());
    }
    for target in fuzz_targets(&dir.join("target").join(host).join("release"))? {
        let start = Instant::now();
        println!("fuzzing {} for {FUZZ_TIME:?}", target.display());
        let run = fuzz_target(dir, &target)?;
        tally.record(run, &format!("{} after {:?}", target.display(), start.elapsed()));
    }
    Ok(())
}

/// Runs one fuzz target from its seeds; true if it found nothing.
fn fuzz_target(dir: &Path, target: &Path) -> Result<bool> {
    let name = target.file_name().context("a target's name")?;
    let (corpus, seeds) = (dir.join("corpus").join(name), dir.join("seeds").join(name));
    std::fs::create_dir_all(&corpus)?;
    let mut command = Command::new(target);
    command.arg(format!("-max_total_time={}", FUZZ_TIME.as_secs())).arg("-verbosity=0");
    // What is new goes to the first.
    command.arg(corpus);
    if seeds.exists() {
        command.arg(seeds);
    }
    Ok(command.current_dir(dir).stdin(Stdio::null()).status()?.success())
}

/// The executables of a release directory.
fn fuzz_targets(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    let paths = entries.iter().map(std::fs::DirEntry::path);
    Ok(paths.filter(|path| path.is_file() && path.extension().is_none()).collect())
}
