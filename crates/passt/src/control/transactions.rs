//! Changes of the rules, one transaction after the other.
//!
//! Each is planned when its turn comes, for the rules as they are then; its sockets are opened; and
//! it takes effect as a whole. All of that is done a part in each round.
//!
//! A client of the C program's protocol sends whole tables. What it means by them is how they differ
//! from what it was shown: so two of them at the same time change what each meant to, as they do where
//! the server has one client at a time.

use std::collections::{BTreeSet, VecDeque};
use std::mem::take;
use std::ops::ControlFlow;

use passt_control::reply::{Answer, Changed, Code, Failure, Outcome, Refused};
use passt_control::{Rule, request};
use passt_engine::control::{Committed, Control};
use passt_engine::forward::{self, Apply, Change, Entry, Extent, Plan, Progress, Reason, Refusal, RuleId};
use passt_engine::link::Link;
use passt_engine::process::Uncommitted;
use passt_proto::time::Duration;
use passt_sys::alloc;

use super::convert::{self, Terms};

/// Refusals that are told with their reasons.
const REASONS: usize = 256;
/// Transactions that wait at most.
const WAITING: usize = 256;
/// How often a transaction is planned anew because others were faster: services come and go.
const ATTEMPTS: usize = 5;
/// Memory for a change at most, on its way.
pub(super) const CHANGE_MEMORY: usize = 512;

/// Memory for a rule of the table at most, which is copied.
const RULE_MEMORY: usize = 256;
/// Outcomes that are told: with the reasons they fit an answer.
const OUTCOMES: usize = 4096;
/// How long changes are planned in a round.
const SLICE: Duration = Duration::from_millis(1);

impl Done {
    /// Whether all that was asked for was done, and was not so before.
    pub(super) fn is_whole(&self) -> bool {
        let is_new = |(outcome, _): &(Outcome, usize)| matches!(outcome, Outcome::Added | Outcome::Deleted);
        match &self.answer {
            Ok(Answer::Changed(changed)) => changed.committed && changed.outcomes.iter().all(is_new),
            _ => false,
        }
    }
}

/// Whose transaction it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The client's number.
    pub(super) serial: u64,
}

/// Transactions that wait, and the one that is under way.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    queue: VecDeque<Transaction>,
    current: Option<Current>,
}

/// A transaction.
#[derive(Debug)]
struct Transaction {
    owner: Owner,
    /// The request's number; `None` if nobody waits for an answer.
    id: Option<u64>,
    changes: Vec<request::Change>,
    /// Rules that can't be had are left out.
    partial: bool,
}

/// The transaction that is under way.
#[derive(Debug)]
struct Current {
    work: Work,
    stage: Stage,
}

/// What is known of it so far.
#[derive(Debug)]
struct Work {
    transaction: Transaction,
    /// How often it may be planned anew.
    attempts: usize,
    /// What each of its changes amounts to, as far as they are planned.
    steps: Vec<Step>,
    /// Those of them that can't be rules.
    refused: Vec<Refused>,
}

/// How far it is.
#[derive(Debug)]
enum Stage {
    Planning(Planning),
    Opening(Opening),
    Settling(Settling),
}

/// Its changes are looked at, one after the other.
#[derive(Debug)]
struct Planning {
    plan: Plan,
    /// It knows of all rules that there are.
    is_prepared: bool,
    /// Rules that are to be taken out before the next change.
    doomed: Vec<RuleId>,
}

/// Its sockets are opened.
#[derive(Debug)]
struct Opening {
    apply: Apply,
    /// Rules that are to come and to go.
    size: (usize, usize),
    /// The thread in the namespace is at work.
    waits: bool,
}

/// It takes effect, or its sockets are closed again.
#[derive(Debug)]
struct Settling {
    /// What became of it, if nothing more comes in between.
    changed: Changed,
    /// New rules that can't be had.
    lacking: BTreeSet<RuleId>,
    /// Rules that are to come and to go.
    size: (usize, usize),
}

/// A transaction goes on, or is over.
type Fate = ControlFlow<Done, Current>;

