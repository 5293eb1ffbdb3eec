//! What is given away: `cargo xtask dist` makes executables that need nothing of the machine they
//! run on, an archive of them, and packages.
//!
//! All is under `target/dist`. Paths, the time and the machine's names are kept out of it.

mod packages;
mod programs;
mod tree;
mod version;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use programs::Target;
use tree::Tree;
use version::Version;

pub(crate) const USAGE: &str = "dist [--musl | --target TRIPLE] [--no-packages]
           make static executables, an archive and packages of them, target/dist";

/// What is asked for.
struct Options {
    target: Target,
    packages: bool,
}

/// Makes what `options` ask for; true, as there is nothing to compare with.
pub(crate) fn run(root: &Path, options: &[String]) -> Result<bool> {
    let options = parse(options)?;
    let version = Version::of(root)?;
    let all =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into).join("dist");
    let dir = all.join(&options.target.triple);
    let programs = programs::build(root, &all.join("build"), &options.target, &version)?;
    // What was made of another commit goes.
    tree::empty(&dir)?;
    let tree = Tree::make(root, &dir.join("root"), &programs)?;
    let mut made = vec![tree.archive(&dir, &options.target, &version)?];
    if options.packages {
        made.extend(packages::build(root, &tree, &dir, &options.target, &version)?);
    }
    println!("{:32} {:>9}", "program", "bytes");
    let mut longest = 0;
    for program in &programs {
        let len = fs::metadata(&program.path)?.len();
        println!("{:32} {len:>9}", program.name);
        longest = longest.max(len);
    }
    let sums = passt_tests::packages::output(&dir, "sha256sum", &names(&made))?;
    fs::write(dir.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    println!("in {}", dir.display());
    ensure!(longest < programs::MOST, "one has {longest} bytes, more than {}", programs::MOST);
    Ok(true)
}

fn names(files: &[String]) -> Vec<&str> {
    files.iter().map(String::as_str).collect()
}

fn parse(options: &[String]) -> Result<Options> {
    let mut parsed = Options { target: Target::host()?, packages: true };
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--target" => parsed.target = Target::new(words.next().context("--target TRIPLE")?),
            "--musl" => parsed.target = Target::musl()?,
            "--no-packages" => parsed.packages = false,
            other => bail!("unrecognized option '{other}'\nusage: cargo xtask {USAGE}"),
        }
    }
    Ok(parsed)
}
