//! What the guest has sent and nobody takes: it insists, or is gone.

use super::*;

/// What a host's peer does not read for long is acknowledged all the same: the guest would give up,
/// and waits behind a window of zero.
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
    let mut t = orphaned();
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
        assert_eq!(t.conn.next_timeout(), Some(t.now + ms(300_000)));
        t.after(ms(299_999));
        t.quiet();
        t.event(Event::Flushed { held });
        if t.conn.next_timeout() == Some(t.now + ms(1)) {
            t.after(ms(1));
        }
        t.has_unacknowledged(unacknowledged);
        t.quiet();
    }
    t.after(ms(150_000));
    t.event(Event::Flushed { held: 1 });
    t.quiet();
    t.after(ms(149_999));
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
