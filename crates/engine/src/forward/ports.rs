//! What a worker has to do with forwarded ports, apart from the flows that come in there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use passt_proto::addr::Addr;
use passt_sys::namespace::Supply;
use passt_sys::socket::{self, Kind};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use super::pressure::Pressure;
use super::stock::Stock;
use super::{Listener, Listeners, Ours};
use crate::core::{Core, Token};
use crate::flow::Side;
use crate::flow::inbound::Inbound;
use crate::link::Link;

/// Everything that flows are told with an event, but what those of their protocol share.
pub struct Context<L> {
    /// Link, time, counters, timers and events.
    pub core: Core<L>,
    /// Forwarded ports.
    pub ports: Ports,
}

/// How much is in use, and of how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupied {
    /// Connections that came in.
    pub(crate) connections: (usize, usize),
    /// Flows of datagrams that did.
    pub(crate) datagrams: (usize, usize),
    /// Sockets of the namespace in stock.
    pub(crate) sockets: (usize, usize),
    /// Descriptors that are not kept.
    pub(crate) descriptors: (usize, usize),
    /// Listening sockets that have to wait.
    pub(crate) waiting: usize,
}

/// Forwarded ports of a worker.
pub struct Ports {
    /// The sockets that listen, as numbered by [`Token::Listener`].
    pub listeners: Listeners,
    /// What keeps room for flows that exist, and for the guest's own.
    pub(crate) pressure: Pressure,
    /// Flows that came in.
    pub(crate) inbound: Inbound,
    /// Sockets of the guest's namespace.
    pub(crate) stock: Stock,
    /// Connections across lack a socket of the guest's namespace, which is being made.
    pub(crate) lacking: bool,
    /// Orders sockets in the guest's namespace; `None` without one.
    pub(crate) supply: Option<Supply>,
    /// Sockets of ours, among them those of ports that the guest sends from.
    pub(crate) ours: Ours,
}

impl Ports {
    /// None yet, for a table of so many flows.
    pub(crate) fn new(max_flows: usize, ours: Ours) -> Self {
        let pressure = Pressure::new();
        Self {
            listeners: Listeners::default(),
            inbound: Inbound::new(max_flows),
            stock: Stock::new(pressure.descriptors()),
            pressure,
            lacking: false,
            supply: None,
            ours,
        }
    }

    /// Notes sockets here from now on; none was noted before.
    pub(crate) fn note_in(&mut self, ours: Ours) {
        ours.take_over(&self.ours);
        self.ours = ours;
    }

    /// How much of what is bounded here is in use. `fd` is any descriptor, of which another is
    /// made.
    pub(crate) fn occupied(&self, fd: impl AsFd) -> Occupied {
        let limit = self.pressure.descriptors();
        // The kernel gives out the lowest free number: at least as many are in use.
        let free = rustix::io::fcntl_dupfd_cloexec(fd, 0);
        let used = free.map_or(limit, |fd| usize::try_from(fd.as_raw_fd()).unwrap_or(limit));
        Occupied {
            connections: self.inbound.connections(),
            datagrams: self.inbound.datagrams(),
            sockets: self.stock.level(),
            descriptors: (used, limit),
            waiting: self.pressure.waiting(),
        }
    }

    /// Has sockets of this type and the family of `like` made in the namespace, as somebody may soon
    /// need one there.
    pub(crate) fn order(&mut self, kind: SocketType, like: Addr) {
        let family = if like.is_v4() { AddressFamily::INET } else { AddressFamily::INET6 };
        if let Some(supply) = &self.supply {
            self.stock.available(supply, kind, family);
        }
    }

    /// A socket of the family of `target`, on the side that what comes in on side `from` goes to;
    /// `ENETUNREACH` if there is no way into the namespace, `EAGAIN` while sockets are made there.
    pub(crate) fn socket_across(
        &mut self,
        from: Side,
        kind: SocketType,
        target: Addr,
    ) -> io::Result<OwnedFd> {
        let family = if target.is_v4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = Kind { kind, family };
        match (from, &self.supply) {
            (Side::Namespace, _) => socket::open(kind, None),
            (Side::Host, Some(supply)) => self.stock.take(supply, kind),
            (Side::Host, None) => Err(Errno::NETUNREACH.into()),
        }
    }
}

impl<L: Link> Context<L> {
    /// Has sockets of the guest's namespace made by way of this from now on, or none.
    pub(crate) fn enter(&mut self, supply: Option<Supply>) -> io::Result<()> {
        if let Some(supply) = &supply {
            self.core.watch(supply, Token::Inside, EventFlags::IN | EventFlags::ET)?;
        }
        self.ports.supply = supply;
        Ok(())
    }

    /// Forwards what comes in through a socket from now on.
    pub(crate) fn listen(&mut self, number: u32, listener: Arc<Listener>) -> io::Result<()> {
        listener.watch(&self.core, number)?;
        self.ports.listeners.insert(number, listener);
        Ok(())
    }

    /// Forwards what comes in through socket `former` by another rule from now on.
    pub(crate) fn hand_over(&mut self, former: u32, number: u32, listener: Arc<Listener>) {
        if former == number {
            return self.ports.listeners.replace(number, listener);
        }
        // It is not watched while those who come in have to wait.
        let _ = self.core.unwatch(&listener.fd);
        self.ports.listeners.remove(former);
        if listener.watch(&self.core, number).is_err() {
            self.ports.pressure.wait(number);
            self.ports.pressure.pause(self.core.now);
        }
        self.ports.listeners.insert(number, listener);
    }

    /// Forwards nothing more that comes in through a socket.
    pub(crate) fn close(&mut self, number: u32) {
        if let Some(listener) = self.ports.listeners.remove(number) {
            // Others may have it: it would be reported for as long as it is open.
            let _ = self.core.unwatch(&listener.fd);
            self.ports.pressure.forget(number);
            log::debug!("{listener}: closed");
        }
    }
}
