//! Floor `forward`: which sockets listen where, and why.
//!
//! Rules are in one [table]. Some name ports, which are opened when the rule is added. Others
//! follow what listens on the other side: once a second each side is asked for its
//! services, and sockets are opened and closed as these come and go. What is done with
//! connections and datagrams that come in is the business of [`protocols`](crate::protocols).

mod apply;
mod bounds;
pub mod by_port;
mod detect;
mod follow;
pub mod listener;
mod plan;
mod ports;
pub(crate) mod pressure;
pub(crate) mod registry;
pub mod rule;
pub(crate) mod stock;
pub mod table;
mod task;
mod watched;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use passt_proto::addr::Addr;
use passt_proto::guest::Guest;
use passt_proto::time::{Duration, Instant};
use passt_sys::alloc;
use passt_sys::dgram::Inbox;
use passt_sys::namespace::Resident;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::{self, option};
use rustix::io::Errno;

pub use self::apply::{Applied, Apply, Changes, Progress};
pub(crate) use self::apply::{HANDED_OVER, LATER};
pub(crate) use self::bounds::{Arrival, Bounds};
use self::detect::Listing;
use self::follow::Todo;
pub(crate) use self::listener::Across;
use self::listener::How;
pub use self::listener::{ListenOptions, Listener};
pub use self::plan::{Change, Extent, MAX_RULES, Outcome, Plan, Reason, Refusal};
pub(crate) use self::ports::Occupied;
pub use self::ports::{Context, Ports};
use self::registry::Registry;
pub(crate) use self::registry::{Ours, PortNote, Purpose, Sender};
use self::rule::{Families, PortRange};
pub use self::table::{Conflict, Entry, Place, RuleId, Rules};
use self::table::{Heard, Service};
use self::task::Left;
pub(crate) use self::task::Room;
pub use self::watched::{Listeners, Watched};
use crate::flow::{Protocol, Side};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[
    Call::any(Sysno::bind),
    Call::any(Sysno::fstat),
    // Interfaces are named by rules, and come and go.
    Call::only(Sysno::ioctl, &[&[(1, socket::INTERFACE_INDEX)]]),
    Call::any(Sysno::listen),
    // Where `sock_diag` is not to be had.
    Call::any(Sysno::pread64),
    Call::only(
        Sysno::setsockopt,
        &[
            option::IP_FREEBIND,
            option::IP_MULTICAST_ALL,
            option::IPV6_V6ONLY,
            option::SO_BINDTODEVICE,
            option::SO_KEEPALIVE,
            option::SO_OOBINLINE,
            option::SO_REUSEADDR,
            option::SO_REUSEPORT,
            option::TCP_NODELAY,
        ],
    ),
    Call::only(Sysno::socket, socket::SOCKETS),
];

/// How often each side is asked what listens there.
const INTERVAL: Duration = Duration::from_secs(1);
/// Services of one side that are followed; no more are looked at.
const SERVICES: usize = 1 << 16;
/// Sockets opened or closed before others get their turn, and memory is looked at again.
const CHUNK: usize = 64;
/// When a port that couldn't be had is tried again, if nothing else changes.
const RETRY: Duration = Duration::from_secs(10);

/// A plan was made for a table that has changed since: nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Forwarding rules have changed meanwhile")]
pub struct Stale;

/// Forwarding rules, the sockets that listen for them, and what they follow. There is one for all
/// workers, which are told of each change.
#[derive(Debug, Default)]
pub struct Forward {
    rules: Rules,
    options: ListenOptions,
    sockets: Registry,
    detection: Option<Detection>,
    /// A rule follows what listens.
    follows: bool,
}

#[derive(Debug)]
struct Detection {
    host: Listing,
    namespace: Listing,
    heard: Heard,
    /// What is being read, to be compared with what was heard before.
    scratch: Vec<Service>,
    due: Instant,
    /// Addresses of the guest when it was decided what to listen on.
    guest: Vec<Addr>,
    /// When to try again what couldn't be opened.
    retry: Option<Instant>,
    /// What is to be closed and opened now, a part at a time.
    todo: Todo,
    /// The user was told of ports that are left out.
    told: bool,
    /// The table's version when it was decided what to listen on.
    version: u64,
}

