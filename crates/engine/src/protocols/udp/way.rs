//! What the datagrams of a flow travel through: sockets that others use as well, those that listen
//! and those of the guest's ports, or one of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::classify::Datagram;
use passt_proto::drop::DropReason;
use passt_proto::rules::HostSide;
use passt_sys::dgram::{self, Envelope};
use rustix::io::Errno;

use super::bypass::Across;
use super::lasting::Connected;
use super::mapping::{self, Mapping, Mappings, Permits, Remote};
use super::send::Sender;
use super::{Udp, UdpFlow, errors};
use crate::core::icmp::unreachable;
use crate::core::{Core, Payload, Station};
use crate::flow::{Handle, Key};
use crate::forward::{Context, Listeners, Ports, Watched};
use crate::link::Link;
use crate::protocols::socket::datagram_socket;
use crate::protocols::{marks, path_from_guest};

/// What the datagrams of a flow travel through.
pub(super) enum Sockets {
    /// One of its own, connected to the remote.
    Own(OwnedFd),
    /// One that others use as well.
    Shared(Shared),
    /// One of its own, connected to the remote, beside one that others use as well.
    Connected(Connected),
    /// On the bypass: one of its own on the server's side, and another one on the client's.
    Across(Across),
}

/// A socket that is not connected, from which datagrams go `to` a peer, and come `from` an address
/// of the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    pub(super) socket: Which,
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
}

/// A socket that is not connected, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// A listening one.
    Listener(u32),
    /// The one of a port of the guest.
    Mapping(Handle),
}

/// All sockets that are not connected.
#[derive(Clone, Copy)]
pub(super) struct Ways<'a> {
    pub(super) listeners: &'a Listeners,
    pub(super) mappings: &'a Mappings,
}

/// A flow for a datagram of the guest that belongs to none. It is `apart` where another one has the
/// same remote and the same port, but another address of the guest's: what comes back could not be
/// told from that one's.
pub(crate) fn open<L: Link>(
    Context { core, ports }: &mut Context<L>,
    udp: &mut Udp,
    key: &Key,
    datagram: &Datagram,
    apart: bool,
) -> Result<UdpFlow, DropReason> {
    let side = core.host_side(key.protocol, key.guest.addr, key.remote)?;
    let permits = if core.is_many(side.remote.addr) { Permits::Anybody } else { Permits::Host };
    let station = Station::of(&core.guest.learnt, key.guest.addr);
    match way_out(core, ports, &mut udp.mappings, (key, &side), apart) {
        Ok(sockets) => {
            let flow = UdpFlow::new(sockets, side.remote, station, core.now);
            Ok(UdpFlow { permits, ..flow })
        }
        Err(error) => {
            if let Some(error) = Errno::from_io_error(&error).and_then(unreachable) {
                let path = path_from_guest(core, key, &station).marked(datagram.marks);
                let quoted = errors::quote(key, &path, datagram.payload.len());
                let header = error.header(key.guest.addr.is_v4());
                core.icmp_error(key.remote.addr, header, &quoted, &Payload::NONE);
            }
            Err(DropReason::Socket)
        }
    }
}

/// What the datagrams of a flow that the guest begins travel through: what others of its port do, if
/// the flow is not `apart` from these.
fn way_out<L: Link>(
    core: &Core<L>,
    ports: &Ports,
    mappings: &mut Mappings,
    (key, side): (&Key, &HostSide),
    apart: bool,
) -> io::Result<Sockets> {
    if side.closed {
        return Err(Errno::NETUNREACH.into());
    }
    let is_to_many = core.is_many(side.remote.addr);
    if apart && !is_to_many || !leads_back(core, key, side) {
        // From whatever port: the guest's own is for others.
        return Ok(Sockets::Own(datagram_socket(core, None, side, 0)?.0));
    }
    let to = side.socket_addr(side.remote);
    if let Some((number, listener)) = answering(core, ports, key, side) {
        if is_to_many {
            mapping::leave_by(core, listener.fd.as_fd(), side.remote.addr);
        }
        let from = side.bind.map(Addr::ip);
        return Ok(Sockets::Shared(Shared::new(Which::Listener(number), listener.form(to), from)));
    }
    let known = mappings.find(core, key, side);
    let opened = || mappings.insert(core, Mapping::open(core, ports, key, side)?);
    let mapping = known.map_or_else(opened, Ok)?;
    if is_to_many {
        mappings.prepare_for_many(core, mapping, side);
    }
    Ok(Sockets::Shared(Shared::new(Which::Mapping(mapping), to, None)))
}

/// The listening socket that leads to the port which the guest sends from, if what comes back there
/// is the flow's. It is known by who it is from: it may be somebody else to the guest, or go past
/// the link. Nothing comes back from many: whoever answers has a flow of its own.
fn answering<'a, L>(
    core: &Core<L>,
    ports: &'a Ports,
    key: &Key,
    side: &HostSide,
) -> Option<(u32, &'a Watched)> {
    let comes_back = |(_, listener): &(u32, &Watched)| {
        if core.is_many(side.remote.addr) {
            return listener.target.is_none();
        }
        let back = listener.route(&core.guest, side.remote, key.guest.addr);
        back.is_ok_and(|(back, across)| across.is_none() && back.remote == key.remote)
    };
    let outbound = core.outbound_to(side.remote.addr);
    ports.listeners.answering(key.guest.port, side.remote.addr, outbound).filter(comes_back)
}

