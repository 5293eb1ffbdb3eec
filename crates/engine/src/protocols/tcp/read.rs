//! The direction to the guest: what the host's socket has is peeked at, sent, and removed once it
//! is acknowledged.

use std::io;
use std::os::fd::AsFd as _;

use passt_proto::drop::DropReason;
use passt_proto::tcp::{Behind, Event};
use passt_proto::time::Instant;
use passt_proto::wire::tcp::LEN as HEADER_LEN;
use passt_sys::iovec::Scatter;
use passt_sys::{msg, socket};

use super::{Tcp, TcpFlow, count};
use crate::core::Core;
use crate::flow::account::Direction;
use crate::link::{Link, MAX_HEADERS, MAX_PIECES};

/// Whether an error of a read ended the connection. The kernel tells it once: to whoever asks next
/// the stream has come to its end, as if the peer had finished.
fn is_final(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl TcpFlow {
    /// Has the kernel peek at `offset` next, where it knows a peek offset.
    pub(super) fn seek(&mut self, offset: u32) {
        if self.peek_offset.is_some_and(|at| at != offset) {
            let wanted = i32::try_from(offset).unwrap_or(i32::MAX);
            self.peek_offset = socket::set_peek_offset(self.fd.as_fd(), wanted).is_ok().then_some(offset);
        }
    }

    /// Sends up to `len` bytes, `offset` bytes behind the head of the receive queue;
    /// false if the link has no room.
    pub(super) fn peek<L: Link>(&mut self, core: &mut Core<L>, tcp: &mut Tcp, offset: u32, len: u32) -> bool {
        if core.link.is_congested() {
            return false;
        }
        let mss = self.conn.mss();
        let header_len = self.path.header_len() + HEADER_LEN;
        let room = count(core.link.lendable(header_len, mss as usize));
        let len = len.min(mss.saturating_mul(count(MAX_PIECES))).min(room);
        if room == 0 {
            return false;
        }
        self.seek(offset);
        let skipped = if self.peek_offset.is_some() { 0 } else { offset as usize };
        let found = {
            let mut room = Scatter::new();
            room.push_discard(&mut tcp.scratch, skipped);
            if !core.link.reserve(header_len, len as usize, mss as usize, &mut room) {
                return false;
            }
            let peek = || msg::peek(self.fd.as_fd(), &room);
            if self.urgent { msg::past_signals(peek) } else { peek() }
        };
        self.reset |= found.as_ref().is_err_and(is_final);
        match found {
            Ok(n) if n > skipped => self.transmit(core, n - skipped, len),
            Ok(0) if !self.reset => self.conn.drained(Behind::End),
            Ok(_) | Err(_) => self.conn.drained(Behind::Nothing),
        }
        if self.reset && !matches!(found, Ok(1..)) {
            self.conn.handle(core.now, Event::Failed);
        }
        true
    }

    /// Sends `found` bytes that are in the room reserved; `asked` would have been better.
    fn transmit<L: Link>(&mut self, core: &mut Core<L>, found: usize, asked: u32) {
        let len = count(found);
        if let Some(at) = &mut self.peek_offset {
            *at += len;
        }
        let behind = if len == asked || self.urgent {
            Behind::More
        } else if !self.ended {
            Behind::Nothing
        } else if self.is_at_end() {
            Behind::End
        } else {
            Behind::More
        };
        let before = self.conn.retransmitted();
        let segment = self.conn.transmit(core.now, len, behind);
        core.counters.retransmitted += u64::from(self.conn.retransmitted() - before);
        self.account.carried(Direction::In, 1, 0, core.now);
        let mut header = [0; MAX_HEADERS];
        let mss = u16::try_from(self.conn.mss()).unwrap_or(u16::MAX);
        match self.path.emit_tcp(&mut header, &segment, found, mss) {
            Some((header_len, offload)) => core.commit(&header[..header_len], &offload, found),
            None => core.dropped(DropReason::Unmapped),
        }
    }

    /// Whether the host's stream ends behind what was read last. That a read found less than it
    /// could take does not mean so: it also ends before urgent data, of which the kernel may never
    /// tell. Where it has no peek offset it tells of an end once nothing has to be skipped.
    fn is_at_end(&mut self) -> bool {
        let Some(at) = &mut self.peek_offset else { return false };
        let mut byte = [0];
        let mut room = Scatter::new();
        room.push(&mut byte);
        let found = msg::peek(self.fd.as_fd(), &room);
        *at += count(*found.as_ref().unwrap_or(&0));
        self.reset |= found.as_ref().is_err_and(is_final);
        matches!(found, Ok(0)) && !self.reset
    }

    /// Removes what the guest acknowledged from the receive queue. An error means that it is not
    /// there.
    pub(super) fn discard(&mut self, now: Instant, bytes: u32) -> io::Result<()> {
        msg::discard(self.fd.as_fd(), bytes as usize)?;
        if let Some(at) = &mut self.peek_offset {
            *at = at.saturating_sub(bytes);
        } else if self.urgent || self.ended {
            // What is behind a mark, and the end, could not be had by skipping what is before it.
            self.conn.handle(now, Event::Readable);
        }
        Ok(())
    }
}
