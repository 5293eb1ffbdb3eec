//! How a connection to the target is begun: where nobody listens, by its other name.
//!
//! `localhost` is a loopback address of either family, so a client that uses the one may mean a
//! service that listens at the other. A target that refuses is replaced by that, once, and what the
//! client has sent meanwhile goes there. Sockets of the namespace are made by another thread: where
//! there is none the connection waits for it, and nothing moves.

use std::io;

use passt_proto::addr::Endpoint;
use rustix::io::Errno;

use super::{End, Peer, SpliceFlow, connect};
use crate::core::Handle;
use crate::flow::{Key, Via};
use crate::forward::Context;
use crate::forward::pressure::Ticket;
use crate::link::Link;

/// What a connection needs until its target accepts.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The client's.
    ticket: Ticket,
    /// The target's other name, if it was not tried yet.
    other: Option<Endpoint>,
    /// Nobody listens at the target: the other name is to be tried.
    refused: bool,
    /// The round in which the target was replaced.
    replaced: Option<u64>,
}

impl Attempt {
    pub(crate) fn new(ticket: Ticket, other: Option<Endpoint>) -> Self {
        Self { ticket, other, refused: false, replaced: None }
    }

    pub(super) fn ticket(&self) -> &Ticket {
        &self.ticket
    }
}

impl SpliceFlow {
    /// Whether an error of an end means that the target is to be tried by its other name.
    pub(super) fn is_refused(&mut self, end: Peer, error: Errno) -> bool {
        let Some(attempt) = &mut self.connecting else { return false };
        let refused = end == Peer::Target && error == Errno::CONNREFUSED && attempt.other.is_some();
        attempt.refused |= refused;
        refused
    }

    /// Whether nobody listens at the target, and its other name was not tried yet.
    pub(crate) fn waits(&self) -> bool {
        self.connecting.as_ref().is_some_and(|attempt| attempt.refused)
    }

    /// Whether what the loop tells of the target is about the socket that it had before: the one it
    /// has now is watched since a time at which this round's events were there already.
    pub(super) fn is_stale<L>(&self, ctx: &Context<L>) -> bool {
        let replaced = self.connecting.as_ref().and_then(|attempt| attempt.replaced);
        replaced == Some(ctx.core.counters.rounds)
    }

    /// Connects to the other name in the place of the target, if that refused. Where there is no
    /// socket yet this is to be done again once there may be.
    pub(super) fn try_other<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        handle: Handle,
        key: &Key,
    ) -> io::Result<()> {
        let Some(attempt) = self.connecting.as_mut().filter(|attempt| attempt.refused) else { return Ok(()) };
        let (Via::Bypass(side), Some(other)) = (key.via, attempt.other) else { return Ok(()) };
        let fd = match connect(&mut ctx.ports, side, other) {
            Ok((fd, _)) => fd,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ctx.ports.lacking = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        log::debug!("{key}: to {other}");
        (attempt.other, attempt.refused) = (None, false);
        attempt.replaced = Some(ctx.core.counters.rounds);
        self.ends[Peer::Target] = End { watched_for_room: true, ..End::new(fd) };
        self.watch(ctx, handle, Peer::Target)
    }
}
