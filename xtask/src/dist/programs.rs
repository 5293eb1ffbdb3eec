//! Static executables: with the C library in them, at an address that is chosen when they start.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::version::Version;
use crate::cargo;

/// Bytes that a program must stay below.
pub(super) const MOST: u64 = 4_000_000;
/// Programs, by package: one file is all that go by the name it is called by.
const PROGRAMS: [(&str, &[&str]); 2] =
    [("passt", &["passt", "qrap"]), ("passt-tools", &["pesto", "passtop"])];
/// What they are built for.
pub(super) struct Target {
    /// As rustc calls it.
    pub(super) triple: String,
}

/// A program that was built.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
}

impl Target {
    pub(super) fn new(triple: &str) -> Self {
        Self { triple: triple.to_owned() }
    }

    /// This machine, with rustc's own C library.
    pub(super) fn host() -> Result<Self> {
        let output = Command::new("rustc").args(["--print", "host-tuple"]).output().context("rustc")?;
        Ok(Self::new(String::from_utf8(output.stdout)?.trim()))
    }

    /// Its processor, as rustc calls it.
    pub(super) fn arch(&self) -> &str {
        self.triple.split_once('-').map_or(self.triple.as_str(), |(arch, _)| arch)
    }
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
        let mut command = cargo(root, &["build", "--locked", "--profile", "dist", "--package", package]);
        command.args(["--target", &target.triple]).arg("--target-dir").arg(directory);
        command.args(names.iter().flat_map(|name| ["--bin", name]));
        command.env("CARGO_ENCODED_RUSTFLAGS", flags(root)?.join("\x1f"));
        command.env("PASST_VERSION", &version.full).env("SOURCE_DATE_EPOCH", &version.time);
        command.env("CARGO_INCREMENTAL", "0");
        ensure!(command.stdin(Stdio::null()).status()?.success(), "the programs do not build");
        let made = directory.join(&target.triple).join("dist");
        programs.extend(names.iter().map(|&name| Program { name, path: made.join(name) }));
    }
    Ok(programs)
}

/// What the compiler is told: no path of this machine gets into the programs.
fn flags(root: &Path) -> Result<Vec<String>> {
    let mut flags: Vec<String> = [
        "-Ctarget-feature=+crt-static",
        // A panic ends the process, and there are no symbols to show where it was: nothing unwinds.
        "-Cforce-unwind-tables=no",
        // For each kind of link there is a copy of the engine, much of which is the same.
        "-Clink-arg=-Wl,--icf=all",
        "-Clink-arg=-Wl,-z,pack-relative-relocs",
    ]
    .map(str::to_owned)
    .into();
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).context("no HOME")?;
    let registries = home.join("registry/src");
    let names = fs::read_dir(&registries).with_context(|| registries.display().to_string())?;
    for registry in names {
        flags.push(remap(&registry?.path(), "/usr/src/crates"));
    }
    flags.push(remap(root, "/usr/src/passt"));
    Ok(flags)
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}
