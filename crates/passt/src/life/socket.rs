//! The socket at which a virtual machine reaches us: found, bound, or inherited, and
//! who comes there.
//!
//! A path is bound by whoever started us, before the change of identity, and with the mode that
//! their umask leaves, so that they decide who may connect. It is removed only if the start fails: a socket file without
//! a process is *stale*, and replaced by the next who wants its name.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use passt_sys::iovec::Scatter;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use passt_sys::socket::{self, Kind};
use passt_sys::{fd, msg};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, getpeername, socket_with, sockopt,
};

use super::leftovers::Leftovers;
use super::peers::Peers;
use crate::cli::{GuestSocket, PasstOptions, Wire};

/// How many default names there are, numbered from 1.
const NAMES: u32 = 63;

/// Clients that may wait to be sent away.
const BACKLOG: i32 = 128;

/// Why no virtual machine can reach us.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path was given where another process listens.
    #[error("Socket path {} already in use", .0.display())]
    InUse(PathBuf),
    /// The kernel doesn't let us have a path.
    #[error("Couldn't bind UNIX domain socket {}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// All default names are taken.
    #[error("Couldn't find a free name for a UNIX domain socket up to {}", name(NAMES).display())]
    NoName,
    /// The descriptor given for a tap device is none.
    #[error("Invalid descriptor of a tap device: {0}")]
    Device(RawFd),
    /// The descriptor given for a listening socket is none.
    #[error("Invalid descriptor of a listening socket: {0}")]
    Listening(RawFd),
    /// The descriptor given is no connected socket of the right type.
    #[error("Invalid --fd: {0}")]
    Fd(RawFd),
}

/// Takes over the connected socket that the process was started with as descriptor `fd`, of the
/// type that frames need. To be called before anything else is opened.
pub fn inherit(fd: RawFd, wire: Wire) -> Result<OwnedFd, Error> {
    let socket = fd::take_inherited(fd).map_err(|_| Error::Fd(fd))?;
    let is_right = sockopt::socket_type(&socket) == Ok(kind(wire));
    // A socket that only listens has no peer.
    if is_right && getpeername(&socket).is_ok() { Ok(socket) } else { Err(Error::Fd(fd)) }
}

/// The type of socket that frames need.
fn kind(wire: Wire) -> SocketType {
    match wire {
        Wire::Qemu | Wire::Hyperkit | Wire::Stdio => SocketType::STREAM,
        Wire::Bess => SocketType::SEQPACKET,
        Wire::Vfkit => SocketType::DGRAM,
    }
}

/// Another descriptor of a connection, which stays open with it.
pub fn keep(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(socket, 0)?)
}

/// System calls of [`keep`]: `F_DUPFD_CLOEXEC` (`include/uapi/linux/fcntl.h`).
pub const KEEP_CALLS: &[Call] = &[Call::only(Sysno::fcntl, &[&[(1, 1030)]])];

/// Takes over the device that the process was started with as descriptor `fd`.
pub fn inherit_device(fd: RawFd) -> Result<OwnedFd, Error> {
    fd::take_inherited(fd).map_err(|_| Error::Device(fd))
}

/// Listens where the command line says; `None` if our client is there already. The file is one of
/// `leftovers`.
pub fn listen(passt: &PasstOptions, leftovers: &mut Leftovers) -> Result<Option<UnixListener>, Error> {
    let kind = kind(passt.wire);
    let (listener, path) = match &passt.socket {
        GuestSocket::Fd(_) | GuestSocket::Tap(_) | GuestSocket::Stdio => return Ok(None),
        GuestSocket::Listening(fd) => return inherit_listener(*fd).map(Some),
        GuestSocket::Path(path) if passt.replace => (replace(path, kind, leftovers)?, path.clone()),
        GuestSocket::Path(path) => (bind_as(path, kind, leftovers)?, path.clone()),
        GuestSocket::FirstFree => first_free(kind, leftovers)?,
    };
    log::info!("UNIX domain socket bound at {}", path.display());
    Ok(Some(listener))
}

fn first_free(kind: SocketType, leftovers: &mut Leftovers) -> Result<(UnixListener, PathBuf), Error> {
    for path in names() {
        match bind_as(&path, kind, leftovers) {
            Ok(listener) => return Ok((listener, path)),
            Err(Error::InUse(_)) => {}
            // Another user's, whose directory keeps us from removing it.
            Err(Error::Bind { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::NoName)
}

/// The default names, in the order in which they are taken.
pub fn names() -> impl Iterator<Item = PathBuf> {
    (1..=NAMES).map(name)
}

fn name(number: u32) -> PathBuf {
    format!("/tmp/passt_{number}.socket").into()
}

/// Takes over the socket that listens already as descriptor `fd`.
fn inherit_listener(fd: RawFd) -> Result<UnixListener, Error> {
    let socket = fd::take_inherited(fd).map_err(|_| Error::Listening(fd))?;
    let listens = sockopt::socket_acceptconn(&socket) == Ok(true);
    let listener = UnixListener::from(socket);
    let is_ready = listens && listener.set_nonblocking(true).is_ok();
    if is_ready { Ok(listener) } else { Err(Error::Listening(fd)) }
}

/// Listens for streams at a path, unless a process does that already. The file is one of
/// `leftovers`.
pub fn bind(path: &Path, leftovers: &mut Leftovers) -> Result<UnixListener, Error> {
    bind_as(path, SocketType::STREAM, leftovers)
}

fn bind_as(path: &Path, kind: SocketType, leftovers: &mut Leftovers) -> Result<UnixListener, Error> {
    if is_live(path) {
        return Err(Error::InUse(path.into()));
    }
    if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        // If it stays, that is what binding will complain about.
        let _ = fs::remove_file(path);
    }
    bind_free(path, kind, leftovers).map_err(|source| Error::Bind { path: path.into(), source })
}

/// Listens for streams at a path in the place of whatever file is there, be it another process's
/// socket.
pub fn bind_replacing(path: &Path, leftovers: &mut Leftovers) -> Result<UnixListener, Error> {
    replace(path, SocketType::STREAM, leftovers)
}

fn replace(path: &Path, kind: SocketType, leftovers: &mut Leftovers) -> Result<UnixListener, Error> {
    // If it stays, that is what binding will complain about.
    let _ = fs::remove_file(path);
    bind_free(path, kind, leftovers).map_err(|source| Error::Bind { path: path.into(), source })
}

/// Listens at a path where there is nothing.
fn bind_free(path: &Path, kind: SocketType, leftovers: &mut Leftovers) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    leftovers.add(path)?;
    if kind != SocketType::DGRAM {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket.into())
}

/// Whether a process has this socket, without its noticing: a real connection would be a client,
/// the only one for some. The wrong type is refused only where there is a socket (unix(7),
/// `EPROTOTYPE`).
fn is_live(path: &Path) -> bool {
    match UnixDatagram::unbound().and_then(|socket| socket.connect(path)) {
        Ok(()) => true,
        Err(error) => error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()),
    }
}

