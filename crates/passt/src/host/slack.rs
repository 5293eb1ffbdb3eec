//! Slack: where the tail of a short write waits until the host's kernel has room.
//!
//! A guest may send what it was promised, but the room in a socket's send buffer
//! cannot be promised: it grows only when used, and the kernel may take less than it said.
//! So the promise is backed by this pool: a connection whose write was short
//! borrows a buffer for the rest. The memory is reserved at start and touched
//! only when used.

use std::os::fd::BorrowedFd;

use passt_sys::iovec::Gather;
use passt_sys::msg;

/// Bytes that a connection may have beyond what the host's kernel took: the window promised to the guest.
pub const ROOM: usize = 256 * 1024;
/// Rounding of window fields may add a little to a promise, several times.
const SPARE: usize = 8 * 1024;
const BUFFER: usize = ROOM + SPARE;
/// Connections that can have a rest waiting at the same time.
const BUFFERS: usize = 512;

/// The pool.
pub struct Pool {
    memory: Vec<u8>,
    free: Vec<usize>,
}

/// A rest that waits in a buffer of the pool.
#[derive(Debug)]
pub struct Rest {
    buffer: usize,
    start: usize,
    end: usize,
}

impl Pool {
    /// Reserves the pool.
    pub fn new() -> Self {
        Self { memory: vec![0; BUFFER * BUFFERS], free: (0..BUFFERS).rev().collect() }
    }

    /// Whether there is a buffer to lend.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Adds what `data` has behind its first `skip` bytes to `rest`; returns how many bytes found room.
    pub fn add(&mut self, rest: &mut Option<Rest>, data: &Gather<'_>, skip: usize) -> usize {
        if rest.is_none() {
            *rest = self.free.pop().map(|buffer| Rest { buffer, start: 0, end: 0 });
        }
        let Some(rest) = rest else { return 0 };
        let buffer = &mut self.memory[rest.buffer * BUFFER..][..BUFFER];
        if rest.start > 0 {
            buffer.copy_within(rest.start..rest.end, 0);
            rest.end -= rest.start;
            rest.start = 0;
        }
        let copied = data.copy_out(skip, &mut buffer[rest.end..]);
        rest.end += copied;
        copied
    }

    /// Offers a rest to its socket; gives the buffer back when all of it was taken. False on an error of the socket.
    pub fn flush(&mut self, rest: &mut Option<Rest>, fd: BorrowedFd<'_>) -> bool {
        let Some(waiting) = rest else { return true };
        let bytes = &self.memory[waiting.buffer * BUFFER..][waiting.start..waiting.end];
        match msg::send_slice(fd, bytes) {
            Ok(n) => waiting.start += n,
            Err(e) => return e.kind() == std::io::ErrorKind::WouldBlock,
        }
        if waiting.start == waiting.end {
            self.give_back(rest.take());
        }
        true
    }

    /// Takes a buffer back.
    pub fn give_back(&mut self, rest: Option<Rest>) {
        self.free.extend(rest.map(|r| r.buffer));
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Rest {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}
