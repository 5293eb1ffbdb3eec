//! Statistics on standard output (`--stats`): a line at a time, as long as somebody reads.

use std::fmt::Write as _;
use std::io;

use arrayvec::ArrayString;
use passt_engine::forward::Context;
use passt_engine::link::{Link, Notifications};
use passt_proto::time::{Duration, Instant};
use passt_sys::alloc;
use passt_sys::fd::PIPE_BUF;

use crate::outlet::Outlet;

/// Statistics on standard output.
#[derive(Debug)]
pub(crate) struct Stats {
    due: Instant,
    every: Duration,
    out: Outlet,
    /// Lines that were left out.
    missing: u64,
}

impl Stats {
    /// A line `every` so often from `now` on.
    pub(crate) fn new(every: Duration, now: Instant) -> io::Result<Self> {
        let out = Outlet::standard(rustix::stdio::stdout())?;
        Ok(Self { due: now + every, every, out, missing: 0 })
    }

    /// When the next line is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Writes a line if it is due, unless nobody reads.
    pub(crate) fn report<L: Link>(&mut self, ctx: &Context<L>, flows: usize) {
        if self.due > ctx.core.now {
            return;
        }
        self.due = ctx.core.now + self.every;
        let taken = self.out.write_line(statistics(ctx, flows, self.missing).as_bytes());
        self.missing = if taken.is_ok() { 0 } else { self.missing + 1 };
    }
}

/// One line of statistics, `missing` lines after the last.
fn statistics<L: Link>(ctx: &Context<L>, flows: usize, missing: u64) -> ArrayString<PIPE_BUF> {
    let counters = &ctx.core.counters;
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
    if let Some(Notifications { kicks, interrupts }) = ctx.core.link.notifications() {
        let _ = write!(line, " | kicks {kicks} interrupts {interrupts}");
    }
    for (reason, count) in counters.all_drops() {
        let _ = write!(line, " | dropped {} {count}", reason.name());
    }
    let lost = ctx.core.capture.as_ref().map_or(0, |capture| capture.lost());
    let others = [("not recorded", lost), ("lines missing", missing)];
    for (what, count) in others.into_iter().filter(|&(_, count)| count > 0) {
        let _ = write!(line, " | {what} {count}");
    }
    if line.is_full() {
        line.pop();
    }
    line.push('\n');
    line
}
