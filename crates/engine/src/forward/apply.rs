//! A plan on its way into effect: the sockets that it needs are opened beside those that are there,
//! and nothing else changes. What was opened is then swapped in as a whole, or dropped.
//!
//! On the host a caller's thread opens sockets, in the namespace the one that stays there. Both do
//! a part at a time, so that traffic goes on meanwhile. A rule that replaces another at the same
//! address and port gets the same sockets, and whoever waits in their backlogs is served.

use std::collections::BTreeSet;
use std::io;

use passt_sys::namespace::{Pending, Resident};
use rustix::io::Errno;

use super::CHUNK;
use super::listener::{How, ListenOptions, Listener};
use super::plan::{Extent, Plan, Reason, Refusal};
use super::registry::Registry;
use super::table::{Entry, Place, RuleId, Rules};
use super::task::{Leaving, PartOpened, Room, Task};
use crate::flow::Side;

/// Bytes that a socket takes at most once it is put into effect, beside what it has by then.
pub(crate) const LATER: usize = 512;
/// The same of one that is handed over.
pub(crate) const HANDED_OVER: usize = 160;

/// Rules looked at in one step, of which each may have nothing to open.
const TASKS: usize = 16 * CHUNK;

/// What a plan that takes effect does to the sockets that listen.
#[derive(Debug, Default)]
#[must_use]
pub struct Changes {
    /// Numbers of sockets whose rules are gone.
    pub close: Vec<u32>,
    /// Sockets that were opened.
    pub open: Vec<Listener>,
}

/// Sockets of a plan that are being opened. Dropping it closes them again.
#[derive(Debug)]
pub struct Apply {
    base: u64,
    rules: Rules,
    delete: BTreeSet<RuleId>,
    how: How,
    /// Rules that are not looked at yet.
    add: std::vec::IntoIter<RuleId>,
    /// Sockets of rules that are deleted.
    leaving: Leaving,
    room: Room,
    can_follow: bool,
    tasks: Vec<Task>,
    /// Places of the first tasks, on the host and in the namespace, that may have something left.
    first: [usize; 2],
    /// Sockets opened so far.
    open: Vec<Listener>,
    /// Sockets of rules that are deleted, by their numbers, and where they will be instead.
    takes: Vec<(u32, Place)>,
    /// What can be opened once those are closed that are in the way.
    late: Vec<Place>,
    /// Sockets from this number on were not there yet.
    next_number: u32,
    refused: Vec<Refusal>,
    /// What the thread in the namespace opens, and the place of its task.
    pending: Option<(usize, Pending<PartOpened>)>,
}

/// How far sockets have been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There are more; the next step can be made at once.
    More,
    /// The thread in the namespace is at work, and signals its descriptor when a next step can be
    /// made.
    Waits,
    /// All are open that can be had.
    Done,
}

/// A plan whose sockets are open. [`Control::commit`](crate::control::Control::commit) puts it into
/// effect; dropping it rolls it back.
#[derive(Debug)]
pub struct Applied {
    pub(super) base: u64,
    pub(crate) rules: Rules,
    pub(crate) delete: BTreeSet<RuleId>,
    pub(crate) open: Vec<Listener>,
    pub(crate) takes: Vec<(u32, Place)>,
    pub(crate) late: Vec<Place>,
    /// Sockets of rules that are deleted.
    pub(super) leaving: Leaving,
    next_number: u32,
    refused: Vec<Refusal>,
}

impl Apply {
    /// For rules that replace some whose sockets are among `sockets`. Rules can follow services if
    /// something tells of these.
    pub(super) fn new(
        plan: Plan,
        sockets: &Registry,
        options: ListenOptions,
        room: Room,
        can_follow: bool,
    ) -> Self {
        let Plan { base, rules, add, delete, refused, .. } = plan;
        Self {
            leaving: Leaving::new(sockets, &delete),
            base,
            rules,
            delete,
            how: How::new(options, &sockets.ours),
            tasks: Vec::with_capacity(add.len()),
            add: add.into_iter(),
            room,
            can_follow,
            first: [0; 2],
            open: Vec::new(),
            takes: Vec::new(),
            late: Vec::new(),
            next_number: sockets.next_number(),
            refused,
            pending: None,
        }
    }