/// What a change of a client amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing that can be.
    Invalid,
    /// One change of the engine's rules.
    One(forward::Outcome),
    /// Any number of them.
    Cleared,
}

/// A transaction that is over.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) owner: Owner,
    pub(super) id: Option<u64>,
    pub(super) answer: Result<Answer, Failure>,
    /// Rules that are new.
    pub(super) added: usize,
    /// Rules that are gone.
    pub(super) deleted: usize,
}

impl Transactions {
    /// Adds a transaction whose client is told what became of it.
    pub(super) fn change(&mut self, owner: Owner, id: u64, changes: Vec<request::Change>, partial: bool) {
        self.queue.push_back(Transaction { owner, id: Some(id), changes, partial });
    }

    /// Adds one that makes of the rules `shown` those that are `wanted`, as far as they can be had.
    pub(super) fn replace(&mut self, owner: Owner, mut shown: Vec<Rule>, mut wanted: Vec<Rule>) {
        shown.sort_unstable();
        wanted.sort_unstable();
        let deleted = shown.iter().filter(|rule| wanted.binary_search(rule).is_err());
        let added = wanted.iter().filter(|rule| shown.binary_search(rule).is_err());
        let changes = deleted.cloned().map(request::Change::Delete);
        let changes = changes.chain(added.cloned().map(request::Change::Add)).collect();
        self.queue.push_back(Transaction { owner, id: None, changes, partial: true });
    }

    /// Whether no more can wait: their clients may be gone by now.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= WAITING
    }

    /// Whether there is something that can be done now.
    pub(super) fn has_more(&self) -> bool {
        match &self.current {
            None => !self.queue.is_empty(),
            Some(Current { stage: Stage::Opening(opening), .. }) => !opening.waits,
            Some(_) => true,
        }
    }

    /// Whether something waits for the thread in the namespace, which has done something.
    pub(super) fn wait_for_namespace(&mut self) -> bool {
        match &mut self.current {
            Some(Current { stage: Stage::Opening(opening), .. }) => take(&mut opening.waits),
            _ => false,
        }
    }

    /// Does a part of what is to be done; a transaction that is over.
    pub(super) fn go_on<L: Link>(&mut self, control: &mut Control<'_, L>, terms: &Terms) -> Option<Done> {
        let fate = match self.current.take() {
            None => Planning::begin(self.queue.pop_front()?, ATTEMPTS, control),
            Some(Current { work, stage }) => match stage {
                Stage::Planning(planning) => planning.go_on(work, control, terms),
                Stage::Opening(opening) => opening.go_on(work, control),
                Stage::Settling(settling) => settling.go_on(work, control),
            },
        };
        match fate {
            ControlFlow::Continue(current) => {
                self.current = Some(current);
                None
            }
            ControlFlow::Break(done) => Some(done),
        }
    }
}

impl Planning {
    /// Begins to plan a transaction.
    fn begin<L: Link>(transaction: Transaction, attempts: usize, control: &Control<'_, L>) -> Fate {
        let memory = transaction.changes.len() * CHANGE_MEMORY + control.rule_count() * RULE_MEMORY;
        if !alloc::has_room_for(memory) {
            return ControlFlow::Break(transaction.fail(Code::Busy, "Too little memory for so many rules"));
        }
        let steps = Vec::with_capacity(transaction.changes.len());
        let work = Work { transaction, attempts, steps, refused: Vec::new() };
        let planning = Self { plan: control.begin_plan(), is_prepared: false, doomed: Vec::new() };
        ControlFlow::Continue(Current { work, stage: Stage::Planning(planning) })
    }

    /// Plans some more changes for the rules as they are.
    fn go_on<L: Link>(mut self, mut work: Work, control: &Control<'_, L>, terms: &Terms) -> Fate {
        if !self.is_prepared {
            self.is_prepared = control.prepare(&mut self.plan);
            return ControlFlow::Continue(Current { work, stage: Stage::Planning(self) });
        }
        let end = passt_engine::clock() + SLICE;
        loop {
            if let Some(id) = self.doomed.pop() {
                self.plan.delete(id);
            } else if work.steps.len() < work.transaction.changes.len() {
                let step = self.step(&mut work, control, terms);
                work.steps.push(step);
            } else {
                return self.finish(work, control);
            }
            if passt_engine::clock() >= end {
                return ControlFlow::Continue(Current { work, stage: Stage::Planning(self) });
            }
        }
    }

