//! The handshake with the guest, from our first SYN or SYN-ACK on: SYN-SENT and SYN-RECEIVED of RFC
//! 9293.
//!
//! Left out: the guest opening the same connection at the same time (its SYN is passed over; the
//! SYN-ACK with which it answers ours is not).

use super::challenge::Challenge;
use super::open::{Begin, Open};
use super::transmit::Unresponsive;
use super::{Config, Offer, PortPair, WINDOW_SCALE};
use crate::seq::Seq;
use crate::time::{Duration, Instant};
use crate::wire::tcp::{Flags, Options, Segment};

/// Attempts to open a connection to the guest, as `tcp_syn_retries`.
const ATTEMPTS: u8 = 6;

#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    iss: Seq,
    /// The guest's initial number and offer, if it was the guest that began.
    guest: Option<(Seq, Offer)>,
    far: Option<Duration>,
    first_sent: Instant,
    /// The window told, in bytes.
    window: u32,
    attempts: u8,
    /// When to send again.
    due: Instant,
    /// Our SYN or SYN-ACK is to be sent now.
    send: bool,
    /// It was sent out of turn, which is done once between two timeouts.
    repeated: bool,
    /// What to send before that.
    answer: Option<Answer>,
    challenge: Challenge,
}

/// The answer to a segment that does not belong here.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// An acknowledgement of the guest's SYN, which had this number and offer.
    Ack(Seq, Offer),
    /// A RST with this sequence number.
    Reset(Seq),
}

/// What a segment makes of the handshake.
#[expect(clippy::large_enum_variant, reason = "moved once to where it stays")]
pub(super) enum Step {
    /// It goes on.
    Wait,
    /// The guest gave it up.
    End,
    /// It is complete.
    Open(Open),
}

impl Opening {
    /// A handshake whose first segment is to be sent. `guest` has the initial number and the offer
    /// of its SYN, if it was the guest that began.
    pub(super) fn new(iss: Seq, guest: Option<(Seq, Offer)>, far: Option<Duration>, now: Instant) -> Self {
        Self {
            iss,
            guest,
            far,
            first_sent: now,
            window: 0,
            attempts: 0,
            due: now,
            send: true,
            repeated: false,
            answer: None,
            challenge: Challenge::default(),
        }
    }

    /// Takes a segment of `len` payload bytes. Where it opens the connection, its payload is still
    /// to be taken.
    pub(super) fn segment(&mut self, now: Instant, segment: &Segment, len: u32, config: &Config) -> Step {
        match self.guest {
            Some((irs, offer)) => self.syn_received(now, segment, len, config, irs, offer),
            None => self.syn_sent(now, segment, config),
        }
    }

    /// RFC 9293, section 3.10.7.3.
    fn syn_sent(&mut self, now: Instant, segment: &Segment, config: &Config) -> Step {
        let flags = segment.flags;
        let acked = self.is_acked(segment);
        if flags.contains(Flags::RST) {
            return if acked { Step::End } else { Step::Wait };
        }
        if flags.contains(Flags::ACK) && !acked {
            // The guest still has a connection here that is over. Our RST ends it, and then our SYN
            // is welcome (section 3.5.1).
            self.answer = Some(Answer::Reset(segment.ack));
            self.send |= !core::mem::replace(&mut self.repeated, true);
            return Step::Wait;
        }
        if acked && flags.contains(Flags::SYN) {
            return Step::Open(self.open(now, config, segment.seq, Offer::new(segment)));
        }
        Step::Wait
    }

    /// RFC 9293, section 3.10.7.4.
    fn syn_received(
        &mut self,
        now: Instant,
        segment: &Segment,
        len: u32,
        config: &Config,
        irs: Seq,
        offer: Offer,
    ) -> Step {
        let flags = segment.flags;
        if flags.contains(Flags::SYN) && segment.seq == irs {
            // Our answer was lost.
            self.send = true;
            return Step::Wait;
        }
        let next = irs + 1;
        let (start, end) = (segment.seq, segment.seq + len + u32::from(flags.contains(Flags::FIN)));
        let acceptable = !end.before(next) && !start.after(next + self.window);
        if flags.contains(Flags::RST) {
            if segment.seq == next {
                return Step::End;
            }
            if acceptable {
                self.challenge(now, irs, offer);
            }
        } else if !acceptable {
            self.challenge(now, irs, offer);
        } else if flags.contains(Flags::SYN) {
            // Back to LISTEN: the guest begins anew.
            return Step::End;
        } else if self.is_acked(segment) {
            return Step::Open(self.open(now, config, irs, offer));
        } else if flags.contains(Flags::ACK) {
            self.answer = Some(Answer::Reset(segment.ack));
        }
        Step::Wait
    }

