//! What ends the process from outside, as one descriptor in the engine's loop.
//!
//! With a command of our own that is its end. Otherwise the namespace's end: a bind
//! mount is unlinked, which inotify tells, or the process whose namespace it is ends, which
//! a PID file descriptor tells. Other paths on pseudo file systems, which inotify doesn't
//! know, are looked at once a second. Signals need nothing here, see [`start`](super::start).

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Component, Path, PathBuf};

use passt_sys::seccomp::{Call, Sysno};
use rustix::fs::{self, Access, AtFlags, Mode, OFlags, inotify};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};

use super::command::Command;

/// File systems on which inotify never reports a deletion (include/uapi/linux/magic.h):
/// procfs, devpts, sysfs.
const PSEUDO: [i128; 3] = [0x9fa0, 0x1cd1, 0x6265_6572];

/// The end of a namespace can't be watched.
#[derive(Debug, thiserror::Error)]
#[error("Couldn't watch network namespace {}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// What is watched.
#[derive(Debug)]
pub enum Watch {
    /// Nothing, only signals end the process.
    Nothing,
    /// A command in a namespace of our own making.
    Command(Command),
    /// A namespace that existed.
    Netns(Existing),
}

impl Watch {
    /// Watches the namespace at `path`. To be called before it is opened, so
    /// that no end can be missed, and while its directory can still be read.
    pub fn netns(path: &Path) -> Result<Self, Error> {
        let sign = Sign::of(path).map_err(|source| Error { path: path.into(), source })?;
        Ok(Self::Netns(Existing { path: path.into(), sign }))
    }

    /// The descriptor to poll; when it is readable, [`check`](Self::check) is to
    /// be called. It must be added to an epoll instance by the process that polls,
    /// not before going to the background.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Nothing => None,
            Self::Command(command) => Some(command.as_fd()),
            Self::Netns(netns) => Some(netns.sign.as_fd()),
        }
    }

    /// System calls made here once the process runs.
    pub fn calls(&self) -> Vec<Call> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Command(command) => command.calls(),
            Self::Netns(netns) => netns.sign.calls(),
        }
    }

    /// The exit status to end with, `None` to go on.
    pub fn check(&self) -> io::Result<Option<u8>> {
        match self {
            Self::Command(command) => command.poll(),
            Self::Netns(netns) if netns.sign.is_gone()? => {
                log::info!("Namespace {} is gone, exiting", netns.path.display());
                Ok(Some(0))
            }
            Self::Nothing | Self::Netns(_) => Ok(None),
        }
    }

    /// Lets a command run that waits for its network.
    pub fn release(&mut self) -> io::Result<()> {
        match self {
            Self::Command(command) => command.release(),
            Self::Nothing | Self::Netns(_) => Ok(()),
        }
    }
}

/// A namespace that existed before us.
#[derive(Debug)]
pub struct Existing {
    path: PathBuf,
    sign: Sign,
}

/// How the end of a namespace shows.
#[derive(Debug)]
enum Sign {
    /// `name` disappears from the directory watched.
    Unlinked { inotify: OwnedFd, name: OsString },
    /// A process ends.
    ProcessEnd(OwnedFd),
    /// At one of the timer's ticks `name` is no longer in `directory`.
    Missing { timer: OwnedFd, directory: OwnedFd, name: OsString },
}

impl Sign {
    fn of(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let opened = fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if !PSEUDO.contains(&i128::from(fs::fstatfs(&opened)?.f_type)) {
            let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&inotify, directory, inotify::WatchFlags::DELETE)?;
            return Ok(Self::Unlinked { inotify, name });
        }
        // Before Linux 5.3 there are no PID file descriptors, so failing is no error.
        match process_of(path).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(process)) => Ok(Self::ProcessEnd(process)),
            _ => Ok(Self::Missing { timer: each_second()?, directory: opened, name }),
        }
    }

    fn calls(&self) -> Vec<Call> {
        match self {
            Self::Unlinked { .. } => vec![Call::any(Sysno::read)],
            Self::ProcessEnd(_) => Vec::new(),
            Self::Missing { directory, .. } => missing_calls(directory.as_raw_fd()),
        }
    }

    fn is_gone(&self) -> io::Result<bool> {
        match self {
            Self::Unlinked { inotify, name } => unlinked(inotify, name),
            Self::ProcessEnd(_) => Ok(true),
            Self::Missing { timer, directory, name } => {
                rustix::io::read(timer, &mut [0_u8; 8])?;
                let access = fs::accessat(directory, name, Access::EXISTS, AtFlags::empty());
                Ok(matches!(access, Err(Errno::NOENT | Errno::SRCH)))
            }
        }
    }
}

/// System calls for looking at a name in a directory at each tick.
pub fn missing_calls(directory: RawFd) -> Vec<Call> {
    let exists = [(0, directory.into()), (2, Access::EXISTS.bits().into())];
    vec![Call::any(Sysno::read), Call::with(Sysno::faccessat, exists)]
}

impl AsFd for Sign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unlinked { inotify: fd, .. } | Self::ProcessEnd(fd) | Self::Missing { timer: fd, .. } => {
                fd.as_fd()
            }
        }
    }
}

/// The process whose namespace `path` is, if it is `/proc/PID/ns/net` and `/proc` shows the PIDs
/// that we know.
fn process_of(path: &Path) -> Option<Pid> {
    let mut parts = path.components();
    let ["/", "proc", pid, "ns", "net"] = [(); 5]
        .map(|()| parts.next().map(Component::as_os_str).and_then(|part| part.to_str()).unwrap_or_default())
    else {
        return None;
    };
    let ours = std::fs::read_link("/proc/self").ok()?;
    let known = parts.next().is_none() && ours.to_str()? == getpid().to_string();
    pid.parse().ok().and_then(Pid::from_raw).filter(|_| known)
}

fn each_second() -> io::Result<OwnedFd> {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    timerfd_settime(
        &timer,
        TimerfdTimerFlags::empty(),
        &Itimerspec { it_interval: second, it_value: second },
    )?;
    Ok(timer)
}

/// Whether one of the pending events is the deletion of `name`.
fn unlinked(inotify: &OwnedFd, name: &OsString) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify, &mut buffer);
    loop {
        match events.next() {
            Ok(event) if event.file_name().is_some_and(|gone| gone.to_bytes() == name.as_encoded_bytes()) => {
                return Ok(true);
            }
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_from_their_path_only() {
        assert_eq!(process_of(Path::new("/proc/12/ns/net")), Pid::from_raw(12));
        for other in [
            "/proc/self/ns/net",
            "/proc/12/ns/user",
            "/proc/12/task/12/ns/net",
            "proc/12/ns/net",
            "/proc/12/ns/net/x",
        ] {
            assert_eq!(process_of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn an_unlinked_path_is_gone() {
        let directory = std::env::temp_dir().join(format!("watch-{}", getpid()));
        std::fs::create_dir(&directory).unwrap();
        let (path, other) = (directory.join("ns"), directory.join("other"));
        std::fs::write(&path, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let watch = Watch::netns(&path).unwrap();
        std::fs::remove_file(other).unwrap();
        assert_eq!(watch.check().unwrap(), None);
        std::fs::remove_file(path).unwrap();
        assert_eq!(watch.check().unwrap(), Some(0));
        std::fs::remove_dir(directory).unwrap();
    }
}
