//! The direction from the guest: what was received, what is acknowledged, what
//! window is promised.
//!
//! Two rules hold always: nothing is acknowledged before the host's kernel has
//! it, unless the guest insists, and the right edge of the window never moves back.
//!
//! A guest whose data is not acknowledged takes the path for broken and gives up after some
//! retransmissions, in a minute or two where its socket is closed already. A host's peer that does
//! not read for so long is in order, and would be, without us, a window of zero to the guest, which
//! it waits behind for ever. So what the guest sends again in vain is acknowledged, wherever it
//! waits; the window stays as it is, and so is zero once it is used up.

use super::WINDOW_SCALE;
use crate::seq::Seq;
use crate::time::{Duration, Instant};

/// How long an acknowledgement waits for data to travel with, once the
/// connection was seen to exchange requests and responses.
const ACK_DELAY: Duration = Duration::from_millis(10);
/// Bounds of the interval at which the progress of a far peer is asked for.
const POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// How long the guest repeats in vain.
const INSISTENCE: Duration = Duration::from_secs(1);
/// Doublings of that while nothing moves: a peer that does not read is not asked about a hundred
/// times a second.
const MAX_STALLED: u32 = 5;

/// Part of a segment's payload that is to be queued to the host's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// Bytes of the payload to leave out, because they were queued before.
    pub skip: u32,
    /// Bytes to queue.
    pub len: u32,
}

impl Push {
    /// Nothing to queue.
    pub const NONE: Self = Self { skip: 0, len: 0 };
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Receive {
    /// All before this is queued.
    next: Seq,
    /// Bytes pushed, but not confirmed as queued.
    pending: u32,
    /// Bytes before `next` that wait in the engine.
    held: u32,
    /// The right edge of the window: what was promised, and what may come in.
    edge: Seq,
    /// Room that the engine has beyond what is queued.
    room: u32,
    /// Last acknowledgement sent.
    acked: Seq,
    /// Since when the guest repeats what is not acknowledged.
    repeats: Option<Instant>,
    /// It did so for long: all that was received is acknowledged.
    lenient: bool,
    /// Position of the guest's FIN, once seen.
    fin: Option<Seq>,
    /// The host's socket was shut down behind the guest's last byte.
    shut: bool,
    scaled: bool,
    /// The guest's full segment: less is not worth an acknowledgement of its own.
    full: u32,
    ack: Ack,
    alternation: Alternation,
    far: Option<Far>,
}

/// Whether requests of the guest and responses alternate, so that an acknowledgement can wait for
/// one. Where it waited in vain more responses have to come in time before another one waits: a guest
/// that holds the rest of its request back until the first part is acknowledged (RFC 896) looks the
/// same but for that.
#[derive(Clone, Copy, Debug)]
struct Alternation {
    /// When the guest sent data last, until a response to it.
    heard: Option<Instant>,
    /// Responses in a row that came soon.
    seen: u32,
    /// So many are enough.
    needed: u32,
}

impl Alternation {
    const NONE: Self = Self { heard: None, seen: 0, needed: 1 };

    fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    fn responds(&mut self, now: Instant) {
        let Some(heard) = self.heard.take() else { return };
        // One that comes just in time would have each request wait for nearly as long as it may.
        self.seen = if now.since(heard) < ACK_DELAY / 2 { self.seen.saturating_add(1) } else { 0 };
    }

    fn waited_in_vain(&mut self) {
        *self = Self { heard: None, seen: 0, needed: self.needed.saturating_mul(4) };
    }

    fn is_certain(&self) -> bool {
        self.seen >= self.needed
    }
}

/// Acknowledging what the host's peer acknowledged.
#[derive(Clone, Copy, Debug)]
struct Far {
    /// Acknowledged by the host's peer.
    acked: Seq,
    interval: Duration,
    poll: Option<Instant>,
    /// Answers in a row that told nothing new: each doubles the interval.
    stalled: u32,
}

/// What a RST of the guest is worth (RFC 9293, section 3.10.7.4; RFC 5961, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    /// Its number is the one expected: the connection is over.
    Certain,
    /// Its number is in the window: the guest is asked, and one that means it answers with the
    /// right one.
    Doubtful,
    /// It belongs to something else.
    Invalid,
}

/// Whether an acknowledgement is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ack {
    No,
    At(Instant),
    /// Once the link is quiet.
    WhenQuiet,
    /// If it would tell anything new.
    IfNews,
    Now,
}

impl Receive {
    /// Behind the guest's SYN of number `irs`, with a `window` that it was told.
    pub(super) fn new(
        irs: Seq,
        window: u32,
        room: u32,
        scaled: bool,
        full: u32,
        far: Option<Duration>,
    ) -> Self {
        let next = irs + 1;
        let far = far.map(|rtt| Far {
            acked: next,
            interval: (rtt / 4).clamp(POLL.0, POLL.1),
            poll: None,
            stalled: 0,
        });
        let room = limited(room, scaled);
        Self {
            next,
            pending: 0,
            held: 0,
            edge: next + window,
            room,
            acked: next,
            repeats: None,
            lenient: false,
            fin: None,
            shut: false,
            scaled,
            full,
            ack: Ack::No,
            alternation: Alternation::NONE,
            far,
        }
    }

