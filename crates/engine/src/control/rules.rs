//! Forwarding rules: planned, applied, and then committed or rolled back.
//!
//! A plan says which rules can't be, and changes nothing. Applying it opens sockets beside those
//! that are there, which stay as they are. A commit swaps them in; dropping what was applied rolls
//! it back. All of this can be done a part at a time. Who commits sees what became of it: sockets of
//! rules that are gone are closed by then.

use super::Control;
use crate::forward::{Applied, Apply, Change, Entry, Outcome, Plan, Progress, Refusal};
use crate::link::Link;
use crate::process::{Settled, Uncommitted};

/// What a commit has ended, and left out.
#[derive(Debug, Default)]
pub struct Committed {
    /// Listening sockets closed.
    pub closed: usize,
    /// Flows of datagrams ended that still used one of them.
    pub ended: usize,
    /// What was not to be had once it was free: ports that rules need not have, and rules if they can
    /// be left out.
    pub left_out: Vec<Refusal>,
}

impl<L: Link> Control<'_, L> {
    /// The rules that are in effect, in the order in which they were added, each with how many
    /// sockets listen for it.
    pub fn rules(&self) -> impl Iterator<Item = (&Entry, usize)> {
        let forward = &self.process.forward;
        forward.rules().iter().map(|(id, entry)| (entry, forward.sockets_of(id)))
    }

    /// How many there are.
    pub fn rule_count(&self) -> usize {
        self.process.forward.rules().len()
    }

    /// What changes amount to, one after the other.
    pub fn plan(&self, changes: impl IntoIterator<Item = Change>) -> Plan {
        self.process.forward.plan(changes)
    }

    /// A plan that changes nothing yet. It is complete once it was [prepared](Control::prepare).
    pub fn begin_plan(&self) -> Plan {
        self.process.forward.rules().begin_plan()
    }

    /// Has a plan know of some more of the rules that there are; whether it knows of all.
    pub fn prepare(&self, plan: &mut Plan) -> bool {
        plan.prepare(self.process.forward.rules())
    }

    /// Adds a change to a complete plan; what it amounts to.
    pub fn extend(&self, plan: &mut Plan, change: Change) -> Outcome {
        self.process.forward.extend(plan, change)
    }

    /// Begins to open the sockets that a plan needs. The last descriptors are not for ports.
    pub fn apply(&self, plan: Plan) -> Apply {
        self.process.apply(&self.engine.ctx, plan)
    }

    /// Opens some more of them on either side, without waiting.
    pub fn step(&self, apply: &mut Apply) -> Progress {
        self.process.step(apply)
    }

    /// Puts what was applied into effect, but for rules [refused](Applied::refused), all at once.
    /// Sockets of rules that stay are not touched. Those of rules that are gone are closed:
    /// connections accepted from them go on, flows of datagrams through them end. Rules that follow
    /// services get their sockets in the next rounds of the loop. On an error everything is as it
    /// was, and what was opened is closed.
    pub fn commit(&mut self, applied: Applied) -> Result<Committed, Uncommitted> {
        self.begin_commit(applied, true);
        self.settled()
    }

    /// Begins what [`Control::commit`] does, of which each [`Control::settle`] then does a part. If it
    /// is not to be the `whole`, rules are left out whose ports are not to be had once they are free.
    pub fn begin_commit(&mut self, applied: Applied, whole: bool) {
        let _ = self.settled();
        self.process.begin_commit(applied, whole);
    }

    /// Begins to close what was opened, of which each [`Control::settle`] then does a part. What is
    /// dropped is closed all at once.
    pub fn begin_roll_back(&mut self, applied: Applied) {
        let _ = self.settled();
        self.process.begin_roll_back(applied);
    }

    /// Does a part of what was begun; at the end, what became of it. Sockets do not follow services
    /// before.
    pub fn settle(&mut self) -> Option<Result<Committed, Uncommitted>> {
        let Settled { result, closed, left_out } = self.process.settle(&mut self.engine.ctx)?;
        let ended = self.engine.end_through(&closed);
        Some(result.map(|()| Committed { closed: closed.len(), ended, left_out }))
    }

    fn settled(&mut self) -> Result<Committed, Uncommitted> {
        loop {
            if let Some(result) = self.settle() {
                return result;
            }
        }
    }
}
