//! Frames for the guest: buffers that it posted in a receive queue, as many for each as it takes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::{MERGEABLE_LEN, Offload};
use passt_sys::iovec::Scatter;
use passt_sys::shared::Memory;

use super::queue::{Access, Virtqueue, places};

/// Buffers looked at for one frame: no more fit a list with what else there may be.
const MOST_PARTS: usize = 256;
/// Buffers that are known at most, more than most queues have: there is memory for so many from the
/// start, and a sealed process gets no more.
const POSTED: usize = 4096;
/// The part of all buffers that is left to frames without payload, acknowledgements foremost.
const SPARE: usize = 16;

/// Buffers that the guest posted.
pub(in crate::link) struct Outgoing {
    pub(in crate::link) queue: Virtqueue,
    /// A frame may take several chains (`VIRTIO_NET_F_MRG_RXBUF`).
    pub(in crate::link) mergeable: bool,
    posted: VecDeque<Buffer>,
    /// Memory for the buffers of a chain.
    parts: Vec<Range<usize>>,
    /// Chains that made no sense since that was last asked.
    malformed: usize,
    /// The index of the available ring up to which there was no room.
    exhausted: Option<u16>,
    /// Somebody lacked room, or saw that there was none, since all who waited were called.
    awaited: Cell<bool>,
    /// There is room again, of which not all know who waited for it.
    refilled: bool,
}

