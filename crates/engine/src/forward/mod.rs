//! Forwarded ports: which sockets listen where, and why.
//!
//! Rules are in one [table]. Some name ports, which are opened when the rule is added. Others
//! follow what listens on the other side: once a second each side is asked for its
//! services, and sockets are opened and closed as these come and go. What is done with
//! connections and datagrams that come in is the business of [`protocols`](crate::protocols).

mod apply;
mod detect;
mod follow;
pub mod listener;
mod plan;
mod ports;
pub(crate) mod pressure;
pub mod rule;
pub(crate) mod stock;
pub mod table;

use std::io;
use std::os::fd::RawFd;

use passt_proto::addr::Addr;
use passt_proto::time::{Duration, Instant};
use passt_sys::alloc;
use passt_sys::namespace;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use rustix::io::Errno;

pub use self::apply::{Applied, Apply, Changes, Progress};
use self::detect::Source;
use self::follow::Todo;
pub use self::listener::{Listener, Listeners, Options};
pub use self::plan::{Change, Extent, MAX_RULES, Plan, Reason, Refusal};
pub(crate) use self::ports::Occupied;
pub use self::ports::{Context, Ports, Uncommitted};
pub use self::table::{Conflict, Entry, Place, RuleId, Rules};
use self::table::{Heard, Service};
use crate::flow::Side;
use crate::link::Link;

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
/// Sockets opened or closed before others get their turn, and memory is looked at again.
const CHUNK: usize = 64;
/// When a port that couldn't be had is tried again, if nothing else changes.
const RETRY: Duration = Duration::from_secs(10);

/// A plan was made for a table that has changed since: nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Forwarding rules have changed meanwhile")]
pub struct Stale;

/// Forwarding rules, and what they follow.
#[derive(Debug, Default)]
pub struct Forward {
    rules: Rules,
    options: Options,
    detection: Option<Detection>,
    /// A rule follows what listens.
    follows: bool,
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
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// The rules that are in effect.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What changes amount to, which changes nothing yet.
    pub fn plan(&self, changes: impl IntoIterator<Item = Change>) -> Plan {
        self.rules.plan(changes, self.options.families)
    }

    /// Begins to open the sockets that a plan needs, beside `listeners`, with descriptors below
    /// `most`. Rules that follow what listens elsewhere have none yet.
    pub(crate) fn apply(&self, plan: Plan, listeners: &Listeners, most: RawFd) -> Apply {
        Apply::new(plan, (&self.rules, listeners), self.options, most, self.detection.is_some())
    }

    /// The same before there is a loop: opens all sockets from the calling thread, which is on the
    /// side of every rule.
    pub fn apply_here(&self, plan: Plan) -> Applied {
        let none = (&self.rules, &Listeners::default());
        let mut apply = Apply::new(plan, none, self.options, RawFd::MAX, true);
        apply.here();
        apply.finish()
    }

    /// Puts a plan into effect: returns what is to be done to `listeners` now.
    pub fn commit(&mut self, applied: Applied, listeners: &Listeners) -> Result<Changes, Stale> {
        let Applied { rules, delete, open, .. } = self.current(applied)?;
        // Those that follow services may have got more since the plan was applied.
        let gone = |(number, l): (u32, &Listener)| delete.contains(&l.place.rule).then_some(number);
        let close = listeners.iter().filter_map(gone).collect();
        self.follows = rules.follow();
        self.rules = rules;
        Ok(Changes { close, open })
    }

    /// What was applied, if the rules are those that it was planned for.
    fn current(&self, applied: Applied) -> Result<Applied, Stale> {
        if applied.base == self.rules.version { Ok(applied) } else { Err(Stale) }
    }

