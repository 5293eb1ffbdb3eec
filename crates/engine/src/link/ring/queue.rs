//! The device's side of a split virtqueue (virtio 1.2, section 2.7), over memory that the driver
//! may change at any time.
//!
//! Each number of the driver is read once, checked, and kept. A ring that makes no sense is left as
//! it is from then on.

use std::ops::Range;

use arrayvec::ArrayVec;
use passt_sys::shared::Region;

/// The chain goes on (`VIRTQ_DESC_F_NEXT`).
pub(super) const NEXT: u16 = 1;
/// The device may write there, and not read (`VIRTQ_DESC_F_WRITE`).
pub(super) const WRITE: u16 = 2;
/// The buffer holds other descriptors (`VIRTQ_DESC_F_INDIRECT`), a feature that is not offered.
const INDIRECT: u16 = 4;
/// Most descriptors of one chain.
pub(super) const MAX_CHAIN: usize = 64;

const DESCRIPTOR: usize = 16;

/// Where the parts of a queue are in the region.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// The table of descriptors.
    pub descriptors: usize,
    /// The available ring: flags, index, numbers of descriptors.
    pub available: usize,
    /// The used ring: flags, index, numbers of descriptors with lengths.
    pub used: usize,
}

/// What the driver may do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A queue as the device sees it.
#[derive(Debug)]
pub(super) struct Virtqueue {
    layout: Layout,
    /// Entries of the available ring that were taken.
    taken: u16,
    /// Entries of the used ring that were written.
    returned: u16,
}

/// The driver says that more is available than a ring holds.
#[derive(Debug)]
pub(super) struct Broken;

impl Layout {
    /// A queue of at least `size` descriptors whose parts lie one behind the other from `start` on,
    /// a multiple of 16.
    pub(super) fn at(start: usize, size: u16) -> Self {
        let size = size.clamp(1, 1 << 15).next_power_of_two();
        let available = start + DESCRIPTOR * usize::from(size);
        let used = (available + 4 + 2 * usize::from(size)).next_multiple_of(16);
        Self { size, descriptors: start, available, used }
    }

    /// The end of the last part.
    pub(super) fn end(&self) -> usize {
        (self.used + 4 + 8 * usize::from(self.size)).next_multiple_of(16)
    }

    /// Where descriptor `number` is.
    pub fn descriptor(&self, number: u16) -> usize {
        self.descriptors + DESCRIPTOR * usize::from(number)
    }

    /// Where the index of the available ring is.
    pub fn available_index(&self) -> usize {
        self.available + 2
    }

    /// Where entry `index` of the available ring is.
    pub fn available_entry(&self, index: u16) -> usize {
        self.available + 4 + 2 * usize::from(index % self.size)
    }

    /// Where the index of the used ring is.
    pub fn used_index(&self) -> usize {
        self.used + 2
    }

    /// Where entry `index` of the used ring is.
    pub fn used_entry(&self, index: u16) -> usize {
        self.used + 4 + 8 * usize::from(index % self.size)
    }
}

impl Virtqueue {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, taken: 0, returned: 0 }
    }

    /// The first descriptor of the next chain that is available, if there is one. A queue that is
    /// broken has nothing more to give until the driver goes on from where its index is.
    pub(super) fn take(&mut self, region: &Region) -> Result<Option<u16>, Broken> {
        let index = self.available(region);
        if index == self.taken {
            return Ok(None);
        }
        if index.wrapping_sub(self.taken) > self.layout.size {
            self.taken = index;
            return Err(Broken);
        }
        let entry = region.load(self.layout.available_entry(self.taken)).ok_or(Broken)?;
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(u16::from_le(entry)))
    }

    /// The index of the available ring up to which entries were taken.
    pub(super) fn taken(&self) -> u16 {
        self.taken
    }

    /// The index of the available ring: it moves when the driver adds something.
    pub(super) fn available(&self, region: &Region) -> u16 {
        region.load(self.layout.available_index()).map_or(self.taken, u16::from_le)
    }

    /// The buffers of the chain that begins at `head`. `None` if they are not all in the region, or
    /// not to be used so, or the chain has no end.
    pub(super) fn chain(
        &self,
        region: &Region,
        head: u16,
        access: Access,
    ) -> Option<ArrayVec<Range<usize>, MAX_CHAIN>> {
        let mut parts = ArrayVec::new();
        let mut number = head;
        loop {
            let (part, flags, next) = self.descriptor(region, number)?;
            let writable = flags & WRITE != 0;
            if flags & INDIRECT != 0 || writable != (access == Access::Write) {
                return None;
            }
            parts.try_push(part).ok()?;
            if flags & NEXT == 0 {
                return Some(parts);
            }
            number = next;
        }
    }

    /// Buffer, flags and successor of a descriptor.
    fn descriptor(&self, region: &Region, number: u16) -> Option<(Range<usize>, u16, u16)> {
        let mut bytes = [0; DESCRIPTOR];
        if number >= self.layout.size || !region.copy_out(self.layout.descriptor(number), &mut bytes) {
            return None;
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, flags @ .., m, n] = bytes;
        let start = usize::try_from(u64::from_le_bytes([a, b, c, d, e, f, g, h])).ok()?;
        let end = start.checked_add(usize::try_from(u32::from_le_bytes([i, j, k, l])).ok()?)?;
        (end <= region.size()).then_some((start..end, u16::from_le_bytes(flags), u16::from_le_bytes([m, n])))
    }

    /// Gives a chain back, of which `len` bytes were written. The driver looks for it once it is
    /// [told](Self::publish).
    pub(super) fn give_back(&mut self, region: &Region, head: u16, len: usize) {
        let id = u32::from(head).to_le_bytes();
        let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        // What the layout says is in the region.
        let _ = region.copy_in(self.layout.used_entry(self.returned), [id, len].as_flattened());
        self.returned = self.returned.wrapping_add(1);
    }

    /// Tells the driver what was given back.
    pub(super) fn publish(&self, region: &Region) {
        let _ = region.store(self.layout.used_index(), self.returned.to_le());
    }
}

/// Where the `len` bytes behind the first `skip` of some buffers are.
pub(super) fn places<'a>(
    parts: impl IntoIterator<Item = &'a Range<usize>>,
    mut skip: usize,
    mut len: usize,
) -> impl Iterator<Item = Range<usize>> {
    parts.into_iter().filter_map(move |part| {
        let from = skip.min(part.len());
        skip -= from;
        let n = (part.len() - from).min(len);
        len -= n;
        (n > 0).then(|| part.start + from..part.start + from + n)
    })
}