/// A part of a chain.
struct Buffer {
    chain: u16,
    place: Range<usize>,
    is_last: bool,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            queue: Virtqueue::default(),
            mergeable: true,
            posted: VecDeque::with_capacity(POSTED),
            parts: Vec::with_capacity(MOST_PARTS),
            malformed: 0,
            exhausted: None,
            awaited: Cell::new(false),
            refilled: false,
        }
    }

    pub(super) fn take_malformed(&mut self) -> usize {
        std::mem::take(&mut self.malformed)
    }

    /// Whether frames can be sent at all.
    pub(super) fn is_open(&self) -> bool {
        self.queue.enabled && self.queue.is_running()
    }

    /// Uses the queue no more, which begins anew at the entry returned, if it was in use: what was
    /// taken of it and not used is to be taken again.
    pub(in crate::link) fn stop(&mut self) -> Option<u16> {
        let unused = self.posted.iter().filter(|buffer| buffer.is_last).count();
        self.posted.clear();
        (self.exhausted, self.refilled) = (None, false);
        // No more were taken than a ring has.
        let unused = u16::try_from(unused).unwrap_or(u16::MAX);
        self.queue.stop().map(|taken| taken.wrapping_sub(unused))
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.posted.capacity() + self.parts.capacity()
    }

    /// Descriptors of the queue.
    fn size(&self) -> usize {
        self.queue.layout().map_or(0, |layout| layout.size.into())
    }

    /// Buffers that payload may have.
    fn most(&self) -> usize {
        self.posted.len().saturating_sub(self.size() / SPARE)
    }

    /// Takes note of what the guest has posted.
    pub(super) fn fetch(&mut self, memory: &Memory) {
        // A guest may post faster than this looks, and the same chain again and again.
        for _ in 0..self.size() {
            if !self.has_room() {
                break;
            }
            match self.queue.take(memory) {
                Ok(None) => break,
                Ok(Some(head)) if self.post(memory, head) => {}
                _ => {
                    self.malformed += 1;
                    self.queue.fail();
                    self.posted.clear();
                    break;
                }
            }
        }
    }

    /// Takes note of a chain; false if it makes no sense.
    fn post(&mut self, memory: &Memory, head: u16) -> bool {
        self.parts.clear();
        // What lies behind the buffers that a frame can have is not used.
        if self.queue.chain(memory, head, Access::Write, &mut self.parts, MOST_PARTS).is_err() {
            return false;
        }
        // One without room is given back in its turn.
        if self.parts.is_empty() {
            self.parts.push(0..0);
        }
        let last = self.parts.len();
        let buffer = |(place, number)| Buffer { chain: head, place, is_last: number == last };
        self.posted.extend(self.parts.drain(..).zip(1..).map(buffer));
        true
    }

    /// Whether another chain can be taken note of.
    fn has_room(&self) -> bool {
        self.posted.len() + MOST_PARTS <= POSTED
    }

    /// Whether the guest can't post more before it gets something.
    pub(super) fn is_complete(&self) -> bool {
        self.posted.len() >= self.size() || !self.has_room()
    }

    /// How many frames of `len` bytes with their metadata there is room for, up to `wanted`, that
    /// may have to wait.
    pub(super) fn frames(&self, len: usize, wanted: usize) -> usize {
        let most = self.most();
        let mut from = 0;
        (0..wanted)
            .take_while(|_| self.end_of(from, len).filter(|end| *end <= most).map(|end| from = end).is_some())
            .count()
    }

    /// Bytes that one frame may have, with its metadata, that may have to wait.
    pub(super) fn longest(&self) -> usize {
        let most = self.most().min(MOST_PARTS);
        let mut looked_at = self.posted.iter().take(most);
        // What follows the last whole chain does not count.
        let whole = if self.mergeable {
            looked_at.rposition(|buffer| buffer.is_last)
        } else {
            looked_at.position(|buffer| buffer.is_last)
        };
        let whole = whole.map_or(0, |last| last + 1);
        self.posted.iter().take(whole).map(|buffer| buffer.place.len()).sum()
    }

    /// The end of the buffers, from number `from` on, that a frame of `len` bytes takes: whole
    /// chains.
    fn end_of(&self, from: usize, len: usize) -> Option<usize> {
        let (mut room, mut chains) = (0, 0);
        let enough = |(_, buffer): &(usize, &Buffer)| {
            room += buffer.place.len();
            chains += usize::from(buffer.is_last);
            buffer.is_last && (room >= len || !self.mergeable)
        };
        let found = self.posted.iter().enumerate().skip(from).take(MOST_PARTS).find(enough);
        found.filter(|_| room >= len && (self.mergeable || chains == 1)).map(|(at, _)| at + 1)
    }

    /// Appends the room for `payload` bytes behind `header` bytes, metadata included, of the next
    /// frame.
    pub(super) fn lend<'a>(
        &'a self,
        memory: &'a Memory,
        header: usize,
        payload: usize,
        into: &mut Scatter<'a>,
    ) -> bool {
        self.places(header, payload).all(|place| memory.scatter(place, into))
    }

    /// Where the `len` bytes behind the first `skip` of the next frame are.
    pub(super) fn places(&self, skip: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
        places(self.posted.iter().take(MOST_PARTS).map(|buffer| &buffer.place), skip, len)
    }

    /// Copies what lies in the room that was lent, behind `header` bytes, metadata included.
    pub(super) fn copy_out(&self, memory: &Memory, header: usize, out: &mut [u8]) -> Option<()> {
        let mut done = 0;
        for place in self.places(header, out.len()) {
            let end = done + place.len();
            memory.copy_out(place.start, out.get_mut(done..end)?).then_some(())?;
            done = end;
        }
        (done == out.len()).then_some(())
    }

    /// Sends a frame that begins with `start`. The rest of its `len` bytes are in the buffers
    /// already.
    pub(super) fn send(
        &mut self,
        memory: &Memory,
        offload: &Offload,
        start: &[u8],
        len: usize,
    ) -> Result<(), DropReason> {
        if !self.is_open() {
            return Err(DropReason::LinkWrite);
        }
        let len = MERGEABLE_LEN + len;
        let end = self.end_of(0, len).ok_or(DropReason::LinkBusy)?;
        let chains = self.posted.iter().take(end).filter(|buffer| buffer.is_last).count();
        let metadata = offload.to_mergeable_bytes(u16::try_from(chains).map_err(|_| DropReason::LinkBusy)?);
        self.write(memory, 0, &metadata);
        self.write(memory, MERGEABLE_LEN, start);
        let (mut left, mut room) = (len, 0);
        for buffer in self.posted.drain(..end) {
            room += buffer.place.len();
            if buffer.is_last {
                let used = left.min(room);
                self.queue.give_back(memory, buffer.chain, used);
                (left, room) = (left - used, 0);
            }
        }
        self.queue.publish(memory);
        Ok(())
    }

    /// Writes to the next frame, behind its first `skip` bytes.
    fn write(&self, memory: &Memory, skip: usize, bytes: &[u8]) {
        let mut done = 0;
        for place in self.places(skip, bytes.len()) {
            let end = done + place.len();
            // Places are in memory, or were, and no longer than what is to be written in all.
            let _ = bytes.get(done..end).is_some_and(|bytes| memory.copy_in(place.start, bytes));
            done = end;
        }
    }

    /// Notes that `len` bytes of the next frame, behind its first `skip`, were written by the kernel.
    pub(super) fn mark(&self, memory: &Memory, skip: usize, len: usize) {
        self.places(skip, len).for_each(|place| memory.mark(place));
    }

    /// There was no room for something: the guest is to say when there is more.
    pub(super) fn exhaust(&mut self, memory: &Memory) {
        self.awaited.set(true);
        // What was posted since it was looked at counts.
        if self.exhausted != Some(self.queue.taken()) {
            self.exhausted = Some(self.queue.taken());
            self.queue.want_kicks(memory, true);
        }
    }

    /// The guest need not say that there is more.
    pub(super) fn relieve(&mut self, memory: &Memory) {
        if self.exhausted.take().is_some() {
            self.queue.want_kicks(memory, false);
            self.refilled = true;
        }
    }

    /// All who waited have been called. What was posted is no news any more if nobody looked for it:
    /// a flow that waited for it may go by another queue by now.
    pub(super) fn resumed(&mut self, memory: &Memory) {
        self.refilled = false;
        let is_awaited = self.awaited.take();
        if !is_awaited && self.exhausted.is_some() && !self.is_exhausted(memory) {
            self.exhausted = None;
            self.queue.want_kicks(memory, false);
        }
    }

    /// Whether there may be room for those who waited.
    pub(super) fn has_news(&self, memory: &Memory) -> bool {
        let posted = |index: u16| index != self.queue.available(memory);
        self.refilled || self.exhausted.is_some_and(posted)
    }

    /// Whether there was no room, and the guest has posted nothing since.
    pub(super) fn is_exhausted(&self, memory: &Memory) -> bool {
        let is_exhausted = self.exhausted.is_some_and(|index| index == self.queue.available(memory));
        if is_exhausted {
            self.awaited.set(true);
        }
        is_exhausted
    }
}
