//! Descriptors that a process has from birth: the standard three, and leaks.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use crate::result;
use crate::seccomp::{Call, Sysno};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::only(Sysno::ioctl, &[&[(1, UNREAD)]])];

/// `FIONREAD` (`ioctl_fionread(2)`), in the type of the filter.
#[allow(clippy::cast_possible_wrap, clippy::cast_lossless, reason = "C libraries differ in its type")]
const UNREAD: i64 = libc::FIONREAD as i64;

/// Most bytes that a pipe takes as a whole or not at all, pipe(7).
pub const PIPE_BUF: usize = libc::PIPE_BUF;

/// First descriptor after standard input, output and error.
const FIRST: RawFd = 3;

/// Opens `/dev/null` in place of those of descriptors 0 to 2 that are closed,
/// so that nothing opened later is mistaken for standard output.
pub fn ensure_standard() -> io::Result<()> {
    while !(0..FIRST).all(is_open) {
        // The lowest number that is free.
        let _standard = null()?.into_raw_fd();
    }
    Ok(())
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: takes no pointers; a number that is no descriptor is an error.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Opens `/dev/null`.
pub fn null() -> io::Result<OwnedFd> {
    const NULL: &str = "/dev/null";
    let opened = OpenOptions::new().read(true).write(true).open(NULL);
    Ok(opened.map_err(|error| at(NULL, &error))?.into())
}

/// `error`, which happened at `place`, with its name: most often a path.
pub fn at(place: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{place}: {error}"))
}

/// Points descriptors 0 to 2 at `null`: a process in the background has no terminal.
pub fn null_standard(null: &OwnedFd) -> io::Result<()> {
    dup2_stdin(null)?;
    dup2_stdout(null)?;
    dup2_stderr(null)?;
    Ok(())
}

/// Closes everything from descriptor 3 on, except `keep`.
///
/// Only for the very start of a process, when it owns nothing there yet: what
/// is closed is what the parent leaked. Without `close_range(2)` (Linux 5.9) the
/// list in `/proc/self/fd` is used.
pub fn close_leaked(keep: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<_> = keep.iter().copied().filter(|fd| *fd >= FIRST).collect();
    kept.sort_unstable();
    let mut first = FIRST;
    for end in kept.iter().copied().chain([RawFd::MAX]) {
        if first < end && !close_range(first, end - 1) {
            return close_listed(&kept);
        }
        first = first.max(end.saturating_add(1));
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd) -> bool {
    // SAFETY: takes no pointers; that no owner of these descriptors exists is
    // the condition of `close_leaked`, the only caller.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    result == 0
}

fn close_listed(keep: &[RawFd]) -> io::Result<()> {
    // Collected first: the directory's own descriptor is in the list, and is
    // gone when the list is complete.
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd >= FIRST && !keep.contains(fd)) {
        // One that is closed already is as good.
        let _ = close(fd);
    }
    Ok(())
}

/// Takes over descriptor `fd`, which the process was started with and nothing here owns
/// yet. It gets another number, and isn't passed on to programs. A standard
/// descriptor stays open, too. One that this process opened itself is an error.
pub fn take_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if is_own(fd) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes no pointers; a number that is no descriptor is an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    if fd >= FIRST {
        close(fd)?;
    }
    // SAFETY: just made, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Makes descriptor `number` refer to what `fd` does, and has it passed on to a program that is
/// executed. What the process was started with there is closed; what it opened itself is
/// somebody's, and an error.
pub fn place(fd: OwnedFd, number: RawFd) -> io::Result<()> {
    // Also if it has that number already, which dup2(2) would leave alone: a duplicate isn't closed
    // by exec.
    let copy = rustix::io::fcntl_dupfd_cloexec(&fd, number.saturating_add(1))?;
    drop(fd);
    if is_own(number) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes no pointers, and nobody owns `number`: it is closed, or was inherited.
    match unsafe { libc::dup2(copy.as_raw_fd(), number) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a descriptor has an owner in this process: whatever is opened by this crate, rustix or
/// the standard library is closed by exec, and what was inherited was not.
fn is_own(fd: RawFd) -> bool {
    // SAFETY: takes no pointers; a number that is no descriptor is an error.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC != 0
}

/// `FIONREAD`: bytes in a pipe that nobody has read.
pub fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) } as isize)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Bytes of a page of memory, in which pipes hold data.
pub fn page_size() -> usize {
    // SAFETY: takes no pointers; the C library knows it from the start of the process.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096).max(1)
}

fn close(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointers; callers own the descriptor or know that nobody does.
    match unsafe { libc::close(fd) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// Safe code can't have a descriptor closed, or replaced, that it has given to an owner.
    #[test]
    fn what_has_an_owner_is_not_taken() {
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        assert!(take_inherited(writer.as_raw_fd()).is_err());
        assert!(place(null().expect("/dev/null"), writer.as_raw_fd()).is_err());
        writer.write_all(b"here").expect("still a pipe");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("still a pipe");
        assert_eq!(text, "here");
    }
}
