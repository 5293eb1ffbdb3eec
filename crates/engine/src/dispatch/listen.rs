//! What comes in through listening sockets: connections and datagrams that begin flows.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::Endpoint;
use passt_proto::drop::DropReason;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::Engine;
use super::splice::Accepted;
use crate::core::readiness::has_taken;
use crate::flow::{Protocol, Side};
use crate::forward::{Context, Watched};
use crate::link::Link;
use crate::protocols::splice;
use crate::protocols::udp::Which;

/// Connections accepted from one socket before others get their turn.
const BURST: usize = 32;

/// Whose fault a failure of accept(2) is. Linux passes on errors of the network that the new socket
/// has pending, and those take the client out of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// One client's.
    Client,
    /// Descriptors or memory are short, for every listening socket.
    Shortage,
    /// This listening socket's.
    Listener,
}

impl Fault {
    fn of(error: Errno) -> Self {
        match error {
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Self::Shortage,
            // `EPERM` is a firewall's, or a security module's.
            Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::INTR
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::NONET
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::PERM
            | Errno::PROTO
            | Errno::TIMEDOUT => Self::Client,
            _ => Self::Listener,
        }
    }
}

/// Whether those who wait to come in are to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    /// By the loop.
    Open,
    /// Not before there is room: who cannot come in must not keep the loop busy.
    Waits,
}

impl<L: Link> Engine<L> {
    /// The listening socket `number` has something to tell.
    pub(crate) fn listener_event(&mut self, number: u32, events: EventFlags) {
        let Some(listener) = self.listener(number) else { return };
        let backlog = match listener.protocol {
            Protocol::Tcp => self.accept(number),
            _ => self.receive_datagrams(number, events),
        };
        if backlog == Backlog::Waits {
            self.unwatch(number);
        }
    }

    fn listener(&self, number: u32) -> Option<&Watched> {
        self.ctx.ports.listeners.get(number)
    }

    /// Has a listening socket no longer reported. It would be as long as somebody waits, and for an
    /// error of its own for ever.
    fn unwatch(&self, number: u32) {
        if let Some(listener) = self.listener(number) {
            let _ = self.ctx.core.unwatch(&listener.fd);
        }
    }

    /// How many clients of this listening socket could have a socket in the namespace now, if they
    /// need one.
    fn sockets_for(&mut self, number: u32) -> usize {
        let Context { core, ports } = &mut self.ctx;
        let needed = ports.listeners.get(number).and_then(|listener| listener.needs_sockets(&core.guest));
        let (Some((kind, family)), Some(supply)) = (needed, &ports.supply) else { return usize::MAX };
        ports.stock.available(supply, kind, family)
    }

    /// Goes on with listening sockets that had to wait for room.
    pub(crate) fn resume_listeners(&mut self) {
        if self.ctx.ports.pressure.nobody_waits() {
            return;
        }
        for number in self.ctx.ports.pressure.resume(self.ctx.core.now) {
            // It may have been closed meanwhile.
            let Some(protocol) = self.listener(number).map(|listener| listener.protocol) else { continue };
            let backlog = match protocol {
                Protocol::Tcp => self.accept(number),
                _ if self.is_paused(number) => {
                    self.ctx.ports.pressure.wait(number);
                    Backlog::Waits
                }
                _ if self.take(number, EventFlags::IN).is_none() => Backlog::Waits,
                _ => Backlog::Open,
            };
            if backlog == Backlog::Open
                && self
                    .listener(number)
                    .is_some_and(|listener| listener.watch(&self.ctx.core, number).is_err())
            {
                let _ = self.refused(number, Fault::Listener);
            }
        }
    }

    /// Receives datagrams and errors, unless events lead to none again and again.
    fn receive_datagrams(&mut self, number: u32, events: EventFlags) -> Backlog {
        let Some(taken) = self.take(number, events) else { return Backlog::Waits };
        let gives_up = self.listener(number).is_some_and(|listener| listener.futile.note(taken));
        if gives_up { self.refused(number, Fault::Listener) } else { Backlog::Open }
    }

    /// Takes datagrams, of no more clients than can have sockets, and errors; whether there was
    /// anything. `None` if the clients have to wait.
    fn take(&mut self, number: u32, events: EventFlags) -> Option<bool> {
        let mut taken = events.contains(EventFlags::ERR) && self.shared_errors(Which::Listener(number), None);
        if events.contains(EventFlags::IN) {
            let most = self.sockets_for(number);
            if most == 0 {
                // What is in the socket's queue is not lost.
                self.ctx.ports.pressure.wait_for_sockets(number);
                return None;
            }
            let listener = self.ctx.ports.listeners.get(number)?;
            let received = self.ctx.core.inbox.receive_some(listener.fd.as_fd(), most);
            taken |= has_taken(&received, events);
            if let Ok(count) = received {
                self.received(Which::Listener(number), count);
            }
        }
        Some(taken)
    }

    /// Whether a listening socket is not to be tried yet; the loop is awake when it is.
    fn is_paused(&mut self, number: u32) -> bool {
        let until = self.listener(number).and_then(|listener| listener.paused.get());
        let until = until.filter(|&until| until > self.ctx.core.now);
        if let Some(until) = until {
            self.ctx.ports.pressure.remind(until);
        }
        until.is_some()
    }

