//! The sockets that UDP ports of the guest have on the host (RFC 4787).
//!
//! All that the guest sends from one port leaves from one socket, which is bound to the same port
//! where that is free, and lives as long as a flow of it: peers tell each other where the guest is,
//! and find it there (section 4.1, endpoint-independent mapping). It is not connected. Who may
//! answer is decided here: any port of an address that the guest sent to (section 5,
//! address-dependent filtering), and anybody where that was a group, as nobody knows who is in it.
//!
//! Left out: flows whose peer the guest knows by a name that does not lead back to it. They have a
//! connected socket each.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd};

use arrayvec::ArrayVec;
use passt_proto::addr::{Addr, Endpoint};
use passt_proto::guest::Guest;
use passt_proto::rules::HostSide;
use passt_sys::{alloc, dgram, groups, sender};
use rustix::io::Errno;
use rustix::net::{SocketType, netdevice, sockopt};

use super::super::facts;
use super::super::socket::{any, equip, socket};
use super::lasting::Busy;
use crate::core::readiness::{DATAGRAMS, Futile};
use crate::core::{Core, DontFragment, Token};
use crate::flow::{Handle, Key, Protocol, Table, Via};
use crate::forward::{Arrival, Bounds, Ports, Purpose, Sender, Watched};
use crate::link::Link;

/// Sockets that can listen at one port and all addresses of a family.
const MOST_LISTENING: usize = 2;

/// The sockets of all ports. Memory is reserved at the start.
pub(crate) struct Mappings {
    open: Table<Mapping>,
    /// Whom the guest sent to.
    permits: Table<Permit>,
    /// By the host's port: slots plus one, of the usual one and the one on loopback, in IPv4 and IPv6.
    by_port: [Vec<u32>; 4],
}

/// The socket of a port.
#[derive(Debug)]
pub(crate) struct Mapping {
    sender: Sender,
    origin: Origin,
    /// Its port on the host.
    port: u16,
    /// What it is bound to there.
    bounds: Bounds,
    flows: u32,
    /// Those of them that go to many hosts.
    to_groups: u32,
    /// The guest's address in the last flow that began.
    guest: Addr,
    /// The host's address that what goes to many hosts comes from.
    own: Option<Addr>,
    /// The flow that the last datagrams came to: the next ones probably do as well.
    pub(crate) latest: Option<Handle>,
    /// The kernel joined the last datagrams (`UDP_GRO`): it is likely to do so again.
    pub(crate) joined: bool,
    /// Whether routers may cut what it sends.
    pub(super) dont_fragment: DontFragment,
    /// Events of late that led to nothing.
    pub(crate) futile: Futile,
    pub(super) busy: Busy,
}

/// What a socket stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    /// The guest's port.
    port: u16,
    /// The address that the guest sends from, unless it is one of the guest's own: which of these
    /// the guest's kernel takes depends on the destination.
    guest: Option<Addr>,
    /// The family of the host's peers.
    v4: bool,
    /// They are on loopback, where that takes another socket: the usual one is bound to an
    /// interface or an address.
    local: bool,
}

/// Whom a flow goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote {
    pub(super) addr: Addr,
    pub(super) permits: Permits,
}

/// Whom the guest's port hears because of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permits {
    /// The host that it goes to.
    Host,
    /// Anybody: it goes to a group, or to all hosts of a network.
    Anybody,
    /// Nobody: its peer came by itself.
    Nobody,
}

/// Flows to an address.
#[derive(Clone, Copy, Debug)]
struct Permit {
    flows: u32,
    /// The guest's address in the last of them that began.
    guest: Addr,
}

impl Mappings {
    /// Reserves memory for so many ports, and so many hosts that these send to.
    pub(crate) fn new(ports: usize, hosts: usize, secret: (u64, u64)) -> io::Result<Self> {
        let by_port = || alloc::zeroed(usize::from(u16::MAX) + 1);
        Ok(Self {
            open: Table::new(ports, secret)?,
            permits: Table::new(hosts, secret)?,
            by_port: [by_port()?, by_port()?, by_port()?, by_port()?],
        })
    }

