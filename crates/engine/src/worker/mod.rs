//! Floor `worker`: one link, its flows, timers and descriptors, and the loop over them.
//!
//! A worker shares nothing mutable with anything else. Its clock is read once a
//! round, here; everything below is told the time.

mod external;
mod memory;
mod options;

use std::io;
use std::mem::MaybeUninit;

use passt_proto::drop::DropReason;
use passt_proto::time::{Duration, Instant};
use passt_sys::namespace::Resident;
use passt_sys::seccomp::{Call, Sysno};
use rustix::event::epoll::{self, EventFlags};

pub use self::external::External;
pub use self::options::EngineOptions;
use crate::control::Control;
use crate::core::{Token, clock};
use crate::dispatch::Engine;
use crate::forward::{Context, Forward, Listener};
use crate::link::Link;
use crate::process::Process;

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
/// For how long the link may put off what it has to do.
const PUT_OFF: Duration = Duration::from_millis(1);

/// An engine and what keeps it going, with what all workers have in common, which is done by this
/// one.
pub struct Worker<L> {
    // Large, and moved about before it runs: on the heap.
    engine: Box<Engine<L>>,
    process: Process,
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
    /// A worker on `link`.
    pub fn new(link: L, options: &EngineOptions, now: Instant) -> io::Result<Self> {
        let mut engine = memory::engine(link, options, now)?;
        engine.ctx.core.watch_link()?;
        let random = options.secrets.iter().fold(0, |all, secret| all ^ secret.rotate_left(17));
        let process = Process::new(&options.services, random, now);
        engine.ctx.ports.note_in(process.forward.ours());
        Ok(Self { engine, process })
    }

    /// Forwards ports by these rules from now on, in the place of others. Their sockets come with
    /// [`Worker::listen`].
    pub fn forward(&mut self, forward: Forward) {
        self.engine.ctx.ports.note_in(forward.ours());
        self.process.forward = forward;
    }

    /// Forwards the ports of listening sockets from now on.
    pub fn listen(&mut self, listeners: Vec<Listener>) -> io::Result<()> {
        let Self { engine, process } = self;
        listeners.into_iter().try_for_each(|listener| process.listen(&mut engine.ctx, listener).map(drop))
    }

    /// Has sockets of the guest's namespace opened by this thread from now on, or none.
    pub fn enter(&mut self, inside: Option<Resident>) -> io::Result<()> {
        self.process.enter(&mut self.engine.ctx, inside)
    }

    /// Begins to follow what listens on either side, if a rule asks for that. What listens now is
    /// forwarded when this returns, as far as possible: nothing here is fatal.
    pub fn follow(&mut self) {
        self.process.follow(&mut self.engine.ctx);
    }

    /// Has rules be possible later that follow services: opens what tells of these, which a sealed
    /// process can't. An error where there is no way into the namespace (`ENETUNREACH`), or of
    /// socket(7).
    pub fn prepare_to_follow(&mut self) -> io::Result<()> {
        self.process.prepare_to_follow(&self.engine.ctx)
    }

