//! What the guest is sent: timers, windows, and what was lost.

use super::*;

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
    t.fills(40_000);
}

#[test]
fn after_a_timeout_the_amount_grows_again() {
    let mut t = Trace::established();
    t.sends(8);
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
    t.gets(Segment { window: 56_000, ..seg(ACK, 1001, acked) }, 0);
    t.fills(56_000);
}

/// The host's kernel has lost what it had, against all rules: nothing is made of that.
#[test]
fn what_was_sent_before_is_missing() {
    let mut t = Trace::established();
    t.sends(1);
    t.after(ms(200));
    t.peeks(0, 2000);
    t.conn.drained(Behind::End);
    t.quiet();
    assert_eq!(t.conn.next_timeout(), Some(t.now + ms(400)));
}

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
fn last_part_of_a_window_waits_for_a_full_frame() {
    let mut t = Trace::established();
    t.gets(Segment { window: 40_000, ..seg(ACK, 1001, 5001) }, 0);
    t.sends(33);
    t.event(Event::Readable);
    t.quiet();
    // 7000 bytes are allowed, 8000 are a frame; what is under way is acknowledged soon.
    t.gets(Segment { window: 39_000, ..seg(ACK, 1001, 6001) }, 0);
    assert_eq!(t.action(), Some(Action::Discard(1000)));
    t.quiet();
    t.gets(Segment { window: 38_000, ..seg(ACK, 1001, 13_001) }, 0);
    assert_eq!(t.action(), Some(Action::Discard(7000)));
    t.peeks(25_000, 8000);
    t.finds(8000, true, false);
    // With less under way a fourth of that is enough, and with nothing whatever is allowed.
    t.gets(Segment { window: 8000, ..seg(ACK, 1001, 33_001) }, 0);
    t.event(Event::Readable);
    assert_eq!(t.action(), Some(Action::Discard(20_000)));
    t.quiet();
    t.gets(Segment { window: 4000, ..seg(ACK, 1001, 46_001) }, 0);
    assert_eq!(t.action(), Some(Action::Discard(13_000)));
    t.peeks(0, 4000);
}

/// The first of three frames that nearly fill a window is lost: what is left of it goes once the
/// guest repeats itself, and makes it do so a third time.
#[test]
fn last_part_of_a_window_finds_a_loss() {
    let mut t = Trace::established();
    let all = Segment { window: 3 * 8000 + 1500, ..seg(ACK, 1001, 5001) };
    t.gets(all, 0);
    t.fills(24_000);
    t.gets(all, 0);
    t.peeks(24_000, 1000);
    t.finds(1000, false, false);
    t.quiet();
    t.gets(all, 0);
    t.quiet();
    t.gets(all, 0);
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
