//! Descriptors by which one process tells another that there is something to do: eventfd(2).
//!
//! Both have the same open file, with its flags. So none of ours may be read or written before it
//! is known to return at once, and whoever has it too can have it wait again: a front end that
//! does so, and fills it, stops the process that serves it alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;

use crate::msg;
use crate::seccomp::{Call, Sysno};

/// System calls made here once the process runs, beside those of [`msg`]: `F_SETFL` of fcntl(2).
pub const CALLS: &[Call] = &[
    Call::only(Sysno::fcntl, &[&[(1, libc::F_SETFL as i64)]]),
    Call::any(Sysno::fstat),
    Call::any(Sysno::read),
];

/// An eventfd.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// A new one, that is not readable.
    pub fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// One that another process has made. `InvalidInput` if it is a file, a pipe or a socket: what
    /// has no type, among what a process can open, is of the kernel's own making.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        Self::of_type(fd, &[0])
    }

    /// The same to be signalled alone, which may be a pipe or a socket as well: user-mode Linux gets
    /// no signal of an eventfd, and has one of these in its place.
    pub fn adopt_to_signal(fd: OwnedFd) -> io::Result<Self> {
        Self::of_type(fd, &[0, libc::S_IFIFO, libc::S_IFSOCK])
    }

    fn of_type(fd: OwnedFd, types: &[u32]) -> io::Result<Self> {
        if !types.contains(&(rustix::fs::fstat(&fd)?.st_mode & libc::S_IFMT)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Ok(Self(fd))
    }

    /// The same, to be given away.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Has it be readable. It has no room only where it is so already.
    pub fn signal(&self) {
        let _ = msg::write_slice(self.0.as_fd(), &1u64.to_ne_bytes());
    }

    /// Has it be readable no more; whether it was.
    pub fn clear(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_seen_once() {
        let ours = Event::new().expect("an eventfd");
        let theirs = Event::adopt(ours.try_clone().expect("another")).expect("an eventfd");
        assert!(!ours.clear());
        theirs.signal();
        theirs.signal();
        assert!(ours.clear() && !ours.clear() && !theirs.clear());
    }

    /// One that waits, as its maker wants it, does not here; a full one takes no more.
    #[test]
    fn nothing_waits() {
        let blocking = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let event = Event::adopt(blocking).expect("an eventfd");
        assert!(!event.clear());
        rustix::io::write(&event.0, &(u64::MAX - 1).to_ne_bytes()).expect("filled");
        event.signal();
        assert!(event.clear());
    }

    /// One that nobody reads, or that is full, is no reason to wait.
    #[test]
    fn pipes_and_sockets() {
        let (a, b) = std::os::unix::net::UnixStream::pair().expect("sockets");
        for (reader, writer) in [rustix::pipe::pipe().expect("a pipe"), (a.into(), b.into())] {
            let event = Event::adopt_to_signal(writer).expect("a pipe or a socket");
            (0..20_000).for_each(|_| event.signal());
            let mut bytes = [0; 8];
            assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(8));
            assert_eq!(bytes, 1u64.to_ne_bytes());
            drop(reader);
            event.signal();
        }
    }

    #[test]
    fn other_files() {
        let file = crate::shared::memory(4096).expect("memory");
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let (a, b) = std::os::unix::net::UnixStream::pair().expect("sockets");
        for fd in [file, reader, writer, a.into(), b.into(), crate::fd::null().expect("a device")] {
            assert_eq!(Event::adopt(fd).expect_err("no eventfd").kind(), io::ErrorKind::InvalidInput);
        }
    }
}
