//! How connections begin, from either side, and what other segments make of that.

use super::*;

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
    // RFC 9293, sections 3.5.1 and 3.10.7.3: it answers our SYN with an acknowledgement of
    // something else. A RST ends that, and then it takes our SYN.
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
    // Nothing was answered: a RST has to have the next number, and another SYN is another
    // connection.
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
