//! What a worker has to do with forwarded ports, apart from the flows that come in there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use passt_proto::addr::Addr;
use passt_sys::namespace::{self, Kind, Resident};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use super::pressure::Pressure;
use super::stock::Stock;
use super::{Applied, Changes, Forward, Listener, Listeners, Stale};
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

/// Why a plan did not take effect; everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Uncommitted {
    /// Others were faster.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The loop can't watch the new sockets (`epoll_ctl(2)`).
    #[error("Couldn't watch ports: {0}")]
    Watch(#[from] io::Error),
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
    /// Rules of forwarded ports, and what they follow.
    pub forward: Forward,
    /// What keeps room for flows that exist, and for the guest's own.
    pub(crate) pressure: Pressure,
    /// Flows that came in.
    pub(crate) inbound: Inbound,
    /// Sockets of the guest's namespace.
    pub(crate) stock: Stock,
    /// Opens sockets in the guest's namespace; `None` without one.
    pub(crate) inside: Option<Resident>,
}

impl Ports {
    /// None yet, for a table of so many flows.
    pub(crate) fn new(max_flows: usize) -> Self {
        let pressure = Pressure::new();
        Self {
            listeners: Listeners::default(),
            forward: Forward::default(),
            inbound: Inbound::new(max_flows),
            stock: Stock::new(pressure.descriptors()),
            pressure,
            inside: None,
        }
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

    /// A socket of the family of `target`, on the side that what comes in on side `from` goes to;
    /// `ENETUNREACH` if there is no way into the namespace.
    pub(crate) fn socket_across(
        &mut self,
        from: Side,
        kind: SocketType,
        target: Addr,
    ) -> io::Result<OwnedFd> {
        let family = if target.is_v4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = Kind { kind, family };
        match (from, &self.inside) {
            (Side::Namespace, _) => namespace::socket(kind),
            (Side::Host, Some(inside)) => self.stock.take(inside, kind),
            (Side::Host, None) => Err(Errno::NETUNREACH.into()),
        }
    }
}

impl<L: Link> Context<L> {
    /// Has sockets of the guest's namespace opened by this thread from now on, or none.
    pub fn enter(&mut self, inside: Option<Resident>) -> io::Result<()> {
        if let Some(inside) = &inside {
            self.core.watch(inside, Token::Inside, EventFlags::IN | EventFlags::ET)?;
        }
        self.ports.inside = inside;
        Ok(())
    }

    /// Forwards what comes in through a socket from now on; its number.
    pub fn listen(&mut self, listener: Listener) -> io::Result<u32> {
        let Self { core, ports } = self;
        let number = ports.listeners.insert(listener);
        let watched = ports.listeners.get(number).map_or(Ok(()), |listener| listener.watch(core, number));
        if watched.is_err() {
            ports.listeners.remove(number);
        }
        watched.map(|()| number)
    }

    /// Puts a plan into effect whose sockets are open: watches these, and closes those of rules that
    /// are gone, whose numbers it returns. On an error nothing has changed.
    pub(crate) fn commit(&mut self, applied: Applied) -> Result<Vec<u32>, Uncommitted> {
        let mut applied = self.ports.forward.current(applied)?;
        self.listen_to_all(std::mem::take(&mut applied.open))?;
        let Changes { close, .. } = self.ports.forward.commit(applied, &self.ports.listeners)?;
        self.close(&close);
        Ok(close)
    }

    /// Watches all of some sockets, or none of them.
    fn listen_to_all(&mut self, listeners: Vec<Listener>) -> io::Result<()> {
        let mut numbers = Vec::with_capacity(listeners.len());
        for listener in listeners {
            match self.listen(listener) {
                Ok(number) => numbers.push(number),
                Err(error) => {
                    self.close(&numbers);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, numbers: &[u32]) {
        for listener in numbers.iter().filter_map(|&number| self.ports.listeners.remove(number)) {
            // One that was handed over to another rule stays open, and would be reported for both.
            let _ = self.core.unwatch(&listener.fd);
            log::debug!("{listener}: closed");
        }
    }
}
