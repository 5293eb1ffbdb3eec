//! Memory shared with another process, which may be hostile.
//!
//! What lies there can change at any time, between two instructions of ours and in the middle of
//! one that copies. So no slice is ever formed over it. Payload is left to the kernel
//! ([`Region::gather`], [`Region::scatter`]). What has to be looked at is copied to private memory
//! once, checked there, and not read again. Numbers by which both sides keep in step are read and
//! written whole ([`Region::load`], [`Region::store`]).
//!
//! A file may shrink under its mapping. Where it has ended the kernel refuses system calls with
//! `EFAULT`, but an access of this process is a fault (`SIGBUS`). The file of [`memory()`] is sealed
//! against that; what others map for us need not be, and some that front ends use can't be
//! (hugetlbfs before Linux 4.16, files in a directory). So faults in a [`Memory`] are survived
//! ([`survive_faults`]): its region becomes private memory of zeros, and says that it is lost.
//!
//! While a guest moves to another machine, a [`Memory`] notes the pages that are written in a
//! [`DirtyLog`]: by itself what this process writes, and what the kernel was to write once it is told.

mod dirty;
mod fault;
mod table;

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

pub use self::dirty::{DirtyLog, LOG_PAGE};
pub use self::fault::survive_faults;
pub use self::table::{Loss, MAX_REGIONS, Memory, Place};
use crate::iovec::{self, Gather, Scatter};
use crate::seccomp::{Call, Choice, Sysno};

/// System calls made here once the process runs: memory is mapped to be read and written, as a
/// part of a file, or in its place once that is lost.
pub const CALLS: &[Call] = &[
    Call::any(Sysno::fstat),
    Call::only(Sysno::mmap, &[fault::MAPPING, MAPPING]),
    Call::any(Sysno::munmap),
    Call::any(Sysno::rt_sigreturn),
];

/// Arguments of mmap(2): a part of a file.
const MAPPING: Choice = &[(2, (libc::PROT_READ | libc::PROT_WRITE) as i64), (3, libc::MAP_SHARED as i64)];

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
    /// The mapping, from the start of the file.
    mapping: NonNull<u8>,
    mapped: usize,
    /// What is used of it.
    offset: usize,
    size: usize,
}

impl Region {
    /// Maps `file` up to the `size` bytes that begin at `offset`, which are the region. From its
    /// start: an offset need not be a multiple of the file's pages, which may be huge.
    /// `InvalidInput` if the file is shorter, or the region empty.
    pub fn map(file: BorrowedFd<'_>, offset: u64, size: usize) -> io::Result<Self> {
        let status = rustix::fs::fstat(file)?;
        let len = u64::try_from(status.st_size).unwrap_or(0);
        let invalid =
            || io::Error::new(io::ErrorKind::InvalidInput, format!("none of the file's {len} bytes"));
        let end = offset.checked_add(size as u64).filter(|end| *end <= len && size > 0);
        let end = usize::try_from(end.ok_or_else(invalid)?).map_err(|_| invalid())?;
        // Huge pages are mapped, and unmapped, as a whole (mmap(2)).
        let page = usize::try_from(status.st_blksize).ok().filter(|page| page.is_power_of_two());
        let mapped = end.checked_next_multiple_of(page.unwrap_or(1)).ok_or_else(invalid)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let anywhere = std::ptr::null_mut();
        // SAFETY: where the kernel finds room for a new mapping there is nothing of this process.
        let mapping = unsafe { rustix::mm::mmap(anywhere, mapped, access, MapFlags::SHARED, file, 0)? };
        let mapping = NonNull::new(mapping.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // Less than `end`.
        Ok(Self { mapping, mapped, offset: end - size, size })
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

    /// Sets bits of the byte at `at`, behind all that was written before; false if it is not in the
    /// region. None of others is lost, who set or clear some at the same time.
    fn set_bits(&self, at: usize, bits: u8) -> bool {
        let Some(start) = self.start(at..at.saturating_add(1)) else { return false };
        // SAFETY: a byte is mapped there while `self` is borrowed. An atomic number may be changed
        // by others, and those of this process do so by this function.
        unsafe { AtomicU8::from_ptr(start) }.fetch_or(bits, Ordering::SeqCst);
        true
    }

    /// Where `range` starts, if it is all in the region.
    fn start(&self, range: Range<usize>) -> Option<*mut u8> {
        if range.start > range.end || range.end > self.size {
            return None;
        }
        // SAFETY: it is not past the end of the region, which is not past that of the mapping.
        Some(unsafe { self.mapping.as_ptr().add(self.offset + range.start) })
    }

    /// Address and length of the mapping.
    fn mapping(&self) -> (usize, usize) {
        (self.mapping.as_ptr() as usize, self.mapped)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nothing that borrowed it is left.
        let _ = unsafe { rustix::mm::munmap(self.mapping.as_ptr().cast(), self.mapped) };
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
        for offset in [1, 4096, SIZE - 1] {
            let region = map(offset as u64, SIZE - offset).expect("mapped");
            assert_eq!(region.size(), SIZE - offset);
            assert!(region.copy_in(0, &[7]));
            let mut byte = [0];
            assert!(map(0, SIZE).expect("mapped").copy_out(offset, &mut byte));
            assert_eq!(byte, [7], "at {offset}");
        }
        for (offset, size) in
            [(0, SIZE + 1), (4096, SIZE), (u64::MAX - 4095, SIZE), (0, usize::MAX), (SIZE as u64, 1), (0, 0)]
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
