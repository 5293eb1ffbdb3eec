//! Listening sockets: how they are opened, on either side, and the numbers they have in the loop.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::rules::{AddressMap, Bypass};
use passt_sys::{dgram, socket};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, sockopt};

use super::pressure::Opening;
use super::table::{Entry, Place, RuleId};
use crate::cli::{Families, Listen};
use crate::flow::{Key, Protocol, Side, Via};
use crate::link::Link;
use crate::worker::{Context, Token};

/// Connections that wait to be accepted; the kernel has a limit of its own.
const BACKLOG: i32 = 4096;
/// The namespace's loopback interface: what is forwarded from there comes in here only.
const LOOPBACK: &str = "lo";

/// A forwarded port.
#[derive(Debug)]
pub struct Listener {
    pub(crate) fd: OwnedFd,
    /// The address that it is bound to.
    pub(crate) addr: Addr,
    /// Where it is.
    pub side: Side,
    /// [`Protocol::Tcp`] or [`Protocol::Udp`].
    pub(crate) protocol: Protocol,
    family: AddressFamily,
    /// Which port of which rule it is there for, and for which families.
    pub(super) place: Place,
    pub(super) families: Families,
    /// Its connections that are being established.
    pub(crate) opening: Opening,
    /// What the kernel calls it when it tells what listens.
    inode: u64,
    /// The port on the other side.
    pub(crate) target_port: u16,
    /// The address on the other side, if the user chose one.
    pub(crate) target: Option<Addr>,
}

/// What holds for all sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Families that are on.
    pub families: Families,
    /// Addresses need not be the host's (`--freebind`).
    pub freebind: bool,
}

/// The sockets that listen now, each with a number that is never used twice: what is left of a
/// closed one, an event or a flow, reaches no other.
#[derive(Debug, Default)]
pub struct Listeners {
    open: BTreeMap<u32, Listener>,
    inodes: HashSet<u64>,
    next: u32,
}

impl Listeners {
    /// Adds a socket and gives it a number.
    pub fn insert(&mut self, listener: Listener) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.inodes.insert(listener.inode);
        self.open.insert(number, listener);
        number
    }

    /// A socket by its number, unless it was closed.
    pub fn get(&self, number: u32) -> Option<&Listener> {
        self.open.get(&number)
    }

    /// Takes a socket out, to be closed.
    pub fn remove(&mut self, number: u32) -> Option<Listener> {
        let listener = self.open.remove(&number)?;
        self.inodes.remove(&listener.inode);
        Some(listener)
    }

    /// Whether the socket with this inode is one of these.
    pub(super) fn is_ours(&self, inode: u64) -> bool {
        self.inodes.contains(&inode)
    }

    /// All of them with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Listener)> {
        self.open.iter().map(|(&number, listener)| (number, listener))
    }

    /// Whether what a flow on the bypass sends to `target` would come back to us, again and again: where
    /// both loopbacks stand for each other, and the port is forwarded both ways.
    pub(crate) fn circular(&self, bypass: Bypass, key: &Key, target: Endpoint) -> bool {
        bypass == Bypass::Loopback
            && self.open.values().any(|l| {
                key.via != Via::Bypass(l.side)
                    && key.protocol == l.protocol
                    && target.port == l.place.port
                    && (target.addr == l.addr || l.addr.is_unspecified())
            })
    }

    /// The socket that forwards to the guest's UDP `port` and can reach `remote`: what
    /// the guest sends from there looks, to the outside, as if it came from the forwarded port.
    pub(crate) fn answering(&self, port: u16, remote: Addr) -> Option<(u32, &Listener)> {
        self.iter().find(|(_, l)| {
            l.side == Side::Host
                && l.protocol == Protocol::Udp
                && l.target_port == port
                && l.addr.is_unspecified()
                && (remote.is_v4() == l.addr.is_v4()
                    || remote.is_v4() && sockopt::ipv6_v6only(&l.fd) == Ok(false))
        })
    }
}

/// A port that couldn't be had.
#[derive(Debug)]
pub(super) struct Refused {
    port: u16,
    error: io::Error,
    /// The rule must have it, or there are no descriptors for what comes in.
    pub(super) fatal: bool,
}

