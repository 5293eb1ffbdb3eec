//! Forwarding rules: planned, applied, and then committed or rolled back.
//!
//! A plan says which rules can't be, and changes nothing. Applying it opens sockets beside those
//! that are there, which stay as they are. A commit swaps them in; dropping what was applied rolls
//! it back. Who commits sees at once what became of it: sockets of rules that are gone are closed
//! by then.

use std::collections::BTreeSet;

use super::Control;
use crate::forward::{Applied, Apply, Change, Entry, Plan, Progress};
use crate::link::Link;
use crate::process::Uncommitted;

/// What a commit has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Listening sockets closed.
    pub closed: usize,
    /// Flows of datagrams ended that used one of them.
    pub ended: usize,
}

impl<L: Link> Control<'_, L> {
    /// The rules that are in effect, in the order in which they were added, each with how many
    /// sockets listen for it.
    pub fn rules(&self) -> impl Iterator<Item = (&Entry, usize)> {
        let forward = &self.process.forward;
        let sockets = forward.sockets_by_rule();
        let count = move |id| sockets.get(&id).copied().unwrap_or_default();
        forward.rules().iter().map(move |(id, entry)| (entry, count(id)))
    }

    /// What changes amount to, one after the other.
    pub fn plan(&self, changes: impl IntoIterator<Item = Change>) -> Plan {
        self.process.forward.plan(changes)
    }

    /// Begins to open the sockets that a plan needs. The last descriptors are not for ports.
    pub fn apply(&self, plan: Plan) -> Apply {
        self.process.apply(&self.engine.ctx, plan)
    }

    /// Opens some more of them on either side, without waiting.
    pub fn step(&self, apply: &mut Apply) -> Progress {
        self.process.step(apply)
    }

    /// Puts what was applied into effect, but for rules [refused](Applied::refused). Sockets of
    /// rules that stay are not touched. Those of rules that are gone are closed: connections
    /// accepted from them go on, flows of datagrams through them end. Rules that follow services
    /// get their sockets in the next rounds of the loop. On an error everything is as it was, and
    /// what was opened is closed.
    pub fn commit(&mut self, applied: Applied) -> Result<Committed, Uncommitted> {
        let closed: BTreeSet<u32> = self.process.commit(&mut self.engine.ctx, applied)?.into_iter().collect();
        let ended = self.engine.end_through(&closed);
        Ok(Committed { closed: closed.len(), ended })
    }
}
