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

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::guest::Guest;
use passt_proto::rules::HostSide;
use passt_sys::{dgram, groups};
use rustix::net::{SocketType, sockopt};

use super::super::facts;
use super::super::socket::{any, socket};
use crate::core::readiness::{DATAGRAMS, Futile};
use crate::core::{Core, DontFragment, Token};
use crate::flow::{Handle, Key};
use crate::forward::{Ours, Socket};
use crate::link::Link;

/// The sockets of all ports.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    open: BTreeMap<u32, Mapping>,
    by_origin: BTreeMap<Origin, u32>,
    /// By their ports on the host.
    by_port: BTreeSet<(u16, u32)>,
    /// Whom the guest sent to, by mapping.
    permits: BTreeMap<(u32, Addr), Permit>,
    /// The number of the next one: what is left of a closed one reaches no other.
    next: u32,
}

/// The socket of a port.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) fd: Arc<Socket>,
    origin: Origin,
    /// Its port on the host.
    port: u16,
    flows: usize,
    /// Those of them that go to many hosts.
    to_groups: usize,
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
}

/// What a socket stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// A group, or all hosts of a network.
    pub(super) is_many: bool,
}

/// Flows to an address.
#[derive(Clone, Copy, Debug)]
struct Permit {
    flows: usize,
    /// The guest's address in the last of them that began.
    guest: Addr,
}