/// A descriptor that is kept for whoever comes to the socket while all others are in use.
#[derive(Debug, Default)]
pub struct Spare(Option<OwnedFd>);

impl Spare {
    /// Takes a descriptor, if there is none and one can be had.
    pub fn fill(&mut self) {
        if self.0.is_none() {
            let open = |family| socket::open(Kind { kind: SocketType::DGRAM, family }, None);
            self.0 = open(AddressFamily::INET).or_else(|_| open(AddressFamily::INET6)).ok();
        }
    }
}

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[
    Call::any(Sysno::accept4),
    Call::only(Sysno::getsockopt, &[option::SO_PEERCRED]),
    Call::any(Sysno::recvmsg),
    Call::any(Sysno::sendmsg),
    Call::only(Sysno::socket, socket::SOCKETS),
];

/// Accepts whoever waits at the socket, unless it's `taken`: then they are sent away. `None` if
/// there is no client for us. An error leaves them where they are, and the socket readable.
pub fn admit(
    listener: &UnixListener,
    spare: &mut Spare,
    peers: &mut Peers,
    taken: bool,
) -> io::Result<Option<OwnedFd>> {
    let accept = || accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
    let accepted = match accept() {
        Err(Errno::MFILE | Errno::NFILE) if spare.0.take().is_some() => accept(),
        accepted => accepted,
    };
    let client = match accepted {
        Ok(client) => client,
        // Nobody is there, or not any more.
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let pid = peers.pid(&client);
    if taken {
        log::info!("discarding connection from PID {pid}");
        drop(client);
        spare.fill();
        return Ok(None);
    }
    log::info!("accepted connection from PID {pid}");
    Ok(Some(client))
}

/// Whether a client has closed its end, whatever of its frames is still to be read. To one that takes
/// messages nothing can be sent that is none: it has left when the end is all that there is to read.
pub fn has_left(client: BorrowedFd<'_>, wire: Wire) -> bool {
    if kind(wire) != SocketType::STREAM {
        let mut byte = [0];
        let mut into = Scatter::new();
        into.push(&mut byte);
        return matches!(msg::peek(client, &into), Ok(0));
    }
    // Nothing is sent; but to somebody who is gone not even that can be.
    let is_deaf = msg::send_slice(client, &[]).is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    // Who has only stopped to read is still there: for them there would be no end to wait for.
    let mut byte = [0];
    let mut into = Scatter::new();
    into.push(&mut byte);
    is_deaf && !msg::peek(client, &into).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Shutdown;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("socket-{name}-{}", std::process::id()))
    }

    fn bind_kept(path: &Path) -> Result<UnixListener, Error> {
        let mut leftovers = Leftovers::default();
        let bound = bind(path, &mut leftovers);
        leftovers.keep();
        bound
    }

    #[test]
    fn a_live_socket_is_not_disturbed() {
        let path = path("live");
        let listener = bind_kept(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(
            bind_kept(&path).unwrap_err().to_string(),
            format!("Socket path {} already in use", path.display())
        );
        let admitted = admit(&listener, &mut Spare::default(), &mut Peers::default(), false);
        assert!(admitted.unwrap().is_none(), "a connection was made");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let path = path("stale");
        drop(bind_kept(&path).unwrap());
        assert!(path.exists());
        drop(bind_kept(&path).unwrap());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_client_has_left_once_nothing_more_will_come() {
        let read = Some(Shutdown::Read);
        for (shut, closed, expected) in
            [(None, false, false), (read, false, false), (read, true, true), (None, true, true)]
        {
            let (ours, theirs) = UnixStream::pair().unwrap();
            if let Some(how) = shut {
                theirs.shutdown(how).unwrap();
            }
            let open = (!closed).then_some(theirs);
            assert_eq!(has_left(ours.as_fd(), Wire::Qemu), expected, "{shut:?} {closed}");
            drop(open);
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"frames").unwrap();
        drop(theirs);
        assert!(has_left(ours.as_fd(), Wire::Qemu), "its last frames are still to be read");
    }

    #[test]
    fn nothing_but_a_socket_is_replaced() {
        let path = path("file");
        fs::write(&path, "text").unwrap();
        assert!(matches!(bind_kept(&path), Err(Error::Bind { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        fs::remove_file(path).unwrap();
    }
}
