//! What a command line means once it is valid.
//!
//! A [`Config`] never changes after [`parse`](super::parse) has made it. Implications between
//! options are resolved here already (`--config-net` has switched router advertisements off,
//! a command has forced the foreground), so that nobody else needs to know them. What only the
//! host can tell, such as whether an interface exists, is left as the name that was given.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use passt_engine::forward::rule::Families;
use passt_proto::addr::Mac;
use passt_proto::responder::custom::Custom;

use super::ports::Ports;

/// The MAC address that the guest sees for its gateway, unless another is given.
pub const DEFAULT_MAC: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);

/// The largest MTU: what an IP packet can hold, less an Ethernet header, rounded down to 4 bytes.
pub const MAX_MTU: u16 = 65520;

/// One validated command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// By which name the program speaks of itself.
    pub name: &'static str,
    /// Which of the two programs this is, with the options that only it has.
    pub mode: Mode,
    /// Where messages go, and how many.
    pub log: LogOptions,
    /// Stay in the foreground; already true for pasta with a command.
    pub foreground: bool,
    /// Interval of the statistics on standard output; only in the foreground.
    pub stats: Option<Duration>,
    /// The user to become when started as root.
    pub run_as: Option<RunAs>,
    /// File that receives the PID.
    pub pid_file: Option<PathBuf>,
    /// File that receives every frame.
    pub pcap: Option<PathBuf>,
    /// Socket that takes changes of the forwarding rules.
    pub control_socket: Option<PathBuf>,
    /// The same for requests as slirp4netns has them.
    pub api_socket: Option<PathBuf>,
    /// Use chroot where the old root can't be left with `pivot_root`.
    pub chroot_fallback: bool,
    /// The network protocols in use.
    pub families: Families,
    /// MTU to assign to the guest; `None` is an explicit 0, assign none.
    pub mtu: Option<u16>,
    /// The MAC address the guest sees for gateway and host.
    pub mac: Mac,
    /// Addresses and names the guest is given.
    pub guest: GuestOptions,
    /// How the host's side is chosen.
    pub host: HostOptions,
    /// Name resolution.
    pub dns: DnsOptions,
    /// Protocols and services that are on.
    pub services: Services,
    /// Addresses that stand for the host or the guest.
    pub mapping: MapOptions,
    /// Listening sockets may bind addresses that the host doesn't have.
    pub freebind: bool,
    /// Forwarded ports.
    pub ports: PortOptions,
    /// What guests are told beyond what follows from their network.
    pub custom: Custom,
    /// How whoever started us is told, and tells us.
    pub starter: Starter,
    /// Lines to log as warnings once logging works, in the order of the options.
    pub warnings: Vec<String>,
    /// The same for a person at a terminal alone: nothing is wrong.
    pub hints: Vec<String>,
}

impl Config {
    /// Whether rules may be changed while the process runs.
    pub fn has_control(&self) -> bool {
        self.control_socket.is_some() || self.api_socket.is_some()
    }

    /// The options of pasta, `None` if this is passt.
    pub fn pasta(&self) -> Option<&PastaOptions> {
        match &self.mode {
            Mode::Pasta(pasta) => Some(pasta),
            Mode::Passt(_) => None,
        }
    }
}

/// Which program this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A virtual machine behind a socket.
    Passt(PasstOptions),
    /// A network namespace behind a tap device.
    Pasta(PastaOptions),
}

/// How whoever started us follows the process, beside its PID file and its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starter {
    /// What is said on standard output first.
    pub warnings: String,
    /// What is said there once there is somebody to serve.
    pub banner: String,
    /// What is said on standard error then.
    pub notice: String,
    /// Descriptor that gets `1` once everything is in force.
    pub ready: Option<i32>,
    /// Descriptor whose other end is closed when the process is to end.
    pub exit: Option<i32>,
    /// Signals that end the process do so by their default action, and the status says so.
    pub default_signals: bool,
}

impl Starter {
    /// Descriptors that were inherited.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        [self.ready, self.exit].into_iter().flatten()
    }
}

/// Options of passt, with or without vhost-user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasstOptions {
    /// How the virtual machine reaches us.
    pub socket: GuestSocket,
    /// Speak vhost-user on the socket rather than framed Ethernet.
    pub vhost_user: bool,
    /// How Ethernet is framed.
    pub wire: Wire,
    /// Another process's socket at the same path is replaced.
    pub replace: bool,
    /// Quit when the first client closes its connection.
    pub one_off: bool,
    /// Socket of the helper that repairs TCP connections in a migration; vhost-user only.
    pub repair: RepairSocket,
}

