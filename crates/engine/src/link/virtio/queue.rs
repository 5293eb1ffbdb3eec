//! The device's side of a split virtqueue (virtio 1.2, section 2.7), over memory that the driver
//! may change at any time.
//!
//! Each number of the driver is read once, checked, and kept. A queue of which something makes no
//! sense is *broken*: it is left as it is until it is started again, and whoever set it up is told
//! by a descriptor.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use passt_sys::event::Event;
use passt_sys::shared::Memory;

use crate::link::Notifications;

/// The chain goes on (`VIRTQ_DESC_F_NEXT`).
pub(in crate::link) const NEXT: u16 = 1;
/// The device may write there, and not read (`VIRTQ_DESC_F_WRITE`).
pub(in crate::link) const WRITE: u16 = 2;
/// The buffer holds other descriptors (`VIRTQ_DESC_F_INDIRECT`).
pub(super) const INDIRECT: u16 = 4;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT` and `VIRTQ_USED_F_NO_NOTIFY`: the other end need not be told.
const SUPPRESSED: u16 = 1;
/// Descriptors that a chain may have in any case; of a longer queue it may have all. With a table of
/// its own a chain may have more than the queue (Linux, `virtqueue_add_split`).
const STEPS: usize = 256;
/// Most descriptors of a queue (section 2.7).
pub(in crate::link) const MAX_SIZE: u16 = 1 << 15;

const DESCRIPTOR: usize = 16;

/// Where the parts of a queue are, by addresses of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// The table of descriptors.
    pub descriptors: usize,
    /// The available ring: flags, index, numbers of descriptors, and the event index of the driver.
    pub available: usize,
    /// The used ring: flags, index, numbers of descriptors with lengths, and that of the device.
    pub used: usize,
}

/// Features that a queue is used with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::link) struct QueueFeatures {
    /// `VIRTIO_F_EVENT_IDX`.
    pub(in crate::link) event_index: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub(in crate::link) indirect: bool,
}

/// What the driver may do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A queue as the device sees it.
#[derive(Debug, Default)]
pub(in crate::link) struct Virtqueue {
    /// It is in use.
    started: bool,
    /// Where it is, if it is in memory.
    layout: Option<Layout>,
    /// Under which address writes to the used ring are noted, beside its own.
    used_log: Option<usize>,
    features: QueueFeatures,
    broken: bool,
    /// Buffers may be used, and not only given back (vhost-user, "Ring states").
    pub(in crate::link) enabled: bool,
    /// Entries of the available ring that were taken.
    taken: u16,
    /// Entries of the used ring that were written.
    returned: u16,
    /// Up to where the driver was told of them, or did not want to be.
    told: u16,
    /// It was never told of any.
    fresh: bool,
    /// Up to where it is to be told later, if it wants to be then.
    put_off: Option<u16>,
    /// What the driver was let known: it need not kick.
    quiet: bool,
    /// The driver kicks.
    pub(in crate::link) kick: Option<Arc<Event>>,
    /// The driver is interrupted.
    pub(in crate::link) call: Option<Event>,
    /// Whoever set the queue up is told that it is broken.
    pub(in crate::link) error: Option<Event>,
    /// Kicks that were seen so far, and interrupts.
    notifications: Notifications,
}

/// Something of the queue makes no sense.
#[derive(Debug)]
pub(in crate::link) struct Broken;

/// A descriptor, read once.
struct Descriptor {
    range: Range<usize>,
    flags: u16,
    next: u16,
}

impl Layout {
    /// A queue of at least `size` descriptors whose parts lie one behind the other from `start` on,
    /// a multiple of 16.
    pub(in crate::link) fn at(start: usize, size: u16) -> Self {
        let size = size.clamp(1, MAX_SIZE).next_power_of_two();
        let available = start + DESCRIPTOR * usize::from(size);
        let used = (available + Self::available_len(size)).next_multiple_of(16);
        Self { size, descriptors: start, available, used }
    }

    /// The end of the last part.
    pub(in crate::link) fn end(&self) -> usize {
        (self.used + Self::used_len(self.size)).next_multiple_of(16)
    }

    /// Bytes of the table of descriptors.
    pub(in crate::link) fn descriptors_len(size: u16) -> usize {
        DESCRIPTOR * usize::from(size)
    }

    /// Bytes of the available ring, event index included.
    pub(in crate::link) fn available_len(size: u16) -> usize {
        6 + 2 * usize::from(size)
    }

    /// Bytes of the used ring, event index included.
    pub(in crate::link) fn used_len(size: u16) -> usize {
        6 + 8 * usize::from(size)
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

    /// Where the driver says from which entry of the used ring on it wants to be told.
    pub fn used_event(&self) -> usize {
        self.available + 4 + 2 * usize::from(self.size)
    }

    /// Where the index of the used ring is.
    pub fn used_index(&self) -> usize {
        self.used + 2
    }

    /// Where entry `index` of the used ring is.
    pub fn used_entry(&self, index: u16) -> usize {
        self.used + 4 + 8 * usize::from(index % self.size)
    }

    /// Where the device says from which entry of the available ring on it wants to be told.
    pub fn available_event(&self) -> usize {
        self.used + 4 + 8 * usize::from(self.size)
    }
}

impl Virtqueue {
    /// Uses the queue from entry `base` of its available ring on. Entries of the used ring follow
    /// what is there: another device may have been there before. The driver is told at the next
    /// occasion whatever it wants, as it may have been told something that got lost.
    pub(in crate::link) fn start(
        &mut self,
        memory: &Memory,
        layout: Layout,
        base: u16,
        features: QueueFeatures,
    ) -> Result<(), Broken> {
        let used = memory.load(layout.used_index()).map(u16::from_le).ok_or(Broken)?;
        (self.started, self.layout, self.features, self.broken) = (true, Some(layout), features, false);
        (self.taken, self.returned, self.told, self.put_off) = (base, used, used, None);
        (self.fresh, self.quiet) = (true, true);
        self.want_kicks(memory, true);
        Ok(())
    }

    /// Uses the queue no more. The entry at which it would have gone on, if it was in use: what was
    /// taken counts. The driver is told of what it was to be told of later, as it may go on with
    /// another device that knows nothing of that.
    pub(in crate::link) fn stop(&mut self) -> Option<u16> {
        if self.put_off.is_some() || self.told != self.returned {
            (self.told, self.put_off) = (self.returned, None);
            self.interrupt();
        }
        (self.layout, self.broken) = (None, false);
        std::mem::take(&mut self.started).then_some(self.taken)
    }

    /// Another place of the same queue, or none: it goes on where it is once it is somewhere.
    pub(in crate::link) fn relocate(&mut self, layout: Option<Layout>) {
        self.layout = layout;
    }

    /// Has writes to the used ring noted as if it were at another address as well, where pages that
    /// are written are noted. To queues in use it makes no other difference.
    pub(in crate::link) fn log_used(&mut self, at: Option<usize>) {
        self.used_log = at;
    }

    /// Notes that `len` bytes at `at` in the used ring were written, which their own pages know.
    fn note_used(&self, memory: &Memory, at: usize, len: usize) {
        if memory.is_logged()
            && let Some((log, layout)) = self.used_log.zip(self.layout)
        {
            let start = log.checked_add(at.saturating_sub(layout.used));
            let range = start.and_then(|start| Some(start..start.checked_add(len)?));
            // The last of all addresses has no bit, nor have those that there are not.
            memory.mark(range.unwrap_or(usize::MAX - 1..usize::MAX));
        }
    }

    /// Where the queue is.
    pub(in crate::link) fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// Whether the queue is in use.
    pub(in crate::link) fn is_started(&self) -> bool {
        self.started
    }

    /// Whether the queue is in use, in memory, and makes sense.
    pub(in crate::link) fn is_running(&self) -> bool {
        self.working().is_some()
    }

    /// Something of it makes no sense: it is not used any more, and that is told.
    #[cold]
    pub(in crate::link) fn fail(&mut self) {
        if !std::mem::replace(&mut self.broken, true) {
            log::warn!("A queue of the guest makes no sense, and is not used any more");
            if let Some(error) = &self.error {
                error.signal();
            }
        }
    }

    fn working(&self) -> Option<&Layout> {
        self.layout.as_ref().filter(|_| !self.broken)
    }

    /// The first descriptor of the next chain that is available, if there is one.
    pub(super) fn take(&mut self, memory: &Memory) -> Result<Option<u16>, Broken> {
        let Some(layout) = self.working() else { return Ok(None) };
        let index = u16::from_le(memory.load(layout.available_index()).ok_or(Broken)?);
        if index == self.taken {
            return Ok(None);
        }
        if index.wrapping_sub(self.taken) > layout.size {
            return Err(Broken);
        }
        let entry = memory.load(layout.available_entry(self.taken)).ok_or(Broken)?;
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(u16::from_le(entry)))
    }

    /// The index of the available ring up to which entries were taken.
    pub(super) fn taken(&self) -> u16 {
        self.taken
    }

    /// The index of the available ring: it moves when the driver adds something.
    pub(super) fn available(&self, memory: &Memory) -> u16 {
        let index = self.working().and_then(|layout| memory.load(layout.available_index()));
        index.map_or(self.taken, u16::from_le)
    }

    /// Appends the buffers of the chain that begins at `head`, those of no length aside, up to `most`
    /// of them; whether these are all. Some may have been appended of one that makes no sense: they
    /// are not all in memory, or not to be used so, or the chain has no end.
    pub(super) fn chain(
        &self,
        memory: &Memory,
        head: u16,
        access: Access,
        parts: &mut Vec<Range<usize>>,
        most: usize,
    ) -> Result<bool, Broken> {
        let most = parts.len() + most;
        let mut fits = true;
        let layout = self.working().ok_or(Broken)?;
        let (mut table, mut len) = (layout.descriptors, usize::from(layout.size));
        let (mut number, mut nested) = (head, false);
        for _ in 0..len.max(STEPS) {
            if usize::from(number) >= len {
                return Err(Broken);
            }
            let Descriptor { range, flags, next } =
                descriptor(memory, table + DESCRIPTOR * usize::from(number))?;
            if flags & INDIRECT != 0 {
                // It is the last of its table, and the only one of its kind (2.7.5.3).
                if nested || !self.features.indirect || flags & NEXT != 0 {
                    return Err(Broken);
                }
                (table, len) = indirect(memory, &range)?;
                (number, nested) = (0, true);
                continue;
            }
            if (flags & WRITE != 0) != (access == Access::Write) {
                return Err(Broken);
            }
            if !range.is_empty() {
                if !memory.has(range.clone()) {
                    return Err(Broken);
                }
                fits &= parts.len() < most;
                if fits {
                    parts.push(range);
                }
            }
            if flags & NEXT == 0 {
                return Ok(fits);
            }
            number = next;
        }
        Err(Broken)
    }

    /// Gives a chain back, of which `len` bytes were written. The driver looks for it once it is
    /// [published](Self::publish).
    pub(super) fn give_back(&mut self, memory: &Memory, head: u16, len: usize) {
        let Some(layout) = self.working() else { return };
        let id = u32::from(head).to_le_bytes();
        let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        // What the layout says is in memory, or was.
        let (at, entry) = (layout.used_entry(self.returned), [id, len]);
        let _ = memory.copy_in(at, entry.as_flattened());
        self.note_used(memory, at, size_of_val(&entry));
        self.returned = self.returned.wrapping_add(1);
    }

    /// Stores a number in the used ring.
    fn store_used(&self, memory: &Memory, at: usize, number: u16) {
        // What the layout says is in memory, or was.
        let _ = memory.store(at, number.to_le());
        self.note_used(memory, at, size_of_val(&number));
    }

    /// Shows the driver what was given back.
    pub(super) fn publish(&self, memory: &Memory) {
        if let Some(layout) = self.working() {
            self.store_used(memory, layout.used_index(), self.returned);
        }
    }

    /// Interrupts the driver, if there is something new that it wants to be told of (2.7.7.2);
    /// whether it was. A queue that is nowhere keeps what it has to tell until it is somewhere again.
    pub(super) fn tell(&mut self, memory: &Memory) -> bool {
        if !self.is_running() {
            return false;
        }
        let wanted = self.is_wanted(memory, self.returned);
        (self.told, self.put_off) = (self.returned, None);
        if wanted {
            self.fresh = false;
            self.interrupt();
        }
        wanted && self.call.is_some()
    }

    /// The same, but what came since the last time may wait for the next, as the driver may see it by
    /// itself until then. That is at most half of the ring's entries, as a driver whose descriptors
    /// are all in use would wait with it.
    pub(super) fn tell_later(&mut self, memory: &Memory) {
        if !self.is_running() {
            return;
        }
        let before = self.put_off.take().unwrap_or(self.told);
        if self.is_wanted(memory, before) {
            self.tell(memory);
            return;
        }
        self.told = before;
        let pending = self.returned.wrapping_sub(before);
        let can_wait = self.working().is_some_and(|layout| pending <= layout.size / 2);
        if can_wait && !self.fresh {
            self.put_off = (pending > 0).then_some(self.returned);
        } else {
            self.tell(memory);
        }
    }

    /// Whether something is left for [`Virtqueue::tell`].
    pub(super) fn has_put_off(&self) -> bool {
        self.put_off.is_some() && self.working().is_some()
    }

    /// Whether the driver wants to be told of what is new in the used ring up to `new`.
    fn is_wanted(&self, memory: &Memory, new: u16) -> bool {
        let Some(layout) = self.working().filter(|_| self.told != new) else { return false };
        // What was published is seen before what the driver wants is looked at.
        fence(Ordering::SeqCst);
        let is_asked = if self.features.event_index {
            let event = memory.load(layout.used_event()).map_or(0, u16::from_le);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(self.told)
        } else {
            let flags = memory.load(layout.available).map_or(0, u16::from_le);
            flags & SUPPRESSED == 0
        };
        self.fresh || is_asked
    }

    /// Interrupts the driver.
    pub(in crate::link) fn interrupt(&mut self) {
        if let Some(call) = &self.call {
            call.signal();
            self.notifications.interrupts += 1;
        }
    }

    /// Kicks that were seen so far, and interrupts.
    pub(in crate::link) fn notifications(&self) -> Notifications {
        self.notifications
    }

    /// Has the driver kick for the next entry, or lets it know that it need not (2.7.10). It may
    /// have added one just before that: the caller looks again.
    pub(super) fn want_kicks(&mut self, memory: &Memory, wanted: bool) {
        let Some(layout) = self.working() else { return };
        if self.features.event_index {
            // What lies behind is not announced.
            if wanted {
                self.store_used(memory, layout.available_event(), self.taken);
            }
        } else if self.quiet == wanted {
            let flags = if wanted { 0 } else { SUPPRESSED };
            self.store_used(memory, layout.used, flags);
        }
        self.quiet = !wanted;
        if wanted {
            fence(Ordering::SeqCst);
        }
    }

    /// A kick is no longer there to be seen; what comes from now on is.
    pub(super) fn clear_kick(&mut self) {
        let was_kicked = self.kick.as_ref().is_some_and(|kick| kick.clear());
        self.notifications.kicks += u64::from(was_kicked);
    }

    /// Has the loop look again.
    pub(super) fn kick(&self) {
        if let Some(kick) = &self.kick {
            kick.signal();
        }
    }
}

fn descriptor(memory: &Memory, at: usize) -> Result<Descriptor, Broken> {
    let mut bytes = [0; DESCRIPTOR];
    if !memory.copy_out(at, &mut bytes) {
        return Err(Broken);
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, flags @ .., m, n] = bytes;
    let start = usize::try_from(u64::from_le_bytes([a, b, c, d, e, f, g, h])).map_err(|_| Broken)?;
    let len = usize::try_from(u32::from_le_bytes([i, j, k, l])).map_err(|_| Broken)?;
    let end = start.checked_add(len).ok_or(Broken)?;
    Ok(Descriptor { range: start..end, flags: u16::from_le_bytes(flags), next: u16::from_le_bytes([m, n]) })
}

/// Place and length of a table of descriptors.
fn indirect(memory: &Memory, range: &Range<usize>) -> Result<(usize, usize), Broken> {
    let whole = !range.is_empty() && range.len().is_multiple_of(DESCRIPTOR);
    (whole && memory.has(range.clone())).then_some((range.start, range.len() / DESCRIPTOR)).ok_or(Broken)
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
