//! What the guest's side says of segments that it did not get.

use super::*;

const IGNORED: Result<(), DropReason> = Err(DropReason::IcmpIgnored);
const INVALID: Result<(), DropReason> = Err(DropReason::IcmpInvalid);

/// A connection from outside, whose SYN was sent.
fn opening() -> Trace {
    let now = Instant::from_millis(1000);
    let mut t = Trace { conn: Connection::from_host(config(), 80, 40_000, Seq(ISS), None, now), now };
    assert_eq!(t.conn.undelivered(Seq(ISS)), INVALID, "nothing was sent yet");
    assert_eq!(t.emits().flags, SYN);
    t
}

#[test]
fn a_syn_that_nobody_takes() {
    for seq in [ISS - 1, ISS + 1, ISS + 2, 0] {
        let mut t = opening();
        assert_eq!(t.conn.undelivered(Seq(seq)), INVALID, "{seq}");
        t.quiet();
    }
    let mut t = opening();
    assert_eq!(t.conn.shrink(t.now, Seq(ISS), 500), INVALID);
    assert_eq!(t.conn.undelivered(Seq(ISS)), Ok(()));
    assert!(t.conn.has_ended());
    // The peer is reset, and the guest hears nothing: nobody is there.
    assert_eq!(t.action(), Some(Action::Abort));
    assert_eq!(t.conn.undelivered(Seq(ISS)), INVALID, "it is over");
}

#[test]
fn our_answer_to_a_syn() {
    let mut t = Trace::connecting(&syn());
    assert_eq!(t.conn.undelivered(Seq(ISS)), INVALID, "nothing was sent yet");
    t.event(Event::Connected { far: None });
    t.emits();
    assert_eq!(t.conn.undelivered(Seq(ISS)), Ok(()));
    assert_eq!(t.action(), Some(Action::Abort));
}

/// An open connection goes on (RFC 1122, section 4.2.3.9), and only what may be under way counts.
#[test]
fn an_open_connection() {
    let mut t = Trace::established();
    t.sends(3);
    t.gets(seg(ACK, 1001, 6001), 0);
    assert_eq!(t.action(), Some(Action::Discard(1000)));
    t.quiet();
    for (seq, outcome) in [
        (6000, INVALID),
        (5001, INVALID),
        (6001, IGNORED),
        (7001, IGNORED),
        (8000, IGNORED),
        (8001, IGNORED),
        (8002, INVALID),
    ] {
        assert_eq!(t.conn.undelivered(Seq(seq)), outcome, "{seq}");
    }
    t.quiet();
}

#[test]
fn a_path_with_a_smaller_mtu() {
    let mut t = Trace::established();
    t.event(Event::Readable);
    t.peeks(0, 8000);
    t.finds(3000, true, false);
    t.quiet();
    for (seq, mss, outcome) in [
        (5000, 512, INVALID),
        (8001, 512, INVALID),
        (5001, 1000, IGNORED),
        (6001, 1001, IGNORED),
        (6001, 600, Ok(())),
        (6001, 600, IGNORED),
        (5001, 700, IGNORED),
    ] {
        assert_eq!(t.conn.shrink(t.now, Seq(seq), mss), outcome, "{seq} {mss}");
    }
    // All of it again at once, in segments that fit, and what comes later as well.
    assert_eq!(t.conn.mss(), 600);
    t.peeks(0, 7800);
    assert_eq!(t.finds(3000, true, false).seq, Seq(5001));
    t.quiet();
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(200)), "no loss that the timer has to wait for");
    t.gets(seg(ACK, 1001, 8001), 0);
    assert_eq!(t.action(), Some(Action::Discard(3000)));
    t.event(Event::Readable);
    t.peeks(0, 7800);
    assert_eq!(t.conn.retransmitted(), 1);
}

/// Selective acknowledgements and a recovery that is under way do not keep anything from being sent
/// again.
#[test]
fn a_smaller_mtu_during_recovery() {
    let mut t = Trace::established();
    t.sends(5);
    let mut repeated = seg(ACK, 1001, 5001);
    repeated.options.sack.push(Seq(7001), Seq(10_001));
    for _ in 0..3 {
        t.gets(repeated, 0);
    }
    assert_eq!(t.conn.shrink(t.now, Seq(5001), 500), Ok(()));
    t.peeks(0, 8000);
    t.finds(5000, true, false);
    t.gets(seg(ACK, 1001, 10_001), 0);
    assert_eq!(t.action(), Some(Action::Discard(5000)));
}
