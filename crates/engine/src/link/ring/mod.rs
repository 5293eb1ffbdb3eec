//! The ring link: a virtio network device and its guest in one process, for tests and fuzzing.
//!
//! Two split virtqueues lie in memory that is shared with the guest, which may write there what and
//! when it likes. What such a link has to be asked about, this one shows without a virtual machine:
//!
//! - A frame from the guest is a chain of buffers. Its metadata and first
//!   [`HEAD_LEN`](super::HEAD_LEN) bytes are copied once and looked at in private memory; payload
//!   goes to sockets from where it lies.
//! - A frame for the guest takes as many of the buffers that it posted as are needed
//!   (`VIRTIO_NET_F_MRG_RXBUF`). Where the guest takes super-frames and begun checksums, payload is
//!   received there. Where it does not, payload is received in private memory, as it has to be
//!   looked at, cut and copied.
//! - There are two descriptors: the guest's kick, and a control channel by which it switches
//!   offloads, or changes the first.
//! - Without buffers the link is congested, until the guest kicks because it has posted more.
//!
//! A chain that makes no sense is a malformed frame, and given back. Left out: notifications of the
//! guest, which looks by itself, features of queues (indirect descriptors, event indices), and the
//! protocol by which all this is set up.

mod guest;
mod incoming;
mod outgoing;
mod queue;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::Receiver;

use passt_proto::drop::DropReason;
use passt_proto::wire::ethernet::MIN_FRAME;
use passt_proto::wire::offload::{MERGEABLE_LEN, Offload};
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::shared::Region;

pub use self::guest::{Guest, Shape};
use self::incoming::Incoming;
use self::outgoing::Outgoing;
pub use self::queue::Layout;
use super::{Caps, Frame, Link, MAX_HEADERS, MAX_PAYLOAD, complete};

/// Numbers of the descriptors.
const KICK: u32 = 0;
const CONTROL: u32 = 1;

/// The device's end.
pub struct RingLink {
    region: Region,
    caps: Caps,
    kick: OwnedFd,
    /// The guest kicks by this one from now on.
    new_kick: Option<OwnedFd>,
    control: OwnedFd,
    messages: Receiver<ControlMessage>,
    incoming: Incoming,
    outgoing: Outgoing,
    lent: Lent,
    /// A frame that is cut: headers, payload from [`MAX_HEADERS`] on.
    sending: Vec<u8>,
}

/// What the guest says on the control channel.
enum ControlMessage {
    Offloads(Caps),
    Kick(OwnedFd),
}

/// Where payload was lent.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Lent {
    #[default]
    Nowhere,
    /// So much of it, in buffers of the guest, behind headers of `header` bytes.
    Posted { header: usize, payload: usize },
    /// In private memory.
    Private,
}

impl RingLink {
    /// Whether the guest takes whatever it may be sent as it is.
    fn offloads(&self) -> bool {
        self.caps.checksum && self.caps.tcp_segmentation && self.caps.udp_segmentation
    }

    /// Does what the guest said on the control channel.
    fn obey(&mut self) {
        clear(&self.control);
        self.lent = Lent::Nowhere;
        for message in self.messages.try_iter() {
            match message {
                ControlMessage::Offloads(caps) => self.caps = caps,
                ControlMessage::Kick(kick) => self.new_kick = Some(kick),
            }
        }
    }

    /// Takes a batch. A kick is cleared only once there is nothing left, and what came before that
    /// is not missed.
    fn take(&mut self) {
        let mut cleared = false;
        loop {
            let taken = self.incoming.take(&self.region);
            if self.incoming.is_full() {
                if cleared {
                    kick(&self.kick);
                }
                return;
            }
            if cleared && !taken {
                return;
            }
            clear(&self.kick);
            cleared = true;
        }
    }

    /// Bytes of the longest frame that `segment` bytes of payload make, with their metadata.
    fn longest(header: usize, segment: usize) -> usize {
        MERGEABLE_LEN + (header + segment).max(MIN_FRAME)
    }

    fn lend<'a>(
        &'a mut self,
        header: usize,
        payload: usize,
        segment: usize,
        into: &mut Scatter<'a>,
    ) -> Option<()> {
        let (frames, len) = if self.offloads() {
            (1, MERGEABLE_LEN + header + payload)
        } else {
            let segment = if segment == 0 { payload } else { segment.min(payload) };
            (payload.div_ceil(segment.max(1)), Self::longest(header, segment))
        };
        if self.outgoing.frames(len, frames) < frames {
            return None;
        }
        if self.offloads() {
            self.lent = Lent::Posted { header, payload };
            return self.outgoing.lend(&self.region, MERGEABLE_LEN + header, payload, into).then_some(());
        }
        self.lent = Lent::Private;
        let room = self.sending.get_mut(MAX_HEADERS..MAX_HEADERS + payload)?;
        into.push(room).then_some(())
    }
}

