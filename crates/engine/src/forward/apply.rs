//! A plan on its way into effect: the sockets that it needs are opened beside those that are there,
//! and nothing else changes. What was opened is then swapped in as a whole, or dropped.
//!
//! On the host a caller's thread opens sockets, in the namespace the one that stays there. Both do
//! a part at a time, so that traffic goes on meanwhile. A rule that replaces another at the same
//! address and port gets the same sockets, and whoever waits in their backlogs is served.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use passt_sys::alloc;
use passt_sys::namespace::{Pending, Resident};
use rustix::io::Errno;

use super::listener::{Listener, Options};
use super::plan::{Extent, Plan, Reason, Refusal};
use super::registry::Registry;
use super::table::{Entry, Place, RuleId, Rules};
use super::{CHUNK, pressure};
use crate::flow::Side;

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
    options: Options,
    tasks: Vec<Task>,
    refused: Vec<Refusal>,
    /// What the thread in the namespace opens, and for which task.
    pending: Option<(usize, Pending<Opened>)>,
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

/// A plan whose sockets are open. [`Forward::commit`](super::Forward::commit) puts it into effect;
/// dropping it rolls it back.
#[derive(Debug)]
pub struct Applied {
    pub(super) base: u64,
    pub(super) rules: Rules,
    pub(super) delete: BTreeSet<RuleId>,
    pub(crate) open: Vec<Listener>,
    refused: Vec<Refusal>,
}

/// A rule whose ports are being opened.
#[derive(Debug)]
struct Task {
    id: RuleId,
    entry: Entry,
    /// Descriptors below this number may be used.
    most: RawFd,
    /// Ports not tried yet.
    left: VecDeque<u16>,
    opened: Vec<Listener>,
    /// The last port that couldn't be had.
    lack: Option<Lack>,
}

/// A port that couldn't be had.
#[derive(Debug)]
struct Lack {
    port: u16,
    error: io::Error,
    /// The rule must have it.
    fatal: bool,
    /// There are no descriptors but those for what comes in.
    exhausted: bool,
}

/// Sockets, and the last port that couldn't be had.
type Opened = (Vec<Listener>, Option<Lack>);

impl Apply {
    /// For rules that replace some of `before`, whose sockets are among `listeners`. Rules can
    /// follow services if something tells of these.
    pub(super) fn new(
        plan: Plan,
        (before, listeners): (&Rules, &Registry),
        options: Options,
        most: RawFd,
        can_follow: bool,
    ) -> Self {
        let Plan { base, rules, add, delete, refused } = plan;
        let mut apply = Self { base, rules, delete, options, tasks: Vec::new(), refused, pending: None };
        for id in add {
            let Some(entry) = apply.rules.get(id).cloned() else { continue };
            if entry.rule.scan && !can_follow {
                apply.refuse(id, entry, Reason::Services);
                continue;
            }
            let mut task = Task::new(id, entry, most);
            task.take_over(before, listeners, &apply.delete, options);
            apply.tasks.push(task);
        }
        apply
    }

    fn refuse(&mut self, id: RuleId, entry: Entry, reason: Reason) {
        self.rules.remove(id);
        self.refused.push(Refusal { entry, reason, extent: Extent::Whole });
    }

    /// Opens all that is left from the calling thread, which is on the side of every rule.
    pub(super) fn here(&mut self) {
        for task in &mut self.tasks {
            while task.is_open() {
                task.go_on(self.options);
            }
        }
    }

    /// Opens a part on either side: in the namespace by the thread that stays `inside`.
    pub(crate) fn step(&mut self, inside: Option<&Resident>) -> Progress {
        let own = self.tasks.iter_mut().find(|task| task.entry.side == Side::Host && task.is_open());
        if let Some(task) = own {
            task.go_on(self.options);
        }
        let waits = self.step_inside(inside);
        let is_open = |side| self.tasks.iter().any(|task| task.entry.side == side && task.is_open());
        if is_open(Side::Host) || !waits && is_open(Side::Namespace) {
            Progress::More
        } else if waits {
            Progress::Waits
        } else {
            Progress::Done
        }
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
        let options = self.options;
        let inside_open =
            |(_, task): &(usize, &mut Task)| task.entry.side == Side::Namespace && task.is_open();
        let Some((place, task)) = self.tasks.iter_mut().enumerate().find(inside_open) else { return false };
        match task.begin(inside, options) {
            Ok(pending) => {
                self.pending = pending.map(|pending| (place, pending));
                true
            }
            Err(error) => {
                task.fail(error);
                false
            }
        }
    }

    /// Waits for the thread in the namespace, if it is at work.
    pub fn wait(&mut self) {
        if let Some((place, pending)) = self.pending.take() {
            let result = pending.wait();
            self.arrived(place, result);
        }
    }

    fn arrived(&mut self, place: usize, result: io::Result<Opened>) {
        let Some(task) = self.tasks.get_mut(place) else { return };
        match result {
            Ok(opened) => task.arrived(opened),
            Err(error) => task.fail(error),
        }
    }