    /// Plans the next change.
    fn step<L: Link>(&mut self, work: &mut Work, control: &Control<'_, L>, terms: &Terms) -> Step {
        let Work { transaction: Transaction { changes, .. }, steps, refused, .. } = work;
        let Some(change) = changes.get(steps.len()) else { return Step::Invalid };
        let (rule, make): (_, fn(Entry) -> Change) = match change {
            request::Change::Add(rule) => (rule, Change::Add),
            request::Change::Delete(rule) => (rule, Change::Delete),
            request::Change::Clear(which) => {
                let meant = self.plan.rules().filter(|(_, entry)| convert::is_meant(*which, entry));
                self.doomed.extend(meant.map(|(id, _)| id));
                return Step::Cleared;
            }
        };
        match terms.entry(rule) {
            Ok(entry) => Step::One(control.extend(&mut self.plan, make(entry))),
            Err(reason) => {
                if refused.len() < REASONS {
                    refused.push(convert::invalid(rule, reason));
                }
                Step::Invalid
            }
        }
    }

    /// Begins to open sockets, if there is something to be done that can be done.
    fn finish<L: Link>(self, work: Work, control: &Control<'_, L>) -> Fate {
        let Self { plan, .. } = self;
        let has_refused = !plan.refused().is_empty() || work.steps.contains(&Step::Invalid);
        let is_partial = work.transaction.partial;
        if has_refused && !is_partial || plan.is_empty() {
            let changed = Changed {
                // That there is nothing to do is as good as done.
                committed: !has_refused || is_partial,
                ..work.changed(plan.refused(), &BTreeSet::new())
            };
            return ControlFlow::Break(work.transaction.done(changed));
        }
        let size = (plan.added_count(), plan.deleted());
        let stage = Stage::Opening(Opening { apply: control.apply(plan), size, waits: false });
        ControlFlow::Continue(Current { work, stage })
    }
}

impl Opening {
    /// Opens some more sockets.
    fn go_on<L: Link>(mut self, work: Work, control: &mut Control<'_, L>) -> Fate {
        match control.step(&mut self.apply) {
            Progress::More => {}
            Progress::Waits => self.waits = true,
            Progress::Done => return ControlFlow::Continue(self.finish(work, control)),
        }
        ControlFlow::Continue(Current { work, stage: Stage::Opening(self) })
    }

    /// Has a transaction take effect whose sockets are open, if it can.
    fn finish<L: Link>(self, work: Work, control: &mut Control<'_, L>) -> Current {
        let Self { apply, size: (added, deleted), .. } = self;
        let applied = apply.finish();
        let mut lacking = BTreeSet::new();
        lacking.extend(whole(applied.refused()));
        let is_whole = !work.transaction.partial;
        let committed = !(is_whole && applied.lacks_rules());
        let changed = Changed { committed, ..work.changed(applied.refused(), &lacking) };
        if committed {
            control.begin_commit(applied, is_whole);
        } else {
            control.begin_roll_back(applied);
        }
        Current { work, stage: Stage::Settling(Settling { changed, lacking, size: (added, deleted) }) }
    }
}

impl Settling {
    /// Changes some more sockets.
    fn go_on<L: Link>(mut self, work: Work, control: &mut Control<'_, L>) -> Fate {
        let Some(result) = control.settle() else {
            return ControlFlow::Continue(Current { work, stage: Stage::Settling(self) });
        };
        match result {
            Ok(_) if !self.changed.committed => ControlFlow::Break(work.transaction.done(self.changed)),
            Ok(committed) => ControlFlow::Break(self.took_effect(work, committed)),
            Err(Uncommitted::Stale(_)) if work.attempts > 0 => work.plan_again(control),
            Err(Uncommitted::Port(refusal)) => {
                self.changed.committed = false;
                self.leave_out(&work, &[*refusal]);
                ControlFlow::Break(work.transaction.done(self.changed))
            }
            Err(error @ (Uncommitted::Stale(_) | Uncommitted::Memory)) => {
                ControlFlow::Break(work.transaction.fail(Code::Busy, &error.to_string()))
            }
            Err(error @ Uncommitted::Watch(_)) => {
                ControlFlow::Break(work.transaction.fail(Code::Refused, &error.to_string()))
            }
        }
    }

