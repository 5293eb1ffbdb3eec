//! Datagrams that bypass the link: what comes from the loopback interface of either side goes
//! from socket to socket, never in frames.
//!
//! Clients talk to a listening socket. For each there is a flow with a socket on the other side,
//! connected to the server, that has the client's port where it is free; so answers
//! find the client for whom they are, and it sees the address that it sent to as their source.
//! Batches stay batches, and what the kernel joined stays joined.
//!
//! Left out: errors. A client on loopback would hear of a closed port at once, but nothing makes
//! a listening socket say so to a single client. They are counted, and the flow
//! goes on, since a server may come.

use std::ops::Range;
use std::os::fd::OwnedFd;

use arrayvec::ArrayVec;
use passt_proto::addr::Endpoint;
use passt_proto::drop::DropReason;
use passt_proto::time::Instant;
use passt_sys::dgram::{BATCH, Envelope};
use rustix::io::Errno;
use rustix::net::SocketType;

use super::send::{Cuts, Item, Position, Sender, datagrams, tally};
use super::way::{Shared, Sockets, Ways};
use super::{Udp, UdpFlow};
use crate::core::{Core, Station};
use crate::flow::Side;
use crate::flow::account::Direction;
use crate::forward::{Context, Ports};
use crate::link::Link;
use crate::protocols::Verdict;
use crate::protocols::socket::{any, connect};

/// A socket for what came in on side `from`, on the other side and connected to `server`, if
/// possible from `port`; and whether its descriptor is one of those that are kept from whoever is
/// outside.
pub(crate) fn open(
    ports: &mut Ports,
    from: Side,
    server: Endpoint,
    port: u16,
) -> Result<(OwnedFd, bool), DropReason> {
    let made = ports.socket_across(from, SocketType::DGRAM, server.addr);
    let local = Endpoint::new(any(server.addr), port);
    let fd = made.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NETUNREACH) => DropReason::Unmapped,
        _ => DropReason::Socket,
    })?;
    // Clients in the namespace are the guest's own.
    let kept = from == Side::Host && ports.pressure.keeps(&fd);
    connect(&fd, local.socket_addr(), server.socket_addr(), true).map_err(|_| DropReason::Socket)?;
    Ok((fd, kept))
}

impl UdpFlow {
    /// What came in through a listening socket, for a server that `fd` is connected to.
    pub(crate) fn across(fd: OwnedFd, shared: Shared, server: Endpoint, now: Instant) -> Self {
        Self::new(Sockets::Both(fd, shared), server, Station::EVERY, now)
    }

    /// Passes on what is in the inbox at `messages`, from the client.
    pub(super) fn serve<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &Udp,
        messages: Range<usize>,
    ) -> Verdict {
        self.used(Direction::Out, tally(&ctx.core.inbox, messages.clone()), ctx.core.now);
        let mut cuts = self.cuts;
        let way = self.way(Ways { listeners: &ctx.ports.listeners, mappings: &udp.mappings });
        let lost = way.map(|way| relay(&way, &ctx.core, messages.clone(), &mut cuts));
        self.cuts = cuts;
        count(ctx, lost, messages)
    }

    /// Passes on what is in the inbox at `messages`, from the server.
    pub(super) fn answer<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &Udp,
        messages: Range<usize>,
    ) -> Verdict {
        self.used(Direction::In, tally(&ctx.core.inbox, messages.clone()), ctx.core.now);
        let Sockets::Both(_, client) = &self.sockets else { return Verdict::Remove };
        let ways = Ways { listeners: &ctx.ports.listeners, mappings: &udp.mappings };
        let way = client.way(ways, Envelope::default());
        let lost = way.map(|way| relay(&way, &ctx.core, messages.clone(), &mut self.cuts));
        count(ctx, lost, messages)
    }
}

/// Sends messages of the inbox; returns how many datagrams could not be sent.
fn relay<L: Link>(way: &Sender<'_>, core: &Core<L>, messages: Range<usize>, cuts: &mut Cuts) -> usize {
    let mut items = ArrayVec::<_, BATCH>::new();
    items.extend(messages.filter_map(|index| Item::received(&core.inbox, index)));
    // Loopback carries whatever there is: nobody there asks for a path's MTU.
    if let Some((_, told)) = way.shared {
        told.clear(way.fd);
    }
    let (mut at, mut lost) = (Position::default(), 0);
    while let Some(loss) = way.deliver(core, &items, &mut at, cuts) {
        lost += loss.datagrams;
    }
    lost
}

/// Counts what was lost of messages; all of them where the listening socket is closed, which ends
/// the flow.
fn count<L: Link>(ctx: &mut Context<L>, lost: Option<usize>, messages: Range<usize>) -> Verdict {
    let all = lost.unwrap_or_else(|| datagrams(&ctx.core.inbox, messages));
    ctx.core.dropped_all(DropReason::Socket, all);
    if lost.is_some() { Verdict::Keep } else { Verdict::Remove }
}