/// Opens the sockets of a rule from a thread on its side, unless it follows what listens elsewhere, as far as they can be
/// had. With them comes the last port that couldn't, if any.
pub(super) fn open(id: RuleId, entry: &Entry, options: Options) -> (Vec<Listener>, Option<Refused>) {
    let (mut listeners, mut refused) = (Vec::new(), None);
    let ports = entry.rule.ports;
    for port in (ports.first()..=ports.last()).take_while(|_| !entry.rule.scan) {
        match Listener::open(Place { rule: id, port }, entry, options) {
            Ok(opened) => listeners.extend(opened),
            Err(error) => {
                let exhausted = matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE));
                let fatal = exhausted || !entry.rule.weak;
                refused = Some(Refused { port, error, fatal });
                if fatal {
                    break;
                }
            }
        }
    }
    (listeners, refused)
}

impl Refused {
    /// Tells the user.
    pub(super) fn warn(&self, entry: &Entry) {
        let Self { port, error, .. } = self;
        let reason = Errno::from_io_error(error).map_or_else(|| error.to_string(), |e| e.to_string());
        let reason = reason.split(" (os error").next().unwrap_or_default();
        let (side, protocol) = (side_name(entry.side), protocol_name(entry.protocol));
        let listen = &entry.rule.listen;
        if *listen == Listen::default() {
            log::warn!("Listen failed for {side} {protocol} port {port}: {reason}");
        } else {
            log::warn!("Listen failed for {side} {protocol} port {listen}/{port}: {reason}");
        }
    }
}

fn side_name(side: Side) -> &'static str {
    if side == Side::Host { "HOST" } else { "NS" }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    if protocol == Protocol::Tcp { "TCP" } else { "UDP" }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, protocol) = (side_name(self.side), protocol_name(self.protocol));
        write!(f, "{side} {protocol} port {}", self.place.port)
    }
}

