//! A rule of a plan whose ports are being opened, some at a time, and the sockets that it takes over
//! from rules that are deleted. Which rules there are, and what becomes of them all, is for
//! [`apply`](super::apply).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use passt_sys::alloc;
use rustix::io::Errno;

use super::CHUNK;
use super::apply::LATER;
use super::by_port::{Spot, spot, spots};
use super::listener::{How, Listener};
use super::plan::Reason;
use super::registry::Registry;
use super::rule::{Families, PortRange};
use super::table::{Entry, Place, RuleId, Rules};
use crate::flow::{Protocol, Side};

/// Descriptors below which there is room for ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// For those that their rules must have.
    pub(crate) most: RawFd,
    /// For others.
    pub(crate) weak: RawFd,
}

/// A rule whose ports are being opened.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: RuleId,
    pub(super) entry: Entry,
    /// Descriptors below this number may be used.
    pub(super) most: RawFd,
    /// The next port to be tried. Behind the last nothing is left.
    pub(super) next: u32,
    /// Ports whose sockets are taken over, each with the families that these are not for.
    pub(super) taken: BTreeMap<u16, Option<Families>>,
    /// Ports, in order, where a socket is that may be in the way and will be closed.
    pub(super) going: Vec<u16>,
    /// Anything of it can be had.
    pub(super) has_some: bool,
    /// The last port that couldn't be had.
    pub(super) lack: Option<Lack>,
}

/// A port that couldn't be had.
#[derive(Debug)]
pub(super) struct Lack {
    pub(super) port: u16,
    pub(super) error: io::Error,
    /// The rule must have it.
    pub(super) fatal: bool,
    /// There are no descriptors but those for what comes in, or no memory.
    pub(super) exhausted: bool,
    /// None of the rule's other ports can be had either.
    pub(super) hopeless: bool,
}

/// What became of a part of a rule's ports.
#[derive(Debug, Default)]
pub(super) struct PartOpened {
    pub(super) open: Vec<Listener>,
    pub(super) late: Vec<Place>,
    /// The last port that couldn't be had.
    pub(super) lack: Option<Lack>,
}

impl Lack {
    pub(super) fn reason(self) -> Reason {
        Reason::Port { port: self.port, error: self.error }
    }
}

impl Task {
    pub(super) fn new(id: RuleId, entry: Entry, room: Room) -> Self {
        let most = if entry.rule.weak { room.weak.min(room.most) } else { room.most };
        let next = if entry.rule.scan { u32::MAX } else { entry.rule.ports.first().into() };
        let (taken, going) = (BTreeMap::new(), Vec::new());
        Self { id, entry, most, next, taken, going, has_some: false, lack: None }
    }

    /// Takes over sockets of rules that are deleted: their ports are not free before they are
    /// closed. One that is for one family has another one beside it. Those that can't be taken over
    /// may be in the way.
    pub(super) fn take_over(
        &mut self,
        before: &Rules,
        leaving: &Leaving,
        on: Families,
        takes: &mut Vec<(u32, Place)>,
    ) {
        let rule = &self.entry.rule;
        for left in leaving.meeting(&self.entry, rule.ports) {
            let (port, number, families) = (left.port(), left.number, left.families);
            let Some(old) = before.get(left.rule) else { continue };
            if old.rule.listen == rule.listen {
                takes.push((number, Place { rule: self.id, port }));
                let families = if rule.listen.addr.is_some() { on } else { families };
                let lacking = self.taken.get(&port).copied().unwrap_or(Some(on));
                self.taken.insert(port, lacking.and_then(|lacking| lacking.without(families)));
                self.has_some = true;
            } else if old.rule.listen.meets(&rule.listen) {
                self.going.push(port);
            }
        }
        self.going.sort_unstable();
    }

    /// Whether it lacks all of its ports, and need not have each of them.
    pub(super) fn lacks_all(&self) -> bool {
        !self.has_some && self.lack.as_ref().is_some_and(|lack| !lack.fatal)
    }

    /// Whether there are ports to be opened.
    pub(super) fn is_open(&self) -> bool {
        self.next <= self.entry.rule.ports.last().into()
    }

    /// Nothing more is tried.
    pub(super) fn end(&mut self) {
        self.next = u32::MAX;
    }

