//! Debian's kernels for a processor, with those of their modules that an emulated machine has use
//! for, and a static busybox for that processor. From packages, kept in the user's cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Arch;
use crate::cpio::Archive;
use crate::packages::{Suite, cached, merged};
use crate::{find_program, modules};

/// What is needed to get at the root directory and to speak with who has started the machine, if
/// the kernel has it as a module.
const MODULES: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console"];

/// What is kept of a kernel's modules: those without hardware of their own. Directories, and single
/// files where a star stands for their names.
const KEPT: [&str; 15] = [
    "arch",
    "crypto",
    "drivers/block/*",
    "drivers/char/*",
    "drivers/net/*",
    "drivers/net/bonding",
    "drivers/net/ipvlan",
    "drivers/net/vxlan",
    "drivers/net/wireguard",
    "drivers/vhost",
    "drivers/virtio",
    "fs",
    "lib",
    "net",
    "security",
];

const INIT: &str = include_str!("init.sh");
const ROOT: &str = include_str!("root.sh");

/// Files of a kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    parts: PathBuf,
    version: String,
}

impl Kernel {
    /// The newest one of a Debian suite, from the cache or from packages. An error is one line.
    pub fn get(arch: &Arch, suite: &str) -> Result<Self> {
        let parts = cached(&format!("kernel-{suite}-{}", arch.debian), |work| make_parts(work, arch, suite))?;
        let version = fs::read_to_string(parts.join("version"))?.trim().to_owned();
        Ok(Self { parts, version })
    }

    /// Its version, as `uname -r` says it.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn file(&self) -> PathBuf {
        self.parts.join("vmlinuz")
    }

    /// The directory to be `/lib/modules`.
    pub(super) fn modules(&self) -> PathBuf {
        self.parts.join("lib/modules")
    }

    /// Writes the ramdisk, with `command` for the shell of the root directory and `mounts`, tags of
    /// shares and their places.
    pub(super) fn write_ramdisk(&self, command: &str, mounts: &str, to: &Path) -> Result<()> {
        let mut archive = Archive::default();
        for directory in ["dev", "proc", "sys", "below", "above", "new"] {
            archive.add_directory(directory);
        }
        for (path, text) in [("init", INIT), ("root.sh", ROOT), ("command", command), ("mounts", mounts)] {
            archive.add(path, text.as_bytes());
        }
        archive.add("bin/busybox", &fs::read(self.parts.join("busybox"))?);
        let modules = self.modules().join(&self.version);
        for (number, path) in modules::load_order(&modules, &MODULES)?.into_iter().enumerate() {
            let name = format!("modules/{}", modules::numbered(number, &path)?);
            archive.add(&name, &fs::read(modules.join(&path)).context(path)?);
        }
        Ok(fs::write(to, archive.finish())?)
    }
}

/// Leaves in `work/parts` the kernel, its version, modules with their index, and busybox.
fn make_parts(work: &Path, arch: &Arch, suite: &str) -> Result<()> {
    let packages = Suite::open(work, suite, arch.debian)?;
    // A kernel is one package or several; what these need beside each other makes ramdisks.
    let mut names = packages.with_needs(arch.package, |name| name.starts_with("linux-"))?;
    names.push("busybox-static".to_owned());
    packages.take_alone(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let version = only_entry(&merged(work, "lib/modules"))?;
    // Beside the modules in newer packages, or with the first name for a compressed one.
    let boot = work.join("root/boot");
    let places = ["vmlinuz", "vmlinux"].map(|name| boot.join(format!("{name}-{version}")));
    let beside = merged(work, "lib/modules").join(&version).join("vmlinuz");
    let file = places.into_iter().chain([beside]).find(|file| file.exists());
    let file = file.context("a package without a kernel")?;
    fs::rename(file, work.join("parts/vmlinuz"))?;
    fs::rename(merged(work, "bin/busybox"), work.join("parts/busybox"))?;
    fs::write(work.join("parts/version"), &version)?;
    let from = merged(work, "lib/modules").join(&version);
    take_modules(&from, &work.join("parts/lib/modules").join(&version))?;
    // That of this machine: the other one may be for another processor.
    let busybox = find_program("busybox").context("no busybox")?;
    modules::index(&work.join("parts"), &version, &busybox)
}

fn only_entry(directory: &Path) -> Result<String> {
    let entry = fs::read_dir(directory).with_context(|| directory.display().to_string())?.next();
    Ok(entry.context("a package without modules")??.file_name().to_string_lossy().into_owned())
}

fn take_modules(from: &Path, to: &Path) -> Result<()> {
    move_files(from, to)?;
    for kept in KEPT {
        let (from, to) = (from.join("kernel").join(kept), to.join("kernel").join(kept));
        if kept.ends_with('*') {
            move_files(&from.with_file_name(""), &to.with_file_name(""))?;
        } else if from.exists() {
            fs::create_dir_all(to.with_file_name(""))?;
            fs::rename(from, to)?;
        }
    }
    Ok(())
}

/// Moves the files of a directory, and not what lies deeper.
fn move_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::rename(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
