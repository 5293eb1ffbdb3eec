//! The direction to the guest: what was sent, what the guest acknowledged, what
//! has to be sent again.
//!
//! There is nothing to buffer: data stays in the host's socket until the guest
//! has acknowledged it, and sending again is reading again.

use arrayvec::ArrayVec;

use super::Behind;
use super::rtt::Rtt;
use crate::drop::DropReason;
use crate::seq::Seq;
use crate::time::{Duration, Instant};
use crate::wire::tcp::{Flags, Segment};

/// Repetitions of an acknowledgement after which a loss is assumed (RFC 5681, section 3.2).
const DUPLICATES: u8 = 3;
/// Timeouts in a row before the guest is given up, as Linux's `tcp_retries2`.
const MAX_ATTEMPTS: u8 = 15;
/// Ranges remembered from selective acknowledgements; forgetting one costs
/// sending it again, no more.
const RANGES: usize = 8;

#[derive(Clone, Debug)]
pub(super) struct Transmit {
    /// First byte that the guest has not acknowledged: the head of the host's receive queue.
    una: Seq,
    /// Next to send.
    nxt: Seq,
    /// All before was sent at least once.
    max: Seq,
    /// The guest's window, and the segment that told it (RFC 9293, SND.WL1).
    window: u32,
    window_seq: Seq,
    max_window: u32,
    limits: Limits,
    /// Bytes that may be under way: bounded only after a timeout.
    limit: u32,
    /// The host's socket may have data behind `max`.
    readable: bool,
    /// Where the host's stream ends; the FIN takes this number.
    end: Option<Seq>,
    /// Acknowledged, but not yet removed from the host's socket.
    discard: u32,
    /// Where the peek under way starts, and whether it fills a gap.
    peeking: (Seq, bool),
    duplicates: u8,
    recovery: Option<Recovery>,
    sacked: ArrayVec<(Seq, Seq), RANGES>,
    rtt: Rtt,
    /// The segment being timed: its end and when it was sent.
    timing: Option<(Seq, Instant)>,
    /// When to send again, or to probe a closed window.
    timer: Option<Instant>,
    attempts: u8,
    retransmitted: u32,
}

/// What was negotiated and stays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most payload bytes of a segment.
    pub(super) mss: u32,
    /// Most bytes sent at once.
    pub(super) max_peek: u32,
    /// Shift of the guest's window field.
    pub(super) window_scale: u8,
    /// Whether the guest sends selective acknowledgements.
    pub(super) sack: bool,
}

impl Limits {
    /// Bounds segments, and what is sent at once to whole ones.
    pub(super) fn shrink(&mut self, mss: u32) {
        self.mss = mss.max(1);
        if self.mss < self.max_peek {
            self.max_peek -= self.max_peek % self.mss;
        }
    }
}

/// Sending again what is missing, after repeated acknowledgements.
#[derive(Clone, Copy, Debug)]
struct Recovery {
    /// Ends when all that was sent before it began is acknowledged (RFC 6582).
    until: Seq,
    /// Sent again up to here.
    next: Seq,
}

/// The guest does not answer any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unresponsive;

/// What can be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Data { offset: u32, len: u32 },
    Fin,
}

impl Transmit {
    pub(super) fn new(una: Seq, irs: Seq, window: u32, limits: Limits, rtt: Rtt) -> Self {
        Self {
            una,
            nxt: una,
            max: una,
            window,
            window_seq: irs,
            max_window: window,
            limits,
            limit: u32::MAX,
            readable: true,
            end: None,
            discard: 0,
            peeking: (una, false),
            duplicates: 0,
            recovery: None,
            sacked: ArrayVec::new(),
            rtt,
            timing: None,
            timer: None,
            attempts: 0,
            retransmitted: 0,
        }
    }

