//! Static executables: with the C library in them, at an address that is chosen when they start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use passt_tests::roots::{Recipe, Root};

use super::version::Version;
use crate::{cargo, compilers};

/// Bytes that a program must stay below.
pub(super) const MOST: u64 = 4_000_000;
/// Programs, by package: one file is all that go by the name it is called by.
const PROGRAMS: [(&str, &[&str]); 2] =
    [("passt", &["passt", "qrap"]), ("passt-tools", &["pesto", "passtop"])];
/// What they are built for.
pub(super) struct Target {
    /// As rustc calls it.
    pub(super) triple: String,
    /// A root directory with compilers that build the standard library, too.
    compilers: Option<Root>,
}

/// What builds for musl: there is no standard library for it to be had as a package.
const MUSL: Recipe<'_> = Recipe {
    suite: "unstable",
    architectures: &["amd64"],
    packages: &["cargo", "rustc", "rust-src", "gcc", "libc6-dev", "lld", "musl-tools"],
};
/// Lines of the shell around cargo there.
const WITH_MUSL: &str = include_str!("musl.sh");

impl Target {
    pub(super) fn new(triple: &str) -> Self {
        Self { triple: triple.to_owned(), compilers: None }
    }

    /// This machine, with rustc's own C library.
    pub(super) fn host() -> Result<Self> {
        let output = Command::new("rustc").args(["--print", "host-tuple"]).output().context("rustc")?;
        Ok(Self::new(String::from_utf8(output.stdout)?.trim()))
    }

    /// This machine, with musl and a standard library that is built with it.
    pub(super) fn musl() -> Result<Self> {
        let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        Ok(Self { triple, compilers: Some(Root::get(MUSL)?) })
    }

    /// Cargo, and what it is told to build with.
    fn cargo(&self, root: &Path, directory: &Path, variables: &[(&str, String)]) -> Result<Command> {
        let Some(compilers) = &self.compilers else {
            let mut command = cargo(root, &["build"]);
            command.envs(variables.iter().map(|(name, value)| (name, value))).env("CARGO_INCREMENTAL", "0");
            return Ok(command);
        };
        let mut command = compilers::command(compilers, root, directory)?;
        command.args(variables.iter().map(|(name, value)| compilers::variable(name, value)));
        // The standard library is built with options of the next compiler.
        command.args(["RUSTC_BOOTSTRAP=1", "sh", "-euc", WITH_MUSL, "sh", "build"]);
        command.args(["-Zbuild-std=std,panic_abort", "-Zbuild-std-features="]);
        Ok(command)
    }

    /// Flags for the compiler beside those for every target.
    fn flags(&self) -> &[&str] {
        if self.compilers.is_none() {
            return &[];
        }
        &["-Clinker=musl-gcc", "-Clink-self-contained=no", "-Clink-arg=-fuse-ld=lld", "-Lnative=/tmp/unwind"]
    }

    /// Its processor, as rustc calls it.
    pub(super) fn arch(&self) -> &str {
        self.triple.split_once('-').map_or(self.triple.as_str(), |(arch, _)| arch)
    }
}

/// A program that was built.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
}

/// Builds all programs.
pub(super) fn build(
    root: &Path,
    directory: &Path,
    target: &Target,
    version: &Version,
) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for (package, names) in PROGRAMS {
        let flags = flags(root, target)?.join("\x1f");
        let variables = [
            ("CARGO_ENCODED_RUSTFLAGS", flags),
            ("PASST_VERSION", version.full.clone()),
            ("SOURCE_DATE_EPOCH", version.time.clone()),
        ];
        let mut command = target.cargo(root, directory, &variables)?;
        command.args(["--locked", "--profile", "dist", "--package", package]);
        command.args(["--target", &target.triple]).arg("--target-dir").arg(directory);
        command.args(names.iter().flat_map(|name| ["--bin", name]));
        ensure!(command.stdin(Stdio::null()).status()?.success(), "the programs do not build");
        let made = directory.join(&target.triple).join("dist");
        programs.extend(names.iter().map(|&name| Program { name, path: made.join(name) }));
    }
    Ok(programs)
}

/// What the compiler is told: no path of this machine gets into the programs.
fn flags(root: &Path, target: &Target) -> Result<Vec<String>> {
    let mut flags: Vec<String> = [
        "-Ctarget-feature=+crt-static",
        // A panic ends the process, and there are no symbols to show where it was: nothing unwinds.
        "-Cforce-unwind-tables=no",
        "-Clink-arg=-Wl,--no-eh-frame-hdr",
        // For each kind of link there is a copy of the engine, much of which is the same.
        "-Clink-arg=-Wl,--icf=all",
        "-Clink-arg=-Wl,-z,pack-relative-relocs",
    ]
    .map(str::to_owned)
    .into();
    let home = compilers::cargo_home()?;
    let registries = home.join("registry/src");
    let names = fs::read_dir(&registries).with_context(|| registries.display().to_string())?;
    for registry in names {
        flags.push(remap(&registry?.path(), "/usr/src/crates"));
    }
    flags.push(remap(root, "/usr/src/passt"));
    flags.extend(target.flags().iter().map(|flag| (*flag).to_owned()));
    Ok(flags)
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}