impl Listener {
    /// Opens what a port of a rule needs: one socket, or in the namespace, where Linux before 5.7 doesn't
    /// let us bind to the interface, one for each loopback address.
    pub(super) fn open(place: Place, entry: &Entry, options: Options) -> io::Result<Vec<Self>> {
        if entry.side == Side::Host {
            return Ok(vec![Self::open_at(&entry.rule.listen, place, entry, options)?]);
        }
        let interface = Listen { addr: None, interface: Some(LOOPBACK.to_owned()) };
        match Self::open_at(&interface, place, entry, options) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::PERM) => {}
            opened => return Ok(vec![opened?]),
        }
        let v4 = options.families.v4().then_some(Ipv4Addr::LOCALHOST.into());
        let v6 = options.families.v6().then_some(Ipv6Addr::LOCALHOST.into());
        let address = |ip| Self::open_at(&Listen { addr: Some(ip), interface: None }, place, entry, options);
        v4.into_iter().chain(v6).map(address).collect()
    }

    fn open_at(listen: &Listen, place: Place, entry: &Entry, options: Options) -> io::Result<Self> {
        let Entry { side, protocol, ref rule } = *entry;
        let any_v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let any_v6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let (ip, both) = match (listen.addr, options.families) {
            (Some(ip), _) => (ip, false),
            (None, Families::V4Only) => (any_v4, false),
            (None, Families::V6Only) => (any_v6, false),
            (None, Families::Both) => (any_v6, true),
        };
        let interface = listen.interface.as_deref();
        let bound = |ip, both| bound(ip, place.port, both, interface, protocol, options.freebind);
        let opened = match bound(ip, both) {
            // A host without IPv6.
            Err(e) if both && Errno::from_io_error(&e) == Some(Errno::AFNOSUPPORT) => bound(any_v4, false),
            opened => opened,
        };
        let (fd, family) = opened?;
        Ok(Self {
            opening: Opening::default(),
            inode: rustix::fs::fstat(&fd)?.st_ino,
            fd,
            addr: ip.into(),
            side,
            protocol,
            family,
            place,
            families: options.families,
            target_port: rule.to + (place.port - rule.ports.first()),
            target: rule.target.map(Addr::from),
        })
    }

    /// A peer's address in the form that the socket takes.
    pub(crate) fn form(&self, addr: SocketAddr) -> SocketAddr {
        if self.family == AddressFamily::INET6 { dgram::mapped(addr) } else { addr }
    }

    /// The flow of what `source` sends to `destination`, as the guest sees it.
    pub(crate) fn key(
        &self,
        map: &AddressMap,
        source: Endpoint,
        destination: Addr,
    ) -> Result<Key, DropReason> {
        let side = map.to_guest(self.protocol, source, destination, self.target)?;
        let guest = Endpoint::new(side.guest, self.target_port);
        Ok(Key { via: Via::Link, protocol: self.protocol, guest, remote: side.remote })
    }

    /// What `client` reached that was accepted as `fd`, and its target on the other side, if the
    /// connection bypasses the link.
    pub(crate) fn past_link(
        &self,
        map: &AddressMap,
        fd: &OwnedFd,
        client: Endpoint,
    ) -> Option<(Endpoint, Endpoint)> {
        let from_outside = !client.addr.is_loopback() || self.target.is_some();
        if self.side == Side::Host && (from_outside || map.bypass == Bypass::Off) {
            return None;
        }
        let reached = Endpoint::from(SocketAddr::try_from(rustix::net::getsockname(fd).ok()?).ok()?);
        Some((reached, self.other_side(map, client.addr, reached.addr)?))
    }

    /// The flow of what `source` sends to `destination`, and its target on the other side, if it bypasses
    /// the link.
    pub(crate) fn route(
        &self,
        map: &AddressMap,
        source: Endpoint,
        destination: Addr,
    ) -> Result<(Key, Option<Endpoint>), DropReason> {
        let Some(target) = self.other_side(map, source.addr, destination) else {
            return Ok((self.key(map, source, destination)?, None));
        };
        let guest = Endpoint::new(destination, self.place.port);
        Ok((
            Key { via: Via::Bypass(self.side), protocol: self.protocol, guest, remote: source },
            Some(target),
        ))
    }

    /// What `reached` stands for on the other side, if what `client` sends there bypasses the link.
    fn other_side(&self, map: &AddressMap, client: Addr, reached: Addr) -> Option<Endpoint> {
        let target = match self.side {
            Side::Host => map.past_link(client, reached, self.target)?,
            Side::Namespace => self.target.unwrap_or_else(|| AddressMap::past_link_out(reached)),
        };
        Some(Endpoint::new(target, self.target_port))
    }

    /// Has the loop tell of this socket, by its number.
    pub(crate) fn watch<L: Link>(&self, ctx: &Context<L>, number: u32) -> io::Result<()> {
        let events = match self.protocol {
            // Without descriptors for new connections, waiting ones must not keep the loop busy.
            Protocol::Tcp => EventFlags::IN | EventFlags::ET,
            _ => EventFlags::IN,
        };
        if self.protocol == Protocol::Udp && ctx.link.caps().udp_segmentation {
            // Linux before 5.0 does not know how to.
            let _ = dgram::want_joined(self.fd.as_fd());
        }
        ctx.watch(&self.fd, Token::Listener(number), events)
    }
}

/// A socket that listens, and its family.
fn bound(
    ip: IpAddr,
    port: u16,
    both: bool,
    interface: Option<&str>,
    protocol: Protocol,
    freebind: bool,
) -> io::Result<(OwnedFd, AddressFamily)> {
    let tcp = protocol == Protocol::Tcp;
    let v6 = ip.is_ipv6();
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let fd = rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    if v6 {
        sockopt::set_ipv6_v6only(&fd, !both)?;
    }
    if tcp {
        // Old connections in TIME_WAIT do not keep the port; for UDP this would share it.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        // What is accepted inherits it.
        sockopt::set_tcp_nodelay(&fd, true)?;
    } else {
        dgram::want_failures(fd.as_fd(), v6)?;
        if ip.is_unspecified() {
            dgram::want_destination(fd.as_fd(), v6)?;
        }
    }
    if freebind {
        sockopt::set_ip_freebind(&fd, true)?;
    }
    let mut index = 0;
    if let Some(name) = interface {
        socket::bind_to_device(fd.as_fd(), name)?;
        index = netdevice::name_to_index(&fd, name)?;
    }
    let at = match ip {
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, index).into(),
        IpAddr::V4(_) => SocketAddr::new(ip, port),
    };
    rustix::net::bind(&fd, &at)?;
    if tcp {
        rustix::net::listen(&fd, BACKLOG)?;
    }
    Ok((fd, family))
}
