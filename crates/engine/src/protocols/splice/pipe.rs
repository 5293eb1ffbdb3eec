//! Pipes that data passes through without being copied (`splice(2)`), and in which the rest of
//! a short write waits.
//!
//! A flow has a pipe only while data is in it, so few serve many.

use std::os::fd::OwnedFd;

use passt_sys::seccomp::Choice;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// What pipes are made with, as the argument of `pipe2`.
pub(super) const FLAGS: &[Choice] = &[&[(1, OPEN.bits() as i64)]];
const OPEN: PipeFlags = PipeFlags::CLOEXEC.union(PipeFlags::NONBLOCK);
/// Bytes that a pipe should hold. With less than 512 KiB bulk is slower than a copy.
pub(super) const SIZE: usize = 512 * 1024;
/// Bytes that a pipe must hold to be of use: what is read at once where data is copied.
pub(super) const MIN_SIZE: usize = 64 * 1024;
/// Empty pipes that are kept.
const SPARE: usize = 32;

/// A pipe, both ends without waiting.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) reader: OwnedFd,
    pub(super) writer: OwnedFd,
}

impl Pipe {
    /// A pipe of the size wanted, or what a user without privilege gets (`pipe-user-pages-soft`,
    /// pipe(7)); none if that is too little.
    fn new() -> Option<Self> {
        let (reader, writer) = pipe_with(OPEN).ok()?;
        let size = fcntl_setpipe_size(&writer, SIZE).or_else(|_| rustix::pipe::fcntl_getpipe_size(&writer));
        (size.ok()? >= MIN_SIZE).then_some(Self { reader, writer })
    }
}

/// Empty pipes.
#[derive(Debug)]
pub(super) struct Pipes(Vec<Pipe>);

impl Pipes {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(SPARE))
    }

    /// Empty pipes that are kept, and how many there may be.
    pub(super) fn spare(&self) -> (usize, usize) {
        (self.0.len(), SPARE)
    }

    /// Whether the next [`Pipes::take`] succeeds.
    pub(super) fn is_ready(&mut self) -> bool {
        if self.0.is_empty() {
            self.0.extend(Pipe::new());
        }
        !self.0.is_empty()
    }

    /// An empty pipe; none if the process or its user has too many.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        self.0.pop().or_else(Pipe::new)
    }

    /// Takes an empty pipe back.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE {
            self.0.push(pipe);
        }
    }
}