    /// What can be had, and what can't. Call it when all is [`Done`](Progress::Done): what is left
    /// is refused.
    pub fn finish(mut self) -> Applied {
        let mut open = Vec::new();
        let mut lacking = Vec::new();
        let mut had = Vec::new();
        let waits = self.pending.take().map(|(place, _)| place);
        for (place, mut task) in std::mem::take(&mut self.tasks).into_iter().enumerate() {
            if task.is_open() || waits == Some(place) {
                task.fail(Errno::CANCELED.into());
            }
            let Task { id, entry, mut opened, lack, .. } = task;
            match lack {
                Some(lack) if lack.fatal => self.refuse(id, entry, lack.reason()),
                Some(lack) if opened.is_empty() => lacking.push((id, entry, lack)),
                lack => {
                    if !opened.is_empty() {
                        had.push((entry.side, entry.protocol, entry.rule.listen.clone()));
                    }
                    if let Some(lack) = lack.filter(|lack| lack.exhausted) {
                        self.refused.push(Refusal { entry, reason: lack.reason(), extent: Extent::Part });
                    }
                    open.append(&mut opened);
                }
            }
        }
        // What is left out of a range makes several of it: one port of all of them is enough.
        for (id, entry, lack) in lacking {
            let listen = (entry.side, entry.protocol, entry.rule.listen.clone());
            if !had.contains(&listen) {
                self.refuse(id, entry, lack.reason());
            }
        }
        let Self { base, mut rules, delete, refused, .. } = self;
        rules.version = base.wrapping_add(1);
        Applied { base, rules, delete, open, refused }
    }
}

impl Applied {
    /// Rules that can't be had, or a part of them, each with its reason. Those refused as a
    /// [whole](Extent::Whole) are not part of what a commit puts into effect; who wants all or
    /// nothing rolls back.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
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

impl Lack {
    fn reason(self) -> Reason {
        Reason::Port { port: self.port, error: self.error }
    }
}

impl Task {
    fn new(id: RuleId, entry: Entry, most: RawFd) -> Self {
        let most = if entry.rule.weak { pressure::for_ports().min(most) } else { most };
        let ports = entry.rule.ports;
        let left = (ports.first()..=ports.last()).take_while(|_| !entry.rule.scan).collect();
        Self { id, entry, most, left, opened: Vec::new(), lack: None }
    }

    /// Takes over sockets of rules that are deleted: their ports are not free before they are
    /// closed.
    fn take_over(
        &mut self,
        before: &Rules,
        listeners: &Registry,
        delete: &BTreeSet<RuleId>,
        options: Options,
    ) {
        let Entry { side, protocol, ref rule } = self.entry;
        let mut taken = BTreeSet::new();
        let going = |place: Place| before.get(place.rule).filter(|_| delete.contains(&place.rule));
        for (_, listener) in listeners.iter().filter(|_| !rule.scan) {
            let place = Place { rule: self.id, port: listener.place.port };
            let same = going(listener.place).is_some_and(|old| {
                (old.side, old.protocol, &old.rule.listen) == (side, protocol, &rule.listen)
            });
            let families = listener.families == options.families || rule.listen.addr.is_some();
            if same
                && families
                && rule.ports.contains(place.port)
                && let Ok(listener) = listener.for_rule(place, &self.entry)
                && let Ok(listener) = within(vec![listener], self.most)
            {
                self.opened.extend(listener);
                taken.insert(place.port);
            }
        }
        self.left.retain(|port| !taken.contains(port));
    }

    /// Whether there are ports to be opened.
    fn is_open(&self) -> bool {
        !self.left.is_empty()
    }

    /// The next ports.
    fn part(&mut self) -> Part {
        let ports = self.left.drain(..self.left.len().min(CHUNK)).collect();
        Part { id: self.id, entry: self.entry.clone(), most: self.most, ports }
    }

    /// Opens a part from the calling thread.
    fn go_on(&mut self, options: Options) {
        let opened = self.part().open(options);
        self.arrived(opened);
    }

    /// Has a part opened `inside`; nothing is pending if the thread there has other work to begin
    /// first.
    fn begin(&mut self, inside: Option<&Resident>, options: Options) -> io::Result<Option<Pending<Opened>>> {
        let inside = inside.ok_or(Errno::NETUNREACH)?;
        let part = self.part();
        let ports = part.ports.clone();
        match inside.begin(move || part.open(options)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ports.into_iter().rev().for_each(|port| self.left.push_front(port));
                Ok(None)
            }
            begun => begun.map(Some),
        }
    }

    fn arrived(&mut self, (mut opened, lack): Opened) {
        self.opened.append(&mut opened);
        if lack.as_ref().is_some_and(|lack| lack.fatal || lack.exhausted) {
            self.left.clear();
        }
        self.lack = lack.or(self.lack.take());
    }

    /// None of its ports can be had.
    fn fail(&mut self, error: io::Error) {
        self.left.clear();
        let port = self.entry.rule.ports.first();
        self.lack = Some(Lack { port, error, fatal: true, exhausted: false });
    }
}

/// Ports of a rule that are opened in one go.
struct Part {
    id: RuleId,
    entry: Entry,
    most: RawFd,
    ports: Vec<u16>,
}

impl Part {
    /// Opens sockets from a thread on the rule's side, as far as they can be had.
    fn open(self, options: Options) -> Opened {
        let (mut listeners, mut lack) = (Vec::new(), None);
        let fatal = !self.entry.rule.weak;
        // A sealed process gets no more memory.
        if let Some(&port) = self.ports.first()
            && !alloc::has_room()
        {
            return (listeners, Some(Lack { port, error: Errno::NOMEM.into(), fatal, exhausted: true }));
        }
        for port in self.ports {
            let opened = Listener::open(Place { rule: self.id, port }, &self.entry, options);
            match opened.and_then(|opened| within(opened, self.most)) {
                Ok(opened) => listeners.extend(opened),
                Err(error) => {
                    let exhausted = matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE));
                    lack = Some(Lack { port, error, fatal, exhausted });
                    if fatal || exhausted {
                        break;
                    }
                }
            }
        }
        (listeners, lack)
    }
}

/// The sockets that were opened, if their descriptors are below `most`.
fn within(opened: Vec<Listener>, most: RawFd) -> io::Result<Vec<Listener>> {
    let last = opened.iter().map(|listener| listener.fd.as_raw_fd()).max();
    if last < Some(most) { Ok(opened) } else { Err(Errno::MFILE.into()) }
}
