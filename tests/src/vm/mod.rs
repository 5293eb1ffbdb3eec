//! A virtual machine that commands run in as they do in a namespace.
//!
//! It is emulated, so that a test shows the same on machines without
//! virtualisation: it boots in three seconds, and is slow afterwards. Its
//! serial console is qemu's output and so a failing test's evidence. Commands
//! travel by virtio ports, each a socket in the machine's directory: `peer
//! agent` inside runs what `peer in-vm` here was asked to, one command at a
//! time on each port. None of this touches the network that is tested.

mod cpio;
mod image;
mod packages;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{DEADLINE, Net, Place, Process, have, skip};
use image::Image;

const QEMU: &str = "qemu-system-x86_64";
/// Commands that can run at a time.
const PORTS: usize = 6;

/// A running virtual machine. It is killed at the end of the scope.
pub struct Vm {
    /// qemu, with the serial console as its output.
    pub qemu: Process,
    dir: PathBuf,
    peer: PathBuf,
}

impl Vm {
    /// Boots a machine in the host's namespace, with one network interface:
    /// `netdev` is what follows qemu's `-netdev`, without an identifier.
    /// Machines of one test differ in `name`. None if the test had to be skipped.
    pub fn boot(net: &Net, name: &str, netdev: &str) -> Option<Self> {
        Self::boot_with(net, name, netdev, "", &[])
    }

    /// [`Vm::boot`] with more on the kernel's command line, and more executable files: their paths inside and here.
    pub fn boot_with(
        net: &Net,
        name: &str,
        netdev: &str,
        append: &str,
        files: &[(&str, PathBuf)],
    ) -> Option<Self> {
        if !Self::possible() {
            return None;
        }
        let image = match Image::get() {
            Ok(image) => image,
            Err(error) => {
                skip(&format!("no image for a virtual machine: {error:#}"));
                return None;
            }
        };
        let (dir, peer) = (net.dir().join(name), net.dir().join("peer"));
        std::fs::create_dir_all(&dir).expect("the machine's directory");
        image.write_initramfs(&peer, files, &dir.join("initramfs")).expect("initramfs");
        let mut command = net.host.command(QEMU);
        add_machine(&mut command, &dir, &image.kernel(), append);
        let device = "virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:12:34:56";
        command.args(["-netdev", &format!("{netdev},id=n0"), "-device", device]);
        let mut qemu = Process::start(&mut command);
        qemu.wait_for("AGENT");
        Some(Self { qemu, dir, peer })
    }

    fn possible() -> bool {
        if !cfg!(target_arch = "x86_64") {
            skip("the virtual machine is an x86_64 one and runs this machine's programs");
            return false;
        }
        have(&[QEMU])
    }

    /// Whether qemu is of this version at least, which has what is named; if
    /// not, the test is skipped.
    pub fn qemu_has(what: &str, since: (u32, u32)) -> bool {
        if !Self::possible() {
            return false;
        }
        let text = Process::start(Command::new(QEMU).arg("--version")).succeed();
        let version = text.split_whitespace().find_map(|word| {
            let mut numbers = word.split('.').map_while(|number| number.parse().ok());
            Some((numbers.next()?, numbers.next()?))
        });
        let has = version.is_some_and(|version| version >= since);
        if !has {
            skip(&format!("{what} needs qemu {}.{} or newer, here is {version:?}", since.0, since.1));
        }
        has
    }

    /// Runs a line in the machine's shell to its successful end and returns
    /// its output.
    pub fn sh(&self, line: &str) -> String {
        Process::start(self.command("sh").args(["-c", line])).succeed()
    }

    /// Has qemu's monitor execute a command without arguments, as `stop`,
    /// `cont` or `system_reset`.
    pub fn monitor(&self, command: &str) {
        let stream = UnixStream::connect(self.dir.join("monitor")).expect("qemu's monitor");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
        for command in ["qmp_capabilities", command] {
            writeln!(&stream, "{{\"execute\": \"{command}\"}}").expect("qemu lives");
            let reply = lines.find(|line| line.contains("\"return\"") || line.contains("\"error\""));
            assert!(reply.as_ref().is_some_and(|line| line.contains("\"return\"")), "{command}: {reply:?}");
        }
    }
}

impl Place for Vm {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.peer);
        command.arg("in-vm").arg(&self.dir).arg(program);
        command
    }

    fn peer_path(&self) -> PathBuf {
        PathBuf::from("/bin/peer")
    }

    fn slowness(&self) -> u32 {
        4
    }
}

/// Adds everything but the network.
fn add_machine(command: &mut Command, dir: &Path, kernel: &Path, append: &str) {
    command.args("-accel tcg -machine q35 -cpu max -smp 2 -m 512".split(' '));
    command.args("-nodefaults -no-user-config -no-reboot -display none -serial stdio".split(' '));
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(dir.join("initramfs"));
    command.args(["-append", &format!("console=ttyS0 quiet panic=-1 {append}")]);
    let socket = |name: &str| format!("path={},server=on,wait=off", dir.join(name).display());
    command.args(["-chardev", &format!("socket,id=monitor,{}", socket("monitor"))]);
    command.args(["-mon", "chardev=monitor,mode=control", "-device", "virtio-serial-pci"]);
    for port in 0..PORTS {
        command.args(["-chardev", &format!("socket,id=port{port},{}", socket(&format!("port{port}")))]);
        command.args(["-device", &format!("virtserialport,chardev=port{port}")]);
    }
}
