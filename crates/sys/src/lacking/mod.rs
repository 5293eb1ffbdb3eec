//! For tests alone: an older kernel, as far as a program can tell.
//!
//! A filter for system calls (`seccomp(2)`) has calls fail as they do where the kernel, or the
//! profile of a container, lacks them: by number, and by arguments that are passed by value. What
//! depends on more than that, as an option of a socket that takes a privilege, is decided by
//! another process, the supervisor. Both hold for the program that is executed next and
//! for all that it starts.
//!
//! What a kernel *says* can't be changed this way: an answer of netlink, a control message, the
//! length of a structure.

mod supervisor;

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, WaitOptions, getpid, pidfd_getfd, pidfd_open, waitpid,
};

use crate::seccomp::bpf::{self, Program};
use crate::{fd, process, result, seccomp};

/// Calls that fail.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Their numbers.
    pub calls: RangeInclusive<u32>,
    /// What has to hold of their arguments: the number of an argument, from 0, and what of its lower
    /// 32 bits.
    pub arguments: Vec<(u8, Test)>,
    /// When they do not fail in spite of that.
    pub unless: Exception,
    /// What they fail with.
    pub errno: i32,
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug)]
pub enum Test {
    /// It is this number.
    Is(u32),
    /// It has one of these bits.
    Has(u32),
}

/// What is asked about the socket that is a call's first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// Nothing.
    Never,
    /// Whether the caller has `CAP_NET_RAW` where the socket's network namespace belongs.
    Privileged,
    /// Whether it is none of IPv6.
    OtherThanIpv6,
}

/// Has calls of this thread fail from now on, and of all that it starts and executes. The process
/// must have a single thread.
///
/// Without exceptions there is no supervisor. With them it is a process that goes on until none is
/// left for which the filter is; it decides with the rights that this process has now.
pub fn refuse(refusals: &[Refusal]) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    if refusals.iter().all(|refusal| refusal.unless == Exception::Never) {
        return install(refusals, 0).map(drop);
    }
    let (asked, asks) = pipe_with(PipeFlags::CLOEXEC)?;
    let (told, tells) = pipe_with(PipeFlags::CLOEXEC)?;
    let ours = getpid();
    if let Some(child) = process::fork()? {
        let listener = install(refusals, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
        // SAFETY: the call has opened it just now.
        let listener = unsafe { OwnedFd::from_raw_fd(i32::try_from(listener).unwrap_or(-1)) };
        rustix::io::write(&asks, &listener.as_raw_fd().to_ne_bytes())?;
        drop((asks, tells));
        // Nothing to read: there is no supervisor.
        let ready = rustix::io::read(&told, &mut [0])?;
        waitpid(Some(child), WaitOptions::empty())?;
        return if ready == 1 { Ok(()) } else { Err(io::Error::other("no supervisor")) };
    }
    drop((asks, told));
    // So that the program has no child that it did not start.
    if process::fork().is_ok_and(|grandchild| grandchild.is_none()) {
        let mut number = [0; 4];
        let taken = rustix::io::read(&asked, &mut number)
            .map_err(io::Error::from)
            .and_then(|_| take(ours, i32::from_ne_bytes(number)));
        let ready = taken.and_then(|listener| {
            fd::null_standard(&fd::null()?)?;
            rustix::io::write(&tells, &[0])?;
            drop(tells);
            supervisor::supervise(&listener, refusals)
        });
        process::exit_now(u8::from(ready.is_err()));
    }
    process::exit_now(0);
}

/// Makes each of the calls that are refused, with the arguments for which they are, and `socket` as
/// the first one if it is asked about; what they fail with, or none for one that does not.
pub fn attempt<'r>(
    refusal: &'r Refusal,
    socket: BorrowedFd<'_>,
) -> impl Iterator<Item = Option<i32>> + use<'r> {
    let mut arguments = [0_usize; 6];
    if refusal.unless != Exception::Never {
        arguments[0] = usize::try_from(socket.as_raw_fd()).unwrap_or(usize::MAX);
    }
    for &(argument, test) in &refusal.arguments {
        let (Test::Is(value) | Test::Has(value)) = test;
        arguments[usize::from(argument)] = value as usize;
    }
    let [a, b, c, d, e, f] = arguments;
    [*refusal.calls.start(), *refusal.calls.end()].into_iter().map(move |call| {
        #[allow(clippy::cast_lossless, clippy::cast_possible_wrap, reason = "of 32 or 64 bits")]
        let call = call as libc::c_long;
        // SAFETY: pointers are null, and lengths zero: no call changes this process's memory.
        let done = unsafe { libc::syscall(call, a, b, c, d, e, f) };
        result(done as isize).err().and_then(|error| error.raw_os_error())
    })
}

/// A descriptor of another process.
fn take(process: Pid, number: i32) -> io::Result<OwnedFd> {
    let process = pidfd_open(process, PidfdFlags::empty())?;
    Ok(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?)
}

fn install(refusals: &[Refusal], flags: libc::c_ulong) -> io::Result<usize> {
    seccomp::load(&mut program(refusals), flags)
}

/// The filter: each refusal is tried in turn.
fn program(refusals: &[Refusal]) -> Program {
    let mut program = Program::new();
    for refusal in refusals {
        let mut steps = vec![bpf::load(bpf::NUMBER)];
        // Steps from here to the end of this refusal, beyond the one that is added.
        let beyond = |done: usize| (3 + 2 * refusal.arguments.len() + 1 - done - 1) as u8;
        steps.push(bpf::compare(libc::BPF_JGE, *refusal.calls.start(), 0, beyond(1)));
        steps.push(bpf::compare(libc::BPF_JGT, *refusal.calls.end(), beyond(2), 0));
        for &(argument, test) in &refusal.arguments {
            steps.push(bpf::load(bpf::argument(argument)));
            let (jump, value) = match test {
                Test::Is(value) => (libc::BPF_JEQ, value),
                Test::Has(bits) => (libc::BPF_JSET, bits),
            };
            steps.push(bpf::compare(jump, value, 0, beyond(steps.len())));
        }
        steps.push(bpf::answer(match refusal.unless {
            Exception::Never => libc::SECCOMP_RET_ERRNO | refusal.errno.cast_unsigned(),
            Exception::Privileged | Exception::OtherThanIpv6 => libc::SECCOMP_RET_USER_NOTIF,
        }));
        program.append(&mut steps);
    }
    program.push(bpf::answer(libc::SECCOMP_RET_ALLOW));
    program
}
