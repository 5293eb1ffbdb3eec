//! Floor `process`: what there is once, however many workers there are: forwarding rules and what
//! they follow, the thread in the namespace, and what the guest is told by the clock.
//!
//! All of it is done by one worker, between two events. Others are told of changes:
//! the guest is [published](crate::core::Known), frames are recorded by a
//! [`Capture`](crate::core::Capture) that they share, and sockets that listen have the same numbers
//! everywhere.

mod chores;
mod settling;

use std::io;
use std::os::fd::RawFd;

use passt_proto::guest::Guest;
use passt_proto::responder;
use passt_proto::time::Instant;
use passt_sys::namespace::Resident;

use self::chores::Chores;
pub(crate) use self::settling::Settled;
use self::settling::Settling;
use crate::forward::{
    Apply, Around, Changes, Context, Forward, Listener, Plan, Ports, Progress, Refusal, Room, Stale,
};
use crate::link::Link;

/// What workers have in common.
pub struct Process {
    /// Rules of forwarded ports, and the sockets that listen for them.
    pub(crate) forward: Forward,
    /// Opens sockets in the guest's namespace; `None` without one.
    inside: Option<Resident>,
    /// What a plan does to sockets is being done.
    settling: Option<Settling>,
    /// Meanwhile the thread in the namespace has done something.
    missed: bool,
    chores: Chores,
}

/// Why a plan did not take effect; everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Uncommitted {
    /// Others were faster.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The loop can't watch the new sockets (`epoll_ctl(2)`).
    #[error("Couldn't watch ports: {0}")]
    Watch(io::Error),
    /// A port that a rule needs was not to be had once it was free.
    #[error("{0}")]
    Port(Box<Refusal>),
    /// A sealed process has no more.
    #[error("Too little memory for so many ports")]
    Memory,
}

impl Process {
    /// Without forwarded ports.
    pub(crate) fn new(services: &responder::Config, random: u64, now: Instant) -> Self {
        let chores = Chores::new(services, random, now);
        Self { forward: Forward::default(), inside: None, settling: None, missed: false, chores }
    }

    /// Has the guest asked and told at once, as at the start.
    pub(crate) fn greet(&mut self, now: Instant) {
        self.chores.greet(now);
    }

    /// When there is something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        [self.chores.due(), self.follows_at()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn run<L: Link>(&mut self, ctx: &mut Context<L>) {
        if ctx.core.guest.take_stranger() {
            self.chores.ask(ctx.core.now);
        }
        self.chores.run(&mut ctx.core);
        if self.follows_at().is_some_and(|due| due <= ctx.core.now) {
            self.poll(ctx);
        }
    }

    /// When sockets have to follow services next. One thing is done to sockets at a time.
    fn follows_at(&self) -> Option<Instant> {
        if self.settling.is_some() { None } else { self.forward.due() }
    }

    /// The thread in the namespace has done something.
    pub(crate) fn inside<L: Link>(&mut self, ctx: &mut Context<L>) {
        if let Some(supply) = &ctx.ports.supply {
            ctx.ports.stock.collect(supply);
        }
        if self.settling.is_some() {
            self.missed = true;
        } else {
            self.poll(ctx);
        }
    }

    /// Whether the thread in the namespace is opening sockets.
    pub(crate) fn awaits_namespace(&self) -> bool {
        self.forward.awaits_namespace()
    }

    /// Has sockets of the guest's namespace opened by this thread from now on, or none.
    pub(crate) fn enter<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        inside: Option<Resident>,
    ) -> io::Result<()> {
        ctx.enter(inside.as_ref().map(Resident::supply))?;
        self.inside = inside;
        Ok(())
    }

    /// Forwards what comes in through a socket from now on.
    pub(crate) fn listen<L: Link>(&mut self, ctx: &mut Context<L>, listener: Listener) -> io::Result<u32> {
        let (number, listener) = self.forward.begun(listener);
        let watched = ctx.listen(number, listener);
        if watched.is_err() {
            self.forward.ended(number);
        }
        watched.map(|()| number)
    }

    /// Forwards nothing more that comes in through some sockets.
    fn close<L: Link>(&mut self, ctx: &mut Context<L>, numbers: &[u32]) {
        for &number in numbers {
            self.forward.ended(number);
            ctx.close(number);
        }
    }

    /// Begins to follow what listens on either side, if a rule asks for that. What listens now is
    /// forwarded when this returns, as far as possible: nothing here is fatal.
    pub(crate) fn follow<L: Link>(&mut self, ctx: &mut Context<L>) {
        if !self.forward.follows() || self.inside.is_none() {
            return;
        }
        if let Err(error) = self.prepare_to_follow(ctx) {
            return log::warn!("Couldn't find out what listens, so no ports follow: {error}");
        }
        self.poll(ctx);
        while self.forward.due().is_none_or(|due| due <= ctx.core.now) {
            self.forward.wait();
            self.poll(ctx);
        }
    }

    /// Opens what tells of services on either side, if that was not done before. For rules that
    /// come later: a sealed process can't. An error where there is no way into the namespace
    /// (`ENETUNREACH`), or of socket(7).
    pub(crate) fn prepare_to_follow<L: Link>(&mut self, ctx: &Context<L>) -> io::Result<()> {
        let Context { core, ports } = ctx;
        self.forward.prepare_to_follow(&around((core.now, &core.guest), ports, self.inside.as_ref()))
    }

    /// Has sockets follow what listens, a part at a time.
    fn poll<L: Link>(&mut self, ctx: &mut Context<L>) {
        let Context { core, ports } = ctx;
        let around = around((core.now, &core.guest), ports, self.inside.as_ref());
        let Changes { close, open } = self.forward.poll(&around, &mut core.inbox);
        self.close(ctx, &close);
        for listener in open {
            log::debug!("{listener}: opened");
            if self.listen(ctx, listener).is_err() {
                self.forward.lacks(ctx.core.now);
            }
        }
    }

    /// Begins to open the sockets that a plan needs. The last descriptors are not for ports.
    pub(crate) fn apply<L>(&self, ctx: &Context<L>, plan: Plan) -> Apply {
        let pressure = &ctx.ports.pressure;
        let weak = RawFd::try_from(pressure.ports()).unwrap_or(RawFd::MAX);
        self.forward.apply(plan, Room { most: pressure.kept(), weak })
    }

    /// Opens some more of them on either side, without waiting.
    pub(crate) fn step(&self, apply: &mut Apply) -> Progress {
        apply.step(self.forward.rules(), self.inside.as_ref())
    }

    /// Listens through all of some sockets, or none of them; their numbers.
    fn listen_to_all<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        listeners: Vec<Listener>,
    ) -> io::Result<Vec<u32>> {
        let mut begun = Vec::with_capacity(listeners.len());
        for listener in listeners {
            match self.listen(ctx, listener) {
                Ok(number) => begun.push(number),
                Err(error) => {
                    self.close(ctx, &begun);
                    return Err(error);
                }
            }
        }
        Ok(begun)
    }
}

fn around<'a>((now, guest): (Instant, &'a Guest), ports: &Ports, inside: Option<&'a Resident>) -> Around<'a> {
    let (ports, kept) = (ports.pressure.ports(), ports.pressure.kept());
    Around { now, guest, inside, ports, kept }
}
