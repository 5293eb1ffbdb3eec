//! The two kinds of sockets: members of groups, and those for their ports.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_proto::addr::{Addr, Endpoint};
use passt_proto::groups::{Filter, MAX_SOURCES, well_known};
use passt_proto::time::{Duration, Instant};
use passt_sys::{dgram, groups};
use rustix::net::{SocketType, sockopt};

use super::{EPHEMERAL, PORTS};
use crate::core::readiness::{DATAGRAMS, Futile};
use crate::core::{Core, Token};
use crate::forward::{Ours, Purpose, Sender};
use crate::link::Link;
use crate::protocols::socket::socket;

/// How long somebody who was heard in a group is answered from its port, and how many of those
/// there are.
const HEARD: Duration = Duration::from_secs(10);
const ASKERS: usize = 16;
/// Where nobody listens: discard (RFC 863).
const NOWHERE: u16 = 9;

/// The host's membership of a group.
pub(super) struct Member {
    pub(super) group: Addr,
    /// A socket that receives nothing.
    pub(super) fd: OwnedFd,
    /// The host's address that what is sent there comes from.
    pub(super) own: Option<Addr>,
    /// Whose datagrams it is for.
    pub(super) filter: Filter,
    /// Ports that the guest sends to, or from.
    pub(super) ports: ArrayVec<u16, PORTS>,
    /// Not all ports could be had: not tried before.
    pub(super) again: Option<Instant>,
}

/// A socket for a port of a group.
pub(crate) struct GroupSocket {
    sender: Sender,
    pub(crate) group: Addr,
    pub(crate) port: u16,
    askers: ArrayVec<Asker, ASKERS>,
    pub(crate) futile: Futile,
}

/// Somebody who was heard in a group.
struct Asker {
    /// As the guest knows him, and as he is.
    shown: Endpoint,
    at: SocketAddr,
    heard: Instant,
}

impl Member {
    pub(super) fn open<L: Link>(core: &Core<L>, group: Addr, interface: u32) -> io::Result<Self> {
        let outbound = core.guest.family(group).outbound;
        let fd = socket(core, SocketType::DGRAM, None, group, outbound)?;
        groups::leave_by(fd.as_fd(), !group.is_v4(), interface)?;
        groups::join(fd.as_fd(), group.ip(), interface)?;
        // It tells where we would send from.
        let own = rustix::net::connect(&fd, &at(group, NOWHERE, interface)).ok();
        let own = own.and_then(|()| rustix::net::getsockname(&fd).ok());
        let own = own.and_then(|own| SocketAddr::try_from(own).ok()).map(|own| own.ip().into());
        let filter = Filter::Exclude(ArrayVec::new());
        Ok(Self { group, fd, own, filter, ports: ArrayVec::new(), again: None })
    }

    /// The guest sends from a port to another one of the group; whether either is new.
    pub(super) fn note_ports(&mut self, from: u16, to: u16) -> bool {
        let mut is_new = false;
        for port in [Some(to), Some(from).filter(|&port| port < EPHEMERAL)].into_iter().flatten() {
            let is_known = self.ports.contains(&port) || well_known(self.group).contains(&port);
            is_new |= !is_known && self.ports.try_push(port).is_ok();
        }
        is_new
    }

    pub(super) fn set_filter(&mut self, filter: Filter, interface: u32) {
        set_filter(self.fd.as_fd(), self.group, &filter, interface);
        self.filter = filter;
    }
}

impl GroupSocket {
    /// One that the loop knows by its number.
    pub(super) fn open<L: Link>(
        core: &Core<L>,
        ours: &Ours,
        here: Endpoint,
        (interface, number): (u32, usize),
    ) -> io::Result<Self> {
        let Endpoint { addr: group, port } = here;
        let v6 = !group.is_v4();
        let fd = socket(core, SocketType::DGRAM, None, group, None)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        // Linux before 4.20 does not know how to, of IPv6.
        let _ = groups::only_own(fd.as_fd(), v6);
        dgram::want_marks(fd.as_fd(), v6)?;
        dgram::want_room(fd.as_fd())?;
        groups::leave_by(fd.as_fd(), v6, interface)?;
        ours.bind_beside(fd.as_fd(), &at(group, port, interface))?;
        groups::join(fd.as_fd(), group.ip(), interface)?;
        core.watch(&fd, Token::Group(u32::try_from(number).unwrap_or(u32::MAX)), DATAGRAMS)?;
        let sender = ours.note_sender(fd, port, v6, Purpose::Group)?;
        Ok(Self { sender, group, port, askers: ArrayVec::new(), futile: Futile::default() })
    }

    /// The socket; there is one as long as this is.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.sender.fd()
    }

    pub(super) fn set_filter(&self, filter: &Filter, interface: u32) {
        if let Some(fd) = self.fd() {
            set_filter(fd, self.group, filter, interface);
        }
    }

    /// Somebody was heard; whoever was heard longest ago is forgotten where there are too many.
    pub(crate) fn heard(&mut self, shown: Endpoint, at: SocketAddr, now: Instant) {
        self.askers.retain(|asker| asker.shown != shown);
        if self.askers.is_full() {
            self.askers.remove(0);
        }
        self.askers.push(Asker { shown, at, heard: now });
    }

    /// Where somebody is who was heard a moment ago, and whom the guest knows as `shown`.
    pub(crate) fn asker(&self, shown: Endpoint, now: Instant) -> Option<SocketAddr> {
        let asker = self.askers.iter().find(|asker| asker.shown == shown)?;
        (now.since(asker.heard) < HEARD).then_some(asker.at)
    }
}

/// A group's address in the form for sockets.
pub(crate) fn at(group: Addr, port: u16, interface: u32) -> SocketAddr {
    match group.ip() {
        IpAddr::V6(group) => SocketAddrV6::new(group, port, 0, interface).into(),
        IpAddr::V4(_) => Endpoint::new(group, port).socket_addr(),
    }
}

/// Where the kernel can't keep so many sources, it is told of none: they are looked at again when
/// something has come.
fn set_filter(fd: BorrowedFd<'_>, group: Addr, filter: &Filter, interface: u32) {
    let (Filter::Include(sources) | Filter::Exclude(sources)) = filter;
    let sources: ArrayVec<IpAddr, MAX_SOURCES> = sources.iter().map(|source| source.ip()).collect();
    let wanted = match filter {
        Filter::Include(_) => groups::Filter::Include(&sources),
        Filter::Exclude(_) => groups::Filter::Exclude(&sources),
    };
    if groups::filter(fd, group.ip(), interface, wanted).is_err() {
        let _ = groups::filter(fd, group.ip(), interface, groups::Filter::Exclude(&[]));
    }
}
