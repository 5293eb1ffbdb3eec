//! Tests that read like packet traces. What they share is here.
//!
//! The guest's bytes begin at 1001, those of the host's peer at 5001. The
//! window promised to the guest is 20 480 bytes and an MSS 1000, unless a test says otherwise.

mod claims;
mod closing;
mod keepalive;
mod leftovers;
mod opening;
mod receiving;
mod sending;
mod undelivered;

extern crate std;

use std::vec::Vec;

use super::*;

const IRS: u32 = 1000;
const ISS: u32 = 5000;
const ROOM: u32 = 20_480;
const MSS: u32 = 1000;
const KEEPALIVE: Duration = Duration::from_secs(120);

const SYN: Flags = Flags::SYN;
const ACK: Flags = Flags::ACK;
const FIN: Flags = Flags::FIN.union(Flags::ACK);
const RST: Flags = Flags::RST;

fn config() -> Config {
    Config { mss: 1000, room: ROOM, max_peek: 8000, sack: true }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A segment of the guest; its window is 10 000 bytes.
fn seg(flags: Flags, seq: u32, ack: u32) -> Segment {
    Segment {
        src_port: 40_000,
        dst_port: 80,
        seq: Seq(seq),
        ack: Seq(ack),
        flags,
        window: 10_000,
        ..Segment::default()
    }
}

fn syn() -> Segment {
    let options = Options { mss: Some(1000), sack_permitted: true, ..Options::default() };
    Segment { options, ..seg(SYN, IRS, 0) }
}

struct Trace {
    conn: Connection,
    now: Instant,
}

impl Trace {
    /// The guest's SYN arrived.
    fn connecting(syn: &Segment) -> Self {
        Self { conn: Connection::from_guest(config(), syn, Seq(ISS)), now: Instant::from_millis(1000) }
    }

    /// The guest opened the connection, and the host has nothing to say.
    fn established() -> Self {
        Self::established_with(&syn(), None)
    }

    fn established_with(syn: &Segment, far: Option<Duration>) -> Self {
        let mut t = Self::connecting(syn);
        t.event(Event::Connected { far });
        assert_eq!(t.emits().flags, SYN | ACK);
        t.gets(seg(ACK, IRS + 1, ISS + 1), 0);
        t.finds_nothing();
        t.quiet();
        t
    }

    /// A segment with `len` bytes arrives from the guest; what is pushed is queued at once.
    fn gets(&mut self, segment: Segment, len: u32) -> Push {
        let push = self.conn.segment(self.now, &segment, len);
        if push.len > 0 {
            self.event(Event::Queued { taken: push.len, held: 0 });
        }
        push
    }

    fn event(&mut self, event: Event) {
        self.conn.handle(self.now, event);
    }

    fn after(&mut self, time: Duration) {
        self.now = self.now + time;
        self.event(Event::Timeout);
    }

    fn action(&mut self) -> Option<Action> {
        self.conn.next_action(self.now)
    }

    #[track_caller]
    fn quiet(&mut self) {
        assert_eq!(self.action(), None);
    }

    #[track_caller]
    fn emits(&mut self) -> Segment {
        match self.action() {
            Some(Action::Emit(segment)) => segment,
            other => panic!("{other:?} instead of a segment"),
        }
    }

    #[track_caller]
    fn acks(&mut self, ack: u32) -> Segment {
        let segment = self.emits();
        assert_eq!((segment.flags, segment.ack), (ACK, Seq(ack)), "{segment:?}");
        segment
    }

    #[track_caller]
    fn peeks(&mut self, offset: u32, len: u32) {
        assert_eq!(self.action(), Some(Action::Peek { offset, len }));
    }

    /// It asks what the host's peer has not acknowledged.
    #[track_caller]
    fn has_unacknowledged(&mut self, bytes: u32) {
        assert_eq!(self.action(), Some(Action::AskUnacknowledged));
        self.event(Event::Unacknowledged { bytes });
    }

    /// The next peek finds the queue empty there.
    #[track_caller]
    fn finds_nothing(&mut self) {
        assert!(matches!(self.action(), Some(Action::Peek { .. })));
        self.conn.drained(Behind::Nothing);
    }

    /// The peek just asked for finds `len` bytes; returns the segment's header.
    fn finds(&mut self, len: u32, drained: bool, ended: bool) -> Segment {
        let behind = match (drained, ended) {
            (_, true) => Behind::End,
            (true, false) => Behind::Nothing,
            (false, false) => Behind::More,
        };
        self.conn.transmit(self.now, len, behind)
    }

    /// The host has more than the guest takes, whose window has room for `window` bytes.
    #[track_caller]
    fn fills(&mut self, window: u32) {
        self.event(Event::Readable);
        for offset in (0..window).step_by(8000) {
            self.peeks(offset, 8000);
            self.finds(8000, false, false);
        }
        self.quiet();
    }

    /// The host sends `count` full segments, one at a time.
    fn sends(&mut self, count: u32) {
        for n in 0..count {
            self.event(Event::Readable);
            assert!(matches!(self.action(), Some(Action::Peek { .. })), "segment {n}");
            self.finds(MSS, true, false);
        }
        self.quiet();
    }
}
