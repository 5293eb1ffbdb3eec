//! Frames from the guest: chains of its transmit queue.

use std::ops::Range;

use passt_proto::wire::offload::{MERGEABLE_LEN, Offload};
use passt_proto::wire::stream::MAX_FRAME;
use passt_sys::iovec::{self, Gather};
use passt_sys::shared::Region;

use super::queue::{Access, Layout, Virtqueue, places};
use crate::link::{Frame, HEAD_LEN};

/// Bytes of frames that are taken at most before they are dealt with, as for the tap link.
const BATCH_BYTES: usize = 384 * 1024;
/// Frames taken at most before they are dealt with.
const BATCH_FRAMES: usize = 1024;

/// The last batch.
pub(super) struct Incoming {
    queue: Virtqueue,
    frames: Vec<Received>,
    /// Buffers of all frames.
    parts: Vec<Range<usize>>,
    /// The first [`HEAD_LEN`] bytes of each frame.
    heads: Vec<u8>,
    bytes: usize,
}

/// A chain of the guest, lent until the batch ends.
struct Received {
    /// Its first descriptor; `None` where the ring itself is broken.
    chain: Option<u16>,
    /// Its buffers, among those of all.
    parts: Range<usize>,
    /// Length of the frame, and its metadata; `None` if it is none.
    content: Option<(usize, Offload)>,
}

impl Incoming {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            queue: Virtqueue::new(layout),
            frames: Vec::with_capacity(BATCH_FRAMES),
            parts: Vec::new(),
            heads: vec![0; BATCH_FRAMES * HEAD_LEN],
            bytes: 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.frames.len() == BATCH_FRAMES || self.bytes >= BATCH_BYTES
    }

    /// Gives the last batch back to the guest.
    pub(super) fn end_batch(&mut self, region: &Region) {
        if self.frames.is_empty() {
            return;
        }
        for chain in self.frames.iter().filter_map(|frame| frame.chain) {
            self.queue.give_back(region, chain, 0);
        }
        self.queue.publish(region);
        self.frames.clear();
        self.parts.clear();
        self.bytes = 0;
    }

    /// Takes what is available, as far as it fits the batch; whether it was anything.
    pub(super) fn take(&mut self, region: &Region) -> bool {
        let before = self.frames.len();
        while !self.is_full() {
            let chain = match self.queue.take(region) {
                Ok(None) => break,
                Ok(Some(head)) => Some(head),
                Err(_) => None,
            };
            let frame = self.look_at(region, chain);
            self.frames.push(frame);
        }
        self.frames.len() > before
    }

    /// Copies what is to be looked at of a chain.
    fn look_at(&mut self, region: &Region, chain: Option<u16>) -> Received {
        let first = self.parts.len();
        let buffers = chain.and_then(|head| self.queue.chain(region, head, Access::Read));
        self.parts.extend(buffers.unwrap_or_default());
        let parts = first..self.parts.len();
        // One without buffers has no metadata.
        let content = self.content(region, parts.clone());
        self.bytes += content.map_or(0, |(len, _)| len);
        Received { chain, parts, content }
    }

    fn content(&mut self, region: &Region, parts: Range<usize>) -> Option<(usize, Offload)> {
        let parts = self.parts.get(parts)?;
        let total: usize = parts.iter().map(Range::len).sum();
        let len = total.checked_sub(MERGEABLE_LEN).filter(|len| *len <= MAX_FRAME)?;
        let mut metadata = [0; MERGEABLE_LEN];
        let start = self.frames.len() * HEAD_LEN;
        let head = self.heads.get_mut(start..start + len.min(HEAD_LEN))?;
        (copy_out(region, parts, 0, &mut metadata) && copy_out(region, parts, MERGEABLE_LEN, head))
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
        region: &'a Region,
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
        if into.len() + usize::from(!looked_at.is_empty()) + rest().count() > iovec::MAX {
            return None;
        }
        let fits = looked_at.is_empty() || into.push(looked_at);
        (fits && rest().all(|place| region.gather(place, into))).then_some(())
    }
}

/// Fills `out` with what lies behind the first `skip` bytes of some buffers.
fn copy_out(region: &Region, parts: &[Range<usize>], skip: usize, out: &mut [u8]) -> bool {
    let mut done = 0;
    for place in places(parts, skip, out.len()) {
        let end = done + place.len();
        if !out.get_mut(done..end).is_some_and(|out| region.copy_out(place.start, out)) {
            return false;
        }
        done = end;
    }
    done == out.len()
}
