//! Segments that claim what need not be true: resets, and numbers outside the window.

use super::*;

#[test]
fn a_reset_has_to_have_the_next_number() {
    // RFC 9293, section 3.10.7.4, and RFC 5961, section 3.2: elsewhere in the window it is
    // challenged.
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
    // It takes the number from what we acknowledged, which may be less than what we have: RFC 9293,
    // section 3.10.7.1.
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

#[test]
fn challenges_are_rare() {
    // RFC 5961, sections 4.2 and 7: a SYN, whatever its number; sections 3.2 and 5.2: other claims
    // without proof.
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
