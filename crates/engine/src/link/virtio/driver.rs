//! The driver's side of both queues, as a program of tests has it.
//!
//! It relies on the device, and panics where that breaks a rule.

use std::collections::VecDeque;
use std::ops::Range;

use passt_proto::wire::offload::{MERGEABLE_LEN, Offload};
use passt_sys::shared::Region;

use super::MAX_PARTS;
use super::queue::{INDIRECT, Layout, NEXT, WRITE};
use crate::link::channel::Packet;

/// Memory for frames to the device.
pub(in crate::link) const ARENA: usize = 4 * 1024 * 1024;

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;

/// What driver and device have agreed on.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::link) struct Terms {
    /// The guest's address of what is at the start of the region.
    pub(in crate::link) base: usize,
    /// Frames are described in tables of their own.
    pub(in crate::link) indirect: bool,
    /// Notifications are asked for by indices.
    pub(in crate::link) event_index: bool,
}

/// The queue of frames from the guest. Its memory and descriptors are used in turn.
pub(in crate::link) struct Transmit {
    layout: Layout,
    terms: Terms,
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
pub(in crate::link) struct Receive {
    layout: Layout,
    terms: Terms,
    buffers: usize,
    buffer: usize,
    /// Buffers that the device does not have.
    free: Vec<u16>,
    available: u16,
    used: u16,
}

impl Transmit {
    /// A queue of which nothing is in use, in a region that has [`ARENA`] bytes for frames from
    /// `arena` on.
    pub(in crate::link) fn new(layout: Layout, terms: Terms, arena: usize) -> Self {
        let under_way = VecDeque::new();
        let free = layout.size;
        Self { layout, terms, arena, under_way, end: 0, next: 0, free, available: 0, used: 0 }
    }

    /// Where it is in the region.
    pub(in crate::link) fn layout(&self) -> Layout {
        self.layout
    }

    /// Index of the available ring.
    pub(in crate::link) fn available(&self) -> u16 {
        self.available
    }

    /// Sends a frame in buffers whose first are as long as `cuts` says; false if there is no room.
    pub(in crate::link) fn send(&mut self, region: &Region, packet: &Packet, cuts: &[usize]) -> bool {
        self.reclaim(region);
        let bytes = [&packet.offload.to_mergeable_bytes(0), packet.bytes.as_slice()].concat();
        let parts = cut(bytes.len(), cuts);
        let table = if self.terms.indirect { (1 + parts.len()) * DESCRIPTOR } else { 0 };
        let count = if table > 0 { 1 } else { u16::try_from(parts.len()).expect("a chain") };
        let len = bytes.len() + table;
        let Some(start) = self.room(len).filter(|_| count <= self.free) else { return false };
        assert!(region.copy_in(self.arena + start, &bytes));
        let first = self.next % self.layout.size;
        if table > 0 {
            self.refer(region, start, &parts);
        } else {
            self.chain(region, start, &parts);
        }
        self.offer(region, first, start..start + len, count);
        true
    }

    /// Makes a frame available to the device that has been described.
    fn offer(&mut self, region: &Region, first: u16, place: Range<usize>, count: u16) {
        offer(region, self.layout, &mut self.available, &[first]);
        self.end = place.end;
        self.under_way.push_back((place, count));
        self.free -= count;
    }

    /// Sends a frame with these headers and `payload` bytes of whatever is in memory there; false if
    /// there is no room.
    pub(in crate::link) fn send_any(&mut self, region: &Region, headers: &Packet, payload: usize) -> bool {
        self.reclaim(region);
        let head = [&headers.offload.to_mergeable_bytes(0), headers.bytes.as_slice()].concat();
        let len = head.len() + payload;
        let Some(start) = self.room(len).filter(|_| self.free > 0) else { return false };
        assert!(region.copy_in(self.arena + start, &head));
        let first = self.next % self.layout.size;
        self.chain(region, start, std::slice::from_ref(&(0..len)));
        self.offer(region, first, start..start + len, 1);
        true
    }

