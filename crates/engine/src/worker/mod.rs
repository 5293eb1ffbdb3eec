//! The worker: one link, its flows, timers and descriptors, and the loop over them.
//!
//! A worker shares nothing mutable with anything else. Its clock is read once a
//! round, here; everything below is told the time.

mod chores;
mod context;
mod counters;
mod external;
mod memory;
mod queue;

use std::io;
use std::mem::MaybeUninit;

use passt_proto::drop::DropReason;
use passt_proto::time::{Duration, Instant};
use passt_sys::seccomp::{Call, Sysno};
use rustix::event::epoll::{self, EventFlags};

pub use context::{Context, Options, Protocols, Token};
pub use counters::{Counters, Traffic};
pub use external::External;

use self::chores::Chores;
use crate::clock::clock;
use crate::flow::{Flow, Handle, Key, Table};
use crate::forward::Listener;
use crate::link::Link;
use crate::{forward, from_guest, host};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[
    // Where the machine's clock is out of reach for user space: no `kvm-clock` or TSC.
    Call::any(Sysno::clock_gettime),
    Call::any(Sysno::epoll_ctl),
    Call::any(Sysno::epoll_pwait),
    Call::any(Sysno::exit_group),
];

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// The engine.
pub struct Worker<L> {
    ctx: Context<L>,
    flows: Table<Flow>,
    chores: Chores,
}

/// Why the loop ended.
#[derive(Debug)]
pub enum Exit {
    /// Something outside of the engine asked for it.
    External(u32),
    /// The link is gone; another client may come.
    Link(io::Error),
}

impl<L: Link> Worker<L> {
    /// An engine on `link`.
    pub fn new(link: L, options: &Options, now: Instant) -> io::Result<Self> {
        let (flows, pools) = memory::reserve(options, now)?;
        let mut ctx = Context::new(link, options, now, pools)?;
        ctx.watch_link()?;
        let chores = Chores::new(options, now);
        Ok(Self { ctx, flows, chores })
    }

    /// Forwards the ports of listening sockets from now on.
    pub fn listen(&mut self, listeners: Vec<Listener>) -> io::Result<()> {
        listeners.into_iter().try_for_each(|listener| self.ctx.listen(listener))
    }

    /// A guest has come to a link that had none: watches the link's descriptor, and has the guest
    /// told what it would have been told at the start.
    pub fn greet(&mut self) -> io::Result<()> {
        self.chores.greet(self.ctx.now);
        self.ctx.watch_link()
    }

    /// Everything but the flows.
    pub fn context(&mut self) -> &mut Context<L> {
        &mut self.ctx
    }

    /// Flows and context, for what begins flows.
    pub fn parts(&mut self) -> (&mut Context<L>, &mut Table<Flow>) {
        (&mut self.ctx, &mut self.flows)
    }

    /// Runs until `external` says so, or the link fails.
    pub fn run(&mut self, mut external: impl External<L>) -> Exit {
        loop {
            let due = self.next_timeout().into_iter().chain(external.due()).min();
            let wait = due.map(|due| due.since(clock()));
            match self.round(wait, clock, &mut external) {
                Ok(None) => {}
                Ok(Some(number)) => return Exit::External(number),
                Err(e) => return Exit::Link(e),
            }
        }
    }

    /// One round at a time given by the caller, without waiting: for tests with a clock of their own.
    pub fn turn(&mut self, now: Instant) -> io::Result<()> {
        self.ctx.now = now;
        self.link_readable()?;
        self.round(Some(Duration::ZERO), || now, &mut |_: u32, _: &mut Context<L>| false).map(drop)
    }

    /// When [`Worker::turn`] has something to do, if nothing happens before.
    pub fn next_timeout(&self) -> Option<Instant> {
        let resumes = !self.ctx.waiting.is_empty() && !self.ctx.link.is_congested();
        if resumes || !self.ctx.ready.is_empty() || self.ctx.tcp.has_late() {
            return Some(self.ctx.now);
        }
        let Context { timers, forward, pressure, .. } = &self.ctx;
        let postponed = self.ctx.postponed_until();
        let dues = [timers.next(), self.chores.due(), forward.due(), pressure.due(), postponed];
        dues.into_iter().flatten().min()
    }

