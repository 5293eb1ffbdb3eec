//! What a virtual machine boots: Debian's kernel for clouds, and a file system
//! in memory with busybox, our helper and a few programs of this machine.
//!
//! Kernel, its modules and busybox are taken from packages without installing
//! them, once, into the user's cache. The file system is made for each boot,
//! as the helper changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::cpio::Archive;
use crate::packages::{cached, merged, output, unpack, with_fresh_lists};
use crate::{dhcp, find_program, modules};

/// The package that depends on the newest kernel without drivers for real machines.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What the guest needs, if the kernel has it as a module.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_net", "virtio_console", "af_packet", "ipv6", "tun"];
/// Programs of this machine that are of use inside, if they are installed.
const PROGRAMS: [&str; 2] = ["dhclient", "iperf3"];

const INIT: &str = include_str!("init.sh");

/// Files of a kernel and of the programs in its first file system.
pub(super) struct Image {
    parts: PathBuf,
}

impl Image {
    /// The image from the cache, or from packages. An error is one line, and final.
    pub(super) fn get() -> &'static Result<Self> {
        static IMAGE: OnceLock<Result<Image>> = OnceLock::new();
        IMAGE.get_or_init(|| {
            let parts = cached(&format!("guest-{}", MODULES.join("-")), make_parts)?;
            Ok(Self { parts })
        })
    }

    /// The kernel's file.
    pub(super) fn kernel(&self) -> PathBuf {
        self.parts.join("vmlinuz")
    }

    /// Writes the first file system, with this helper in it, and `more` files at absolute paths.
    pub(super) fn write_initramfs(&self, peer: &Path, more: &[(&str, PathBuf)], to: &Path) -> Result<()> {
        let mut archive = Archive::default();
        for directory in ["dev", "proc", "sys", "tmp", "etc", "var/lib/dhcp", "var/run"] {
            archive.add_directory(directory);
        }
        for (path, text) in
            [("init", INIT), ("etc/udhcpc", dhcp::UDHCPC_SCRIPT), ("etc/dhclient", dhcp::DHCLIENT_SCRIPT)]
        {
            archive.add(path, text.as_bytes());
        }
        archive.add("bin/busybox", &fs::read(self.parts.join("busybox"))?);
        for module in fs::read_dir(self.parts.join("modules"))? {
            let module = module?;
            archive.add(&format!("modules/{}", module.file_name().display()), &fs::read(module.path())?);
        }
        let programs = PROGRAMS.into_iter().filter_map(find_program);
        let mut files: Vec<PathBuf> = Vec::new();
        for program in programs.chain([peer.to_owned()]) {
            let name = program.file_name().context("a program's name")?;
            archive.add(&format!("bin/{}", name.display()), &fs::read(&program)?);
            files.extend(libraries(&program)?);
        }
        for (path, file) in more {
            archive.add(path, &fs::read(file).with_context(|| file.display().to_string())?);
        }
        files.sort();
        files.dedup();
        for file in files {
            archive.add(&file.to_string_lossy(), &fs::read(&file)?);
        }
        Ok(fs::write(to, archive.finish())?)
    }
}

/// Leaves in `work/parts` the kernel, busybox, and modules that are named in
/// the order to load them.
fn make_parts(work: &Path) -> Result<()> {
    let kernel = with_fresh_lists(|| download(work))?;
    unpack(work, work)?;
    let version = kernel.trim_start_matches("linux-image-");
    fs::rename(work.join("root/boot").join(format!("vmlinuz-{version}")), work.join("parts/vmlinuz"))?;
    fs::rename(merged(work, "bin/busybox"), work.join("parts/busybox"))?;
    take_modules(work, version)
}

/// Downloads the packages to `work` and returns the name of the kernel's.
fn download(work: &Path) -> Result<String> {
    let depends = output(work, "apt-cache", &["depends", KERNEL])?;
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let kernel = names.find(|name| name.starts_with("linux-image-"));
    let kernel = kernel.with_context(|| format!("apt knows no {KERNEL}"))?;
    output(work, "apt-get", &["download", "-q", kernel, "busybox-static"])?;
    Ok(kernel.to_owned())
}

/// Moves modules and what each needs, numbered in the order to load them.
fn take_modules(work: &Path, version: &str) -> Result<()> {
    fs::create_dir_all(work.join("parts/modules"))?;
    let modules = merged(work, &format!("lib/modules/{version}"));
    let base = modules.ancestors().nth(3).context("modules")?;
    modules::index(base, version, &work.join("parts/busybox"))?;
    for (number, path) in modules::load_order(&modules, &MODULES)?.into_iter().enumerate() {
        let to = work.join("parts/modules").join(modules::numbered(number, &path)?);
        fs::rename(modules.join(&path), to).context(path)?;
    }
    Ok(())
}

/// The shared libraries of a program, and what loads them.
pub(super) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(Path::new("/"), "ldd", &[&program.to_string_lossy()])?;
    Ok(listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}
