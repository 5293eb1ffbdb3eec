//! User-mode Linux: a kernel that is a process, which needs no emulator and is nearly as fast as
//! this machine's.
//!
//! It is of Debian's unstable suite, unpacked from its package with its own C library and run in a
//! root directory of these files. It has one CPU, and a ramdisk as root directory. There are two
//! uses.
//!
//! - [`run`]: the host that the program under test runs on. Its vDSO has one function and it has no
//!   Landlock: what a program takes for granted elsewhere is missing here.
//! - [`boot`]: a guest of the program under test, with a virtio device that is a client of
//!   vhost-user (kernel: `arch/um/drivers/virtio_uml.c`). Commands travel by serial lines, as those
//!   of qemu's guests do by virtio ports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::image::libraries;
use crate::cpio::Archive;
use crate::packages::{cached, take_from_suite};
use crate::{DEADLINE, Net, Place, Process, dhcp, eventually, find_program, skip};

const SUITE: &str = "unstable";
const PACKAGES: [&str; 3] = ["user-mode-linux", "busybox-static", "libgcc-s1"];
/// Modules in the order to load them.
const MODULES: [&str; 6] = [
    "drivers/net/tun",
    "drivers/net/veth",
    "net/ipv4/udp_diag",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
];
/// Commands that can run at a time in a guest, each on a serial line.
const LINES: usize = 6;
/// A guest's memory, in MiB.
const GUEST_MEMORY: u32 = 512;

/// What comes before all other lines of the first process.
const INIT: &str = include_str!("uml.sh");
/// What comes before a test's own lines on a host.
const HOST: &str = include_str!("uml_host.sh");
/// Has a command run in the kernel's root directory, which comes first; then the directory that is
/// `/mnt` there, and the command. The shell stays: it is the first process of a PID namespace.
const ENTER: &str = "cd \"$1\"; mount -t proc proc proc; mount --rbind /dev dev; mount --bind \"$2\" mnt; \
                     mount -t tmpfs tmp tmp; shift 2; \"$@\"; exit";

/// What a guest's DHCP client does beside setting addresses.
const SET_MTU: &str = "[ -z \"$mtu\" ] || ip link set dev $interface mtu $mtu\n";

/// Boots a machine that executes `script`, with `programs` of this one in its path, and waits for
/// its end; what the script wrote. `memory` is in MiB. None if the test had to be skipped.
pub fn run(net: &Net, memory: u32, programs: &[PathBuf], script: &str) -> Option<String> {
    let root = root_directory()?;
    let init = format!("{INIT}\n{HOST}\n{script}\npoweroff -f\n");
    write_initramfs(&root, programs, &init, &net.dir().join("initramfs")).expect("initramfs");
    let mut command = entered(&root, net);
    add_kernel(&mut command, memory, "/mnt/initramfs");
    let finished = Process::start(&mut command).finish_within(DEADLINE * 2);
    assert!(finished.status.success(), "{finished:?}");
    Some(finished.stdout)
}

/// Boots a guest with one network device, `eth0`, whose back end listens at `socket` in the test's
/// directory; it is up, and not configured. Guests of one test differ in `name`. None if the test
/// had to be skipped.
pub fn boot(net: &Net, name: &str, socket: &str) -> Option<Guest> {
    boot_with(net, name, &format!("virtio_uml.device=/mnt/{socket}:1"))
}

/// A guest whose network device speaks through a socket of this name without memory that both have,
/// a message for each frame, as BESS does (kernel: `arch/um/drivers/vector_user.c`).
pub fn boot_bess(net: &Net, name: &str, socket: &str) -> Option<Guest> {
    boot_with(net, name, &format!("vec0:transport=bess,dst=/mnt/{socket},depth=128,gro=1"))
}