    /// Describes a frame at `start` by a chain.
    fn chain(&mut self, region: &Region, start: usize, parts: &[Range<usize>]) {
        let (count, base) = (parts.len(), self.terms.base);
        for (place, number) in parts.iter().zip(1..) {
            let flags = if number < count { NEXT } else { 0 };
            let at = self.next % self.layout.size;
            self.next = at + 1;
            let start = base + self.arena + start;
            let (place, next) = (start + place.start..start + place.end, self.next % self.layout.size);
            describe(region, self.layout.descriptor(at), place, flags, next);
        }
    }

    /// Describes it by a table behind it, to which one descriptor refers.
    fn refer(&mut self, region: &Region, start: usize, parts: &[Range<usize>]) {
        let (base, frame) = (self.terms.base, self.arena + start);
        let end = frame + parts.last().map_or(0, |part| part.end);
        let table = end.next_multiple_of(DESCRIPTOR);
        for (number, part) in (0u16..).zip(parts) {
            let is_last = usize::from(number) + 1 == parts.len();
            let place = base + frame + part.start..base + frame + part.end;
            let flags = if is_last { 0 } else { NEXT };
            describe(region, table + DESCRIPTOR * usize::from(number), place, flags, number + 1);
        }
        let at = self.next % self.layout.size;
        self.next = at + 1;
        let place = base + table..base + table + DESCRIPTOR * parts.len();
        // The device is to ignore that it says WRITE (virtio 1.2, section 2.7.5.3.2).
        describe(region, self.layout.descriptor(at), place, INDIRECT | WRITE, 0);
    }

    /// Whether the device wants to be told of what was added since the index was `before`.
    pub(in crate::link) fn wants_kick(&self, region: &Region, before: u16) -> bool {
        wants_kick(region, self.layout, self.terms, before, self.available)
    }

