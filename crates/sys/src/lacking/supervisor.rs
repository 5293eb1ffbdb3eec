//! The process that decides about calls of others (`seccomp_unotify(2)`).

#![allow(clippy::cast_lossless, clippy::cast_possible_wrap, reason = "C libraries differ in ioctl's type")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, sockopt};
use rustix::process::Pid;

use super::{Exception, Refusal, Test, take};
use crate::result;

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` of include/uapi/linux/seccomp.h.
const RECEIVE: u32 = request::<libc::seccomp_notif>(0);
const SEND: u32 = request::<libc::seccomp_notif_resp>(1);
/// `SIOCGSKNS` of include/uapi/linux/sockios.h: the network namespace of a socket.
const SOCKET_NAMESPACE: u32 = 0x894c;
/// `NS_GET_USERNS` and `NS_GET_PARENT` of include/uapi/linux/nsfs.h.
const OWNER: u32 = 0xb701;
const PARENT: u32 = 0xb702;
/// `CAP_NET_RAW`, as a mask.
const NET_RAW: u64 = 1 << 13;

/// `_IOWR('!', number, T)` of include/uapi/asm-generic/ioctl.h.
const fn request<T>(number: u32) -> u32 {
    3 << 30 | (size_of::<T>() as u32) << 16 | (b'!' as u32) << 8 | number
}

/// Decides until nobody is left who is asked about.
pub(super) fn supervise(listener: &OwnedFd, refusals: &[Refusal]) -> io::Result<()> {
    loop {
        let mut events = [PollFd::new(listener, PollFlags::IN)];
        poll(&mut events, None)?;
        if !events[0].revents().contains(PollFlags::IN) {
            return Ok(());
        }
        // SAFETY: all-zero is a valid notification, and what the kernel asks for.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one notification.
        let done = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, &raw mut asked) };
        if result(done as isize).is_err() {
            // Whoever made the call is gone.
            continue;
        }
        let refusal = refusals.iter().find(|refusal| concerns(refusal, &asked.data));
        let errno = refusal.filter(|refusal| !is_exception(refusal.unless, &asked)).map(|r| r.errno);
        let answer = libc::seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: errno.map_or(0, i32::wrapping_neg),
            flags: if errno.is_none() { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 } else { 0 },
        };
        // It is gone, if that fails.
        // SAFETY: the kernel reads one answer.
        let _ = unsafe { libc::ioctl(listener.as_raw_fd(), SEND as _, &raw const answer) };
    }
}

/// Whether this call was to be asked about because of `refusal`.
fn concerns(refusal: &Refusal, call: &libc::seccomp_data) -> bool {
    let holds = |&(argument, test): &(u8, Test)| {
        let value = call.args[usize::from(argument)] as u32;
        match test {
            Test::Is(expected) => value == expected,
            Test::Has(bits) => value & bits != 0,
        }
    };
    let is_call = u32::try_from(call.nr).is_ok_and(|number| refusal.calls.contains(&number));
    is_call && refusal.unless != Exception::Never && refusal.arguments.iter().all(holds)
}

/// Whether the call is to go on. What can't be found out is refused.
fn is_exception(exception: Exception, asked: &libc::seccomp_notif) -> bool {
    let outcome = socket(asked).and_then(|(caller, socket)| match exception {
        Exception::Never => Ok(false),
        Exception::Privileged => is_privileged(caller, socket.as_fd()),
        Exception::OtherThanIpv6 => Ok(sockopt::socket_domain(&socket)? != AddressFamily::INET6),
    });
    outcome.unwrap_or(false)
}

/// The thread that makes a call, and the socket that this is about.
fn socket(asked: &libc::seccomp_notif) -> io::Result<(u32, OwnedFd)> {
    let process = field(asked.pid, "Tgid")?.parse().ok().and_then(Pid::from_raw);
    let process = process.ok_or(io::ErrorKind::NotFound)?;
    Ok((asked.pid, take(process, asked.data.args[0] as i32)?))
}

/// `ns_capable()` of Linux for `CAP_NET_RAW`: the capability counts in its own user namespace and in
/// those below.
fn is_privileged(caller: u32, socket: BorrowedFd<'_>) -> io::Result<bool> {
    let capabilities = u64::from_str_radix(&field(caller, "CapEff")?, 16).map_err(io::Error::other)?;
    if capabilities & NET_RAW == 0 {
        return Ok(false);
    }
    let own = fs::metadata(format!("/proc/{caller}/ns/user"))?.ino();
    let mut above = open(open(socket, SOCKET_NAMESPACE)?.as_fd(), OWNER)?;
    loop {
        if above.metadata()?.ino() == own {
            return Ok(true);
        }
        let Ok(parent) = open(above.as_fd(), PARENT) else { return Ok(false) };
        above = parent;
    }
}

/// What an ioctl opens that has no argument.
fn open(fd: BorrowedFd<'_>, request: u32) -> io::Result<File> {
    // SAFETY: these take no argument.
    let opened = result(unsafe { libc::ioctl(fd.as_raw_fd(), request as _) } as isize)?;
    // SAFETY: the call has opened it just now.
    Ok(unsafe { File::from_raw_fd(i32::try_from(opened).unwrap_or(-1)) })
}

/// A field of the status of a thread.
fn field(thread: u32, name: &str) -> io::Result<String> {
    let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
    value.map(|value| value.trim().to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
}