/// A guest with the device that this word of the kernel's command line makes.
fn boot_with(net: &Net, name: &str, device: &str) -> Option<Guest> {
    let root = root_directory()?;
    let (dir, peer) = (net.dir().join(name), net.dir().join("peer"));
    // An earlier guest leaves its sockets.
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir).expect("the guest's directory");
    let programs: Vec<PathBuf> = find_program("iperf3").into_iter().chain([peer.clone()]).collect();
    write_initramfs(&root, &programs, &guest_init(), &dir.join("initramfs")).expect("initramfs");
    let mut command = entered(&root, net);
    command.arg(&peer).arg("serial").arg(&dir).arg(LINES.to_string());
    add_kernel(&mut command, GUEST_MEMORY, &format!("/mnt/{name}/initramfs"));
    command.arg(device);
    let mut machine = Process::start(&mut command);
    eventually("the start of user-mode Linux", || {
        assert!(machine.try_wait().is_none(), "user-mode Linux ended");
        machine.stdout().contains("AGENT").then_some(())
    });
    Some(Guest { machine, dir, peer })
}

/// A running guest. It is killed at the end of the scope.
pub struct Guest {
    /// The kernel and what started it, with the console as output.
    pub machine: Process,
    dir: PathBuf,
    peer: PathBuf,
}

impl Guest {
    /// Has the device get its IPv4 address and MTU by DHCP; the line `LEASE …` of it.
    pub fn configure(&self) -> String {
        let said = self.run("udhcpc -i eth0 -f -q -n -t 5 -T 1 -O mtu -s /etc/udhcpc");
        said.lines().find(|line| line.starts_with("LEASE")).expect("a lease").trim().to_owned()
    }
}

impl Place for Guest {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.peer);
        command.arg("in-vm").arg(&self.dir).arg(program);
        command
    }

    fn peer_path(&self) -> PathBuf {
        PathBuf::from("/bin/peer")
    }

    fn last_cpu(&self) -> usize {
        0
    }
}

/// The first process of a guest, which ends as the agent that runs commands.
fn guest_init() -> String {
    let udhcpc = format!("{}{SET_MTU}", dhcp::UDHCPC_SCRIPT);
    let lines: Vec<String> = (0..LINES).map(|number| format!("/dev/ttyS{number}")).collect();
    format!(
        "{INIT}\ncat >/etc/udhcpc <<'END'\n{udhcpc}END\nchmod +x /etc/udhcpc\n\
         [ ! -e /sys/class/net/vec0 ] || ip link set vec0 name eth0\n\
         ip link set eth0 up\nexec peer agent {}\n",
        lines.join(" ")
    )
}

/// The kernel's root directory, from the cache or from packages. None if the test had to be
/// skipped.
fn root_directory() -> Option<PathBuf> {
    if !cfg!(target_arch = "x86_64") {
        skip("user-mode Linux is of x86_64");
        return None;
    }
    // Another list of modules is another directory.
    let names = MODULES.map(|module| module.rsplit('/').next().unwrap_or_default());
    match cached(&format!("uml-{SUITE}-{}", names.join("-")), make_parts) {
        Ok(parts) => Some(parts.join("root")),
        Err(error) => {
            skip(&format!("no user-mode Linux: {error:#}"));
            None
        }
    }
}

/// A command in the kernel's root directory, with the test's as `/mnt`, which is to be given a
/// program outside of it and its arguments. All that it starts ends with it.
fn entered(root: &Path, net: &Net) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, "sh"]);
    command.arg(root).arg(net.dir());
    command.env_clear().envs([
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/tmp"),
        ("TMPDIR", "/tmp"),
    ]);
    command
}

/// Adds the kernel with this memory, in MiB, and first file system. What the first process writes
/// is its output.
fn add_kernel(command: &mut Command, memory: u32, initramfs: &str) {
    command.args(["chroot", ".", "/usr/bin/linux.uml", &format!("mem={memory}M")]);
    command.args([&format!("initrd={initramfs}"), "con=null", "con0=null,fd:1", "seccomp=auto", "quiet"]);
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
    for (number, module) in MODULES.into_iter().enumerate() {
        let from = version.join("kernel").join(module).with_extension("ko");
        let name = from.file_name().context("a name")?;
        let to = to.join(format!("modules/{number}-{}", name.display()));
        fs::rename(&from, to).with_context(|| module.to_owned())?;
    }
    Ok(())
}

fn write_initramfs(root: &Path, programs: &[PathBuf], init: &str, to: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "tmp", "etc"] {
        archive.add_directory(directory);
    }
    archive.add("init", init.as_bytes());
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
