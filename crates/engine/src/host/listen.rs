//! What comes in through listening sockets: connections and datagrams that begin flows.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::Endpoint;
use passt_proto::drop::DropReason;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::splice::{self, Accepted};
use super::{crowd, has_taken, tcp, udp};
use crate::flow::{Flow, Protocol, Side, Table};
use crate::link::Link;
use crate::worker::Context;

/// Connections accepted from one socket before others get their turn.
const BURST: usize = 32;

/// Whose fault a failure of accept(2) is. Linux passes on errors of the network that the new socket has pending, and
/// those take the client out of the queue.
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

/// The listening socket `number` has something to tell.
pub(crate) fn event<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, number: u32, events: EventFlags) {
    let Some(listener) = ctx.listeners.get(number) else { return };
    let backlog = match listener.protocol {
        Protocol::Tcp => accept(ctx, flows, number),
        _ => receive(ctx, flows, number, events),
    };
    if backlog == Backlog::Waits {
        unwatch(ctx, number);
    }
}

/// Has a listening socket no longer reported. It would be as long as somebody waits, and for an error of its own for ever.
fn unwatch<L: Link>(ctx: &Context<L>, number: u32) {
    if let Some(listener) = ctx.listeners.get(number) {
        let _ = ctx.unwatch(&listener.fd);
    }
}

/// How many clients of this listening socket could have a socket in the namespace now, if they need one.
fn sockets_for<L: Link>(ctx: &mut Context<L>, number: u32) -> usize {
    let Context { listeners, map, inside, sockets, .. } = ctx;
    let needed = listeners.get(number).and_then(|listener| listener.needs_sockets(map));
    let (Some((kind, family)), Some(inside)) = (needed, inside) else { return usize::MAX };
    sockets.available(inside, kind, family)
}

/// Goes on with listening sockets that had to wait for room.
pub(crate) fn resume<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>) {
    if ctx.pressure.nobody_waits() {
        return;
    }
    for number in ctx.pressure.resume(ctx.now) {
        // It may have been closed meanwhile.
        let Some(protocol) = ctx.listeners.get(number).map(|listener| listener.protocol) else { continue };
        let backlog = match protocol {
            Protocol::Tcp => accept(ctx, flows, number),
            _ if is_paused(ctx, number) => {
                ctx.pressure.wait(number);
                Backlog::Waits
            }
            _ if take(ctx, flows, number, EventFlags::IN).is_none() => Backlog::Waits,
            _ => Backlog::Open,
        };
        if backlog == Backlog::Open
            && ctx.listeners.get(number).is_some_and(|listener| listener.watch(ctx, number).is_err())
        {
            let _ = refused(ctx, number, Fault::Listener);
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

/// Receives datagrams and errors, unless events lead to none again and again.
fn receive<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    number: u32,
    events: EventFlags,
) -> Backlog {
    let Some(taken) = take(ctx, flows, number, events) else { return Backlog::Waits };
    let gives_up = ctx.listeners.get(number).is_some_and(|listener| listener.futile.note(taken));
    if gives_up { refused(ctx, number, Fault::Listener) } else { Backlog::Open }
}

/// Takes datagrams, of no more clients than can have sockets, and errors; whether there was anything. `None` if the
/// clients have to wait.
fn take<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    number: u32,
    events: EventFlags,
) -> Option<bool> {
    let mut taken = events.contains(EventFlags::ERR) && udp::errors::of_listener(ctx, flows, number);
    if events.contains(EventFlags::IN) {
        let most = sockets_for(ctx, number);
        if most == 0 {
            // What is in the socket's queue is not lost.
            ctx.pressure.wait_for_sockets(number);
            return None;
        }
        let received = ctx.udp.inbox.receive_some(ctx.listeners.get(number)?.fd.as_fd(), most);
        taken |= has_taken(&received, events);
        if let Ok(count) = received {
            udp::received(ctx, flows, number, count);
        }
    }
    Some(taken)
}

/// Whether a listening socket is not to be tried yet; the loop is awake when it is.
fn is_paused<L: Link>(ctx: &mut Context<L>, number: u32) -> bool {
    let until = ctx.listeners.get(number).and_then(|listener| listener.paused.get());
    let until = until.filter(|&until| until > ctx.now);
    if let Some(until) = until {
        ctx.pressure.remind(until);
    }
    until.is_some()
}

/// Accepts one client, as most come alone and it takes a system call to see that nobody is behind; many if there were some
/// in the round before.
fn accept<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, number: u32) -> Backlog {
    let round = ctx.counters.rounds;
    let last = ctx.listeners.get(number).map(|listener| listener.accepted.replace(round));
    let most = if last.is_some_and(|last| last + 1 == round) { BURST } else { 1 };
    let mut failed = 0;
    for _ in 0..most {
        if sockets_for(ctx, number) == 0 {
            ctx.pressure.wait_for_sockets(number);
            return Backlog::Waits;
        }
        let Some(places) = find_room(ctx, flows, number) else {
            ctx.pressure.wait(number);
            return Backlog::Waits;
        };
        let Some(listener) = ctx.listeners.get(number) else { return Backlog::Open };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match rustix::net::acceptfrom_with(&listener.fd, flags) {
            Ok((fd, source)) => {
                places.into_iter().flatten().for_each(|slot| super::displace(ctx, flows, slot));
                let source = source.and_then(|a| SocketAddr::try_from(a).ok());
                if let Err(reason) = admit(ctx, flows, number, fd, source.map(Endpoint::from)) {
                    ctx.dropped(reason);
                }
            }
            Err(Errno::AGAIN) => return Backlog::Open,
            Err(error) => {
                failed += 1;
                // Where the same comes again and again, it is not the clients'.
                let fault = if failed < BURST { Fault::of(error) } else { Fault::Listener };
                if refused(ctx, number, fault) == Backlog::Waits {
                    return Backlog::Waits;
                }
            }
        }
    }
    Backlog::Open
}