impl Mappings {
    /// The mapping with this number, unless it was closed.
    pub(crate) fn get(&self, number: u32) -> Option<&Mapping> {
        self.open.get(&number)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Mapping> {
        self.open.get_mut(&number)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.open.values()
    }

    /// The one of the flow `key`, which is `side` on the host, if there is one.
    pub(super) fn find<L: Link>(&self, core: &Core<L>, key: &Key, side: &HostSide) -> Option<u32> {
        self.by_origin.get(&Origin::of(core, key, side)).copied()
    }

    /// Adds one that was opened; its number.
    pub(super) fn insert<L: Link>(&mut self, core: &Core<L>, mapping: Mapping) -> io::Result<u32> {
        let number = self.next;
        if core.caps.udp_segmentation {
            mapping.join();
        }
        core.watch(&mapping.fd, Token::Mapping(number), DATAGRAMS)?;
        self.next = number.wrapping_add(1);
        self.by_origin.insert(mapping.origin, number);
        self.by_port.insert((mapping.port, number));
        self.open.insert(number, mapping);
        Ok(number)
    }

    /// Prepares for a flow to many hosts: what goes to groups leaves by the interface that is the
    /// guest's network on the host, and its address is known when it comes back.
    pub(super) fn prepare_for_many<L>(&mut self, core: &Core<L>, number: u32, side: &HostSide) {
        let remote = side.remote.addr;
        let own = own_address(core, side);
        if let Some(mapping) = self.open.get_mut(&number) {
            mapping.own = own;
        }
        if let Some(interface) = core.guest.family(remote).groups
            && remote.ip().is_multicast()
            && let Some(mapping) = self.open.get(&number)
        {
            // One that is gone is not the one to leave by.
            let _ = groups::leave_by(mapping.fd.as_fd(), !remote.is_v4(), interface);
        }
    }

    /// A flow to `remote` begins that uses a mapping.
    pub(super) fn join(&mut self, number: u32, guest: Addr, remote: Remote) {
        let Some(mapping) = self.open.get_mut(&number) else { return };
        mapping.flows += 1;
        mapping.guest = guest;
        if remote.is_many {
            mapping.to_groups += 1;
        } else {
            let permit = self.permits.entry((number, remote.addr)).or_insert(Permit { flows: 0, guest });
            *permit = Permit { flows: permit.flows + 1, guest };
        }
    }

    /// A flow to `remote` has ended that used a mapping; the last one closes it.
    pub(super) fn leave(&mut self, number: u32, remote: Remote) {
        let Some(mapping) = self.open.get_mut(&number) else { return };
        mapping.flows = mapping.flows.saturating_sub(1);
        if remote.is_many {
            mapping.to_groups = mapping.to_groups.saturating_sub(1);
        } else if let Some(permit) = self.permits.get_mut(&(number, remote.addr)) {
            permit.flows = permit.flows.saturating_sub(1);
            if permit.flows == 0 {
                self.permits.remove(&(number, remote.addr));
            }
        }
        self.close_unused(number);
    }

    /// Closes a mapping that no flow uses.
    pub(super) fn close_unused(&mut self, number: u32) {
        let Some(mapping) = self.open.get(&number).filter(|mapping| mapping.flows == 0) else { return };
        self.by_origin.remove(&mapping.origin);
        self.by_port.remove(&(mapping.port, number));
        self.open.remove(&number);
    }

    /// Whether what goes to many hosts from this port and address of the host comes from one of
    /// these; of an address that is `known` to be the host's the port says it.
    pub(crate) fn sends_from(&self, source: Endpoint, known: bool) -> bool {
        let is_it = |mapping: &Mapping| {
            mapping.origin.v4 == source.addr.is_v4() && (known || mapping.own == Some(source.addr))
        };
        let mut at_port = self.by_port.range((source.port, 0)..=(source.port, u32::MAX));
        at_port.any(|(_, number)| self.open.get(number).is_some_and(is_it))
    }

    /// The mapping at this port of the host that hears `peer`, if one does.
    pub(crate) fn permitting(&self, port: u16, peer: Addr) -> Option<u32> {
        let at_port = self.by_port.range((port, 0)..=(port, u32::MAX)).map(|&(_, number)| number);
        { at_port }.find(|&number| self.permitted(number, peer).is_some())
    }

    /// The guest's endpoint that hears what `peer` sends to a mapping, if any does.
    pub(crate) fn permitted(&self, number: u32, peer: Addr) -> Option<Endpoint> {
        let mapping = self.open.get(&number).filter(|mapping| mapping.origin.v4 == peer.is_v4())?;
        let permit = self.permits.get(&(number, peer)).map(|permit| permit.guest);
        let guest = permit.or((mapping.to_groups > 0).then_some(mapping.guest))?;
        Some(Endpoint::new(guest, mapping.origin.port))
    }
}

impl Mapping {
    /// Opens the one of the flow `key`, which is `side` on the host.
    pub(super) fn open<L: Link>(core: &Core<L>, ours: &Ours, key: &Key, side: &HostSide) -> io::Result<Self> {
        let origin = Origin::of(core, key, side);
        let fd = socket(core, SocketType::DGRAM, None, side.remote.addr, None)?;
        let bind = side.bind.filter(|addr| !addr.is_loopback() || origin.local);
        let from =
            |port| side.socket_addr(Endpoint::new(bind.unwrap_or_else(|| any(side.remote.addr)), port));
        let keeps_port = rustix::net::bind(&fd, &from(key.guest.port)).is_ok();
        if !keeps_port {
            rustix::net::bind(&fd, &from(0))?;
        }
        if origin.v4 {
            sockopt::set_socket_broadcast(&fd, true)?;
        }
        dgram::want_failures(fd.as_fd(), !origin.v4)?;
        dgram::want_marks(fd.as_fd(), !origin.v4)?;
        dgram::want_room(fd.as_fd())?;
        let port = if keeps_port { Some(key.guest.port) } else { facts::local(&fd).map(|at| at.port) };
        let port = port.ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            fd: ours.note_sharing(fd, port, !origin.v4)?,
            origin,
            port,
            flows: 0,
            to_groups: 0,
            guest: key.guest.addr,
            own: None,
            latest: None,
            joined: false,
            dont_fragment: DontFragment::default(),
            futile: Futile::default(),
        })
    }

    /// Its port on the host.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Has the kernel join datagrams from the host.
    pub(crate) fn join(&self) {
        // Linux before 5.0 does not know how to.
        let _ = dgram::want_joined(self.fd.as_fd());
    }
}

impl Origin {
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

/// Whether this is an address that the guest was assigned, or its link-local one.
fn is_own(guest: &Guest, addr: Addr) -> bool {
    guest.family(addr).assigned.contains(&addr) || guest.learnt.link_local() == Some(addr)
}
