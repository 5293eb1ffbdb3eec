//! The stream link: a virtual machine behind a UNIX stream socket, as qemu's
//! `-netdev stream` speaks it. Each frame follows its length, 32 bits in network order.
//!
//! From the guest, one `recvmsg` takes as many frames as there are, and they are used where they
//! lie. Their transport checksums are not verified: a local socket corrupts nothing, and a pass
//! over all payload would only tell that a guest harms itself.
//!
//! To the guest, this link offloads nothing: super-frames are cut and checksums completed here. The
//! room that [`Link::reserve`] lends is part of the send queue, with gaps where length and headers
//! of each frame will be, so payload is received where it is sent from. The kernel copies it there
//! without a sum, which leaves one pass over it, while it is in the cache: about a tenth of what a
//! byte costs us in bulk (`cargo run --release -p passt-proto --example sums`, and CPU seconds in
//! `docs/bench`).
//!
//! A guest that does not read fills the socket, then the queue. From some length on the queue
//! is congested: connections wait, and their data stay in the host's sockets, where
//! the peer's kernel notices. Datagrams take up what is left of the queue and are
//! then dropped; a part is kept for what has no payload, acknowledgements foremost.
//!
//! Without a client, frames for the guest are dropped, and connections wait.

mod queue;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_proto::drop::DropReason;
use passt_proto::wire::ethernet::MIN_FRAME;
use passt_proto::wire::offload::{Gso, Offload};
use passt_proto::wire::stream::{self, MAX_FRAME, PREFIX};
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::msg;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use rustix::net::sockopt;

use self::queue::SendQueue;
use super::{Caps, ClientLink, Frame, HEAD_LEN, Link, MAX_BATCH, MAX_PAYLOAD, MAX_PIECES, complete};

/// System calls made here once the process runs, but for messages.
pub const CALLS: &[Call] = &[Call::only(Sysno::setsockopt, &[option::SO_SNDBUF])];

/// Bytes read at most before they are dealt with, as for the tap link.
const BATCH_BYTES: usize = 384 * 1024;
/// Room for a batch, and for the start of a frame left over from the last.
const RECEIVE_ROOM: usize = BATCH_BYTES + PREFIX + MAX_FRAME;
const _: () = assert!(RECEIVE_ROOM / (PREFIX + passt_proto::wire::ethernet::LEN) <= MAX_BATCH);
/// Memory of the send queue.
const QUEUE: usize = 1024 * 1024;
/// Length of the queue from which on it is congested, and down to which it stays so.
const CONGESTED: usize = 512 * 1024;
const RELIEVED: usize = CONGESTED / 2;
/// Length of the queue from which on it is sent at once, while it is in the cache.
const FULL_BATCH: usize = 128 * 1024;
/// Part of the queue for frames without payload.
const SPARE: usize = 64 * 1024;
/// Send buffer asked for, more than the default; what waits there delays what comes after it.
const SEND_BUFFER: usize = 256 * 1024;

/// A socket towards a virtual machine as a link.
pub struct StreamLink {
    client: Option<OwnedFd>,
    incoming: Incoming,
    queue: SendQueue,
    lent: Lent,
    congested: bool,
    /// The socket takes no more for now.
    stuck: bool,
}

/// What was received.
struct Incoming {
    bytes: Vec<u8>,
    /// End of what was received, and of the complete frames in it.
    received: usize,
    complete: usize,
    frames: Vec<Range<usize>>,
}

/// Room lent for payload that will be cut every `segment` bytes: from `start` on, pieces
/// at equal distances, each behind room for its prefix and headers.
#[derive(Clone, Copy, Default)]
struct Lent {
    start: usize,
    header: usize,
    segment: usize,
    payload: usize,
}

impl StreamLink {
    /// A link without a client.
    pub fn new() -> Self {
        Self {
            client: None,
            incoming: Incoming::new(),
            queue: SendQueue::new(QUEUE),
            lent: Lent::default(),
            congested: false,
            stuck: false,
        }
    }

