//! A link with several descriptors that come and go, under the loop of a worker.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use common::options;
use passt_engine::control::Control;
use passt_engine::core::Token;
use passt_engine::link::ring::{Guest, RingLink, Shape};
use passt_engine::link::{Caps, Link as _};
use passt_engine::worker::{Exit, Worker};
use passt_proto::drop::DropReason;
use passt_proto::guest::Configured;
use passt_proto::time::Instant;
use rustix::event::epoll::EventFlags;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

const NOW: Instant = Instant::from_millis(1000);

fn pair() -> (Guest, Worker<RingLink>) {
    let shape = Shape { transmit: 64, receive: 64, buffer: 1000 };
    let (guest, link) = Guest::pair(shape, Caps::ALL).unwrap();
    (guest, Worker::new(link, &options(1500, &Configured::default(), 64), NOW).unwrap())
}

/// What the engine received of the guest, once it has looked what there is to be told by
/// descriptors.
fn received(worker: &mut Worker<RingLink>) -> u64 {
    worker.quiet_turn(NOW).unwrap();
    worker.context().core.counters.from_guest.frames
}

fn send(guest: &mut Guest) {
    assert!(guest.send(&vec![1; 60].into(), &[]));
}

#[test]
fn each_descriptor_is_watched() {
    let (mut guest, mut worker) = pair();
    send(&mut guest);
    assert_eq!(received(&mut worker), 0, "nobody was told");
    guest.kick();
    assert_eq!(received(&mut worker), 1);
    let caps = Caps { tcp_segmentation: false, ..Caps::ALL };
    guest.switch(caps);
    assert_eq!(worker.context().core.link.caps(), Caps::ALL);
    assert_eq!(received(&mut worker), 1);
    assert_eq!(worker.context().core.link.caps(), caps);
}

/// The former descriptor is open elsewhere still, so that closing it alone would not end that it is
/// watched.
#[test]
fn a_descriptor_in_place_of_another() {
    let (mut guest, mut worker) = pair();
    for _ in 0..3 {
        let former = guest.change_kick().unwrap();
        assert!(!worker.context().core.link.has_new_fds());
        let before = received(&mut worker);
        assert!(!worker.context().core.link.has_new_fds(), "it is in use");
        send(&mut guest);
        rustix::io::write(&former, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(received(&mut worker), before, "it is watched no more");
        guest.kick();
        assert_eq!(received(&mut worker), before + 1);
    }
}

/// What was announced by the former descriptor, and did not fit the batches until then, is
/// received.
#[test]
fn frames_that_are_left_when_the_descriptor_changes() {
    for frames in [1000, 4000] {
        let shape = Shape { transmit: 4096, receive: 64, buffer: 1000 };
        let (mut guest, link) = Guest::pair(shape, Caps::ALL).unwrap();
        let mut worker = Worker::new(link, &options(1500, &Configured::default(), 64), NOW).unwrap();
        (0..frames).for_each(|_| send(&mut guest));
        guest.kick();
        let _former = guest.change_kick().unwrap();
        let received = (0..20).map(|_| received(&mut worker)).max();
        assert_eq!(received, Some(frames));
    }
}

/// Room that the guest posts at any moment ends that there was none.
#[test]
fn room_that_comes_while_it_is_looked_for() {
    struct Other<'a>(&'a Guest);
    // SAFETY: this thread uses nothing but the memory that both share.
    unsafe impl Send for Other<'_> {}

    /// Lets the other thread end, also when this one fails.
    struct End<'a>(&'a AtomicU16);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(u16::MAX, Ordering::Release);
        }
    }

    let shape = Shape { transmit: 64, receive: 64, buffer: 2000 };
    let (guest, mut link) = Guest::pair(shape, Caps::ALL).unwrap();
    let layout = guest.receive();
    let posted = AtomicU16::new(0);
    let asked = AtomicU16::new(0);
    thread::scope(|scope| {
        let (other, posted, asked) = (Other(&guest), &posted, &asked);
        scope.spawn(move || {
            let Other(guest) = { other };
            for round in 1..=2000_u16 {
                while asked.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                (0..round % 256).for_each(|_| std::hint::spin_loop());
                for entry in 0..40 {
                    let at = layout.available_entry((round - 1).wrapping_mul(40).wrapping_add(entry));
                    assert!(guest.region().store(at, entry.to_le()));
                }
                assert!(guest.region().store(layout.available_index(), round.wrapping_mul(40).to_le()));
                posted.store(round, Ordering::Release);
            }
        });
        let _end = End(asked);
        for round in 1..=2000 {
            asked.store(round, Ordering::Release);
            while link.lendable(54, 1460) == 0 && posted.load(Ordering::Acquire) < round {}
            while posted.load(Ordering::Acquire) < round {
                std::hint::spin_loop();
            }
            assert!(!link.is_congested() || link.lendable(54, 1460) == 0, "round {round}");
            // Uses up what was posted.
            while link.send(&[0; 60]).is_ok() {}
        }
    });
}

/// Nothing but what the guest does has the loop wake up.
#[test]
fn a_loop_that_is_told_of_nothing_twice() {
    let (mut guest, mut worker) = pair();
    let former = guest.change_kick().unwrap();
    received(&mut worker);
    send(&mut guest);
    guest.kick();
    rustix::io::write(&former, &1u64.to_ne_bytes()).unwrap();
    // A client may have come to a link whose descriptors are watched already.
    worker.greet().unwrap();
    assert_eq!(received(&mut worker), 1);

    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let at = Itimerspec { it_interval: none, it_value: Timespec { tv_sec: 0, tv_nsec: 300_000_000 } };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &at).unwrap();
    worker.context().core.watch(&timer, Token::External(3), EventFlags::IN).unwrap();
    let before = worker.context().core.counters.rounds;
    assert!(matches!(worker.run(&mut |_, _: &mut Control<'_, _>| true), Exit::External(3)));
    let rounds = worker.context().core.counters.rounds - before;
    assert!(rounds < 5, "{rounds} rounds in 300 ms");
}

/// What makes no sense is counted as a drop.
#[test]
fn rings_that_make_no_sense_are_counted() {
    let (guest, mut worker) = pair();
    for at in [guest.transmit().available_index(), guest.receive().available_index()] {
        assert!(guest.region().store(at, 1000));
    }
    guest.kick();
    received(&mut worker);
    assert_eq!(worker.drops(DropReason::Offload), 2);
}