impl Link for RingLink {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn fd(&self, number: u32) -> Option<BorrowedFd<'_>> {
        match number {
            KICK => Some(self.kick.as_fd()),
            CONTROL => Some(self.control.as_fd()),
            _ => None,
        }
    }

    fn has_new_fds(&self) -> bool {
        self.new_kick.is_some()
    }

    fn renew_fds(&mut self) {
        if let Some(kick) = self.new_kick.take() {
            self.kick = kick;
            // What did not fit the last batch was announced by the former.
            if self.incoming.is_full() {
                self::kick(&self.kick);
            }
        }
    }

    fn receive(&mut self, ready: u32) -> io::Result<usize> {
        if ready == CONTROL {
            self.obey();
        }
        self.incoming.end_batch(&self.region);
        self.take();
        self.outgoing.fetch(&self.region);
        Ok(self.incoming.count() + self.outgoing.take_malformed())
    }

    fn is_backlogged(&self) -> bool {
        self.incoming.is_full()
    }

    fn frame(&self, index: usize) -> Option<Frame<'_>> {
        self.incoming.frame(index)
    }

    fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        self.incoming.payload(&self.region, index, range, into).is_some()
    }

    fn lendable(&mut self, header: usize, segment: usize) -> usize {
        self.outgoing.fetch(&self.region);
        let segment = segment.max(1);
        let one = self.outgoing.longest().saturating_sub(MERGEABLE_LEN + header);
        let mut room = if self.offloads() {
            one / segment * segment
        } else {
            let most = MAX_PAYLOAD.div_ceil(segment);
            self.outgoing.frames(Self::longest(header, segment), most) * segment
        };
        // Less than a segment, where there will never be more.
        if room == 0 && self.outgoing.is_complete() && self.outgoing.longest() >= Self::longest(header, 1) {
            room = one;
        }
        if room == 0 {
            self.outgoing.exhaust();
        }
        room.min(MAX_PAYLOAD)
    }

    fn reserve<'a>(
        &'a mut self,
        header: usize,
        payload: usize,
        segment: usize,
        into: &mut Scatter<'a>,
    ) -> bool {
        self.lent = Lent::Nowhere;
        self.outgoing.fetch(&self.region);
        let payload = payload.min(MAX_PAYLOAD);
        self.lend(header, payload, segment, into).is_some()
    }

    fn reserved<'a>(&'a self, payload: usize, into: &mut Gather<'a>) {
        match self.lent {
            Lent::Nowhere => {}
            Lent::Posted { header, .. } => {
                let mut places = self.outgoing.places(MERGEABLE_LEN + header, payload);
                let _ = places.all(|place| self.region.gather(place, into));
            }
            Lent::Private => {
                if let Some(bytes) = self.sending.get(MAX_HEADERS..MAX_HEADERS + payload) {
                    into.push(bytes);
                }
            }
        }
    }

    fn commit(&mut self, header: &[u8], offload: &Offload, payload: usize) -> Result<(), DropReason> {
        let lent = std::mem::take(&mut self.lent);
        self.outgoing.fetch(&self.region);
        let Self { region, outgoing, sending, .. } = self;
        match lent {
            // It needs no room, and what was lent for something else does not count.
            _ if payload == 0 && self.caps.checksum => outgoing.send(region, offload, header, header.len()),
            Lent::Posted { header: announced, payload: most }
                if payload > 0 && announced == header.len() && payload <= most =>
            {
                outgoing.send(region, offload, header, header.len() + payload)
            }
            _ if payload == 0 || lent == Lent::Private => {
                complete::frames(sending, MAX_HEADERS, payload, header, offload, |frame| {
                    outgoing.send(region, &Offload::default(), frame, frame.len())
                })
            }
            _ => Err(DropReason::Offload),
        }
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        self.lent = Lent::Nowhere;
        self.outgoing.fetch(&self.region);
        self.outgoing.send(&self.region, &Offload::default(), frame, frame.len())
    }

    /// Gives back what the guest sent, which may wait for that before it sends more.
    fn flush(&mut self) -> Option<u32> {
        self.incoming.end_batch(&self.region);
        None
    }

    fn is_congested(&self) -> bool {
        self.outgoing.is_exhausted(&self.region)
    }
}

/// Has an eventfd be readable. It has no room only where it is so already.
fn kick(fd: &OwnedFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// Has an eventfd be readable no more.
fn clear(fd: &OwnedFd) {
    let _ = rustix::io::read(fd, &mut [0; 8]);
}
