//! Sockets that follow services are opened and closed here: a part in each round, so that traffic
//! goes on meanwhile, on the host by the loop, and in the namespace by the thread there, for which
//! nobody waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::AsRawFd as _;

use passt_sys::alloc;
use passt_sys::namespace::Pending;
use rustix::io::Errno;

use super::listener::{How, ListenOptions, Listener};
use super::rule::Families;
use super::table::{Entry, Place, RuleId, side_name};
use super::{Around, CHUNK, Changes, Forward};
use crate::flow::Side;

/// What is to be closed and opened.
#[derive(Debug, Default)]
pub(super) struct Todo {
    /// Numbers of sockets.
    close: Vec<u32>,
    host: VecDeque<Wanted>,
    namespace: VecDeque<Wanted>,
    /// What the thread in the namespace is opening.
    pub(super) pending: Option<Pending<Vec<Opened>>>,
    /// That thread had no room for more to do when it was asked last.
    crowded: bool,
    /// What it has opened, if somebody waited for it.
    arrived: Option<Vec<Opened>>,
    /// Some can't be had now.
    lacks: bool,
    /// Ports for which there are no descriptors.
    left_out: usize,
}

type Wanted = (Place, Families);
type Opened = io::Result<Vec<Listener>>;

impl Todo {
    /// Closes sockets of rules that follow what is gone, and opens those that are wanted and not
    /// there. For some there was no room.
    pub(super) fn new(
        forward: &Forward,
        rules_following: &BTreeSet<RuleId>,
        mut wanted: BTreeMap<Place, Families>,
        left_out: usize,
    ) -> Self {
        let rules = &forward.rules;
        let kept = |l: &Listener| wanted.get(&l.place) == Some(&l.families);
        let following = || forward.sockets.iter().filter(|(_, l)| rules_following.contains(&l.place.rule));
        let close = following().filter(|(_, l)| !kept(l)).map(|(number, _)| number).collect();
        let kept: BTreeSet<Place> = following().filter(|(_, l)| kept(l)).map(|(_, l)| l.place).collect();
        wanted.retain(|place, _| !kept.contains(place));
        let side = |place: &Place| rules.get(place.rule).map(|entry| entry.side);
        let (host, namespace) = wanted.into_iter().partition(|(place, _)| side(place) == Some(Side::Host));
        Self { close, host, namespace, left_out, ..Self::default() }
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        !self.has_own() && self.namespace.is_empty() && self.pending.is_none()
    }

    /// Whether something can be done at once.
    pub(super) fn has_own(&self) -> bool {
        let idle = self.pending.is_none() && !self.crowded && !self.namespace.is_empty();
        idle || self.arrived.is_some() || !self.close.is_empty() || !self.host.is_empty()
    }

    /// Some can't be had now.
    pub(super) fn lack(&mut self) {
        self.lacks = true;
    }

    /// Whether some can't be had now.
    pub(super) fn lacks(&self) -> bool {
        self.lacks
    }

    /// Ports for which there are no descriptors.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Waits for the thread in the namespace, if it has something to do.
    pub(super) fn wait(&mut self) {
        self.crowded = false;
        if let Some(pending) = self.pending.take() {
            self.arrived = Some(pending.wait().unwrap_or_else(|error| vec![Err(error)]));
        }
    }

    /// Does a part; what that does to sockets.
    pub(super) fn go_on(&mut self, forward: &Forward, around: &Around<'_>) -> Changes {
        if let Some(result) = self.pending.as_ref().and_then(Pending::poll) {
            self.pending = None;
            self.arrived = Some(result.unwrap_or_else(|error| vec![Err(error)]));
        }
        let mut changes = Changes::default();
        self.crowded = false;
        if let Some(opened) = self.arrived.take() {
            self.take(forward, around, opened, &mut changes.open);
        }
        // A port may be wanted for other families than before: first it is closed.
        if !self.close.is_empty() {
            let part = self.close.drain(self.close.len().saturating_sub(CHUNK)..);
            // One may listen for another rule since.
            let follows = |listener: &Listener| forward.rules.follows(listener.place);
            changes.close.extend(part.filter(|&number| forward.sockets.get(number).is_some_and(follows)));
            return changes;
        }
        if !alloc::has_room() {
            self.give_up();
        }
        let jobs = jobs(forward, &mut self.host);
        self.take(forward, around, OpenJob::all(jobs), &mut changes.open);
        if self.pending.is_none() && !self.namespace.is_empty() {
            self.open_inside(forward, around);
        }
        changes
    }

    fn open_inside(&mut self, forward: &Forward, around: &Around<'_>) {
        let Some(inside) = around.inside else { return self.give_up() };
        let part: Vec<Wanted> = self.namespace.iter().take(CHUNK).copied().collect();
        let jobs = jobs(forward, &mut self.namespace);
        match inside.begin(move || OpenJob::all(jobs)) {
            Ok(pending) => self.pending = Some(pending),
            // It has much to do, and tells when some of it is done.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.crowded = true;
                part.into_iter().rev().for_each(|wanted| self.namespace.push_front(wanted));
            }
            Err(_) => {
                self.lacks = true;
                self.give_up();
            }
        }
    }

    /// Adds what was opened to `open`, as far as it can be used.
    fn take(
        &mut self,
        forward: &Forward,
        around: &Around<'_>,
        opened: Vec<Opened>,
        open: &mut Vec<Listener>,
    ) {
        for result in opened {
            // The last descriptors are not for ports.
            let is_kept = |listener: &Listener| listener.fd.as_raw_fd() >= around.kept;
            let error = match result {
                Ok(listeners) if listeners.iter().any(is_kept) => Errno::MFILE.into(),
                Ok(listeners) => {
                    // Rules may have gone since they were begun.
                    open.extend(listeners.into_iter().filter(|l| forward.rules.follows(l.place)));
                    continue;
                }
                Err(error) => error,
            };
            self.lacks = true;
            if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) {
                self.left_out += 1 + self.host.len() + self.namespace.len();
                self.give_up();
            }
        }
    }

    /// Leaves the rest to another time.
    fn give_up(&mut self) {
        self.lacks |= !(self.host.is_empty() && self.namespace.is_empty());
        self.host.clear();
        self.namespace.clear();
    }
}

/// A socket to be opened.
struct OpenJob {
    place: Place,
    entry: Entry,
    how: How,
}

/// A part of what is wanted.
fn jobs(forward: &Forward, wanted: &mut VecDeque<Wanted>) -> Vec<OpenJob> {
    let part = wanted.drain(..wanted.len().min(CHUNK));
    let job = |(place, families): Wanted| {
        let how = How::new(ListenOptions { families, ..forward.options }, &forward.sockets.ours);
        Some(OpenJob { place, entry: forward.rules.get(place.rule)?.clone(), how })
    };
    part.filter_map(job).collect()
}

impl OpenJob {
    /// Opens sockets in the calling thread's namespace.
    fn all(jobs: Vec<Self>) -> Vec<Opened> {
        jobs.into_iter().map(Self::open).collect()
    }

    fn open(self) -> Opened {
        let Self { place, entry, how } = self;
        let opened = Listener::open(place, &entry, &how);
        if let Err(error) = &opened {
            log::debug!("{} {} port {}: {error}", side_name(entry.side), entry.protocol, place.port);
        }
        opened
    }
}
