//! What a program does around the engine, on the worker's thread.

use passt_proto::time::Instant;

use crate::control::Control;

/// The program around a worker, which calls it between two events. Each call keeps the network
/// waiting.
pub trait External<L> {
    /// The descriptor watched as [`Token::External`](crate::core::Token::External) `number` is
    /// readable, or was [postponed](crate::core::Core::postpone); whether the loop is to end.
    fn ready(&mut self, number: u32, control: &mut Control<'_, L>) -> bool;

    /// The thread in the namespace has done something, perhaps what an
    /// [`Apply`](crate::forward::Apply) [waits](crate::forward::Progress::Waits) for.
    fn progressed(&mut self, _: &mut Control<'_, L>) {}

    /// When [`External::tick`] has something to do.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Does what is due at [`Core::now`](crate::core::Core::now).
    fn tick(&mut self, _: &mut Control<'_, L>) {}
}

impl<L, F: FnMut(u32, &mut Control<'_, L>) -> bool> External<L> for F {
    fn ready(&mut self, number: u32, control: &mut Control<'_, L>) -> bool {
        self(number, control)
    }
}