    /// Takes the acknowledgement and window of a segment of `len` payload bytes;
    /// false if it acknowledges what was never sent, or is older than anything under way can be
    /// (RFC 5961, section 5.2).
    pub(super) fn acknowledge(&mut self, now: Instant, segment: &Segment, len: u32) -> bool {
        let ack = segment.ack;
        if ack.after(self.max) {
            return false;
        }
        let is_old = ack.before(self.una);
        if is_old && ack.before(self.una - self.max_window) {
            return false;
        }
        self.attempts = 0;
        if is_old {
            return true;
        }
        let window = u32::from(segment.window) << self.limits.window_scale;
        let repeated = ack == self.una
            && len == 0
            && window == self.window
            && self.in_flight() > 0
            && !segment.flags.contains(Flags::FIN);
        if ack.after(self.una) || !segment.seq.before(self.window_seq) {
            self.take_window(window, segment.seq);
        }
        if self.limits.sack {
            self.remember(segment.options.sack.as_slice());
        }
        if ack.after(self.una) {
            self.advance(now, ack);
        } else if repeated {
            self.repeated();
        }
        self.arm(now);
        true
    }

    fn take_window(&mut self, window: u32, seq: Seq) {
        if self.window == 0 && window > 0 {
            // What was waited for came: the next timeout is that of what is sent now.
            self.timer = None;
            self.rtt.answered();
        }
        self.window = window;
        self.window_seq = seq;
        self.max_window = self.max_window.max(window);
    }

    /// The guest has everything before `ack`.
    fn advance(&mut self, now: Instant, ack: Seq) {
        let acked = ack.distance(self.una);
        let fin = u32::from(self.end.is_some_and(|end| ack.after(end)));
        self.discard = self.discard.saturating_add(acked - fin);
        self.una = ack;
        self.nxt = self.nxt.max(ack);
        self.duplicates = 0;
        self.sacked.retain(|(_, end)| end.after(ack));
        if let Some((end, sent)) = self.timing
            && !ack.before(end)
        {
            self.rtt.sample(now.since(sent));
            self.timing = None;
        }
        self.rtt.answered();
        self.timer = None;
        self.limit = if self.limit > self.window { u32::MAX } else { self.limit.saturating_add(acked) };
        self.recovery = self.recovery.filter(|r| ack.before(r.until));
        if let Some(recovery) = &mut self.recovery {
            // A partial acknowledgement: what follows it is missing as well.
            recovery.next = if self.limits.sack { recovery.next.max(ack) } else { ack };
        }
    }

    fn repeated(&mut self) {
        self.duplicates = self.duplicates.saturating_add(1);
        if self.duplicates == DUPLICATES && self.recovery.is_none() {
            self.recovery = Some(Recovery { until: self.max, next: self.una });
            self.timing = None;
        }
    }

    /// Merges the blocks of a selective acknowledgement into the ranges known, in order.
    fn remember(&mut self, blocks: &[(Seq, Seq)]) {
        for &(mut start, mut end) in blocks {
            if !start.before(end) || start.before(self.una) || end.after(self.max) {
                continue;
            }
            self.sacked.retain(|&mut (s, e)| {
                let touches = !s.after(end) && !e.before(start);
                if touches {
                    start = start.min(s);
                    end = end.max(e);
                }
                !touches
            });
            if self.sacked.is_full() {
                self.sacked.pop();
            }
            let place = self.sacked.iter().position(|&(s, _)| s.after(start)).unwrap_or(self.sacked.len());
            self.sacked.insert(place, (start, end));
        }
    }

    /// What to send next, if anything may be.
    pub(super) fn next(&mut self) -> Option<Next> {
        if let Some((start, len)) = self.missing() {
            self.peeking = (start, true);
            return Some(Next::Data { offset: start.distance(self.una), len });
        }
        if self.end == Some(self.nxt) {
            return Some(Next::Fin);
        }
        let known = self.nxt.before(self.max);
        if self.end.is_some_and(|end| self.nxt.after(end)) || !(self.readable || known) {
            return None;
        }
        let Limits { mss, max_peek, .. } = self.limits;
        let in_flight = self.nxt.distance(self.una);
        let allowed = self.window.min(self.limit).saturating_sub(in_flight).min(max_peek);
        if allowed == 0 || (allowed < self.worth() && in_flight > 0) {
            return None;
        }
        self.peeking = (self.nxt, false);
        let len = match allowed / mss {
            0 => allowed,
            full => full * mss,
        };
        Some(Next::Data { offset: in_flight, len })
    }

