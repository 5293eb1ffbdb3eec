//! A connection on which data can flow: both directions and what they share.

use super::challenge::Challenge;
use super::receive::{Push, Receive, Reset};
use super::rtt::Rtt;
use super::transmit::{Limits, Next, Transmit, Unresponsive};
use super::{Action, Behind, Config, Event, Offer, Phase, PortPair};
use crate::drop::DropReason;
use crate::seq::Seq;
use crate::time::{Duration, Instant};
use crate::wire::tcp::{Flags, Segment};

/// A guest that was silent for this long is asked whether it still is there.
const KEEPALIVE: Duration = Duration::from_secs(120);
/// For how long what a guest left behind may wait for the host's peer to take some of it. RFC 9293,
/// section 3.8.3, has 100 seconds at least (R2); but a peer that reads slowly opens its window in
/// large steps.
const PATIENCE: Duration = Duration::from_secs(300);
/// A guest that did not even answer that for this long is gone.
const INACTIVITY: Duration = Duration::from_secs(2 * 60 * 60);

/// Bounds of the interval at which a guest's keep-alives have the host's kernel ask: as often as is
/// of use to what keeps state on the way, and as seldom as Linux does by itself.
const GUEST_KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), INACTIVITY);
/// What the guest says so soon after it was asked is the answer.
const ANSWER: Duration = Duration::from_secs(1);

/// What a handshake settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    /// The guest's initial sequence number, and ours.
    pub(super) irs: Seq,
    pub(super) iss: Seq,
    /// What the guest's SYN offered.
    pub(super) offer: Offer,
    /// The window told to the guest, in bytes.
    pub(super) window: u32,
    /// The round trip of the handshake, if it could be measured.
    pub(super) rtt: Option<Duration>,
    /// As in [`Event::Connected`].
    pub(super) far: Option<Duration>,
    /// Whether the guest's SYN came first.
    pub(super) by_guest: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Open {
    rx: Receive,
    tx: Transmit,
    probe: bool,
    ask: bool,
    /// When the guest was last heard of.
    heard: Instant,
    /// When it was last asked to say something.
    asked: Instant,
    /// Since when it says nothing but answers to that.
    quiet: Option<Instant>,
    /// It asked whether the host's peer is there, as often as this.
    probed: Option<Duration>,
    reset: bool,
    /// The guest had finished, and its socket is gone: what is left is passed on nevertheless, as
    /// long as the host's peer takes some.
    orphaned: Option<Orphaned>,
    begun_by_guest: bool,
    challenge: Challenge,
}

/// What was seen of the host's peer last.
#[derive(Clone, Copy, Debug)]
struct Orphaned {
    since: Instant,
    /// Bytes that it had not acknowledged, of those that the host's kernel had.
    unacknowledged: u32,
}

impl Open {
    /// A connection after its handshake.
    pub(super) fn new(now: Instant, config: &Config, begin: &Begin) -> Self {
        let Begin { irs, iss, offer, window, rtt: measured, far, by_guest } = *begin;
        let mss = u32::from(offer.mss.min(config.mss)).max(1);
        let mut rtt = Rtt::default();
        if let Some(measured) = measured {
            rtt.sample(measured);
        }
        let mut limits = Limits {
            mss,
            max_peek: config.max_peek,
            window_scale: offer.window_scale.map_or(0, |s| s.min(14)),
            sack: config.sack && offer.sack,
        };
        limits.shrink(mss);
        let scaled = offer.window_scale.is_some();
        Self {
            rx: Receive::new(irs, window, config.room, scaled, mss, far),
            // The window in a SYN is never scaled: RFC 7323, section 2.2.
            tx: Transmit::new(iss + 1, irs, u32::from(offer.window), limits, rtt),
            probe: false,
            ask: false,
            heard: now,
            asked: now,
            quiet: None,
            probed: None,
            reset: false,
            orphaned: None,
            begun_by_guest: by_guest,
            challenge: Challenge::default(),
        }
    }

    /// See [`Connection::set_room`](super::Connection::set_room).
    pub(super) fn set_room(&mut self, room: u32) {
        self.rx.set_room(room);
    }

