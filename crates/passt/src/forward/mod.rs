//! Forwarded ports: which sockets listen where, and why.
//!
//! Rules are in one [table]. Some name ports, which are opened when the rule is added. Others
//! follow what listens on the other side: once a second each side is asked for its
//! services, and sockets are opened and closed as these come and go. What is done with
//! connections and datagrams that come in is the business of [`host`](crate::host).

mod detect;
pub mod listener;
pub(crate) mod pressure;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use passt_proto::addr::Addr;
use passt_proto::time::{Duration, Instant};
use passt_sys::alloc;
use passt_sys::namespace::{self, Resident};
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;

use self::detect::Source;
pub use self::listener::{Listener, Listeners, Options};
pub use self::table::{Conflict, Entry, Place, RuleId, Rules};
use self::table::{Heard, Service};
use crate::cli::{Families, Rule};
use crate::flow::{Protocol, Side};
use crate::link::Link;
use crate::worker::Context;

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[
    Call::any(Sysno::bind),
    Call::any(Sysno::fstat),
    Call::only(Sysno::ioctl, &[&[(1, INTERFACE_INDEX)]]),
    Call::any(Sysno::listen),
    // Where `sock_diag` is not to be had.
    Call::any(Sysno::pread64),
    Call::only(
        Sysno::setsockopt,
        &[
            option::IP_FREEBIND,
            option::IPV6_V6ONLY,
            option::SO_BINDTODEVICE,
            option::SO_KEEPALIVE,
            option::SO_OOBINLINE,
            option::SO_REUSEADDR,
            option::TCP_NODELAY,
        ],
    ),
    Call::only(Sysno::socket, namespace::SOCKETS),
];

/// `SIOCGIFINDEX` (`netdevice(7)`): interfaces are named by rules, and come and go.
const INTERFACE_INDEX: i64 = 0x8933;

/// How often each side is asked what listens there.
const INTERVAL: Duration = Duration::from_secs(1);
/// Services of one side that are followed; no more are looked at.
const SERVICES: usize = 1 << 16;
/// Sockets opened before memory is looked at again.
const CHUNK: usize = 256;
/// When a port that couldn't be had is tried again, if nothing else changes.
const RETRY: Duration = Duration::from_secs(10);

/// Why a rule is of no effect.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It meets another one.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Its ports can't be had; which ones was logged.
    #[error("Couldn't listen on requested ports")]
    Listen,
}

/// Forwarding rules, and what they follow.
#[derive(Debug, Default)]
pub struct Forward {
    rules: Rules,
    options: Options,
    detection: Option<Detection>,
}

#[derive(Debug)]
struct Detection {
    host: Source,
    namespace: Source,
    heard: Heard,
    /// What is being read, to be compared with what was heard before.
    scratch: Vec<Service>,
    due: Instant,
    /// Addresses of the guest when it was decided what to listen on.
    guest: [Option<Addr>; 5],
    /// When to try again what couldn't be opened.
    retry: Option<Instant>,
}

impl Forward {
    /// No rules yet.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// Adds rules, and opens their ports from a thread on their side. Those that follow what listens elsewhere
    /// have none yet.
    pub fn open(&mut self, side: Side, protocol: Protocol, rules: Vec<Rule>) -> Result<Vec<Listener>, Error> {
        let (mut opened, mut lacking) = (Vec::new(), Vec::new());
        for entry in rules.into_iter().map(|rule| Entry { side, protocol, rule }) {
            let id = self.rules.add(entry.clone())?;
            let (mut listeners, refused) = listener::open(id, &entry, self.options);
            match refused {
                Some(refused) if refused.fatal => {
                    refused.warn(&entry);
                    return Err(Error::Listen);
                }
                Some(refused) if listeners.is_empty() => lacking.push((entry, refused)),
                Some(refused) if refused.exhausted => {
                    refused.warn(&entry);
                    opened.append(&mut listeners);
                }
                _ => opened.append(&mut listeners),
            }
        }
        // What is left out of a range makes several of it: one port of all of them is enough.
        let listen = |l: &Listener| self.rules.get(l.place.rule).map(|entry| &entry.rule.listen);
        for (entry, refused) in lacking {
            if !opened.iter().any(|l| listen(l) == Some(&entry.rule.listen)) {
                refused.warn(&entry);
                return Err(Error::Listen);
            }
        }
        Ok(opened)
    }

    /// When [`poll`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.detection.as_ref().map(|detection| detection.due)
    }
}

/// Begins to follow what listens on either side, if a rule asks for that. What listens now is forwarded when
/// this returns.
pub fn follow<L: Link>(ctx: &mut Context<L>) -> io::Result<()> {
    let follows = [Side::Host, Side::Namespace].iter().any(|&side| ctx.forward.rules.interest(side).tcp);
    if let Some(inside) = ctx.inside.as_ref().filter(|_| follows) {
        let services = || Vec::with_capacity(SERVICES);
        ctx.forward.detection = Some(Detection {
            host: Source::open()?,
            namespace: inside.run(Source::open)??,
            heard: Heard { host: services(), namespace: services() },
            scratch: services(),
            due: ctx.now,
            guest: ctx.map.guest(),
            retry: None,
        });
        poll(ctx);
    }
    Ok(())
}

