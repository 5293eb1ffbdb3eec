//! Signals: ignored, ending the process, or read from a descriptor.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::{Errno, read};
use rustix::process::Signal;

/// Sets the default disposition of `signal`.
pub fn set_default(signal: Signal) -> io::Result<()> {
    dispose(signal, libc::SIG_DFL)
}

/// Ignores `signal`.
pub fn ignore(signal: Signal) -> io::Result<()> {
    dispose(signal, libc::SIG_IGN)
}

/// Makes `signal` end the process at once with exit status 0.
///
/// A handler, not the default disposition: that one does nothing for the first process
/// of a PID namespace. And a handler rather than a descriptor, so that it also works during
/// start-up and whatever the process is busy with.
pub fn exit_on(signal: Signal) -> io::Result<()> {
    dispose(signal, exit_handler as extern "C" fn(libc::c_int) as libc::sighandler_t)
}

extern "C" fn exit_handler(_signal: libc::c_int) {
    // SAFETY: `_exit` is async-signal-safe and does not return.
    unsafe { libc::_exit(0) }
}

/// Whether `signal` is ignored now.
pub fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut old = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null pointer asks for no change; `old` is valid for writing.
    let result = unsafe { libc::sigaction(signal.as_raw(), ptr::null(), old.as_mut_ptr()) };
    check(result)?;
    // SAFETY: the call succeeded, so the kernel's answer is in `old`.
    let old = unsafe { old.assume_init() };
    Ok(old.sa_sigaction == libc::SIG_IGN)
}

fn dispose(signal: Signal, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: all-zero is a valid `sigaction`: no flags, empty mask, SIG_DFL.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is initialised; its handler is SIG_DFL, SIG_IGN or
    // `exit_handler`, which has the signature for no SA_SIGINFO.
    check(unsafe { libc::sigaction(signal.as_raw(), &raw const action, ptr::null_mut()) })
}

/// Unblocks every signal: a mask inherited from the parent is no business of ours.
pub fn unblock_all() -> io::Result<()> {
    mask(libc::SIG_SETMASK, &signal_set(&[])).map(drop)
}

/// Blocks every signal that can be.
pub fn block_all() -> io::Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `set` is valid for writing.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: initialised by `sigfillset`.
    mask(libc::SIG_SETMASK, unsafe { set.assume_init_ref() })
}

/// Signals read from a descriptor instead of being delivered.
///
/// The descriptor becomes readable when one is pending. Must be added to an
/// epoll instance by the process that polls it, not before a fork.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks `signals` for this thread and opens a non-blocking descriptor for them.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let set = signal_set(signals);
        mask(libc::SIG_BLOCK, &set)?;
        // SAFETY: `set` is initialised and outlives the call.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        check(fd)?;
        // SAFETY: just opened, and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal, `None` if there is none.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        // `struct signalfd_siginfo` starts with the signal's number, 32 bits wide.
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match read(&self.0, &mut info) {
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(_) => {
                Ok(info.first_chunk().and_then(|number| Signal::from_named_raw(i32::from_ne_bytes(*number))))
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn signal_set(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `set` is valid for writing.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by `sigemptyset`.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: `set` is initialised, the number is a named signal's.
        unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
    }
    set
}

fn mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
