//! What the process does on the worker's thread beside the engine: statistics, the log's account, and what
//! becomes readable outside.

use passt_engine::forward::Context;
use passt_engine::link::Link;
use passt_engine::worker::External;
use passt_proto::time::Instant;

use crate::log;
use crate::stats::Stats;

/// The engine's surroundings; `ready` is told the number of a descriptor that is readable, and says whether
/// the loop is to end.
pub(super) struct Outside<'a, F> {
    pub(super) stats: Option<&'a mut Stats>,
    pub(super) ready: F,
}

impl<L: Link, F: FnMut(u32, &mut Context<L>) -> bool> External<L> for Outside<'_, F> {
    fn ready(&mut self, number: u32, ctx: &mut Context<L>) -> bool {
        (self.ready)(number, ctx)
    }

    fn due(&self) -> Option<Instant> {
        let stats = self.stats.as_ref().map(|stats| stats.due());
        [stats, log::due()].into_iter().flatten().min()
    }

    fn tick(&mut self, ctx: &mut Context<L>, flows: usize) {
        log::account(ctx.core.now);
        if let Some(stats) = &mut self.stats {
            stats.report(ctx, flows);
        }
    }
}
