//! The device's end of a virtio network device (virtio 1.2, section 5.1), whoever has set it up:
//! pairs of queues in a guest's memory, which the guest may change when and as it likes.
//!
//! - A frame from the guest is a chain of buffers. Its metadata and first
//!   [`HEAD_LEN`](super::HEAD_LEN) bytes are copied once and looked at in private memory; payload
//!   goes to sockets from where it lies.
//! - A frame for the guest takes as many of the buffers that it posted as are needed
//!   (`VIRTIO_NET_F_MRG_RXBUF`), or one chain where it wants that. Payload is received there if the
//!   guest takes the frame as it is. Where it does not, payload is received in private memory, as
//!   it has to be looked at, cut and copied.
//! - Without buffers the link is congested, until the guest has posted more. It is asked to tell
//!   then, and not otherwise.
//! - Interrupts are sent at the end of a round of the loop, if the guest wants one. An interrupt for
//!   frames to the guest makes Linux's driver look at both queues of the pair. The one for frames
//!   from it is put off in that case until the next round, or a millisecond, and sent if the driver
//!   still wants it then.
//! - Where pages that are written are noted ([`Memory::mark`]), payload that the kernel has put into
//!   buffers is noted once it is known how much that is, or at most was, and the used ring under the
//!   address that was said for that as well.
//!
//! A chain, an index or a table that makes no sense costs the guest this queue; metadata, or a
//! length, that no frame has, cost it this frame.

pub(super) mod driver;
mod incoming;
mod outgoing;
pub(super) mod queue;

use std::ops::Range;

use passt_proto::drop::DropReason;
use passt_proto::wire::ethernet::MIN_FRAME;
use passt_proto::wire::offload::{Gso, MERGEABLE_LEN, Offload};
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::shared::Memory;

use self::incoming::Incoming;
pub(super) use self::incoming::MAX_PARTS;
use self::outgoing::Outgoing;
pub use self::queue::Layout;
use self::queue::Virtqueue;
use super::{Caps, Frame, MAX_HEADERS, MAX_PAYLOAD, Notifications, complete};

/// The methods of a [`Link`](super::Link) that the device in its field `device` has by itself.
macro_rules! methods_of_device {
    () => {
        fn is_backlogged(&self) -> bool {
            self.device.is_backlogged()
        }

        fn frame(&self, index: usize) -> Option<$crate::link::Frame<'_>> {
            self.device.frame(index)
        }

        fn payload<'a>(
            &'a self,
            index: usize,
            range: std::ops::Range<usize>,
            into: &mut passt_sys::iovec::Gather<'a>,
        ) -> bool {
            self.device.payload(index, range, into)
        }

        fn lendable(&mut self, header: usize, segment: usize) -> usize {
            self.device.lendable(header, segment)
        }

        fn reserve<'a>(
            &'a mut self,
            header: usize,
            payload: usize,
            segment: usize,
            into: &mut passt_sys::iovec::Scatter<'a>,
        ) -> bool {
            self.device.reserve(header, payload, segment, into)
        }

        fn reserved<'a>(&'a self, payload: usize, into: &mut passt_sys::iovec::Gather<'a>) {
            self.device.reserved(payload, into);
        }

        fn commit(
            &mut self,
            header: &[u8],
            offload: &passt_proto::wire::offload::Offload,
            payload: usize,
        ) -> Result<(), passt_proto::drop::DropReason> {
            self.device.commit(header, offload, payload)
        }

        fn send(&mut self, frame: &[u8]) -> Result<(), passt_proto::drop::DropReason> {
            self.device.send(frame)
        }

        fn is_congested(&self) -> bool {
            self.device.is_congested()
        }

        fn queue(&self, index: usize) -> u8 {
            u8::try_from(self.device.queue(index)).unwrap_or(0)
        }

        fn steer(&mut self, queue: u8) {
            self.device.steer(queue.into());
        }

        fn is_blocked(&self) -> bool {
            self.device.is_blocked()
        }

        fn has_put_off(&self) -> bool {
            self.device.has_put_off()
        }

        fn notifications(&self) -> Option<$crate::link::Notifications> {
            Some(self.device.notifications())
        }

        fn resumed(&mut self) {
            self.device.resumed();
        }
    };
}
pub(super) use methods_of_device;