    /// How much must be allowed to be worth sending while something is under way: a segment (RFC
    /// 9293, section 3.8.6.2.1), and a fourth of what is under way, as far as one frame carries it.
    /// Small frames into the last bit of a window cost the guest as much memory as large ones, and it
    /// drops what its memory does not hold; Linux waits as well (`tcp_tso_win_divisor`). Once the
    /// guest repeats itself a segment is enough: each that arrives is another repetition, by which
    /// the loss is found (RFC 3042).
    fn worth(&self) -> u32 {
        let Limits { mss, max_peek, .. } = self.limits;
        let in_flight = self.nxt.distance(self.una);
        let frame = if self.duplicates > 0 { 0 } else { max_peek.min(in_flight / 4) };
        mss.min(self.max_window / 2).max(frame).max(1)
    }

    /// During recovery, the next stretch that was sent but is missing.
    fn missing(&mut self) -> Option<(Seq, u32)> {
        let recovery = self.recovery.as_mut()?;
        let mut start = recovery.next.max(self.una);
        if let Some(&(_, end)) = self.sacked.iter().find(|&&(s, e)| !s.after(start) && e.after(start)) {
            start = end;
        }
        recovery.next = start;
        let until = self.end.map_or(recovery.until, |end| end.min(recovery.until));
        let stop = match self.sacked.iter().find(|(s, _)| s.after(start)) {
            Some(&(s, _)) => s.min(until),
            // With nothing received above it, only the head of the queue is known to be missing.
            None if start == self.una => until.min(start + self.limits.mss),
            None => start,
        };
        start.before(stop).then(|| (start, stop.distance(start).min(self.limits.max_peek)))
    }

    /// The stretch being peeked at turned out to have `len` bytes and is sent;
    /// returns its sequence number and whether FIN travels with it.
    pub(super) fn sent(&mut self, now: Instant, len: u32, behind: Behind) -> (Seq, bool) {
        let (start, fills_gap) = self.peeking;
        let stop = start + len;
        if start.before(self.max) {
            self.retransmitted = self.retransmitted.saturating_add(1);
        }
        if fills_gap {
            if let Some(recovery) = &mut self.recovery {
                recovery.next = stop;
            }
            self.arm(now);
            return (start, self.end == Some(stop) && stop.before(self.max));
        }
        self.nxt = stop;
        if !stop.before(self.max) {
            self.readable = behind == Behind::More;
            if behind == Behind::End {
                self.end = Some(stop);
            }
        }
        let fin = self.end == Some(stop);
        if fin {
            self.nxt += 1;
        }
        self.sent_new(now);
        (start, fin)
    }

    /// A FIN of its own is sent; returns its sequence number.
    pub(super) fn sent_fin(&mut self, now: Instant) -> Seq {
        let seq = self.nxt;
        self.nxt += 1;
        self.sent_new(now);
        seq
    }

    fn sent_new(&mut self, now: Instant) {
        if self.timing.is_none() && self.nxt.after(self.max) {
            self.timing = Some((self.nxt, now));
        }
        self.max = self.max.max(self.nxt);
        self.arm(now);
    }

    /// The peek under way found nothing.
    pub(super) fn drained(&mut self, behind: Behind) {
        if self.nxt.before(self.max) || self.peeking.1 {
            // Nothing where something was sent before, against all rules: leave it to the timer.
            self.recovery = None;
            self.nxt = self.max;
            return;
        }
        self.readable = false;
        if behind == Behind::End && self.end.is_none() {
            self.end = Some(self.nxt);
        }
    }

