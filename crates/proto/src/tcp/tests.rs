//! Tests that read like packet traces, and arbitrary sequences of operations.
//!
//! The guest's bytes begin at 1001, those of the host's peer at 5001. The
//! window promised to the guest is 20 480 bytes and an MSS 1000, unless a test says otherwise.

extern crate std;

use std::vec::Vec;

use super::*;

const IRS: u32 = 1000;
const ISS: u32 = 5000;
const ROOM: u32 = 20_480;
const MSS: u32 = 1000;

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
        self.conn.drained(false);
    }

    /// The peek just asked for finds `len` bytes; returns the segment's header.
    fn finds(&mut self, len: u32, drained: bool, ended: bool) -> Segment {
        self.conn.transmit(self.now, len, drained, ended)
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

#[test]
fn opened_by_the_guest() {
    // RFC 9293, section 3.5; answered only when the host's connect succeeded.
    let mut t = Trace::connecting(&syn());
    t.quiet();
    t.gets(syn(), 0);
    t.quiet();
    t.event(Event::Connected { far: None });
    let reply = t.emits();
    assert_eq!((reply.flags, reply.seq, reply.ack), (SYN | ACK, Seq(ISS), Seq(IRS + 1)));
    assert_eq!((reply.options.mss, reply.options.sack_permitted), (Some(1000), true));
    assert_eq!(reply.options.window_scale, None, "not offered");
    assert_eq!((reply.src_port, reply.dst_port), (80, 40_000));
    t.quiet();
    // Our answer was lost.
    t.gets(syn(), 0);
    assert_eq!(t.emits().flags, SYN | ACK);
    t.after(ms(1999));
    t.quiet();
    t.after(ms(1));
    assert_eq!(t.emits().flags, SYN | ACK);
    // The acknowledgement was lost, but data brings another one.
    assert_eq!(t.gets(seg(ACK, IRS + 1, ISS + 1), 10), Push { skip: 0, len: 10 });
    t.finds_nothing();
    t.acks(IRS + 11);
    t.quiet();
}

#[test]
fn opened_by_the_host() {
    let mut t = Trace {
        conn: Connection::from_host(config(), 80, 40_000, Seq(ISS), None, Instant::ZERO),
        now: Instant::ZERO,
    };
    let ours = t.emits();
    assert_eq!((ours.flags, ours.seq, ours.options.window_scale), (SYN, Seq(ISS), Some(WINDOW_SCALE)));
    t.after(ms(1000));
    assert_eq!(t.emits().flags, SYN);
    t.gets(Segment { flags: SYN | ACK, ..seg(ACK, IRS, ISS + 1) }, 0);
    t.finds_nothing();
    assert_eq!(t.acks(IRS + 1).seq, Seq(ISS + 1));
    t.quiet();
    // The acknowledgement was lost: RFC 5961, section 4.
    t.gets(Segment { flags: SYN | ACK, ..seg(ACK, IRS, ISS + 1) }, 0);
    t.acks(IRS + 1);
    t.quiet();
}

#[test]
fn a_link_without_room_still_carries_acknowledgements() {
    let mut t = Trace::established();
    t.event(Event::Readable);
    t.gets(seg(ACK, IRS + 1, ISS + 1), 10);
    t.peeks(0, 8000);
    let now = t.now;
    let Some(Action::Emit(ack)) = t.conn.next_action_without_data(now) else { panic!("no acknowledgement") };
    assert_eq!((ack.ack, t.conn.next_action_without_data(now)), (Seq(IRS + 11), None));
    // Room again: nothing was forgotten.
    t.peeks(0, 8000);
    assert_eq!(t.finds(1000, true, true).flags, FIN | Flags::PSH);
    t.quiet();
    t.after(ms(5000));
    assert_eq!(t.conn.next_action_without_data(t.now), None, "not sent again without room either");
    t.peeks(0, 2000);
}

#[test]
fn host_refuses() {
    let mut t = Trace::connecting(&syn());
    t.event(Event::Failed);
    let reset = t.emits();
    assert_eq!((reset.flags, reset.seq, reset.ack), (RST | ACK, Seq(0), Seq(IRS + 1)));
    assert_eq!(t.action(), Some(Action::Close));
}

/// The host's peer resets the connection before the guest has answered.
#[test]
fn host_fails_in_the_handshake() {
    let mut t = Trace::connecting(&syn());
    t.event(Event::Connected { far: None });
    t.emits();
    t.event(Event::Failed);
    let reset = t.emits();
    assert_eq!((reset.flags, reset.seq, reset.ack), (RST | ACK, Seq(ISS + 1), Seq(IRS + 1)));
    assert_eq!(t.action(), Some(Action::Close));

    let conn = Connection::from_host(config(), 80, 40_000, Seq(ISS), None, Instant::ZERO);
    let mut t = Trace { conn, now: Instant::ZERO };
    t.emits();
    t.event(Event::Failed);
    let reset = t.emits();
    assert_eq!((reset.flags, reset.seq), (RST, Seq(ISS + 1)));
    assert_eq!(t.action(), Some(Action::Close));
}

/// What the engine asks in each state.
#[test]
fn what_a_connection_tells() {
    let told = |conn: &Connection| (conn.is_connecting(), conn.is_opening(), conn.has_ended(), conn.mss());
    let small = Segment { options: Options { mss: Some(700), ..Options::default() }, ..syn() };
    let mut t = Trace::connecting(&small);
    assert_eq!(told(&t.conn), (true, false, false, MSS));
    assert_eq!((t.conn.guest_isn(), t.conn.next_timeout()), (Seq(IRS), None));
    t.event(Event::Connected { far: None });
    assert_eq!(told(&t.conn), (false, true, false, MSS));
    assert_eq!(t.emits().options, Options { mss: Some(1000), ..Options::default() }, "no more than offered");
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(1000)));
    t.gets(seg(ACK, IRS + 1, ISS + 1), 0);
    assert_eq!(told(&t.conn), (false, false, false, 700));
    assert_eq!(t.conn.retransmitted(), 0);
    t.gets(seg(RST, IRS + 1, 0), 0);
    assert_eq!(told(&t.conn), (false, false, true, MSS));
    assert_eq!(t.action(), Some(Action::Abort));
    assert_eq!((t.conn.next_timeout(), t.conn.retransmitted()), (None, 0));
}

#[test]
fn guest_refuses() {
    let open = || Connection::from_host(config(), 80, 40_000, Seq(ISS), None, Instant::ZERO);
    let mut t = Trace { conn: open(), now: Instant::ZERO };
    t.emits();
    // RFC 9293, section 3.10.7.3: without an acknowledgement of our SYN it is somebody else's.
    t.gets(seg(RST, IRS, 0), 0);
    t.gets(seg(RST | ACK, IRS, ISS + 7), 0);
    t.quiet();
    t.gets(seg(RST | ACK, 0, ISS + 1), 0);
    assert_eq!(t.action(), Some(Action::Abort));
}

