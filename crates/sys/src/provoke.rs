//! For tests alone: what a process would do that somebody else has taken over.

#![expect(clippy::cast_sign_loss, reason = "arguments of system calls are words")]

use std::ffi::CStr;
use std::io;

use crate::seccomp::Sysno;

/// The environment variable that says what to do.
const VARIABLE: &str = "PASST_PROVOKE";

/// Set if it is done before the filter is there, so that what else there is shows.
const EARLY: &str = "PASST_PROVOKE_EARLY";

/// The PID of the process, of the same user, that it is done to.
const VICTIM: &str = "PASST_PROVOKE_VICTIM";

const ROOT: &CStr = c"/";
const PACKET: usize = libc::AF_PACKET as usize;

/// A deed, and what it needs that could not be had once sealed.
#[derive(Debug)]
pub struct Provocation {
    name: String,
    socket: libc::c_int,
    tcp: libc::c_int,
    victim: libc::pid_t,
    victim_fd: libc::c_long,
    early: bool,
}

impl Provocation {
    /// What the environment asks for.
    pub fn prepare() -> Option<Self> {
        let name = std::env::var(VARIABLE).ok()?;
        // SAFETY: takes no pointers.
        let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        // SAFETY: takes no pointers.
        let tcp = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        let victim = std::env::var(VICTIM).ok().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        // SAFETY: takes no pointers.
        let victim_fd = unsafe { libc::syscall(libc::SYS_pidfd_open, victim, 0) };
        let early = std::env::var_os(EARLY).is_some();
        Some(Self { name, socket, tcp, victim, victim_fd, early })
    }

    /// Whether it is to be done before the filter is there.
    pub fn is_early(&self) -> bool {
        self.early
    }

    /// Does it; its name and result, if there is one.
    pub fn act(&self) -> (&str, io::Result<usize>) {
        if self.name == "memory" {
            // More than there is; a request that fails.
            let mut bytes = Vec::<u8>::new();
            let result = bytes.try_reserve(1 << 30).map(|()| bytes.capacity());
            return (&self.name, result.map_err(io::Error::other));
        }
        let abstract_address = address(b"\0provoked");
        let path = ROOT.as_ptr() as usize;
        if let Some(result) = self.act_on_sockets(path).or_else(|| self.signal()) {
            return (&self.name, result);
        }
        let (call, arguments) = match self.name.as_str() {
            "open" => (Sysno::openat, [libc::AT_FDCWD as usize, path, 0, 0, 0, 0]),
            "socket" => (Sysno::socket, [PACKET, libc::SOCK_RAW as usize, 0, 0, 0, 0]),
            "execve" => (Sysno::execve, [path, 0, 0, 0, 0, 0]),
            "brk" => (Sysno::brk, [0; 6]),
            "mmap" => {
                (Sysno::mmap, [0, 4096, 3, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize, usize::MAX, 0])
            }
            "ptrace" => (Sysno::ptrace, [0; 6]),
            "ioctl" => (Sysno::ioctl, [0, libc::TIOCSTI as usize, path, 0, 0, 0]),
            "setsockopt" => {
                (Sysno::setsockopt, [self.socket as usize, libc::SOL_PACKET as usize, 1, path, 4, 0])
            }
            _ => (
                Sysno::connect,
                [self.socket as usize, (&raw const abstract_address) as usize, 2 + 9, 0, 0, 0],
            ),
        };
        (&self.name, make(call, arguments))
    }

    /// Sockets and options that nothing here needs; `value` is the address of a value that is never
    /// looked at.
    fn act_on_sockets(&self, value: usize) -> Option<io::Result<usize>> {
        let flags = (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as usize;
        let [v4, v6] = [libc::AF_INET as usize, libc::AF_INET6 as usize];
        let [stream, datagram] = [libc::SOCK_STREAM as usize | flags, libc::SOCK_DGRAM as usize | flags];
        let socket = |family, kind, protocol| (Sysno::socket, [family, kind, protocol as usize, 0, 0, 0]);
        let tcp = self.tcp as usize;
        let set = |level, name| (Sysno::setsockopt, [tcp, level as usize, name as usize, value, 4, 0]);
        let (call, arguments) = match self.name.as_str() {
            "mptcp" => socket(v4, stream, libc::IPPROTO_MPTCP),
            "mptcp6" => socket(v6, stream, libc::IPPROTO_MPTCP),
            "udplite" => socket(v4, datagram, libc::IPPROTO_UDPLITE),
            "sctp" => socket(v4, stream, libc::IPPROTO_SCTP),
            "raw" => socket(v4, libc::SOCK_RAW as usize | flags, libc::IPPROTO_ICMP),
            // One of the family's, for the other.
            "ping6-of-4" => socket(v4, datagram, libc::IPPROTO_ICMPV6),
            // It would stay open in a program that is executed.
            "inherited" => socket(v4, libc::SOCK_STREAM as usize, 0),
            "ulp" => set(libc::IPPROTO_TCP, libc::TCP_ULP),
            "attach-filter" => set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
            "mark" => set(libc::SOL_SOCKET, libc::SO_MARK),
            "header" => set(libc::IPPROTO_IP, libc::IP_HDRINCL),
            // The number of one that is in use, of another level.
            "level" => set(libc::IPPROTO_TCP, libc::SO_BINDTODEVICE),
            "getsockopt" => (Sysno::getsockopt, [tcp, libc::SOL_SOCKET as usize, 31, value, value, 0]),
            _ => return None,
        };
        Some(make(call, arguments))
    }

    /// Ending another process, and other uses of the calls that a command needs.
    fn signal(&self) -> Option<io::Result<usize>> {
        let kill = libc::SIGKILL as usize;
        let (victim, fd) = (self.victim as usize, self.victim_fd as usize);
        let (call, arguments) = match self.name.as_str() {
            "kill" => (Sysno::kill, [victim, kill, 0, 0, 0, 0]),
            "tgkill" => (Sysno::tgkill, [victim, victim, kill, 0, 0, 0]),
            "sigqueue" => (Sysno::rt_sigqueueinfo, [victim, kill, 0, 0, 0, 0]),
            "pidfd" => (Sysno::pidfd_send_signal, [fd, kill, 0, 0, 0, 0]),
            "pidfd-open" => (Sysno::pidfd_open, [victim, 0, 0, 0, 0, 0]),
            "wait" => (Sysno::wait4, [usize::MAX, 0, 0, 0, 0, 0]),
            _ => return None,
        };
        Some(make(call, arguments))
    }
}

fn make(call: Sysno, arguments: [usize; 6]) -> io::Result<usize> {
    let number = call.number().ok_or(io::ErrorKind::Unsupported)?;
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: pointers among the arguments are to constants and to what the caller has; no call
    // changes this process's memory but to add to it, if it is allowed at all.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    crate::result(result as isize)
}

/// The address of a socket with a name that is no path.
fn address(name: &[u8]) -> libc::sockaddr_un {
    // SAFETY: all-zero is a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        // A signed number on some processors.
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    address
}
