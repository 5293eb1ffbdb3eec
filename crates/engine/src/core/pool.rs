//! Blocks of memory for payload that has to wait.
//!
//! They are reserved at the start, which takes address space alone, and touched when they are used.
//! Who takes a block gives it back: here it is a number. How much one may have is decided by
//! whoever lends.

use std::io;

use passt_sys::alloc;

/// Bytes of a block: as many as the largest datagram has.
pub(crate) const BLOCK: usize = 64 * 1024;

/// Blocks, each of which can name another that is behind it.
pub(crate) struct Pool {
    memory: Vec<u8>,
    /// The block behind each in its chain. The last of a chain may name any.
    next: Vec<u16>,
    free: u16,
    free_count: u16,
}

impl Pool {
    /// Reserves so many blocks.
    pub(crate) fn new(blocks: u16) -> io::Result<Self> {
        let next = (1..=blocks).collect();
        Ok(Self { memory: alloc::zeroed(usize::from(blocks) * BLOCK)?, next, free: 0, free_count: blocks })
    }

    /// Blocks that there are.
    pub(crate) fn len(&self) -> usize {
        self.next.len()
    }

    /// Blocks that are not lent.
    pub(crate) fn free_count(&self) -> usize {
        self.free_count.into()
    }

    /// Lends a block.
    pub(crate) fn take(&mut self) -> Option<u16> {
        self.free_count = self.free_count.checked_sub(1)?;
        let block = self.free;
        self.free = self.next[usize::from(block)];
        Some(block)
    }

    /// Takes back a block.
    pub(crate) fn give_back(&mut self, block: u16) {
        self.next[usize::from(block)] = self.free;
        self.free = block;
        self.free_count += 1;
    }

    /// Has a lent block be behind another one.
    pub(crate) fn chain(&mut self, block: u16, next: u16) {
        self.next[usize::from(block)] = next;
    }

    /// The block behind a lent one.
    pub(crate) fn behind(&self, block: u16) -> u16 {
        self.next[usize::from(block)]
    }

    /// What is in a block.
    pub(crate) fn bytes(&self, block: u16) -> &[u8] {
        &self.memory[usize::from(block) * BLOCK..][..BLOCK]
    }

    /// What is in a block, to be changed.
    pub(crate) fn bytes_mut(&mut self, block: u16) -> &mut [u8] {
        &mut self.memory[usize::from(block) * BLOCK..][..BLOCK]
    }
}