#[test]
fn attempts_to_open_end() {
    let mut t = Trace {
        conn: Connection::from_host(config(), 80, 40_000, Seq(ISS), None, Instant::ZERO),
        now: Instant::ZERO,
    };
    let mut sent = Vec::new();
    let reset = loop {
        let segment = t.emits();
        if segment.flags.contains(RST) {
            break t.now;
        }
        sent.push(t.now.as_millis() / 1000);
        t.now = t.conn.next_timeout().expect("a timer");
        t.event(Event::Timeout);
    };
    assert_eq!(sent, [0, 1, 3, 7, 15, 31, 63]);
    assert_eq!(reset.as_millis(), 127_000);
    assert_eq!(t.action(), Some(Action::Abort));
}

#[test]
fn a_half_open_connection_of_the_guest() {
    // RFC 9293, sections 3.5.1 and 3.10.7.3: it answers our SYN with an acknowledgement of something else. A RST ends that,
    // and then it takes our SYN.
    let mut t = Trace {
        conn: Connection::from_host(config(), 80, 40_000, Seq(ISS), None, Instant::ZERO),
        now: Instant::ZERO,
    };
    t.emits();
    t.gets(seg(ACK, 77, 4444), 0);
    let reset = t.emits();
    assert_eq!((reset.flags, reset.seq), (RST, Seq(4444)));
    assert_eq!(t.emits().flags, SYN, "at once");
    t.quiet();
    // A guest that says so again gets its RST, and the SYN by the timer alone.
    t.gets(seg(ACK, 77, 4444), 0);
    assert_eq!(t.emits().flags, RST);
    t.quiet();
    t.after(ms(2000));
    assert_eq!(t.emits().flags, SYN);
    t.gets(Segment { flags: SYN | ACK, ..seg(ACK, IRS, ISS + 1) }, 0);
    t.finds_nothing();
    t.acks(IRS + 1);
    t.quiet();
}

/// What a segment does between the guest's SYN and the acknowledgement of our answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Nothing,
    Challenge,
    /// A RST of this number, and no more.
    Reset(u32),
    End,
    Repeat,
}

#[test]
fn what_a_handshake_makes_of_other_segments() {
    // RFC 9293, section 3.10.7.4, SYN-RECEIVED: the sequence number is looked at first.
    let (next, edge) = (IRS + 1, IRS + 1 + ROOM);
    let table = [
        (seg(ACK, edge + 1, 77), Does::Challenge),
        (seg(ACK, IRS, 77), Does::Challenge),
        (seg(ACK, IRS, ISS + 1), Does::Challenge),
        (seg(FIN, IRS - 1, 77), Does::Challenge),
        (seg(FIN, IRS, 77), Does::Reset(77)),
        (seg(ACK, next, 77), Does::Reset(77)),
        (seg(ACK, edge, ISS), Does::Reset(ISS)),
        (seg(ACK, next, ISS + 2), Does::Reset(ISS + 2)),
        (seg(Flags::empty(), next, 0), Does::Nothing),
        (seg(RST, next, 0), Does::End),
        (seg(RST | ACK, next, 77), Does::End),
        (seg(RST, next + 1, 0), Does::Challenge),
        (seg(RST, edge, 0), Does::Challenge),
        (seg(RST, edge + 1, 0), Does::Nothing),
        (seg(RST, IRS, 0), Does::Nothing),
        (seg(SYN, IRS, 0), Does::Repeat),
        (seg(SYN, next, 0), Does::End),
        (seg(SYN, edge + 1, 0), Does::Challenge),
    ];
    for (segment, does) in table {
        let mut t = Trace::connecting(&syn());
        t.event(Event::Connected { far: None });
        t.emits();
        t.gets(segment, 0);
        let action = match t.action() {
            None => Does::Nothing,
            Some(Action::Abort) => Does::End,
            Some(Action::Emit(s)) if s.flags == RST => Does::Reset(s.seq.0),
            Some(Action::Emit(s)) if s.flags == SYN | ACK => Does::Repeat,
            Some(Action::Emit(s)) if (s.flags, s.seq, s.ack) == (ACK, Seq(ISS + 1), Seq(next)) => {
                Does::Challenge
            }
            other => panic!("{segment:?}: {other:?}"),
        };
        assert_eq!(action, does, "{segment:?}");
        if does != Does::End {
            // The guest's own is what it was.
            t.quiet();
            assert_eq!(t.gets(seg(ACK, next, ISS + 1), 5).len, 5, "{segment:?}");
            t.finds_nothing();
            t.acks(next + 5);
        }
    }
}

#[test]
fn a_challenge_tells_no_more_than_the_window_promised() {
    // RFC 7323, section 2.2: scaled, as it is no SYN.
    for window_scale in [None, Some(7)] {
        let offer = Options { window_scale, ..syn().options };
        let mut t = Trace::connecting(&Segment { options: offer, ..syn() });
        t.event(Event::Connected { far: None });
        let told = t.emits().window;
        assert!((20_000..=20_480).contains(&told));
        t.gets(seg(ACK, IRS, 77), 0);
        let scale = window_scale.map_or(0, |_| WINDOW_SCALE);
        assert_eq!(t.acks(IRS + 1).window << scale, told);
    }
}

#[test]
fn while_the_host_connects() {
    // Nothing was answered: a RST has to have the next number, and another SYN is another connection.
    let table = [
        (seg(RST, IRS + 1, 0), true),
        (seg(RST, IRS, 0), false),
        (seg(RST | ACK, IRS + 2, 0), false),
        (seg(SYN | RST, 7, 0), false),
        (syn(), false),
        (seg(SYN, IRS + 1, 0), true),
        (seg(ACK, IRS + 1, 77), false),
    ];
    for (segment, ends) in table {
        let mut t = Trace::connecting(&syn());
        t.gets(segment, 0);
        assert_eq!(t.conn.has_ended(), ends, "{segment:?}");
        assert_eq!(t.action(), ends.then_some(Action::Abort), "{segment:?}");
    }
}

#[test]
fn the_room_there_is_when_it_is_told_is_promised() {
    let offer = Options { window_scale: Some(7), ..syn().options };
    // The guest's SYN came when there was more.
    let mut t = Trace::connecting(&Segment { options: offer, ..syn() });
    t.conn.set_room(8192);
    t.event(Event::Connected { far: None });
    assert_eq!(t.emits().window, 8192);
    t.conn.set_room(4096);
    t.gets(seg(ACK, IRS + 1, ISS + 1), 0);
    t.event(Event::Readable);
    assert!(matches!(t.action(), Some(Action::Peek { .. })));
    assert_eq!(t.finds(10, true, false).window, 8192 >> WINDOW_SCALE, "the right edge stays");
    t.gets(seg(ACK, IRS + 1, ISS + 11), 8192);
    assert_eq!(t.action(), Some(Action::Discard(10)));
    assert_eq!(t.acks(IRS + 1 + 8192).window, 4096 >> WINDOW_SCALE);
    t.conn.set_room(16_384);
    t.gets(seg(ACK, IRS + 1 + 8192, ISS + 11), 4096);
    assert_eq!(t.acks(IRS + 1 + 12_288).window, 16_384 >> WINDOW_SCALE);
}

