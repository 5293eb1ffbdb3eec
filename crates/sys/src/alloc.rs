//! Memory: reserved without being committed, and of a process that can no longer ask the kernel for
//! any.
//!
//! Until it is sealed a process allocates as every other one does, but that *large* allocations are
//! mappings of their own, which the kernel does not count as committed (`MAP_NORESERVE`,
//! Documentation/mm/overcommit-accounting.rst in the kernel): tables and pools are far larger than
//! what is used of them.
//!
//! From then on what it asks for comes from one such mapping, the arena. What the data path
//! needs was reserved before; the arena is for what happens rarely: a port that is opened
//! while the process runs. What was allocated before stays where it is, and is not given back:
//! the kernel would refuse to take it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use spinning_top::RawSpinlock;
use talc::TalcLock;
use talc::source::Manual;
use zerocopy::FromZeros;

/// Bytes of the arena: of address space, until they are used.
const ARENA: usize = 32 * 1024 * 1024;
/// What no request may begin to use: more than any takes until it looks again.
const KEPT: usize = 8 * 1024 * 1024;
/// Bytes from which on an allocation is a mapping of its own.
const LARGE: usize = 128 * 1024;
/// Alignment that every mapping has.
const PAGE: usize = 4096;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new();
thread_local! {
    /// This thread goes on without what it can't get.
    static TRYING: Cell<bool> = const { Cell::new(false) };
}
/// Start of the arena once it is reserved.
static RESERVED: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// What was allocated since a process was sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocations, changes of size included.
    pub allocations: u64,
    /// Bytes of the arena that are in use.
    pub bytes: usize,
}

/// Has the C library use one heap for all threads. By default each new thread reserves 64 to 128
/// MiB of address space for one of its own.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers. It has no effect where it fails.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Memory for `capacity` values, none of which is there yet.
pub fn reserved<T>(capacity: usize) -> io::Result<Vec<T>> {
    let mut memory = Vec::new();
    trying(|| memory.try_reserve_exact(capacity))?;
    Ok(memory)
}

/// `count` values of zero, in memory that the kernel provides when they are touched.
pub fn zeroed<T: FromZeros>(count: usize) -> io::Result<Vec<T>> {
    trying(|| T::new_vec_zeroed(count)).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// Has what `allocate` can't get be an error for it.
fn trying<T>(allocate: impl FnOnce() -> T) -> T {
    TRYING.with(|trying| trying.set(true));
    let outcome = allocate();
    TRYING.with(|trying| trying.set(false));
    outcome
}

/// Passes memory on, or ends the process if there is none: in one line rather than by a signal.
fn or_end(memory: *mut u8) -> *mut u8 {
    if memory.is_null() && !TRYING.get() {
        const TEXT: &[u8] = b"Not enough memory\n";
        let text = libc::iovec { iov_base: TEXT.as_ptr().cast_mut().cast(), iov_len: TEXT.len() };
        // The one call for writing that a sealed process has.
        // SAFETY: reads so many bytes of a constant.
        unsafe { libc::writev(libc::STDERR_FILENO, &raw const text, 1) };
        crate::process::exit_now(1);
    }
    memory
}

/// Reserves the address space that [`seal`] needs, ahead of what can do with less.
pub fn reserve_arena() -> io::Result<()> {
    if RESERVED.load(Ordering::Acquire).is_null() {
        let start = map(ARENA);
        if start.is_null() {
            return Err(io::Error::last_os_error());
        }
        RESERVED.store(start, Ordering::Release);
    }
    Ok(())
}

/// Allocates from the arena alone from now on, in all threads.
pub fn seal() -> io::Result<()> {
    reserve_arena()?;
    ALLOCATOR.seal(RESERVED.load(Ordering::Acquire), ARENA);
    Ok(())
}

/// Begins to count allocations anew.
pub fn count_anew() {
    ALLOCATOR.allocations.store(0, Ordering::Relaxed);
}

/// What was allocated since [`seal`], or since [`count_anew`].
pub fn usage() -> Usage {
    ALLOCATOR.usage()
}

/// Whether there is memory for requests that can be turned down; others go on.
pub fn has_room() -> bool {
    has_room_for(0)
}

/// The same for a request that will take so many bytes before it looks again. A process that is not
/// sealed asks the kernel for what it needs.
pub fn has_room_for(bytes: usize) -> bool {
    !ALLOCATOR.is_sealed() || ALLOCATOR.usage().bytes.saturating_add(bytes) <= ARENA - KEPT
}

/// A mapping of zeroed memory that is not counted as committed; null if there is none.
fn map(len: usize) -> *mut u8 {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at a place of the kernel's choice, which touches no other.
    let start = unsafe { libc::mmap(null_mut(), len, access, flags, -1, 0) };
    if start == libc::MAP_FAILED { null_mut() } else { start.cast() }
}

/// Whether an allocation of this layout is a mapping, until the process is sealed.
fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= PAGE
}