    /// Looks at some more of the rules, which replace some of `before`; how many.
    fn look(&mut self, before: &Rules) -> usize {
        let rules: Vec<RuleId> = self.add.by_ref().take(TASKS).collect();
        for &id in &rules {
            let Some(entry) = self.rules.get(id).cloned() else { continue };
            if entry.rule.scan && !self.can_follow {
                self.refuse(id, entry, Reason::Services);
                continue;
            }
            let mut task = Task::new(id, entry, self.room);
            task.take_over(before, &self.leaving, self.how.families, &mut self.takes);
            self.tasks.push(task);
        }
        rules.len()
    }

    fn refuse(&mut self, id: RuleId, entry: Entry, reason: Reason) {
        self.rules.remove(id);
        self.refused.push(Refusal { entry, id: Some(id), reason, extent: Extent::Whole });
    }

    /// Opens all that is left from the calling thread, which is on the side of every rule.
    pub(super) fn here(&mut self, before: &Rules) {
        while self.look(before) > 0 {}
        for place in 0..self.tasks.len() {
            while self.tasks.get(place).is_some_and(Task::is_open) {
                self.go_on(place);
            }
        }
    }

    /// Opens a part of a task from the calling thread; how many ports it tried.
    fn go_on(&mut self, place: usize) -> usize {
        let open = self.open.len();
        let Some(task) = self.tasks.get_mut(place) else { return 0 };
        let part = task.part(self.how.families);
        let tried = part.ports.len();
        let opened = part.open(&self.how, open);
        self.arrived(place, Ok(opened));
        tried
    }

    /// Opens a part of what the rules need, which replace some of `before`, on either side: in the
    /// namespace by the thread that stays `inside`.
    pub(crate) fn step(&mut self, before: &Rules, inside: Option<&Resident>) -> Progress {
        if self.look(before) > 0 {
            return Progress::More;
        }
        let (mut tried, mut tasks) = (0, 0);
        while tried < CHUNK && tasks < TASKS {
            let Some(place) = self.next_task(Side::Host) else { break };
            tried += self.go_on(place);
            tasks += 1;
        }
        let waits = self.step_inside(inside);
        if self.next_task(Side::Host).is_some() || !waits && self.next_task(Side::Namespace).is_some() {
            Progress::More
        } else if waits {
            Progress::Waits
        } else {
            Progress::Done
        }
    }

    /// The place of a task of which something is left to be tried.
    fn next_task(&mut self, side: Side) -> Option<usize> {
        let first = &mut self.first[side as usize];
        let rest = self.tasks.get(*first..).unwrap_or_default();
        let next = rest.iter().position(|task| task.entry.side == side && task.is_open());
        // One that has nothing left never has again.
        *first = next.map_or(self.tasks.len(), |place| *first + place);
        next.map(|_| *first)
    }

    /// Whether nothing can be done before the thread in the namespace has done something.
    fn step_inside(&mut self, inside: Option<&Resident>) -> bool {
        if let Some((place, pending)) = self.pending.take() {
            let Some(result) = pending.poll() else {
                self.pending = Some((place, pending));
                return true;
            };
            self.arrived(place, result);
        }
        let Some(place) = self.next_task(Side::Namespace) else { return false };
        let (how, open) = (self.how.clone(), self.open.len());
        let Some(task) = self.tasks.get_mut(place) else { return false };
        let next = task.next;
        let part = task.part(how.families);
        let begun = inside.ok_or_else(|| Errno::NETUNREACH.into());
        match begun.and_then(|inside| inside.begin(move || part.open(&how, open))) {
            Ok(pending) => self.pending = Some((place, pending)),
            // It has other work to begin first, and tells when it did some.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => task.next = next,
            Err(error) => {
                task.fail(error);
                return false;
            }
        }
        true
    }

    /// Waits for the thread in the namespace, if it is at work.
    pub fn wait(&mut self) {
        if let Some((place, pending)) = self.pending.take() {
            let result = pending.wait();
            self.arrived(place, result);
        }
    }

    fn arrived(&mut self, place: usize, result: io::Result<PartOpened>) {
        let Some(task) = self.tasks.get_mut(place) else { return };
        match result {
            Ok(PartOpened { open, late, lack }) => {
                task.has_some |= !(open.is_empty() && late.is_empty());
                self.open.extend(open);
                self.late.extend(late);
                if lack.as_ref().is_some_and(|lack| lack.fatal || lack.exhausted || lack.hopeless) {
                    task.end();
                }
                task.lack = lack.or(task.lack.take());
            }
            Err(error) => task.fail(error),
        }
    }

