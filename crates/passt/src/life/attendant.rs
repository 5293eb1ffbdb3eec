//! The attendant: a process that stays outside, where files have names, and does for the isolated
//! one what that can't do any more.
//!
//! It has one of three roles, or two: it tells when the host's `/etc/resolv.conf` says something
//! else; it removes the API socket when whoever started us ends us; it connects a socket of datagrams
//! to whoever has sent one there, whose socket has a path. It is forked while the process is still who
//! started it. The isolated process can ask it for that alone, by a single byte. Its system calls
//! are those of its roles, and it has no capabilities. It ends with its end of the socket pair.
//!
//! Left out: what only the start has to take away, which is in [`leftovers`](super::leftovers).

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use passt_sys::iovec::Scatter;
use passt_sys::seccomp::{self, Call, Sysno};
use passt_sys::{fd, msg, process, signal};
use rustix::event::{Timespec, epoll};
use rustix::fs::{CWD, Mode, OFlags, inotify};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, recvfrom, socketpair};
use rustix::thread::{CapabilitySet, set_no_new_privs};

use super::leftovers::Made;

/// System calls made here once the isolated process runs.
pub const CALLS: &[Call] = &[Call::any(Sysno::read), Call::any(Sysno::recvmsg), Call::any(Sysno::sendmsg)];

/// Those of the attendant itself, whatever it is for.
const OWN_CALLS: &[Call] = &[
    Call::any(Sysno::brk),
    Call::any(Sysno::epoll_pwait),
    Call::any(Sysno::exit_group),
    // What memory is asked for can't be executed: `PROT_READ | PROT_WRITE`.
    Call::only(Sysno::mmap, &[&[(2, 3)]]),
    Call::any(Sysno::mremap),
    Call::any(Sysno::munmap),
    Call::any(Sysno::recvmsg),
    Call::any(Sysno::sendmsg),
];
/// To follow a file.
const FOLLOW_CALLS: &[Call] = &[
    Call::any(Sysno::close),
    Call::any(Sysno::inotify_add_watch),
    Call::any(Sysno::inotify_rm_watch),
    Call::only(Sysno::openat, &[&[(2, OPEN)], &[(2, OPEN_LARGE)]]),
    Call::any(Sysno::read),
    Call::any(Sysno::readlinkat),
];
/// To remove one.
const REMOVE_CALLS: &[Call] = &[Call::any(Sysno::newfstatat), Call::any(Sysno::unlinkat)];
/// To connect a socket of datagrams.
const CONNECT_CALLS: &[Call] = &[Call::any(Sysno::connect), Call::any(Sysno::recvfrom)];

/// How files are opened: for reading, and without waiting for anybody.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
const OPEN: i64 = READ.bits() as i64;
const OPEN_LARGE: i64 = READ.union(OFlags::LARGEFILE).bits() as i64;

/// Most of the file that is read, in bytes.
pub const MAX_CONTENT: usize = 16 * 1024;
/// Links on the way to the file (`path_resolution(7)` has 40).
const MAX_LINKS: usize = 40;
/// How long a file is left alone that has changed: some are written in several steps.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the file is looked at where the kernel does not tell of all changes, and how long the
/// isolated process waits for files to be removed.
const LOOK: Duration = Duration::from_secs(1);

/// What the isolated process asks for: the end, and that files are removed.
const REMOVE: u8 = b'R';
/// That the socket is connected to who has sent a datagram.
const CONNECT: u8 = b'C';
/// What it is told then.
const CONNECTED: &[u8] = b"y";
const NOBODY: &[u8] = b"n";
/// Datagrams of senders that can't be answered, which are thrown away at once.
const UNANSWERABLE: usize = 64;

/// The isolated process's side.
#[derive(Debug)]
pub struct Attendant {
    socket: OwnedFd,
    content: Vec<u8>,
    removes: bool,
}

impl Attendant {
    /// Starts the process, which follows `file`, if one is given, removes the file made at `made` if
    /// it is asked to, and connects the socket `datagrams`. The process must have a single thread.
    pub fn start(
        file: Option<&Path>,
        made: Option<&Path>,
        datagrams: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let datagrams = datagrams.map(|fd| fd.try_clone_to_owned()).transpose()?;
        let made = made.map(Made::new).transpose()?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // At its end it waits for this process, which may wait for somebody else.
        set_socket_timeout(&ours, Timeout::Recv, Some(LOOK))?;
        let removes = made.is_some();
        // What changes from here on is told, whatever the caller has read by then.
        let file = file.map(Followed::new);
        if process::fork()?.is_none() {
            drop(ours);
            let status = Process::new(theirs, file, made, datagrams).map(Process::run);
            process::exit_now(u8::from(status.is_err()));
        }
        Ok(Self { socket: ours, content: vec![0; MAX_CONTENT], removes })
    }