    fn round(
        &mut self,
        wait: Option<Duration>,
        clock: impl Fn() -> Instant,
        external: &mut impl External<L>,
    ) -> io::Result<Option<u32>> {
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let wait = wait.map(|d| rustix::event::Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        let events = match epoll::wait(self.ctx.epoll(), &mut events, wait.as_ref()) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        self.ctx.now = clock();
        self.ctx.counters.rounds += 1;
        // What flows are told would not be repeated to them: no end keeps the other events waiting.
        let (mut link, mut external_end) = (Ok(()), None);
        for event in events {
            let flags = event.flags;
            match Token::decode(event.data.u64()) {
                // Room for what is queued, which is sent at the end of the round.
                Token::Link if flags == EventFlags::OUT => {}
                Token::Link => link = self.link_readable(),
                Token::Flow(handle) => {
                    self.flow(handle, |ctx, handle, key, flow| host::event(ctx, handle, key, flow, flags));
                }
                Token::Second(handle) => self
                    .flow(handle, |ctx, handle, key, flow| host::second_event(ctx, handle, key, flow, flags)),
                Token::External(number) if external.ready(number, &mut self.ctx) => {
                    external_end = Some(number)
                }
                Token::External(_) => {}
                Token::Inside => self.inside(),
                Token::Listener(number) => {
                    host::listen::event(&mut self.ctx, &mut self.flows, number, flags);
                }
            }
        }
        if let Some(number) = self.ctx.take_postponed()
            && external.ready(number, &mut self.ctx)
        {
            external_end = Some(number);
        }
        host::tcp::end_round(&mut self.ctx, &mut self.flows);
        for _ in 0..self.ctx.ready.len() {
            let Some(index) = self.ctx.ready.pop() else { break };
            if let Some(handle) = self.flows.at(index) {
                self.flow(handle, host::again);
            }
        }
        while let Some(index) = self.ctx.timers.pop(self.ctx.now) {
            if let Some(handle) = self.flows.at(index) {
                self.flow(handle, host::timeout);
            }
        }
        self.chores.run(&mut self.ctx);
        if external.due().is_some_and(|due| due <= self.ctx.now) {
            external.tick(&mut self.ctx, self.flows.count());
        }
        if self.ctx.forward.due().is_some_and(|due| due <= self.ctx.now) {
            forward::poll(&mut self.ctx);
        }
        host::listen::resume(&mut self.ctx, &mut self.flows);
        self.flush()?;
        external_end.map_or(link.map(|()| None), |number| Ok(Some(number)))
    }

    /// Sends what the link queued, then calls flows that wait for room there, as long as there is some:
    /// here, before others take it in the next round.
    fn flush(&mut self) -> io::Result<()> {
        self.ctx.flush_link()?;
        if self.ctx.waiting.is_empty() {
            return Ok(());
        }
        for _ in 0..self.ctx.waiting.len() {
            if self.ctx.link.is_congested() {
                break;
            }
            let Some(index) = self.ctx.waiting.pop() else { break };
            if let Some(handle) = self.flows.at(index) {
                self.flow(handle, host::resume);
            }
        }
        self.ctx.flush_link()
    }

    /// The thread in the namespace has done something. Who waited for sockets goes on at the end of the round.
    fn inside(&mut self) {
        if let Some(inside) = &self.ctx.inside {
            self.ctx.sockets.collect(inside);
        }
        forward::poll(&mut self.ctx);
    }

    /// Whether something waits for the thread in the namespace: for tests with a clock of their own.
    pub fn awaits_namespace(&self) -> bool {
        self.ctx.pressure.awaits_sockets() || self.ctx.forward.awaits_namespace()
    }

    fn link_readable(&mut self) -> io::Result<()> {
        from_guest::receive(&mut self.ctx, &mut self.flows)
    }

    /// Has something done with a flow, and removes the flow if that ended it.
    fn flow(
        &mut self,
        handle: Handle,
        f: impl FnOnce(&mut Context<L>, Handle, &Key, &mut Flow) -> host::Verdict,
    ) {
        host::with_flow(&mut self.ctx, &mut self.flows, handle, f);
    }

    /// How often something was dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.ctx.counters.drops(reason)
    }

    /// Number of flows.
    pub fn flow_count(&self) -> usize {
        self.flows.count()
    }
}
