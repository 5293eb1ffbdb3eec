//! The log of pages that a device writes to, by which a machine is moved while it runs: a bit for
//! each page of the guest's memory, in a file that the front end shares (vhost-user, "Migration").
//!
//! Bits are set behind the write that they are about: whoever clears a bit and reads the page then
//! has what was written, or finds the bit set again.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::Region;
use super::fault::Survivor;

/// Bytes of a page, whatever the size of the machine's own (`VHOST_LOG_PAGE`).
pub const LOG_PAGE: usize = 4096;
/// Pages of a byte.
const PAGES: usize = 8;

/// A mapped log.
#[derive(Debug)]
pub struct DirtyLog {
    // Before the region: it ends before what it is about does.
    survivor: Survivor,
    region: Region,
    /// A page had no bit.
    is_short: Cell<bool>,
}

impl DirtyLog {
    /// Maps the `size` bytes of `file` that begin at `offset`. `InvalidInput` if it is shorter, or
    /// the log empty.
    pub fn map(file: BorrowedFd<'_>, offset: u64, size: u64) -> io::Result<Self> {
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        let region = Region::map(file, offset, size)?;
        // SAFETY: bits are set there, and never looked at.
        let survivor = unsafe { Survivor::new(region.mapping()) }?;
        Ok(Self { survivor, region, is_short: Cell::new(false) })
    }

    /// Whether the file has become shorter, and what was noted is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.survivor.is_lost()
    }

    /// Whether there was a page that it has no bit for.
    pub(super) fn is_short(&self) -> bool {
        self.is_short.get()
    }

    /// Sets the bits of all pages that have an address of `range`.
    pub(super) fn mark(&self, range: Range<usize>) {
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else { return };
        let (first, last) = (range.start / LOG_PAGE, last / LOG_PAGE);
        for byte in first / PAGES..=last / PAGES {
            let (start, end) = (byte * PAGES, byte * PAGES + (PAGES - 1));
            let mask = (u8::MAX << (first.max(start) - start)) & (u8::MAX >> (end - last.min(end)));
            if !self.region.set_bits(byte, mask) {
                self.is_short.set(true);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::super::{memory, survive_faults};
    use super::*;

    #[test]
    fn what_is_mapped() {
        let file = memory(100).expect("memory");
        let map = |offset, size| DirtyLog::map(file.as_fd(), offset, size);
        for (offset, size) in [(0, 100), (0, 1), (99, 1), (50, 50)] {
            assert!(map(offset, size).is_ok(), "{size} at {offset}");
        }
        for (offset, size) in [
            (0, 0),
            (0, 101),
            (100, 0),
            (100, 1),
            (1, 100),
            (0, u64::MAX),
            (u64::MAX, 1),
            (u64::MAX, u64::MAX),
            (1, u64::MAX),
        ] {
            let error = map(offset, size).expect_err("no log");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{size} at {offset}");
        }
        let (pipe, _writer) = rustix::pipe::pipe().expect("a pipe");
        assert!(DirtyLog::map(pipe.as_fd(), 0, 1).is_err(), "no memory");
        let sealed = memfd_create("log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a file");
        ftruncate(&sealed, 100).expect("a length");
        rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::WRITE).expect("a seal");
        assert!(DirtyLog::map(sealed.as_fd(), 0, 100).is_err(), "not to be written");
    }

    /// What does not exist is not marked, and what lies before and behind the log is as it was.
    #[test]
    fn pages_without_a_bit() {
        let file = memory(3).expect("memory");
        let whole = Region::map(file.as_fd(), 0, 3).expect("mapped");
        for (range, expected, is_short) in [
            (0..1, 1, false),
            (7 * LOG_PAGE..8 * LOG_PAGE, 0x80, false),
            (7 * LOG_PAGE..8 * LOG_PAGE + 1, 0x80, true),
            (8 * LOG_PAGE..9 * LOG_PAGE, 0, true),
            (usize::MAX - 1..usize::MAX, 0, true),
            (0..usize::MAX, 0xff, true),
            (0..0, 0, false),
            (usize::MAX..usize::MAX, 0, false),
        ] {
            let log = DirtyLog::map(file.as_fd(), 1, 1).expect("mapped");
            assert!(whole.copy_in(0, &[0; 3]));
            log.mark(range.clone());
            let mut bytes = [9; 3];
            assert!(whole.copy_out(0, &mut bytes));
            assert_eq!((bytes, log.is_short()), ([0, expected, 0], is_short), "{range:x?}");
        }
    }

    /// A file that becomes shorter is survived, and told.
    #[test]
    fn a_log_that_becomes_shorter() {
        survive_faults().expect("a handler");
        let file = memfd_create("log", MemfdFlags::CLOEXEC).expect("a file");
        ftruncate(&file, 8192).expect("a length");
        let log = DirtyLog::map(file.as_fd(), 4096, 4096).expect("mapped");
        log.mark(0..10);
        ftruncate(&file, 0).expect("a length");
        assert!(!log.is_lost(), "nobody looked");
        log.mark(0..10);
        assert!(log.is_lost() && !log.is_short());
    }

    proptest! {
        /// Exactly the pages of a range, beside what was marked before.
        #[test]
        fn pages_of_a_range(start in 0usize..100 * LOG_PAGE, len in 0usize..40 * LOG_PAGE, before in any::<u8>()) {
            let file = memory(18).expect("memory");
            let log = DirtyLog::map(file.as_fd(), 0, 18).expect("mapped");
            prop_assert!(log.region.copy_in(3, &[before]));
            log.mark(start..start + len);
            let mut bytes = [0; 18];
            prop_assert!(log.region.copy_out(0, &mut bytes));
            for (page, bit) in (0..18 * PAGES).map(|page| (page, bytes[page / 8] >> (page % 8) & 1 != 0)) {
                let touched = start < (page + 1) * LOG_PAGE && page * LOG_PAGE < start + len && len > 0;
                let old = page / 8 == 3 && before >> (page % 8) & 1 != 0;
                prop_assert_eq!(bit, touched || old, "page {}", page);
            }
            prop_assert!(!log.is_short());
        }
    }
}
