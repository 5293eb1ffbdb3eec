//! Listening sockets: how they are opened, on either side, and what comes in through one.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::guest::{Bypass, Guest};
#[cfg(feature = "inject")]
use passt_sys::inject;
use passt_sys::socket::Kind;
use passt_sys::{dgram, groups, socket};
use rustix::event::epoll::EventFlags;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, netdevice, sockopt};

use super::bounds::Bounds;
use super::registry::{Ours, Socket};
use super::rule::{Families, Listen};
use super::table::{Entry, Place, side_name};
use crate::core::readiness::DATAGRAMS;
use crate::core::{Core, Token};
use crate::flow::{Key, Protocol, Side, Via};
use crate::link::Link;

/// Connections that wait to be accepted; the kernel has a limit of its own.
const BACKLOG: i32 = 4096;
/// The namespace's loopback interface: what is forwarded from there comes in here only.
const LOOPBACK: &str = "lo";

/// A socket that listens for a forwarded port. It never changes: workers share it.
#[derive(Debug)]
pub struct Listener {
    pub(crate) fd: Arc<Socket>,
    /// What it is bound to.
    pub(crate) bounds: Bounds,
    /// What goes by loopback reaches it.
    pub(super) by_loopback: bool,
    /// Where it is.
    pub side: Side,
    /// [`Protocol::Tcp`] or [`Protocol::Udp`].
    pub(crate) protocol: Protocol,
    family: AddressFamily,
    /// Which port of which rule it is there for, and for which families.
    pub(crate) place: Place,
    pub(super) families: Families,
    /// The port on the other side.
    pub(crate) target_port: u16,
    /// The address on the other side, if the user chose one.
    pub(crate) target: Option<Addr>,
}

/// What a socket is bound to.
#[derive(Clone, Copy)]
struct Bound {
    bounds: Bounds,
    by_loopback: bool,
    family: AddressFamily,
}

/// What holds for all sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenOptions {
    /// Families that are on.
    pub families: Families,
    /// Addresses need not be the host's (`--freebind`).
    pub freebind: bool,
}

/// How sockets are opened.
#[derive(Clone, Debug)]
pub(super) struct How {
    pub(super) families: Families,
    pub(super) freebind: bool,
    pub(super) ours: Ours,
}

impl How {
    pub(super) fn new(ListenOptions { families, freebind }: ListenOptions, ours: &Ours) -> Self {
        Self { families, freebind, ours: ours.clone() }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, protocol) = (side_name(self.side), self.protocol);
        write!(f, "{side} {protocol} port {}", self.place.port)
    }
}

/// How a connection bypasses the link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Across {
    /// What its client connected to.
    pub(crate) reached: Endpoint,
    /// What that stands for on the other side.
    pub(crate) target: Endpoint,
    /// The same by the other family, if that is tried where nobody listens at `target`.
    pub(crate) other: Option<Endpoint>,
}