/// A SYN's window is not scaled, but none is told that a scaled one could not repeat.
#[test]
fn the_first_window_is_a_multiple_of_the_scale() {
    let unit = 1 << WINDOW_SCALE;
    for (room, window) in
        [(3 * unit, 3 * unit), (4 * unit - 1, 3 * unit), (unit / 2, 0), (u32::MAX, 65_536 - unit)]
    {
        let config = Config { room, ..config() };
        let conn = Connection::from_host(config, 80, 40_000, Seq(ISS), None, Instant::ZERO);
        let syn = Trace { conn, now: Instant::ZERO }.emits();
        assert_eq!((syn.flags, u32::from(syn.window)), (SYN, window), "{room}");
    }
}

#[test]
fn several_batches_of_payload_are_reported_as_one() {
    let mut t = Trace::established();
    for n in 0..3 {
        let push = t.conn.segment(t.now, &seg(if n == 2 { FIN } else { ACK }, 1001 + n * 100, 5001), 100);
        assert_eq!(push.len, 100);
    }
    t.event(Event::Queued { taken: 300, held: 0 });
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1302);
}

#[test]
fn data_is_acknowledged_when_queued() {
    let mut t = Trace::established();
    let push = t.conn.segment(t.now, &seg(ACK, 1001, 5001), 500);
    assert_eq!(push, Push { skip: 0, len: 500 });
    t.event(Event::Queued { taken: 500, held: 0 });
    assert_eq!(t.acks(1501).window, 20_480);
    t.quiet();
    // Half of it again, and some more.
    assert_eq!(t.gets(seg(ACK, 1251, 5001), 500), Push { skip: 250, len: 250 });
    t.acks(1751);
    // All of it again: RFC 9293, section 3.10.7.4.
    assert_eq!(t.gets(seg(ACK, 1001, 5001), 500), Push::NONE);
    t.acks(1751);
    t.quiet();
}

#[test]
fn an_acknowledgement_waits_while_more_is_on_the_link() {
    let mut t = Trace::established();
    let arrives = |t: &mut Trace, seq, len| {
        t.gets(seg(ACK, seq, 5001), len);
        t.event(Event::Busy);
    };
    arrives(&mut t, 1001, 2000);
    t.quiet();
    assert!(t.conn.awaits_quiet());
    arrives(&mut t, 3001, 2000);
    t.quiet();
    t.event(Event::Quiet);
    t.acks(5001);
    assert!(!t.conn.awaits_quiet());
    // Half of the window is as much as may wait.
    arrives(&mut t, 5001, ROOM / 2 - 1);
    t.quiet();
    arrives(&mut t, 5000 + ROOM / 2, 1);
    t.acks(5001 + ROOM / 2);
    // What asks to be told does not wait: a gap, an end.
    arrives(&mut t, 20_001, 1);
    t.acks(5001 + ROOM / 2);
    t.gets(seg(FIN, 5001 + ROOM / 2, 5001), 10);
    t.event(Event::Busy);
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(5012 + ROOM / 2);
    // Nothing is owed to a guest that was told.
    t.event(Event::Busy);
    t.event(Event::Quiet);
    t.quiet();
}

#[test]
fn an_acknowledgement_that_waits_travels_with_data() {
    let mut t = Trace::established();
    t.gets(seg(ACK, 1001, 5001), 2000);
    t.event(Event::Busy);
    t.quiet();
    t.event(Event::Readable);
    assert!(matches!(t.action(), Some(Action::Peek { .. })));
    assert_eq!(t.conn.transmit(t.now, 100, true, false).ack, Seq(3001));
    t.event(Event::Quiet);
    t.quiet();
}

#[test]
fn a_gap_is_told_each_time() {
    // RFC 5681, section 4.2.
    let mut t = Trace::established();
    for n in 1..4 {
        assert_eq!(t.gets(seg(ACK, 1001 + n * 1000, 5001), 1000), Push::NONE);
        t.acks(1001);
        t.quiet();
    }
    t.gets(seg(ACK, 1001, 5001), 1000);
    t.acks(2001);
}

#[test]
fn what_exceeds_the_window_is_cut() {
    let mut t = Trace::established();
    let push = t.conn.segment(t.now, &seg(FIN, 1001, 5001), ROOM + 5);
    assert_eq!(push, Push { skip: 0, len: ROOM });
    // The host's kernel took nothing of it.
    t.event(Event::Queued { taken: ROOM, held: ROOM });
    assert_eq!(t.acks(1001).window, 20_480);
    assert_eq!(t.gets(seg(ACK, 1001 + ROOM, 5001), 1), Push::NONE, "window probe");
    t.acks(1001);
    t.quiet();
    // It takes some, which is acknowledged; the edge stays.
    t.event(Event::Flushed { held: ROOM / 2 });
    assert_eq!(t.acks(1001 + ROOM / 2).window, 10_240);
    // It has taken all: the window opens again.
    t.event(Event::Flushed { held: 0 });
    assert_eq!(t.acks(1001 + ROOM).window, 20_480);
    t.quiet();
}

#[test]
fn unacceptable_acknowledgements() {
    // RFC 9293, section 3.10.7.4: of something never sent.
    let mut t = Trace::established();
    assert_eq!(t.gets(seg(ACK, 1001, 5002), 100), Push::NONE);
    assert_eq!(t.acks(1001).seq, Seq(5001));
    // Old ones are ignored, but not their data.
    assert_eq!(t.gets(seg(ACK, 1001, 4000), 100).len, 100);
    t.acks(1101);
    // Without one, a segment is nothing.
    assert_eq!(t.gets(seg(Flags::empty(), 1101, 0), 100), Push::NONE);
    t.quiet();
}

#[test]
fn a_reset_has_to_have_the_next_number() {
    // RFC 9293, section 3.10.7.4, and RFC 5961, section 3.2: elsewhere in the window it is challenged.
    let edge = 1001 + ROOM;
    for (seq, certain, doubtful) in [
        (1001, true, false),
        (1002, false, true),
        (edge, false, true),
        (1000, false, false),
        (edge + 1, false, false),
        (0, false, false),
    ] {
        let mut t = Trace::established();
        t.gets(seg(RST, seq, 0), 0);
        match t.action() {
            Some(Action::Abort) => assert!(certain, "{seq}"),
            Some(Action::Emit(ack)) => {
                assert!(doubtful, "{seq}");
                assert_eq!((ack.flags, ack.seq, ack.ack), (ACK, Seq(5001), Seq(1001)));
                // A guest that meant it has no such connection any more.
                t.gets(seg(RST, ack.ack.0, 0), 0);
                assert_eq!(t.action(), Some(Action::Abort));
            }
            other => assert!(other.is_none() && !certain && !doubtful, "{seq}: {other:?}"),
        }
    }
}

#[test]
fn a_reset_by_a_socket_that_is_gone() {
    // It takes the number from what we acknowledged, which may be less than what we have: RFC 9293, section 3.10.7.1.
    let mut t = Trace::established_with(&syn(), Some(ms(100)));
    t.gets(seg(ACK, 1001, 5001), 500);
    t.quiet();
    t.event(Event::Readable);
    t.peeks(0, 8000);
    assert_eq!(t.finds(100, true, false).ack, Seq(1001));
    t.gets(seg(RST, 1001, 0), 0);
    assert_eq!(t.action(), Some(Action::Abort));
}

