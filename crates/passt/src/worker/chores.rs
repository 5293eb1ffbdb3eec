//! What a worker does by the clock rather than for a flow: making itself known to
//! the guest, router advertisements, statistics.

use std::fmt::Write;
use std::io;

use arrayvec::ArrayString;
use passt_proto::drop::DropReason;
use passt_proto::responder::{Services, arp, ndp};
use passt_proto::time::{Duration, Instant};

use super::{Context, Options};
use passt_sys::alloc;
use passt_sys::fd::PIPE_BUF;

use crate::link::Link;
use crate::outlet::Outlet;

/// Bounds of the time between unsolicited router advertisements, in seconds
/// (RFC 4861, section 6.2.1: `MinRtrAdvInterval`, `MaxRtrAdvInterval`).
const ADVERTISE: (u64, u64) = (200, 600);

/// Statistics on standard output.
struct Stats {
    due: Instant,
    every: Duration,
    out: Outlet,
    /// Lines that were left out.
    missing: u64,
}

pub(super) struct Chores {
    /// The guest is to be asked for its addresses.
    solicit: Option<Instant>,
    advertise: Option<Instant>,
    stats: Option<Stats>,
    random: u64,
}

impl Chores {
    pub(super) fn new(options: &Options, now: Instant) -> io::Result<Self> {
        let services = &options.services;
        let advertises = services.services.contains(Services::NDP | Services::RA) && services.v6.is_some();
        let stats = options.stats.filter(|every| !every.is_zero()).map(|every| {
            let out = Outlet::standard(rustix::stdio::stdout())?;
            io::Result::Ok(Stats { due: now + every, every, out, missing: 0 })
        });
        Ok(Self {
            solicit: Some(now),
            advertise: advertises.then_some(now),
            stats: stats.transpose()?,
            random: options.secrets.iter().fold(0, |all, secret| all ^ secret.rotate_left(17)),
        })
    }

    /// Has the guest asked and told at once, as at the start.
    pub(super) fn greet(&mut self, now: Instant) {
        self.solicit = Some(now);
        self.advertise = self.advertise.and(Some(now));
    }

    /// When there is something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.solicit, self.advertise, self.stats.as_ref().map(|stats| stats.due), crate::log::due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(super) fn run<L: Link>(&mut self, ctx: &mut Context<L>, flows: usize) {
        let now = ctx.now;
        if self.solicit.take_if(|due| *due <= now).is_some() {
            send(ctx, arp::request);
            send(ctx, ndp::solicit);
        }
        if self.advertise.is_some_and(|due| due <= now) {
            send(ctx, ndp::unsolicited_ra);
            self.advertise = Some(now + self.interval());
        }
        crate::log::account(now);
        if let Some(stats) = self.stats.as_mut().filter(|stats| stats.due <= now) {
            stats.due = now + stats.every;
            stats.report(ctx, flows);
        }
    }

    /// A random interval, so that advertisements of many instances do not come together.
    fn interval(&mut self) -> Duration {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (min, max) = ADVERTISE;
        Duration::from_secs(min + (self.random >> 33) % (max - min))
    }
}

/// Sends a frame of a responder's own accord, if its service is on.
fn send<L: Link>(
    ctx: &mut Context<L>,
    write: fn(&passt_proto::responder::Config, &mut [u8]) -> Result<usize, DropReason>,
) {
    let mut frame = [0; 1514];
    if let Ok(len) = write(&ctx.services, &mut frame) {
        ctx.send(&frame[..len]);
    }
}

impl Stats {
    /// Writes a line, unless nobody reads.
    fn report<L>(&mut self, ctx: &Context<L>, flows: usize) {
        let taken = self.out.write_line(statistics(ctx, flows, self.missing).as_bytes());
        self.missing = if taken.is_ok() { 0 } else { self.missing + 1 };
    }
}

/// One line of statistics, `missing` lines after the last.
fn statistics<L>(ctx: &Context<L>, flows: usize, missing: u64) -> ArrayString<PIPE_BUF> {
    let counters = &ctx.counters;
    // What doesn't fit is left out.
    let mut line = ArrayString::new();
    let memory = alloc::usage();
    let _ = write!(
        line,
        "flows {flows} begun {} | from guest {} frames {} bytes | to guest {} frames {} bytes | retransmitted {} | rounds {} | allocations {} bytes {}",
        counters.flows,
        counters.from_guest.frames,
        counters.from_guest.bytes,
        counters.to_guest.frames,
        counters.to_guest.bytes,
        counters.retransmitted,
        counters.rounds,
        memory.allocations,
        memory.bytes,
    );
    for (reason, count) in counters.all_drops() {
        let _ = write!(line, " | dropped {} {count}", reason.name());
    }
    let others = [("not recorded", ctx.capture.lost()), ("lines missing", missing)];
    for (what, count) in others.into_iter().filter(|&(_, count)| count > 0) {
        let _ = write!(line, " | {what} {count}");
    }
    if line.is_full() {
        line.pop();
    }
    line.push('\n');
    line
}
