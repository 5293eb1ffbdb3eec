//! User and network namespaces: entering one, and working inside another.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use arrayvec::ArrayVec;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::seccomp::{self, Call, Sysno};
use crate::socket::{self, Kind, SOCKETS, option};
use crate::{fd, result};

/// System calls of a [`Resident`] and of whoever gives it work, but for what the work itself needs;
/// and those of [`socket::open`].
pub const CALLS: &[Call] = &[
    Call::any(Sysno::futex),
    Call::only(Sysno::setsockopt, &[option::IPV6_V6ONLY, option::SO_OOBINLINE, option::TCP_NODELAY]),
    Call::only(Sysno::socket, SOCKETS),
    Call::any(Sysno::write),
];

/// A network namespace, held open: it lives at least as long as this.
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// Opens the namespace that `path` refers to.
    pub fn open(path: &Path) -> io::Result<Self> {
        open(path).map(Self)
    }

    /// The same namespace without what its path needs: the mount that it was opened from
    /// can be removed while this lives. Shows at once whether it can be entered.
    pub fn detached(self) -> io::Result<Self> {
        // Where there is no /proc, the mount stays.
        let own = self.run(|| File::open("/proc/thread-self/ns/net"))?;
        Ok(own.map_or(self, Self))
    }

    /// Runs `work` in the namespace and returns its result, while this thread and
    /// so the process stay in theirs: sockets and devices that `work` opens belong
    /// to the namespace wherever they are used afterwards.
    ///
    /// Needs `CAP_SYS_ADMIN` in the process's user namespace and in the
    /// one that owns the network namespace. Starts a thread, and waits for its end.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let inside = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        allow_threads();
        thread::scope(|scope| {
            let worker = thread::Builder::new().stack_size(WORK_STACK).spawn_scoped(scope, inside);
            let worker = worker.map_err(|error| no_thread(&error))?;
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A thread that stays in a network namespace and opens sockets there. What it opens belongs
/// to the namespace wherever it is used. Threads do not survive a fork: begun after the last one.
///
/// Its descriptor, an eventfd(2), is signalled whenever the thread has done something. Watched
/// edge-triggered, it need not be read.
#[derive(Debug)]
pub struct Resident {
    done: Arc<OwnedFd>,
    jobs: SyncSender<Job>,
    thread: Option<JoinHandle<()>>,
}

/// Gets sockets from a [`Resident`], one for each thread that needs some. Its descriptor is that of
/// the thread.
#[derive(Debug)]
pub struct Supply {
    done: Arc<OwnedFd>,
    jobs: SyncSender<Job>,
    ready: SyncSender<Batch>,
    batches: Receiver<Batch>,
}

enum Job {
    Run(Box<dyn FnOnce() + Send>),
    Sockets(Kind, usize, SyncSender<Batch>),
    /// There will be no other.
    End,
}

type Batch = (Kind, ArrayVec<OwnedFd, BATCH>);

/// Those that can be ordered.
pub const KINDS: [Kind; 4] = [
    Kind { kind: SocketType::STREAM, family: AddressFamily::INET },
    Kind { kind: SocketType::STREAM, family: AddressFamily::INET6 },
    Kind { kind: SocketType::DGRAM, family: AddressFamily::INET },
    Kind { kind: SocketType::DGRAM, family: AddressFamily::INET6 },
];

/// Sockets that [`Supply::order`] has made at once, at most.
pub const BATCH: usize = 16;

/// Supplies that a [`Resident`] has room for.
const SUPPLIES: usize = 16;

/// What a [`Resident`] was given to do.
#[derive(Debug)]
pub struct Pending<T>(Receiver<T>);

impl<T> Pending<T> {
    /// Its result; `None` while there is none yet, and an error if the thread is gone.
    pub fn poll(&self) -> Option<io::Result<T>> {
        match self.0.try_recv() {
            Err(TryRecvError::Empty) => None,
            result => Some(result.map_err(|_| gone())),
        }
    }

    /// Waits for its result.
    pub fn wait(&self) -> io::Result<T> {
        self.0.recv().map_err(|_| gone())
    }
}

fn refused_job<T>(error: &TrySendError<T>) -> io::Error {
    match error {
        TrySendError::Full(_) => io::ErrorKind::WouldBlock.into(),
        TrySendError::Disconnected(_) => gone(),
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// Bytes of stack of a [`Resident`]. Stacks have sizes of their own, or `RUST_MIN_STACK` in the
/// environment would decide.
const STACK: usize = 64 * 1024;
/// Bytes of stack for [`Netns::run`].
const WORK_STACK: usize = 512 * 1024;

impl Resident {
    /// Starts the thread; see [`Netns::run`] for the rights that this needs. It ends with this
    /// value.
    pub fn start(netns: &Netns) -> io::Result<Self> {
        let netns = netns.0.try_clone()?;
        Self::with(move || Ok(move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?))
    }

    /// Starts a thread that stays in the network namespace of this one, for tests.
    pub fn here() -> io::Result<Self> {
        Self::with(|| Ok(()))
    }

    fn with(enter: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let done = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let signal = Arc::clone(&done);
        // Room for all that can be ordered, and one thing more to do.
        let (jobs, todo) = sync_channel(SUPPLIES * KINDS.len() + 1);
        let (entered, result) = sync_channel(1);
        allow_threads();
        let thread = thread::Builder::new().name("namespace".into()).stack_size(STACK).spawn(move || {
            let inside = enter();
            let stay = inside.is_ok();
            if entered.send(inside).is_ok() && stay {
                work(&todo, &signal);
            }
        });
        let thread = thread.map_err(|error| no_thread(&error))?;
        result.recv().map_err(io::Error::other)??;
        Ok(Self { done, jobs, thread: Some(thread) })
    }

    /// Runs `work` in the namespace and waits for its result.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        self.begin(work)?.wait()
    }

    /// Has `work` run in the namespace. `ErrorKind::WouldBlock` if other work has not been begun
    /// yet. The thread does one thing after the other: sockets that are ordered meanwhile come
    /// later.
    pub fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Pending<T>> {
        let (done, result) = sync_channel(1);
        let job = move || {
            // Nobody else could be told.
            let _gone = done.send(work());
        };
        let sent = self.jobs.try_send(Job::Run(Box::new(job)));
        sent.map(|()| Pending(result)).map_err(|error| refused_job(&error))
    }

    /// A way to get sockets; there may be sixteen.
    pub fn supply(&self) -> Supply {
        // With room for all that can be ordered the thread never waits, and always has time for
        // jobs.
        let (ready, batches) = sync_channel(KINDS.len());
        Supply { done: Arc::clone(&self.done), jobs: self.jobs.clone(), ready, batches }
    }
}

impl Supply {
    /// Has `count` sockets made, or [`BATCH`] if that is less, as by [`socket::open`], to be asked for
    /// with [`Supply::ordered`]. `ErrorKind::WouldBlock` if the thread has too much to do, another
    /// error if it is gone. Only one order of each of [`KINDS`] may be open.
    pub fn order(&self, kind: Kind, count: usize) -> io::Result<()> {
        self.jobs.try_send(Job::Sockets(kind, count, self.ready.clone())).map_err(|error| refused_job(&error))
    }

    /// A batch that was ordered, less what could not be made; `None` if none is ready.
    pub fn ordered(&self) -> Option<(Kind, ArrayVec<OwnedFd, BATCH>)> {
        self.batches.try_recv().ok()
    }
}

impl AsFd for Resident {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

impl AsFd for Supply {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

impl Drop for Resident {
    /// Waits for the thread's end.
    fn drop(&mut self) {
        // An error: it has ended already.
        let _gone = self.jobs.send(Job::End);
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

fn work(todo: &Receiver<Job>, done: &OwnedFd) {
    for job in todo {
        match job {
            Job::Run(work) => work(),
            Job::Sockets(kind, count, ready) => {
                let made = (0..count.min(BATCH)).map_while(|_| socket::open(kind, None).ok()).collect();
                // Who ordered them may be gone.
                let _closed = ready.try_send((kind, made));
            }
            Job::End => return,
        }
        // It only fails where nobody has looked for 2⁶⁴ times.
        let _counted = rustix::io::write(done, &1_u64.to_ne_bytes());
    }
}

/// A user namespace, held open.
#[derive(Debug)]
pub struct Userns(File);

impl Userns {
    /// Opens the namespace that `path` refers to.
    pub fn open(path: &Path) -> io::Result<Self> {
        open(path).map(Self)
    }

    /// Moves the process there, and gives it all capabilities of that namespace and none of others.
    /// Nothing happens if it is there already. The process must have a single thread.
    pub fn join(&self) -> io::Result<()> {
        let (theirs, ours) = (self.0.metadata()?, fs::metadata("/proc/self/ns/user")?);
        if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
            return Ok(());
        }
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::User))?;
        Ok(())
    }
}

/// Has the C library start threads by clone(2) where a filter refuses clone3(2), which profiles of
/// container engines do that are older than it: it does so only where the kernel says that it lacks
/// the other one.
fn allow_threads() {
    if cfg!(not(target_env = "gnu")) {
        // Other C libraries don't use it.
        return;
    }
    // SAFETY: no argument at all is never enough to do anything (`EINVAL`).
    let asked = result(unsafe { libc::syscall(libc::SYS_clone3, 0_usize, 0_usize) } as isize);
    if asked.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)) {
        // Where that fails, so does the thread, and says why.
        let _ = seccomp::forget(Sysno::clone3);
    }
}

/// Why there is no thread.
fn no_thread(error: &io::Error) -> io::Error {
    let reason = match error.raw_os_error() {
        Some(libc::EPERM) => "can't start a thread, as if a filter refused clone3",
        _ => "can't start a thread",
    };
    fd::at(reason, error)
}

/// Why there is no new namespace, where that is not plain from the kernel's error
/// (`user_namespaces(7)`, `namespaces(7)`).
pub(crate) fn refused(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => fd::at("limit reached (user.max_*_namespaces, namespaces(7))", &error),
        Some(libc::EPERM) => fd::at("not allowed by this system or sandbox", &error),
        Some(libc::EINVAL | libc::ENOSYS) => fd::at("not supported by this kernel", &error),
        _ => error,
    }
}

/// Opens what should be a namespace. A FIFO that nobody writes to would keep us; it is refused when
/// it is entered.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Moves the process to a new user namespace, with all capabilities there and none elsewhere.
/// The process must have a single thread.
pub fn detach_user() -> io::Result<()> {
    // SAFETY: does not unshare the descriptor table, the reason for which
    // the function is unsafe.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(|error| refused(error.into()))
}

/// Moves this thread, and those that it starts, to new namespaces: mount, IPC, UTS; with `NEWPID`
/// the next children of the process. Needs `CAP_SYS_ADMIN` in its user namespace.
pub fn detach(namespaces: UnshareFlags) -> io::Result<()> {
    // SAFETY: what makes the function unsafe is a descriptor table that threads
    // no longer share, which is left out here.
    let detached = unsafe { unshare_unsafe(namespaces.difference(UnshareFlags::FILES)) };
    detached.map_err(|error| refused(error.into()))
}

/// Maps user and group 0 of the new user namespace of this process to `uid` and `gid`
/// of the one before, its own there (`user_namespaces(7)`).
pub fn map_root(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    // Without this an unprivileged process may not write the other map.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Whether this process is in the first user namespace, the one whose root is the machine's.
pub fn is_initial_user() -> io::Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok(map.split_whitespace().eq(["0", "0", "4294967295"]))
}
