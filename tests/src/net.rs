//! The namespaces `host` and `peer` and the link between them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::guest::Launch;
use crate::{Process, User, eventually, peer_path, skip};

/// The peer's address on the link, the host's default gateway.
pub const GATEWAY4: &str = "192.0.2.1";
/// The host's address.
pub const HOST4: &str = "192.0.2.2";
/// An address of the peer behind the gateway: a far server.
pub const FAR4: &str = "198.51.100.1";
/// The peer's IPv6 address on the link, the host's default gateway.
pub const GATEWAY6: &str = "2001:db8::1";
/// The host's IPv6 address.
pub const HOST6: &str = "2001:db8::2";
/// An IPv6 address of the peer behind the gateway.
pub const FAR6: &str = "2001:db8:f::1";

/// Where a command can run.
pub trait Place {
    /// A command that runs `program` here.
    fn command(&self, program: &str) -> Command;

    /// Starts a program, given as a line that is split at spaces.
    fn start(&self, line: &str) -> Process {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a program"));
        Process::start(command.args(words))
    }

    /// Runs a program to its successful end and returns its output.
    fn run(&self, line: &str) -> String {
        self.start(line).succeed()
    }

    /// Starts the transfer helper.
    fn start_peer(&self, line: &str) -> Process {
        let mut command = self.command(&self.peer_path().to_string_lossy());
        Process::start(command.args(line.split_whitespace()))
    }

    /// Runs the transfer helper to its successful end and returns its output.
    fn peer(&self, line: &str) -> String {
        self.start_peer(line).succeed()
    }

    /// Starts the transfer helper as a server of any kind and waits until it listens.
    fn listening(&self, line: &str) -> Process {
        let mut server = self.start_peer(line);
        server.wait_for("LISTENING");
        server
    }

    /// Starts the transfer helper's server on `address` and waits until it listens.
    fn serve(&self, address: &str) -> Process {
        self.listening(&format!("serve {address}"))
    }

    /// The transfer helper where this place's user can read it.
    fn peer_path(&self) -> PathBuf;

    /// How many times longer than on this machine anything may take here.
    fn slowness(&self) -> u32 {
        1
    }

    /// The number of the last CPU that programs here see.
    fn last_cpu(&self) -> usize {
        std::thread::available_parallelism().map_or(0, |count| usize::from(count) - 1)
    }

    /// Sets a kernel parameter of this namespace, `key=value`.
    fn sysctl(&self, setting: &str) {
        Process::start(self.command("sysctl").args(["-qw", setting])).succeed();
    }
}

/// One named namespace, deleted at the end.
pub struct Ns {
    name: String,
    dir: PathBuf,
}

impl Ns {
    fn new(name: String, dir: &Path) -> Self {
        let ns = Self { name, dir: dir.to_owned() };
        root(&format!("ip netns add {}", ns.name));
        ns.ip("link set lo up");
        // Machines differ in their default; the tests name another when they mean it.
        ns.sysctl("net.ipv4.tcp_congestion_control=cubic");
        // Addresses are usable at once, without a second of duplicate detection.
        ns.sysctl("net.ipv6.conf.default.accept_dad=0");
        ns
    }

    /// The name under /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` with these arguments on this namespace.
    pub fn ip(&self, args: &str) {
        root(&format!("ip -n {} {args}", self.name));
    }

    /// The resolv.conf that programs started here see.
    pub fn resolv_conf(&self, text: &str) {
        let dir = Path::new("/etc/netns").join(&self.name);
        std::fs::create_dir_all(&dir).expect("/etc/netns");
        std::fs::write(dir.join("resolv.conf"), text).expect("resolv.conf");
    }
}

impl Ns {
    /// Gives the namespace a FIFO for `/etc/resolv.conf`, which nobody writes to.
    pub fn resolv_conf_fifo(&self) {
        let path = Path::new("/etc/netns").join(&self.name).join("resolv.conf");
        drop(std::fs::remove_file(&path));
        root(&format!("mkfifo {}", path.display()));
    }
}

