//! Programs that start passt and pasta, those of Debian's present release: Podman, Buildah,
//! `RootlessKit`, libvirt with its qemu, and the C programs to compare with.
//!
//! Those of Debian 12 do not know pasta yet, and its libvirt is built without passt. So packages of
//! the release after it are unpacked, not installed, and run in a root directory of these files, in
//! a PID namespace that ends all of them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::packages::{cached, output, take_from_suite};
use crate::rooted::Rooted;
use crate::vm::Qemu;
use crate::{Net, Place, Process, User, skip};

/// The newest release, under the name that it has at any time.
const SUITE: &str = "stable";
const PACKAGES: [&str; 19] = [
    "buildah",
    "busybox-static",
    "crun",
    "dash",
    "iproute2",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "mount",
    "netavark",
    "passt",
    "podman",
    "procps",
    "qemu-system-x86",
    "rootlesskit",
    "slirp4netns",
    "tar",
    "uidmap",
    "util-linux",
];
const SETUP: &str = include_str!("starters.sh");

/// The root directory, in the network namespace of the host. The test's directory and the cache of
/// packages are there under their own names. What is started here is started by
/// [`User::Normal`], whose home directory is `/home/user`.
pub struct Starters<'n> {
    net: &'n Net,
    parts: PathBuf,
    rooted: Rooted,
}

impl<'n> Starters<'n> {
    /// The programs, with `installed` as `/usr/local`. None if the test had to be skipped.
    pub fn new(net: &'n Net, installed: &Path) -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            skip("the packages are of x86_64");
            return None;
        }
        let parts = match cached(&format!("starters-{}-{SUITE}", PACKAGES.len()), make_parts) {
            Ok(parts) => parts,
            Err(error) => {
                skip(&format!("no programs that know passt and pasta: {error:#}"));
                return None;
            }
        };
        let root = net.dir().join("root");
        fs::create_dir_all(&root).expect("a mount point");
        let (id, cache) = (User::NORMAL_ID.to_string(), parts.parent().expect("the cache"));
        let arguments: [&OsStr; 6] = [
            parts.as_ref(),
            root.as_ref(),
            installed.as_ref(),
            id.as_ref(),
            net.dir().as_ref(),
            cache.as_ref(),
        ];
        let rooted = Rooted::start(net.host.command("unshare"), SETUP, &arguments);
        Some(Self { net, parts, rooted })
    }

    /// A busybox that needs no libraries: a program for containers, and for the other namespaces.
    pub fn busybox(&self) -> PathBuf {
        self.parts.join("usr/bin/busybox")
    }

    /// Runs lines in the shell to their successful end and returns their output.
    pub fn sh(&self, lines: &str) -> String {
        self.start_sh(lines).succeed_within(crate::DEADLINE * 2)
    }

    /// [`Starters::sh`] as root.
    pub fn sh_as_root(&self, lines: &str) -> String {
        Process::start(self.entered().args(["sh", "-euc", lines])).succeed()
    }

    /// Starts lines in the shell.
    pub fn start_sh(&self, lines: &str) -> Process {
        Process::start(self.command("sh").args(["-euc", lines]))
    }

    /// Which of these files the newest process of this name runs; None if there is no such process.
    pub fn program_of(&self, name: &str, files: &[&str]) -> Option<String> {
        let lines = format!(
            "pid=$(pgrep -n -x {name}.*) || exit 0
             for file in {}; do if [ /proc/$pid/exe -ef $file ]; then echo $file; exit; fi; done
             readlink /proc/$pid/exe || true",
            files.join(" ")
        );
        let found = self.sh_as_root(&lines).trim().to_owned();
        (!found.is_empty()).then_some(found)
    }

    /// Whether there is a process of this name.
    pub fn runs(&self, name: &str) -> bool {
        !self.sh_as_root(&format!("pgrep -x {name}.* || true")).trim().is_empty()
    }

    /// qemu by way of lines in the shell here, which get its arguments.
    pub fn qemu_through(&self, lines: &str) -> Qemu {
        let mut command = self.command("sh");
        command.args(["-euc", lines, "sh"]);
        Qemu::through([command.get_program()].into_iter().chain(command.get_args()))
    }

    /// A command here, as root, which is to be given a program.
    fn entered(&self) -> Command {
        self.rooted.enter("/home/user")
    }
}

impl Place for Starters<'_> {
    fn command(&self, program: &str) -> Command {
        let id = User::NORMAL_ID;
        let mut command = self.entered();
        command.args(["setpriv", &format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups"]);
        // What is installed by hand is not in this path: it is found where something names it.
        command.args(["env", "-i", "LC_ALL=C", "HOME=/home/user", "USER=user", "PATH=/usr/sbin:/usr/bin"]);
        command.arg(format!("XDG_RUNTIME_DIR=/run/user/{id}"));
        command.args(["PODMAN_IGNORE_CGROUPSV1_WARNING=1", program]);
        command
    }

    fn peer_path(&self) -> PathBuf {
        self.net.dir().join("peer")
    }
}

/// Leaves in `work/parts` what the packages have in `/usr` and `/etc/containers`.
fn make_parts(work: &Path) -> Result<()> {
    take_from_suite(work, SUITE, &PACKAGES)?;
    let (root, parts) = (work.join("root"), work.join("parts"));
    for directory in ["doc", "i18n", "locale", "man"] {
        fs::remove_dir_all(root.join("usr/share").join(directory)).or_else(|error| {
            if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
        })?;
    }
    let programs = root.join("usr/bin");
    let listed = output(work, &programs.join("busybox").to_string_lossy(), &["--list"])?;
    // In the place of what any Debian has, and so no package asks for.
    for name in listed.lines().map(|name| programs.join(name)) {
        if name.symlink_metadata().is_err() {
            symlink("busybox", &name).with_context(|| name.display().to_string())?;
        }
    }
    fs::create_dir_all(parts.join("etc"))?;
    for directory in ["usr", "etc/containers"] {
        fs::rename(root.join(directory), parts.join(directory)).with_context(|| directory.to_owned())?;
    }
    Ok(())
}
