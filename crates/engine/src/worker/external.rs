//! What a program does around the engine, on the worker's thread.

use passt_proto::time::Instant;

use crate::dispatch::Engine;

/// The program around a worker, which calls it between two events. Each call keeps the network
/// waiting. With the engine comes all that [`Control`](crate::control::Control) can do.
pub trait External<L> {
    /// The descriptor watched as [`Token::External`](crate::core::Token::External) `number` is readable, or was
    /// [postponed](crate::core::Core::postpone); whether the loop is to end.
    fn ready(&mut self, number: u32, engine: &mut Engine<L>) -> bool;

    /// When [`External::tick`] has something to do.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Does what is due at [`Core::now`](crate::core::Core::now).
    fn tick(&mut self, _: &mut Engine<L>) {}
}

impl<L, F: FnMut(u32, &mut Engine<L>) -> bool> External<L> for F {
    fn ready(&mut self, number: u32, engine: &mut Engine<L>) -> bool {
        self(number, engine)
    }
}
