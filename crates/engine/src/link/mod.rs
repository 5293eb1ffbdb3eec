//! Floor `link`: where the guest's frames come from and go to.
//!
//! One interface for every back end, chosen once at start; nothing above it
//! asks which one it is. A link owns the memory that frames live in. It
//! lends frames that it received until the next [`Link::receive`] or [`Link::flush`], and it
//! lends room for a frame to be sent, so that payload is written straight to
//! where the guest will find it ([`Link::reserve`], [`Link::commit`]).
//!
//! Frames carry the fields of `virtio_net_hdr`: a link that can offload passes
//! them on, one that cannot completes checksums and segments frames itself.

pub mod channel;
mod complete;
pub mod none;
pub mod ring;
pub mod stream;
pub mod tap;
pub mod vhost_user;
mod virtio;

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::{Gather, Scatter};

/// Most bytes of headers before the payload of a frame for the guest:
/// Ethernet, IPv6, TCP with all options.
pub const MAX_HEADERS: usize = passt_proto::wire::build::MAX_HEADERS;

/// What a link does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Takes frames whose transport checksum is only begun.
    pub checksum: bool,
    /// Takes TCP super-frames, to be cut by the guest's kernel or never.
    pub tcp_segmentation: bool,
    /// Takes UDP super-frames of equal datagrams.
    pub udp_segmentation: bool,
    /// Bytes of frames that the guest's device can have under way towards us before it
    /// drops, where segmentation does not keep them few; `None` without such a limit.
    pub queue_limit: Option<usize>,
    /// Bytes of the largest packet that it is sure to have room for, where that does not follow
    /// from its MTU.
    pub packet_limit: Option<usize>,
}

impl Caps {
    /// Nothing: each frame is complete, and in one piece.
    pub const PLAIN: Self = Self {
        checksum: false,
        tcp_segmentation: false,
        udp_segmentation: false,
        queue_limit: None,
        packet_limit: None,
    };
    /// All that there is, without limits.
    pub const ALL: Self =
        Self { checksum: true, tcp_segmentation: true, udp_segmentation: true, ..Self::PLAIN };
}

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("frames")?;
        for (able, what) in [
            (self.checksum, ", unfinished checksums"),
            (self.tcp_segmentation, ", TCP super-frames"),
            (self.udp_segmentation, ", UDP super-frames"),
        ] {
            f.write_str(if able { what } else { "" })?;
        }
        self.queue_limit.map_or(Ok(()), |bytes| write!(f, ", {bytes} bytes under way from it"))
    }
}

/// One frame received from the guest.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The start of the frame in private memory: all of its headers, and all
    /// of the frame if it is no longer than [`HEAD_LEN`].
    pub head: &'a [u8],
    /// Length of the whole frame in bytes.
    pub len: usize,
    /// What the guest's kernel left to us.
    pub offload: Offload,
}

/// Bytes at the start of a received frame that are certain to be in
/// [`Frame::head`]: enough for every request that is answered inside.
pub const HEAD_LEN: usize = 2048;

/// A layer-2 connection to the guest.
pub trait Link {
    /// What the link does by itself. It may change with each client and in each
    /// [`Link::receive`]: the core asks afterwards.
    fn caps(&self) -> Caps;

    /// Descriptor `number` of the link, counted from 0; `None` ends them. Each is polled
    /// level-triggered, and [`Link::receive`] is called with its number when it is readable.
    fn fd(&self, number: u32) -> Option<BorrowedFd<'_>>;

    /// Whether other descriptors are to be polled than those that [`Link::fd`] shows. The core
    /// looks after each batch and for each new client.
    fn has_new_fds(&self) -> bool {
        false
    }

    /// Has [`Link::fd`] show the new descriptors, and closes those that are no longer needed. The
    /// core does not poll the old ones any more: closing alone would not end that where another
    /// process has the same file open, as it has an eventfd that it passed on (`epoll(7)`).
    fn renew_fds(&mut self) {}

    /// Reads a batch of frames and returns how many; zero when there are none
    /// now. An error means that the link is gone. Descriptor `ready` was readable when the loop
    /// looked, and may be so no more.
    fn receive(&mut self, ready: u32) -> io::Result<usize>;

    /// Whether the last batch ended because it was full: more frames wait, most likely.
    fn is_backlogged(&self) -> bool {
        false
    }