    /// The mapping with this name, unless it was closed.
    pub(crate) fn get(&self, mapping: Handle) -> Option<&Mapping> {
        self.open.get(mapping).map(|(_, mapping)| mapping)
    }

    pub(crate) fn get_mut(&mut self, mapping: Handle) -> Option<&mut Mapping> {
        self.open.get_mut(mapping).map(|(_, mapping)| mapping)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.open.iter().map(|(.., mapping)| mapping)
    }

    /// The one of the flow `key`, which is `side` on the host, if there is one.
    pub(super) fn find<L: Link>(&self, core: &Core<L>, key: &Key, side: &HostSide) -> Option<Handle> {
        self.open.find(&Origin::of(core, key, side).key(None))
    }

    /// Adds one that was opened; its name. An error (`ENOBUFS`) where there are too many.
    pub(super) fn insert<L: Link>(&mut self, core: &Core<L>, mapping: Mapping) -> io::Result<Handle> {
        let (origin, port) = (mapping.origin, mapping.port);
        let handle = self.open.insert(origin.key(None), mapping).map_err(|_| Errno::NOBUFS)?;
        if let Some(place) = self.by_port[origin.index()].get_mut(usize::from(port)) {
            *place = handle.index + 1;
        }
        let watched = self.get(handle).and_then(Mapping::fd);
        let watched = watched.map_or(Ok(()), |fd| core.watch(fd, Token::Mapping(handle), DATAGRAMS));
        if let Err(error) = watched {
            self.close_unused(handle);
            return Err(error);
        }
        Ok(handle)
    }

    /// Prepares for a flow to many hosts; our address there is known when it comes back.
    pub(super) fn prepare_for_many<L>(&mut self, core: &Core<L>, mapping: Handle, side: &HostSide) {
        let Some(mapping) = self.get_mut(mapping) else { return };
        mapping.own = own_address(core, side);
        if let Some(fd) = mapping.fd() {
            leave_by(core, fd, side.remote.addr);
        }
    }

    /// A flow to `remote` begins that uses a mapping. False where there is no memory for that.
    pub(super) fn join(&mut self, mapping: Handle, guest: Addr, remote: Remote) -> bool {
        if !self.permit(mapping, guest, remote) {
            return false;
        }
        let Some(mapping) = self.get_mut(mapping) else { return false };
        mapping.flows += 1;
        mapping.guest = guest;
        true
    }

    /// Has a mapping hear whom a flow permits. False where there is no memory for that.
    pub(super) fn permit(&mut self, mapping: Handle, guest: Addr, remote: Remote) -> bool {
        let Self { open, permits, .. } = self;
        let Some((_, mapping)) = open.get_mut(mapping) else { return false };
        match remote.permits {
            Permits::Host => permit(permits, &mapping.origin.key(Some(remote.addr)), guest),
            Permits::Anybody => {
                mapping.to_groups += 1;
                true
            }
            Permits::Nobody => true,
        }
    }

    /// A flow to `remote` has ended that used a mapping; the last one closes it.
    pub(super) fn leave(&mut self, mapping: Handle, remote: Remote) {
        let Self { open, permits, .. } = self;
        let Some((_, of)) = open.get_mut(mapping) else { return };
        of.flows = of.flows.saturating_sub(1);
        of.to_groups = of.to_groups.saturating_sub(u32::from(remote.permits == Permits::Anybody));
        if remote.permits == Permits::Host
            && let Some(handle) = permits.find(&of.origin.key(Some(remote.addr)))
            && let Some((_, permit)) = permits.get_mut(handle)
        {
            permit.flows = permit.flows.saturating_sub(1);
            if permit.flows == 0 {
                permits.remove(handle);
            }
        }
        self.close_unused(mapping);
    }

    /// Closes a mapping that no flow uses.
    pub(super) fn close_unused(&mut self, mapping: Handle) {
        let unused = self.get(mapping).filter(|mapping| mapping.flows == 0);
        let Some((origin, port)) = unused.map(|mapping| (mapping.origin, mapping.port)) else { return };
        if let Some(place) = self.by_port[origin.index()].get_mut(usize::from(port)) {
            *place = 0;
        }
        self.open.remove(mapping);
    }