    /// Checks a segment in the order of RFC 9293, section 3.10.7.4: sequence number, RST, SYN,
    /// acknowledgement.
    pub(super) fn segment(&mut self, now: Instant, segment: &Segment, len: u32) -> Push {
        let flags = segment.flags;
        let fin = flags.contains(Flags::FIN);
        let heard = core::mem::replace(&mut self.heard, now);
        if self.orphaned.is_some() {
            // The port may be used again.
            self.reset |= flags.contains(Flags::SYN);
            return Push::NONE;
        }
        if flags.intersects(Flags::RST | Flags::SYN) {
            self.reset_or_syn(now, segment);
            return Push::NONE;
        }
        if !self.rx.is_acceptable(segment.seq, len + u32::from(fin)) {
            if !(len > 0 || fin || self.rx.is_keepalive(segment.seq)) {
                self.challenge(now);
            } else if len > 0 || fin || !self.is_probed(now, heard) {
                self.rx.acknowledge_now();
            }
            return Push::NONE;
        }
        if !flags.contains(Flags::ACK) {
            return Push::NONE;
        }
        if !self.tx.acknowledge(now, segment, len) {
            self.challenge(now);
            return Push::NONE;
        }
        let push = self.rx.segment(now, segment.seq, len, fin);
        if len == 1
            && !fin
            && push == Push::NONE
            && self.rx.is_keepalive(segment.seq)
            && self.is_probed(now, heard)
        {
            // One with the last byte before the window, for peers that answer to no other (RFC
            // 9293, section 3.8.4).
            self.rx.forget_ack();
        }
        push
    }

    /// The guest sent what may be a keep-alive, and was `heard` before. Whether it is one, and is
    /// answered once the host's side was looked at. After a shorter time it is a repetition of what
    /// was acknowledged, or says no more than that the guest is there; where its window is used up,
    /// it asks for another one.
    fn is_probed(&mut self, now: Instant, heard: Instant) -> bool {
        let is_answer = heard.since(self.asked) < ANSWER;
        let since = self.quiet.take().filter(|_| is_answer).unwrap_or(heard);
        let (least, most) = GUEST_KEEPALIVE;
        let silence = now.since(since);
        let is_probe = silence >= ANSWER && !self.rx.is_closed();
        if is_probe {
            self.probed = Some(silence.clamp(least, most));
        }
        is_probe
    }

    /// Whether the guest may have got a segment with this number, or is about to.
    pub(super) fn has_sent(&self, seq: Seq) -> bool {
        self.tx.has_sent(seq)
    }

    /// See [`Connection::shrink`](super::Connection::shrink).
    pub(super) fn shrink(&mut self, now: Instant, seq: Seq, mss: u32) -> Result<(), DropReason> {
        self.tx.shrink(now, seq, mss)
    }

    fn reset_or_syn(&mut self, now: Instant, segment: &Segment) {
        if !segment.flags.contains(Flags::RST) {
            // RFC 5961, section 4.2.
            return self.challenge(now);
        }
        match self.rx.judge_reset(segment.seq) {
            Reset::Certain if self.rx.is_finishing() => {
                self.orphaned = Some(Orphaned { since: now, unacknowledged: u32::MAX });
                self.ask = true;
            }
            Reset::Certain => self.reset = true,
            Reset::Doubtful => self.challenge(now),
            Reset::Invalid => {}
        }
    }

    fn challenge(&mut self, now: Instant) {
        if self.challenge.is_allowed(now) {
            self.rx.acknowledge_now();
        }
    }

    pub(super) fn handle(&mut self, now: Instant, event: Event) -> Result<(), Unresponsive> {
        match event {
            Event::Readable => self.tx.readable(now),
            Event::Queued { taken, held } => {
                // What found no room will not come again from a guest that is gone.
                if !self.rx.queued(now, taken, held) && self.orphaned.is_some() {
                    return Err(Unresponsive);
                }
            }
            Event::Alive => self.rx.acknowledge_now(),
            Event::Busy => self.rx.busy(),
            Event::Quiet => self.rx.quiet(),
            Event::Flushed { held } => {
                if self.rx.flushed(now, held) {
                    self.orphaned = self.orphaned.map(|last| Orphaned { since: now, ..last });
                    self.ask |= self.orphaned.is_some();
                }
            }
            Event::Unacknowledged { bytes } => match &mut self.orphaned {
                Some(last) => last.heard(now, bytes)?,
                None => self.rx.unacknowledged(now, bytes),
            },
            Event::Timeout => self.timeout(now)?,
            Event::Connected { .. } | Event::Failed => {}
        }
        Ok(())
    }

    fn timeout(&mut self, now: Instant) -> Result<(), Unresponsive> {
        if let Some(last) = self.orphaned {
            self.ask |= now.since(last.since) >= PATIENCE;
            return Ok(());
        }
        self.ask |= self.rx.timeout(now);
        self.probe |= self.tx.timeout(now)?;
        if now >= self.keepalive_due() {
            if now.since(self.heard) >= INACTIVITY {
                return Err(Unresponsive);
            }
            let is_answer = self.heard.since(self.asked) < ANSWER;
            self.quiet = self.quiet.filter(|_| is_answer).or(Some(self.heard));
            self.asked = now;
            self.probe = true;
        }
        Ok(())
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        if let Some(last) = self.orphaned {
            return Some(last.since + PATIENCE);
        }
        let timers = [self.rx.next_timeout(), self.tx.next_timeout(), Some(self.keepalive_due())];
        timers.into_iter().flatten().min()
    }