impl Listener {
    /// Opens what a port of a rule needs: one socket, or in the namespace, where Linux before 5.7
    /// doesn't let us bind to the interface, one for each loopback address.
    pub(super) fn open(place: Place, entry: &Entry, how: &How) -> io::Result<Vec<Self>> {
        if entry.side == Side::Host {
            return Ok(vec![Self::open_at(&entry.rule.listen, place, entry, how)?]);
        }
        let interface = Listen { addr: None, interface: Some(LOOPBACK.to_owned()) };
        match Self::open_at(&interface, place, entry, how) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::PERM) => {}
            opened => return Ok(vec![opened?]),
        }
        let v4 = how.families.v4().then_some(Ipv4Addr::LOCALHOST.into());
        let v6 = how.families.v6().then_some(Ipv6Addr::LOCALHOST.into());
        let address = |ip| Self::open_at(&Listen { addr: Some(ip), interface: None }, place, entry, how);
        v4.into_iter().chain(v6).map(address).collect()
    }

    fn open_at(listen: &Listen, place: Place, entry: &Entry, how: &How) -> io::Result<Self> {
        let protocol = entry.protocol;
        let any_v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let any_v6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let (ip, both) = match (listen.addr, how.families) {
            (Some(ip), _) => (ip, false),
            (None, Families::V4Only) => (any_v4, false),
            (None, Families::V6Only) => (any_v6, false),
            (None, Families::Both) => (any_v6, true),
        };
        let interface = listen.interface.as_deref();
        let bind = |ip, both| {
            let bound = bound(ip, place.port, both, interface, protocol, how)?;
            Ok((bound, ip, both))
        };
        let opened = match bind(ip, both) {
            // A host without IPv6.
            Err(e) if both && Errno::from_io_error(&e) == Some(Errno::AFNOSUPPORT) => bind(any_v4, false),
            opened => opened,
        };
        let ((socket, family, index), ip, both) = opened?;
        let bound = Bound {
            bounds: Bounds { addr: ip.into(), both, interface: index },
            by_loopback: interface.is_none_or(|name| name == LOOPBACK),
            family,
        };
        Ok(Self::new(Arc::new(socket), bound, place, entry, how.families))
    }

    fn new(fd: Arc<Socket>, bound: Bound, place: Place, entry: &Entry, families: Families) -> Self {
        let Entry { side, protocol, ref rule } = *entry;
        let Bound { bounds, by_loopback, family } = bound;
        Self {
            fd,
            bounds,
            by_loopback,
            side,
            protocol,
            family,
            place,
            families,
            target_port: rule.to + (place.port - rule.ports.first()),
            target: rule.target.map(Addr::from),
        }
    }

    /// The same socket for another rule that listens at the same address and port.
    pub(super) fn for_rule(&self, place: Place, entry: &Entry) -> Self {
        let Self { bounds, by_loopback, family, families, .. } = *self;
        let bound = Bound { bounds, by_loopback, family };
        Self::new(Arc::clone(&self.fd), bound, place, entry, families)
    }

    /// Whether flows through it lead elsewhere than through `other`, which is the same socket:
    /// those of datagrams use it as long as they last.
    pub(super) fn leads_elsewhere(&self, other: &Self) -> bool {
        self.protocol == Protocol::Udp && (self.target_port, self.target) != (other.target_port, other.target)
    }

    /// Whether what it sends leaves by the way that the kernel chooses, or by the `outbound`
    /// interface if there is one.
    pub(crate) fn leaves_by(&self, outbound: Option<&str>) -> bool {
        match outbound {
            Some(name) => netdevice::name_to_index(&self.fd, name) == Ok(self.bounds.interface),
            None => self.bounds.interface == 0,
        }
    }

    /// Whether it is a socket of IPv6.
    pub(super) fn is_v6(&self) -> bool {
        self.family == AddressFamily::INET6
    }

    /// The port that it is bound to.
    pub(crate) fn port(&self) -> u16 {
        self.place.port
    }

    /// A peer's address in the form that the socket takes.
    pub(crate) fn form(&self, addr: SocketAddr) -> SocketAddr {
        if self.is_v6() { dgram::mapped(addr) } else { addr }
    }

    /// The address at which a client was accepted as `fd`. Asked for only where the guest may have
    /// several: in IPv6 it has a link-local one besides.
    pub(crate) fn reached(&self, guest: &Guest, fd: &OwnedFd, client: Addr) -> Addr {
        let has_several = !client.is_v4() || guest.configured.v4.assigned.len() > 1;
        if !self.bounds.addr.is_unspecified() || !has_several {
            return self.bounds.addr;
        }
        let own = rustix::net::getsockname(fd).ok().and_then(|own| SocketAddr::try_from(own).ok());
        own.map_or(self.bounds.addr, |own| own.ip().into())
    }

    /// The flow of what `source` sends to `destination`, as the guest sees it.
    pub(crate) fn key(&self, guest: &Guest, source: Endpoint, destination: Addr) -> Result<Key, DropReason> {
        let side = guest.to_guest(self.protocol, source, destination, self.target)?;
        let guest = Endpoint::new(side.guest, self.target_port);
        Ok(Key { via: Via::Link, protocol: self.protocol, guest, remote: side.remote })
    }

    /// The way of a connection that `client` made and that was accepted as `fd`, if it bypasses the
    /// link.
    pub(crate) fn past_link(&self, guest: &Guest, fd: &OwnedFd, client: Endpoint) -> Option<Across> {
        let from_outside = !client.addr.is_loopback() || self.target.is_some();
        if self.side == Side::Host && (from_outside || guest.configured.bypass == Bypass::Off) {
            return None;
        }
        let reached = Endpoint::from(SocketAddr::try_from(rustix::net::getsockname(fd).ok()?).ok()?);
        let target = self.other_side(guest, client.addr, reached.addr)?;
        Some(Across { reached, target, other: self.by_other_name(guest, reached.addr) })
    }

    /// What stands on the other side for the loopback address of the other family than that of
    /// `reached`, which is what `localhost` means as well (RFC 6761, section 6.3).
    fn by_other_name(&self, guest: &Guest, reached: Addr) -> Option<Endpoint> {
        let [v4, v6] = [Addr::from(Ipv4Addr::LOCALHOST), Addr::from(Ipv6Addr::LOCALHOST)];
        let other = if reached == v4 { v6 } else { v4 };
        let is_name = self.target.is_none() && (reached == v4 || reached == v6) && !guest.family(other).off;
        is_name.then(|| self.other_side(guest, other, other)).flatten()
    }

    /// The flow of what `source` sends to `destination`, and its target on the other side, if it
    /// bypasses the link.
    pub(crate) fn route(
        &self,
        guest: &Guest,
        source: Endpoint,
        destination: Addr,
    ) -> Result<(Key, Option<Endpoint>), DropReason> {
        let Some(target) = self.other_side(guest, source.addr, destination) else {
            return Ok((self.key(guest, source, destination)?, None));
        };
        let guest = Endpoint::new(destination, self.place.port);
        Ok((
            Key { via: Via::Bypass(self.side), protocol: self.protocol, guest, remote: source },
            Some(target),
        ))
    }

    /// What `reached` stands for on the other side, if what `client` sends there bypasses the link.
    fn other_side(&self, guest: &Guest, client: Addr, reached: Addr) -> Option<Endpoint> {
        let target = match self.side {
            Side::Host => guest.past_link(client, reached, self.target)?,
            Side::Namespace => self.target.unwrap_or_else(|| Guest::past_link_out(reached)),
        };
        Some(Endpoint::new(target, self.target_port))
    }

    /// Whether what comes in may need a socket in the namespace; its type then.
    pub(crate) fn needs_sockets(&self, guest: &Guest) -> Option<(SocketType, AddressFamily)> {
        let kind = if self.protocol == Protocol::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
        let across = self.side == Side::Host
            && guest.configured.bypass != Bypass::Off
            && self.by_loopback
            && self.target.is_none()
            && (self.bounds.addr.is_unspecified() || self.bounds.addr.is_loopback());
        across.then_some((kind, self.family))
    }

    /// Datagrams are to come with where they were sent to.
    pub(crate) fn want_destination(&self) -> io::Result<()> {
        dgram::want_destination(self.fd.as_fd(), self.is_v6())
    }

    /// Has it belong to a user and group, by their numbers, whom the process becomes: the kernel lets
    /// sockets of one user share a port (`SO_REUSEPORT` of socket(7)).
    pub fn belong_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        Ok(rustix::fs::fchown(&self.fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
    }

    /// Has the kernel join datagrams.
    pub(crate) fn join(&self) {
        if self.protocol == Protocol::Udp {
            // Linux before 5.0 does not know how to.
            let _ = dgram::want_joined(self.fd.as_fd());
        }
    }

    /// Has the loop tell of this socket, by its number.
    pub(crate) fn watch<L: Link>(&self, core: &Core<L>, number: u32) -> io::Result<()> {
        if core.caps.udp_segmentation {
            self.join();
        }
        let events = if self.protocol == Protocol::Udp { DATAGRAMS } else { EventFlags::IN };
        #[cfg(feature = "inject")]
        inject::listening(inject::Listening::Watch)?;
        core.watch(&self.fd, Token::Listener(number), events)
    }
}