    /// The mappings at this port of the host for peers of the family of `like`.
    fn at_port(&self, port: u16, like: Addr) -> impl Iterator<Item = Handle> {
        let first = if like.is_v4() { 0 } else { 2 };
        let places = self.by_port[first..first + 2].iter();
        places.filter_map(move |places| self.open.at(places.get(usize::from(port))?.checked_sub(1)?))
    }

    /// Whether what goes to many hosts from this port and address of the host comes from one of
    /// these; of an address that is `known` to be the host's the port says it.
    pub(crate) fn sends_from(&self, source: Endpoint, known: bool) -> bool {
        let is_it = |mapping: &Mapping| known || mapping.own == Some(source.addr);
        self.at_port(source.port, source.addr).any(|handle| self.get(handle).is_some_and(is_it))
    }

    /// The mapping at this port of the host that hears what came there from `peer`, if one does, and
    /// the guest's endpoint that does.
    pub(crate) fn permitting(&self, port: u16, peer: Addr, at: &Arrival) -> Option<(Handle, Endpoint)> {
        let takes = |&mapping: &Handle| {
            self.get(mapping).is_some_and(|mapping| mapping.bounds.takes_arrival(peer, at))
        };
        let mut all = self.at_port(port, peer).filter(takes);
        all.find_map(|mapping| Some((mapping, self.permitted(mapping, peer)?)))
    }

    /// The guest's endpoint that hears what `peer` sends to a mapping, if any does.
    pub(crate) fn permitted(&self, mapping: Handle, peer: Addr) -> Option<Endpoint> {
        let known = self.get(mapping)?;
        let permit = self.permit_of(known, peer).map(|permit| permit.guest);
        let anybody = known.to_groups > 0 && known.origin.v4 == peer.is_v4();
        let guest = permit.or(anybody.then_some(known.guest))?;
        Some(Endpoint::new(guest, known.origin.port))
    }

    /// Whether the guest sent to `peer` through a mapping.
    pub(crate) fn knows(&self, mapping: Handle, peer: Addr) -> bool {
        self.get(mapping).is_some_and(|mapping| self.permit_of(mapping, peer).is_some())
    }

    fn permit_of(&self, mapping: &Mapping, peer: Addr) -> Option<&Permit> {
        let handle = self.permits.find(&mapping.origin.key(Some(peer)))?;
        self.permits.get(handle).map(|(_, permit)| permit)
    }
}

/// Notes one flow more of the guest at `guest` to the host that `key` names. False where there is no
/// memory for that.
fn permit(permits: &mut Table<Permit>, key: &Key, guest: Addr) -> bool {
    if let Some((_, permit)) = permits.find(key).and_then(|handle| permits.get_mut(handle)) {
        *permit = Permit { flows: permit.flows + 1, guest };
        return true;
    }
    permits.insert(*key, Permit { flows: 1, guest }).is_ok()
}

impl Mapping {
    /// Opens the one of the flow `key`, which is `side` on the host.
    pub(super) fn open<L: Link>(
        core: &Core<L>,
        ports: &Ports,
        key: &Key,
        side: &HostSide,
    ) -> io::Result<Self> {
        let origin = Origin::of(core, key, side);
        let fd = socket(core, SocketType::DGRAM, None, side.remote.addr, None)?;
        let bind = side.bind.filter(|addr| !addr.is_loopback() || origin.local);
        let from =
            |port| side.socket_addr(Endpoint::new(bind.unwrap_or_else(|| any(side.remote.addr)), port));
        // Beside one for a part of the addresses another program may have the port, and the kernel
        // would not mind.
        let has_all = |listener: &&Watched| listener.bounds.has_all(side.remote.addr);
        let mut listening = ArrayVec::<&Watched, MOST_LISTENING>::new();
        listening.extend(ports.listeners.udp_at(key.guest.port).filter(has_all).take(MOST_LISTENING));
        let fds: ArrayVec<_, MOST_LISTENING> = listening.iter().map(|listener| listener.fd.as_fd()).collect();
        let keeps_port = ports.ours.bind_sender(fd.as_fd(), &from(key.guest.port), &fds).is_ok();
        if !keeps_port {
            rustix::net::bind(&fd, &from(0))?;
        }
        if origin.v4 {
            sockopt::set_socket_broadcast(&fd, true)?;
            // What goes to all hosts of a network comes back.
            dgram::want_destination(fd.as_fd(), false)?;
        }
        if keeps_port && !listening.is_empty() {
            // What comes to one of them is passed on by where it was sent to.
            dgram::want_destination(fd.as_fd(), !origin.v4)?;
            listening.iter().try_for_each(|listener| listener.want_destination())?;
        }
        sender::mark(fd.as_fd(), !origin.v4)?;
        equip(&fd, !origin.v4, core.caps.udp_segmentation)?;
        let port = if keeps_port { Some(key.guest.port) } else { facts::local(&fd).map(|at| at.port) };
        let port = port.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let outbound = core.outbound_to(side.remote.addr);
        let interface = outbound.and_then(|name| netdevice::name_to_index(&fd, name).ok());
        let addr = bind.unwrap_or_else(|| any(side.remote.addr));
        let bounds = Bounds { addr, both: false, interface: interface.unwrap_or(0) };
        Ok(Self {
            sender: ports.ours.note_sender(fd, port, !origin.v4, Purpose::Sending)?,
            origin,
            port,
            bounds,
            flows: 0,
            to_groups: 0,
            guest: key.guest.addr,
            own: None,
            latest: None,
            joined: false,
            dont_fragment: DontFragment::default(),
            futile: Futile::default(),
            busy: Busy::new(core.now),
        })
    }