#[test]
fn the_end_of_a_batch_decides_where_a_reset_belongs() {
    let mut t = Trace::established();
    t.conn.segment(t.now, &seg(FIN, 1001, 5001), 500);
    t.conn.segment(t.now, &seg(RST, 1502, 0), 0);
    assert!(t.conn.has_ended());
}

/// What a host's peer does not read for long is acknowledged all the same: the guest would give up, and waits behind a
/// window of zero.
#[test]
fn a_guest_that_repeats_in_vain_is_acknowledged() {
    for far in [None, Some(ms(100))] {
        let mut t = Trace::established_with(&syn(), far);
        let held = if far.is_some() { 0 } else { ROOM };
        assert_eq!(t.conn.segment(t.now, &seg(ACK, 1001, 5001), ROOM).len, ROOM);
        t.event(Event::Queued { taken: ROOM, held });
        t.conn.set_room(0);
        while t.action().is_some() {}
        // Its retransmission timer goes off; RFC 6298, section 5.5.
        for (wait, acked) in [(200, 1001), (400, 1001), (800, 1001 + ROOM)] {
            t.now = t.now + ms(wait);
            t.gets(seg(ACK, 1001, 5001), MSS);
            let ack = t.emits();
            assert_eq!((ack.ack, ack.window > 0), (Seq(acked), acked == 1001), "{wait} {far:?}");
        }
        // It asks whether the window is open; and finishes.
        t.gets(seg(ACK, 1000 + ROOM, 5001), 0);
        assert_eq!(t.acks(1001 + ROOM).window, 0);
        t.gets(seg(FIN, 1001 + ROOM, 5001), 0);
        if far.is_none() {
            t.acks(1002 + ROOM);
            t.gets(seg(RST, 1002 + ROOM, 0), 0);
            t.gets(seg(ACK, 1002 + ROOM, 5001), 0);
            t.has_unacknowledged(0);
            t.quiet();
            t.event(Event::Flushed { held: 0 });
            t.has_unacknowledged(1);
            assert_eq!(t.action(), Some(Action::Shutdown));
            assert_eq!(t.action(), Some(Action::Close));
        } else {
            assert_eq!(t.action(), Some(Action::Shutdown));
            t.acks(1002 + ROOM);
            t.gets(seg(RST, 1002 + ROOM, 0), 0);
            assert_eq!(t.action(), Some(Action::Abort));
        }
    }
}

/// What waits for a guest that is gone is given up once its port is used again.
#[test]
fn a_port_used_again_ends_what_was_left_behind() {
    let mut t = Trace::established();
    assert_eq!(t.conn.segment(t.now, &seg(FIN, 1001, 5001), 1000).len, 1000);
    t.event(Event::Queued { taken: 1000, held: 1000 });
    for wait in [0, 400, 800] {
        t.now = t.now + ms(wait);
        t.gets(seg(FIN, 1001, 5001), 1000);
        while t.action().is_some() {}
    }
    t.gets(seg(RST, 2002, 0), 0);
    t.has_unacknowledged(0);
    t.quiet();
    t.gets(seg(SYN, 900_000, 0), 0);
    assert!(t.conn.has_ended());
    assert_eq!(t.action(), Some(Action::Abort));
}

/// A guest that has finished and is gone, of which 1000 bytes are held.
fn orphaned() -> Trace {
    let mut t = Trace::established();
    assert_eq!(t.conn.segment(t.now, &seg(FIN, 1001, 5001), 1000).len, 1000);
    t.event(Event::Queued { taken: 1000, held: 1000 });
    assert!(!t.conn.owes());
    for wait in [0, 400, 800] {
        t.now = t.now + ms(wait);
        t.gets(seg(FIN, 1001, 5001), 1000);
        while t.action().is_some() {}
    }
    assert!(t.conn.owes() && !t.conn.is_orphaned());
    t.gets(seg(RST, 2002, 0), 0);
    assert!(t.conn.owes() && t.conn.is_orphaned());
    t.has_unacknowledged(5000);
    t
}

/// RFC 9293, section 3.8.3: nobody waits for ever.
#[test]
fn what_a_guest_left_behind_waits_while_some_of_it_is_taken() {
    let mut t = orphaned();
    // Some of what is held finds room, or some of what the kernel has is acknowledged.
    for (held, unacknowledged) in [(900, 5100), (900, 5099), (500, 5000), (500, 4999), (450, 4999), (1, 4000)]
    {
        assert_eq!(t.conn.next_timeout(), Some(t.now + ms(100_000)));
        t.after(ms(99_999));
        t.quiet();
        t.event(Event::Flushed { held });
        if t.conn.next_timeout() == Some(t.now + ms(1)) {
            t.after(ms(1));
        }
        t.has_unacknowledged(unacknowledged);
        t.quiet();
    }
    t.after(ms(50_000));
    t.event(Event::Flushed { held: 1 });
    t.quiet();
    t.after(ms(49_999));
    t.quiet();
    t.after(ms(1));
    assert_eq!(t.action(), Some(Action::AskUnacknowledged));
    t.event(Event::Unacknowledged { bytes: 4000 });
    assert_eq!(t.emits().flags, RST | ACK);
    assert_eq!(t.action(), Some(Action::Abort));
    let mut t = orphaned();
    t.event(Event::Flushed { held: 0 });
    t.has_unacknowledged(6000);
    assert_eq!(t.action(), Some(Action::Shutdown));
    assert!(!t.conn.owes());
    assert_eq!(t.action(), Some(Action::Close));
}

/// What was dropped before will not come again either.
#[test]
fn a_guest_that_is_gone_before_all_was_taken() {
    let mut t = Trace::established();
    assert_eq!(t.conn.segment(t.now, &seg(FIN, 1001, 5001), 1000).len, 1000);
    t.event(Event::Queued { taken: 500, held: 500 });
    t.acks(1001);
    t.gets(seg(RST, 1001, 0), 0);
    assert_eq!(t.action(), Some(Action::Abort));
}

/// Its last batch found no room, and can't be had again.
#[test]
fn what_a_guest_that_is_gone_sent_in_vain() {
    let mut t = Trace::established();
    assert_eq!(t.conn.segment(t.now, &seg(ACK, 1001, 5001), 1000).len, 1000);
    t.event(Event::Queued { taken: 1000, held: 1000 });
    assert_eq!(t.conn.segment(t.now, &seg(FIN, 2001, 5001), 1000).len, 1000);
    t.conn.segment(t.now, &seg(RST, 3002, 0), 0);
    t.event(Event::Queued { taken: 500, held: 1500 });
    assert_eq!(t.emits().flags, RST | ACK);
    assert_eq!(t.action(), Some(Action::Abort));
}

/// Whether only the guest's last acknowledgement is missing.
#[test]
fn what_is_delivered() {
    let mut t = Trace::established();
    t.sends(2);
    assert!(!t.conn.is_delivered());
    t.gets(seg(ACK, 1001, 7001), 0);
    assert_eq!(t.action(), Some(Action::Discard(2000)));
    assert!(!t.conn.is_delivered(), "it goes on");
    t.sends(1);
    t.event(Event::Readable);
    t.peeks(1000, 8000);
    t.conn.drained(true);
    assert_eq!(t.emits().flags, FIN);
    assert!(!t.conn.is_delivered());
    t.gets(seg(ACK, 1001, 8001), 0);
    assert!(t.conn.is_delivered());
    t.gets(seg(ACK, 1001, 8002), 0);
    assert!(t.conn.is_delivered());
}

