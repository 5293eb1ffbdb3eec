//! Root directories of Debian: a suite's packages for a processor, made by mmdebstrap once and kept in
//! the user's cache.
//!
//! For a processor whose programs run on this machine packages are installed. For others they are
//! unpacked and not configured, which needs no emulation: what their scripts would write is missing
//! (alternatives, caches, users other than root).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::find_program;
use crate::packages::{cached_alone, mirror, output, short_hash, with_fresh_lists};

/// Packages of one suite of Debian.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// The suite, as `bookworm` or `unstable`.
    pub suite: &'a str,
    /// The processor, by Debian's name, and further ones of which packages may be named, as
    /// `libc6-dev:arm64`.
    pub architectures: &'a [&'a str],
    /// What is installed beside what every Debian has and apt.
    pub packages: &'a [&'a str],
}

/// Packages beside those of a recipe.
#[derive(Clone, Copy, Default)]
struct More<'a> {
    kept: &'a [&'a str],
    unpacked: &'a [&'a str],
}

/// A directory in the cache, which tests share: nobody writes there.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// Made if it is not there yet, which needs root. An error is one line, and final.
    pub fn get(recipe: Recipe<'_>) -> Result<Self> {
        Self::with(recipe, More::default())
    }

    /// One in which apt can install packages of `kept` without a network, and all that they need.
    pub fn with_kept(recipe: Recipe<'_>, kept: &[&str]) -> Result<Self> {
        Self::with(recipe, More { kept, ..More::default() })
    }

    /// One that has the files of `unpacked`, but not what these packages need.
    pub fn with_unpacked(recipe: Recipe<'_>, unpacked: &[&str]) -> Result<Self> {
        Self::with(recipe, More { unpacked, ..More::default() })
    }

    fn with(recipe: Recipe<'_>, more: More<'_>) -> Result<Self> {
        Ok(Self(cached_alone(&recipe.name(more), |work| recipe.make(work, more))?.join("root")))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The version of a package that is there.
    pub fn version(&self, package: &str) -> Result<String> {
        let admin = format!("--admindir={}", self.0.join("var/lib/dpkg").display());
        output(Path::new("/"), "dpkg-query", &[&admin, "--show", "--showformat=${Version}", package])
    }
}

impl Recipe<'_> {
    /// The directory's name in the cache.
    fn name(&self, more: More<'_>) -> String {
        let all = [self.architectures, self.packages, more.kept, more.unpacked]
            .map(|names| names.join(","))
            .join(" ");
        format!("root-{}-{}-{}", self.suite, self.architectures.join("-"), short_hash(all.trim_end()))
    }

    fn make(&self, work: &Path, more: More<'_>) -> Result<()> {
        ensure!(rustix::process::geteuid().is_root(), "only root can make a root directory of Debian");
        if find_program("mmdebstrap").is_none() {
            println!("Installing: mmdebstrap");
            let install = ["install", "-qy", "--no-install-recommends", "mmdebstrap"];
            with_fresh_lists(|| output(work, "apt-get", &install))?;
        }
        let mirror = with_fresh_lists(mirror)?;
        println!("Making once, for the cache: {}", self.name(more));
        // What it mounts is gone when it ends, however it does.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "mmdebstrap", "--quiet"]);
        // A mirror that follows late, or no more, serves lists that are signed and out of date.
        command.arg(r#"--aptopt=Acquire::Check-Valid-Until "false""#);
        if self.architectures.first().is_some_and(|arch| runs_here(arch)) {
            command.arg("--variant=minbase");
        } else {
            command.args(["--variant=extract", "--include=?essential"]);
        }
        command.arg(format!("--architectures={}", self.architectures.join(",")));
        command.arg(format!("--include={}", self.packages.join(",")));
        let mut last = |line: &str| {
            command.arg(format!("--customize-hook=chroot \"$1\" sh -ec '{line}'"));
        };
        if !more.unpacked.is_empty() {
            let packages = more.unpacked.join(" ");
            last(&format!(
                "cd /tmp; apt-get -qq download {packages}; \
                 for file in *.deb; do dpkg-deb --extract \"$file\" /; rm \"$file\"; done"
            ));
        }
        if !more.kept.is_empty() {
            let download = "apt-get clean; apt-get install -qqy --download-only --no-install-recommends";
            last(&format!("{download} {}", more.kept.join(" ")));
            // Lists and packages of apt stay.
            command.arg("--skip=cleanup/apt");
        }
        command.arg(self.suite).arg(work.join("parts/root")).arg(&mirror);
        let made = command.stdin(Stdio::null()).output().context("mmdebstrap")?;
        let errors = String::from_utf8_lossy(&made.stderr);
        let reason = errors.lines().rfind(|line| line.starts_with("E: ")).unwrap_or("no reason given");
        ensure!(made.status.success(), "{}: {reason}", self.name(more));
        Ok(())
    }
}

/// Whether programs for a processor run on this machine, by its kernel alone.
fn runs_here(arch: &str) -> bool {
    match std::env::consts::ARCH {
        "x86_64" => ["amd64", "i386"].contains(&arch),
        "aarch64" => arch == "arm64",
        other => arch == other,
    }
}