/// A socket that listens, its family, and the index of the interface that it is bound to, or zero.
fn bound(
    ip: IpAddr,
    port: u16,
    both: bool,
    interface: Option<&str>,
    protocol: Protocol,
    how: &How,
) -> io::Result<(Socket, AddressFamily, u32)> {
    let tcp = protocol == Protocol::Tcp;
    let v6 = ip.is_ipv6();
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
    // What is accepted inherits what is set.
    let fd = socket::open(Kind { kind, family }, None)?;
    if both {
        sockopt::set_ipv6_v6only(&fd, false)?;
    }
    if tcp {
        // Old connections in TIME_WAIT do not keep the port; for UDP this would share it.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        sockopt::set_socket_keepalive(&fd, true)?;
    } else {
        if !v6 || both {
            sockopt::set_socket_broadcast(&fd, true)?;
        }
        dgram::want_failures(fd.as_fd(), v6)?;
        dgram::want_marks(fd.as_fd(), v6)?;
        dgram::want_room(fd.as_fd())?;
        if ip.is_unspecified() {
            dgram::want_destination(fd.as_fd(), v6)?;
            if both {
                groups::also_others(fd.as_fd())?;
            }
        }
    }
    if how.freebind {
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
    // Before anybody can see it.
    let socket = how.ours.note(fd)?;
    #[cfg(feature = "inject")]
    inject::listening(inject::Listening::Bind)?;
    if tcp {
        rustix::net::bind(&socket, &at)?;
        #[cfg(feature = "inject")]
        inject::listening(inject::Listening::Listen)?;
        rustix::net::listen(&socket, BACKLOG)?;
    } else {
        how.ours.bind(&socket, &at)?;
    }
    Ok((socket, family, index))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use rustix::net::{SendFlags, SocketFlags};

    use super::*;
    use crate::forward::Rules;
    use crate::forward::rule::{PortRange, Rule};

    /// A socket on the side and address, at a port that is free.
    pub(in crate::forward) fn listener(
        side: Side,
        protocol: Protocol,
        listen: &str,
        families: Families,
    ) -> Listener {
        let addr = (!listen.is_empty()).then(|| listen.parse().expect("an address"));
        open(side, protocol, Listen { addr, interface: None }, families)
    }

    /// A socket of datagrams of both families on the host.
    pub(in crate::forward) fn listener_on(listen: Listen) -> Listener {
        open(Side::Host, Protocol::Udp, listen, Families::Both)
    }

    fn open(side: Side, protocol: Protocol, listen: Listen, families: Families) -> Listener {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let rule = Rule {
            listen,
            ports: PortRange::new(free, free).expect("a range"),
            to: free,
            target: None,
            weak: false,
            scan: false,
        };
        let entry = Entry { side, protocol, rule };
        let rule = Rules::default().add(entry.clone()).expect("the only one");
        let how = How { families, freebind: false, ours: Ours::default() };
        Listener::open_at(&entry.rule.listen, Place { rule, port: free }, &entry, &how).expect("a socket")
    }

    /// What a client sends as urgent stays in the stream.
    #[test]
    fn accepted_sockets_have_what_the_listening_one_has() {
        let listening = listener(Side::Host, Protocol::Tcp, "127.0.0.1", Families::Both);
        let client = TcpStream::connect(("127.0.0.1", listening.place.port)).expect("a connection");
        rustix::net::send(&client, b"ab", SendFlags::OOB).expect("sent");
        drop(client);
        let flags = SocketFlags::CLOEXEC;
        let fd = loop {
            match rustix::net::accept_with(&listening.fd, flags) {
                Err(Errno::AGAIN) => {}
                accepted => break accepted.expect("a client"),
            }
        };
        assert!(sockopt::tcp_nodelay(&fd) == Ok(true) && sockopt::socket_keepalive(&fd) == Ok(true));
        let mut text = String::new();
        TcpStream::from(fd).read_to_string(&mut text).expect("text");
        assert_eq!(text, "ab");
    }
}
