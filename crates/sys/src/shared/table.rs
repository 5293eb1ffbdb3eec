//! A guest's memory: several regions, each at an address that the guest has for it.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;

use super::fault::Survivor;
use super::{DirtyLog, Region};
use crate::iovec::{Gather, Scatter};

/// Regions at most.
pub const MAX_REGIONS: usize = 32;

/// Where a region is, as a front end describes it (vhost-user, "Memory region description").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address in the guest.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Address in the front end's process.
    pub user: u64,
    /// Offset in the file.
    pub offset: u64,
}

/// Regions by address. Ranges that are named by their addresses in the guest may reach over several
/// of them that lie side by side.
#[derive(Debug, Default)]
pub struct Memory {
    /// In the order of their addresses in the guest.
    entries: ArrayVec<Entry, MAX_REGIONS>,
    /// Pages that are written are to be noted.
    is_logged: bool,
    log: Option<DirtyLog>,
}

/// What happened to memory that makes it of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A file has become shorter under its region.
    Region,
    /// The file of the log has.
    Log,
    /// The log has no bit for a page that was written.
    Bit,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    /// Addresses in the guest.
    range: Range<usize>,
    // Before the region: it ends before what it is about does.
    survivor: Option<Survivor>,
    region: Region,
}

impl Memory {
    /// No memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// One region at address 0, of a file that nobody can make shorter.
    pub fn of(region: Region) -> Self {
        let (range, size) = (0..region.size(), region.size() as u64);
        let place = Place { guest: 0, size, user: 0, offset: 0 };
        let entries = [Entry { place, range, survivor: None, region }].into_iter().collect();
        Self { entries, ..Self::default() }
    }

    /// Maps a region of `file`. `InvalidInput` if it isn't there, has no addresses, or those of
    /// another; `OutOfMemory` if there are too many.
    pub fn add(&mut self, file: BorrowedFd<'_>, place: Place) -> io::Result<()> {
        let range = place.range().ok_or(io::ErrorKind::InvalidInput)?;
        if self.entries.iter().any(|entry| entry.place.overlaps(&place)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.entries.is_full() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let region = Region::map(file, place.offset, range.len())?;
        // SAFETY: whoever uses the region relies on nothing that is there.
        let survivor = Some(unsafe { Survivor::new(region.mapping()) }?);
        let at = self.entries.partition_point(|entry| entry.range.start < range.start);
        self.entries.insert(at, Entry { place, range, survivor, region });
        Ok(())
    }

    /// Unmaps the region at these addresses, wherever it is in its file; false if there is none.
    pub fn remove(&mut self, place: &Place) -> bool {
        let key = |place: &Place| (place.guest, place.size, place.user);
        let found = self.entries.iter().position(|entry| key(&entry.place) == key(place));
        found.map(|at| self.entries.remove(at)).is_some()
    }

    /// Number of regions.
    pub fn regions(&self) -> usize {
        self.entries.len()
    }

    /// Takes the regions of `other` instead of its own. What is said of the log stays.
    pub fn replace(&mut self, other: Self) {
        self.entries = other.entries;
    }

    /// Notes pages in another log from now on, if they are to be noted.
    pub fn set_log(&mut self, log: Option<DirtyLog>) {
        self.log = log;
    }

    /// Whether pages that are written are to be noted from now on.
    pub fn log_writes(&mut self, wanted: bool) {
        self.is_logged = wanted;
    }

    /// Whether pages that are written are to be noted.
    pub fn is_logged(&self) -> bool {
        self.is_logged
    }

    /// Whether pages are to be noted, and there is nothing to note them in: nothing must be written.
    pub fn lacks_log(&self) -> bool {
        self.is_logged && self.log.is_none()
    }

    /// Notes that the pages of a range, by addresses of the guest, were written. Those of
    /// [`Memory::copy_in`] and [`Memory::store`] are noted by these, those of a list made by
    /// [`Memory::scatter`] by whoever has had it filled.
    #[inline]
    pub fn mark(&self, range: Range<usize>) {
        if self.is_logged {
            self.note(range);
        }
    }

    #[cold]
    fn note(&self, range: Range<usize>) {
        if let Some(log) = &self.log {
            log.mark(range);
        }
    }

    /// Whether the guest's memory is no more, or pages could not be noted.
    pub fn loss(&self) -> Option<Loss> {
        let mut survivors = self.entries.iter().filter_map(|entry| entry.survivor.as_ref());
        if survivors.any(Survivor::is_lost) {
            return Some(Loss::Region);
        }
        let log = self.log.as_ref()?;
        let bit = log.is_short().then_some(Loss::Bit);
        if log.is_lost() { Some(Loss::Log) } else { bit }
    }

    /// The guest's address of the `len` bytes that the front end has at `user`, all of them in one
    /// region.
    pub fn guest_address(&self, user: u64, len: usize) -> Option<usize> {
        self.entries.iter().find_map(|entry| {
            let offset = usize::try_from(user.checked_sub(entry.place.user)?).ok()?;
            let end = offset.checked_add(len)?;
            (end <= entry.range.len()).then(|| entry.range.start + offset)
        })
    }

    /// Whether all of a range is mapped.
    pub fn has(&self, range: Range<usize>) -> bool {
        self.each_part(range, |_, _| true)
    }

    /// In how many pieces a range lies; `None` if it is not all mapped.
    pub fn pieces(&self, range: Range<usize>) -> Option<usize> {
        let mut count = 0;
        self.each_part(range, |_, _| {
            count += 1;
            true
        })
        .then_some(count)
    }

    /// Appends `range` to a list of buffers to be read; false if it is not all mapped, or the list
    /// is full.
    pub fn gather<'a>(&'a self, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        self.each_part(range, |region, part| region.gather(part, into))
    }