    /// What can be had, and what can't. Call it when all is [`Done`](Progress::Done): what is left
    /// is refused.
    pub fn finish(mut self) -> Applied {
        for id in std::mem::take(&mut self.add) {
            let entry = self.rules.get(id).cloned();
            self.tasks.extend(entry.map(|entry| Task::new(id, entry, self.room)));
        }
        let mut lacking = Vec::new();
        let mut had = BTreeSet::new();
        let mut gone = BTreeSet::new();
        let added = !self.tasks.is_empty();
        let lacks_all = self.tasks.iter().any(Task::lacks_all);
        let waits = self.pending.take().map(|(place, _)| place);
        for (place, mut task) in std::mem::take(&mut self.tasks).into_iter().enumerate() {
            if task.is_open() || waits == Some(place) {
                task.fail(Errno::CANCELED.into());
            }
            let Task { id, entry, has_some, lack, .. } = task;
            if has_some && lacks_all {
                had.insert((entry.side, entry.protocol, entry.rule.listen.clone()));
            }
            match lack {
                Some(lack) if lack.fatal => {
                    gone.insert(id);
                    self.refuse(id, entry, lack.reason());
                }
                Some(lack) if !has_some => lacking.push((id, entry, lack)),
                Some(lack) if lack.exhausted => {
                    let (id, reason) = (Some(id), lack.reason());
                    self.refused.push(Refusal { entry, id, reason, extent: Extent::Part });
                }
                _ => {}
            }
        }
        // What is left out of a range makes several of it: one port of all of them is enough.
        for (id, entry, lack) in lacking {
            if had.contains(&(entry.side, entry.protocol, entry.rule.listen.clone())) {
                let (id, reason) = (Some(id), lack.reason());
                self.refused.push(Refusal { entry, id, reason, extent: Extent::Part });
            } else {
                self.refuse(id, entry, lack.reason());
            }
        }
        let Self {
            base,
            mut rules,
            delete,
            mut open,
            mut takes,
            mut late,
            leaving,
            next_number,
            refused,
            ..
        } = self;
        open.retain(|listener| !gone.contains(&listener.place.rule));
        takes.retain(|(_, place)| !gone.contains(&place.rule));
        late.retain(|place| !gone.contains(&place.rule));
        let is_change =
            !(delete.is_empty() && open.is_empty() && takes.is_empty() && late.is_empty() && !added);
        rules.version = base.wrapping_add(u64::from(is_change));
        Applied { base, rules, delete, open, takes, late, leaving, next_number, refused }
    }
}

impl Applied {
    /// Rules that can't be had, or a part of them, each with its reason. Those refused as a
    /// [whole](Extent::Whole) are not part of what a commit puts into effect; who wants all or
    /// nothing rolls back.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Whether it takes this socket into account: it was there, or stays, or no rule has its port.
    pub(super) fn knows(&self, number: u32, listener: &Listener) -> bool {
        number < self.next_number
            || !self.delete.contains(&listener.place.rule)
            || !self.rules.fixes(listener.side, listener.protocol, listener.place.port)
    }

    /// What to say of the rule at this place if it can't be had for this reason.
    pub(crate) fn refusal(&self, place: Place, error: io::Error) -> Option<Refusal> {
        let reason = Reason::Port { port: place.port, error };
        let entry = self.rules.get(place.rule)?.clone();
        Some(Refusal { entry, id: Some(place.rule), reason, extent: Extent::Whole })
    }

    /// Whether the rule at this place must have all of its ports.
    pub(crate) fn is_strong(&self, place: Place) -> bool {
        self.rules.get(place.rule).is_some_and(|entry| !entry.rule.weak)
    }

    /// Rolls back: closes what was opened, and returns what was [refused](Self::refused).
    pub fn roll_back(self) -> Vec<Refusal> {
        self.refused
    }

    /// Whether a rule is refused as a whole.
    pub fn lacks_rules(&self) -> bool {
        self.refused.iter().any(|refusal| refusal.extent == Extent::Whole)
    }
}