/// How frames come and go, by the name of who speaks so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// A stream socket, each frame behind its length in 32 bits, big-endian: QEMU's.
    #[default]
    Qemu,
    /// A stream socket, each frame behind its length in 16 bits, little-endian, once the client has
    /// introduced itself as VPNKit's do.
    Hyperkit,
    /// The same on standard input and output, without introduction.
    Stdio,
    /// A socket of messages (`SOCK_SEQPACKET`), each a frame.
    Bess,
    /// A socket of datagrams, each a frame.
    Vfkit,
}

/// The socket that a virtual machine connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestSocket {
    /// The first free one of `/tmp/passt_N.socket`, N from 1.
    FirstFree,
    /// This path.
    Path(PathBuf),
    /// This descriptor, connected already.
    Fd(i32),
    /// This descriptor of a tap device.
    Tap(i32),
    /// This descriptor, which listens already.
    Listening(i32),
    /// Standard input and output.
    Stdio,
}

/// Where the repair helper connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairSocket {
    /// The path of the guest's socket with `.repair` at its end.
    Default,
    /// Nowhere.
    None,
    /// This path.
    Path(PathBuf),
}

/// Options of pasta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PastaOptions {
    /// The namespace to connect.
    pub target: Target,
    /// The user namespace to work in.
    pub userns: Userns,
    /// Name of the tap device, 15 bytes at most; else the template interface's, else `tap0`.
    pub interface: Option<String>,
    /// MAC address of the tap device; else the kernel's choice.
    pub mac: Option<Mac>,
    /// Bring the tap device up and configure addresses and routes.
    pub config_net: bool,
    /// Copy the host's routes; false when a gateway was given or `--no-copy-routes`.
    pub copy_routes: PerFamily<bool>,
    /// Copy all addresses of the host's interface.
    pub copy_addrs: PerFamily<bool>,
    /// Connections to the host's loopback address arrive at the namespace's.
    pub host_lo_to_ns_lo: bool,
    /// What may bypass the tap device.
    pub splice: Splice,
    /// Quit when the namespace is gone.
    pub netns_quit: bool,
    /// Bring the loopback interface up.
    pub loopback: bool,
    /// A command that we start gets a PID namespace of its own, and a `/proc` that shows it.
    pub pid_namespace: bool,
    /// When a command that we start gets a resolv.conf of its own.
    pub resolv_conf: ResolvConf,
}

/// When a command that we start gets a resolv.conf of its own, in its mount namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolvConf {
    /// If it can reach none of the name servers in the host's, but others.
    #[default]
    IfNeeded,
    /// Always, and one of the name servers is made to be in reach if none is.
    Always,
    /// Never.
    Never,
}

/// The network namespace that pasta connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// A new one, in which this program runs; never empty.
    Command(Vec<OsString>),
    /// A new one, in which the user's login shell runs.
    #[default]
    Shell,
    /// That of a process.
    Pid(i32),
    /// One that is mounted at this path.
    Netns(PathBuf),
}

impl Target {
    /// Whether a command is started.
    pub fn is_command(&self) -> bool {
        matches!(self, Self::Command(_) | Self::Shell)
    }

    /// Path of an existing namespace, `None` if it is to be made.
    pub fn netns_path(&self) -> Option<PathBuf> {
        match self {
            Self::Command(_) | Self::Shell => None,
            Self::Pid(pid) => Some(format!("/proc/{pid}/ns/net").into()),
            Self::Netns(path) => Some(path.clone()),
        }
    }

    /// Whether we start a program in a namespace of our own making.
    pub fn spawns(&self) -> bool {
        matches!(self, Self::Command(_) | Self::Shell)
    }
}

/// The user namespace that pasta works in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Userns {
    /// A new one.
    #[default]
    New,
    /// The one we are in.
    Current,
    /// One that exists at this path; for a PID already `/proc/PID/ns/user`.
    Join(PathBuf),
    /// The same, or the one we are in if that can't be joined.
    JoinOrCurrent(PathBuf),
}

/// Which traffic bypasses the tap device by splicing sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Splice {
    /// Loopback traffic.
    #[default]
    Loopback,
    /// None.
    Never,
    /// All there is: the tap device carries nothing and has no addresses.
    Only,
}

/// Amount and destination of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// How much is said.
    pub verbosity: Verbosity,
    /// File instead of the system's log.
    pub file: Option<PathBuf>,
    /// Size limit of the file, in bytes.
    pub size: u64,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Also the configuration at start.
    Normal,
    /// Also events of connections.
    Debug,
    /// Also packets.
    Trace,
}