impl Forward {
    /// No rules yet.
    pub fn new(options: ListenOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Sockets of ours, which this does not follow.
    pub(crate) fn ours(&self) -> Ours {
        self.sockets.ours.clone()
    }

    /// The rules that are in effect.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What changes amount to, which changes nothing yet.
    pub fn plan(&self, changes: impl IntoIterator<Item = Change>) -> Plan {
        self.rules.plan(changes, self.options.families)
    }

    /// Adds a change to a plan; what it amounts to.
    pub(crate) fn extend(&self, plan: &mut Plan, change: Change) -> Outcome {
        plan.change(&self.rules, change, self.options.families)
    }

    /// Begins to open the sockets that a plan needs, as far as there is room. Rules that follow
    /// what listens elsewhere have none yet.
    pub(crate) fn apply(&self, plan: Plan, room: Room) -> Apply {
        Apply::new(plan, &self.sockets, self.options, room, self.detection.is_some())
    }

    /// The same before there is a loop: opens all sockets from the calling thread, which is on the
    /// side of every rule.
    pub fn apply_here(&self, plan: Plan) -> Applied {
        let room = Room { most: RawFd::MAX, weak: pressure::for_ports() };
        let mut apply = Apply::new(plan, &self.sockets, self.options, room, true);
        apply.here(&self.rules);
        apply.finish()
    }

    /// Puts a plan into effect, of which nothing is in the place of another's: returns what is to
    /// be done to sockets now.
    pub fn commit(&mut self, applied: Applied) -> Result<Changes, Stale> {
        if !self.is_current(&applied) {
            return Err(Stale);
        }
        let Applied { mut rules, delete, open, .. } = applied;
        Ok(Changes { close: self.take_effect(&mut rules, &delete), open })
    }

    /// Has these be the rules from now on, in exchange for the former ones; the numbers of sockets
    /// whose rules are gone.
    pub(crate) fn take_effect(&mut self, rules: &mut Rules, delete: &BTreeSet<RuleId>) -> Vec<u32> {
        // Those that follow services may have got more since the plan was applied.
        let gone = |(number, l): (u32, &Listener)| delete.contains(&l.place.rule).then_some(number);
        let close = self.sockets.iter().filter_map(gone).collect();
        self.follows = rules.follow();
        std::mem::swap(&mut self.rules, rules);
        close
    }

    /// Whether the rules are those that it was planned for, and the sockets that it takes over are
    /// there.
    pub(crate) fn is_current(&self, applied: &Applied) -> bool {
        let is_there = |(number, _): &(u32, Place)| self.sockets.get(*number).is_some();
        applied.base == self.rules.version
            && applied.takes.iter().all(is_there)
            && self.sockets.iter().all(|(number, listener)| applied.knows(number, listener))
    }

    /// Has a socket listen for the rule of `applied` at this place; its number from now on.
    pub(crate) fn hand_over(
        &mut self,
        applied: &Applied,
        (number, place): (u32, Place),
    ) -> Option<(u32, Arc<Listener>)> {
        self.sockets.hand_over(number, place, applied.rules.get(place.rule)?)
    }

    /// Sockets of rules that `applied` deletes which are in the way of `place`, by the addresses of
    /// their rules.
    pub(crate) fn in_the_way(&self, applied: &Applied, place: Place) -> Vec<(u32, Former)> {
        let Some((new, ports)) = applied.rules.get(place.rule).zip(PortRange::new(place.port, place.port))
        else {
            return Vec::new();
        };
        let meets = |left: &&Left| {
            self.rules.get(left.rule).is_some_and(|old| old.rule.listen.meets(&new.rule.listen))
        };
        let former = |left: &Left| {
            let place = Place { rule: left.rule, port: left.port() };
            (left.number, Former { place, families: left.families })
        };
        applied.leaving.meeting(new, ports).filter(meets).map(former).collect()
    }

    /// Whether a socket listens that has this number.
    pub(crate) fn is_open(&self, number: u32) -> bool {
        self.sockets.get(number).is_some()
    }

    /// Opens what a rule of `applied` needs at this place, from the calling thread.
    pub(crate) fn open(&self, applied: &Applied, place: Place) -> io::Result<Vec<Listener>> {
        let entry = applied.rules.get(place.rule).ok_or(Errno::INVAL)?;
        Listener::open(place, entry, &How::new(self.options, &self.sockets.ours))
    }

    /// Opens again what was closed, from the calling thread.
    pub(crate) fn reopen(&self, Former { place, families }: Former) -> io::Result<Vec<Listener>> {
        let entry = self.rules.get(place.rule).ok_or(Errno::INVAL)?;
        let options = ListenOptions { families, ..self.options };
        Listener::open(place, entry, &How::new(options, &self.sockets.ours))
    }

    /// Notes that a socket listens; its number for the workers.
    pub(crate) fn begun(&mut self, listener: Listener) -> (u32, Arc<Listener>) {
        self.sockets.insert(listener)
    }

    /// Notes that a socket listens under a number that the one had for which it stands.
    pub(crate) fn begun_again(&mut self, number: u32, listener: Listener) -> Arc<Listener> {
        self.sockets.insert_as(number, listener)
    }

    /// Notes that a socket listens no more.
    pub(crate) fn ended(&mut self, number: u32) -> Option<Arc<Listener>> {
        self.sockets.remove(number)
    }

    /// How many sockets listen for a rule.
    pub(crate) fn sockets_of(&self, rule: RuleId) -> usize {
        self.sockets.count(rule)
    }

    /// When [`Forward::poll`] has something to do, if the thread in the namespace has done nothing
    /// before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let detection = self.detection.as_ref()?;
        match &detection.todo {
            todo if todo.is_done() && detection.version != self.rules.version => Some(Instant::ZERO),
            todo if todo.is_done() => self.follows.then_some(detection.due),
            todo if todo.has_own() => Some(Instant::ZERO),
            _ => None,
        }
    }

