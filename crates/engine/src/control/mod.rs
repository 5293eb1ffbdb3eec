//! Floor `control`: what can be asked and changed while a worker runs, as plain data. How it is
//! asked for is elsewhere.
//!
//! Everything here is done between two events of the loop, and nothing waits. What
//! may take longer is done a part at a time by whoever asks.

mod figures;
mod flows;
mod rules;

use passt_sys::seccomp::{Call, Sysno};

use crate::dispatch::Engine;
use crate::link::Link;
use crate::process::Process;

pub use self::figures::{Level, Listening, Occupancy};
pub use self::flows::{Cursor, MAX_CARRIED, MAX_PAGE, NoFlow, Page};
pub use self::rules::Committed;

/// System calls made here once the process runs, beside those of
/// [`forward`](crate::forward::CALLS).
pub const CALLS: &[Call] = &[
    // `F_DUPFD_CLOEXEC` (`include/uapi/linux/fcntl.h`): shows which descriptor is free.
    Call::only(Sysno::fcntl, &[&[(1, 1030)]]),
    Call::any(Sysno::getpeername),
    Call::any(Sysno::getsockname),
];

impl<L: Link> Control<'_, L> {
    /// Has the guest told what it is told by router advertisements, now rather than when the next is
    /// due.
    pub fn advertise(&mut self) {
        self.process.greet(self.engine.ctx.core.now);
    }
}

/// An engine under control, and what it has in common with others.
pub struct Control<'a, L> {
    /// Flows, and what they work with.
    pub engine: &'a mut Engine<L>,
    /// Forwarding rules.
    pub process: &'a mut Process,
}
