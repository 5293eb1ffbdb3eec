//! Frames for the guest: buffers that it posted in its receive queue, as many for each as it takes.

use std::collections::VecDeque;
use std::ops::Range;

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::{MERGEABLE_LEN, Offload};
use passt_sys::iovec::Scatter;
use passt_sys::shared::Region;

use super::queue::{Access, Layout, Virtqueue, places};

/// Buffers looked at for one frame: no more fit a list with what else there may be.
const MOST_PARTS: usize = 256;
/// The part of all buffers that is left to frames without payload, acknowledgements foremost.
const SPARE: u16 = 16;

/// Buffers that the guest posted.
pub(super) struct Outgoing {
    queue: Virtqueue,
    posted: VecDeque<Buffer>,
    /// Descriptors of the queue, and how many buffers are left to others than payload.
    size: usize,
    spare: usize,
    /// Chains that made no sense since that was last asked.
    malformed: usize,
    /// The index of the available ring up to which there was no room.
    exhausted: Option<u16>,
}

/// A part of a chain.
struct Buffer {
    chain: u16,
    place: Range<usize>,
    is_last: bool,
}

impl Outgoing {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            queue: Virtqueue::new(layout),
            posted: VecDeque::new(),
            size: layout.size.into(),
            spare: usize::from(layout.size / SPARE),
            malformed: 0,
            exhausted: None,
        }
    }

    pub(super) fn take_malformed(&mut self) -> usize {
        std::mem::take(&mut self.malformed)
    }

    /// Takes note of what the guest has posted.
    pub(super) fn fetch(&mut self, region: &Region) {
        let before = self.malformed;
        // A guest may post faster than this looks, and the same chain again and again.
        for _ in 0..self.size {
            if self.posted.len() >= usize::from(u16::MAX) {
                break;
            }
            let head = match self.queue.take(region) {
                Ok(None) => break,
                Ok(Some(head)) => head,
                Err(_) => {
                    self.malformed += 1;
                    break;
                }
            };
            let Some(parts) = self.queue.chain(region, head, Access::Write) else {
                self.malformed += 1;
                self.queue.give_back(region, head, 0);
                continue;
            };
            let last = parts.len();
            let buffer = |(place, number)| Buffer { chain: head, place, is_last: number == last };
            self.posted.extend(parts.into_iter().zip(1..).map(buffer));
        }
        if self.malformed > before {
            self.queue.publish(region);
        }
    }

    /// Whether the guest can't post more before it gets something.
    pub(super) fn is_complete(&self) -> bool {
        self.posted.len() >= self.size
    }

    /// How many frames of `len` bytes with their metadata there is room for, up to `wanted`, that
    /// may have to wait.
    pub(super) fn frames(&self, len: usize, wanted: usize) -> usize {
        let most = self.posted.len().saturating_sub(self.spare);
        let mut from = 0;
        (0..wanted)
            .take_while(|_| self.end_of(from, len).filter(|end| *end <= most).map(|end| from = end).is_some())
            .count()
    }

    /// Bytes that one frame may have, with its metadata, that may have to wait.
    pub(super) fn longest(&self) -> usize {
        let most = self.posted.len().saturating_sub(self.spare).min(MOST_PARTS);
        // What follows the last whole chain does not count.
        let whole =
            self.posted.iter().take(most).rposition(|buffer| buffer.is_last).map_or(0, |last| last + 1);
        self.posted.iter().take(whole).map(|buffer| buffer.place.len()).sum()
    }

    /// The end of the buffers, from number `from` on, that a frame of `len` bytes takes: whole
    /// chains.
    fn end_of(&self, from: usize, len: usize) -> Option<usize> {
        let mut room = 0;
        let enough = |(_, buffer): &(usize, &Buffer)| {
            room += buffer.place.len();
            room >= len && buffer.is_last
        };
        self.posted.iter().enumerate().skip(from).take(MOST_PARTS).find(enough).map(|(at, _)| at + 1)
    }

    /// Appends the room for `payload` bytes behind `header` bytes, metadata included, of the next
    /// frame.
    pub(super) fn lend<'a>(
        &'a self,
        region: &'a Region,
        header: usize,
        payload: usize,
        into: &mut Scatter<'a>,
    ) -> bool {
        self.places(header, payload).all(|place| region.scatter(place, into))
    }

    /// Where the `len` bytes behind the first `skip` of the next frame are.
    pub(super) fn places(&self, skip: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
        places(self.posted.iter().take(MOST_PARTS).map(|buffer| &buffer.place), skip, len)
    }

    /// Sends a frame that begins with `start`. The rest of its `len` bytes are in the buffers
    /// already.
    pub(super) fn send(
        &mut self,
        region: &Region,
        offload: &Offload,
        start: &[u8],
        len: usize,
    ) -> Result<(), DropReason> {
        let len = MERGEABLE_LEN + len;
        let end = self.end_of(0, len).ok_or(DropReason::LinkBusy)?;
        let chains = self.posted.iter().take(end).filter(|buffer| buffer.is_last).count();
        let metadata = offload.to_mergeable_bytes(u16::try_from(chains).map_err(|_| DropReason::LinkBusy)?);
        self.write(region, 0, &metadata);
        self.write(region, MERGEABLE_LEN, start);
        let (mut left, mut room) = (len, 0);
        for buffer in self.posted.drain(..end) {
            room += buffer.place.len();
            if buffer.is_last {
                let used = left.min(room);
                self.queue.give_back(region, buffer.chain, used);
                (left, room) = (left - used, 0);
            }
        }
        self.queue.publish(region);
        Ok(())
    }

    /// Writes to the next frame, behind its first `skip` bytes.
    fn write(&self, region: &Region, skip: usize, bytes: &[u8]) {
        let mut done = 0;
        for place in self.places(skip, bytes.len()) {
            let end = done + place.len();
            // Places are in the region, and no longer than what is to be written in all.
            let _ = bytes.get(done..end).is_some_and(|bytes| region.copy_in(place.start, bytes));
            done = end;
        }
    }

    /// There was no room for something.
    pub(super) fn exhaust(&mut self) {
        // What was posted since it was looked at counts.
        self.exhausted = Some(self.queue.taken());
    }

    /// Whether there was no room, and the guest has posted nothing since.
    pub(super) fn is_exhausted(&self, region: &Region) -> bool {
        self.exhausted.is_some_and(|index| index == self.queue.available(region))
    }
}