    /// Whether the thread in the namespace is opening sockets.
    pub(crate) fn awaits_namespace(&self) -> bool {
        self.detection.as_ref().is_some_and(|detection| detection.todo.pending.is_some())
    }
}

/// A socket that was closed, as it is to be opened again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Former {
    pub(crate) place: Place,
    families: Families,
}

/// What the rest of the process has to do with ports that follow services.
pub(crate) struct Around<'a> {
    pub(crate) now: Instant,
    pub(crate) guest: &'a Guest,
    /// The thread in the namespace.
    pub(crate) inside: Option<&'a Resident>,
    /// Listening sockets at most.
    pub(crate) ports: usize,
    /// Descriptors from this number on are not for ports.
    pub(crate) kept: RawFd,
}

impl Forward {
    /// Whether there is something to be followed.
    pub(crate) fn follows(&self) -> bool {
        self.follows
    }

    /// Opens what tells of services on either side, if that was not done before. An error where
    /// there is no way into the namespace (`ENETUNREACH`), or of socket(7).
    pub(crate) fn prepare_to_follow(&mut self, around: &Around<'_>) -> io::Result<()> {
        if self.detection.is_some() {
            return Ok(());
        }
        let inside = around.inside.ok_or(Errno::NETUNREACH)?;
        let (host, namespace) = (Listing::open()?, inside.run(Listing::open)??);
        let services = || Vec::with_capacity(SERVICES);
        self.detection = Some(Detection {
            host,
            namespace,
            heard: Heard { host: services(), namespace: services() },
            scratch: services(),
            due: around.now,
            guest: around.guest.addresses().collect(),
            retry: None,
            todo: Todo::default(),
            told: false,
            version: self.rules.version,
        });
        Ok(())
    }

