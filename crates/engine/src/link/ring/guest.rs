//! The guest's end of a ring link: the driver's side of both queues, as a program of tests.
//!
//! It relies on the device, and panics where that breaks a rule. What a hostile guest does is
//! written to its [region](Guest::region).

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{self, Sender};

use passt_proto::wire::ethernet::MIN_FRAME;
use passt_proto::wire::offload::{MERGEABLE_LEN, Offload};
use passt_sys::shared::{self, Region};
use rustix::event::EventfdFlags;

use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::queue::{Layout, MAX_CHAIN, NEXT, WRITE};
use super::{ControlMessage, Lent, MAX_HEADERS, MAX_PAYLOAD, RingLink, kick};
use crate::link::Caps;
use crate::link::channel::Packet;

/// Memory for frames to the device.
const ARENA: usize = 4 * 1024 * 1024;

/// Sizes of queues and buffers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Descriptors of the queue of frames from the guest.
    pub transmit: u16,
    /// Buffers that the guest can post for frames.
    pub receive: u16,
    /// Bytes of each of these.
    pub buffer: usize,
}

/// The guest.
pub struct Guest {
    region: Region,
    kick: OwnedFd,
    control: OwnedFd,
    messages: Sender<ControlMessage>,
    transmit: Transmit,
    receive: Receive,
}

/// The queue of frames from the guest. Its memory and descriptors are used in turn.
struct Transmit {
    layout: Layout,
    arena: usize,
    /// Frames that the device has: their memory, and how many descriptors they take.
    under_way: VecDeque<(Range<usize>, u16)>,
    /// Where the next frame may be, and its first descriptor.
    end: usize,
    next: u16,
    free: u16,
    available: u16,
    used: u16,
}

/// The queue of buffers for frames. Buffer and descriptor have the same number.
struct Receive {
    layout: Layout,
    buffers: usize,
    buffer: usize,
    /// Buffers that the device does not have.
    free: Vec<u16>,
    available: u16,
    used: u16,
}

impl Guest {
    /// A guest without posted buffers, and the link of its device, that may leave to the guest what
    /// `caps` says.
    pub fn pair(shape: Shape, caps: Caps) -> io::Result<(Self, RingLink)> {
        let transmit = Layout::at(0, shape.transmit);
        let receive = Layout::at(transmit.end(), shape.receive);
        let arena = receive.end();
        let buffers = arena + ARENA;
        let size = (buffers + usize::from(receive.size) * shape.buffer).next_multiple_of(4096);
        let memory = shared::memory(size)?;
        let map = || Region::map(memory.as_fd(), 0, size);
        let event = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (kick, control) = (event()?, event()?);
        let (sender, messages) = mpsc::channel();
        let link = RingLink {
            region: map()?,
            caps,
            kick: kick.try_clone()?,
            new_kick: None,
            control: control.try_clone()?,
            messages,
            incoming: Incoming::new(transmit),
            outgoing: Outgoing::new(receive),
            lent: Lent::default(),
            sending: vec![0; MAX_HEADERS + MAX_PAYLOAD + MIN_FRAME],
        };
        let region = map()?;
        let (transmit, receive) =
            (Transmit::new(transmit, arena), Receive::new(&region, receive, buffers, shape.buffer));
        Ok((Self { region, kick, control, messages: sender, transmit, receive }, link))
    }

    /// The memory that is shared with the device.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Where the queue of frames from the guest is.
    pub fn transmit(&self) -> Layout {
        self.transmit.layout
    }

    /// Where the queue of frames for the guest is.
    pub fn receive(&self) -> Layout {
        self.receive.layout
    }

    /// Tells the device that there is something new.
    pub fn kick(&self) {
        kick(&self.kick);
    }

    /// Leaves to the guest what `caps` says, once the device has heard of it.
    pub fn switch(&self, caps: Caps) {
        self.tell(ControlMessage::Offloads(caps));
    }

    /// Kicks by another eventfd from now on. The former one, which the device is to watch no more,
    /// is returned.
    pub fn change_kick(&mut self) -> io::Result<OwnedFd> {
        let new = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        self.tell(ControlMessage::Kick(new.try_clone()?));
        Ok(std::mem::replace(&mut self.kick, new))
    }

    fn tell(&self, message: ControlMessage) {
        // A device that is gone has no use for it.
        if self.messages.send(message).is_ok() {
            kick(&self.control);
        }
    }

    /// Sends a frame in buffers whose first are as long as `cuts` says, metadata included. False if
    /// there is no room; the device does not look before it is [kicked](Self::kick).
    pub fn send(&mut self, packet: &Packet, cuts: &[usize]) -> bool {
        self.transmit.send(&self.region, packet, cuts)
    }

    /// Gives the device all buffers for frames that it does not have, and tells it so.
    pub fn post(&mut self) {
        self.post_some(usize::MAX);
    }

    /// Gives the device some of them, at most `count`.
    pub fn post_some(&mut self, count: usize) {
        if self.receive.post(&self.region, count) {
            self.kick();
        }
    }

    /// What the device has sent since. The buffers are to be [posted](Self::post) again.
    pub fn take(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.receive.take(&self.region)).collect()
    }
}

impl Transmit {
    fn new(layout: Layout, arena: usize) -> Self {
        let under_way = VecDeque::new();
        Self { layout, arena, under_way, end: 0, next: 0, free: layout.size, available: 0, used: 0 }
    }

