//! Memory shared with another process, which may be hostile.
//!
//! What lies there can change at any time, between two instructions of ours and in the middle of
//! one that copies. So no slice is ever formed over it. Payload is left to the kernel
//! ([`Region::gather`], [`Region::scatter`]). What has to be looked at is copied to private memory
//! once, checked there, and not read again. Numbers by which both sides keep in step are read and
//! written whole ([`Region::load`], [`Region::store`]).
//!
//! Left out: a file that shrinks under its mapping. Where it has ended the kernel refuses system
//! calls with `EFAULT`, but an access of this process ends it (`SIGBUS`). Only a file sealed
//! against that is safe, as that of [`memory`] is.

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::iovec::{self, Gather, Scatter};

/// A file in memory of `len` bytes, all zero, whose length nobody can change.
pub fn memory(len: usize) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("shared", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, len as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// A part of a file, mapped to be read and written by whoever has mapped it.
///
/// Lists that name its bytes end before it does:
///
/// ```compile_fail,E0505
/// let file = passt_sys::shared::memory(4096).unwrap();
/// let region = passt_sys::shared::Region::map(std::os::fd::AsFd::as_fd(&file), 0, 4096).unwrap();
/// let mut list = passt_sys::iovec::Gather::new();
/// region.gather(0..10, &mut list);
/// drop(region);
/// list.copy_out(0, &mut [0]);
/// ```
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    size: usize,
}

impl Region {
    /// Maps the `size` bytes of `file` that begin at `offset`, a multiple of the page size.
    /// `InvalidInput` if the file is shorter.
    pub fn map(file: BorrowedFd<'_>, offset: u64, size: usize) -> io::Result<Self> {
        let len = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
        if offset.checked_add(size as u64).is_none_or(|end| end > len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let anywhere = std::ptr::null_mut();
        // SAFETY: where the kernel finds room for a new mapping there is nothing of this process.
        let base = unsafe { rustix::mm::mmap(anywhere, size, access, MapFlags::SHARED, file, offset)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, size })
    }