    fn challenge(&mut self, now: Instant, irs: Seq, offer: Offer) {
        if self.challenge.is_allowed(now) {
            self.answer = Some(Answer::Ack(irs, offer));
        }
    }

    /// Whether a segment with this number was sent: our SYN or SYN-ACK.
    pub(super) fn has_sent(&self, seq: Seq) -> bool {
        self.attempts > 0 && seq == self.iss
    }

    fn is_acked(&self, segment: &Segment) -> bool {
        segment.flags.contains(Flags::ACK) && segment.ack == self.iss + 1
    }

    fn open(&self, now: Instant, config: &Config, irs: Seq, offer: Offer) -> Open {
        let begin = Begin {
            irs,
            iss: self.iss,
            offer,
            window: self.window,
            rtt: (self.attempts == 1).then(|| now.since(self.first_sent)),
            far: self.far,
            by_guest: self.guest.is_some(),
        };
        Open::new(now, config, &begin)
    }

    /// Has our first segment sent again if its time has come.
    pub(super) fn timeout(&mut self, now: Instant) -> Result<(), Unresponsive> {
        if now < self.due {
            return Ok(());
        }
        if self.attempts > ATTEMPTS {
            return Err(Unresponsive);
        }
        (self.send, self.repeated) = (true, false);
        Ok(())
    }

    /// When to call [`Opening::timeout`].
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// The next segment to send, if there is one.
    pub(super) fn next_segment(&mut self, now: Instant, config: &Config, ports: PortPair) -> Option<Segment> {
        match self.answer.take() {
            Some(Answer::Reset(seq)) => return Some(Segment { flags: Flags::RST, ..ports.segment(seq) }),
            Some(Answer::Ack(irs, offer)) => {
                let scale = if offer.window_scale.is_some() { WINDOW_SCALE } else { 0 };
                let window = u16::try_from(self.window >> scale).unwrap_or(u16::MAX);
                let ack = Segment { ack: irs + 1, flags: Flags::ACK, window, ..ports.segment(self.iss + 1) };
                return Some(ack);
            }
            None => {}
        }
        if !core::mem::take(&mut self.send) {
            return None;
        }
        self.due = now + Duration::from_secs(1 << self.attempts.min(ATTEMPTS));
        self.attempts = self.attempts.saturating_add(1);
        let offer = self.guest.map(|(_, offer)| offer);
        let options = Options {
            mss: Some(config.mss),
            window_scale: offer.is_none_or(|o| o.window_scale.is_some()).then_some(WINDOW_SCALE),
            sack_permitted: config.sack && offer.is_none_or(|o| o.sack),
            ..Options::default()
        };
        let (flags, ack) = match self.guest {
            Some((irs, _)) => (Flags::SYN | Flags::ACK, irs + 1),
            None => (Flags::SYN, Seq(0)),
        };
        // Never scaled in a SYN (RFC 7323, section 2.2), but one that can be told with or without a
        // scale.
        let window = config.room.min(u32::from(u16::MAX));
        self.window = self.window.max(window - window % (1 << WINDOW_SCALE));
        let window = u16::try_from(self.window).unwrap_or(u16::MAX);
        Some(Segment { ack, flags, window, options, ..ports.segment(self.iss) })
    }

    /// The segment that ends it for the guest.
    pub(super) fn reset(&self, ports: PortPair) -> Segment {
        let (flags, ack) = match self.guest {
            Some((irs, _)) => (Flags::RST | Flags::ACK, irs + 1),
            None => (Flags::RST, Seq(0)),
        };
        Segment { ack, flags, ..ports.segment(self.iss + 1) }
    }
}