    fn took_effect(mut self, work: Work, committed: Committed) -> Done {
        let Committed { closed, ended, left_out } = committed;
        (self.changed.closed, self.changed.ended) = (closed, ended);
        self.leave_out(&work, &left_out);
        let (added, deleted) = self.size;
        let added = added.saturating_sub(self.lacking.len());
        Done { added, deleted, ..work.transaction.done(self.changed) }
    }

    /// These were not to be had once their ports were free.
    fn leave_out(&mut self, work: &Work, refused: &[Refusal]) {
        if refused.is_empty() {
            return;
        }
        self.lacking.extend(whole(refused));
        self.changed.outcomes = outcomes(&work.steps, &self.lacking);
        self.changed.refused.extend(refused.iter().take(REASONS).map(convert::refused));
    }
}

impl Work {
    fn plan_again<L: Link>(self, control: &Control<'_, L>) -> Fate {
        Planning::begin(self.transaction, self.attempts - 1, control)
    }

    /// What the client is told, where these can't be had, of which the rules `lacking` not at all.
    fn changed(&self, refused: &[Refusal], lacking: &BTreeSet<RuleId>) -> Changed {
        let invalid = self.refused.iter().cloned();
        Changed {
            outcomes: outcomes(&self.steps, lacking),
            refused: invalid.chain(refused.iter().take(REASONS).map(convert::refused)).collect(),
            ..Changed::default()
        }
    }
}

impl Transaction {
    /// What became of it, but for how many rules came and went.
    fn done(self, mut changed: Changed) -> Done {
        let Self { owner, id, .. } = self;
        if id.is_none() {
            for refused in &changed.refused {
                log::warn!("{}", refused.reason);
            }
        }
        changed.refused.truncate(REASONS);
        changed.cut = changed.outcomes.len() > OUTCOMES;
        changed.outcomes.truncate(OUTCOMES);
        Done { owner, id, answer: Ok(Answer::Changed(changed)), added: 0, deleted: 0 }
    }

    fn fail(self, code: Code, reason: &str) -> Done {
        let Self { owner, id, .. } = self;
        if id.is_none() {
            log::warn!("Error switching to new forwarding rules: {reason}");
        }
        Done { owner, id, answer: Err(Failure::new(code, reason)), added: 0, deleted: 0 }
    }
}

/// Of what is refused, rules that are not there at all.
fn whole(refused: &[Refusal]) -> impl Iterator<Item = RuleId> {
    refused.iter().filter(|refusal| refusal.extent == Extent::Whole).filter_map(|refusal| refusal.id)
}

/// What became of each change, where the rules `lacking` could not be had.
fn outcomes(steps: &[Step], lacking: &BTreeSet<RuleId>) -> Vec<(Outcome, usize)> {
    let mut changed = Changed::default();
    for step in steps {
        changed.note(match step {
            Step::Invalid | Step::One(forward::Outcome::Refused) => Outcome::Refused,
            Step::One(forward::Outcome::Added(id)) if lacking.contains(id) => Outcome::Refused,
            Step::One(forward::Outcome::Added(_)) => Outcome::Added,
            Step::One(forward::Outcome::Present) => Outcome::Present,
            Step::One(forward::Outcome::Deleted) => Outcome::Deleted,
            Step::One(forward::Outcome::Absent) => Outcome::Absent,
            Step::Cleared => Outcome::Cleared,
        });
    }
    changed.outcomes
}

/// The line that tells of a refusal, and what the kernel said.
pub(super) fn reason(refusal: &Refusal) -> (String, Option<u16>, Option<i32>) {
    let text = refusal.to_string();
    match &refusal.reason {
        Reason::Port { port, error } => (text, Some(*port), error.raw_os_error()),
        _ => (text, None, None),
    }
}
