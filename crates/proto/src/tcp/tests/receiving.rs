//! What the guest sends: what of it is taken, and when that is acknowledged.

use super::*;

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
    assert_eq!(t.conn.transmit(t.now, 100, Behind::Nothing).ack, Seq(3001));
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
    t.after(ms(4));
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

/// A response counts if it comes soon, with the acknowledgement or after it.
#[test]
fn responses_that_come_a_little_later_count() {
    for (wait, waits) in [(4, true), (5, false)] {
        let mut t = Trace::established();
        t.gets(seg(ACK, 1001, 5001), 10);
        t.acks(1011);
        t.now = t.now + ms(wait);
        t.sends(1);
        t.gets(seg(ACK, 1011, 6001), 10);
        assert_eq!(t.action(), Some(Action::Discard(1000)));
        if !waits {
            t.acks(1021);
        }
        t.quiet();
    }
}

/// A guest that writes its requests in two parts, and sends the second once the first is
/// acknowledged (RFC 896), waits ever more rarely.
#[test]
fn requests_in_two_parts_wait_ever_more_rarely() {
    let mut t = Trace::established();
    let (mut seq, mut ack, mut waited) = (1001, 5001, Vec::new());
    for request in 0..400 {
        t.gets(seg(ACK, seq, ack), 10);
        if request > 0 {
            assert_eq!(t.action(), Some(Action::Discard(1000)));
        }
        seq += 10;
        match t.action() {
            Some(Action::Emit(segment)) => assert_eq!((segment.flags, segment.ack), (ACK, Seq(seq))),
            other => {
                assert_eq!(other, None);
                waited.push(request);
                t.after(ms(10));
                t.acks(seq);
            }
        }
        t.gets(seg(ACK, seq, ack), 10);
        seq += 10;
        if let Some(action) = t.action() {
            assert!(matches!(action, Action::Emit(segment) if segment.ack == Seq(seq)), "{action:?}");
        }
        t.sends(1);
        ack += 1000;
    }
    assert_eq!(waited, [1, 5, 21, 85, 341]);
}

/// Nor do those that come just in time, so that each request would wait for one: the first that was
/// late is the last that was waited for.
#[test]
fn responses_that_are_just_in_time_do_not_count() {
    let mut t = Trace::established();
    let (mut seq, mut ack) = (1001, 5001);
    for request in 0..20 {
        t.gets(seg(ACK, seq, ack), 10);
        seq += 10;
        if request > 0 {
            assert_eq!(t.action(), Some(Action::Discard(1000)));
        }
        if request != 1 {
            t.acks(seq);
        }
        t.quiet();
        t.after(ms(if request == 0 { 1 } else { 9 }));
        t.sends(1);
        ack += 1000;
    }
}
