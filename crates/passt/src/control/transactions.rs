//! Changes of the rules, one transaction after the other.
//!
//! Each is planned when its turn comes, for the rules as they are then; its sockets are opened a
//! part in each round; and it takes effect as a whole. A client of the C program's protocol sends
//! whole tables. What it means by them is how they differ from what it was shown: so two of them at
//! the same time change what each meant to, as they do where the server has one client at a time.

use std::collections::{BTreeSet, VecDeque};
use std::mem::take;

use passt_control::reply::{Answer, Changed, Code, Failure, Outcome, Refused};
use passt_control::{Rule, request};
use passt_engine::control::Control;
use passt_engine::forward::{self, Apply, Change, Entry, Extent, Plan, Progress, Reason, Refusal, RuleId};
use passt_engine::link::Link;
use passt_engine::process::Uncommitted;
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
    /// Those that turned out to be such when all was to take effect: which change each was.
    lost: Vec<(usize, Refused)>,
}

/// The transaction that is under way.
#[derive(Debug)]
struct Current {
    transaction: Transaction,
    /// What each of its changes amounts to.
    steps: Vec<Step>,
    apply: Apply,
    /// Rules that are to come and to go.
    size: (usize, usize),
    attempts: usize,
    /// The thread in the namespace is at work.
    waits: bool,
}

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
        self.queue.push_back(Transaction { owner, id: Some(id), changes, partial, lost: Vec::new() });
    }

    /// Adds one that makes of the rules `shown` those that are `wanted`, as far as they can be had.
    pub(super) fn replace(&mut self, owner: Owner, mut shown: Vec<Rule>, mut wanted: Vec<Rule>) {
        shown.sort_unstable();
        wanted.sort_unstable();
        let deleted = shown.iter().filter(|rule| wanted.binary_search(rule).is_err());
        let added = wanted.iter().filter(|rule| shown.binary_search(rule).is_err());
        let changes = deleted.cloned().map(request::Change::Delete);
        let changes = changes.chain(added.cloned().map(request::Change::Add)).collect();
        self.queue.push_back(Transaction { owner, id: None, changes, partial: true, lost: Vec::new() });
    }

    /// Whether no more can wait: their clients may be gone by now.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= WAITING
    }

    /// Whether there is something that can be done now.
    pub(super) fn has_more(&self) -> bool {
        self.current.as_ref().map_or(!self.queue.is_empty(), |current| !current.waits)
    }

    /// Whether something waits for the thread in the namespace, which has done something.
    pub(super) fn wait_for_namespace(&mut self) -> bool {
        self.current.as_mut().is_some_and(|current| take(&mut current.waits))
    }

    /// Does a part of what is to be done; a transaction that is over.
    pub(super) fn go_on<L: Link>(&mut self, control: &mut Control<'_, L>, terms: &Terms) -> Option<Done> {
        let Some(current) = &mut self.current else {
            let transaction = self.queue.pop_front()?;
            return self.begin(transaction, ATTEMPTS, control, terms);
        };
        if current.waits {
            return None;
        }
        match control.step(&mut current.apply) {
            Progress::More => None,
            Progress::Waits => {
                current.waits = true;
                None
            }
            Progress::Done => {
                let current = self.current.take()?;
                self.finish(current, control, terms)
            }
        }
    }

    /// Plans a transaction, and begins to open its sockets.
    fn begin<L: Link>(
        &mut self,
        transaction: Transaction,
        attempts: usize,
        control: &mut Control<'_, L>,
        terms: &Terms,
    ) -> Option<Done> {
        let memory = transaction.changes.len() * CHANGE_MEMORY + control.rules().count() * RULE_MEMORY;
        if !alloc::has_room_for(memory) {
            return Some(transaction.fail(Code::Busy, "Too little memory for so many rules"));
        }
        let Planned { plan, steps, mut refused } = plan(&transaction, control, terms);
        refused.extend(plan.refused().iter().take(REASONS).map(convert::refused));
        let has_refused = !plan.refused().is_empty() || steps.contains(&Step::Invalid);
        if has_refused && !transaction.partial || plan.is_empty() {
            let changed = Changed {
                // That there is nothing to do is as good as done.
                committed: !has_refused || transaction.partial,
                outcomes: outcomes(&steps, &BTreeSet::new()),
                refused,
                ..Changed::default()
            };
            return Some(transaction.done(changed));
        }
        let size = (plan.added().count(), plan.deleted());
        let apply = control.apply(plan);
        self.current = Some(Current { transaction, steps, apply, size, attempts, waits: false });
        None
    }

    /// Has a transaction take effect whose sockets are open.
    fn finish<L: Link>(
        &mut self,
        current: Current,
        control: &mut Control<'_, L>,
        terms: &Terms,
    ) -> Option<Done> {
        let Current { mut transaction, steps, apply, size: (added, deleted), attempts, .. } = current;
        let applied = apply.finish();
        let whole = |refusal: &&Refusal| refusal.extent == Extent::Whole;
        let lacking: BTreeSet<_> =
            applied.refused().iter().filter(whole).filter_map(|refusal| refusal.id).collect();
        let mut changed = Changed {
            outcomes: outcomes(&steps, &lacking),
            refused: applied.refused().iter().take(REASONS).map(convert::refused).collect(),
            ..Changed::default()
        };
        changed.refused.extend(invalid(&transaction.changes, &steps, terms));
        if applied.lacks_rules() && !transaction.partial {
            drop(applied.roll_back());
            return Some(transaction.done(changed));
        }
        match control.commit(applied) {
            Ok(committed) => {
                changed.committed = true;
                (changed.closed, changed.ended) = (committed.closed, committed.ended);
                let done = transaction.done(changed);
                Some(Done { added: added.saturating_sub(lacking.len()), deleted, ..done })
            }
            Err(Uncommitted::Stale(_)) if attempts > 0 => {
                self.begin(transaction, attempts - 1, control, terms)
            }
            Err(Uncommitted::Port { port, error }) => {
                transaction.lose(port, &error);
                if transaction.partial && attempts > 0 {
                    return self.begin(transaction, attempts - 1, control, terms);
                }
                Some(transaction.done(changed))
            }
            Err(error @ (Uncommitted::Stale(_) | Uncommitted::Memory)) => {
                Some(transaction.fail(Code::Busy, &error.to_string()))
            }
            Err(error @ Uncommitted::Watch(_)) => Some(transaction.fail(Code::Refused, &error.to_string())),
        }
    }
}

