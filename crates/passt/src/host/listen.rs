//! What comes in through listening sockets: connections and datagrams that begin flows.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use passt_proto::addr::Endpoint;
use passt_proto::drop::DropReason;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::splice::{self, Accepted};
use super::{tcp, udp};
use crate::flow::{Flow, Protocol, Side, Table};
use crate::link::Link;
use crate::worker::{Context, Token};

/// Connections accepted from one socket before others get their turn.
const BURST: usize = 32;

/// The listening socket `number` has something to tell.
pub(crate) fn event<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, number: u32, events: EventFlags) {
    let Some(listener) = ctx.listeners.get(number) else { return };
    if listener.protocol == Protocol::Tcp {
        if accept(ctx, flows, number) == Backlog::Waits {
            watch(ctx, number, EventFlags::empty());
        }
        return;
    }
    if events.contains(EventFlags::ERR) {
        udp::failures(ctx, flows, number);
    }
    let Some(listener) = ctx.listeners.get(number) else { return };
    if events.contains(EventFlags::IN)
        && let Ok(count) = ctx.udp.inbox.receive(listener.fd.as_fd())
    {
        udp::received(ctx, flows, number, count);
    }
}

/// Goes on with listening sockets that had to wait for room.
pub(crate) fn resume<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>) {
    if ctx.pressure.nobody_waits() {
        return;
    }
    for number in ctx.pressure.resume(ctx.now) {
        if accept(ctx, flows, number) == Backlog::Open {
            watch(ctx, number, EventFlags::IN);
        }
    }
}

/// Whether those who wait to be accepted are to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    /// By the loop.
    Open,
    /// Not before there is room: who cannot be accepted must not keep the loop busy.
    Waits,
}

fn watch<L: Link>(ctx: &mut Context<L>, number: u32, events: EventFlags) {
    let token = Token::Listener(number);
    let watched = ctx.listeners.get(number).map(|listener| ctx.rewatch(&listener.fd, token, events));
    if let Some(Err(_)) = watched {
        ctx.dropped(DropReason::Socket);
    }
}

/// Accepts one client, as most come alone and it takes a system call to see that nobody is behind; many if there were some
/// in the round before.
fn accept<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, number: u32) -> Backlog {
    let round = ctx.counters.rounds;
    let last = ctx.listeners.get(number).map(|listener| listener.accepted.replace(round));
    let most = if last.is_some_and(|last| last + 1 == round) { BURST } else { 1 };
    for _ in 0..most {
        let Some(listener) = ctx.listeners.get(number) else { return Backlog::Open };
        // Clients in the namespace are the guest's own.
        let reserved = flows.is_reserved() && listener.side == Side::Host;
        if reserved || listener.opening.is_full() || ctx.pressure.is_scarce() {
            ctx.pressure.wait(number);
            return Backlog::Waits;
        }
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, source) = match rustix::net::acceptfrom_with(&listener.fd, flags) {
            Ok((fd, source)) => (fd, source.and_then(|a| SocketAddr::try_from(a).ok())),
            Err(Errno::AGAIN) => return Backlog::Open,
            Err(Errno::CONNABORTED | Errno::INTR) => continue,
            Err(_) => {
                ctx.pressure.exhausted(ctx.now);
                ctx.pressure.wait(number);
                ctx.dropped(DropReason::Socket);
                return Backlog::Waits;
            }
        };
        ctx.pressure.taken(&fd, ctx.now);
        let ticket = listener.opening.ticket();
        let accepted = match source.map(Endpoint::from) {
            None => Err(DropReason::Socket),
            Some(client) => match listener.past_link(&ctx.map, &fd, client) {
                Some((reached, target)) => {
                    let accepted = Accepted { fd, side: listener.side, client, reached, target, ticket };
                    splice::begin(ctx, flows, accepted)
                }
                None => match listener.key(&ctx.map, client, listener.addr) {
                    Ok(key) => tcp::accepted(ctx, flows, fd, key, ticket),
                    Err(reason) => splice::refuse(&fd, reason),
                },
            },
        };
        if let Err(reason) = accepted {
            ctx.dropped(reason);
        }
    }
    Backlog::Open
}