    pub(super) fn readable(&mut self, now: Instant) {
        self.readable = true;
        self.arm(now);
    }

    /// Bytes to remove from the host's receive queue.
    pub(super) fn take_discard(&mut self) -> u32 {
        core::mem::take(&mut self.discard)
    }

    /// Looks whether the timer's time has come; true asks for a probe of the guest's window.
    pub(super) fn timeout(&mut self, now: Instant) -> Result<bool, Unresponsive> {
        if self.timer.is_none_or(|at| at > now) {
            return Ok(false);
        }
        if self.attempts >= MAX_ATTEMPTS {
            return Err(Unresponsive);
        }
        self.attempts += 1;
        self.rtt.back_off();
        self.timer = None;
        // With a closed window nothing goes out again, unless the guest is asked.
        let probe = self.in_flight() == 0 || self.window == 0;
        if self.in_flight() > 0 {
            self.go_back();
            self.limit = self.limits.mss.saturating_mul(2);
        }
        self.arm(now);
        Ok(probe)
    }

    /// Has all that is under way sent again. What the guest acknowledged selectively it may have
    /// dropped since (RFC 2018, section 8).
    fn go_back(&mut self) {
        self.nxt = self.una;
        self.sacked.clear();
        self.recovery = None;
        self.duplicates = 0;
        self.timing = None;
    }

    /// Whether a segment with this number may be under way, or was the last one without data.
    pub(super) fn has_sent(&self, seq: Seq) -> bool {
        !seq.before(self.una) && !seq.after(self.max)
    }

    /// Data with the number `seq` did not fit the path, which takes `mss` bytes of it: whatever is
    /// under way in larger segments was lost, and no congestion was the reason.
    pub(super) fn shrink(&mut self, now: Instant, seq: Seq, mss: u32) -> Result<(), DropReason> {
        if !self.has_sent(seq) || seq == self.max {
            return Err(DropReason::IcmpInvalid);
        }
        if mss >= self.limits.mss {
            return Err(DropReason::IcmpIgnored);
        }
        self.limits.shrink(mss);
        self.go_back();
        self.timer = None;
        self.arm(now);
        Ok(())
    }

    /// Sets the timer if the guest owes something: an acknowledgement or a window.
    fn arm(&mut self, now: Instant) {
        let blocked = self.window == 0 && self.readable;
        if self.in_flight() == 0 && !blocked {
            self.timer = None;
        } else if self.timer.is_none() {
            self.timer = Some(now + self.rtt.timeout());
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timer
    }

    /// The number for a segment without data or FIN.
    pub(super) fn position(&self) -> Seq {
        self.max
    }

    /// The number of a probe, which asks for an answer (RFC 9293, section 3.8.4).
    pub(super) fn probe_position(&self) -> Seq {
        self.una - 1
    }

    /// The host has finished, and the guest has acknowledged that. A socket that is closed with
    /// data in its receive queue resets the connection, so that has to be empty as well.
    pub(super) fn is_finished(&self) -> bool {
        self.discard == 0 && self.end.is_some_and(|end| self.una == end + 1)
    }

    /// The host has finished.
    pub(super) fn has_end(&self) -> bool {
        self.end.is_some()
    }

    /// The host has finished, the guest was told, and has acknowledged all but that.
    pub(super) fn is_delivered(&self) -> bool {
        self.end.is_some_and(|end| !self.una.before(end) && self.max.after(end))
    }

    pub(super) fn mss(&self) -> u32 {
        self.limits.mss
    }

    pub(super) fn retransmitted(&self) -> u32 {
        self.retransmitted
    }

    /// The guest's window in bytes, and the smoothed round trip to it.
    pub(super) fn way(&self) -> (u32, Option<Duration>) {
        (self.window, self.rtt.smoothed())
    }

    /// Bytes (and FIN) sent but not acknowledged.
    fn in_flight(&self) -> u32 {
        self.max.distance(self.una)
    }
}
