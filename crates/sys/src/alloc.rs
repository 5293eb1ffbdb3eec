//! Memory of a process that can no longer ask the kernel for any.
//!
//! Until it is sealed a process allocates as every other one does. From then on what it asks for
//! comes from a static arena, of which the kernel provides what is touched. What the data path
//! needs was reserved before; the arena is for what happens rarely: a port that is opened
//! while the process runs. What was allocated before stays where it is, and is not given back:
//! the C library would return it to the kernel.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use spinning_top::RawSpinlock;
use talc::TalcLock;
use talc::source::Manual;

/// Bytes of the arena: of address space, until they are used.
const ARENA: usize = 32 * 1024 * 1024;
/// What no request may begin to use: more than any takes until it looks again.
const KEPT: usize = 8 * 1024 * 1024;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new();
static MEMORY: Memory<ARENA> = Memory::new();

/// What was allocated since a process was sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocations, changes of size included.
    pub allocations: u64,
    /// Bytes of the arena that are in use.
    pub bytes: usize,
}

/// Allocates from the arena alone from now on, in all threads.
pub fn seal() {
    ALLOCATOR.seal(&MEMORY);
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
    ALLOCATOR.usage().bytes + KEPT <= ARENA
}

/// Memory for an arena, all zero, so that it takes none of the program's file.
#[repr(C, align(4096))]
struct Memory<const SIZE: usize>(UnsafeCell<[u8; SIZE]>);

impl<const SIZE: usize> Memory<SIZE> {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; SIZE]))
    }
}

// SAFETY: nothing but the allocator that it is given to makes use of the content.
unsafe impl<const SIZE: usize> Sync for Memory<SIZE> {}

/// The C library's allocator until it is sealed, then an arena.
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

    fn seal<const SIZE: usize>(&self, memory: &'static Memory<SIZE>) {
        let mut arena = self.arena.lock();
        // Asked under the lock: of two threads only one gives the memory away.
        if self.is_sealed() {
            return;
        }
        let start = memory.0.get().cast::<u8>();
        // SAFETY: the memory is valid for as long as there is a process, and nobody else's: it was not
        // claimed before, and each `Memory` is given to one allocator.
        let claimed = unsafe { arena.claim(start, SIZE) };
        if claimed.is_some() {
            self.start.store(start as usize, Ordering::Relaxed);
            self.len.store(SIZE, Ordering::Relaxed);
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

// SAFETY: memory comes from one of two allocators that keep the contract, and goes back to the one it
// came from, which its address tells, or to none.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !self.is_sealed() {
            // SAFETY: the caller's promise is passed on.
            return unsafe { System.alloc(layout) };
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
            return unsafe { System.alloc_zeroed(layout) };
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
            // SAFETY: the C library's, allocated with this layout.
            unsafe { System.dealloc(pointer, layout) };
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.is_sealed() {
            // SAFETY: the caller's promise is passed on; before it is sealed there is no other memory.
            return unsafe { System.realloc(pointer, layout, size) };
        }
        // SAFETY: the caller promises that the size, rounded up to the alignment, doesn't overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
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

    /// What was allocated before can be used, and grows into the arena; an arena that is exhausted says
    /// so and recovers.
    #[test]
    fn a_sealed_allocator() {
        static MEMORY: Memory<SIZE> = Memory::new();
        let allocator = Allocator::new();
        // SAFETY: not of size zero.
        let early = unsafe { allocator.alloc_zeroed(layout(100)) };
        assert!(!early.is_null() && !allocator.has(early));
        assert_eq!(allocator.usage(), Usage::default());
        allocator.seal(&MEMORY);
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

    /// This process is not sealed.
    #[test]
    fn others_count_nothing() {
        assert_eq!((usage(), has_room()), (Usage::default(), true));
    }
}
