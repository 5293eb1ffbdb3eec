//! Development commands: `cargo xtask test`, `bench`, `book`, `boot`, `completions`, `dist`,
//! `examples`, `gauge`, `imports`, `links`, `man`, `mutants`, `release`, `spelling`.

mod bench;
mod book;
mod boot;
mod built;
mod compilers;
mod completions;
mod dist;
mod fuzz;
mod gauge;
mod imports;
mod kernels;
mod links;
mod machine;
mod manual;
mod mutants;
mod processors;
mod release;
mod schedule;
mod spelling;
mod tally;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use tally::Tally;

/// Set where a test that is skipped is a failure.
pub(crate) const WHOLE: &str = "PASST_TEST_WHOLE";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first() {
        Some((command, [])) if command == "test" => test(),
        Some((command, [option, words @ ..])) if command == "test" && option == "--kernel" => {
            kernels::run(words, build)
        }
        Some((command, [option, words @ ..])) if command == "test" && option == "--arch" => {
            root().and_then(|root| processors::run(root, words))
        }
        Some((command, [])) if command == "man" => root().and_then(manual::write).map(|()| true),
        Some((command, [])) if command == "book" => root().and_then(book::write),
        Some((command, [])) if command == "completions" => root().and_then(completions::write).map(|()| true),
        Some((command, [])) if command == "gauge" => root().and_then(gauge::write).map(|()| true),
        Some((command, [])) if command == "imports" => root().and_then(imports::print),
        Some((command, [])) if command == "links" => root().and_then(links::print),
        Some((command, [])) if command == "spelling" => root().and_then(spelling::print),
        Some((command, [])) if command == "examples" => root().and_then(list_examples),
        Some((command, words)) if command == "boot" => boot::run(words),
        Some((command, options)) if command == "bench" => bench(options),
        Some((command, options)) if command == "dist" => root().and_then(|root| dist::run(root, options)),
        Some((command, options)) if command == "mutants" => {
            root().and_then(|root| mutants::run(root, options))
        }
        Some((command, options)) if command == "release" => {
            root().and_then(|root| release::run(root, options))
        }
        _ => {
            let test = "test     install what the tests need, build, run all of them";
            let man = "man      write the manual pages, docs/man, from the table of options";
            let book = "book     render the documents as HTML and manual pages, target/book";
            let completions =
                "completions\n           write the shells' completions, contrib/completions, likewise";
            let gauge = "gauge    count the engine's instructions anew, docs/bench/instructions.json";
            let imports =
                "imports  list which modules of the engine import which; fail if one imports from above";
            let links = "links    check that what the documents link to is there";
            let spelling = "spelling check the documents' spelling by codespell";
            let examples = "examples list the examples of the documents that no test runs, and why";
            eprintln!(
                "usage: cargo xtask COMMAND\n\n  {test}\n  {man}\n  {book}\n  {completions}\n  {gauge}\n  {imports}\n  {links}\n  {spelling}\n  {examples}\n  {}\n  {}\n  {}\n  {}\n  {}\n  {}\n  {}",
                kernels::USAGE,
                processors::USAGE,
                boot::USAGE,
                dist::USAGE,
                mutants::USAGE,
                release::USAGE,
                bench::USAGE
            );
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
    let tests = build()?;
    let skips = std::env::temp_dir().join(format!("passt-skips-{}", std::process::id()));
    let mut tally = Tally::default();
    imports::check(root, &mut tally)?;
    links::check(root, &mut tally)?;
    spelling::check(root, &mut tally)?;
    release::dependencies::check(root, &mut tally)?;
    let real = root.join("tests");
    let (real, quick): (Vec<_>, Vec<_>) = tests.iter().partition(|tests| tests.directory == real);
    for tests in quick {
        tally.run(tests.command().env("PASST_TEST_SKIPS", &skips))?;
    }
    tally.run(&mut cargo(root, &["test", "--workspace", "--doc", "--no-fail-fast"]))?;
    let made = dist::run(root, &[]);
    if let Err(error) = &made {
        println!("xtask dist: {error:#}");
    }
    tally.record(made.is_ok(), "what is given away");
    processors::sample(root, &mut tally)?;
    let prepare = |command: &mut Command| {
        command.arg("--test-threads=1").env("PASST_TEST_SKIPS", &skips);
    };
    schedule::run(real, prepare, &mut tally)?;
    tally.count_skips(&skips)?;
    gauge::compare(root, &mut tally)?;
    fuzz::run(&root.join("fuzz"), &mut tally)?;
    list_examples(root)?;
    tally.print();
    Ok(tally.failed == 0 && (tally.is_whole() || std::env::var_os(WHOLE).is_none()))
}

/// Prints the examples of the documents that no test runs, and why; true, as what fails is an error.
fn list_examples(root: &Path) -> Result<bool> {
    for example in passt_tests::examples::all(root)?.iter().flatten() {
        if let passt_tests::examples::How::Not(reason) = &example.how {
            let first = example.lines.first().map_or("", String::as_str);
            println!("NOT RUN {}: {reason}: {first}", example.place);
        }
    }
    Ok(true)
}

/// Makes the machine ready and builds the programs and all tests.
fn build() -> Result<Vec<built::Tests>> {
    let root = root()?;
    machine::prepare();
    // As `cargo install` builds them, which a test does: together with the tools, whose libraries want
    // other features of libraries of both, they would be built again there.
    let programs = ["build", "--release", "--bins", "--package", "passt"];
    ensure!(cargo(root, &programs).status()?.success(), "the programs do not build");
    built::tests(root)
}

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace")
}

fn cargo(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    /// Cargo is told of each test by the manifest alone: one that is not there would never run.
    #[test]
    fn all_namespace_tests_are_in_the_manifest() {
        let tests = root().expect("the workspace").join("tests");
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(tests.join("netns")).expect("tests") {
            let path = entry.expect("an entry").path();
            let file = if path.is_dir() { path.join("main.rs") } else { path };
            if file.is_file() && file.extension().is_some_and(|extension| extension == "rs") {
                let name = file.strip_prefix(&tests).expect("a test").to_str().expect("UTF-8");
                there.insert(name.to_owned());
            }
        }
        let manifest = fs::read_to_string(tests.join("Cargo.toml")).expect("the manifest");
        let listed: BTreeSet<String> = manifest
            .split("[[test]]\n")
            .skip(1)
            .filter_map(|entry| entry.lines().find_map(|line| line.strip_prefix("path = ")))
            .map(|path| path.trim_matches('"').to_owned())
            .filter(|path| path.starts_with("netns/"))
            .collect();
        assert!(!listed.is_empty(), "no tests in the manifest");
        let missing: Vec<_> = there.difference(&listed).collect();
        assert!(missing.is_empty(), "without [[test]] in tests/Cargo.toml: {missing:?}");
    }
}
