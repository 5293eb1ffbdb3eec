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
mod qemu;
pub mod uml;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dhcp::wait_for_address;
use crate::{DEADLINE, GATEWAY6, Net, Place, Process, eventually, eventually_within, skip};
use image::Image;
pub use qemu::Qemu;

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
    /// `netdev` is what follows qemu's `-netdev`, without an identifier; behind `vhost-user/`, a
    /// number of pairs of queues and what follows `-chardev socket`.
    /// Machines of one test differ in `name`. None if the test had to be skipped.
    pub fn boot(net: &Net, name: &str, netdev: &str) -> Option<Self> {
        Self::boot_with(net, name, netdev, "", &[])
    }

    /// [`Vm::boot`] with more on the kernel's command line, and more executable files: their paths
    /// inside and here.
    pub fn boot_with(
        net: &Net,
        name: &str,
        netdev: &str,
        append: &str,
        files: &[(&str, PathBuf)],
    ) -> Option<Self> {
        Self::start(net, &Qemu::installed()?, name, (netdev, ""), append, files)
    }

    /// [`Vm::boot_in`] with more properties of the network device.
    pub fn boot_device(net: &Net, qemu: &Qemu, name: &str, netdev: &str, properties: &str) -> Option<Self> {
        Self::start(net, qemu, name, (netdev, properties), "", &[])
    }

    /// A machine of the same kind that waits for the guest of another one ([`Vm::migrate_to`]).
    pub fn wait_in(net: &Net, qemu: &Qemu, name: &str, netdev: &str) -> Option<Self> {
        let mut vm = Self::launch(net, qemu, name, (netdev, ""), "", &[], &["-incoming", "defer"])?;
        eventually("qemu's monitor", || {
            assert!(vm.qemu.try_wait().is_none(), "qemu ended");
            vm.dir.join("monitor").exists().then_some(())
        });
        Some(vm)
    }

    /// [`Vm::boot`] in a qemu of one's choice. An empty `netdev` leaves the network and its device
    /// to that.
    pub fn boot_in(net: &Net, qemu: &Qemu, name: &str, netdev: &str) -> Option<Self> {
        Self::start(net, qemu, name, (netdev, ""), "", &[])
    }

    fn start(
        net: &Net,
        qemu: &Qemu,
        name: &str,
        device: (&str, &str),
        append: &str,
        files: &[(&str, PathBuf)],
    ) -> Option<Self> {
        let mut vm = Self::launch(net, qemu, name, device, append, files, &[])?;
        // Beside other work it boots several times slower than alone.
        eventually_within(DEADLINE * 3, "a virtual machine's start", || {
            assert!(vm.qemu.try_wait().is_none(), "qemu ended");
            vm.qemu.stdout().contains("AGENT").then_some(())
        });
        Some(vm)
    }

    fn launch(
        net: &Net,
        qemu: &Qemu,
        name: &str,
        (netdev, properties): (&str, &str),
        append: &str,
        files: &[(&str, PathBuf)],
        options: &[&str],
    ) -> Option<Self> {
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
        let mut command = qemu.command(net);
        // A killed qemu leaves the file with passt's process id.
        command.env("TMPDIR", &dir);
        // qemu 11 closes a descriptor twice when it has started passt. If its monitor's thread
        // opened another in between, qemu may end at once.
        let monitor = !netdev.starts_with("passt,");
        add_machine(&mut command, &dir, &image.kernel(), append, monitor);
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
            let comma = if properties.is_empty() { "" } else { "," };
            let device =
                format!("virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:12:34:56{comma}{properties}");
            command.args(["-netdev", &format!("{netdev},id=n0"), "-device", &device]);
        }
        let qemu = Process::start(command.args(options));
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

    /// Has qemu's monitor execute a command without arguments, as `stop`,
    /// `cont` or `system_reset`. A machine that starts passt by itself has none.
    pub fn monitor(&self, command: &str) -> String {
        self.monitor_with(command, "{}")
    }

    /// The same with arguments, as JSON; the reply, a line of JSON.
    pub fn monitor_with(&self, command: &str, arguments: &str) -> String {
        let stream = UnixStream::connect(self.dir.join("monitor")).expect("qemu's monitor");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let mut execute = |command: &str, arguments: &str| {
            writeln!(&stream, "{{\"execute\": \"{command}\", \"arguments\": {arguments}}}")
                .expect("qemu lives");
            let reply = lines.find(|line| line.contains("\"return\"") || line.contains("\"error\""));
            let done = reply.as_ref().is_some_and(|line| line.contains("\"return\""));
            assert!(done, "{command}: {reply:?}");
            reply.unwrap_or_default()
        };
        execute("qmp_capabilities", "{}");
        execute(command, arguments)
    }

    /// Begins to move the guest to another machine that waits for one, with at most so many bytes a
    /// second.
    pub fn migrate_to(&self, other: &Self, rate: u64) {
        let to = format!("unix:{}", other.dir.join("guest").display());
        other.monitor_with("migrate-incoming", &format!("{{\"uri\": \"{to}\"}}"));
        self.migrate(&to, rate);
    }

    /// The same to whatever qemu's monitor calls so.
    pub fn migrate(&self, to: &str, rate: u64) {
        self.set_migration_rate(rate);
        self.monitor_with("migrate", &format!("{{\"uri\": \"{to}\"}}"));
    }

    /// Has the guest move at another rate.
    pub fn set_migration_rate(&self, rate: u64) {
        self.monitor_with("migrate-set-parameters", &format!("{{\"max-bandwidth\": {rate}}}"));
    }

    /// What qemu's monitor says of the guest that moves. Panics if it does not.
    pub fn migration(&self) -> String {
        let reply = self.monitor("query-migrate");
        assert!(!reply.contains("\"failed\"") && !reply.contains("\"cancelled\""), "{reply}");
        reply
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