/// Asks what listens, and adjusts our own sockets to it. Nothing here is fatal.
pub(crate) fn poll<L: Link>(ctx: &mut Context<L>) {
    let Some(mut detection) = ctx.forward.detection.take() else { return };
    detection.due = ctx.now + INTERVAL;
    let moved = detection.guest != ctx.map.guest();
    detection.guest = ctx.map.guest();
    let changed = detection.listen(ctx) || moved;
    let again = detection.retry.is_some_and(|at| at <= ctx.now);
    if (changed || again) && !alloc::has_room() {
        detection.retry = Some(ctx.now + RETRY);
    } else if changed || again {
        let Forward { rules, options, .. } = &ctx.forward;
        let wanted = rules.wanted(&detection.heard, &ctx.map, options.families);
        let complete = adjust(ctx, wanted);
        detection.retry = (!complete).then(|| ctx.now + RETRY);
    }
    ctx.forward.detection = Some(detection);
}

impl Detection {
    /// Finds out what listens; whether that is something else than before. A side
    /// that doesn't answer is taken to be as it was.
    fn listen<L: Link>(&mut self, ctx: &mut Context<L>) -> bool {
        let Self { host, namespace, heard, scratch, .. } = self;
        let mut changed = false;
        let sides = [(Side::Host, host, &mut heard.host), (Side::Namespace, namespace, &mut heard.namespace)];
        for (side, source, known) in sides {
            scratch.clear();
            let interest = ctx.forward.rules.interest(side);
            let ours = |inode| ctx.listeners.is_ours(inode);
            match source.read(interest, &mut ctx.udp.inbox, ours, scratch) {
                Ok(()) if scratch != known => {
                    std::mem::swap(known, scratch);
                    changed = true;
                }
                Ok(()) => {}
                Err(error) => log::debug!("What listens ({side:?}): {error}"),
            }
        }
        changed
    }
}

/// Closes sockets that follow what is gone, opens those wanted. False if some can't be had now.
fn adjust<L: Link>(ctx: &mut Context<L>, mut wanted: BTreeMap<Place, Families>) -> bool {
    let rules = &ctx.forward.rules;
    let follows = |l: &&Listener| rules.get(l.place.rule).is_some_and(|entry| entry.rule.scan);
    let kept = |l: &Listener| wanted.get(&l.place) == Some(&l.families);
    let following = || ctx.listeners.iter().filter(|(_, l)| follows(l));
    let stale: Vec<u32> = following().filter(|(_, l)| !kept(l)).map(|(number, _)| number).collect();
    let kept: BTreeSet<Place> = following().filter(|(_, l)| kept(l)).map(|(_, l)| l.place).collect();
    wanted.retain(|place, _| !kept.contains(place));
    for number in stale {
        if let Some(listener) = ctx.listeners.remove(number) {
            log::debug!("{listener}: closed");
        }
    }
    let wanted: Vec<(Place, Families)> = wanted.into_iter().collect();
    let mut complete = true;
    for wanted in wanted.chunks(CHUNK) {
        complete &= alloc::has_room() && open(ctx, wanted);
    }
    complete
}

/// Opens sockets for what is wanted. False if some can't be had now.
fn open<L: Link>(ctx: &mut Context<L>, wanted: &[(Place, Families)]) -> bool {
    let job = |&(place, families): &(Place, Families)| {
        let options = Options { families, ..ctx.forward.options };
        Some(Job { place, entry: ctx.forward.rules.get(place.rule)?.clone(), options })
    };
    let jobs = wanted.iter().filter_map(job);
    let (host, namespace) = jobs.partition(|job| job.entry.side == Side::Host);
    let opened = Job::all(host).into_iter().chain(inside(ctx.inside.as_ref(), namespace));
    let mut complete = true;
    for result in opened.collect::<Vec<_>>() {
        let listening = result.and_then(|listeners: Vec<Listener>| {
            listeners.into_iter().try_for_each(|listener| {
                log::debug!("{listener}: opened");
                ctx.listen(listener)
            })
        });
        complete &= listening.is_ok();
    }
    complete
}

/// A socket to be opened.
struct Job {
    place: Place,
    entry: Entry,
    options: Options,
}

type Opened = io::Result<Vec<Listener>>;

impl Job {
    /// Opens sockets in the calling thread's namespace.
    fn all(jobs: Vec<Self>) -> Vec<Opened> {
        jobs.into_iter().map(Self::open).collect()
    }

    fn open(self) -> Opened {
        let Self { place, entry, options } = self;
        let opened = Listener::open(place, &entry, options);
        if let Err(error) = &opened {
            log::debug!("{:?} {:?} port {}: {error}", entry.side, entry.protocol, place.port);
        }
        opened
    }
}

/// Opens sockets in the namespace.
fn inside(inside: Option<&Resident>, jobs: Vec<Job>) -> Vec<Opened> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let opened = inside.and_then(|inside| inside.run(move || Job::all(jobs)).ok());
    opened.unwrap_or_else(|| vec![Err(io::ErrorKind::BrokenPipe.into())])
}
