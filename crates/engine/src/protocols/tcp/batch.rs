//! What a batch of the guest's frames brings: pieces of payload, queued at its end in one go for each connection, and
//! answered once.

use std::io;
use std::os::fd::AsFd as _;

use passt_proto::drop::DropReason;
use passt_proto::tcp::Event;
use passt_proto::time::Instant;
use passt_proto::wire::tcp::Segment;
use passt_sys::iovec::Gather;
use passt_sys::msg;

use super::{PATIENCE, Tcp, TcpFlow, count};
use crate::core::{Known, Payload};
use crate::flow::Handle;
use crate::flow::account::Direction;
use crate::forward::Context;
use crate::link::{Link, MAX_BATCH};
use crate::protocols::Verdict;

/// Payload of the batch, and the next piece for the same connection.
pub(super) struct Chained {
    payload: Payload,
    next: Option<u16>,
}

impl Tcp {
    /// Whether acknowledgements wait for the link to be quiet: the loop may not sleep over them.
    pub(crate) fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Connection number `next` that got a segment in the batch.
    pub(crate) fn touched(&self, next: usize) -> Option<Handle> {
        self.dirty.get(next).copied()
    }

    /// All that got a segment in the batch were told of its end, and frames may wait behind it.
    /// Whether the connections that acknowledge [late](Self::late) are to be told now.
    pub(crate) fn end_batch(&mut self, is_backlogged: bool) -> bool {
        self.dirty.clear();
        self.pieces.clear();
        self.received = true;
        if !self.has_late() {
            return false;
        }
        self.waited += 1;
        !is_backlogged || self.waited >= PATIENCE
    }

    /// A round of the loop ends: one in which the guest sent nothing is quiet, however full the
    /// batch before it. Whether the connections that acknowledge [late](Self::late) are to be told
    /// now.
    pub(crate) fn end_round(&mut self) -> bool {
        !std::mem::take(&mut self.received) && self.has_late()
    }

    /// Connection number `next` that acknowledges once the link is quiet.
    pub(crate) fn late(&self, next: usize) -> Option<Handle> {
        self.late.get(next).copied()
    }

    /// All of those were told.
    pub(crate) fn end_late(&mut self) {
        self.late.clear();
        self.waited = 0;
    }
}

impl TcpFlow {
    /// The last frame is one of the connection's.
    #[inline]
    pub(crate) fn heard(&mut self, guest: &Known) {
        self.station.heard(guest);
    }

    /// A segment from the guest with its payload. What it brought is dealt with at the
    /// [end of the batch](Self::end_batch).
    pub(crate) fn segment(
        &mut self,
        tcp: &mut Tcp,
        (handle, now): (Handle, Instant),
        segment: &Segment,
        payload: &Payload,
    ) -> Result<(), DropReason> {
        let len = u32::try_from(payload.len()).map_err(|_| DropReason::IpLength)?;
        let push = self.conn.segment(now, segment, len);
        if push.len > 0 {
            let start = push.skip as usize;
            self.append(&mut tcp.pieces, payload.part(start..start + push.len as usize));
        }
        if !std::mem::replace(&mut self.dirty, true) {
            tcp.dirty.push(handle);
        }
        Ok(())
    }

    /// Whether it got a segment in the batch, and was not told of its end.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether the guest's connection is over: its port can be used again.
    pub(crate) fn has_ended(&self) -> bool {
        self.conn.has_ended()
    }

    /// The link is quiet: what waited for that is acknowledged.
    pub(crate) fn quiet<L: Link>(&mut self, ctx: &mut Context<L>, tcp: &mut Tcp, handle: Handle) -> Verdict {
        self.late = false;
        self.conn.handle(ctx.core.now, Event::Quiet);
        self.pull(ctx, tcp, handle)
    }

    fn append(&mut self, pieces: &mut Vec<Chained>, payload: Payload) {
        let Ok(index) = u16::try_from(pieces.len()) else { return };
        pieces.push(Chained { payload, next: None });
        match &mut self.batch {
            Some((_, last)) => pieces[usize::from(std::mem::replace(last, index))].next = Some(index),
            None => self.batch = Some((index, index)),
        }
    }

    /// Queues what the batch brought, and does what is to be done.
    pub(crate) fn end_batch<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        handle: Handle,
    ) -> Verdict {
        self.dirty = false;
        if let Some((first, _)) = self.batch.take() {
            let Ok((taken, frames)) = self.queue(ctx, tcp, first) else {
                return self.reset(ctx, tcp, handle);
            };
            self.account.carried(Direction::Out, frames, taken, ctx.core.now);
            self.conn.handle(ctx.core.now, Event::Queued { taken: count(taken), held: self.held() });
        }
        if ctx.core.link.is_backlogged() && tcp.late.len() < MAX_BATCH {
            self.conn.handle(ctx.core.now, Event::Busy);
            if self.conn.awaits_quiet() && !std::mem::replace(&mut self.late, true) {
                tcp.late.push(handle);
            }
        }
        self.pull(ctx, tcp, handle)
    }

    /// Queues a chain of pieces in as many calls as it takes; returns how many bytes found room,
    /// which is all but where the slack is used up, and of how many pieces.
    fn queue<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        first: u16,
    ) -> io::Result<(usize, usize)> {
        let (mut taken, mut frames, mut next) = (0, 0, Some(first));
        while next.is_some() {
            let mut data = Gather::new();
            while let Some(piece) = next.map(|index| &tcp.pieces[usize::from(index)])
                && ctx.core.append(&piece.payload, &mut data)
            {
                next = piece.next;
                frames += 1;
            }
            let mut sent = 0;
            if self.rest.is_none() {
                sent = match msg::send(self.fd.as_fd(), &data) {
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(e) => return Err(e),
                };
            }
            if sent < data.total() {
                sent += tcp.slack.add(&mut self.rest, &data, sent);
            }
            taken += sent;
            if sent < data.total() || data.is_empty() {
                ctx.core.dropped(DropReason::WindowOverrun);
                break;
            }
        }
        Ok((taken, frames))
    }
}