impl Place for Ns {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    fn peer_path(&self) -> PathBuf {
        self.dir.join("peer")
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.name]).status());
        drop(std::fs::remove_dir_all(Path::new("/etc/netns").join(&self.name)));
    }
}

/// Namespaces `host` and `peer`, joined by `eth0` in each, with addresses and
/// default routes of both families, and a directory for files.
pub struct Net {
    /// Where the program under test runs.
    pub host: Ns,
    /// What it talks to: the gateway, and a server behind it.
    pub peer: Ns,
    dir: Dir,
}

impl Net {
    /// The whole topology; None if the test had to be skipped.
    pub fn new() -> Option<Self> {
        let net = Self::isolated()?;
        let (host, peer) = (&net.host, &net.peer);
        host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", peer.name));
        for (ns, v4, v6) in [(host, HOST4, HOST6), (peer, GATEWAY4, GATEWAY6)] {
            ns.ip(&format!("addr add {v4}/24 dev eth0"));
            ns.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
            ns.ip("link set eth0 up");
        }
        peer.ip(&format!("addr add {FAR4}/32 dev lo"));
        peer.ip(&format!("addr add {FAR6}/128 dev lo nodad"));
        host.ip(&format!("route add default via {GATEWAY4}"));
        host.ip(&format!("route add default via {GATEWAY6}"));
        // Right after the link came up the first solicitation may be lost, which
        // costs whoever sends it a second.
        eventually("the link's IPv6 is up", || {
            let outcome = host.peer(&format!("connect [{GATEWAY6}]:9"));
            outcome.starts_with("ConnectionRefused").then_some(())
        });
        Some(net)
    }

    /// The same namespaces without the link: a host that has no network.
    pub fn isolated() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            skip("network namespaces need root");
            return None;
        }
        if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
            skip(&format!("no tap devices here: /dev/net/tun: {error}"));
            return None;
        }
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Dir::new(&id);
        let host = Ns::new(format!("passt-host-{id}"), &dir.0);
        let peer = Ns::new(format!("passt-peer-{id}"), &dir.0);
        host.sysctl("net.ipv4.ping_group_range=0 2147483647");
        host.resolv_conf("nameserver 192.0.2.53\nsearch example.test\n");
        Some(Self { host, peer, dir })
    }

    /// One more namespace that nothing connects yet, for a guest of other
    /// programs. There can be one at a time.
    pub fn empty_guest(&self) -> Ns {
        Ns::new(self.host.name.replace("host", "guest"), self.dir())
    }

    /// One more namespace that nothing connects yet, called by what it is for.
    pub fn another(&self, role: &str) -> Ns {
        Ns::new(self.host.name.replace("host", role), self.dir())
    }

    /// A directory of this test that every user may write to.
    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// The program under test, to be given options and started in `host`.
    pub fn pasta(&self, user: User) -> Launch<'_> {
        Launch::new(self, user, "pasta")
    }

    /// A tool beside the program under test, where every user can run it.
    pub fn tool(&self, name: &str) -> PathBuf {
        let path = self.dir().join(name);
        if !path.exists() {
            std::fs::copy(crate::program_path(name), &path).expect("tool copied");
        }
        path
    }

    /// The same under its name for virtual machines.
    pub fn passt(&self, user: User) -> Launch<'_> {
        Launch::new(self, user, "passt")
    }
}

/// A directory with copies of the programs that other users must be able to run.
struct Dir(PathBuf);

impl Dir {
    fn new(id: &str) -> Self {
        let dir = Self(std::env::temp_dir().join(format!("passt-test-{id}")));
        root(&format!("mkdir -m 1777 {}", dir.0.display()));
        std::fs::copy(peer_path(), dir.0.join("peer")).expect("peer copied");
        for name in ["pasta", "passt"] {
            std::fs::copy(crate::program_path(name), dir.0.join(name)).expect("program copied");
        }
        dir
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn root(line: &str) {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    Process::start(command.args(words)).succeed();
}
