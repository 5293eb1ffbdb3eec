//! What a process inherits, and what it makes of it first of all.

use std::io;
use std::os::fd::RawFd;

use passt_sys::{fd, process, signal};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, Signal, setrlimit, umask};

/// What the process that started us had set, for a command that we start in turn.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    umask: Mode,
    nofile: Rlimit,
    /// SIGINT was ignored, as for a job that a script put into the background.
    pub ignores_interrupt: bool,
}

impl Inherited {
    /// Gives back what [`limits`] changed, and leaves no signal blocked.
    pub(super) fn restore(&self) -> io::Result<()> {
        signal::unblock_all()?;
        umask(self.umask);
        setrlimit(Resource::Nofile, self.nofile)?;
        Ok(())
    }
}

/// The very first step: standard descriptors are open, signals do what they should.
/// SIGTERM and SIGQUIT end the process with status 0 from here on.
pub fn signals() -> io::Result<()> {
    fd::ensure_standard()?;
    signal::ignore(Signal::PIPE)?;
    // Ignored, it would take the exit status of a command away from us.
    signal::set_default(Signal::CHILD)?;
    signal::exit_on(Signal::TERM)?;
    signal::exit_on(Signal::QUIT)?;
    signal::unblock_all()
}

/// Closes descriptors that leaked to us, `keep` aside, raises the limit of open ones, and keeps files
/// that we make to their owner.
pub fn limits(keep: Option<RawFd>) -> io::Result<Inherited> {
    fd::close_leaked(keep)?;
    Ok(Inherited {
        umask: umask(Mode::RWXG | Mode::RWXO),
        nofile: process::raise_nofile()?,
        ignores_interrupt: signal::is_ignored(Signal::INT)?,
    })
}