    /// Takes back what the device has dealt with.
    fn reclaim(&mut self, region: &Region) {
        let used = region.load(self.layout.used_index()).map_or(self.used, u16::from_le);
        for _ in 0..used.wrapping_sub(self.used) {
            let (_, count) = self.under_way.pop_front().expect("a frame of ours");
            self.free += count;
        }
        self.used = used;
        await_used(region, self.layout, self.terms, used);
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
    /// A queue of which nothing is posted, whose buffers of `buffer` bytes are at `buffers`.
    pub(in crate::link) fn new(
        region: &Region,
        layout: Layout,
        terms: Terms,
        (buffers, buffer): (usize, usize),
    ) -> Self {
        for number in 0..layout.size {
            let start = terms.base + buffers + usize::from(number) * buffer;
            describe(region, layout.descriptor(number), start..start + buffer, WRITE, 0);
        }
        let free = (0..layout.size).collect();
        Self { layout, terms, buffers, buffer, free, available: 0, used: 0 }
    }

    /// Where it is in the region.
    pub(in crate::link) fn layout(&self) -> Layout {
        self.layout
    }

    /// Index of the available ring.
    pub(in crate::link) fn available(&self) -> u16 {
        self.available
    }

    /// Whether the device wants to be told of what was posted since the index was `before`.
    pub(in crate::link) fn wants_kick(&self, region: &Region, before: u16) -> bool {
        wants_kick(region, self.layout, self.terms, before, self.available)
    }

    /// Gives the device some buffers, at most `count`; whether it was any.
    pub(in crate::link) fn post(&mut self, region: &Region, count: usize) -> bool {
        let numbers: Vec<u16> = self.free.drain(..count.min(self.free.len())).collect();
        offer(region, self.layout, &mut self.available, &numbers);
        !numbers.is_empty()
    }

    /// The next frame, from as many buffers as its metadata say.
    pub(in crate::link) fn take(&mut self, region: &Region) -> Option<Packet> {
        let (mut bytes, _) = self.part(region, usize::MAX)?;
        let (metadata, _) = bytes.split_first_chunk::<MERGEABLE_LEN>().expect("metadata in the first buffer");
        let offload = Offload::from_bytes(metadata).expect("metadata");
        let buffers = u16::from_le_bytes([metadata[MERGEABLE_LEN - 2], metadata[MERGEABLE_LEN - 1]]);
        assert!(buffers > 0);
        for _ in 1..buffers {
            let (mut part, _) = self.part(region, usize::MAX).expect("all buffers of a frame at once");
            bytes.append(&mut part);
        }
        bytes.drain(..MERGEABLE_LEN);
        Some(Packet { bytes, offload })
    }

    /// The next frame's headers, `most` bytes of it at most and no more than one buffer has, and how
    /// long it is.
    pub(in crate::link) fn take_head(&mut self, region: &Region, most: usize) -> Option<(Vec<u8>, usize)> {
        let (mut bytes, mut len) = self.part(region, MERGEABLE_LEN + most)?;
        for _ in 1..u16::from_le_bytes([bytes[MERGEABLE_LEN - 2], bytes[MERGEABLE_LEN - 1]]) {
            len += self.part(region, 0).expect("all buffers of a frame at once").1;
        }
        bytes.drain(..MERGEABLE_LEN);
        Some((bytes, len - MERGEABLE_LEN))
    }

    /// What the device wrote to the next buffer, `most` bytes of it at most, and how much that was.
    fn part(&mut self, region: &Region, most: usize) -> Option<(Vec<u8>, usize)> {
        let used = u16::from_le(region.load(self.layout.used_index())?);
        if used == self.used {
            return None;
        }
        let mut entry = [0; 8];
        assert!(region.copy_out(self.layout.used_entry(self.used), &mut entry));
        self.used = self.used.wrapping_add(1);
        await_used(region, self.layout, self.terms, self.used);
        let [a, b, c, d, len @ ..] = entry;
        let number = u16::try_from(u32::from_le_bytes([a, b, c, d])).expect("a buffer");
        let len = usize::try_from(u32::from_le_bytes(len)).expect("a length");
        assert!(number < self.layout.size && len <= self.buffer, "{len} bytes in buffer {number}");
        let mut bytes = vec![0; len.min(most)];
        assert!(region.copy_out(self.buffers + usize::from(number) * self.buffer, &mut bytes));
        self.free.push(number);
        Some((bytes, len))
    }
}

/// Pieces of `len` bytes: as long as `cuts` says, and the rest.
fn cut(len: usize, cuts: &[usize]) -> Vec<Range<usize>> {
    let mut start = 0;
    let mut parts = Vec::new();
    for size in cuts.iter().take(MAX_PARTS - 1) {
        let end = len.min(start + size);
        parts.push(start..end);
        start = end;
    }
    parts.push(start..len);
    parts
}

/// Writes a descriptor.
fn describe(region: &Region, at: usize, place: Range<usize>, flags: u16, next: u16) {
    let len = u32::try_from(place.len()).expect("a buffer");
    let [a, b] = flags.to_le_bytes();
    let [c, d] = next.to_le_bytes();
    assert!(region.copy_in(at, &(place.start as u64).to_le_bytes()));
    assert!(region.copy_in(at + 8, &len.to_le_bytes()) && region.copy_in(at + 12, &[a, b, c, d]));
}

/// Asks to be interrupted once the device has used more (virtio 1.2, section 2.7.7).
fn await_used(region: &Region, layout: Layout, terms: Terms, used: u16) {
    if terms.event_index {
        assert!(region.store(layout.used_event(), used.to_le()));
    }
}

/// Whether the device wants to be told that its index has moved (section 2.7.10).
fn wants_kick(region: &Region, layout: Layout, terms: Terms, before: u16, now: u16) -> bool {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    if terms.event_index {
        let event = region.load(layout.available_event()).map_or(0, u16::from_le);
        return now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before);
    }
    before != now && region.load(layout.used).map_or(0, u16::from_le) & 1 == 0
}

/// Makes chains available to the device.
fn offer(region: &Region, layout: Layout, available: &mut u16, heads: &[u16]) {
    for head in heads {
        assert!(region.store(layout.available_entry(*available), head.to_le()));
        *available = available.wrapping_add(1);
    }
    assert!(region.store(layout.available_index(), available.to_le()));
}
