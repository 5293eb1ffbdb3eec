//! The program that a virtual machine runs in: the machine's own, or a newer
//! one for what that lacks.
//!
//! The newer one is of Debian's next release, with everything it needs down to
//! the C library, so it is started by its own loader and nothing is installed.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::packages::{by_loader, cached, take_from_suite};
use crate::{Net, Place as _, have, skip};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// The release in preparation, under the name that it has at any time.
const SUITE: &str = "testing";

/// A way to start qemu: a program and its first arguments.
#[derive(Clone, Debug)]
pub struct Qemu(Vec<OsString>);

impl Qemu {
    /// The machine's own. None if the test had to be skipped.
    pub fn installed() -> Option<Self> {
        (runs_here() && have(&[PROGRAM])).then(|| Self::through([PROGRAM]))
    }

    /// One of this version at least, which has what is named: the machine's own
    /// if it is, or one from packages. None if the test had to be skipped.
    pub fn since(what: &str, version: (u32, u32)) -> Option<Self> {
        if !runs_here() {
            return None;
        }
        let own = Self::through([PROGRAM]);
        if own.version() >= Some(version) {
            return Some(own);
        }
        let found = packaged().as_ref().map_err(|error| format!("{error:#}"));
        let newer = found.and_then(|qemu| match qemu.version() {
            there if there >= Some(version) => Ok(qemu.clone()),
            there => Err(format!("Debian {SUITE} has {there:?}")),
        });
        newer.map_err(|error| skip(&format!("{what} needs qemu {version:?}: {error}"))).ok()
    }

    /// By way of another program: these words come before qemu's arguments.
    pub fn through(words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self(words.into_iter().map(Into::into).collect())
    }

    /// The command, in the host's namespace.
    pub(super) fn command(&self, net: &Net) -> Command {
        let mut command = net.host.command("env");
        command.args(&self.0);
        command
    }

    fn version(&self) -> Option<(u32, u32)> {
        let output = Command::new("env").args(&self.0).arg("--version").output().ok()?;
        String::from_utf8_lossy(&output.stdout).split_whitespace().find_map(|word| {
            let mut numbers = word.split('.').map_while(|number| number.parse().ok());
            Some((numbers.next()?, numbers.next()?))
        })
    }
}

fn runs_here() -> bool {
    let runs = cfg!(target_arch = "x86_64");
    if !runs {
        skip("the virtual machine is an x86_64 one and runs this machine's programs");
    }
    runs
}

/// qemu from the cache, or from packages. An error is one line, and final.
fn packaged() -> &'static Result<Qemu> {
    static QEMU: OnceLock<Result<Qemu>> = OnceLock::new();
    QEMU.get_or_init(|| {
        let parts = cached(&format!("qemu-{SUITE}"), make_parts)?;
        let part = |name: &str| parts.join(name).into_os_string();
        let mut modules = OsString::from("QEMU_MODULE_DIR=");
        modules.push(part("lib/qemu"));
        let libraries = parts.join("lib");
        let mut words = vec![modules];
        words.extend(by_loader(&libraries.join("ld-linux-x86-64.so.2"), &libraries));
        words.push(part(PROGRAM));
        words.extend(["-L".into(), part("qemu"), "-L".into(), part("seabios")]);
        Ok(Qemu(words))
    })
}

/// Leaves in `work/parts` the program, its libraries and its firmware.
fn make_parts(work: &Path) -> Result<()> {
    take_from_suite(work, SUITE, &[PACKAGE])?;
    for (from, to) in [
        ("lib/x86_64-linux-gnu", "lib"),
        ("bin/qemu-system-x86_64", PROGRAM),
        ("share/qemu", "qemu"),
        ("share/seabios", "seabios"),
    ] {
        let from = work.join("root/usr").join(from);
        fs::rename(&from, work.join("parts").join(to)).with_context(|| from.display().to_string())?;
    }
    Ok(())
}