/// `--runas`, as names or numbers that are not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// Name or UID.
    pub user: String,
    /// Name or GID; else the user's own.
    pub group: Option<String>,
}

/// A value for IPv4 and one for IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFamily<V4, V6 = V4> {
    /// The one for IPv4.
    pub v4: V4,
    /// The one for IPv6.
    pub v6: V6,
}

/// At most one address for each family.
pub type Addresses = PerFamily<Option<Ipv4Addr>, Option<Ipv6Addr>>;

impl Addresses {
    /// Sets the address of its family; the former one is returned.
    pub(super) fn replace(&mut self, addr: IpAddr) -> Option<IpAddr> {
        match addr {
            IpAddr::V4(a) => self.v4.replace(a).map(IpAddr::V4),
            IpAddr::V6(a) => self.v6.replace(a).map(IpAddr::V6),
        }
    }
}

/// What the guest is told about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestOptions {
    /// Its addresses; where one is given, none is copied or learnt for that family.
    pub addr: Addresses,
    /// Prefix length of the IPv4 address, 1 to 32. For IPv6 it is always 64.
    pub prefix_len: Option<u8>,
    /// Its default gateways.
    pub gateway: Addresses,
    /// Addresses of the DHCP clients that there may be, the first and how many; else `addr`.
    pub leases: Option<(Ipv4Addr, usize)>,
    /// Its host name.
    pub hostname: Option<String>,
    /// Its fully qualified name.
    pub fqdn: Option<String>,
}

/// What is used of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// The guest's network is one of its own, and like none of the host's.
    pub apart: bool,
    /// Interface whose addresses and routes are the guest's template.
    pub interface: Option<String>,
    /// Nothing leads to its loopback, and the guest does not choose which of its ports are open.
    pub closed: bool,
    /// Source addresses of outgoing connections.
    pub outbound: Addresses,
    /// Those to the host's loopback have them, too.
    pub outbound_to_loopback: bool,
    /// Interfaces that outgoing connections are bound to.
    pub outbound_interface: PerFamily<Option<String>>,
}

/// Name resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsOptions {
    /// Servers the guest is told, three at most for each family.
    pub servers: Source<IpAddr>,
    /// Domains to search, six at most.
    pub search: Source<String>,
    /// Addresses at which the guest's queries are taken and sent to `host`.
    pub forward: Addresses,
    /// The resolver on the host; else the first of resolv.conf.
    pub host: Addresses,
    /// Queries at `forward` are not answered.
    pub closed: bool,
    /// Resolvers on the host's loopback are out of the guest's reach.
    pub spare_loopback: bool,
    /// The resolver is another when resolv.conf names another.
    pub follow: bool,
    /// Announce the servers by DHCP, DHCPv6 and NDP.
    pub announce_servers: bool,
    /// Announce the domains likewise.
    pub announce_search: bool,
}

/// Where a list comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source<T> {
    /// The host's resolv.conf.
    Host,
    /// There is none.
    None,
    /// The command line; never empty.
    Given(Vec<T>),
}

/// Protocols that are translated and services that are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
    /// ICMP and ICMPv6 echo.
    pub icmp: bool,
    /// DHCP.
    pub dhcp: bool,
    /// NDP.
    pub ndp: bool,
    /// DHCPv6.
    pub dhcpv6: bool,
    /// Router advertisements.
    pub ra: bool,
    /// Multicast groups that the guest joins.
    pub multicast: bool,
}

impl Services {
    /// Whether routers are advertised, which is a part of NDP.
    pub fn advertises(&self) -> bool {
        self.ndp && self.ra
    }
}

/// Addresses, as the guest sees them, that stand for something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapOptions {
    /// Addresses that reach the host's loopback.
    pub host_loopback: Addresses,
    /// Where `host_loopback` has no address, the gateway's is used.
    pub gateway: bool,
    /// Addresses that reach the host at the address it shares with the guest.
    pub guest_addr: Addresses,
    /// Addresses of the host at which nothing but pings is answered.
    pub closed_host: Addresses,
}

/// Forwarded ports by protocol and direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// `-t`: TCP from the host to the guest.
    pub tcp_in: Ports,
    /// `-u`: UDP from the host to the guest.
    pub udp_in: Ports,
    /// `-T`: TCP from the namespace to the host.
    pub tcp_out: Ports,
    /// `-U`: UDP from the namespace to the host.
    pub udp_out: Ports,
}
