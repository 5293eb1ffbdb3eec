//! What a process inherits, and what it makes of it first of all.

use std::io;
use std::os::fd::RawFd;

use passt_sys::{fd, process, signal};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

/// What the process that started us had set, for a command that we start in turn.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    nofile: Rlimit,
    /// SIGINT was ignored, as for a job that a script put into the background.
    pub ignores_interrupt: bool,
}

impl Inherited {
    /// Gives back what [`limits`] and [`signals`] changed, and leaves no signal blocked.
    pub(super) fn restore(&self) -> io::Result<()> {
        signal::unblock_all()?;
        signal::set_default(Signal::XFSZ)?;
        setrlimit(Resource::Nofile, self.nofile)?;
        Ok(())
    }
}

/// Resources of which a process has to have so much, with unit and name in the shell. Open files:
/// the process's own, sockets of the namespace that are kept in stock, and some for its flows.
const NEEDED: [(Resource, u64, &str); 2] = [
    (Resource::Nofile, 64, "open files (ulimit -n)"),
    (Resource::Stack, 256 * 1024, "bytes of stack (ulimit -s)"),
];

/// A limit is too low.
#[derive(Debug, thiserror::Error)]
#[error("Not enough {what}: the limit is {limit}, at least {needed} are needed")]
pub struct TooLow {
    what: &'static str,
    limit: u64,
    needed: u64,
}

/// The very first step: standard descriptors are open, signals do what they should.
/// SIGTERM and SIGQUIT end the process with status 0 from here on.
pub fn signals() -> io::Result<()> {
    fd::ensure_standard()?;
    signal::ignore(Signal::PIPE)?;
    // A log or capture that may not grow (`ulimit -f`) is one that takes no more.
    signal::ignore(Signal::XFSZ)?;
    // Ignored, it would take the exit status of a command away from us.
    signal::set_default(Signal::CHILD)?;
    signal::exit_on(Signal::TERM)?;
    signal::exit_on(Signal::QUIT)?;
    signal::unblock_all()
}

/// Has signals that end the process do so as the kernel has it: the status says which one it was.
pub fn default_signals() -> io::Result<()> {
    signal::set_default(Signal::TERM)?;
    signal::set_default(Signal::QUIT)
}

/// Whether the limits allow what is needed at least; that of descriptors will be raised.
pub fn sufficient() -> Result<(), TooLow> {
    for (resource, needed, what) in NEEDED {
        let Rlimit { current, maximum } = getrlimit(resource);
        let limit = if resource == Resource::Nofile { maximum } else { current };
        if let Some(limit) = limit.filter(|&limit| limit < needed) {
            return Err(TooLow { what, limit, needed });
        }
    }
    Ok(())
}

/// Closes descriptors that leaked to us, `keep` aside, and raises the limit of open ones. The umask
/// stays: sockets are for whom it says, and `files` for their owner whatever it is.
pub fn limits(keep: &[RawFd]) -> io::Result<Inherited> {
    fd::close_leaked(keep)?;
    Ok(Inherited { nofile: process::raise_nofile()?, ignores_interrupt: signal::is_ignored(Signal::INT)? })
}