    /// What can be asked and changed.
    pub fn control(&mut self) -> Control<'_, L> {
        let Self { engine, process } = self;
        Control { engine, process }
    }

    /// A guest has come to a link that had none: watches the link's descriptors, and has the guest
    /// told what it would have been told at the start.
    pub fn greet(&mut self) -> io::Result<()> {
        self.process.greet(self.engine.ctx.core.now);
        let Engine { ctx, common, .. } = &mut *self.engine;
        common.groups.greet(&ctx.core.guest.configured, ctx.core.now);
        self.engine.follow_link()?;
        self.engine.ctx.core.watch_link()
    }

    /// Link, time, counters and forwarded ports.
    pub fn context(&mut self) -> &mut Context<L> {
        &mut self.engine.ctx
    }

    /// All flows, and what they work with.
    pub fn engine(&mut self) -> &mut Engine<L> {
        &mut self.engine
    }

    /// Runs until `external` says so, or the link fails.
    pub fn run(&mut self, external: &mut impl External<L>) -> Exit {
        loop {
            let due = self.next_timeout().into_iter().chain(external.due()).min();
            let wait = due.map(|due| due.since(clock()));
            match self.round(wait, clock, external) {
                Ok(None) => {}
                Ok(Some(number)) => return Exit::External(number),
                Err(e) => return Exit::Link(e),
            }
        }
    }

    /// One round at a time given by the caller, without waiting: for tests with a clock of their
    /// own.
    pub fn turn(&mut self, now: Instant) -> io::Result<()> {
        self.engine.ctx.core.now = now;
        self.engine.receive(0)?;
        self.quiet_turn(now)
    }

    /// The same, in which a link without a descriptor has nothing to say.
    pub fn quiet_turn(&mut self, now: Instant) -> io::Result<()> {
        self.round(Some(Duration::ZERO), || now, &mut |_: u32, _: &mut Control<'_, L>| false).map(drop)
    }

    /// When [`Worker::turn`] has something to do, if nothing happens before.
    pub fn next_timeout(&self) -> Option<Instant> {
        let Engine { ctx: Context { core, ports }, common, fragments, .. } = &*self.engine;
        let resumes = !core.waiting.is_empty() && !core.link.is_blocked();
        if resumes || !core.ready.is_empty() || common.tcp.has_late() {
            return Some(core.now);
        }
        let postponed = core.postponed_until();
        let put_off = core.link.has_put_off().then(|| core.now + PUT_OFF);
        let dues = [core.timers.next(), self.process.due(), ports.pressure.due(), fragments.due(), postponed];
        let dues = dues.into_iter().chain([common.groups.due(), put_off]);
        dues.flatten().min()
    }

    fn round(
        &mut self,
        wait: Option<Duration>,
        clock: impl Fn() -> Instant,
        external: &mut impl External<L>,
    ) -> io::Result<Option<u32>> {
        let Self { engine, process } = self;
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let wait = wait.map(|d| rustix::event::Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        let events = match epoll::wait(engine.ctx.core.epoll(), &mut events, wait.as_ref()) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        engine.ctx.core.now = clock();
        engine.ctx.core.counters.rounds += 1;
        engine.ctx.core.guest.refresh();
        // What flows are told would not be repeated to them: no end keeps the other events waiting.
        let (mut link, mut end) = (Ok(()), None);
        for event in events {
            let flags = event.flags;
            match Token::decode(event.data.u64()) {
                // Room for what is queued, which is sent at the end of the round.
                Token::Link(_) if flags == EventFlags::OUT => {}
                Token::Link(number) => link = link.and(engine.receive(number)),
                Token::Flow(handle) => engine.event(handle, flags),
                Token::Second(handle) => engine.second_event(handle, flags),
                Token::External(number) if external.ready(number, &mut Control { engine, process }) => {
                    end = Some(number);
                }
                Token::External(_) => {}
                // Listening sockets that waited for others go on at the end of the round: connections
                // that were accepted come first.
                Token::Inside => {
                    process.inside(&mut engine.ctx);
                    engine.resume_across();
                    external.progressed(&mut Control { engine, process });
                }
                Token::Listener(number) => engine.listener_event(number, flags),
                Token::Mapping(mapping) => engine.mapping_event(mapping, flags),
                Token::Group(number) => engine.group_event(number, flags),
            }
        }
        if let Some(number) = engine.ctx.core.take_postponed()
            && external.ready(number, &mut Control { engine, process })
        {
            end = Some(number);
        }
        self.go_on(external);
        flush(&mut self.engine)?;
        end.map_or(link.map(|()| None), |number| Ok(Some(number)))
    }

    /// Does what is not told by events: what did not fit a round before, and what is due.
    fn go_on(&mut self, external: &mut impl External<L>) {
        let Self { engine, process } = self;
        engine.tcp_end_round();
        for _ in 0..engine.ctx.core.ready.len() {
            let Some(slot) = engine.ctx.core.ready.pop() else { break };
            engine.again(slot);
        }
        while let Some(slot) = engine.ctx.core.timers.pop(engine.ctx.core.now) {
            engine.timeout(slot);
        }
        engine.expire_fragments();
        process.run(&mut engine.ctx);
        engine.common.groups.run(&mut engine.ctx);
        if external.due().is_some_and(|due| due <= engine.ctx.core.now) {
            external.tick(&mut Control { engine, process });
        }
        engine.resume_listeners();
    }

    /// Whether something waits for the thread in the namespace: for tests with a clock of their
    /// own.
    pub fn awaits_namespace(&self) -> bool {
        let ports = &self.engine.ctx.ports;
        ports.pressure.awaits_sockets() || ports.lacking || self.process.awaits_namespace()
    }

    /// How often something was dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.engine.ctx.core.counters.drops(reason)
    }

    /// Number of flows.
    pub fn flow_count(&self) -> usize {
        self.engine.flows.count()
    }
}

/// Sends what the link queued, then calls flows that wait for room there, as long as there is some:
/// here, before others take it in the next round.
fn flush<L: Link>(engine: &mut Engine<L>) -> io::Result<()> {
    engine.ctx.core.flush_link()?;
    if engine.ctx.core.waiting.is_empty() {
        return Ok(());
    }
    for _ in 0..engine.ctx.core.waiting.len() {
        if engine.ctx.core.link.is_blocked() {
            break;
        }
        let Some(slot) = engine.ctx.core.waiting.pop() else { break };
        engine.resume(slot);
    }
    engine.ctx.core.link.resumed();
    engine.ctx.core.flush_link()
}
