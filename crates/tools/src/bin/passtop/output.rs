//! The terminal as it is written to: it may take nothing for any time, as one whose other end nobody
//! reads. A signal that ends the program does so then, too.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use passt_sys::signal::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, write};
use rustix::process::Signal;

/// Signals that end the program, or tell of another size.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    descriptor: Rc<SignalFd>,
    /// One has come that ends it.
    ended: Rc<Cell<bool>>,
}

impl Signals {
    /// Blocks them, in all threads that begin later, too. One that would stop the program is left
    /// out: the terminal would stay as it is meanwhile.
    pub(crate) fn new() -> io::Result<Self> {
        let all = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::WINCH, Signal::TSTP];
        Ok(Self { descriptor: Rc::new(SignalFd::new(&all)?), ended: Rc::default() })
    }

    /// Takes the next one, if there is one.
    pub(crate) fn take(&self) -> io::Result<()> {
        let next = self.descriptor.next()?;
        if next.is_some_and(|signal| ![Signal::WINCH, Signal::TSTP].contains(&signal)) {
            self.ended.set(true);
        }
        Ok(())
    }

    /// Whether one has ended the program.
    pub(crate) fn have_ended(&self) -> bool {
        self.ended.get()
    }

    /// To be waited for.
    pub(crate) fn fd(&self) -> &SignalFd {
        &self.descriptor
    }
}

/// Standard output, which is a terminal.
#[derive(Debug)]
pub(crate) struct Output {
    terminal: OwnedFd,
    signals: Signals,
}

impl Output {
    /// Opens it again, as writing must not wait here, but does for whoever else has it.
    pub(crate) fn new(signals: Signals) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = match open("/proc/self/fd/1", flags, Mode::empty()) {
            Ok(terminal) => terminal,
            // It may be another user's.
            Err(_) => io::stdout().as_fd().try_clone_to_owned()?,
        };
        Ok(Self { terminal, signals })
    }

    /// Waits until it takes more, or a signal ends that.
    fn wait(&self) -> io::Result<()> {
        let polled =
            [PollFd::new(&self.terminal, PollFlags::OUT), PollFd::new(self.signals.fd(), PollFlags::IN)];
        match poll(&mut { polled }, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.signals.take()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match write(&self.terminal, bytes) {
                Ok(length) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !self.signals.have_ended() => self.wait()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