    /// Appends `range` to a list of buffers to be written; false if it is not all mapped, or the
    /// list is full.
    pub fn scatter<'a>(&'a self, range: Range<usize>, into: &mut Scatter<'a>) -> bool {
        self.each_part(range, |region, part| region.scatter(part, into))
    }

    /// Copies what is at `at` to private memory; false if it is not all mapped.
    #[must_use]
    pub fn copy_out(&self, at: usize, out: &mut [u8]) -> bool {
        let mut done = 0;
        let Some(end) = at.checked_add(out.len()) else { return false };
        self.each_part(at..end, |region, part| {
            let end = done + part.len();
            let copied = out.get_mut(done..end).is_some_and(|out| region.copy_out(part.start, out));
            done = end;
            copied
        })
    }

    /// Copies `bytes` from private memory to `at`; false if that is not all mapped.
    #[must_use]
    pub fn copy_in(&self, at: usize, bytes: &[u8]) -> bool {
        let mut done = 0;
        let Some(end) = at.checked_add(bytes.len()) else { return false };
        let all = self.each_part(at..end, |region, part| {
            let end = done + part.len();
            let copied = bytes.get(done..end).is_some_and(|bytes| region.copy_in(part.start, bytes));
            done = end;
            copied
        });
        // Also of what was copied before the end of what is mapped.
        self.mark(at..at + done);
        all
    }

    /// The number at `at`, as [`Region::load`].
    pub fn load(&self, at: usize) -> Option<u16> {
        let entry = self.entry(at)?;
        entry.region.load(at - entry.range.start)
    }

    /// Stores a number at `at`, as [`Region::store`].
    #[must_use]
    pub fn store(&self, at: usize, value: u16) -> bool {
        let stored = self.entry(at).is_some_and(|entry| entry.region.store(at - entry.range.start, value));
        if stored {
            self.mark(at..at + size_of::<u16>());
        }
        stored
    }

    fn entry(&self, at: usize) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.range.contains(&at))
    }

    /// Calls `f` for each part of a range that is in a region of its own, with where it is there,
    /// until it says no; false then, or if not all is mapped.
    fn each_part<'a>(
        &'a self,
        range: Range<usize>,
        mut f: impl FnMut(&'a Region, Range<usize>) -> bool,
    ) -> bool {
        let mut at = range.start;
        // One that is empty is where it is.
        while at < range.end {
            let Some(Entry { range: all, region, .. }) = self.entry(at) else { return false };
            let end = range.end.min(all.end);
            if !f(region, at - all.start..end - all.start) {
                return false;
            }
            at = end;
        }
        range.start <= range.end
    }
}

impl Place {
    /// The guest's addresses, if there are such here, and the front end's exist as well.
    fn range(&self) -> Option<Range<usize>> {
        let [start, size] = [self.guest, self.size].map(|number| usize::try_from(number).ok());
        let range = start?..start?.checked_add(size?)?;
        let exists = self.user.checked_add(self.size).is_some() && self.size > 0;
        exists.then_some(range)
    }