    /// Bytes mapped.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Appends `range` to a list of buffers to be read; false if it is not all in the region, or
    /// the list is full.
    pub fn gather<'a>(&'a self, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        let len = range.len();
        // SAFETY: the bytes are mapped, and stay so while `self` is borrowed.
        self.start(range).is_some_and(|start| unsafe { into.push_shared(start, len) })
    }

    /// Appends `range` to a list of buffers to be written; false if it is not all in the region, or
    /// the list is full. Others may write there as well, and so may this process, by another list:
    /// nobody relies on what is there.
    pub fn scatter<'a>(&'a self, range: Range<usize>, into: &mut Scatter<'a>) -> bool {
        let len = range.len();
        // SAFETY: the bytes are mapped, and stay so while `self` is borrowed.
        self.start(range).is_some_and(|start| unsafe { into.push_shared(start, len) })
    }

    /// Copies what is at `at` to private memory; false if it is not all in the region.
    #[must_use]
    pub fn copy_out(&self, at: usize, out: &mut [u8]) -> bool {
        let Some(start) = self.start(at..at.saturating_add(out.len())) else { return false };
        // SAFETY: as many bytes are mapped from `start` on as `out` has. A slice of ours is no part
        // of the mapping.
        unsafe { iovec::copy(start, out.as_mut_ptr(), out.len()) };
        true
    }

    /// Copies `bytes` from private memory to `at`; false if that is not all in the region.
    #[must_use]
    pub fn copy_in(&self, at: usize, bytes: &[u8]) -> bool {
        let Some(start) = self.start(at..at.saturating_add(bytes.len())) else { return false };
        // SAFETY: as many bytes are mapped from `start` on as there are. A slice of ours is no part
        // of the mapping.
        unsafe { iovec::copy(bytes.as_ptr(), start, bytes.len()) };
        true
    }

    /// The number at `at`, in the machine's byte order. What another process wrote before it stored
    /// this number is seen from here on. `None` if it is not in the region, or not at an even
    /// place.
    pub fn load(&self, at: usize) -> Option<u16> {
        Some(self.number(at)?.load(Ordering::Acquire))
    }

    /// Stores a number at `at`, in the machine's byte order. Whoever loads it sees what was written
    /// before. False if it is not in the region, or not at an even place.
    #[must_use]
    pub fn store(&self, at: usize, value: u16) -> bool {
        self.number(at).map(|number| number.store(value, Ordering::Release)).is_some()
    }

    #[expect(clippy::cast_ptr_alignment, reason = "is looked at")]
    fn number(&self, at: usize) -> Option<&AtomicU16> {
        let start = self.start(at..at.saturating_add(2))?.cast::<u16>();
        // SAFETY: two bytes are mapped there while `self` is borrowed, at an even address. An
        // atomic number may be changed by others, and those of this process do so by this function.
        start.is_aligned().then(|| unsafe { AtomicU16::from_ptr(start) })
    }

    /// Where `range` starts, if it is all in the region.
    fn start(&self, range: Range<usize>) -> Option<*mut u8> {
        if range.start > range.end || range.end > self.size {
            return None;
        }
        // SAFETY: it is not past the end of the mapping.
        Some(unsafe { self.base.as_ptr().add(range.start) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nothing that borrowed it is left.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::msg;

    const SIZE: usize = 3 * 4096;

    /// The same memory as two processes have it.
    fn twice() -> (Region, Region) {
        let file = memory(SIZE).expect("memory");
        let map = || Region::map(file.as_fd(), 0, SIZE).expect("mapped");
        (map(), map())
    }

    /// Ranges that are not all in the region, at either end of all numbers.
    #[expect(clippy::reversed_empty_ranges, reason = "a range that is none")]
    fn outside() -> [Range<usize>; 6] {
        [0..SIZE + 1, SIZE - 1..SIZE + 1, SIZE..SIZE + 1, SIZE + 1..SIZE + 1, 0..usize::MAX, 10..9]
    }

    #[test]
    fn what_is_mapped_exists() {
        let file = memory(SIZE).expect("memory");
        let map = |offset, size| Region::map(file.as_fd(), offset, size);
        assert_eq!(map(4096, SIZE - 4096).expect("mapped").size(), SIZE - 4096);
        for (offset, size) in
            [(0, SIZE + 1), (4096, SIZE), (u64::MAX - 4095, SIZE), (0, usize::MAX), (1, 4096), (0, 0)]
        {
            assert_eq!(map(offset, size).expect_err("too long").kind(), io::ErrorKind::InvalidInput);
        }
        let shorter = rustix::fs::ftruncate(&file, 0);
        assert_eq!(shorter, Err(rustix::io::Errno::PERM), "it is sealed");
    }

    #[test]
    fn copies_are_seen_by_others() {
        let (ours, theirs) = twice();
        let mut out = [0; 4];
        assert!(ours.copy_in(SIZE - 4, &[1, 2, 3, 4]) && theirs.copy_out(SIZE - 4, &mut out));
        assert_eq!(out, [1, 2, 3, 4]);
        assert!(ours.copy_in(SIZE, &[]) && ours.copy_out(SIZE, &mut []));
        for at in [SIZE - 3, SIZE, usize::MAX - 3, usize::MAX] {
            assert!(!ours.copy_in(at, &[9; 4]) && !ours.copy_out(at, &mut out));
        }
        assert!(theirs.copy_out(SIZE - 4, &mut out));
        assert_eq!(out, [1, 2, 3, 4]);
    }

    #[test]
    fn numbers_are_seen_by_others() {
        let (ours, theirs) = twice();
        assert!(ours.store(6, 0xabcd));
        assert_eq!((theirs.load(6), theirs.load(8)), (Some(0xabcd), Some(0)));
        for at in [5, SIZE - 1, SIZE, usize::MAX] {
            assert!(!ours.store(at, 1) && ours.load(at).is_none(), "{at}");
        }
    }

    #[test]
    fn lists_hold_what_is_inside() {
        let (ours, theirs) = twice();
        assert!(theirs.copy_in(10, b"payload"));
        let mut data = Gather::new();
        assert!(ours.gather(10..14, &mut data) && ours.gather(14..17, &mut data));
        let mut room = Scatter::new();
        assert!(ours.scatter(SIZE - 7..SIZE, &mut room));
        for range in outside() {
            assert!(!ours.gather(range.clone(), &mut data) && !ours.scatter(range, &mut room));
        }
        let (from, to) = UnixStream::pair().expect("sockets");
        assert_eq!(msg::send(from.as_fd(), &data).expect("sent"), 7);
        assert_eq!(msg::receive(to.as_fd(), &room).expect("received"), 7);
        let mut out = [0; 7];
        assert!(theirs.copy_out(SIZE - 7, &mut out));
        assert_eq!(&out, b"payload");
        // What a list named may be something else by now.
        assert!(theirs.copy_in(10, b"changed"));
        assert_eq!((data.copy_out(0, &mut out), &out), (7, b"changed"));
        assert_eq!(room.copy_in(3, b"here"), 4);
        assert!(theirs.copy_out(SIZE - 7, &mut out));
        assert_eq!(&out, b"payhere");
    }

    #[test]
    fn a_full_list_refuses() {
        let (ours, _) = twice();
        let (mut data, mut room) = (Gather::new(), Scatter::new());
        for _ in 0..iovec::MAX {
            assert!(ours.gather(0..1, &mut data) && ours.scatter(0..1, &mut room));
        }
        assert!(!ours.gather(0..1, &mut data) && !ours.scatter(0..1, &mut room));
        assert_eq!((data.total(), room.total()), (iovec::MAX, iovec::MAX));
    }
}
