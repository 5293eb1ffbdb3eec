//! Where records go that others read: lines of the log, statistics, recorded frames.
//!
//! A reader that stops must not stop the traffic, so nothing here waits: a record is taken as a
//! whole, or is left out, for the caller to count. How that is had depends on what the file is:
//!
//! - A regular file, and most devices, take what is written.
//! - A pipe or terminal must not block. That is a property of the open file description, which for
//!   standard output and error is shared with whoever started us and whoever else has it, and
//!   theirs stays as it is: the file is opened once more, by its name in `/proc`.
//! - Another user's can't be opened again. It is asked by epoll(7) whether there is room, which in
//!   a pipe means a page and so a record. Only somebody else who writes there at that moment could
//!   still make us wait.
//! - A socket has a flag for each message.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use passt_sys::fd::{self, PIPE_BUF};
use passt_sys::iovec::Gather;
use passt_sys::msg;
use passt_sys::seccomp::{Call, Sysno};
use rustix::event::{Timespec, epoll};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::net::{SocketType, sockopt};
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

/// System calls made here once the process runs, for records no longer than [`PIPE_BUF`].
pub(crate) const CALLS: &[Call] =
    &[Call::any(Sysno::epoll_pwait), Call::any(Sysno::sendmsg), Call::any(Sysno::writev)];

/// Capacity that a pipe of ours is given if the system lets us (`/proc/sys/fs/pipe-max-size`), in
/// bytes.
const CAPACITY: usize = 1 << 20;
/// Device number of `/dev/ptmx`, which makes a new terminal each time that it is opened
/// (Documentation/admin-guide/devices.txt).
const PTMX: (u32, u32) = (5, 2);

/// An open file that takes whole records.
#[derive(Debug)]
pub(crate) struct Outlet {
    fd: OwnedFd,
    way: FileKind,
    /// Only a part of the last record was taken.
    cut: AtomicBool,
}

#[derive(Debug)]
enum FileKind {
    /// Takes what is written.
    Plain,
    /// A pipe that doesn't block, of so many bytes.
    Pipe(usize),
    /// Something else that doesn't block.
    Terminal,
    Socket,
    /// Something that would block; an epoll instance tells whether it has room.
    Shared(OwnedFd),
}

impl Outlet {
    /// For a file that was opened for us alone, with `O_NONBLOCK`.
    pub(crate) fn new(fd: impl Into<OwnedFd>) -> io::Result<Self> {
        let fd = fd.into();
        let way = match kind(fd.as_fd())? {
            FileType::Fifo => {
                // Without it what is longer than a part of the pipe is left out.
                let _ = fcntl_setpipe_size(&fd, CAPACITY);
                FileKind::Pipe(fcntl_getpipe_size(&fd)?)
            }
            FileType::Socket => FileKind::Socket,
            FileType::CharacterDevice if rustix::termios::isatty(&fd) => FileKind::Terminal,
            _ => FileKind::Plain,
        };
        Ok(Self { fd, way, cut: AtomicBool::new(false) })
    }

    /// For a file that somebody else opened: a regular one, or a socket that keeps messages apart.
    /// Others may block, or take parts of records.
    pub(crate) fn given(fd: OwnedFd) -> io::Result<Self> {
        let way = match kind(fd.as_fd())? {
            FileType::RegularFile => FileKind::Plain,
            FileType::Socket if sockopt::socket_type(&fd)? != SocketType::STREAM => FileKind::Socket,
            _ => {
                let text = "neither a regular file nor a socket that keeps messages apart";
                return Err(io::Error::new(ErrorKind::InvalidInput, text));
            }
        };
        Ok(Self { fd, way, cut: AtomicBool::new(false) })
    }

    /// For standard output or error.
    pub(crate) fn standard(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let is_terminal = rustix::termios::isatty(fd);
        if is_terminal || kind(fd)? == FileType::Fifo {
            if let Some(own) = reopen(fd) {
                return Ok(Self {
                    way: if is_terminal { FileKind::Terminal } else { FileKind::Pipe(0) },
                    fd: own,
                    cut: AtomicBool::new(false),
                });
            }
            let gate = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(&gate, fd, epoll::EventData::new_u64(0), epoll::EventFlags::OUT)?;
            return Ok(Self { fd: duplicate(fd)?, way: FileKind::Shared(gate), cut: AtomicBool::new(false) });
        }
        let way = if kind(fd)? == FileType::Socket { FileKind::Socket } else { FileKind::Plain };
        Ok(Self { fd: duplicate(fd)?, way, cut: AtomicBool::new(false) })
    }

    /// Whether it is a file that keeps what is written, and can be cut and read.
    pub(crate) fn is_file(&self) -> bool {
        kind(self.fd.as_fd()).is_ok_and(|kind| kind == FileType::RegularFile)
    }

    /// The file.
    pub(crate) fn into_file(self) -> std::fs::File {
        self.fd.into()
    }

    /// Writes a record. `WouldBlock` means that there is no room for it now, or nobody to read it,
    /// and that nothing was written; after other errors a part of it may have been.
    pub(crate) fn write(&self, record: &Gather<'_>) -> io::Result<()> {
        if !self.has_room(record.total()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let written = match &self.way {
            FileKind::Socket => msg::send(self.fd.as_fd(), record),
            _ => msg::write(self.fd.as_fd(), record),
        };
        match written {
            Ok(len) if len == record.total() => {
                self.cut.store(false, Relaxed);
                Ok(())
            }
            Ok(len) => {
                self.cut.fetch_or(len > 0, Relaxed);
                Err(ErrorKind::StorageFull.into())
            }
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ErrorKind::WouldBlock.into()),
            Err(error) => Err(error),
        }
    }

