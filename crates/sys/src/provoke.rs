//! For tests alone: what a process would do that somebody else has taken over.

use std::ffi::CStr;
use std::io;

use crate::seccomp::Sysno;

/// The environment variable that says what to do.
const VARIABLE: &str = "PASST_PROVOKE";

/// A deed, and what it needs that could not be had once sealed.
#[derive(Debug)]
pub struct Provocation {
    name: String,
    socket: libc::c_int,
}

impl Provocation {
    /// What the environment asks for.
    pub fn prepare() -> Option<Self> {
        let name = std::env::var(VARIABLE).ok()?;
        // SAFETY: takes no pointers.
        let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        Some(Self { name, socket })
    }

    /// Does it; its name and result, if there is one.
    pub fn act(&self) -> (&str, io::Result<usize>) {
        if self.name == "memory" {
            // More than there is; a request that fails.
            let mut bytes = Vec::<u8>::new();
            let result = bytes.try_reserve(1 << 30).map(|()| bytes.capacity());
            return (&self.name, result.map_err(io::Error::other));
        }
        const ROOT: &CStr = c"/";
        const PACKET: usize = libc::AF_PACKET as usize;
        let abstract_address = address(b"\0provoked");
        let path = ROOT.as_ptr() as usize;
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
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: pointers among the arguments are to constants and to what lives here; no call
        // changes this process's memory but to add to it, if it is allowed at all.
        let result = unsafe { libc::syscall(call.id().into(), a, b, c, d, e, f) };
        (&self.name, crate::result(result as isize))
    }
}

/// The address of a socket with a name that is no path.
fn address(name: &[u8]) -> libc::sockaddr_un {
    // SAFETY: all-zero is a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    address
}