    /// The next ports.
    pub(super) fn part(&mut self, families: Families) -> Part {
        let last = self.entry.rule.ports.last();
        let mut ports = Vec::with_capacity(CHUNK);
        while self.is_open() && ports.len() < CHUNK {
            let port = u16::try_from(self.next).unwrap_or(last);
            if let Some(families) = self.taken.get(&port).copied().unwrap_or(Some(families)) {
                // In the namespace only the thread there can open sockets, and a commit does not
                // wait for it.
                let is_going = self.entry.side == Side::Host && self.going.binary_search(&port).is_ok();
                ports.push((port, families, is_going));
            }
            self.next += 1;
        }
        Part { id: self.id, entry: self.entry.clone(), most: self.most, ports }
    }

    /// None of its ports can be had.
    pub(super) fn fail(&mut self, error: io::Error) {
        self.end();
        let port = self.entry.rule.ports.first();
        self.lack = Some(Lack { port, error, fatal: true, exhausted: false, hopeless: false });
    }
}

/// Sockets of rules that are deleted, in order.
#[derive(Debug, Default)]
pub(super) struct Leaving(Vec<Left>);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Left {
    at: (Side, Protocol, Spot),
    pub(super) number: u32,
    pub(super) rule: RuleId,
    pub(super) families: Families,
}

impl Leaving {
    pub(super) fn new(sockets: &Registry, delete: &BTreeSet<RuleId>) -> Self {
        let going = sockets.iter().filter(|(_, listener)| delete.contains(&listener.place.rule));
        let mut all: Vec<_> = going
            .map(|(number, listener)| {
                let Listener { side, protocol, place: Place { port, rule }, families, .. } = *listener;
                let spot = spot(port, Some(listener.bounds.addr.ip()));
                Left { at: (side, protocol, spot), number, rule, families }
            })
            .collect();
        all.sort_unstable();
        Self(all)
    }

    /// Those that may meet a rule at these ports of its.
    pub(super) fn meeting(&self, entry: &Entry, ports: PortRange) -> impl Iterator<Item = &Left> {
        let (side, protocol) = (entry.side, entry.protocol);
        spots(ports, entry.rule.listen.addr).flat_map(move |spots| {
            let (from, to) = spots.into_inner();
            let from = self.0.partition_point(|left| left.at < (side, protocol, from));
            let to = self.0.partition_point(|left| left.at <= (side, protocol, to));
            self.0.get(from..to).unwrap_or_default()
        })
    }
}

impl Left {
    pub(super) fn port(&self) -> u16 {
        let (.., (port, _)) = self.at;
        port
    }
}

/// Ports of a rule that are opened in one go, each with its families, and whether a socket that is
/// in its way will be closed.
pub(super) struct Part {
    id: RuleId,
    entry: Entry,
    most: RawFd,
    pub(super) ports: Vec<(u16, Families, bool)>,
}

impl Part {
    /// Opens sockets from a thread on the rule's side, as far as they can be had, where `open` of
    /// the plan are open already.
    pub(super) fn open(self, how: &How, open: usize) -> PartOpened {
        let mut opened = PartOpened::default();
        let fatal = !self.entry.rule.weak;
        // A sealed process gets no more memory.
        if let Some(&(port, ..)) = self.ports.first()
            && !alloc::has_room_for((open + CHUNK) * LATER)
        {
            opened.lack =
                Some(Lack { port, error: Errno::NOMEM.into(), fatal, exhausted: true, hopeless: false });
            return opened;
        }
        for (port, families, is_going) in self.ports {
            let place = Place { rule: self.id, port };
            let result = Listener::open(place, &self.entry, &How { families, ..how.clone() });
            match result.and_then(|listeners| within(listeners, self.most)) {
                Ok(listeners) => opened.open.extend(listeners),
                // Beside a socket that is taken over, on a host without IPv6.
                Err(error)
                    if families != how.families
                        && Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => {}
                Err(error) if is_going && Errno::from_io_error(&error) == Some(Errno::ADDRINUSE) => {
                    opened.late.push(place);
                }
                Err(error) => {
                    let errno = Errno::from_io_error(&error);
                    let exhausted = matches!(errno, Some(Errno::MFILE | Errno::NFILE));
                    // It is no port that can't be had, but the address or the interface.
                    let hopeless = matches!(errno, Some(Errno::ADDRNOTAVAIL | Errno::NODEV));
                    opened.lack = Some(Lack { port, error, fatal, exhausted, hopeless });
                    if fatal || exhausted || hopeless {
                        break;
                    }
                }
            }
        }
        opened
    }
}

/// The sockets that were opened, if their descriptors are below `most`.
fn within(opened: Vec<Listener>, most: RawFd) -> io::Result<Vec<Listener>> {
    let last = opened.iter().map(|listener| listener.fd.as_raw_fd()).max();
    if last < Some(most) { Ok(opened) } else { Err(Errno::MFILE.into()) }
}
