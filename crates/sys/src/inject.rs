//! Faults in place of the kernel's, for tests: what sockets take is decided by a script.
//!
//! A real kernel takes less than it was given, or fails, when it likes. Tests need that at every
//! place. The script is the calling thread's own. Programs are built without this module.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel decides.
    Pass,
    /// It is given no more than so many bytes, or messages; at least one.
    AtMost(usize),
    /// It fails with this error number.
    Fail(i32),
}

/// What has a socket listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listening {
    /// It gets an address and a port (bind(2)).
    Bind,
    /// It takes connections (listen(2)).
    Listen,
    /// The loop is told of what comes in (`epoll_ctl(2)`).
    Watch,
}

/// A script.
pub trait Faults {
    /// `len` bytes are to be sent on a stream socket.
    fn stream(&mut self, _fd: BorrowedFd<'_>, _len: usize) -> Fate {
        Fate::Pass
    }

    /// A stream socket is read, which may find nothing though there is something, as at a mark of
    /// urgent data while a signal is pending, or less than there is.
    fn receive(&mut self, _fd: BorrowedFd<'_>) -> Fate {
        Fate::Pass
    }

    /// So many bytes were sent on a stream socket.
    fn sent(&mut self, _fd: BorrowedFd<'_>, _len: usize) {}

    /// Messages are to be sent on a datagram socket, the first of which is to be `cut` by the
    /// kernel.
    fn datagrams(&mut self, _fd: BorrowedFd<'_>, _messages: usize, _cut: bool) -> Fate {
        Fate::Pass
    }

    /// A socket is to listen.
    fn listening(&mut self, _call: Listening) -> Fate {
        Fate::Pass
    }
}

thread_local! {
    static SCRIPT: RefCell<Option<Box<dyn Faults>>> = const { RefCell::new(None) };
}

/// Has this thread's calls decided by a script from now on; none ends that.
pub fn install(script: Option<Box<dyn Faults>>) {
    SCRIPT.with(|own| *own.borrow_mut() = script);
}

/// Asks the script about a socket that is to listen: an error is in place of the kernel's.
pub fn listening(call: Listening) -> io::Result<()> {
    match ask(|script| script.listening(call)) {
        Fate::Pass | Fate::AtMost(_) => Ok(()),
        Fate::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Asks the script; without one the kernel decides.
pub(crate) fn ask(question: impl FnOnce(&mut dyn Faults) -> Fate) -> Fate {
    SCRIPT.with(|own| match own.borrow_mut().as_mut() {
        Some(script) => question(script.as_mut()),
        None => Fate::Pass,
    })
}

/// Tells the script.
pub(crate) fn tell(news: impl FnOnce(&mut dyn Faults)) {
    SCRIPT.with(|own| {
        if let Some(script) = own.borrow_mut().as_mut() {
            news(script.as_mut());
        }
    });
}
