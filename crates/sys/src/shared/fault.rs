//! Faults in memory whose file others made shorter (`SIGBUS`, mmap(2)).
//!
//! The access goes on in private memory of zeros, which takes the place of the whole mapping, and
//! the mapping is *lost*: whoever uses it finds that out, and gives up what it was for. What is
//! mapped is noted in a table that a handler of signals can read, of fixed size.

use std::io;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::seccomp::Choice;

/// Mappings at most: those of a table and its log, those that replace them, and about as many again.
const SLOTS: usize = 128;

/// However large the mapping, hardly any of it is ever touched.
const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
const ACCESS: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Arguments of mmap(2): memory in the place of a mapping.
pub(super) const MAPPING: Choice = &[(2, ACCESS as i64), (3, FLAGS as i64)];

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

struct Slot {
    taken: AtomicBool,
    /// Address and length of the mapping; a length of zero while there is none.
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

impl Slot {
    const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }
}

/// A mapping of which faults are survived, for as long as this lives.
#[derive(Debug)]
pub(super) struct Survivor(usize);

impl Survivor {
    /// Notes `len` bytes that are mapped at `start`, a multiple of the page size, and will be for as
    /// long as this lives. `OutOfMemory` if there are too many.
    ///
    /// # Safety
    ///
    /// Nothing relies on what is in this memory: it may become zero at any time.
    pub(super) unsafe fn new((start, len): (usize, usize)) -> io::Result<Self> {
        let free = |slot: &Slot| !slot.taken.swap(true, Ordering::AcqRel);
        let number = TABLE.iter().position(free).ok_or(io::ErrorKind::OutOfMemory)?;
        let slot = &TABLE[number];
        slot.lost.store(false, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
        slot.len.store(len, Ordering::Release);
        Ok(Self(number))
    }

    /// Whether there was a fault.
    pub(super) fn is_lost(&self) -> bool {
        TABLE[self.0].lost.load(Ordering::Relaxed)
    }
}

impl Drop for Survivor {
    fn drop(&mut self) {
        let slot = &TABLE[self.0];
        slot.len.store(0, Ordering::Release);
        slot.taken.store(false, Ordering::Release);
    }
}

/// Has this process survive faults in the regions of every [`Memory`](super::Memory). Any other
/// ends it with status 128 + `SIGBUS`.
pub fn survive_faults() -> io::Result<()> {
    // SAFETY: all-zero is a valid `sigaction`: no flags, empty mask, SIG_DFL.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = fault as extern "C" fn(_, _, _) as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is initialised; its handler has the signature for SA_SIGINFO.
    crate::result(unsafe { libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) } as isize).map(drop)
}

extern "C" fn fault(signal: libc::c_int, info: *const libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a `siginfo_t`.
    let info = unsafe { &*info };
    // SAFETY: that of SIGBUS has an address (sigaction(2)).
    let address = unsafe { info.si_addr() } as usize;
    for slot in &TABLE {
        let (len, start) = (slot.len.load(Ordering::Acquire), slot.start.load(Ordering::Acquire));
        if address.wrapping_sub(start) < len && replace(start, len) {
            slot.lost.store(true, Ordering::Relaxed);
            return;
        }
    }
    crate::process::exit_now(u8::try_from(128 + signal).unwrap_or(u8::MAX));
}

/// Puts zeros in the place of a mapping.
fn replace(start: usize, len: usize) -> bool {
    // SAFETY: the table names whole mappings that were told to it with the promise that they may
    // become zero at any time.
    let mapped = unsafe { libc::mmap(start as *mut _, len, ACCESS, FLAGS, -1, 0) };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::super::{Memory, Place};
    use super::*;

    const SIZE: usize = 4 * 4096;

    /// What the other end makes shorter is zero, and lost, and others are as they were.
    #[test]
    fn a_file_that_becomes_shorter() {
        survive_faults().expect("a handler");
        let file = memfd_create("shared", MemfdFlags::CLOEXEC).expect("a file");
        ftruncate(&file, SIZE as u64).expect("a length");
        let place = |guest, offset| Place { guest, size: 4096, user: guest, offset };
        let (mut memory, mut other) = (Memory::new(), Memory::new());
        let sealed = super::super::memory(SIZE).expect("memory");
        for guest in [0, 0x10_0000] {
            memory.add(file.as_fd(), place(guest, 4096)).expect("mapped");
        }
        other.add(sealed.as_fd(), place(0, 0)).expect("mapped");
        assert!(memory.copy_in(5, b"text") && other.copy_in(5, b"text"));
        ftruncate(&file, 100).expect("a length");
        let mut text = *b"none";
        assert!(memory.loss().is_none(), "nobody looked");
        assert!(memory.copy_out(5, &mut text) && memory.loss().is_some());
        assert_eq!(text, [0; 4]);
        assert!(memory.store(8, 1) && memory.load(8) == Some(1), "it can be used");
        assert!(memory.copy_in(0x10_0000, b"text"), "also by writing");
        assert!(other.copy_out(5, &mut text) && other.loss().is_none());
        assert_eq!(&text, b"text");
        drop(memory);
        assert!(other.loss().is_none());
    }

    /// The kernel says no where it would have to fault itself.
    #[test]
    fn system_calls_on_a_file_that_became_shorter() {
        use crate::iovec::{Gather, Scatter};
        use std::os::unix::net::UnixStream;

        let file = memfd_create("shared", MemfdFlags::CLOEXEC).expect("a file");
        ftruncate(&file, SIZE as u64).expect("a length");
        let mut memory = Memory::new();
        memory.add(file.as_fd(), Place { guest: 0, size: SIZE as u64, user: 0, offset: 0 }).expect("mapped");
        ftruncate(&file, 0).expect("a length");
        let (from, to) = UnixStream::pair().expect("sockets");
        let (mut data, mut room) = (Gather::new(), Scatter::new());
        assert!(memory.gather(0..100, &mut data) && memory.scatter(0..100, &mut room));
        let error = crate::msg::send(from.as_fd(), &data).expect_err("a fault");
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        crate::msg::send_slice(from.as_fd(), b"text").expect("sent");
        let error = crate::msg::receive(to.as_fd(), &room).expect_err("a fault");
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }
}