impl Transaction {
    /// A port was not to be had once it was free: so are the rules that need it.
    fn lose(&mut self, port: u16, error: &std::io::Error) {
        for (place, change) in self.changes.iter().enumerate() {
            if let request::Change::Add(rule) = change
                && (rule.first..=rule.last()).contains(&port)
            {
                let refused = Refused {
                    rule: rule.clone(),
                    port: Some(port),
                    errno: error.raw_os_error(),
                    reason: format!("Listen failed for port {port}: {error}"),
                    part: false,
                };
                self.lost.push((place, refused));
            }
        }
    }

    /// What became of it, but for how many rules came and went.
    fn done(self, mut changed: Changed) -> Done {
        let Self { owner, id, lost, .. } = self;
        changed.refused.extend(lost.into_iter().map(|(_, refused)| refused));
        if id.is_none() {
            for refused in &changed.refused {
                log::warn!("{}", refused.reason);
            }
        }
        changed.refused.truncate(REASONS);
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

/// What the changes of a client amount to.
struct Planned {
    plan: Plan,
    steps: Vec<Step>,
    refused: Vec<Refused>,
}

/// Plans changes for the rules as they are.
fn plan<L: Link>(transaction: &Transaction, control: &Control<'_, L>, terms: &Terms) -> Planned {
    let Transaction { changes, lost, .. } = transaction;
    let table: Vec<&Entry> = control.rules().map(|(entry, _)| entry).collect();
    // Of these, and of what was added, each is taken out once.
    let (mut cleared, mut added) = (vec![false; table.len()], Vec::<(usize, bool)>::new());
    let mut wanted = Vec::with_capacity(changes.len());
    // How many of them each change is; `None` if it can't be.
    let mut counts = Vec::with_capacity(changes.len());
    let mut refused = Vec::new();
    for (place, change) in changes.iter().enumerate() {
        if lost.iter().any(|(of, _)| *of == place) {
            counts.push(None);
            continue;
        }
        let before = wanted.len();
        let result = match change {
            request::Change::Add(rule) => terms.entry(rule).map(|entry| {
                added.push((wanted.len(), false));
                wanted.push(Change::Add(entry));
            }),
            request::Change::Delete(rule) => {
                terms.entry(rule).map(|entry| wanted.push(Change::Delete(entry)))
            }
            request::Change::Clear(which) => {
                let mut gone = Vec::new();
                for (entry, cleared) in table.iter().zip(&mut cleared) {
                    if convert::is_meant(*which, entry) && !std::mem::replace(cleared, true) {
                        gone.push(Change::Delete((*entry).clone()));
                    }
                }
                for (place, cleared) in &mut added {
                    if let Some(Change::Add(entry)) = wanted.get(*place)
                        && convert::is_meant(*which, entry)
                        && !std::mem::replace(cleared, true)
                    {
                        gone.push(Change::Delete(entry.clone()));
                    }
                }
                wanted.extend(gone);
                Ok(())
            }
        };
        match (result, change) {
            (Ok(()), request::Change::Clear(_)) => counts.push(Some((wanted.len() - before, true))),
            (Ok(()), _) => counts.push(Some((1, false))),
            (Err(reason), request::Change::Add(rule) | request::Change::Delete(rule)) => {
                counts.push(None);
                if refused.len() < REASONS {
                    refused.push(convert::invalid(rule, reason));
                }
            }
            (Err(_), request::Change::Clear(_)) => counts.push(None),
        }
    }
    let plan = control.plan(wanted);
    let mut outcomes = plan.outcomes().iter();
    let steps = counts.into_iter().map(|count| match count {
        None => Step::Invalid,
        Some((count, true)) => {
            outcomes.by_ref().take(count).for_each(drop);
            Step::Cleared
        }
        Some((_, false)) => outcomes.next().map_or(Step::Invalid, |&outcome| Step::One(outcome)),
    });
    let steps = steps.collect();
    Planned { plan, steps, refused }
}

/// Why changes are refused that can't be.
fn invalid(changes: &[request::Change], steps: &[Step], terms: &Terms) -> Vec<Refused> {
    let invalid = changes.iter().zip(steps).filter(|(_, step)| **step == Step::Invalid);
    let reason = |(change, _): (&request::Change, _)| match change {
        request::Change::Add(rule) | request::Change::Delete(rule) => {
            Some(convert::invalid(rule, terms.entry(rule).err()?))
        }
        request::Change::Clear(_) => None,
    };
    invalid.filter_map(reason).take(REASONS).collect()
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