/// The device's end.
pub(super) struct Device {
    pub(super) memory: Memory,
    /// What the guest takes as it is.
    pub(super) caps: Caps,
    pub(super) pairs: Vec<Pair>,
    /// The pair that frames for the guest go by.
    current: usize,
    /// The pair that was looked at first the last time.
    next: usize,
    incoming: Incoming,
    lent: Lent,
    /// A frame that is cut: headers, payload from [`MAX_HEADERS`] on.
    sending: Vec<u8>,
}

/// A pair of queues.
pub(super) struct Pair {
    /// Frames from the guest.
    pub(super) transmit: Virtqueue,
    /// Frames for it.
    pub(super) receive: Outgoing,
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

impl Device {
    /// A device with so many pairs of queues, none of which is in use.
    pub(super) fn new(pairs: usize) -> Self {
        let pair = |_| Pair { transmit: Virtqueue::default(), receive: Outgoing::new() };
        Self {
            memory: Memory::new(),
            caps: Caps::PLAIN,
            pairs: (0..pairs).map(pair).collect(),
            current: 0,
            next: 0,
            incoming: Incoming::new(),
            lent: Lent::default(),
            sending: vec![0; MAX_HEADERS + MAX_PAYLOAD + MIN_FRAME],
        }
    }

    /// Gives back what the guest sent, and what was lent: queues, memory and features can be
    /// changed.
    pub(super) fn pause(&mut self) {
        self.take_back(MAX_PAYLOAD);
        self.incoming.end_batch(&self.memory, &mut self.pairs);
    }

    /// Takes a batch, and note of buffers; how many frames, and what makes no sense. The kick of
    /// transmit queue `kicked` may be there to be seen, or all may.
    pub(super) fn receive(&mut self, kicked: Kicked) -> usize {
        self.pause();
        let Self { memory, pairs, next, incoming, .. } = self;
        let mut malformed = 0;
        // By turns: one that fills the batch leaves nothing to the others.
        let count = pairs.len().max(1);
        *next = (*next + 1) % count;
        for number in (0..count).map(|number| (number + *next) % count) {
            let Some(pair) = pairs.get_mut(number) else { break };
            take(incoming, memory, (number, &mut pair.transmit), kicked.transmit(number));
            if kicked.receive(number) {
                pair.receive.queue.clear_kick();
            }
            pair.receive.fetch(memory);
            malformed += pair.receive.take_malformed();
        }
        incoming.count() + malformed
    }

    pub(super) fn is_backlogged(&self) -> bool {
        self.incoming.is_full()
    }

    pub(super) fn frame(&self, index: usize) -> Option<Frame<'_>> {
        self.incoming.frame(index)
    }

