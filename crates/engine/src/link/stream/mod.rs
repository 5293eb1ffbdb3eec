//! The stream link: a virtual machine behind a socket, or behind whatever else takes bytes and gives
//! them, with its frames as [`Framing`] says.
//!
//! | Framing | Descriptors | Spoken by |
//! |---|---|---|
//! | [`Be32`](Framing::Be32) | UNIX stream socket | qemu's `-netdev stream` |
//! | [`Le16`](Framing::Le16) | UNIX stream socket; standard input and output, pipes most often | hyperkit and its relatives; `gvisor-tap-vsock`'s `stdio` |
//! | [`Message`](Framing::Message) | UNIX `SOCK_SEQPACKET` or connected `SOCK_DGRAM` | user-mode Linux's `bess`; vfkit |
//!
//! From the guest, one `recvmsg` takes as many frames of a stream as there are, or one message, and
//! they are used where they lie. Their transport checksums are not verified: a local socket corrupts
//! nothing, and a pass over all payload would only tell that a guest harms itself. A length that no
//! frame has ends a stream, as nobody knows where the next frame begins. A message that is no frame
//! is one frame that is malformed.
//!
//! To the guest, this link offloads nothing: super-frames are cut and checksums completed here. The
//! room that [`Link::reserve`] lends is part of the send queue, with gaps where length and headers
//! of each frame will be, so payload is received where it is sent from. The kernel copies it there
//! without a sum, which leaves one pass over it, while it is in the cache: about a tenth of what a
//! byte costs us in bulk (`cargo run --release -p passt-proto --example sums`, and CPU seconds in
//! `docs/bench`). Messages have their lengths in the queue, too, where they say what the next
//! message is, and are sent many with one `sendmmsg`.
//!
//! A guest that does not read fills the socket, then the queue. From some length on the queue
//! is congested: connections wait, and their data stay in the host's sockets, where
//! the peer's kernel notices. Datagrams take up what is left of the queue and are
//! then dropped; a part is kept for what has no payload, acknowledgements foremost.
//!
//! Without a client, frames for the guest are dropped, and connections wait. A datagram socket has
//! no end that could be read: that nobody is there any more is known once something is sent.

mod client;
mod incoming;
mod outgoing;
mod queue;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

use passt_proto::drop::DropReason;
use passt_proto::wire::ethernet::MIN_FRAME;
use passt_proto::wire::offload::{Gso, Offload};
pub use passt_proto::wire::stream::Framing;
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::msg;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;

use self::client::Client;
use self::incoming::Incoming;
use self::queue::{BORDERS, SendQueue};
use super::{Caps, ClientLink, Frame, HEAD_LEN, Link, MAX_PAYLOAD, MAX_PIECES, complete};

/// System calls made here once the process runs, but for messages.
pub const CALLS: &[Call] = &[Call::only(Sysno::setsockopt, &[option::SO_SNDBUF])];

/// What [`Framing::Message`] adds to them, beside those of [`passt_sys::dgram`].
pub const MESSAGE_CALLS: &[Call] = &[Call::only(Sysno::getsockopt, &[option::SO_TYPE])];

/// What descriptors add to them that are no sockets, once they are
/// [connected](StreamLink::connect_pair).
pub const PIPE_CALLS: &[Call] = msg::READ;

/// Memory of the send queue.
const QUEUE: usize = 1024 * 1024;
/// Length of the queue from which on it is congested, and down to which it stays so.
const CONGESTED: usize = 512 * 1024;
const RELIEVED: usize = CONGESTED / 2;
/// Length of the queue from which on it is sent at once, while it is in the cache.
const FULL_BATCH: usize = 128 * 1024;
/// Part of the queue for frames without payload.
const SPARE: usize = 64 * 1024;

/// A socket or a pair of pipes towards a virtual machine as a link.
pub struct StreamLink {
    framing: Framing,
    /// How frames lie in the queue.
    queued: Framing,
    client: Option<Client>,
    incoming: Incoming,
    queue: SendQueue,
    lent: Lent,
    congested: bool,
    /// The client takes no more for now.
    stuck: bool,
}

