//! What can be asked and changed while a worker runs, as plain data: how it is asked for is
//! elsewhere.
//!
//! Floor: control. Everything here is done between two events of the loop, and nothing waits. What
//! may take longer is done a part at a time by whoever asks.

mod figures;
mod flows;
mod rules;

use passt_sys::seccomp::{Call, Sysno};

use crate::dispatch::Engine;

pub use self::figures::{Level, Listening, Occupancy};
pub use self::flows::{Cursor, MAX_PAGE, NoFlow, Page};
pub use self::rules::Committed;

/// System calls made here once the process runs, beside those of
/// [`forward`](crate::forward::CALLS).
pub const CALLS: &[Call] = &[
    // `F_DUPFD_CLOEXEC` (`include/uapi/linux/fcntl.h`): a socket is handed over to another rule.
    Call::only(Sysno::fcntl, &[&[(1, 1030)]]),
    Call::any(Sysno::getpeername),
    Call::any(Sysno::getsockname),
];

/// A worker's engine under control.
pub struct Control<'a, L> {
    engine: &'a mut Engine<L>,
}

impl<'a, L> Control<'a, L> {
    /// Of this engine.
    pub fn new(engine: &'a mut Engine<L>) -> Self {
        Self { engine }
    }
}