    pub(super) fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        self.incoming.payload(&self.memory, index, range, into).is_some()
    }

    pub(super) fn lendable(&mut self, header: usize, segment: usize) -> usize {
        let (memory, caps) = (&self.memory, self.caps);
        let Some(Pair { receive, .. }) = self.pairs.get_mut(self.current) else { return 0 };
        if !receive.is_open() {
            return 0;
        }
        receive.fetch(memory);
        let segment = segment.max(1);
        let one = receive.longest().saturating_sub(MERGEABLE_LEN + header);
        let mut room = if takes_whole(caps, MAX_PAYLOAD, segment) {
            one / segment * segment
        } else {
            let most = MAX_PAYLOAD.div_ceil(segment);
            receive.frames(longest(header, segment), most) * segment
        };
        // Less than a segment, where there will never be more.
        let is_all = receive.is_complete() || !receive.mergeable;
        if room == 0 && is_all && receive.longest() >= longest(header, 1) {
            room = one;
        }
        if room == 0 {
            receive.exhaust(memory);
        } else {
            receive.relieve(memory);
        }
        room.min(MAX_PAYLOAD)
    }

    pub(super) fn reserve<'a>(
        &'a mut self,
        header: usize,
        payload: usize,
        segment: usize,
        into: &mut Scatter<'a>,
    ) -> bool {
        self.take_back(MAX_PAYLOAD);
        let payload = payload.min(MAX_PAYLOAD);
        self.lend(header, payload, segment, into).is_some()
    }

    fn lend<'a>(
        &'a mut self,
        header: usize,
        payload: usize,
        segment: usize,
        into: &mut Scatter<'a>,
    ) -> Option<()> {
        let Self { memory, caps, pairs, current, lent, sending, .. } = self;
        let receive = &mut pairs.get_mut(*current)?.receive;
        receive.is_open().then_some(())?;
        receive.fetch(memory);
        let segment = if segment == 0 { payload } else { segment.min(payload) };
        let whole = takes_whole(*caps, payload, segment);
        let (frames, len) = if whole {
            (1, MERGEABLE_LEN + header + payload)
        } else {
            (payload.div_ceil(segment.max(1)), longest(header, segment))
        };
        if receive.frames(len, frames) < frames {
            return None;
        }
        if whole {
            *lent = Lent::Posted { header, payload };
            return receive.lend(memory, MERGEABLE_LEN + header, payload, into).then_some(());
        }
        *lent = Lent::Private;
        into.push(sending.get_mut(MAX_HEADERS..MAX_HEADERS + payload)?).then_some(())
    }

    /// Lends no more what was lent, of which the kernel has written the first `filled` bytes at most.
    fn take_back(&mut self, filled: usize) -> Lent {
        let lent = std::mem::take(&mut self.lent);
        if self.memory.is_logged()
            && let Lent::Posted { header, payload } = lent
            && let Some(Pair { receive, .. }) = self.pairs.get(self.current)
        {
            receive.mark(&self.memory, MERGEABLE_LEN + header, payload.min(filled));
        }
        lent
    }

    pub(super) fn reserved<'a>(&'a self, payload: usize, into: &mut Gather<'a>) {
        match self.lent {
            Lent::Nowhere => {}
            Lent::Posted { header, .. } => {
                let Some(Pair { receive, .. }) = self.pairs.get(self.current) else { return };
                let mut places = receive.places(MERGEABLE_LEN + header, payload);
                let _ = places.all(|place| self.memory.gather(place, into));
            }
            Lent::Private => {
                if let Some(bytes) = self.sending.get(MAX_HEADERS..MAX_HEADERS + payload) {
                    into.push(bytes);
                }
            }
        }
    }

    pub(super) fn commit(
        &mut self,
        header: &[u8],
        offload: &Offload,
        payload: usize,
    ) -> Result<(), DropReason> {
        let is_taken = takes(self.caps, offload);
        let lent = self.take_back(if is_taken && payload > 0 { payload } else { MAX_PAYLOAD });
        let Self { memory, pairs, current, sending, .. } = self;
        let receive = &mut pairs.get_mut(*current).ok_or(DropReason::LinkWrite)?.receive;
        receive.fetch(memory);
        match lent {
            // It needs no room, and what was lent for something else does not count.
            _ if payload == 0 && is_taken => return receive.send(memory, offload, header, header.len()),
            _ if payload == 0 => {}
            Lent::Posted { header: announced, payload: most }
                if announced == header.len() && payload <= most =>
            {
                if is_taken {
                    return receive.send(memory, offload, header, header.len() + payload);
                }
                // A socket still joins datagrams, as it did for another guest.
                let out = sending.get_mut(MAX_HEADERS..MAX_HEADERS + payload);
                let copied = out.and_then(|out| receive.copy_out(memory, MERGEABLE_LEN + header.len(), out));
                copied.ok_or(DropReason::Offload)?;
            }
            Lent::Private => {}
            Lent::Nowhere | Lent::Posted { .. } => return Err(DropReason::Offload),
        }
        complete::frames(sending, MAX_HEADERS, payload, header, offload, |frame| {
            receive.send(memory, &Offload::default(), frame, frame.len())
        })
    }

    pub(super) fn send(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        self.take_back(MAX_PAYLOAD);
        let pair = self.pairs.get_mut(self.current);
        let Some(Pair { receive, .. }) = pair else { return Err(DropReason::LinkWrite) };
        receive.fetch(&self.memory);
        receive.send(&self.memory, &Offload::default(), frame, frame.len())
    }

    /// Gives back what the guest sent, which may wait for that before it sends more, and tells it
    /// of that and of what was sent to it.
    pub(super) fn flush(&mut self) {
        self.pause();
        for Pair { transmit, receive } in &mut self.pairs {
            if receive.queue.tell(&self.memory) {
                transmit.tell_later(&self.memory);
            } else {
                transmit.tell(&self.memory);
            }
        }
    }

    /// Kicks and interrupts of all queues so far.
    pub(super) fn notifications(&self) -> Notifications {
        let queues = self.pairs.iter().flat_map(|pair| [&pair.transmit, &pair.receive.queue]);
        queues.map(Virtqueue::notifications).fold(Notifications::default(), |sum, one| Notifications {
            kicks: sum.kicks + one.kicks,
            interrupts: sum.interrupts + one.interrupts,
        })
    }

    /// Whether [`Device::flush`] left something to the next one.
    pub(super) fn has_put_off(&self) -> bool {
        self.pairs.iter().any(|pair| pair.transmit.has_put_off())
    }

    /// Whether payload for the guest has to wait: there is no room for it, or no queue.
    pub(super) fn is_congested(&self) -> bool {
        let receive = self.pairs.get(self.current).map(|pair| &pair.receive);
        receive.is_none_or(|receive| !receive.is_open() || receive.is_exhausted(&self.memory))
    }

    /// Number of the pair that frame `index` came by.
    pub(super) fn queue(&self, index: usize) -> usize {
        self.incoming.queue(index)
    }

    /// Has frames for the guest go by another pair, or by the first if that is not in use.
    pub(super) fn steer(&mut self, pair: usize) {
        if self.current != pair {
            self.take_back(MAX_PAYLOAD);
        }
        let is_open = self.pairs.get(pair).is_some_and(|pair| pair.receive.is_open());
        self.current = if is_open { pair } else { 0 };
    }

    /// Whether all that ran out of room have none still, or there is no queue.
    pub(super) fn is_blocked(&self) -> bool {
        let mut open = self.pairs.iter().map(|pair| &pair.receive).filter(|receive| receive.is_open());
        let has_news = open.clone().any(|receive| receive.has_news(&self.memory));
        let mut lack = open.clone().filter(|receive| receive.is_exhausted(&self.memory));
        open.next().is_none() || (!has_news && lack.next().is_some())
    }

    /// Places that there is memory for, all lists together.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.incoming.capacity() + self.pairs.iter().map(|pair| pair.receive.capacity()).sum::<usize>()
    }

    /// All who waited have been called.
    pub(super) fn resumed(&mut self) {
        self.pairs.iter_mut().for_each(|pair| pair.receive.resumed(&self.memory));
    }
}