    /// When [`poll`] has something to do, if the thread in the namespace has done nothing before.
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

/// Begins to follow what listens on either side, if a rule asks for that. What listens now is forwarded when
/// this returns, as far as possible: nothing here is fatal.
pub fn follow<L: Link>(ctx: &mut Context<L>) {
    if !ctx.ports.forward.follows || ctx.ports.inside.is_none() {
        return;
    }
    if let Err(error) = prepare_to_follow(ctx) {
        return log::warn!("Couldn't find out what listens, so no ports follow: {error}");
    }
    poll(ctx);
    while ctx.ports.forward.due().is_none_or(|due| due <= ctx.core.now) {
        let Some(detection) = &mut ctx.ports.forward.detection else { return };
        detection.todo.wait();
        poll(ctx);
    }
}

/// Opens what tells of services on either side, if that was not done before. For rules that come
/// later: a sealed process can't. An error where there is no way into the namespace
/// (`ENETUNREACH`), or of socket(7).
pub fn prepare_to_follow<L: Link>(ctx: &mut Context<L>) -> io::Result<()> {
    if ctx.ports.forward.detection.is_some() {
        return Ok(());
    }
    let inside = ctx.ports.inside.as_ref().ok_or(Errno::NETUNREACH)?;
    let (host, namespace) = (Source::open()?, inside.run(Source::open)??);
    let services = || Vec::with_capacity(SERVICES);
    ctx.ports.forward.detection = Some(Detection {
        host,
        namespace,
        heard: Heard { host: services(), namespace: services() },
        scratch: services(),
        due: ctx.core.now,
        guest: ctx.core.guest.addresses().collect(),
        retry: None,
        todo: Todo::default(),
        told: false,
        version: ctx.ports.forward.rules.version,
    });
    Ok(())
}

/// Asks what listens, and adjusts our own sockets to it, a part at a time. Nothing here is fatal, and nothing waits.
pub(crate) fn poll<L: Link>(ctx: &mut Context<L>) {
    let due = ctx.ports.forward.due();
    let Some(mut detection) = ctx.ports.forward.detection.take() else { return };
    if detection.todo.is_done() && due.is_some_and(|due| due <= ctx.core.now) {
        detection.look(ctx);
    }
    if !detection.todo.is_done() {
        detection.todo.go_on(ctx);
        if detection.todo.is_done() {
            detection.retry = detection.todo.lacks().then(|| ctx.core.now + RETRY);
            let left_out = detection.todo.left_out();
            if left_out > 0 && !std::mem::replace(&mut detection.told, true) {
                log::warn!(
                    "{left_out} ports of services are not forwarded: connections need the other descriptors"
                );
            }
        }
    }
    ctx.ports.forward.detection = Some(detection);
}

impl Detection {
    /// Finds out what should be opened and closed, if that is something else than before.
    fn look<L: Link>(&mut self, ctx: &mut Context<L>) {
        self.due = ctx.core.now + INTERVAL;
        let moved = !ctx.core.guest.addresses().eq(self.guest.iter().copied());
        if moved {
            self.guest.clear();
            self.guest.extend(ctx.core.guest.addresses());
        }
        let version = std::mem::replace(&mut self.version, ctx.ports.forward.rules.version);
        let changed = self.listen(ctx) || moved || version != self.version;
        let again = self.retry.is_some_and(|at| at <= ctx.core.now);
        if (changed || again) && !alloc::has_room() {
            self.retry = Some(ctx.core.now + RETRY);
        } else if changed || again {
            let Forward { rules, options, .. } = &ctx.ports.forward;
            let mut wanted = rules.wanted(&self.heard, &ctx.core.guest, options.families);
            let all = wanted.len();
            let fixed =
                ctx.ports.listeners.iter().filter(|(_, listener)| !rules.follows(listener.place)).count();
            table::fit(&mut wanted, ctx.ports.pressure.ports().saturating_sub(fixed));
            let left_out = all - wanted.len();
            self.todo = Todo::new(ctx, wanted, left_out);
            self.retry = None;
        }
    }

    /// Finds out what listens; whether that is something else than before. A side
    /// that doesn't answer is taken to be as it was.
    fn listen<L: Link>(&mut self, ctx: &mut Context<L>) -> bool {
        let Self { host, namespace, heard, scratch, .. } = self;
        let mut changed = false;
        let sides = [(Side::Host, host, &mut heard.host), (Side::Namespace, namespace, &mut heard.namespace)];
        for (side, source, known) in sides {
            scratch.clear();
            let interest = ctx.ports.forward.rules.interest(side);
            let ours = |inode| ctx.ports.listeners.is_ours(inode);
            match source.read(interest, &mut ctx.core.inbox, ours, scratch) {
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
