//! Descriptors by which one process tells another that there is something to do: eventfd(2).
//!
//! Both have the same open file, with its flags. Reading says itself that it does not wait
//! (`RWF_NOWAIT` of preadv2(2), which an eventfd takes since Linux 5.8). Writing can't, nor can
//! reading before: whoever has the file too can have it wait again. A front end that does so, and
//! fills it, stops the process that serves it alone.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

use crate::msg;
use crate::seccomp::{Call, Sysno};

/// System calls made here once the process runs, beside those of [`msg`]: `F_SETFL` of fcntl(2).
pub const CALLS: &[Call] = &[
    Call::only(Sysno::fcntl, &[&[(1, libc::F_SETFL as i64)]]),
    Call::any(Sysno::fstat),
    Call::any(Sysno::preadv2),
];

/// An eventfd.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// A new one, that is not readable.
    pub fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// One that another process has made. `InvalidInput` if it is something else: a file of another
    /// type, one of the kernel's own making that is not read and written as this is, or an eventfd
    /// that counts down (`EFD_SEMAPHORE`), which could be filled and then be readable for ever.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let event = Self::of_type(fd, &[0])?;
        // Nothing else takes a zero. Whether what is read would wait is not asked of other files.
        if !event.takes(0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let was_signalled = match event.take() {
            Ok(_) => true,
            Err(Errno::AGAIN) => false,
            Err(_) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        if !event.takes(2) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match event.take() {
            Ok(2) if !was_signalled => {}
            Ok(2..) => event.signal(),
            // One that counts down gives no more than 1. One that somebody else reads, too, may be
            // empty by now, and is of no use either.
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(event)
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
        let _ = self.add(1);
    }

    /// Whether a number can be added, or could if there was room.
    fn takes(&self, number: u64) -> bool {
        match self.add(number) {
            Ok(length) => length == size_of::<u64>(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    fn add(&self, number: u64) -> io::Result<usize> {
        msg::write_slice(self.0.as_fd(), &number.to_ne_bytes())
    }

    /// Has it be readable no more; whether it was.
    pub fn clear(&self) -> bool {
        self.take().is_ok()
    }

    fn take(&self) -> Result<u64, Errno> {
        let mut number = [0; 8];
        // There is no position to read from.
        let mut read =
            |flags| rustix::io::preadv2(&self.0, &mut [IoSliceMut::new(&mut number)], u64::MAX, flags);
        let length = match read(ReadWriteFlags::NOWAIT) {
            Err(Errno::OPNOTSUPP) => {
                rustix::fs::fcntl_setfl(&self.0, OFlags::NONBLOCK)?;
                read(ReadWriteFlags::empty())
            }
            outcome => outcome,
        }?;
        if length == number.len() { Ok(u64::from_ne_bytes(number)) } else { Err(Errno::INVAL) }
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

    /// One that counts down is readable for ever once it is filled, as is a timer.
    #[test]
    fn what_would_never_be_quiet() {
        use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
        let counts_down = EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK;
        let semaphore = |number: u64| {
            let event = rustix::event::eventfd(0, counts_down).expect("an eventfd");
            rustix::io::write(&event, &number.to_ne_bytes()).expect("room");
            event
        };
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty());
        let (timer, often) = (timer.expect("a timer"), Timespec { tv_sec: 0, tv_nsec: 1 });
        let often = Itimerspec { it_interval: often, it_value: often };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &often).expect("set");
        for fd in [semaphore(0), semaphore(1), semaphore(u64::MAX - 1), timer] {
            assert!(Event::adopt(fd).is_err());
        }
    }

    /// What was signalled before is seen, and what was not is not.
    #[test]
    fn adoption_changes_nothing() {
        for number in [0, 1, 2, u64::MAX - 1] {
            let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd");
            rustix::io::write(&event, &number.to_ne_bytes()).expect("room");
            assert_eq!(Event::adopt(event).expect("an eventfd").clear(), number > 0, "{number}");
        }
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

    /// Reading does not wait, whatever others do.
    #[test]
    fn nobody_has_it_wait() {
        let ours = Event::new().expect("an eventfd");
        let theirs = ours.try_clone().expect("another");
        let event = Event::adopt(theirs).expect("an eventfd");
        rustix::fs::fcntl_setfl(&ours.0, OFlags::empty()).expect("flags");
        assert!(!event.clear());
        ours.signal();
        let again = Event::adopt(ours.try_clone().expect("another")).expect("an eventfd");
        assert!(again.clear() && !event.clear(), "a signal is not lost");
    }

    #[test]
    fn other_files() {
        let file = crate::shared::memory(4096).expect("memory");
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let (a, b) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let polls = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).expect("a set");
        let device = crate::fd::null().expect("a device");
        // Read without waiting in one way only, as an eventfd of old kernels is.
        let watches = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).expect("watches");
        for fd in [file, reader, writer, a.into(), b.into(), device, polls, watches] {
            assert_eq!(Event::adopt(fd).expect_err("no eventfd").kind(), io::ErrorKind::InvalidInput);
        }
    }
}