/// Room lent for payload that will be cut every `segment` bytes: from `start` on, pieces
/// at equal distances, each behind room for its prefix and headers.
#[derive(Clone, Copy, Default)]
struct Lent {
    start: usize,
    prefix: usize,
    header: usize,
    segment: usize,
    payload: usize,
}

impl StreamLink {
    /// A link without a client, to one whose frames come and go by this `framing`.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            queued: if framing == Framing::Message { BORDERS } else { framing },
            client: None,
            incoming: Incoming::new(framing),
            queue: SendQueue::new(QUEUE),
            lent: Lent::default(),
            congested: false,
            stuck: false,
        }
    }

    /// Talks from now on to a client that writes to `input` and reads from `output`, as standard
    /// input and output are: sockets, pipes or terminals, or the same one twice. Nothing of an
    /// earlier client is left, and [`Worker::greet`] is to be called, as after
    /// [`ClientLink::connect`].
    ///
    /// What is no socket becomes non-blocking, for whoever shares it; system calls of this are in
    /// none of the lists here, as such descriptors are inherited. `InvalidInput` for what can't keep
    /// messages apart.
    ///
    /// [`Worker::greet`]: crate::worker::Worker::greet
    pub fn connect_pair(&mut self, input: OwnedFd, output: OwnedFd) -> io::Result<()> {
        self.leave();
        self.client = Some(Client::pair(input, output, self.framing)?);
        Ok(())
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
        let lent = Lent { start: 0, prefix: self.queued.prefix_len(), header, segment, payload };
        let start = self.queue.room(lent.len() + spare);
        self.congested |= start.is_none();
        Some(Lent { start: start?, ..lent })
    }

    /// Sends as much of the queue as the client takes.
    fn drain(&mut self) {
        let Some(client) = &mut self.client else { return };
        self.stuck = false;
        while !self.queue.is_empty() && !self.stuck {
            let outcome = match self.framing {
                Framing::Message => outgoing::messages(client, &mut self.queue),
                Framing::Be32 | Framing::Le16 => outgoing::bytes(client, &mut self.queue),
            };
            self.stuck = outcome.unwrap_or_else(|_| {
                client.give_up();
                self.queue.clear();
                false
            });
        }
        self.congested &= self.queue.len() > RELIEVED;
    }
}

impl ClientLink for StreamLink {
    fn connect(&mut self, client: OwnedFd) {
        self.leave();
        self.client = Some(Client::socket(client, self.framing));
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
        self.client.as_ref()?.fd(number)
    }

    fn receive(&mut self, ready: u32) -> io::Result<usize> {
        let Some(client) = &mut self.client else { return Ok(0) };
        self.incoming.forget();
        let result = match client.attend(ready) {
            Ok(true) => self.incoming.receive(client),
            other => other.map(|_| 0),
        };
        if result.is_err() {
            self.leave();
        }
        result
    }

    fn is_backlogged(&self) -> bool {
        self.incoming.is_full()
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
            let start = lent.prefix + header;
            let end = start + left.min(segment);
            left -= left.min(segment);
            frame.get_mut(start..end).is_some_and(|room| into.push(room))
        })
    }

    fn reserved<'a>(&'a self, payload: usize, into: &mut Gather<'a>) {
        for frame in 0..payload.min(self.lent.payload).div_ceil(self.lent.segment.max(1)) {
            let left = payload - frame * self.lent.segment;
            let start = self.lent.start + frame * self.lent.distance() + self.lent.prefix + self.lent.header;
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
            let end = start + lent.prefix + frame_len;
            let room = self.queue.memory_mut().get_mut(start..end).ok_or(DropReason::Offload)?;
            // One that is longer than can be announced.
            let frame = self.queued.begin(room).ok_or(DropReason::LinkWrite)?;
            complete::frame(frame, header, offload, piece).ok_or(DropReason::Offload)?;
            len = end - lent.start;
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
        self.client.as_ref().filter(|_| self.stuck).map(Client::output)
    }

    fn is_congested(&self) -> bool {
        self.congested || self.client.is_none()
    }
}

impl Lent {
    /// Bytes from one frame to the next.
    fn distance(&self) -> usize {
        self.prefix + (self.header + self.segment).max(MIN_FRAME)
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