/// A FIN alone, whose acknowledgement the host's peer owes.
#[test]
fn a_fin_that_is_repeated_in_vain_is_acknowledged() {
    let mut t = Trace::established_with(&syn(), Some(ms(100)));
    t.gets(seg(FIN, 1001, 5001), 0);
    assert_eq!(t.action(), Some(Action::Shutdown));
    for (wait, acked) in [(0, 1001), (200, 1001), (400, 1001), (800, 1002)] {
        t.now = t.now + ms(wait);
        t.gets(seg(FIN, 1001, 5001), 0);
        t.acks(acked);
    }
}

#[test]
fn only_what_was_not_acknowledged_is_repeated_in_vain() {
    // Behind a gap, and before what is acknowledged.
    for (seq, len) in [(4001, 1000), (1001, 1000), (1001, 0)] {
        let mut t = Trace::established();
        t.gets(self::seg(ACK, 1001, 5001), 1000);
        t.acks(2001);
        assert_eq!(t.conn.segment(t.now, &self::seg(ACK, 2001, 5001), 1000).len, 1000);
        t.event(Event::Queued { taken: 1000, held: 1000 });
        t.quiet();
        for _ in 0..5 {
            t.now = t.now + ms(500);
            t.gets(self::seg(ACK, seq, 5001), len);
            t.acks(2001);
        }
    }
}

/// As long as acknowledgements come forth now and then, nothing is done in vain.
#[test]
fn a_guest_that_is_served_slowly_insists_on_nothing() {
    let mut t = Trace::established();
    assert_eq!(t.conn.segment(t.now, &seg(ACK, 1001, 5001), 10_000).len, 10_000);
    t.event(Event::Queued { taken: 10_000, held: 10_000 });
    t.quiet();
    for held in (0..10_000).step_by(1000).rev() {
        t.now = t.now + ms(900);
        t.gets(seg(ACK, 10_001, 5001), 1000);
        assert_eq!(t.emits().ack.0, 11_001 - held - 1000);
        t.event(Event::Flushed { held });
        assert_eq!(t.emits().ack.0, 11_001 - held);
    }
}

#[test]
fn challenges_are_rare() {
    // RFC 5961, sections 4.2 and 7: a SYN, whatever its number; sections 3.2 and 5.2: other claims without proof.
    let claims = [
        seg(SYN, 1000, 0),
        seg(SYN, 1001, 0),
        seg(SYN | ACK, 0x8000_0000, 5001),
        seg(RST, 1002, 0),
        seg(ACK, 1001, 5002),
        seg(ACK, 1001, 0x8000_1000),
        seg(ACK, 1002 + ROOM, 5001),
        seg(ACK, 7, 5001),
    ];
    for segment in claims {
        let mut t = Trace::established();
        for _ in 0..2 {
            t.gets(segment, 0);
            assert_eq!(t.acks(1001).seq, Seq(5001), "{segment:?}");
            for other in claims {
                t.gets(other, 0);
                t.quiet();
            }
            t.after(ms(499));
            t.gets(segment, 0);
            t.quiet();
            t.after(ms(1));
        }
        assert_eq!(t.gets(seg(ACK, 1001, 5001), 100).len, 100, "{segment:?}");
    }
}

#[test]
fn what_lies_outside_the_window_acknowledges_nothing() {
    // RFC 9293, section 3.10.7.4: such a segment is answered and dropped.
    let mut t = Trace::established();
    t.sends(1);
    // What takes a place in the stream may be a retransmission, and is always answered.
    let answered = [(seg(ACK, 1002 + ROOM, 6001), 10), (seg(FIN, 900, 6001), 0), (seg(FIN, 900, 6001), 10)];
    for (segment, len) in answered {
        for _ in 0..3 {
            t.gets(segment, len);
            t.acks(1001);
            t.quiet();
        }
    }
    t.gets(seg(ACK, 5, 6001), 0);
    t.acks(1001);
    t.gets(seg(ACK, 5, 6001), 0);
    t.quiet();
    t.gets(seg(ACK, 1001, 6001), 0);
    assert_eq!(t.action(), Some(Action::Discard(1000)));
}

#[test]
fn keep_alive_is_answered() {
    let mut t = Trace::established();
    // Each of them: none is a claim without proof.
    for len in [0, 1, 0, 0, 1, 0] {
        t.gets(seg(ACK, 1000, 5001), len);
        t.acks(1001);
        t.quiet();
    }
}

#[test]
fn retransmission_timer() {
    // RFC 6298, section 5: the handshake took no time, so the least timeout is used.
    let mut t = Trace::established();
    t.sends(2);
    for (wait, doubled) in [(200, 400), (400, 800), (800, 1600)] {
        t.after(ms(wait - 1));
        t.quiet();
        t.after(ms(1));
        t.peeks(0, 2000);
        assert_eq!(t.finds(2000, false, false).seq, Seq(5001));
        t.quiet();
        assert_eq!(t.conn.next_timeout(), Some(t.now + ms(doubled)));
    }
    // (5.2), (5.3): an acknowledgement stops or restarts it.
    t.gets(seg(ACK, 1001, 6001), 0);
    assert_eq!(t.action(), Some(Action::Discard(1000)));
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(200)));
    t.gets(seg(ACK, 1001, 7001), 0);
    assert_eq!(t.action(), Some(Action::Discard(1000)));
    t.finds_nothing();
    t.quiet();
    assert_eq!(t.conn.next_timeout(), Some(t.now + KEEPALIVE));
}

/// A connection whose handshake took a second: three seconds are the first timeout.
fn slow() -> Trace {
    let mut t = Trace::connecting(&syn());
    t.event(Event::Connected { far: None });
    t.emits();
    t.now = t.now + ms(1000);
    t.gets(seg(ACK, IRS + 1, ISS + 1), 0);
    t.finds_nothing();
    t.quiet();
    t
}

#[test]
fn what_is_measured() {
    // One segment at a time, from when it was sent until all of it is acknowledged.
    let mut t = slow();
    t.sends(1);
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(3000)));
    t.now = t.now + ms(300);
    t.sends(1);
    t.gets(seg(ACK, 1001, 5501), 0);
    assert_eq!(t.action(), Some(Action::Discard(500)));
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(3000)), "only a part");
    t.now = t.now + ms(700);
    t.gets(seg(ACK, 1001, 7001), 0);
    assert_eq!(t.action(), Some(Action::Discard(1500)));
    t.sends(1);
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(1000 + 4 * 375)), "another second");
    // RFC 6298, section 3: not what was sent again.
    let mut t = slow();
    t.sends(1);
    t.after(ms(3000));
    t.peeks(0, 2000);
    t.finds(1000, true, false);
    t.quiet();
    t.now = t.now + ms(10);
    t.gets(seg(ACK, 1001, 6001), 0);
    assert_eq!(t.action(), Some(Action::Discard(1000)));
    t.sends(1);
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(3000)));
}