    fn send(&mut self, region: &Region, packet: &Packet, cuts: &[usize]) -> bool {
        self.reclaim(region);
        let bytes = [&packet.offload.to_mergeable_bytes(0), packet.bytes.as_slice()].concat();
        let parts = cut(bytes.len(), cuts);
        let count = u16::try_from(parts.len()).expect("a chain");
        let Some(start) = self.room(bytes.len()).filter(|_| count <= self.free) else { return false };
        assert!(region.copy_in(self.arena + start, &bytes));
        let first = self.next % self.layout.size;
        for (place, number) in parts.iter().zip(1..) {
            let flags = if number < count { NEXT } else { 0 };
            let at = self.next % self.layout.size;
            self.next = at + 1;
            let place = self.arena + start + place.start..self.arena + start + place.end;
            describe(region, self.layout, at, place, flags, self.next % self.layout.size);
        }
        offer(region, self.layout, &mut self.available, &[first]);
        self.under_way.push_back((start..start + bytes.len(), count));
        self.end = start + bytes.len();
        self.free -= count;
        true
    }

    /// Takes back what the device has dealt with.
    fn reclaim(&mut self, region: &Region) {
        let used = region.load(self.layout.used_index()).map_or(self.used, u16::from_le);
        for _ in 0..used.wrapping_sub(self.used) {
            let (_, count) = self.under_way.pop_front().expect("a frame of ours");
            self.free += count;
        }
        self.used = used;
    }

    /// Where `len` contiguous bytes are free.
    fn room(&self, len: usize) -> Option<usize> {
        let Some((oldest, _)) = self.under_way.front() else { return Some(0) };
        if self.end <= oldest.start {
            (self.end + len < oldest.start).then_some(self.end)
        } else if self.end + len <= ARENA {
            Some(self.end)
        } else {
            (len < oldest.start).then_some(0)
        }
    }
}

impl Receive {
    fn new(region: &Region, layout: Layout, buffers: usize, buffer: usize) -> Self {
        for number in 0..layout.size {
            let start = buffers + usize::from(number) * buffer;
            describe(region, layout, number, start..start + buffer, WRITE, 0);
        }
        Self { layout, buffers, buffer, free: (0..layout.size).collect(), available: 0, used: 0 }
    }

    fn post(&mut self, region: &Region, count: usize) -> bool {
        let numbers: Vec<u16> = self.free.drain(..count.min(self.free.len())).collect();
        offer(region, self.layout, &mut self.available, &numbers);
        !numbers.is_empty()
    }

    /// The next frame, from as many buffers as its metadata say.
    fn take(&mut self, region: &Region) -> Option<Packet> {
        let mut bytes = self.part(region)?;
        let (metadata, _) = bytes.split_first_chunk::<MERGEABLE_LEN>().expect("metadata in the first buffer");
        let offload = Offload::from_bytes(metadata).expect("metadata");
        let buffers = u16::from_le_bytes([metadata[MERGEABLE_LEN - 2], metadata[MERGEABLE_LEN - 1]]);
        assert!(buffers > 0);
        for _ in 1..buffers {
            bytes.append(&mut self.part(region).expect("all buffers of a frame at once"));
        }
        bytes.drain(..MERGEABLE_LEN);
        Some(Packet { bytes, offload })
    }

    /// What the device wrote to the next buffer.
    fn part(&mut self, region: &Region) -> Option<Vec<u8>> {
        let used = u16::from_le(region.load(self.layout.used_index())?);
        if used == self.used {
            return None;
        }
        let mut entry = [0; 8];
        assert!(region.copy_out(self.layout.used_entry(self.used), &mut entry));
        self.used = self.used.wrapping_add(1);
        let [a, b, c, d, len @ ..] = entry;
        let number = u16::try_from(u32::from_le_bytes([a, b, c, d])).expect("a buffer");
        let len = usize::try_from(u32::from_le_bytes(len)).expect("a length");
        assert!(number < self.layout.size && len <= self.buffer, "{len} bytes in buffer {number}");
        let mut bytes = vec![0; len];
        assert!(region.copy_out(self.buffers + usize::from(number) * self.buffer, &mut bytes));
        self.free.push(number);
        Some(bytes)
    }
}

/// Pieces of `len` bytes: as long as `cuts` says, and the rest.
fn cut(len: usize, cuts: &[usize]) -> Vec<Range<usize>> {
    let mut start = 0;
    let mut parts = Vec::new();
    for size in cuts.iter().take(MAX_CHAIN - 1) {
        let end = len.min(start + size);
        parts.push(start..end);
        start = end;
    }
    parts.push(start..len);
    parts
}

/// Writes descriptor `number` of a queue.
fn describe(region: &Region, layout: Layout, number: u16, place: Range<usize>, flags: u16, next: u16) {
    let len = u32::try_from(place.len()).expect("a buffer");
    let [a, b] = flags.to_le_bytes();
    let [c, d] = next.to_le_bytes();
    let at = layout.descriptor(number);
    assert!(region.copy_in(at, &(place.start as u64).to_le_bytes()));
    assert!(region.copy_in(at + 8, &len.to_le_bytes()) && region.copy_in(at + 12, &[a, b, c, d]));
}

/// Makes chains available to the device.
fn offer(region: &Region, layout: Layout, available: &mut u16, heads: &[u16]) {
    for head in heads {
        assert!(region.store(layout.available_entry(*available), head.to_le()));
        *available = available.wrapping_add(1);
    }
    assert!(region.store(layout.available_index(), available.to_le()));
}
