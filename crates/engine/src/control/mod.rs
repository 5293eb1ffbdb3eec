//! What can be asked and changed while a worker runs, as plain data: how it is asked for is elsewhere.
//!
//! Floor: control. Everything here is done between two events of the loop, and nothing waits. What may
//! take longer is done a part at a time by whoever asks.

mod rules;

use crate::dispatch::Engine;

pub use self::rules::{CALLS, Committed};

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
