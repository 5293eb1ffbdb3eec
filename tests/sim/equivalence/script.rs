//! What the host's kernel is made to do: to take little, and then nothing, until it is released.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use passt_sys::inject::{self, Fate, Faults};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Shared by a world, and the calls of its thread.
#[derive(Clone, Default)]
pub(crate) struct Script(Rc<RefCell<State>>);

#[derive(Default)]
pub(crate) struct State {
    /// Bytes that one call takes at most; the socket is full behind it. Zero for what the kernel
    /// likes.
    pub(crate) most: usize,
    /// Sockets that take nothing.
    pub(crate) full: HashSet<RawFd>,
    /// What each socket took.
    pub(crate) taken: HashMap<RawFd, u64>,
    /// What becomes of the next calls that send datagrams, in turn.
    pub(crate) datagrams: Vec<Fate>,
    next: usize,
    /// The kernel refuses to cut messages with this error.
    pub(crate) refuses_cuts: Option<i32>,
    /// Whether the last call had a message to be cut.
    pub(crate) cut: bool,
    /// Calls that took less than all.
    pub(crate) short: u64,
    /// There may be urgent data: where there is, signals meet reads.
    pub(crate) urgent: bool,
    reads: usize,
}

impl Script {
    /// A script that decides this thread's calls from now on.
    pub(crate) fn install() -> Self {
        let script = Self::default();
        inject::install(Some(Box::new(script.clone())));
        script
    }

    /// Looks at it, or changes it.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.borrow_mut())
    }
}

impl Faults for Script {
    fn stream(&mut self, fd: BorrowedFd<'_>, len: usize) -> Fate {
        self.with(|state| {
            if state.full.contains(&fd.as_raw_fd()) {
                return Fate::Fail(rustix::io::Errno::AGAIN.raw_os_error());
            }
            if state.most == 0 || len <= state.most || rustix::net::sockopt::socket_type(fd).is_err() {
                return Fate::Pass;
            }
            state.short += 1;
            state.full.insert(fd.as_raw_fd());
            Fate::AtMost(state.most)
        })
    }

    /// Where there is urgent data signals meet reads, and behind the last byte of a stream reads
    /// are cut short, as before urgent data that was read already.
    fn receive(&mut self, fd: BorrowedFd<'_>) -> Fate {
        if !self.with(|state| state.urgent) {
            return Fate::Pass;
        }
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::PRI | PollFlags::RDHUP)];
        let _ = poll(&mut fds, Some(&Timespec::default()));
        let found = fds[0].revents();
        self.with(|state| {
            state.reads += 1;
            if found.contains(PollFlags::PRI) && state.reads % 3 != 0 {
                return Fate::Fail(rustix::io::Errno::AGAIN.raw_os_error());
            }
            if found.contains(PollFlags::RDHUP) && state.reads % 4 == 0 {
                return Fate::AtMost(state.reads % 100 + 1);
            }
            Fate::Pass
        })
    }

    fn sent(&mut self, fd: BorrowedFd<'_>, len: usize) {
        self.with(|state| *state.taken.entry(fd.as_raw_fd()).or_default() += len as u64);
    }

    fn datagrams(&mut self, _: BorrowedFd<'_>, _: usize, cut: bool) -> Fate {
        self.with(|state| {
            state.cut = cut;
            if let Some(errno) = state.refuses_cuts.filter(|_| cut) {
                return Fate::Fail(errno);
            }
            let Some(fate) = state.datagrams.get(state.next % state.datagrams.len().max(1)).copied() else {
                return Fate::Pass;
            };
            state.next += 1;
            state.short += u64::from(fate != Fate::Pass);
            fate
        })
    }
}