    /// Waits for the thread in the namespace, if it is opening sockets.
    pub(crate) fn wait(&mut self) {
        if let Some(detection) = &mut self.detection {
            detection.todo.wait();
        }
    }

    /// Asks what listens, and says what is to be done to our own sockets, a part at a time. Nothing
    /// here is fatal, and nothing waits. Messages of the kernel are read by way of `inbox`.
    pub(crate) fn poll(&mut self, around: &Around<'_>, inbox: &mut Inbox) -> Changes {
        let due = self.due();
        let Some(mut detection) = self.detection.take() else { return Changes::default() };
        if detection.todo.is_done() && due.is_some_and(|due| due <= around.now) {
            detection.look(self, around, inbox);
        }
        let mut changes = Changes::default();
        if !detection.todo.is_done() {
            changes = detection.todo.go_on(self, around);
            if detection.todo.is_done() {
                detection.retry = detection.todo.lacks().then(|| around.now + RETRY);
                let left_out = detection.todo.left_out();
                if left_out > 0 && !std::mem::replace(&mut detection.told, true) {
                    log::warn!(
                        "{left_out} ports of services are not forwarded: connections need the other descriptors"
                    );
                }
            }
        }
        self.detection = Some(detection);
        changes
    }

    /// A socket that [`Forward::poll`] opened can't be used: it is tried again.
    pub(crate) fn lacks(&mut self, now: Instant) {
        if let Some(detection) = &mut self.detection {
            detection.retry = Some(now + RETRY);
            detection.todo.lack();
        }
    }
}

impl Detection {
    /// Finds out what should be opened and closed, if that is something else than before.
    fn look(&mut self, forward: &Forward, around: &Around<'_>, inbox: &mut Inbox) {
        self.due = around.now + INTERVAL;
        let moved = !around.guest.addresses().eq(self.guest.iter().copied());
        if moved {
            self.guest.clear();
            self.guest.extend(around.guest.addresses());
        }
        let version = std::mem::replace(&mut self.version, forward.rules.version);
        let changed = self.listen(forward, inbox) || moved || version != self.version;
        let again = self.retry.is_some_and(|at| at <= around.now);
        if (changed || again) && !alloc::has_room() {
            self.retry = Some(around.now + RETRY);
        } else if changed || again {
            let Forward { rules, options, sockets, .. } = forward;
            let mut wanted = rules.wanted(&self.heard, around.guest, options.families);
            let all = wanted.len();
            let following = rules.following();
            let fixed = sockets.len() - following.iter().map(|&id| sockets.count(id)).sum::<usize>();
            table::fit(&mut wanted, around.ports.saturating_sub(fixed));
            let left_out = all - wanted.len();
            self.todo = Todo::new(forward, &following, wanted, left_out);
            self.retry = None;
        }
    }

    /// Finds out what listens; whether that is something else than before. A side
    /// that doesn't answer is taken to be as it was.
    fn listen(&mut self, forward: &Forward, inbox: &mut Inbox) -> bool {
        let Self { host, namespace, heard, scratch, .. } = self;
        let mut changed = false;
        let sides = [(Side::Host, host, &mut heard.host), (Side::Namespace, namespace, &mut heard.namespace)];
        for (side, source, known) in sides {
            scratch.clear();
            let interest = forward.rules.interest(side);
            let udp = |service: &Service| {
                (service.protocol == Protocol::Udp).then_some((service.port, !service.addr.is_v4()))
            };
            let ours = |service: &Service, inode| forward.sockets.ours.is_ours(inode, side, udp(service));
            match source.read(interest, inbox, ours, scratch) {
                Ok(()) if scratch != known => {
                    std::mem::swap(known, scratch);
                    changed = true;
                }
                Ok(()) => {}
                Err(error) => log::debug!("What listens, {}: {error}", table::side_name(side)),
            }
        }
        changed
    }
}
