//! A virtual machine that commands run in as they do in a namespace.
//!
//! It is emulated, so that a test shows the same on machines without
//! virtualisation: it boots in three seconds, and is slow afterwards. Its
//! serial console is qemu's output and so a failing test's evidence. Commands
//! travel by virtio ports, each a socket in the machine's directory: `peer
//! agent` inside runs what `peer in-vm` here was asked to, one command at a
//! time on each port. None of this touches the network that is tested.

mod image;
mod monitor;
mod qemu;
pub mod uml;
pub mod vhost;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dhcp::wait_for_address;
use crate::{DEADLINE, GATEWAY6, Net, Place, Process, eventually, eventually_within, skip};
use image::Image;
pub use qemu::Qemu;

/// Commands that can run at a time.
const PORTS: usize = 6;

/// Address of the network device.
pub const MAC: &str = "52:54:00:12:34:56";

/// What a machine has that not every one has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// Properties of the network device, divided by commas.
    pub device: &'a str,
    /// On the kernel's command line.
    pub append: &'a str,
    /// Executable files: their paths inside and here.
    pub files: &'a [(&'a str, PathBuf)],
    /// qemu's arguments, divided by spaces.
    pub arguments: &'a str,
}

/// A running virtual machine. It is killed at the end of the scope.
pub struct Vm {
    /// qemu, with the serial console as its output.
    pub qemu: Process,
    dir: PathBuf,
    peer: PathBuf,
}

impl Vm {
    /// Boots a machine in the host's namespace, with one network interface:
    /// `netdev` is what follows qemu's `-netdev`, without an identifier; behind `vhost-user/`, a
    /// number of pairs of queues and what follows `-chardev socket`.
    /// Machines of one test differ in `name`. None if the test had to be skipped.
    pub fn boot(net: &Net, name: &str, netdev: &str) -> Option<Self> {
        Self::boot_in(net, &Qemu::installed()?, name, netdev)
    }

    /// A machine of the same kind that waits for the guest of another one ([`Vm::migrate_to`]).
    pub fn wait_in(net: &Net, qemu: &Qemu, name: &str, netdev: &str) -> Option<Self> {
        let extras = Extras { arguments: "-incoming defer", ..Extras::default() };
        let mut vm = Self::launch(net, qemu, name, netdev, extras)?;
        eventually("qemu's monitor", || {
            assert!(vm.qemu.try_wait().is_none(), "qemu ended");
            vm.dir.join("monitor").exists().then_some(())
        });
        Some(vm)
    }

    /// [`Vm::boot`] in a qemu of one's choice. An empty `netdev` leaves the network and its device
    /// to that.
    pub fn boot_in(net: &Net, qemu: &Qemu, name: &str, netdev: &str) -> Option<Self> {
        Self::boot_with(net, qemu, name, netdev, Extras::default())
    }

    /// [`Vm::boot_in`] with what not every machine has.
    pub fn boot_with(net: &Net, qemu: &Qemu, name: &str, netdev: &str, extras: Extras<'_>) -> Option<Self> {
        let mut vm = Self::launch(net, qemu, name, netdev, extras)?;
        // Beside other work it boots several times slower than alone.
        eventually_within(DEADLINE * 3, "a virtual machine's start", || {
            assert!(vm.qemu.try_wait().is_none(), "qemu ended");
            vm.qemu.stdout().contains("AGENT").then_some(())
        });
        Some(vm)
    }

    fn launch(net: &Net, qemu: &Qemu, name: &str, netdev: &str, extras: Extras<'_>) -> Option<Self> {
        let image = match Image::get() {
            Ok(image) => image,
            Err(error) => {
                skip(&format!("no image for a virtual machine: {error:#}"));
                return None;
            }
        };
        let (dir, peer) = (net.dir().join(name), net.dir().join("peer"));
        std::fs::create_dir_all(&dir).expect("the machine's directory");
        image.write_initramfs(&peer, extras.files, &dir.join("initramfs")).expect("initramfs");
        let mut command = qemu.command(net);
        // A killed qemu leaves the file with passt's process id.
        command.env("TMPDIR", &dir);
        // qemu 11 closes a descriptor twice when it has started passt. If its monitor's thread
        // opened another in between, qemu may end at once.
        let monitor = !netdev.starts_with("passt,");
        add_machine(&mut command, &dir, &image.kernel(), extras.append, monitor);
        command.args(extras.arguments.split_whitespace());
        if netdev.contains("vhost-user") {
            // Whoever is at the other end has the machine's memory, too.
            command.args("-object memory-backend-memfd,id=memory,size=512M,share=on".split(' '));
            command.args("-machine memory-backend=memory".split(' '));
        }
        let netdev = match netdev.strip_prefix("vhost-user/").and_then(|rest| rest.split_once(',')) {
            Some((queues, socket)) => {
                command.args(["-chardev", &format!("socket,id=net,{socket}")]);
                format!("vhost-user,chardev=net,queues={queues}")
            }
            None => netdev.to_owned(),
        };
        if !netdev.is_empty() {
            let comma = if extras.device.is_empty() { "" } else { "," };
            let device = format!("virtio-net-pci,netdev=n0,romfile=,mac={MAC}{comma}{}", extras.device);
            command.args(["-netdev", &format!("{netdev},id=n0"), "-device", &device]);
        }
        let qemu = Process::start(&mut command);
        Some(Self { qemu, dir, peer })
    }

    /// A qemu of this version at least, which has what is named: the machine's
    /// own if it is, or one from packages. None if the test had to be skipped.
    pub fn qemu_since(what: &str, version: (u32, u32)) -> Option<Qemu> {
        Qemu::since(what, version)
    }

    /// qemu by way of another program: these words come before qemu's arguments.
    pub fn qemu_through(words: impl IntoIterator<Item = impl Into<OsString>>) -> Qemu {
        Qemu::through(words)
    }

    /// Runs a line in the machine's shell to its successful end and returns
    /// its output.
    pub fn sh(&self, line: &str) -> String {
        Process::start(self.command("sh").args(["-c", line])).succeed()
    }

    /// Has the machine get an address of each family; what DHCP gave.
    pub fn configure(&self) -> String {
        self.run("ip link set eth0 up");
        let lease = self.run("udhcpc -i eth0 -f -q -n -t 5 -T 1 -s /etc/udhcpc");
        wait_for_address(self, "scope global");
        // A guest is known by the addresses that it uses.
        self.run(&format!("ping -c 1 -W 3 {GATEWAY6}"));
        lease.lines().find(|line| line.starts_with("LEASE")).expect("a lease").trim().to_owned()
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
fn add_machine(command: &mut Command, dir: &Path, kernel: &Path, append: &str, monitor: bool) {
    command.args("-accel tcg -machine q35 -cpu max -smp 2 -m 512".split(' '));
    command.args("-nodefaults -no-user-config -no-reboot -display none -serial stdio".split(' '));
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(dir.join("initramfs"));
    command.args(["-append", &format!("console=ttyS0 quiet panic=-1 {append}")]);
    let socket = |name: &str| format!("path={},server=on,wait=off", dir.join(name).display());
    if monitor {
        command.args(["-chardev", &format!("socket,id=monitor,{}", socket("monitor"))]);
        command.args(["-mon", "chardev=monitor,mode=control"]);
    }
    command.args(["-device", "virtio-serial-pci"]);
    for port in 0..PORTS {
        command.args(["-chardev", &format!("socket,id=port{port},{}", socket(&format!("port{port}")))]);
        command.args(["-device", &format!("virtserialport,chardev=port{port}")]);
    }
}