#[test]
fn windows_are_scaled() {
    // RFC 7323, section 2.2: but for that of the SYN.
    let offer = Options { window_scale: Some(2), ..syn().options };
    let mut t = Trace::established_with(&Segment { options: offer, ..syn() }, None);
    t.sends(40);
    t.event(Event::Readable);
    t.quiet();
}

#[test]
fn after_a_timeout_the_amount_grows_again() {
    let mut t = Trace::established();
    t.sends(10);
    t.after(ms(200));
    let mut acked = 5001;
    for len in [2000, 4000, 8000, 8000] {
        t.peeks(0, len);
        t.finds(len, false, false);
        acked += len;
        t.gets(seg(ACK, 1001, acked), 0);
        assert_eq!(t.action(), Some(Action::Discard(len)));
    }
    // Now there is no limit any more, but for the window.
    t.finds_nothing();
    t.gets(Segment { window: 60_000, ..seg(ACK, 1001, acked) }, 0);
    t.sends(60);
    t.event(Event::Readable);
    t.quiet();
}

/// The host's kernel has lost what it had, against all rules: nothing is made of that.
#[test]
fn what_was_sent_before_is_missing() {
    let mut t = Trace::established();
    t.sends(1);
    t.after(ms(200));
    t.peeks(0, 2000);
    t.conn.drained(true);
    t.quiet();
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(400)));
}

const KEEPALIVE: Duration = Duration::from_secs(120);

#[test]
fn guest_that_does_not_answer_is_given_up() {
    let mut t = Trace::established();
    t.sends(1);
    let (begun, mut sent) = (t.now, 0);
    loop {
        match t.action() {
            Some(Action::Peek { .. }) => {
                t.finds(1000, true, false);
                sent += 1;
            }
            Some(Action::Emit(Segment { flags: ACK, seq: Seq(5000), .. })) => {} // keep-alive
            Some(Action::Emit(segment)) => assert_eq!(segment.flags, RST | ACK),
            Some(Action::Abort) => break,
            Some(other) => panic!("{other:?}"),
            None => {
                t.now = t.conn.next_timeout().expect("a timer");
                t.event(Event::Timeout);
            }
        }
    }
    assert_eq!(sent, 15);
    let waited = t.now.since(begun).as_secs();
    assert!((600..1200).contains(&waited), "{waited}");
}

/// A guest of which nothing is asked but whether it is there.
#[test]
fn a_silent_guest_is_gone_after_two_hours() {
    let mut t = Trace::established();
    let begun = t.now;
    let mut asked = 0;
    loop {
        t.now = t.conn.next_timeout().expect("a timer");
        t.event(Event::Timeout);
        let segment = t.emits();
        if segment.flags.contains(RST) {
            break;
        }
        assert_eq!((segment.flags, segment.seq), (ACK, Seq(5000)), "a keep-alive");
        asked += 1;
    }
    assert_eq!((asked, t.now.since(begun)), (59, ms(7_200_000)));
    assert_eq!(t.action(), Some(Action::Abort));
}

#[test]
fn fast_retransmission() {
    // RFC 5681, section 3.2, and RFC 6582: five segments, the first and the third are lost.
    let mut t = Trace::established_with(&Segment { options: Options::default(), ..syn() }, None);
    t.conn.config.mss = 1000;
    let size = 536;
    for _ in 0..5 {
        t.event(Event::Readable);
        assert!(matches!(t.action(), Some(Action::Peek { .. })));
        t.finds(size, true, false);
    }
    for _ in 0..2 {
        t.gets(seg(ACK, 1001, 5001), 0);
        t.quiet();
    }
    t.gets(seg(ACK, 1001, 5001), 0);
    t.peeks(0, size);
    assert_eq!(t.finds(size, false, false).seq, Seq(5001));
    t.quiet();
    // A partial acknowledgement: the next hole is filled at once, and only that.
    t.gets(seg(ACK, 1001, 5001 + 2 * size), 0);
    assert_eq!(t.action(), Some(Action::Discard(2 * size)));
    t.peeks(0, size);
    assert_eq!(t.finds(size, false, false).seq, Seq(5001 + 2 * size));
    t.quiet();
    t.gets(seg(ACK, 1001, 5001 + 5 * size), 0);
    assert_eq!(t.action(), Some(Action::Discard(3 * size)));
    t.quiet();
    assert_eq!(t.conn.retransmitted(), 2);
}

#[test]
fn what_is_no_duplicate() {
    // RFC 5681, section 2: with data, with another window, or with nothing outstanding.
    let mut t = Trace::established();
    for _ in 0..5 {
        t.gets(seg(ACK, 1001, 5001), 0);
    }
    t.sends(2);
    for n in 0..5 {
        t.gets(Segment { window: 9000 + n, ..seg(ACK, 1001, 5001) }, 0);
        t.quiet();
    }
    for n in 0..5 {
        t.gets(Segment { window: 9004, ..seg(ACK, 1001 + 100 * n, 5001) }, 100);
        t.acks(1101 + 100 * n);
        t.quiet();
    }
}

fn sack(blocks: &[(u32, u32)]) -> Segment {
    let mut segment = seg(ACK, 1001, 5001);
    for &(from, to) in blocks {
        segment.options.sack.push(Seq(from), Seq(to));
    }
    segment
}

#[test]
fn selective_acknowledgements() {
    // RFC 2018: of eight segments the first, the fourth and the fifth are missing.
    let mut t = Trace::established();
    t.sends(8);
    t.gets(sack(&[(6001, 7001)]), 0);
    t.gets(sack(&[(6001, 8001)]), 0);
    t.quiet();
    t.gets(sack(&[(10_001, 11_001), (6001, 8001)]), 0);
    t.peeks(0, 1000);
    t.finds(1000, false, false);
    t.peeks(3000, 2000);
    assert_eq!(t.finds(2000, false, false).seq, Seq(8001));
    t.quiet();
    t.gets(sack(&[(10_001, 13_001), (6001, 8001)]), 0);
    t.quiet();
    t.gets(seg(ACK, 1001, 13_001), 0);
    assert_eq!(t.action(), Some(Action::Discard(8000)));
    t.quiet();
}

#[test]
fn selective_acknowledgements_of_what_was_never_sent() {
    // Eight segments are under way; of what a block says beside them nothing is remembered.
    let peeks = |block| {
        let mut t = Trace::established();
        t.sends(8);
        t.gets(sack(&[(7001, 8001)]), 0);
        t.gets(sack(&[block, (7001, 8001)]), 0);
        t.gets(sack(&[(7001, 9001)]), 0);
        let mut peeks = Vec::new();
        while let Some(Action::Peek { offset, len }) = t.action() {
            peeks.push((offset, len));
            t.finds(len, false, false);
        }
        peeks
    };
    assert_eq!(peeks((7001, 8001)), [(0, 2000)]);
    for block in [(10_001, 14_001), (4001, 6001), (12_001, 11_001), (11_001, 11_001), (13_001, 0x8000_0000)] {
        assert_eq!(peeks(block), [(0, 2000)], "{block:?}");
    }
}

#[test]
fn selective_acknowledgements_may_be_withdrawn() {
    // RFC 2018, section 8: after a timeout they do not count.
    let mut t = Trace::established();
    t.sends(3);
    t.gets(sack(&[(6001, 8001)]), 0);
    t.after(ms(200));
    t.peeks(0, 2000);
    t.finds(2000, false, false);
    t.quiet();
}

