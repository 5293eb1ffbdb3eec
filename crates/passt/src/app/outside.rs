//! What the process does on the worker's thread beside the engine: statistics, the log's account,
//! and what becomes readable outside.

use passt_engine::control::Control;
use passt_engine::link::Link;
use passt_engine::worker::External;
use passt_proto::time::Instant;

use crate::log;
use crate::stats::Stats;

/// The engine's surroundings; `ready` is told the number of a descriptor that is readable, and says
/// whether the loop is to end.
pub(super) struct Outside<'a, F> {
    pub(super) stats: Option<&'a mut Stats>,
    pub(super) ready: F,
}

impl<L: Link, F: FnMut(u32, &mut Control<'_, L>) -> bool> External<L> for Outside<'_, F> {
    fn ready(&mut self, number: u32, control: &mut Control<'_, L>) -> bool {
        (self.ready)(number, control)
    }

    fn due(&self) -> Option<Instant> {
        let stats = self.stats.as_ref().map(|stats| stats.due());
        [stats, log::due()].into_iter().flatten().min()
    }

    fn tick(&mut self, control: &mut Control<'_, L>) {
        let engine = &mut *control.engine;
        log::account(engine.ctx.core.now);
        if let Some(stats) = &mut self.stats {
            stats.report(&engine.ctx, engine.flows.count());
        }
    }
}