/// Queues whose kicks may be there to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kicked {
    /// None.
    None,
    /// That of the pair's transmit queue.
    Transmit(usize),
    /// That of the pair's receive queue.
    Receive(usize),
}

impl Kicked {
    fn transmit(self, number: usize) -> bool {
        self == Self::Transmit(number)
    }

    fn receive(self, number: usize) -> bool {
        self == Self::Receive(number)
    }
}

/// Takes what a queue has. A kick is cleared, and the next one asked for, only once there is
/// nothing left, and what came before that is not missed.
fn take(
    incoming: &mut Incoming,
    memory: &Memory,
    (number, queue): (usize, &mut Virtqueue),
    mut kicked: bool,
) {
    let mut asked = false;
    loop {
        let taken = incoming.take(memory, number, queue);
        if incoming.is_full() {
            // Nobody kicks for what is there already; of what comes later this is to be told.
            queue.want_kicks(memory, true);
            if queue.available(memory) != queue.taken() {
                queue.kick();
            }
            return;
        }
        if asked && !taken {
            return;
        }
        if std::mem::take(&mut kicked) {
            queue.clear_kick();
        }
        queue.want_kicks(memory, true);
        asked = true;
    }
}

/// Whether payload that would be cut every `segment` bytes is taken as it is, as far as can be said
/// before it is known.
fn takes_whole(caps: Caps, payload: usize, segment: usize) -> bool {
    caps.checksum && (payload <= segment || caps.tcp_segmentation)
}

/// Whether a frame is taken as it is.
fn takes(caps: Caps, offload: &Offload) -> bool {
    let cut = match offload.gso {
        Gso::None => true,
        Gso::TcpV4 | Gso::TcpV6 => caps.tcp_segmentation,
        Gso::Udp => caps.udp_segmentation,
    };
    cut && (caps.checksum || !offload.needs_csum)
}

/// Bytes of the longest frame that `segment` bytes of payload make, with their metadata.
fn longest(header: usize, segment: usize) -> usize {
    MERGEABLE_LEN + (header + segment).max(MIN_FRAME)
}