#[test]
fn closed_window_is_probed() {
    // RFC 9293, section 3.8.6.1.
    let mut t = Trace::established();
    let window = |window| Segment { window, ..seg(ACK, 1001, 5001) };
    t.gets(window(0), 0);
    t.quiet();
    assert_eq!(t.conn.next_timeout(), Some(t.now + KEEPALIVE), "nothing to send");
    t.event(Event::Readable);
    t.quiet();
    for wait in [200, 400, 800] {
        t.after(ms(wait - 1));
        t.quiet();
        t.after(ms(1));
        assert_eq!(t.acks(1001).seq, Seq(5000));
        t.quiet();
        t.gets(window(0), 0);
        t.quiet();
    }
    t.gets(window(3000), 0);
    t.peeks(0, 3000);
    t.finds(3000, false, false);
    t.quiet();
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(200)), "what was doubled is forgotten");
}

#[test]
fn withdrawn_window_is_probed() {
    // RFC 9293, section 3.8.6: shrinking is discouraged, but has to be survived.
    let mut t = Trace::established();
    t.sends(2);
    t.gets(Segment { window: 0, ..seg(ACK, 1001, 5001) }, 0);
    t.quiet();
    t.after(ms(200));
    assert_eq!(t.acks(1001).seq, Seq(5000));
    t.quiet();
    t.gets(seg(ACK, 1001, 5001), 0);
    t.peeks(0, 2000);
}

#[test]
fn silly_windows_are_not_filled() {
    // RFC 9293, section 3.8.6.2.1.
    let mut t = Trace::established();
    let window = |window, ack| Segment { window, ..seg(ACK, 1001, ack) };
    t.gets(window(1500, 5001), 0);
    t.event(Event::Readable);
    t.peeks(0, 1000);
    t.finds(1000, false, false);
    t.quiet();
    t.gets(window(1400, 6001), 0);
    assert_eq!(t.action(), Some(Action::Discard(1000)));
    t.peeks(0, 1000);
}

#[test]
fn half_of_a_small_window_is_worth_a_segment() {
    let mut t = Trace::connecting(&Segment { window: 1000, ..syn() });
    t.event(Event::Connected { far: None });
    t.emits();
    let window = |window, ack| Segment { window, ..seg(ACK, 1001, ack) };
    t.gets(window(1000, 5001), 0);
    t.peeks(0, 1000);
    t.finds(500, false, false);
    t.peeks(500, 500);
    t.finds(1, false, false);
    t.quiet();
    // With nothing under way less will do.
    t.gets(window(400, 5502), 0);
    assert_eq!(t.action(), Some(Action::Discard(501)));
    t.peeks(0, 400);
}

#[test]
fn window_updates() {
    let mut t = Trace::established();
    t.sends(1);
    // An older segment, overtaken by the one before, does not change the window: RFC 9293, SND.WL1.
    t.gets(Segment { window: 5000, ..seg(ACK, 1001, 5001) }, 100);
    t.acks(1101);
    t.gets(Segment { window: 0, ..seg(ACK, 1000, 5001) }, 0);
    t.acks(1101);
    t.event(Event::Readable);
    t.peeks(1000, 4000);
}

#[test]
fn fin_is_repeated() {
    let mut t = Trace::established();
    t.event(Event::Readable);
    t.peeks(0, 8000);
    let last = t.finds(100, true, true);
    assert_eq!((last.flags, last.seq), (Flags::PSH | FIN, Seq(5001)));
    t.quiet();
    t.after(ms(200));
    t.peeks(0, 2000);
    assert_eq!(t.finds(100, true, true).flags, Flags::PSH | FIN);
    t.quiet();
    t.gets(seg(ACK, 1001, 5101), 0);
    assert_eq!(t.action(), Some(Action::Discard(100)));
    t.after(ms(200));
    let fin = t.emits();
    assert_eq!((fin.flags, fin.seq), (FIN, Seq(5101)));
    t.quiet();
    t.gets(seg(ACK, 1001, 5102), 0);
    t.quiet();
    assert_eq!(t.conn.next_timeout(), Some(t.now + KEEPALIVE), "half-closed");
}

#[test]
fn fin_travels_with_what_fills_the_last_gap() {
    let mut t = Trace::established();
    t.event(Event::Readable);
    t.peeks(0, 8000);
    t.finds(2000, true, true);
    for _ in 0..3 {
        t.gets(seg(ACK, 1001, 5001), 0);
    }
    t.peeks(0, 1000);
    assert_eq!(t.finds(1000, false, false).flags, ACK);
    t.gets(seg(ACK, 1001, 6001), 0);
    assert_eq!(t.action(), Some(Action::Discard(1000)));
    t.peeks(0, 1000);
    assert_eq!(t.finds(1000, false, false).flags, Flags::PSH | FIN);
    t.quiet();
}

#[test]
fn end_without_data() {
    let mut t = Trace::established();
    t.event(Event::Readable);
    t.peeks(0, 8000);
    t.conn.drained(true);
    assert_eq!(t.emits().flags, FIN);
    t.quiet();
}

/// An acknowledgement that would wait for a response goes at once where there is more to tell.
#[test]
fn what_does_not_wait_for_a_response() {
    let interactive = || {
        let mut t = Trace::established();
        t.gets(seg(ACK, 1001, 5001), 10);
        t.event(Event::Readable);
        t.peeks(0, 8000);
        t.finds(10, true, false);
        t.gets(seg(ACK, 1011, 5011), 10);
        assert_eq!(t.action(), Some(Action::Discard(10)));
        t.quiet();
        t
    };
    let mut t = interactive();
    t.gets(seg(ACK, 1021, 5011), 10);
    t.quiet();
    t.after(ms(10));
    t.acks(1031);
    let mut t = interactive();
    t.gets(seg(ACK, 1021, 5011), MSS);
    t.acks(1021 + MSS);
    let mut t = interactive();
    t.gets(seg(FIN, 1021, 5011), 10);
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1032);
    // Two full segments' worth: RFC 9293, section 3.8.6.3.
    let mut t = interactive();
    t.gets(seg(ACK, 1021, 5011), 999);
    t.quiet();
    t.gets(seg(ACK, 2020, 5011), 991);
    t.acks(3011);
    let mut t = interactive();
    t.gets(seg(ACK, 1016, 5011), 10);
    t.quiet();
}

/// What finds no room in the host's kernel has not been received, nor has what follows.
#[test]
fn what_was_not_queued_has_to_come_again() {
    let mut t = Trace::established();
    assert_eq!(t.conn.segment(t.now, &seg(FIN, 1001, 5001), 100).len, 100);
    t.event(Event::Queued { taken: 0, held: 0 });
    t.acks(1001);
    t.quiet();
    assert_eq!(t.conn.segment(t.now, &seg(FIN, 1001, 5001), 100).len, 100);
    t.event(Event::Queued { taken: 60, held: 0 });
    t.acks(1061);
    t.quiet();
    assert_eq!(t.gets(seg(FIN, 1061, 5001), 40).len, 40);
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1102);
}