/// Whether the guest knows whoever answers from `side` as the one that it sent to. A group does not
/// answer.
fn leads_back<L>(core: &Core<L>, key: &Key, side: &HostSide) -> bool {
    let guest = key.guest.addr;
    let back = core.guest.to_guest(key.protocol, side.remote, guest, Some(guest));
    side.remote.addr.is_group() || back.is_ok_and(|back| back.remote == key.remote)
}

impl UdpFlow {
    /// Whom it goes to, as [`Mappings`] have to know it.
    pub(super) fn to(&self) -> Remote {
        Remote { addr: self.remote.addr, permits: self.permits }
    }

    /// The mapping that it uses, if it does.
    pub(crate) fn mapping(&self) -> Option<Handle> {
        match self.sockets {
            Sockets::Shared(Shared { socket: Which::Mapping(mapping), .. })
            | Sockets::Connected(Connected {
                beside: Shared { socket: Which::Mapping(mapping), .. }, ..
            }) => Some(mapping),
            _ => None,
        }
    }

    /// Whether what came in through `shared` is part of the flow, and not of another host that
    /// looks the same to the guest: that is `remote`, or somebody past the link. With the port that
    /// `shared` is bound to.
    pub(crate) fn takes(
        &mut self,
        mappings: &Mappings,
        (shared, port): (Shared, u16),
        remote: Endpoint,
        across: bool,
    ) -> bool {
        let takes = self.remote == remote || across;
        if takes {
            self.reopened(mappings, shared, port);
        }
        takes
    }

    /// Whether it travels through a listening socket that was closed.
    pub(crate) fn is_cut_off(&self, listeners: &Listeners) -> bool {
        self.listener().is_some_and(|number| listeners.get(number).is_none())
    }

    /// Its own socket, if it has one.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.sockets.own()
    }

    /// Has the kernel join datagrams from the host.
    pub(crate) fn join(&self) {
        if let Some(fd) = self.fd() {
            // Linux before 5.0 does not know how to.
            let _ = dgram::want_joined(fd);
        }
    }

    /// Something came in through a listening socket, perhaps one that was opened in the place of
    /// the former, at this port.
    fn reopened(&mut self, mappings: &Mappings, listener: Shared, port: u16) {
        let is_same = |mapping: &Mapping| {
            let takes = |from: IpAddr| mapping.bounds().takes(from.into());
            mapping.port() == port && listener.from.is_none_or(takes)
        };
        let mapping = self.mapping().and_then(|mapping| mappings.get(mapping));
        match &mut self.sockets {
            Sockets::Shared(shared @ Shared { socket: Which::Listener(_), .. }) => *shared = listener,
            Sockets::Across(across) => across.reopened(listener),
            _ if mapping.is_some_and(is_same) => {}
            // The peer is answered from there, until it is heard through the other socket again.
            // That one stays, as anybody could forge the peer's address.
            _ => self.last_heard = Some(listener),
        }
    }

    /// The remote was heard through the flow's own socket.
    pub(crate) fn heard_remote(&mut self) {
        self.last_heard = None;
    }

    /// The way to the remote, unless the socket is closed.
    pub(super) fn way<'a>(&'a self, ways: Ways<'a>) -> Option<Sender<'a>> {
        let envelope = marks::envelope(self.marks, self.remote.addr);
        let v4 = self.remote.addr.is_v4();
        let own = || match &self.sockets {
            Sockets::Own(_) | Sockets::Connected(_) => {
                self.sockets.own().map(|fd| Sender { fd, envelope, v4, shared: None })
            }
            Sockets::Across(across) => Some(across.to_server(self.remote)),
            Sockets::Shared(shared) => shared.way(ways, envelope),
        };
        self.last_heard.as_ref().and_then(|shared| shared.way(ways, envelope)).or_else(own)
    }
}

impl Sockets {
    /// The flow's own towards its remote, if it has one.
    pub(super) fn own(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Own(fd) => Some(fd.as_fd()),
            Self::Connected(connected) => connected.fd(),
            Self::Across(across) => Some(across.server().as_fd()),
            Self::Shared(_) => None,
        }
    }
}

impl Shared {
    /// Through this socket, `to` a peer and `from` an address, unless the kernel is to choose it.
    pub(crate) fn new(socket: Which, to: SocketAddr, from: Option<IpAddr>) -> Self {
        Self { socket, to, from }
    }

    pub(super) fn way<'a>(&self, ways: Ways<'a>, envelope: Envelope) -> Option<Sender<'a>> {
        let (fd, told) = match self.socket {
            Which::Listener(number) => {
                let listener = ways.listeners.get(number)?;
                (listener.fd.as_fd(), &listener.dont_fragment)
            }
            Which::Mapping(mapping) => {
                let mapping = ways.mappings.get(mapping)?;
                (mapping.fd()?, &mapping.dont_fragment)
            }
        };
        let envelope = Envelope { to: Some(self.to), from: self.from, ..envelope };
        let v4 = self.to.ip().to_canonical().is_ipv4();
        Some(Sender { fd, envelope, v4, shared: Some((self.socket, told)) })
    }
}
