//! Sending and receiving on sockets, with vectors, ancillary data and peeking.

mod rights;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

pub use self::rights::{MAX_DESCRIPTORS, receive_with, send_with};
use crate::iovec::{Gather, Scatter};
use crate::result;
use crate::seccomp::{Call, Sysno};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::any(Sysno::recvmsg), Call::any(Sysno::sendmsg), Call::any(Sysno::writev)];

/// What [`read()`] makes, for those whose peers are no sockets.
pub const READ: &[Call] = &[Call::any(Sysno::readv)];

/// Signals that may come one after the other, each during a call.
const SIGNALS: u32 = 3;

/// Sends the gathered bytes on a connected stream socket, without waiting and
/// without SIGPIPE; returns how many the kernel took.
pub fn send(fd: BorrowedFd<'_>, data: &Gather<'_>) -> io::Result<usize> {
    #[cfg(feature = "inject")]
    let limited = injected::limited(data.as_slice(), |script| script.stream(fd, data.total()))?;
    #[cfg(feature = "inject")]
    let vecs = limited.as_deref().unwrap_or(data.as_slice());
    #[cfg(not(feature = "inject"))]
    let vecs = data.as_slice();
    let message = header(vecs);
    // SAFETY: `message` points to vectors that `data` keeps alive for this call.
    let sent = result(unsafe {
        libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    })?;
    #[cfg(feature = "inject")]
    crate::inject::tell(|script| script.sent(fd, sent));
    Ok(sent)
}

/// Writes the gathered bytes to a file (`writev`); returns how many it took.
pub fn write(fd: BorrowedFd<'_>, data: &Gather<'_>) -> io::Result<usize> {
    let vecs = data.as_slice();
    // SAFETY: the vectors are those of buffers that `data` keeps alive for this call.
    result(unsafe {
        libc::writev(fd.as_raw_fd(), vecs.as_ptr(), i32::try_from(vecs.len()).unwrap_or(i32::MAX))
    })
}

/// Reads from a file, which is non-blocking if this is not to wait (`readv`); `Ok(0)` is its end.
pub fn read(fd: BorrowedFd<'_>, into: &Scatter<'_>) -> io::Result<usize> {
    let vecs = into.as_slice();
    // SAFETY: the vectors are those of buffers that `into` borrows mutably, or that nothing in this
    // process refers to.
    result(unsafe {
        libc::readv(fd.as_raw_fd(), vecs.as_ptr(), i32::try_from(vecs.len()).unwrap_or(i32::MAX))
    })
}

/// Sends one slice like [`send`].
pub fn send_slice(fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    send(fd, &Gather::of(data))
}

/// Writes one slice like [`write()`].
pub fn write_slice(fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    write(fd, &Gather::of(data))
}

/// Takes data from a stream socket's receive queue. `Ok(0)` is the end of the stream.
pub fn receive(fd: BorrowedFd<'_>, into: &Scatter<'_>) -> io::Result<usize> {
    receive_message(fd, into.as_slice(), 0)
}

/// Copies data from a stream socket's receive queue and leaves it there
/// (`MSG_PEEK`), from the socket's peek offset if it has one. `Ok(0)` is the end of the stream.
pub fn peek(fd: BorrowedFd<'_>, into: &Scatter<'_>) -> io::Result<usize> {
    receive_message(fd, into.as_slice(), libc::MSG_PEEK)
}

/// Removes `len` bytes, all of which are there, from the head of a TCP socket's receive queue
/// without copying them (`MSG_TRUNC`, tcp(7)), also past marks of urgent data, at each of which the
/// kernel ends a call. `InvalidData` if they are not there.
pub fn discard(fd: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    let mut left = len;
    while left > 0 {
        // With MSG_TRUNC the kernel does not write to the (null) buffer of a TCP socket. On others
        // it would fail to: it begins at address zero, where nothing is mapped.
        let vec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: left };
        match past_signals(|| receive_message(fd, &[vec], libc::MSG_TRUNC))? {
            0 => return Err(io::ErrorKind::InvalidData.into()),
            removed => left = left.saturating_sub(removed),
        }
    }
    Ok(())
}

/// Removes what is in a TCP socket's receive queue: closing it with data there resets the
/// connection, and what it has to send is lost.
pub fn drain(fd: BorrowedFd<'_>) {
    // A peer may send as fast as this removes.
    for _ in 0..16 {
        let vec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: i32::MAX as usize };
        if !matches!(receive_message(fd, &[vec], libc::MSG_TRUNC), Ok(1..)) {
            break;
        }
    }
}

/// Calls again what found nothing. At a mark of urgent data the kernel says `EAGAIN` while a signal
/// is pending, SIGSTOP for instance, though there is data (`tcp_recvmsg_locked` in net/ipv4/tcp.c).
/// At the next call it is pending no more.
pub fn past_signals(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    for _ in 0..SIGNALS {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
    call()
}

/// `recvmsg`, without waiting, for everything: one system call less to allow than with `recv`.
fn receive_message(fd: BorrowedFd<'_>, vecs: &[libc::iovec], flags: i32) -> io::Result<usize> {
    #[cfg(feature = "inject")]
    let limited = injected::limited(vecs, |script| script.receive(fd))?;
    #[cfg(feature = "inject")]
    let vecs = limited.as_deref().unwrap_or(vecs);
    let mut message = header(vecs);
    // SAFETY: `message` points to vectors that the caller keeps alive, and those to memory that it
    // borrows mutably or that nothing in this process refers to, or they are null and the flags
    // have nothing written.
    result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | flags) })
}

fn header(vecs: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vecs.as_ptr().cast_mut();
    message.msg_iovlen = vecs.len() as _;
    message
}

/// Calls that a script of tests decides.
#[cfg(feature = "inject")]
mod injected {
    use std::io;

    use crate::inject::{Fate, Faults, ask};

    /// What of a list of buffers the kernel is given, if not all.
    pub(super) fn limited(
        vecs: &[libc::iovec],
        question: impl FnOnce(&mut dyn Faults) -> Fate,
    ) -> io::Result<Option<Vec<libc::iovec>>> {
        let mut left = match ask(question) {
            Fate::Pass => return Ok(None),
            Fate::AtMost(len) => len.max(1),
            Fate::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
        };
        let head = vecs.iter().map_while(|vec| {
            let len = vec.iov_len.min(left);
            left -= len;
            (len > 0 || vec.iov_len == 0).then_some(libc::iovec { iov_len: len, ..*vec })
        });
        Ok(Some(head.collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn files_with_vectors() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let (mut a, mut b) = ([0; 3], [0; 5]);
        let mut data = Gather::of(b"ab");
        assert!(data.push(b"cdef"));
        assert_eq!(write(writer.as_fd(), &data).expect("room"), 6);
        let mut into = Scatter::new();
        assert!(into.push(&mut a) && into.push(&mut b));
        assert_eq!(read(reader.as_fd(), &into).expect("bytes"), 6);
        drop(writer);
        assert_eq!(read(reader.as_fd(), &into).expect("the end"), 0);
        assert_eq!((&a, &b), (b"abc", b"def\0\0"));
    }
}
