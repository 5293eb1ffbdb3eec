//! A guest's keep-alives: what the host's kernel is to do, and when the guest is answered.

use super::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Trace {
    /// The guest's keep-alive is one, of this interval; whether it is answered.
    #[track_caller]
    fn keeps_alive(&mut self, len: u32, interval: Duration) {
        assert_eq!(self.gets(seg(ACK, 1000, 5001), len), Push::NONE);
        assert_eq!(self.action(), Some(Action::KeepAlive(interval)));
        self.quiet();
        self.event(Event::Alive);
        self.acks(1001);
        self.quiet();
    }
}

#[test]
fn the_interval_is_the_silence_before() {
    for len in [0, 1] {
        let mut t = Trace::established();
        for (silence, interval) in [(60, 60), (60, 60), (11, 11), (10, 10), (9, 10), (1, 10), (110, 110)]
            .map(|(a, b)| (secs(a), secs(b)))
        {
            t.after(silence);
            t.keeps_alive(len, interval);
        }
        t.after(ms(59_500));
        t.keeps_alive(len, ms(59_500));
    }
}

/// A repetition of what was acknowledged is answered by what we know alone.
#[test]
fn a_repetition_soon_after() {
    let mut t = Trace::established();
    assert_eq!(t.gets(seg(ACK, 1001, 5001), 1).len, 1);
    t.acks(1002);
    for wait in [200, 400, 999] {
        t.after(ms(wait));
        t.gets(seg(ACK, 1001, 5001), 1);
        t.acks(1002);
        t.quiet();
    }
}

/// Nothing is said of a peer of which nothing is known, and the next time it is asked again.
#[test]
fn no_answer_without_the_peer() {
    let mut t = Trace::established();
    for len in [0, 1, 0] {
        t.after(secs(30));
        t.gets(seg(ACK, 1000, 5001), len);
        assert_eq!(t.action(), Some(Action::KeepAlive(secs(30))));
        t.quiet();
    }
    // What the guest sends is acknowledged all the same.
    t.gets(seg(ACK, 1001, 5001), 10);
    t.acks(1011);
}

/// What the guest answers to our own questions is no use of the connection.
#[test]
fn our_own_questions_between() {
    for answers in [true, false] {
        let mut t = Trace::established();
        for _ in 0..5 {
            t.after(KEEPALIVE);
            assert_eq!(t.emits().seq, Seq(5000));
            t.now = t.now + ms(3);
            if answers {
                t.gets(seg(ACK, 1001, 5001), 0);
                t.quiet();
            }
        }
        t.now = t.now + secs(5);
        let interval = (KEEPALIVE + ms(3)) * 5 + secs(5);
        t.keeps_alive(0, interval);
    }
    // It was used meanwhile.
    let mut t = Trace::established();
    t.after(KEEPALIVE);
    t.emits();
    t.now = t.now + secs(20);
    t.gets(seg(ACK, 1001, 5001), 100);
    t.acks(1101);
    t.after(KEEPALIVE);
    t.emits();
    t.now = t.now + secs(30);
    t.gets(seg(ACK, 1100, 5001), 0);
    assert_eq!(t.action(), Some(Action::KeepAlive(KEEPALIVE + secs(30))));
    let mut t = Trace::established();
    t.after(KEEPALIVE);
    t.emits();
    t.now = t.now + secs(20);
    t.gets(seg(ACK, 1001, 5001), 100);
    t.acks(1101);
    t.now = t.now + secs(40);
    t.gets(seg(ACK, 1100, 5001), 0);
    assert_eq!(t.action(), Some(Action::KeepAlive(secs(40))));
}

#[test]
fn seldom_is_two_hours() {
    let mut t = Trace::established();
    t.now = t.now + secs(9000);
    t.gets(seg(ACK, 1000, 5001), 0);
    assert_eq!(t.action(), Some(Action::KeepAlive(secs(7200))));
}

/// A guest whose window is used up asks for more, not for its peer.
#[test]
fn a_probe_of_the_window() {
    let mut t = Trace::established();
    let push = t.conn.segment(t.now, &seg(ACK, 1001, 5001), ROOM);
    assert_eq!(push.len, ROOM);
    t.event(Event::Queued { taken: ROOM, held: ROOM });
    t.after(secs(20));
    while t.action().is_some() {}
    t.conn.segment(t.now, &seg(ACK, 1001, 5001), ROOM);
    t.after(secs(20));
    t.conn.segment(t.now, &seg(ACK, 1001, 5001), ROOM);
    let told = t.emits();
    assert_eq!((told.ack, told.window), (Seq(1001 + ROOM), 0), "insisted on");
    t.after(secs(20));
    t.conn.segment(t.now, &seg(ACK, 1000 + ROOM, 5001), 0);
    assert_eq!(t.acks(1001 + ROOM).window, 0);
    t.quiet();
}