    /// Takes a segment's place in the stream; returns what to queue of it.
    pub(super) fn segment(&mut self, now: Instant, seq: Seq, len: u32, fin: bool) -> Push {
        let expected = self.next + self.pending;
        let ended = self.fin == Some(expected);
        if len == 0 && !fin {
            if seq != self.expected() {
                // What is before it was lost: RFC 9293, section 3.10.7.4.
                self.ack = Ack::Now;
            }
            return Push::NONE;
        }
        let skip = expected.distance(seq);
        let repeated = skip > len || (skip == len && !fin);
        if seq.after(expected) || repeated || ended {
            // A gap or a repetition: the same acknowledgement again tells what is expected.
            self.ack = Ack::Now;
            if !seq.after(expected) && (seq + len + u32::from(fin)).after(self.acked) {
                let since = *self.repeats.get_or_insert(now);
                self.lenient |= now.since(since) >= INSISTENCE;
            }
            return Push::NONE;
        }
        let room = self.edge.distance(expected);
        let fresh = (len - skip).min(room);
        self.pending += fresh;
        if fin && fresh == len - skip {
            self.fin = Some(expected + fresh);
        }
        if fresh < len - skip {
            self.ack = Ack::Now;
        }
        self.ask_for_ack(now, len >= self.full || fin);
        Push { skip, len: fresh }
    }

    fn ask_for_ack(&mut self, now: Instant, prompt: bool) {
        let is_little = || (self.next + self.pending).distance(self.acked) < self.full.saturating_mul(2);
        let delay = self.alternation.is_certain() && !prompt && is_little();
        self.alternation.heard(now);
        match self.ack {
            Ack::No if delay => self.ack = Ack::At(now + ACK_DELAY),
            Ack::At(_) if delay => {}
            Ack::No | Ack::At(_) | Ack::WhenQuiet => self.ack = Ack::IfNews,
            Ack::IfNews | Ack::Now => {}
        }
    }

    pub(super) fn set_room(&mut self, room: u32) {
        self.room = limited(room, self.scaled);
    }

    /// Of all that was pushed since the last call, `taken` bytes are queued; whether that is all.
    pub(super) fn queued(&mut self, now: Instant, taken: u32, held: u32) -> bool {
        let taken = taken.min(self.pending);
        let is_all = taken == self.pending;
        self.next += taken;
        if !is_all {
            // There was no room after all: the guest has to send it again.
            self.ack = Ack::Now;
        }
        self.pending = 0;
        self.held = held;
        self.poll_far(now);
        is_all
    }

    /// A guest whose window is half full, or more, needs to hear of it.
    pub(super) fn busy(&mut self) {
        let unacked = self.next.distance(self.acked);
        if self.ack == Ack::IfNews && self.held == 0 && unacked < self.room / 2 {
            self.ack = Ack::WhenQuiet;
        }
    }

    pub(super) fn quiet(&mut self) {
        if self.awaits_quiet() {
            self.ack = Ack::IfNews;
        }
    }

    pub(super) fn awaits_quiet(&self) -> bool {
        self.ack == Ack::WhenQuiet
    }

    /// So much is still held; whether that is less than before.
    pub(super) fn flushed(&mut self, now: Instant, held: u32) -> bool {
        let is_less = held < self.held;
        self.held = held.min(self.held);
        self.tell_news();
        self.poll_far(now);
        is_less
    }

    pub(super) fn unacknowledged(&mut self, now: Instant, bytes: u32) {
        let queued = self.queued_end();
        let Some(far) = &mut self.far else { return };
        let acked = queued - bytes;
        far.stalled = if acked.after(far.acked) { 0 } else { (far.stalled + 1).min(MAX_STALLED) };
        far.poll = (acked != queued).then(|| now + far.interval.saturating_mul(1 << far.stalled));
        if acked.after(far.acked) {
            far.acked = acked;
            self.tell_news();
        }
    }

    /// Whether the host's socket is to be shut down now; if so it counts as shut down.
    pub(super) fn take_shutdown(&mut self, now: Instant) -> bool {
        let due = !self.shut && self.fin == Some(self.next) && self.held == 0 && self.pending == 0;
        if due {
            self.shut = true;
            self.ack = Ack::Now;
            self.poll_far(now);
        }
        due
    }

    /// True asks for [`Receive::unacknowledged`].
    pub(super) fn timeout(&mut self, now: Instant) -> bool {
        if matches!(self.ack, Ack::At(at) if at <= now) {
            self.ack = Ack::IfNews;
            self.alternation.waited_in_vain();
        }
        let far = self.far.as_mut().filter(|far| far.poll.is_some_and(|at| at <= now));
        far.is_some_and(|far| far.poll.take().is_some())
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let ack = if let Ack::At(at) = self.ack { Some(at) } else { None };
        ack.into_iter().chain(self.far.and_then(|far| far.poll)).min()
    }