    /// Forgets the client with all that came from it or was for it.
    fn leave(&mut self) {
        self.client = None;
        self.incoming.clear();
        self.queue.clear();
        self.lent = Lent::default();
        (self.congested, self.stuck) = (false, false);
    }

    /// Finds room for `payload` bytes behind headers of `header` bytes, with `spare` bytes behind.
    fn lend(&mut self, header: usize, payload: usize, segment: usize, spare: usize) -> Option<Lent> {
        let lent = Lent { start: 0, header, segment, payload };
        let start = self.queue.room(lent.len() + spare);
        self.congested |= start.is_none();
        Some(Lent { start: start?, ..lent })
    }

    /// Sends as much of the queue as the socket takes.
    fn drain(&mut self) {
        let Some(client) = &self.client else { return };
        self.stuck = false;
        while !self.queue.is_empty() && !self.stuck {
            let mut data = Gather::new();
            self.queue.gather(&mut data);
            match msg::send(client.as_fd(), &data) {
                Ok(sent) => {
                    self.stuck = sent < data.total();
                    self.queue.consume(sent);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.stuck = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // It is gone, or has to go, perhaps in the middle of a frame: `receive` will find
                // that out, and tell.
                Err(_) => {
                    let _ = rustix::net::shutdown(client, rustix::net::Shutdown::Both);
                    self.queue.clear();
                }
            }
        }
        self.congested &= self.queue.len() > RELIEVED;
    }
}

impl Default for StreamLink {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientLink for StreamLink {
    fn connect(&mut self, client: OwnedFd) {
        self.leave();
        // A smaller buffer means more wake-ups, no more than that.
        let _ = sockopt::set_socket_send_buffer_size(&client, SEND_BUFFER);
        self.client = Some(client);
    }

    fn is_connected(&self) -> bool {
        self.client.is_some()
    }
}

impl Link for StreamLink {
    fn caps(&self) -> Caps {
        Caps::PLAIN
    }

    fn fd(&self, number: u32) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().filter(|_| number == 0).map(AsFd::as_fd)
    }

    fn receive(&mut self, _: u32) -> io::Result<usize> {
        let Some(client) = &self.client else { return Ok(0) };
        let result = self.incoming.receive(client);
        if result.is_err() {
            self.leave();
        }
        result
    }

    fn is_backlogged(&self) -> bool {
        self.incoming.received == self.incoming.bytes.len()
    }

    fn frame(&self, index: usize) -> Option<Frame<'_>> {
        let bytes = self.incoming.frame(index)?;
        let head = bytes.get(..HEAD_LEN).unwrap_or(bytes);
        Some(Frame { head, len: bytes.len(), offload: Offload::default() })
    }

    fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        self.incoming.frame(index).and_then(|bytes| bytes.get(range)).is_some_and(|bytes| into.push(bytes))
    }

    fn reserve<'a>(
        &'a mut self,
        header: usize,
        payload: usize,
        segment: usize,
        into: &mut Scatter<'a>,
    ) -> bool {
        let payload = payload.min(MAX_PAYLOAD);
        let segment = if segment == 0 { payload } else { segment.min(payload) };
        self.lent = Lent::default();
        if self.client.is_none() || payload == 0 || payload.div_ceil(segment) > MAX_PIECES {
            return false;
        }
        let Some(lent) = self.lend(header, payload, segment, SPARE) else { return false };
        self.lent = lent;
        let mut left = payload;
        let Some(room) = self.queue.memory_mut().get_mut(lent.start..lent.start + lent.len()) else {
            return false;
        };
        room.chunks_mut(lent.distance()).all(|frame| {
            let end = PREFIX + header + left.min(segment);
            left -= left.min(segment);
            frame.get_mut(PREFIX + header..end).is_some_and(|room| into.push(room))
        })
    }

    fn reserved<'a>(&'a self, payload: usize, into: &mut Gather<'a>) {
        for frame in 0..payload.min(self.lent.payload).div_ceil(self.lent.segment.max(1)) {
            let left = payload - frame * self.lent.segment;
            let start = self.lent.start + frame * self.lent.distance() + PREFIX + self.lent.header;
            if let Some(bytes) = self.queue.memory().get(start..start + left.min(self.lent.segment)) {
                into.push(bytes);
            }
        }
    }

    fn commit(&mut self, header: &[u8], offload: &Offload, payload: usize) -> Result<(), DropReason> {
        if self.client.is_none() {
            return Err(DropReason::LinkWrite);
        }
        let lent = std::mem::take(&mut self.lent);
        let lent =
            if payload == 0 { self.lend(header.len(), 0, 0, 0).ok_or(DropReason::LinkBusy)? } else { lent };
        if !lent.fits(header.len(), payload, offload) {
            return Err(DropReason::Offload);
        }
        let mut len = 0;
        for piece in offload.pieces(payload) {
            let start = lent.start + usize::from(piece.index) * lent.distance();
            let frame_len = (header.len() + piece.len).max(MIN_FRAME);
            let room = self.queue.memory_mut().get_mut(start..start + PREFIX + frame_len);
            let (prefix, frame) =
                room.and_then(|room| room.split_first_chunk_mut()).ok_or(DropReason::Offload)?;
            *prefix = stream::prefix(frame_len).ok_or(DropReason::Offload)?;
            complete::frame(frame, header, offload, piece).ok_or(DropReason::Offload)?;
            len = start + PREFIX + frame_len - lent.start;
        }
        self.queue.append(lent.start, len);
        if self.queue.len() >= FULL_BATCH && !self.stuck {
            self.drain();
        }
        self.congested |= self.queue.len() >= CONGESTED;
        Ok(())
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        self.commit(frame, &Offload::default(), 0)
    }

    fn flush(&mut self) -> Option<u32> {
        self.drain();
        self.stuck.then_some(0)
    }

    fn is_congested(&self) -> bool {
        self.congested || self.client.is_none()
    }
}

impl Lent {
    /// Bytes from one frame to the next.
    fn distance(&self) -> usize {
        PREFIX + (self.header + self.segment).max(MIN_FRAME)
    }

    /// Bytes of all frames.
    fn len(&self) -> usize {
        self.distance() * self.payload.div_ceil(self.segment.max(1)).max(1)
    }

    /// Whether a frame is cut where the gaps are.
    fn fits(&self, header: usize, payload: usize, offload: &Offload) -> bool {
        let cut = match offload.gso {
            Gso::None => payload,
            _ => offload.gso_size.into(),
        };
        header == self.header && payload <= self.payload && (payload <= self.segment || cut == self.segment)
    }
}

impl Incoming {
    fn new() -> Self {
        Self { bytes: vec![0; RECEIVE_ROOM], received: 0, complete: 0, frames: Vec::with_capacity(MAX_BATCH) }
    }

    fn clear(&mut self) {
        self.frames.clear();
        (self.received, self.complete) = (0, 0);
    }

    fn frame(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(self.frames.get(index)?.clone())
    }

    /// Receives once, and finds the frames that are complete with it; what is left is for the next
    /// time.
    fn receive(&mut self, client: &OwnedFd) -> io::Result<usize> {
        let left = self.received - self.complete;
        self.bytes.copy_within(self.complete..self.received, 0);
        self.clear();
        self.received = left;
        let mut room = Scatter::new();
        room.push(&mut self.bytes[left..]);
        match msg::receive(client.as_fd(), &room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.received += n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(0);
            }
            Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        let invalid = |bad| io::Error::new(io::ErrorKind::InvalidData, bad);
        while let Some(len) = stream::frame_len(&self.bytes[self.complete..self.received]).map_err(invalid)? {
            let start = self.complete + PREFIX;
            self.complete = start + len;
            self.frames.push(start..self.complete);
        }
        Ok(self.frames.len())
    }
}