    /// Accepts one client, as most come alone and it takes a system call to see that nobody is
    /// behind; many if there were some in the round before.
    fn accept(&mut self, number: u32) -> Backlog {
        let round = self.ctx.core.counters.rounds;
        let last = self.listener(number).map(|listener| listener.accepted.replace(round));
        let most = if last.is_some_and(|last| last + 1 == round) { BURST } else { 1 };
        let mut failed = 0;
        for _ in 0..most {
            if self.sockets_for(number) == 0 {
                self.ctx.ports.pressure.wait_for_sockets(number);
                return Backlog::Waits;
            }
            let Some(places) = self.find_room(number) else {
                self.ctx.ports.pressure.wait(number);
                return Backlog::Waits;
            };
            let Some(listener) = self.listener(number) else { return Backlog::Open };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::acceptfrom_with(&listener.fd, flags) {
                Ok((fd, source)) => {
                    places.into_iter().flatten().for_each(|slot| self.displace(slot));
                    let client = source.and_then(|a| SocketAddr::try_from(a).ok()).map(Endpoint::from);
                    if let Err(reason) = self.admit(number, fd, client) {
                        self.turned_away(number, client, reason);
                        self.ctx.core.dropped(reason);
                    }
                }
                Err(Errno::AGAIN) => return Backlog::Open,
                Err(error) => {
                    failed += 1;
                    // Where the same comes again and again, it is not the clients'.
                    let fault = if failed < BURST { Fault::of(error) } else { Fault::Listener };
                    if self.refused(number, fault) == Backlog::Waits {
                        return Backlog::Waits;
                    }
                }
            }
        }
        Backlog::Open
    }

    /// What follows from a failure of accept(2).
    fn refused(&mut self, number: u32, fault: Fault) -> Backlog {
        self.ctx.core.dropped(DropReason::Socket);
        match fault {
            Fault::Client => return Backlog::Open,
            Fault::Shortage => self.ctx.ports.pressure.exhausted(self.ctx.core.now),
            Fault::Listener => {
                let until = self.ctx.ports.pressure.pause(self.ctx.core.now);
                if let Some(listener) = self.listener(number) {
                    listener.paused.set(Some(until));
                }
            }
        }
        self.ctx.ports.pressure.wait(number);
        Backlog::Waits
    }

    /// Whether a client may be let in now; with the slots of flows that have to go for it.
    fn find_room(&mut self, number: u32) -> Option<[Option<u32>; 2]> {
        let paused = self.is_paused(number);
        let listener = self.listener(number)?;
        let (outside, full) = (listener.side == Side::Host, listener.opening.is_full());
        if paused
            || self.ctx.ports.pressure.is_scarce()
            || outside && self.ctx.ports.inbound.has_all_connections()
        {
            return None;
        }
        let under_way = if full { Some(self.first_to_go(number)?) } else { None };
        // Clients in the namespace are the guest's own.
        let short = outside && self.flows.is_reserved();
        let datagrams = if short { Some(self.ctx.ports.inbound.oldest_datagrams()?) } else { None };
        Some([under_way, datagrams])
    }

    /// Tells why a client of a listening socket is not served.
    pub(super) fn turned_away(&self, number: u32, client: Option<Endpoint>, reason: DropReason) {
        if let (Some(listener), Some(client)) = (self.ctx.ports.listeners.get(number), client) {
            log::debug!("{}: {client} is not served, {}", **listener, reason.name());
        }
    }

    /// Begins the flow of a client that was accepted.
    fn admit(&mut self, number: u32, fd: OwnedFd, client: Option<Endpoint>) -> Result<(), DropReason> {
        self.ctx.ports.pressure.taken(&fd, self.ctx.core.now);
        let listener = self.listener(number).ok_or(DropReason::Socket)?;
        let client = client.ok_or(DropReason::Socket)?;
        let ticket = listener.opening.ticket();
        if let Some(across) = listener.past_link(&self.ctx.core.guest, &fd, client) {
            let accepted = Accepted { listener: number, fd, side: listener.side, client, across, ticket };
            return self.bypass(accepted);
        }
        let reached = listener.reached(&self.ctx.core.guest, &fd, client.addr);
        match listener.key(&self.ctx.core.guest, client, reached) {
            Ok(key) => self.accepted(fd, key, (number, ticket)),
            Err(reason) => splice::refuse(&fd, reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_it_is() {
        use Errno as E;
        use Fault::{Client, Listener, Shortage};
        for (errors, fault) in [
            (&[E::MFILE, E::NFILE, E::NOBUFS, E::NOMEM][..], Shortage),
            (&[E::NETDOWN, E::PROTO, E::NOPROTOOPT, E::HOSTDOWN, E::NONET, E::HOSTUNREACH], Client),
            (&[E::OPNOTSUPP, E::NETUNREACH, E::TIMEDOUT, E::CONNABORTED, E::PERM, E::INTR], Client),
            (&[E::INVAL, E::BADF, E::IO, E::ACCESS], Listener),
        ] {
            for &error in errors {
                assert_eq!(Fault::of(error), fault, "{error}");
            }
        }
    }
}