/// What follows from a failure of accept(2).
fn refused<L: Link>(ctx: &mut Context<L>, number: u32, fault: Fault) -> Backlog {
    ctx.dropped(DropReason::Socket);
    match fault {
        Fault::Client => return Backlog::Open,
        Fault::Shortage => ctx.pressure.exhausted(ctx.now),
        Fault::Listener => {
            let until = ctx.pressure.pause(ctx.now);
            if let Some(listener) = ctx.listeners.get(number) {
                listener.paused.set(Some(until));
            }
        }
    }
    ctx.pressure.wait(number);
    Backlog::Waits
}

/// Whether a client may be let in now; with the slots of flows that have to go for it.
fn find_room<L: Link>(ctx: &mut Context<L>, flows: &Table<Flow>, number: u32) -> Option<[Option<u32>; 2]> {
    let paused = is_paused(ctx, number);
    let listener = ctx.listeners.get(number)?;
    let (outside, full) = (listener.side == Side::Host, listener.opening.is_full());
    if paused || ctx.pressure.is_scarce() || outside && ctx.inbound.has_all_connections() {
        return None;
    }
    let under_way = if full { Some(crowd::first_to_go(ctx, flows, number)?) } else { None };
    // Clients in the namespace are the guest's own.
    let short = outside && flows.is_reserved();
    let datagrams = if short { Some(ctx.inbound.oldest_datagrams()?) } else { None };
    Some([under_way, datagrams])
}

/// Begins the flow of a client that was accepted.
fn admit<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    number: u32,
    fd: OwnedFd,
    client: Option<Endpoint>,
) -> Result<(), DropReason> {
    ctx.pressure.taken(&fd, ctx.now);
    let listener = ctx.listeners.get(number).ok_or(DropReason::Socket)?;
    let client = client.ok_or(DropReason::Socket)?;
    let ticket = listener.opening.ticket();
    if let Some((reached, target)) = listener.past_link(&ctx.map, &fd, client) {
        let accepted =
            Accepted { listener: number, fd, side: listener.side, client, reached, target, ticket };
        return splice::begin(ctx, flows, accepted);
    }
    match listener.key(&ctx.map, client, listener.addr) {
        Ok(key) => tcp::accepted(ctx, flows, fd, key, (number, ticket)),
        Err(reason) => splice::refuse(&fd, reason),
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