    /// Whether two regions have an address in common. Both were checked for overflow, or one was
    /// and the other will not be added.
    fn overlaps(&self, other: &Self) -> bool {
        let common = |a: u64, b: u64| a < b.saturating_add(other.size) && b < a.saturating_add(self.size);
        common(self.guest, other.guest) || common(self.user, other.user)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, OwnedFd};

    use proptest::prelude::*;

    use super::super::memory;
    use super::*;

    const PAGE: u64 = 4096;
    const SIZE: usize = 8 * 4096;

    fn file() -> OwnedFd {
        memory(SIZE).expect("memory")
    }

    fn place(guest: u64, pages: u64, user: u64, offset: u64) -> Place {
        Place { guest, size: pages * PAGE, user, offset }
    }

    /// Two that lie side by side in the guest but not in the file, and one apart.
    fn table(file: &OwnedFd) -> Memory {
        let mut memory = Memory::new();
        for place in [
            place(2 * PAGE, 1, 0x7000_0000, 5 * PAGE),
            place(PAGE, 1, 0x9000_0000, 0),
            place(10 * PAGE, 2, 0, PAGE),
        ] {
            memory.add(file.as_fd(), place).expect("mapped");
        }
        memory
    }

    #[test]
    fn what_is_refused() {
        let file = file();
        let mut memory = table(&file);
        let all = SIZE as u64 / PAGE;
        for (bad, why) in [
            (place(100 * PAGE, 0, 0x1_0000_0000, 0), "empty"),
            (place(100 * PAGE, 1, 0x1_0000_0000, SIZE as u64), "behind the file"),
            (place(100 * PAGE, all + 1, 0x1_0000_0000, 0), "longer than the file"),
            (place(100 * PAGE, 1, 0x1_0000_0000, u64::MAX - PAGE + 2), "an offset that wraps"),
            (place(u64::MAX - PAGE + 2, 1, 0x1_0000_0000, 0), "a guest's address that wraps"),
            (place(100 * PAGE, 1, u64::MAX - PAGE + 2, 0), "a front end's address that wraps"),
            (place(2 * PAGE + 1, 1, 0x1_0000_0000, 0), "one of the guest's addresses again"),
            (place(9 * PAGE, 4, 0x1_0000_0000, 0), "all of another's"),
            (place(100 * PAGE, 1, 0x7000_0fff, 0), "one of the front end's addresses again"),
            (Place { guest: 0, size: u64::MAX, user: 0, offset: 0 }, "everything"),
        ] {
            let error = memory.add(file.as_fd(), bad).expect_err(why);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{why}");
        }
        assert_eq!(memory.regions(), 3);
        for number in 3..MAX_REGIONS as u64 {
            memory
                .add(file.as_fd(), place(number * 100 * PAGE, 1, number << 32, 0))
                .expect("room for one more");
        }
        let next = MAX_REGIONS as u64 * 100 * PAGE;
        let error = memory.add(file.as_fd(), place(next, 1, 1 << 50, 0)).expect_err("one too many");
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        let pipe = rustix::pipe::pipe().expect("a pipe").0;
        assert!(Memory::new().add(pipe.as_fd(), place(0, 1, 0, 0)).is_err(), "no memory");
    }

    #[test]
    fn regions_are_removed_by_their_addresses() {
        let file = file();
        let mut memory = table(&file);
        for wrong in
            [place(PAGE, 1, 0x9000_1000, 0), place(PAGE, 2, 0x9000_0000, 0), place(0, 1, 0x9000_0000, 0)]
        {
            assert!(!memory.remove(&wrong), "{wrong:?}");
        }
        assert!(memory.has(PAGE as usize..3 * PAGE as usize));
        assert!(memory.remove(&place(PAGE, 1, 0x9000_0000, 77)));
        assert!(!memory.remove(&place(PAGE, 1, 0x9000_0000, 77)));
        assert!(
            !memory.has(PAGE as usize..3 * PAGE as usize) && memory.has(2 * PAGE as usize..3 * PAGE as usize)
        );
    }