    pub(super) fn acknowledge_now(&mut self) {
        self.ack = Ack::Now;
    }

    /// Whether a segment should be sent for the acknowledgement's or window's sake alone.
    pub(super) fn ack_due(&mut self) -> bool {
        if self.ack == Ack::IfNews {
            let opened = self.target_edge().distance(self.edge);
            let worth = self.full.saturating_mul(2).min(self.room / 2);
            if !self.ackable().after(self.acked) && opened < worth.max(1) {
                self.ack = Ack::No;
            }
        }
        matches!(self.ack, Ack::Now | Ack::IfNews)
    }

    /// Data is being sent to the guest.
    pub(super) fn responds(&mut self, now: Instant) {
        self.alternation.responds(now);
    }

    /// Acknowledgement and window for a segment that is being sent.
    pub(super) fn stamp(&mut self) -> (Seq, u16) {
        self.ack = Ack::No;
        let acked = self.ackable().max(self.acked);
        if acked != self.acked {
            self.repeats = None;
        }
        self.acked = acked;
        self.lenient &= self.delivered() != self.end();
        let scale = if self.scaled { WINDOW_SCALE } else { 0 };
        // Rounded up: rounding down would move the edge back.
        let edge = self.target_edge().max(self.acked);
        let units = edge.distance(self.acked).div_ceil(1 << scale).min(u32::from(u16::MAX));
        self.edge = self.edge.max(self.acked + (units << scale));
        (self.acked, u16::try_from(units).unwrap_or(u16::MAX))
    }

    /// The guest has finished, and that is acknowledged.
    pub(super) fn is_finished(&self) -> bool {
        self.shut && self.fin.is_some_and(|at| self.acked == at + 1)
    }

    /// The guest has finished.
    pub(super) fn has_end(&self) -> bool {
        self.fin.is_some()
    }

    /// The guest has finished, and some of what precedes its FIN waits for room at the host's
    /// socket.
    pub(super) fn is_finishing(&self) -> bool {
        self.fin == Some(self.next + self.pending) && self.held > 0
    }

    /// More is acknowledged than the host's kernel has.
    pub(super) fn owes(&self) -> bool {
        self.acked.after(self.queued_end())
    }

    /// The host's socket was shut down behind the guest's last byte.
    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    /// What a RST of the guest with the number `seq` is worth. A socket of the guest that is gone
    /// takes it from our acknowledgement, and that may be behind what we have.
    pub(super) fn judge_reset(&self, seq: Seq) -> Reset {
        if seq == self.expected() || seq == self.acked {
            Reset::Certain
        } else if self.is_acceptable(seq, 0) {
            Reset::Doubtful
        } else {
            Reset::Invalid
        }
    }

    /// Whether a segment that takes `len` numbers from `seq` on is new to the guest's knowledge,
    /// and reaches into the window (RFC 9293, section 3.4).
    pub(super) fn is_acceptable(&self, seq: Seq, len: u32) -> bool {
        let expected = self.expected();
        // The usual case first.
        seq == expected || (!(seq + len).before(self.acked) && !seq.after(self.edge.max(expected)))
    }

    /// Nothing is to be acknowledged but what was before.
    pub(super) fn forget_ack(&mut self) {
        self.ack = Ack::No;
    }

    /// Whether the window that the guest was told is used up.
    pub(super) fn is_closed(&self) -> bool {
        !self.edge.after(self.acked)
    }

    /// Whether an empty segment at `seq` asks for an answer: a keep-alive, or a probe of a window
    /// (RFC 9293, section 3.8.4).
    pub(super) fn is_keepalive(&self, seq: Seq) -> bool {
        seq + 1 == self.acked
    }

    /// The number of what has to come next: RCV.NXT, once all that was pushed is queued.
    fn expected(&self) -> Seq {
        let end = self.next + self.pending;
        end + u32::from(self.fin == Some(end))
    }

    fn tell_news(&mut self) {
        if self.ack != Ack::Now {
            self.ack = Ack::IfNews;
        }
    }

    fn poll_far(&mut self, now: Instant) {
        if let Some(far) = &mut self.far {
            let due = now + far.interval;
            far.poll.get_or_insert(due);
        }
    }

    /// End of what the host's kernel has.
    fn queued_end(&self) -> Seq {
        self.next - self.held + u32::from(self.shut)
    }

    fn ackable(&self) -> Seq {
        if self.lenient { self.end() } else { self.delivered() }
    }

    /// End of what has arrived where it is acknowledged without insistence.
    fn delivered(&self) -> Seq {
        self.far.map_or(self.queued_end(), |far| far.acked)
    }

    /// End of what is queued or held, FIN included.
    fn end(&self) -> Seq {
        self.next + u32::from(self.fin == Some(self.next))
    }

    fn target_edge(&self) -> Seq {
        let room = if self.held > 0 { 0 } else { self.room };
        self.edge.max(self.next + room)
    }
}

/// What a window can express.
fn limited(room: u32, scaled: bool) -> u32 {
    room.min(u32::from(u16::MAX) << if scaled { WINDOW_SCALE } else { 0 })
}