    fn keepalive_due(&self) -> Instant {
        self.heard.max(self.asked) + KEEPALIVE
    }

    pub(super) fn next_action(&mut self, now: Instant, ports: PortPair, data: bool) -> Option<Action> {
        if self.orphaned.is_some() {
            if core::mem::take(&mut self.ask) {
                return Some(Action::AskUnacknowledged);
            }
            return self.rx.take_shutdown(now).then_some(Action::Shutdown);
        }
        let discard = self.tx.take_discard();
        if discard > 0 {
            return Some(Action::Discard(discard));
        }
        if core::mem::take(&mut self.ask) {
            return Some(Action::AskUnacknowledged);
        }
        if self.rx.take_shutdown(now) {
            return Some(Action::Shutdown);
        }
        if let Some(interval) = self.probed.take() {
            return Some(Action::KeepAlive(interval));
        }
        match self.tx.next() {
            Some(Next::Data { offset, len }) if data => return Some(Action::Peek { offset, len }),
            Some(Next::Fin) => {
                let seq = self.tx.sent_fin(now);
                return Some(Action::Emit(self.stamped(ports, seq, Flags::FIN)));
            }
            Some(Next::Data { .. }) | None => {}
        }
        let seq = if core::mem::take(&mut self.probe) {
            self.tx.probe_position()
        } else if self.rx.ack_due() {
            self.tx.position()
        } else {
            return None;
        };
        Some(Action::Emit(self.stamped(ports, seq, Flags::empty())))
    }

    pub(super) fn transmit(&mut self, now: Instant, ports: PortPair, len: u32, behind: Behind) -> Segment {
        self.rx.responds(now);
        let (seq, fin) = self.tx.sent(now, len, behind);
        let push = if behind != Behind::More || fin { Flags::PSH } else { Flags::empty() };
        let fin = if fin { Flags::FIN } else { Flags::empty() };
        self.stamped(ports, seq, push | fin)
    }

    pub(super) fn drained(&mut self, behind: Behind) {
        self.tx.drained(behind);
    }

    pub(super) fn mss(&self) -> u32 {
        self.tx.mss()
    }

    pub(super) fn awaits_quiet(&self) -> bool {
        self.rx.awaits_quiet()
    }

    pub(super) fn retransmitted(&self) -> u32 {
        self.tx.retransmitted()
    }

    pub(super) fn way(&self) -> (u32, Option<Duration>) {
        self.tx.way()
    }

    pub(super) fn acknowledge_now(&mut self) {
        self.rx.acknowledge_now();
    }

    /// Whether the guest's SYN began the connection.
    pub(super) fn begun_by_guest(&self) -> bool {
        self.begun_by_guest
    }

    /// How far it is.
    pub(super) fn phase(&self) -> Phase {
        match (self.rx.has_end(), self.tx.has_end()) {
            _ if self.is_orphaned() => Phase::LeftBehind,
            (false, false) => Phase::Open,
            (true, false) => Phase::GuestFinished,
            (false, true) => Phase::HostFinished,
            (true, true) => Phase::BothFinished,
        }
    }

    /// The guest reset the connection.
    pub(super) fn is_reset(&self) -> bool {
        self.reset
    }

    /// Both directions are finished, and both sides know.
    pub(super) fn is_done(&self) -> bool {
        self.is_orphaned() && self.rx.is_shut() || self.rx.is_finished() && self.tx.is_finished()
    }

    /// The guest had finished, and is gone; something of what it sent is left.
    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned.is_some()
    }

    /// The guest was told of more than the host's kernel has.
    pub(super) fn owes(&self) -> bool {
        self.rx.owes()
    }

    /// All that the host's peer sent, and that it has finished, was sent to the guest, and but for
    /// the end is acknowledged.
    pub(super) fn is_delivered(&self) -> bool {
        self.tx.is_delivered()
    }

    pub(super) fn reset_segment(&mut self, ports: PortPair) -> Segment {
        let (ack, _) = self.rx.stamp();
        Segment { ack, flags: Flags::RST | Flags::ACK, ..ports.segment(self.tx.position()) }
    }

    fn stamped(&mut self, ports: PortPair, seq: Seq, flags: Flags) -> Segment {
        let (ack, window) = self.rx.stamp();
        Segment { ack, window, flags: flags | Flags::ACK, ..ports.segment(seq) }
    }
}

impl Orphaned {
    /// So much is not acknowledged now. It is another amount than before if some was, or if more
    /// went to the kernel because there was room, or else nothing happened, perhaps for too long.
    fn heard(&mut self, now: Instant, unacknowledged: u32) -> Result<(), Unresponsive> {
        if unacknowledged != self.unacknowledged {
            *self = Self { since: now, unacknowledged };
        }
        if now.since(self.since) < PATIENCE { Ok(()) } else { Err(Unresponsive) }
    }
}