    /// Writes a record that is a line, no longer than [`PIPE_BUF`]. If the last one was cut, which
    /// happens to terminals and full disks, it begins on a new line.
    pub(crate) fn write_line(&self, line: &[u8]) -> io::Result<()> {
        let mut record = Gather::new();
        if self.cut.load(Relaxed) {
            record.push(b"\n");
        }
        record.push(line);
        self.write(&record)
    }

    /// Takes back what was written beyond `size` bytes, where that is possible.
    pub(crate) fn cut_to(&self, size: u64) {
        self.cut.fetch_and(rustix::fs::ftruncate(&self.fd, size).is_err(), Relaxed);
    }

    fn has_room(&self, len: usize) -> bool {
        match &self.way {
            FileKind::Plain | FileKind::Terminal | FileKind::Socket => true,
            // The kernel takes that as a whole or not at all (pipe(7)).
            FileKind::Pipe(_) if len <= PIPE_BUF => true,
            FileKind::Pipe(capacity) => {
                fd::unread(self.fd.as_fd()).is_ok_and(|held| fits(len, held, *capacity, fd::page_size()))
            }
            FileKind::Shared(gate) => is_ready(gate),
        }
    }
}

/// Whether a pipe that holds `held` bytes certainly has room for `len` more. Its memory is pages,
/// whose ends are filled up only if the end of a record fits there as a whole: two neighbours
/// together hold more than one page, but for the first, of which a part was read (fs/pipe.c).
fn fits(len: usize, held: usize, capacity: usize, page: usize) -> bool {
    let used = if held == 0 { 0 } else { held / page * 2 + 2 };
    used + len.div_ceil(page) <= capacity / page
}

fn kind(fd: BorrowedFd<'_>) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode))
}

fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// The same file under a description of our own, which doesn't block; `None` if we may not.
fn reopen(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let device = fstat(fd).ok()?.st_rdev;
    if (rustix::fs::major(device), rustix::fs::minor(device)) == PTMX {
        return None;
    }
    let mut options = OpenOptions::new();
    options.write(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    options.open(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok().map(OwnedFd::from)
}

fn is_ready(gate: &OwnedFd) -> bool {
    let mut events = [MaybeUninit::uninit()];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    epoll::wait(gate, &mut events, Some(&now)).is_ok_and(|(ready, _)| !ready.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read as _};
    use std::os::unix::net::UnixStream;

    /// What is there to be read.
    fn content(reader: &mut PipeReader) -> Vec<u8> {
        let mut content = vec![0; fd::unread(reader.as_fd()).unwrap()];
        reader.read_exact(&mut content).unwrap();
        content
    }

    /// Writes until nothing more is taken; how many records were.
    fn fill(outlet: &Outlet, record: &[u8]) -> usize {
        let taken = (0..1 << 20).take_while(|_| outlet.write(&Gather::of(record)).is_ok()).count();
        assert_eq!(outlet.write(&Gather::of(record)).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(taken > 0 && taken < 1 << 20);
        taken
    }

    /// Nobody reads from a pipe: it blocks whoever else has it, and us not.
    #[test]
    fn standard_error_that_nobody_reads() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut own = Outlet::standard(writer.as_fd()).unwrap();
        assert!(matches!(own.way, FileKind::Pipe(_)));
        let gate = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&gate, &writer, epoll::EventData::new_u64(0), epoll::EventFlags::OUT).unwrap();
        let fd = duplicate(writer.as_fd()).unwrap();
        let mut shared = Outlet { fd, way: FileKind::Shared(gate), cut: AtomicBool::new(false) };
        for outlet in [&mut own, &mut shared] {
            let taken = fill(outlet, &[b'x'; 1000]);
            assert_eq!(content(&mut reader).len(), taken * 1000);
            outlet.write_line(b"line\n").unwrap();
            assert_eq!(content(&mut reader), b"line\n");
        }
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK), "it was changed for others");
        drop(reader);
        assert_eq!(own.write_line(b"x\n").unwrap_err().kind(), ErrorKind::WouldBlock, "nobody is left");
    }

    /// Records of any size, of which a reader takes any number of bytes at a time, are in a pipe as
    /// a whole or not at all.
    #[test]
    fn pipes_take_whole_records() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let outlet = Outlet::new(writer).unwrap();
        let (mut expected, mut read, mut random) = (Vec::<u8>::new(), Vec::<u8>::new(), 1_u64);
        let record = vec![7; 65_600];
        let mut left_out = 0;
        for number in 0..3000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let len = [60, 1500, 4097, 65_565][(random >> 40) as usize % 4] + (random >> 50) as usize % 30;
            let number = number.to_be_bytes();
            let mut parts = Gather::of(&number);
            parts.push(&record[..len]);
            match outlet.write(&parts) {
                Ok(()) => expected.extend(number.iter().chain(&record[..len])),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    left_out += 1;
                    let held = fd::unread(reader.as_fd()).unwrap();
                    let mut some = vec![0; ((random >> 33) as usize % 100_000).min(held)];
                    reader.read_exact(&mut some).unwrap();
                    read.append(&mut some);
                }
            }
        }
        read.append(&mut content(&mut reader));
        assert!(left_out > 100);
        assert!(read == expected, "a record was torn");
    }

    #[test]
    fn sockets_and_files() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let outlet = Outlet::standard(ours.as_fd()).unwrap();
        fill(&outlet, &[b'x'; 1000]);
        drop(theirs);
        assert!(outlet.write_line(b"x\n").is_err());
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let outlet = Outlet::new(null).unwrap();
        assert!(!outlet.is_file());
        outlet.write_line(b"x\n").unwrap();
    }
}