    /// What the file says now, if the attendant has told. An error means that it is gone.
    pub fn read(&mut self) -> io::Result<Option<&[u8]>> {
        let mut into = Scatter::new();
        into.push(&mut self.content);
        match msg::receive(self.socket.as_fd(), &into) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => Ok(self.content.get(1..length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the socket connected to whoever has sent a datagram there; whether it is.
    pub fn connect(&self) -> bool {
        let mut answer = [0];
        let asked = msg::send_slice(self.socket.as_fd(), &[CONNECT]).is_ok();
        asked && rustix::io::read(&self.socket, &mut answer) == Ok(1) && answer == CONNECTED
    }

    /// Has files removed that whoever started us no longer needs, and waits until they are.
    pub fn dismiss(&self) {
        if !self.removes || msg::send_slice(self.socket.as_fd(), &[REMOVE]).is_err() {
            return;
        }
        // What it has told of the file meanwhile, and then its end.
        let mut content = [0; 64];
        while matches!(rustix::io::read(&self.socket, &mut content), Ok(1..) | Err(Errno::INTR)) {}
    }
}

impl AsFd for Attendant {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The attendant.
struct Process {
    socket: OwnedFd,
    epoll: OwnedFd,
    file: Option<Followed>,
    made: Option<Made>,
    datagrams: Option<OwnedFd>,
}

/// A file that is followed.
struct Followed {
    path: PathBuf,
    /// `None` where there can't be one (`/proc/sys/fs/inotify`).
    inotify: Option<OwnedFd>,
    /// The kernel tells of all changes.
    is_watched: bool,
    /// What is watched. Their number is limited for all programs of a user.
    watches: Vec<i32>,
    /// What was told last could not be sent: there is no room for it yet.
    is_behind: bool,
    /// A byte that is no content, and the content as it was told last.
    told: Vec<u8>,
    /// The same as it is now.
    now: Vec<u8>,
}

impl Process {
    /// Prepares, and gives up what is not needed.
    fn new(
        socket: OwnedFd,
        mut file: Option<Followed>,
        made: Option<Made>,
        datagrams: Option<OwnedFd>,
    ) -> io::Result<Self> {
        // What is sent to the whole process group has the other one end, and this one with it.
        signal::block_all()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        if let Some(file) = &mut file {
            file.begin();
        }
        let inotify = file.as_ref().and_then(|file| file.inotify.as_ref());
        if let Some(inotify) = inotify {
            epoll::add(&epoll, inotify, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
        }
        let kept = [Some(&socket), Some(&epoll), inotify, datagrams.as_ref()].into_iter().flatten();
        let made_fd = made.as_ref().map(|made| made.as_fd().as_raw_fd());
        let kept: Vec<_> = kept.map(AsRawFd::as_raw_fd).chain(made_fd).collect();
        fd::null_standard(&fd::null()?)?;
        fd::close_leaked(&kept)?;
        process::limit_capabilities(CapabilitySet::empty())?;
        set_no_new_privs(true)?;
        let roles = [
            (file.is_some(), FOLLOW_CALLS),
            (made.is_some(), REMOVE_CALLS),
            (datagrams.is_some(), CONNECT_CALLS),
        ];
        let calls = roles.iter().filter(|(is_on, _)| *is_on).flat_map(|(_, calls)| *calls);
        let mut calls: Vec<_> = OWN_CALLS.iter().chain(calls).copied().collect();
        if cfg!(debug_assertions) {
            calls.push(Call::any(Sysno::fcntl));
        }
        seccomp::install(&calls, |_| {}).map_err(io::Error::other)?;
        Ok(Self { socket, epoll, file, made, datagrams })
    }

    fn run(mut self) {
        while !self.obey() {
            if let Some(file) = &mut self.file {
                file.settle(&self.epoll);
                let has_changed = file.has_changed();
                file.is_behind = has_changed && msg::send_slice(self.socket.as_fd(), &file.now).is_err();
                if has_changed && !file.is_behind {
                    file.told.clone_from(&file.now);
                }
            }
            let looks = |file: &&Followed| !file.is_watched || file.is_behind;
            let pause = self.file.as_ref().filter(looks).map(|_| LOOK);
            wait(&self.epoll, pause);
        }
    }

    /// Does what the isolated process asks for; whether it is gone, or needs us no more.
    fn obey(&self) -> bool {
        let mut asked = [0];
        let mut into = Scatter::new();
        into.push(&mut asked);
        match msg::receive(self.socket.as_fd(), &into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Ok(1..) if asked == [CONNECT] => {
                let answer = if self.connect() { CONNECTED } else { NOBODY };
                return msg::send_slice(self.socket.as_fd(), answer).is_err();
            }
            Ok(1..) if asked == [REMOVE] => {
                if let Some(made) = &self.made {
                    made.remove();
                }
            }
            _ => {}
        }
        true
    }
}

impl Process {
    /// Connects the socket to whoever has sent what is to be read there next, and leaves that there.
    /// Whether there is anybody. What comes from a socket without a name can't be answered.
    fn connect(&self) -> bool {
        let Some(datagrams) = &self.datagrams else { return false };
        let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        for _ in 0..UNANSWERABLE {
            let Ok((_, _, sender)) = recvfrom(datagrams, &mut [0; 1][..], look) else { return false };
            let sender = sender.and_then(|sender| SocketAddrUnix::try_from(sender).ok());
            // To one without a name nothing would be connected, and that succeeds.
            let sender = sender.filter(|sender| sender.path_bytes().is_some());
            if sender.is_some_and(|sender| rustix::net::connect(datagrams, &sender).is_ok()) {
                return true;
            }
            let _ = recvfrom(datagrams, &mut [0; 1][..], RecvFlags::DONTWAIT);
        }
        false
    }
}

/// Waits for something to happen.
fn wait(epoll: &OwnedFd, most: Option<Duration>) {
    let most = most.and_then(|most| Timespec::try_from(most).ok());
    let mut events = [MaybeUninit::uninit(); 2];
    // Being woken for nothing is no harm.
    let _ = epoll::wait(epoll, &mut events, most.as_ref());
}

impl Followed {
    fn new(path: &Path) -> Self {
        let room = || Vec::with_capacity(MAX_CONTENT);
        let mut followed = Self {
            path: path.into(),
            inotify: None,
            is_watched: false,
            watches: Vec::new(),
            is_behind: false,
            told: room(),
            now: room(),
        };
        followed.has_changed();
        followed.told.clone_from(&followed.now);
        followed
    }

    /// Begins to watch, if that can be.
    fn begin(&mut self) {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        self.inotify = inotify::init(flags).ok();
        self.watch();
    }

    /// Has the kernel tell of changes of the file, and of each directory on the way to it, links
    /// included: any name there may become another. What is watched already stays so, what is no
    /// longer on the way is let go.
    fn watch(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let of_file = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MODIFY;
        let mut watches = Vec::with_capacity(self.watches.len());
        let is_file_watched = match inotify::add_watch(inotify, &self.path, of_file) {
            Ok(watch) => {
                watches.push(watch);
                true
            }
            // There is none at the moment. Any other error, of too many watches for one, hides changes.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => true,
            Err(_) => false,
        };
        self.is_watched = watch_way(inotify, &self.path, &mut watches) && is_file_watched;
        for &gone in self.watches.iter().filter(|watch| !watches.contains(watch)) {
            // The kernel has let go of it already, if the file itself is gone.
            let _ = inotify::remove_watch(inotify, gone);
        }
        self.watches = watches;
    }

    /// Waits until nothing happens any more, for a moment, and watches what is there now.
    fn settle(&mut self, epoll: &OwnedFd) {
        if self.take_events() {
            wait(epoll, Some(PAUSE));
            self.take_events();
        }
        self.watch();
    }

    /// Takes what the kernel has told; whether it was anything.
    fn take_events(&self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        let mut any = false;
        while events.next().is_ok() {
            any = true;
        }
        any
    }

    /// Reads the file; whether it says something else than was told last. What can't be read now
    /// says what it said.
    fn has_changed(&mut self) -> bool {
        self.now.clear();
        self.now.push(b' ');
        let Ok(file) = rustix::fs::openat(CWD, &self.path, READ, Mode::empty()) else { return false };
        let mut chunk = [0; 1024];
        while self.now.len() + chunk.len() <= MAX_CONTENT {
            match rustix::io::read(&file, &mut chunk) {
                Ok(0) => break,
                Ok(length) => self.now.extend_from_slice(&chunk[..length]),
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        self.now != self.told
    }
}

/// Watches the directories on the way to a path, following links as the kernel does, and adds them to
/// `watches`; whether all of them are there, and watched.
fn watch_way(inotify: &OwnedFd, path: &Path, watches: &mut Vec<i32>) -> bool {
    let of_names = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::MOVED_FROM
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::ONLYDIR;
    let mut links = 0;
    let mut left: Vec<OsString> = path.iter().rev().map(OsStr::to_owned).collect();
    let mut at = PathBuf::from("/");
    while let Some(name) = left.pop() {
        match name.as_bytes() {
            b"/" => at = "/".into(),
            b".." => drop(at.pop()),
            b"." => {}
            _ => {
                let Ok(watch) = inotify::add_watch(inotify, &at, of_names) else { return false };
                watches.push(watch);
                let next = at.join(&name);
                match rustix::fs::readlink(&next, Vec::with_capacity(256)) {
                    Ok(_) if links == MAX_LINKS => return false,
                    Ok(target) => {
                        links += 1;
                        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                        left.extend(target.iter().rev().map(OsStr::to_owned));
                    }
                    Err(_) => at = next,
                }
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn wait_for(attendant: &mut Attendant, expected: &str) {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&epoll, &*attendant, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
        let mut idle = 0;
        while idle < 10 {
            wait(&epoll, Some(Duration::from_secs(1)));
            match attendant.read().unwrap() {
                Some(told) if told == expected.as_bytes() => return,
                Some(_) => {}
                None => idle += 1,
            }
        }
        panic!("never told of {expected:?}");
    }

    /// A file in place, by rename, through links, and one that comes back.
    #[test]
    fn changes_are_told() {
        let directory = std::env::temp_dir().join(format!("attendant-{}", std::process::id()));
        let run = directory.join("run");
        fs::create_dir_all(&run).unwrap();
        let (link, file, other) = (directory.join("link"), run.join("file"), directory.join("other"));
        fs::write(&file, "zero").unwrap();
        symlink("run/file", &link).unwrap();
        let mut attendant = Attendant::start(Some(&link), None, None).unwrap();
        fs::write(&file, "one").unwrap();
        wait_for(&mut attendant, "one");
        fs::write(run.join("new"), "two").unwrap();
        fs::rename(run.join("new"), &file).unwrap();
        wait_for(&mut attendant, "two");
        fs::write(&other, "three").unwrap();
        fs::remove_file(&link).unwrap();
        symlink(&other, &link).unwrap();
        wait_for(&mut attendant, "three");
        fs::remove_file(&other).unwrap();
        fs::write(&other, "four").unwrap();
        wait_for(&mut attendant, "four");
        // Directories on the way: one that is a link and leads elsewhere, one that is made again.
        let way = directory.join("way");
        symlink("run", &way).unwrap();
        fs::remove_file(&link).unwrap();
        symlink("way/file", &link).unwrap();
        wait_for(&mut attendant, "two");
        fs::create_dir(directory.join("run2")).unwrap();
        fs::write(directory.join("run2/file"), "five").unwrap();
        symlink("run2", directory.join("new way")).unwrap();
        fs::rename(directory.join("new way"), &way).unwrap();
        wait_for(&mut attendant, "five");
        fs::remove_dir_all(directory.join("run2")).unwrap();
        fs::create_dir(directory.join("run2")).unwrap();
        fs::write(directory.join("run2/file"), "six").unwrap();
        wait_for(&mut attendant, "six");
        // Nobody reads for a while: the last change is told all the same.
        for number in 0..400 {
            fs::write(directory.join("run2/file"), format!("{number:014000}")).unwrap();
            std::thread::yield_now();
        }
        fs::write(directory.join("run2/file"), "seven").unwrap();
        wait_for(&mut attendant, "seven");
        fs::remove_dir_all(&directory).unwrap();
    }

    /// Files that were there once are not watched for ever.
    #[test]
    fn files_that_were_replaced() {
        let directory = std::env::temp_dir().join(format!("followed-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("file");
        fs::write(&file, "0").unwrap();
        let mut followed = Followed::new(&file);
        followed.begin();
        let inotify = followed.inotify.as_ref().expect("room for one").as_raw_fd();
        let count = || {
            let all = fs::read_to_string(format!("/proc/self/fdinfo/{inotify}")).unwrap();
            all.lines().filter(|line| line.starts_with("inotify")).count()
        };
        let before = count();
        for number in 1..20 {
            fs::hard_link(&file, directory.join(format!("old{number}"))).unwrap();
            fs::write(directory.join("new"), number.to_string()).unwrap();
            fs::rename(directory.join("new"), &file).unwrap();
            followed.watch();
            assert!(followed.is_watched && followed.has_changed());
        }
        assert_eq!(count(), before);
        // There may be none; but one that can't be watched has to be looked at.
        fs::remove_file(&file).unwrap();
        followed.watch();
        assert!(followed.is_watched);
        followed.path = directory.join("x".repeat(300));
        followed.watch();
        assert!(!followed.is_watched);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_was_made_is_removed_when_asked_for() {
        let path = std::env::temp_dir().join(format!("attendant-made-{}", std::process::id()));
        fs::write(&path, "").unwrap();
        drop(Attendant::start(None, Some(&path), None).unwrap());
        let attendant = Attendant::start(None, Some(&path), None).unwrap();
        assert!(path.exists());
        attendant.dismiss();
        assert!(!path.exists());
    }
}