    /// Its port on the host.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it is bound to.
    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The socket; there is one as long as the mapping is open.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.sender.fd()
    }

    /// Has the kernel join datagrams from the host.
    pub(crate) fn join(&self) {
        if let Some(fd) = self.fd() {
            // Linux before 5.0 does not know how to.
            let _ = dgram::want_joined(fd);
        }
    }
}

impl Origin {
    /// The name of a socket in a table, or with a `peer` that of whom it sends to.
    fn key(&self, peer: Option<Addr>) -> Key {
        let guest = Endpoint::new(self.guest.unwrap_or(Addr::UNSPECIFIED), self.port);
        let nobody = if self.v4 { Ipv4Addr::UNSPECIFIED.into() } else { Addr::UNSPECIFIED };
        let remote = Endpoint::new(peer.unwrap_or(nobody), u16::from(self.local));
        Key { via: Via::Link, protocol: Protocol::Udp, guest, remote }
    }

    /// Which of the indexes by port it is in.
    fn index(&self) -> usize {
        2 * usize::from(!self.v4) + usize::from(self.local)
    }

    fn of<L>(core: &Core<L>, key: &Key, side: &HostSide) -> Self {
        let v4 = side.remote.addr.is_v4();
        let is_bound = core.outbound[usize::from(!v4)].is_some()
            || core.guest.family(side.remote.addr).outbound.is_some();
        Self {
            port: key.guest.port,
            guest: (!is_own(&core.guest, key.guest.addr)).then_some(key.guest.addr),
            v4,
            local: side.remote.addr.is_loopback() && is_bound,
        }
    }
}

/// The address that the kernel sends from to a group, or to all hosts of a network.
fn own_address<L>(core: &Core<L>, side: &HostSide) -> Option<Addr> {
    let fd = socket(core, SocketType::DGRAM, None, side.remote.addr, side.bind).ok()?;
    if side.remote.addr.is_v4() {
        sockopt::set_socket_broadcast(&fd, true).ok()?;
    }
    rustix::net::connect(&fd, &side.socket_addr(side.remote)).ok()?;
    facts::local(&fd).map(|at| at.addr)
}

/// Has what a socket sends to a group leave by the interface that is the guest's network on the
/// host.
pub(super) fn leave_by<L>(core: &Core<L>, fd: BorrowedFd<'_>, group: Addr) {
    if let Some(interface) = core.guest.family(group).groups.filter(|_| group.ip().is_multicast()) {
        // One that is gone is not the one to leave by.
        let _ = groups::leave_by(fd, !group.is_v4(), interface);
    }
}

/// Whether this is an address that the guest was assigned, or its link-local one.
fn is_own(guest: &Guest, addr: Addr) -> bool {
    guest.family(addr).assigned.contains(&addr) || guest.learnt.link_local() == Some(addr)
}