/// Allocates before the process is sealed; all zero if `zeroed`.
///
/// # Safety
///
/// The size must not be zero.
unsafe fn early_alloc(layout: Layout, zeroed: bool) -> *mut u8 {
    match (is_large(layout), zeroed) {
        (true, _) => map(layout.size()),
        // SAFETY: the caller's promise is passed on.
        (false, true) => unsafe { System.alloc_zeroed(layout) },
        // SAFETY: the caller's promise is passed on.
        (false, false) => unsafe { System.alloc(layout) },
    }
}

/// Gives back what [`early_alloc`] or [`early_realloc`] gave.
///
/// # Safety
///
/// It must have this layout, and not be used any more.
unsafe fn early_dealloc(pointer: *mut u8, layout: Layout) {
    if is_large(layout) {
        // SAFETY: a whole mapping of this length, which the layout shows; nobody uses it any more.
        unsafe { libc::munmap(pointer.cast(), layout.size()) };
    } else {
        // SAFETY: the C library's, allocated with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Changes the size of what [`early_alloc`] gave.
///
/// # Safety
///
/// It must have the layout `old`, and `new` the same alignment and a size that is not zero.
unsafe fn early_realloc(pointer: *mut u8, old: Layout, new: Layout) -> *mut u8 {
    match (is_large(old), is_large(new)) {
        (false, false) => {
            // SAFETY: the C library's; the caller's promise is passed on.
            unsafe { System.realloc(pointer, old, new.size()) }
        }
        (true, true) => {
            // SAFETY: a whole mapping of this length; it may move, as its owner expects.
            let moved = unsafe { libc::mremap(pointer.cast(), old.size(), new.size(), libc::MREMAP_MAYMOVE) };
            if moved == libc::MAP_FAILED { null_mut() } else { moved.cast() }
        }
        _ => {
            // SAFETY: the caller promises a size that is not zero.
            let memory = unsafe { early_alloc(new, false) };
            if !memory.is_null() {
                // SAFETY: both are at least this long, and one of them is new.
                unsafe { memory.copy_from_nonoverlapping(pointer, old.size().min(new.size())) };
                // SAFETY: of this layout; the content has moved.
                unsafe { early_dealloc(pointer, old) };
            }
            memory
        }
    }
}

/// The C library's allocator and mappings until it is sealed, then an arena.
struct Allocator {
    arena: TalcLock<RawSpinlock, Manual>,
    /// Start and length of the arena's memory; zero before it has any.
    start: AtomicUsize,
    len: AtomicUsize,
    sealed: AtomicBool,
    allocations: AtomicU64,
    bytes: AtomicUsize,
}

impl Allocator {
    const fn new() -> Self {
        Self {
            arena: TalcLock::new(Manual),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            sealed: AtomicBool::new(false),
            allocations: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Has what is allocated from now on come from `len` bytes at `memory`, a mapping of [`map`].
    fn seal(&self, memory: *mut u8, len: usize) {
        let mut arena = self.arena.lock();
        // Asked under the lock: of two threads only one gives the memory away.
        if self.is_sealed() {
            return;
        }
        // SAFETY: callers pass a mapping of this length, which nothing else uses and nothing
        // removes; it was not claimed before, and each is given to one allocator.
        let claimed = unsafe { arena.claim(memory, len) };
        if claimed.is_some() {
            self.start.store(memory as usize, Ordering::Relaxed);
            self.len.store(len, Ordering::Relaxed);
            self.sealed.store(true, Ordering::Release);
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            allocations: self.allocations.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Whether `pointer` is into the arena.
    fn has(&self, pointer: *const u8) -> bool {
        let offset = (pointer as usize).wrapping_sub(self.start.load(Ordering::Relaxed));
        offset < self.len.load(Ordering::Relaxed)
    }
}

// SAFETY: memory comes from the C library, a mapping or the arena, which all keep the contract, and
// goes back to where it came from, which its address and its layout tell, or nowhere.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !self.is_sealed() {
            // SAFETY: the caller's promise is passed on.
            return or_end(unsafe { early_alloc(layout, false) });
        }
        self.allocations.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller promises a size that is not zero.
        let memory = unsafe { self.arena.lock().allocate(layout) };
        let Some(memory) = memory else { return null_mut() };
        self.bytes.fetch_add(layout.size(), Ordering::Relaxed);
        memory.as_ptr()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !self.is_sealed() {
            // SAFETY: the caller's promise is passed on.
            return or_end(unsafe { early_alloc(layout, true) });
        }
        // SAFETY: the caller's promise is passed on.
        let memory = unsafe { self.alloc(layout) };
        if !memory.is_null() {
            // SAFETY: this much was allocated there.
            unsafe { memory.write_bytes(0, layout.size()) };
        }
        memory
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.has(pointer) {
            self.bytes.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: the arena's, allocated with this layout.
            unsafe { self.arena.lock().deallocate(pointer, layout) };
        } else if !self.is_sealed() {
            // SAFETY: allocated with this layout, before the process was sealed, as it is not now.
            unsafe { early_dealloc(pointer, layout) };
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size, rounded up to the alignment, doesn't overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !self.is_sealed() {
            // SAFETY: the caller's promise is passed on; before it is sealed there is no other
            // memory.
            return or_end(unsafe { early_realloc(pointer, layout, wanted) });
        }
        // SAFETY: the caller promises a size that is not zero.
        let memory = unsafe { self.alloc(wanted) };
        if !memory.is_null() {
            // SAFETY: both are at least this long, and one of them is new.
            unsafe { memory.copy_from_nonoverlapping(pointer, layout.size().min(size)) };
            // SAFETY: the caller promises that it was allocated here with this layout.
            unsafe { self.dealloc(pointer, layout) };
        }
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1 << 20;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 16).expect("a layout")
    }

    /// What was allocated before can be used, and grows into the arena; an arena that is exhausted
    /// says so and recovers.
    #[test]
    fn a_sealed_allocator() {
        let allocator = Allocator::new();
        // SAFETY: not of size zero.
        let early = unsafe { allocator.alloc_zeroed(layout(100)) };
        assert!(!early.is_null() && !allocator.has(early));
        assert_eq!(allocator.usage(), Usage::default());
        allocator.seal(map(SIZE), SIZE);
        // SAFETY: allocated there with this layout.
        let grown = unsafe { allocator.realloc(early, layout(100), 5000) };
        assert!(allocator.has(grown));
        assert_eq!(allocator.usage(), Usage { allocations: 1, bytes: 5000 });
        // SAFETY: not of size zero.
        assert!(unsafe { allocator.alloc(layout(SIZE)) }.is_null(), "more than there is");
        let mut blocks = Vec::new();
        loop {
            // SAFETY: not of size zero.
            let block = unsafe { allocator.alloc_zeroed(layout(10_000)) };
            if block.is_null() {
                break;
            }
            // SAFETY: this long.
            assert!(unsafe { std::slice::from_raw_parts(block, 10_000) }.iter().all(|&byte| byte == 0));
            // SAFETY: this long.
            unsafe { block.write_bytes(7, 10_000) };
            blocks.push(block);
        }
        assert!(blocks.len() > SIZE / 10_000 / 2, "{}", blocks.len());
        for block in blocks {
            // SAFETY: allocated there with this layout.
            unsafe { allocator.dealloc(block, layout(10_000)) };
        }
        assert_eq!(allocator.usage().bytes, 5000);
        // SAFETY: not of size zero.
        assert!(!unsafe { allocator.alloc(layout(SIZE / 2)) }.is_null(), "in one piece again");
    }

    /// Growing and shrinking across the border keeps the content, as does what a mapping grows to.
    #[test]
    fn large_allocations_keep_their_content() {
        let allocator = Allocator::new();
        let sizes = [LARGE - 1, LARGE, 5 * LARGE, 3 * LARGE + 7, 2 * PAGE, 100];
        // SAFETY: not of size zero.
        let mut memory = unsafe { allocator.alloc_zeroed(layout(sizes[0])) };
        let mut kept = 100;
        for pair in sizes.windows(2) {
            // SAFETY: at least this long.
            unsafe { memory.write_bytes(9, kept) };
            // SAFETY: allocated with this layout.
            memory = unsafe { allocator.realloc(memory, layout(pair[0]), pair[1]) };
            // SAFETY: this long, and written or zeroed when it was mapped.
            let content = unsafe { std::slice::from_raw_parts(memory, kept.min(pair[1])) };
            assert!(content.iter().all(|&byte| byte == 9), "{pair:?}");
            kept = pair[1];
        }
        // SAFETY: allocated with this layout.
        unsafe { allocator.dealloc(memory, layout(100)) };
        assert!(zeroed::<u64>(1 << 20).expect("memory").iter().all(|&word| word == 0));
        // More than a process can have, by the kernel where that can be asked for.
        let too_many = 1_usize.checked_shl(50).unwrap_or(usize::MAX);
        assert!(reserved::<u8>(too_many).is_err());
        assert!(zeroed::<u8>(too_many).is_err());
    }

    /// This process is not sealed.
    #[test]
    fn others_count_nothing() {
        assert_eq!((usage(), has_room()), (Usage::default(), true));
    }
}
