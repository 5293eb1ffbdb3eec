//! Frames from the guest: chains of its transmit queues.

use std::ops::Range;

use passt_proto::wire::offload::{MERGEABLE_LEN, Offload};
use passt_proto::wire::stream::MAX_FRAME;
use passt_sys::iovec::{self, Gather};
use passt_sys::shared::Memory;

use super::Pair;
use super::queue::{Access, Virtqueue, places};
use crate::link::{Frame, HEAD_LEN};

/// Bytes of frames that are taken at most before they are dealt with, as for the tap link.
const BATCH_BYTES: usize = 384 * 1024;
/// Frames taken at most before they are dealt with.
const BATCH_FRAMES: usize = 1024;
/// Buffers of all frames taken at most: there is memory for so many from the start, and a sealed
/// process gets no more.
const BATCH_PARTS: usize = 8192;
/// Buffers of one frame, so that it fits a list.
pub(in crate::link) const MAX_PARTS: usize = 256;

/// The last batch.
pub(super) struct Incoming {
    frames: Vec<Received>,
    /// Buffers of all frames.
    parts: Vec<Range<usize>>,
    /// The first [`HEAD_LEN`] bytes of each frame.
    heads: Vec<u8>,
    bytes: usize,
}

/// A chain of the guest, lent until the batch ends.
struct Received {
    /// Number of the queue.
    queue: usize,
    /// Its first descriptor; `None` where the queue itself is broken.
    chain: Option<u16>,
    /// Its buffers, among those of all.
    parts: Range<usize>,
    /// Length of the frame, and its metadata; `None` if it is none.
    content: Option<(usize, Offload)>,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            frames: Vec::with_capacity(BATCH_FRAMES),
            parts: Vec::with_capacity(BATCH_PARTS),
            heads: vec![0; BATCH_FRAMES * HEAD_LEN],
            bytes: 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.frames.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.frames.capacity() + self.parts.capacity()
    }

    pub(super) fn is_full(&self) -> bool {
        let has_room = self.parts.len() + MAX_PARTS <= BATCH_PARTS;
        self.frames.len() == BATCH_FRAMES || self.bytes >= BATCH_BYTES || !has_room
    }

    /// Number of the queue that frame `index` came by.
    pub(super) fn queue(&self, index: usize) -> usize {
        self.frames.get(index).map_or(0, |frame| frame.queue)
    }

    /// Gives the last batch back to the guest.
    pub(super) fn end_batch(&mut self, memory: &Memory, pairs: &mut [Pair]) {
        if self.frames.is_empty() {
            return;
        }
        for frame in &self.frames {
            if let Some(chain) = frame.chain
                && let Some(pair) = pairs.get_mut(frame.queue)
            {
                pair.transmit.give_back(memory, chain, 0);
            }
        }
        for pair in pairs {
            pair.transmit.publish(memory);
        }
        self.frames.clear();
        self.parts.clear();
        self.bytes = 0;
    }

    /// Takes what is available in queue `number`, as far as it fits the batch; whether it was
    /// anything.
    pub(super) fn take(&mut self, memory: &Memory, number: usize, queue: &mut Virtqueue) -> bool {
        let before = self.frames.len();
        while !self.is_full() {
            let (chain, parts) = match queue.take(memory) {
                Ok(None) => break,
                Ok(Some(head)) => self.parts_of(memory, queue, head),
                Err(_) => (None, 0..0),
            };
            if chain.is_none() {
                queue.fail();
            }
            // What can't be sent is thrown away ("Ring states").
            if chain.is_some() && !queue.enabled {
                self.frames.push(Received { queue: number, chain, parts, content: None });
                continue;
            }
            let content = self.content(memory, parts.clone());
            self.bytes += content.map_or(0, |(len, _)| len);
            self.frames.push(Received { queue: number, chain, parts, content });
        }
        self.frames.len() > before
    }

    /// A chain with its buffers, or with none where no frame has so many; nothing where it makes no
    /// sense.
    fn parts_of(&mut self, memory: &Memory, queue: &Virtqueue, head: u16) -> (Option<u16>, Range<usize>) {
        let first = self.parts.len();
        let chain = queue.chain(memory, head, Access::Read, &mut self.parts, MAX_PARTS);
        if !matches!(chain, Ok(true)) {
            self.parts.truncate(first);
        }
        (chain.ok().map(|_| head), first..self.parts.len())
    }

    /// Copies what is to be looked at of a chain.
    fn content(&mut self, memory: &Memory, parts: Range<usize>) -> Option<(usize, Offload)> {
        let parts = self.parts.get(parts)?;
        let total: usize = parts.iter().map(Range::len).sum();
        // One without buffers has no metadata.
        let len = total.checked_sub(MERGEABLE_LEN).filter(|len| *len <= MAX_FRAME)?;
        let mut metadata = [0; MERGEABLE_LEN];
        let start = self.frames.len() * HEAD_LEN;
        let head = self.heads.get_mut(start..start + len.min(HEAD_LEN))?;
        (copy_out(memory, parts, 0, &mut metadata) && copy_out(memory, parts, MERGEABLE_LEN, head))
            .then_some(())?;
        Some((len, Offload::from_bytes(&metadata).ok()?))
    }

    pub(super) fn frame(&self, index: usize) -> Option<Frame<'_>> {
        let (len, offload) = self.frames.get(index)?.content?;
        Some(Frame { head: self.head(index, len)?, len, offload })
    }

    fn head(&self, index: usize, len: usize) -> Option<&[u8]> {
        let start = index * HEAD_LEN;
        self.heads.get(start..start + len.min(HEAD_LEN))
    }

    /// Of the head what was looked at, of the rest what is there by now.
    pub(super) fn payload<'a>(
        &'a self,
        memory: &'a Memory,
        index: usize,
        range: Range<usize>,
        into: &mut Gather<'a>,
    ) -> Option<()> {
        let frame = self.frames.get(index)?;
        let (len, _) = frame.content.filter(|(len, _)| range.start <= range.end && range.end <= *len)?;
        let head = self.head(index, len)?;
        let looked_at = head.get(range.start.min(head.len())..range.end.min(head.len()))?;
        let skip = MERGEABLE_LEN + range.start + looked_at.len();
        let parts = self.parts.get(frame.parts.clone())?;
        let rest = || places(parts, skip, range.len() - looked_at.len());
        // All or nothing, though a buffer may lie in several regions.
        let pieces: Option<usize> = rest().map(|place| memory.pieces(place)).sum();
        if into.len() + usize::from(!looked_at.is_empty()) + pieces? > iovec::MAX {
            return None;
        }
        let fits = looked_at.is_empty() || into.push(looked_at);
        (fits && rest().all(|place| memory.gather(place, into))).then_some(())
    }
}

/// Fills `out` with what lies behind the first `skip` bytes of some buffers.
fn copy_out(memory: &Memory, parts: &[Range<usize>], skip: usize, out: &mut [u8]) -> bool {
    let mut done = 0;
    for place in places(parts, skip, out.len()) {
        let end = done + place.len();
        if !out.get_mut(done..end).is_some_and(|out| memory.copy_out(place.start, out)) {
            return false;
        }
        done = end;
    }
    done == out.len()
}
