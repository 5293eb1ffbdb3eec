//! User-mode Linux as the host that the program under test runs on: a kernel that is a process.
//!
//! Its vDSO has one function, it has no Landlock, one CPU, and a ramdisk as root directory: what a
//! program takes for granted elsewhere is missing here. It is of Debian's unstable suite, unpacked
//! from its package with its own C library and run in a root directory of these files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::image::libraries;
use crate::packages::{cached, take_from_suite};
use crate::{DEADLINE, Net, Process, skip};

const SUITE: &str = "unstable";
const PACKAGES: [&str; 3] = ["user-mode-linux", "busybox-static", "libgcc-s1"];
/// Modules to load; none of them needs another.
const MODULES: [&str; 3] = ["drivers/net/tun", "drivers/net/veth", "net/ipv4/udp_diag"];

/// What comes before a test's own lines.
const INIT: &str = include_str!("uml.sh");
/// Runs the kernel in its root directory, which comes first; then the test's directory and the
/// kernel's arguments.
const CHROOT: &str = "cd \"$1\"; mount --rbind /proc proc; mount --rbind /dev dev; mount --bind \"$2\" mnt; \
                      mount -t tmpfs tmp tmp; shift 2; exec chroot . /usr/bin/linux.uml \"$@\"";

/// Boots a machine that executes `script`, with `programs` of this one in its path, and waits for
/// its end; what the script wrote. `memory` is in MiB. None if the test had to be skipped.
pub fn run(net: &Net, memory: u32, programs: &[PathBuf], script: &str) -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        skip("user-mode Linux is of x86_64");
        return None;
    }
    let root = match cached(&format!("uml-{SUITE}"), make_parts) {
        Ok(parts) => parts.join("root"),
        Err(error) => {
            skip(&format!("no user-mode Linux: {error:#}"));
            return None;
        }
    };
    write_initramfs(&root, programs, script, &net.dir().join("initramfs")).expect("initramfs");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", CHROOT, "sh"]).args([&root, net.dir()]);
    command.args([&format!("mem={memory}M"), "initrd=/mnt/initramfs", "con=null", "con0=null,fd:1", "quiet"]);
    command.env_clear().envs([
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/tmp"),
        ("TMPDIR", "/tmp"),
    ]);
    let machine = Process::start(&mut command);
    let finished = machine.finish_within(DEADLINE * 2);
    assert!(finished.status.success(), "{finished:?}");
    Some(finished.stdout)
}

/// Leaves in `work/parts` a root directory for the kernel, and what the ramdisk needs.
fn make_parts(work: &Path) -> Result<()> {
    take_from_suite(work, SUITE, &PACKAGES)?;
    let (root, to) = (work.join("root"), work.join("parts/root"));
    fs::create_dir_all(to.join("usr/bin"))?;
    for directory in ["modules", "proc", "dev", "mnt", "tmp"] {
        fs::create_dir_all(to.join(directory))?;
    }
    for file in ["usr/bin/linux.uml", "usr/bin/busybox", "usr/lib/x86_64-linux-gnu", "usr/lib64"] {
        let parent = Path::new(file).parent().context("a directory")?;
        fs::create_dir_all(to.join(parent))?;
        fs::rename(root.join(file), to.join(file)).with_context(|| file.to_owned())?;
    }
    for link in ["lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), to.join(link))?;
    }
    let modules = root.join("usr/lib/uml/modules");
    let version = fs::read_dir(&modules)?.next().context("no modules")??.path();
    for module in MODULES {
        let from = version.join("kernel").join(module).with_extension("ko");
        let name = from.file_name().context("a name")?;
        fs::rename(&from, to.join("modules").join(name)).with_context(|| module.to_owned())?;
    }
    Ok(())
}

fn write_initramfs(root: &Path, programs: &[PathBuf], script: &str, to: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "tmp", "etc"] {
        archive.add_directory(directory);
    }
    archive.add("init", format!("{INIT}\n{script}\npoweroff -f\n").as_bytes());
    archive.add("bin/busybox", &fs::read(root.join("usr/bin/busybox"))?);
    for module in fs::read_dir(root.join("modules"))? {
        let module = module?;
        archive.add(&format!("modules/{}", module.file_name().display()), &fs::read(module.path())?);
    }
    let mut files = Vec::new();
    for program in programs {
        let name = program.file_name().context("a program's name")?;
        archive.add(&format!("bin/{}", name.display()), &fs::read(program)?);
        files.extend(libraries(program)?);
    }
    files.sort();
    files.dedup();
    for file in files {
        archive.add(&file.to_string_lossy(), &fs::read(&file)?);
    }
    Ok(fs::write(to, archive.finish())?)
}