/// A window is told again once it has opened by half of the room: RFC 9293, section 3.8.6.2.2.
#[test]
fn a_window_that_opens_is_told() {
    for (held, told) in [(511, false), (512, true)] {
        let mut t = Trace::connecting(&Segment {
            options: Options { window_scale: Some(0), ..syn().options },
            ..syn()
        });
        t.conn.set_room(1024);
        t.event(Event::Connected { far: Some(ms(40)) });
        assert_eq!(t.emits().window, 1024);
        t.gets(seg(ACK, 1001, 5001), 0);
        t.finds_nothing();
        t.quiet();
        assert_eq!(t.conn.segment(t.now, &seg(ACK, 1001, 5001), held).len, held);
        t.event(Event::Queued { taken: held, held });
        t.quiet();
        t.event(Event::Flushed { held: 0 });
        if told {
            // In units of 256 bytes.
            assert_eq!(t.acks(1001).window, 6);
        }
        t.quiet();
    }
}

/// Both directions are finished once the host's peer has the guest's FIN.
#[test]
fn the_last_acknowledgement_is_the_far_peers() {
    let mut t = Trace::established_with(&syn(), Some(ms(40)));
    t.event(Event::Readable);
    t.peeks(0, 8000);
    t.conn.drained(true);
    assert_eq!(t.emits().flags, FIN);
    t.gets(seg(FIN, 1001, 5002), 0);
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1001);
    t.quiet();
    t.after(ms(10));
    assert_eq!(t.action(), Some(Action::AskUnacknowledged));
    t.event(Event::Unacknowledged { bytes: 0 });
    t.acks(1002);
    assert_eq!(t.action(), Some(Action::Close));
}

#[test]
fn a_fin_may_come_with_what_is_partly_there() {
    let mut t = Trace::established();
    t.gets(seg(ACK, 1001, 5001), 100);
    t.acks(1101);
    assert_eq!(t.gets(seg(FIN, 1051, 5001), 100), Push { skip: 50, len: 50 });
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1152);
}

#[test]
fn guest_closes_first() {
    let mut t = Trace::established();
    assert_eq!(t.gets(seg(FIN, 1001, 5001), 100).len, 100);
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1102);
    t.quiet();
    // Half-closed: it still gets data, and its acknowledgements need no answer.
    t.sends(1);
    t.gets(seg(ACK, 1102, 6001), 0);
    assert_eq!(t.action(), Some(Action::Discard(1000)));
    t.quiet();
    // Its FIN again.
    t.gets(seg(FIN, 1101, 6001), 0);
    t.acks(1102);
    t.quiet();
    t.event(Event::Readable);
    t.peeks(0, 8000);
    t.conn.drained(true);
    assert_eq!(t.emits().flags, FIN);
    t.gets(seg(ACK, 1102, 6002), 0);
    assert_eq!(t.action(), Some(Action::Close));
}

#[test]
fn fin_waits_for_what_is_held() {
    let mut t = Trace::established();
    t.conn.segment(t.now, &seg(FIN, 1001, 5001), 100);
    t.event(Event::Queued { taken: 100, held: 60 });
    t.acks(1041);
    t.quiet();
    t.event(Event::Flushed { held: 0 });
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1102);
}

#[test]
fn the_queue_is_emptied_before_the_socket_is_closed() {
    let mut t = Trace::established();
    t.gets(seg(FIN, 1001, 5001), 0);
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1002);
    t.event(Event::Readable);
    t.peeks(0, 8000);
    t.finds(100, true, true);
    t.gets(seg(ACK, 1002, 5102), 0);
    assert_eq!(t.action(), Some(Action::Discard(100)));
    assert_eq!(t.action(), Some(Action::Close));
}

#[test]
fn simultaneous_close() {
    // RFC 9293, section 3.6, figure 13.
    let mut t = Trace::established();
    t.event(Event::Readable);
    t.peeks(0, 8000);
    t.conn.drained(true);
    assert_eq!(t.emits().flags, FIN);
    t.gets(seg(FIN, 1001, 5001), 0);
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1002);
    t.quiet();
    t.gets(seg(ACK, 1002, 5002), 0);
    assert_eq!(t.action(), Some(Action::Close));
}

#[test]
fn host_fails() {
    let mut t = Trace::established();
    t.sends(1);
    t.event(Event::Failed);
    let reset = t.emits();
    assert_eq!((reset.flags, reset.seq, reset.ack), (RST | ACK, Seq(6001), Seq(1001)));
    assert_eq!(t.action(), Some(Action::Close));
}

#[test]
fn far_peers_acknowledge_themselves() {
    let mut t = Trace::established_with(&syn(), Some(ms(40)));
    assert_eq!(t.gets(seg(FIN, 1001, 5001), 1000).len, 1000);
    assert_eq!(t.action(), Some(Action::Shutdown));
    t.acks(1001);
    t.quiet();
    t.after(ms(10));
    assert_eq!(t.action(), Some(Action::AskUnacknowledged));
    t.event(Event::Unacknowledged { bytes: 401 });
    t.acks(1601);
    t.quiet();
    t.after(ms(10));
    assert_eq!(t.action(), Some(Action::AskUnacknowledged));
    t.event(Event::Unacknowledged { bytes: 0 });
    t.acks(2002);
    t.quiet();
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(120_000 - 20)), "no more to ask for");
}

/// A peer that does not read is asked ever more rarely, and as often as before once it does.
#[test]
fn a_far_peer_that_stalls_is_asked_ever_more_rarely() {
    let mut t = Trace::established_with(&syn(), Some(ms(40)));
    t.gets(seg(ACK, 1001, 5001), 1000);
    t.quiet();
    for (wait, left) in
        [(10, 1000), (20, 1000), (40, 1000), (80, 1000), (160, 1000), (320, 1000), (320, 1000), (320, 600)]
    {
        assert_eq!(t.conn.next_timeout(), Some(t.now + ms(wait)));
        t.after(ms(wait));
        assert_eq!(t.action(), Some(Action::AskUnacknowledged));
        t.event(Event::Unacknowledged { bytes: left });
    }
    t.acks(1401);
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(10)));
}

#[test]
fn acknowledgements_travel_with_responses() {
    let mut t = Trace::established();
    // A response that is there at once shows that requests and responses alternate here.
    t.gets(seg(ACK, 1001, 5001), 10);
    t.event(Event::Readable);
    t.peeks(0, 8000);
    assert_eq!(t.finds(10, true, false).ack, Seq(1011));
    t.quiet();
    // Now the acknowledgement waits a little, and travels with the response.
    t.gets(seg(ACK, 1011, 5011), 10);
    assert_eq!(t.action(), Some(Action::Discard(10)));
    t.quiet();
    t.after(ms(9));
    t.quiet();
    t.event(Event::Readable);
    t.peeks(0, 8000);
    assert_eq!(t.finds(10, true, false).ack, Seq(1021));
    t.quiet();
    // No response in time; the next acknowledgement does not wait.
    t.gets(seg(ACK, 1021, 5021), 10);
    assert_eq!(t.action(), Some(Action::Discard(10)));
    t.quiet();
    t.after(ms(10));
    t.acks(1031);
    t.gets(seg(ACK, 1031, 5021), 10);
    t.acks(1041);
    t.quiet();
}