    /// Frame `index` of the last batch; `None` if it was malformed.
    fn frame(&self, index: usize) -> Option<Frame<'_>>;

    /// Appends bytes `range` of frame `index` to a list for a socket; false if
    /// they do not fit there.
    fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool;

    /// Most bytes of payload that [`Link::reserve`] has room for now, as far as a sender can make
    /// use of less than it wants, in frames behind headers of `header` bytes that will be cut every
    /// `segment` bytes.
    fn lendable(&mut self, _header: usize, _segment: usize) -> usize {
        MAX_PAYLOAD
    }

    /// Lends room for `payload` bytes (at most [`MAX_PAYLOAD`]), appended to
    /// `into`. Frames behind headers of `header` bytes will be cut every `segment`
    /// bytes, if the link has to cut, at most [`MAX_PIECES`] of them. Not committing gives the
    /// room back. False if the link has no room now.
    fn reserve<'a>(
        &'a mut self,
        header: usize,
        payload: usize,
        segment: usize,
        into: &mut Scatter<'a>,
    ) -> bool;

    /// Appends the first `payload` bytes of the room reserved last to a list, for
    /// a capture to be taken before they are sent.
    fn reserved<'a>(&'a self, payload: usize, into: &mut Gather<'a>);

    /// Sends the first `payload` bytes of the room reserved last, behind
    /// `header`, which has the length that was announced. Without payload no room
    /// needs to be reserved. The link cuts and completes what it does not take as it is,
    /// whatever its [`Caps`] were when the payload was on its way.
    fn commit(&mut self, header: &[u8], offload: &Offload, payload: usize) -> Result<(), DropReason>;

    /// Sends a frame whose bytes are complete, checksums included.
    fn send(&mut self, frame: &[u8]) -> Result<(), DropReason>;

    /// Passes on what a batch of commits left in the link's own queues. Returns the number of the
    /// descriptor that becomes writable when it takes the rest, if some is left; to be called
    /// again then.
    fn flush(&mut self) -> Option<u32> {
        None
    }

    /// Whether so much waits in the link's own queues that payload which can wait
    /// elsewhere should.
    fn is_congested(&self) -> bool {
        false
    }

    /// Number of the queue that frame `index` of the last batch came by.
    fn queue(&self, _index: usize) -> u8 {
        0
    }

    /// Has frames go by this queue from now on. Room, and whether there is any, is that of this
    /// queue. A flow's frames go by the one that its last frame came by (virtio 1.2, section
    /// 5.1.6.5.6): the guest's kernel deals with it on one processor then.
    fn steer(&mut self, _queue: u8) {}

    /// Whether nobody could go on who waits because the link was congested, whichever queue it was.
    fn is_blocked(&self) -> bool {
        self.is_congested()
    }

    /// All who waited were called.
    fn resumed(&mut self) {}

    /// How often either side told the other of frames, where the two share queues.
    fn notifications(&self) -> Option<Notifications> {
        None
    }

    /// Whether [`Link::flush`] left something that the next one does, which is to come soon even
    /// where nothing else happens.
    fn has_put_off(&self) -> bool {
        false
    }
}

/// How often either side of queues told the other of what is new there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notifications {
    /// Kicks of the guest that were seen: several at once count as one.
    pub kicks: u64,
    /// Interrupts of the guest.
    pub interrupts: u64,
}

/// A link to a client that comes to a socket, one after the other.
pub trait ClientLink: Link {
    /// Talks to `client` from now on, a connected UNIX socket of the type that the link needs; nothing
    /// of an earlier client is left. [`Worker::greet`] is to be called then.
    ///
    /// [`Worker::greet`]: crate::worker::Worker::greet
    fn connect(&mut self, client: OwnedFd);

    /// Whether there is a client. There is none any more once [`Link::receive`] returned an
    /// error: `UnexpectedEof` if it left, `InvalidData` if what it sent makes no sense.
    fn is_connected(&self) -> bool;
}

/// Most payload bytes of one frame for the guest: with the shortest headers of TCP
/// they fill the 65 535 bytes that IPv4's total length can express.
pub const MAX_PAYLOAD: usize = 65_535 - 40;

/// Most frames that are received at once.
pub const MAX_BATCH: usize = 32 * 1024;

/// Most pieces that one frame for the guest is cut into.
pub const MAX_PIECES: usize = 256;