    #[test]
    fn addresses_of_the_front_end() {
        let file = file();
        let memory = table(&file);
        let page = PAGE as usize;
        for (user, len, expected) in [
            (0x7000_0000, page, Some(2 * page)),
            (0x7000_0ffe, 2, Some(3 * page - 2)),
            (0x7000_0ffe, 3, None),
            (0x6fff_ffff, 2, None),
            (0x9000_0010, 16, Some(page + 16)),
            (16, 2 * page - 16, Some(10 * page + 16)),
            (16, 2 * page - 15, None),
            (u64::MAX, 1, None),
            (0, usize::MAX, None),
        ] {
            assert_eq!(memory.guest_address(user, len), expected, "{len} at {user:x}");
        }
    }

    #[test]
    fn ranges_over_two_regions() {
        let file = file();
        let memory = table(&file);
        let at = 2 * PAGE as usize - 3;
        assert!(memory.copy_in(at, b"across"));
        let mut text = [0; 6];
        assert!(memory.copy_out(at, &mut text));
        assert_eq!(&text, b"across");
        let whole = Region::map(file.as_fd(), 0, SIZE).expect("mapped");
        assert!(whole.copy_out(PAGE as usize - 3, &mut text[..3]));
        assert!(whole.copy_out(5 * PAGE as usize, &mut text[3..]));
        assert_eq!(&text, b"across");
        let mut data = Gather::new();
        assert!(memory.gather(at..at + 6, &mut data));
        assert_eq!((data.len(), data.copy_out(0, &mut text)), (2, 6));
        assert_eq!((memory.pieces(at..at + 6), memory.pieces(at..at + 3)), (Some(2), Some(1)));
        assert_eq!((memory.pieces(at..at), memory.pieces(at..usize::MAX)), (Some(0), None));
        let mut room = Scatter::new();
        assert!(memory.scatter(at..at + 6, &mut room));
        assert_eq!(room.copy_in(0, b"others"), 6);
        assert!(memory.copy_out(at, &mut text));
        assert_eq!(&text, b"others");
    }

    #[expect(clippy::reversed_empty_ranges, reason = "a range that is none")]
    #[test]
    fn what_is_not_mapped() {
        let file = file();
        let memory = table(&file);
        let page = PAGE as usize;
        for range in [
            0..1,
            page - 1..page + 1,
            3 * page - 1..3 * page + 1,
            12 * page - 1..12 * page + 1,
            10..9,
            page..usize::MAX,
        ] {
            assert!(!memory.has(range.clone()), "{range:?}");
            assert!(!memory.gather(range.clone(), &mut Gather::new()));
            assert!(!memory.scatter(range, &mut Scatter::new()));
        }
        assert!(!memory.copy_in(3 * page - 1, &[1, 2]) && !memory.copy_out(usize::MAX, &mut [0]));
        assert!(memory.load(0).is_none() && memory.load(page + 1).is_none() && !memory.store(3 * page, 1));
        assert!(memory.store(page, 0x1234) && memory.load(page) == Some(0x1234));
    }

    proptest! {
        /// Whatever a front end says, nothing outside is reached, and what is inside is kept apart.
        #[test]
        fn any_table(places in prop::collection::vec((0u64..20, 0u64..6, 0u64..20, 0u64..10), 0..40), at in 0u64..20) {
            let file = file();
            let mut memory = Memory::new();
            let mut model: Vec<(u64, u64)> = Vec::new();
            for (guest, pages, user, offset) in places {
                let (guest, user, offset) = (guest * PAGE, user * PAGE, offset * PAGE);
                let place = place(guest, pages, user, offset);
                if memory.add(file.as_fd(), place).is_ok() {
                    prop_assert!(pages > 0 && offset + pages * PAGE <= SIZE as u64);
                    model.extend((0..pages).map(|page| (guest + page * PAGE, offset + page * PAGE)));
                }
            }
            let mut once: Vec<u64> = model.iter().map(|(guest, _)| *guest).collect();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), model.len());
            let known = model.iter().find(|(guest, _)| *guest == at * PAGE);
            let start = usize::try_from(at * PAGE).expect("an address");
            prop_assert_eq!(memory.copy_in(start, &[at.to_le_bytes()[0]; 10]), known.is_some());
            if let Some((_, offset)) = known {
                let whole = Region::map(file.as_fd(), 0, SIZE).expect("mapped");
                let mut out = [0; 10];
                prop_assert!(whole.copy_out(usize::try_from(*offset).expect("an offset"), &mut out));
                prop_assert_eq!(out, [at.to_le_bytes()[0]; 10]);
            }
        }
    }
}
