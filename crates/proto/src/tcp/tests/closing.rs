//! How connections end.

use super::*;

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
    t.conn.drained(Behind::End);
    assert_eq!(t.emits().flags, FIN);
    assert!(!t.conn.is_delivered());
    t.gets(seg(ACK, 1001, 8001), 0);
    assert!(t.conn.is_delivered());
    t.gets(seg(ACK, 1001, 8002), 0);
    assert!(t.conn.is_delivered());
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
    t.conn.drained(Behind::End);
    assert_eq!(t.emits().flags, FIN);
    t.quiet();
}

/// Both directions are finished once the host's peer has the guest's FIN.
#[test]
fn the_last_acknowledgement_is_the_far_peers() {
    let mut t = Trace::established_with(&syn(), Some(ms(40)));
    t.event(Event::Readable);
    t.peeks(0, 8000);
    t.conn.drained(Behind::End);
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
    t.conn.drained(Behind::End);
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
    t.conn.drained(Behind::End);
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
