//! The loop with descriptors and by the real clock: what it waits for, and whom it calls.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs::File;
use std::io::{ErrorKind, Read as _, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use passt_engine::clock;
use passt_engine::control::Control;
use passt_engine::core::Token;
use passt_engine::link::ClientLink as _;
use passt_engine::link::Link;
use passt_engine::link::none::NoLink;
use passt_engine::link::stream::{Framing, StreamLink};
use passt_engine::worker::{Exit, External, Worker};
use passt_proto::drop::DropReason;
use passt_proto::guest::Configured;
use passt_proto::time::Instant;
use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use common::options;

/// Numbers of descriptors outside of the engine.
const GUARD: u32 = 0;
const OTHER: u32 = 1;

fn worker<L: Link>(link: L) -> Worker<L> {
    Worker::new(link, &options(1500, &Configured::default(), 64), clock()).unwrap()
}

/// Ends the loop after ten seconds, in which all should have happened.
fn guard<L: Link>(worker: &mut Worker<L>) -> OwnedFd {
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let at = Itimerspec { it_interval: none, it_value: Timespec { tv_sec: 10, tv_nsec: 0 } };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &at).unwrap();
    worker.context().core.watch(&timer, Token::External(GUARD), EventFlags::IN).unwrap();
    timer
}

/// What a socket did not take goes on once it takes more, though nothing else happens; and then
/// nothing keeps the loop busy.
#[test]
fn the_rest_of_a_queue() {
    let (ours, machine) = UnixStream::pair().unwrap();
    let mut link = StreamLink::new(Framing::Be32);
    link.connect(ours.into());
    take_the_rest(link, Framing::Be32.prefix_len(), machine.into());
}

/// The same with a pipe each way: the loop waits for the one, and is told by the other.
#[test]
fn the_rest_for_a_pipe() {
    let ((input, _writer), (reader, output)) = (pipe().unwrap(), pipe().unwrap());
    let mut link = StreamLink::new(Framing::Le16);
    link.connect_pair(input.into(), output.into()).unwrap();
    take_the_rest(link, Framing::Le16.prefix_len(), reader.into());
}

/// The same with messages.
#[test]
fn the_rest_of_messages() {
    for kind in [SocketType::SEQPACKET, SocketType::DGRAM] {
        let (ours, machine) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let mut link = StreamLink::new(Framing::Message);
        link.connect(ours);
        take_the_rest(link, 0, machine);
    }
}

fn take_the_rest(link: StreamLink, prefix: usize, machine: OwnedFd) {
    const FRAMES: usize = 900;
    let mut worker = worker(link);
    let _guard = guard(&mut worker);
    let done = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    worker.context().core.watch(&done, Token::External(OTHER), EventFlags::IN).unwrap();
    for _ in 0..FRAMES {
        worker.context().core.send(&[7; 1000]);
    }
    assert_eq!(worker.drops(DropReason::LinkBusy), 0);
    let reader = thread::spawn(move || {
        let mut machine = File::from(machine);
        // What there is of a stream, or a message.
        let (mut left, mut buffer) = (FRAMES * (prefix + 1000), vec![0; 1 << 16]);
        while left > 0 {
            left = left.saturating_sub(machine.read(&mut buffer).unwrap().max(1));
        }
        // A little longer, in which the loop has nothing to do.
        thread::sleep(Duration::from_millis(200));
        rustix::io::write(&done, &1_u64.to_ne_bytes()).unwrap();
        // Given back: a descriptor that is closed is no longer watched, and tells nothing.
        (machine, done)
    });
    let exit = worker.run(&mut |_, _: &mut Control<'_, _>| true);
    assert!(matches!(exit, Exit::External(OTHER)), "{exit:?}");
    let (_machine, _done) = reader.join().unwrap();
    let rounds = worker.context().core.counters.rounds;
    assert!((2..100).contains(&rounds), "{rounds} rounds");
}

/// A client that closes the pipe that it reads from is gone, though it says nothing and nothing is
/// sent.
#[test]
fn nobody_reads_a_pipe() {
    let ((input, _writer), (reader, output)) = (pipe().unwrap(), pipe().unwrap());
    let mut link = StreamLink::new(Framing::Le16);
    link.connect_pair(input.into(), output.into()).unwrap();
    let mut worker = worker(link);
    let _guard = guard(&mut worker);
    drop(reader);
    let exit = worker.run(&mut |_, _: &mut Control<'_, _>| true);
    assert!(matches!(&exit, Exit::Link(e) if e.kind() == ErrorKind::UnexpectedEof), "{exit:?}");
}

/// That a datagram socket's peer is gone is told by what is sent, and ends the loop.
#[test]
fn nobody_takes_datagrams() {
    let (ours, machine) =
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
    let mut link = StreamLink::new(Framing::Message);
    link.connect(ours);
    let mut worker = worker(link);
    let _guard = guard(&mut worker);
    drop(machine);
    worker.context().core.send(&[7; 1000]);
    let exit = worker.run(&mut |_, _: &mut Control<'_, _>| true);
    assert!(matches!(&exit, Exit::Link(e) if e.kind() == ErrorKind::UnexpectedEof), "{exit:?}");
}

/// What is ready and of no use now is looked at again after a pause, and only then.
#[test]
fn a_descriptor_that_is_postponed() {
    let mut worker = worker(NoLink);
    let _guard = guard(&mut worker);
    let other = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
    worker.context().core.watch(&other, Token::External(OTHER), EventFlags::IN).unwrap();
    let mut calls: Vec<Instant> = Vec::new();
    let exit = worker.run(&mut |number, control: &mut Control<'_, _>| {
        let core = &mut control.engine.ctx.core;
        calls.push(core.now);
        if number == OTHER && calls.len() < 3 {
            let _watched_at_first = core.unwatch(&other);
            core.postpone(OTHER);
            return false;
        }
        true
    });
    assert!(matches!(exit, Exit::External(OTHER)), "{exit:?}");
    let pauses: Vec<Duration> = calls.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert_eq!(pauses.len(), 2);
    assert!(pauses.iter().all(|pause| *pause >= Duration::from_millis(100)), "{pauses:?}");
}

/// What is around the engine is called when it says so.
#[test]
fn times_of_others() {
    struct Ticks(Instant, Vec<Instant>);

    impl External<NoLink> for Ticks {
        fn ready(&mut self, _: u32, _: &mut Control<'_, NoLink>) -> bool {
            true
        }

        fn due(&self) -> Option<Instant> {
            Some(self.0)
        }

        fn tick(&mut self, control: &mut Control<'_, NoLink>) {
            assert_eq!(control.engine.flows.count(), 0);
            let core = &mut control.engine.ctx.core;
            assert!(core.now >= self.0, "too early");
            self.1.push(core.now);
            self.0 = core.now + Duration::from_millis(50);
            if self.1.len() == 3 {
                self.0 = core.now + Duration::from_secs(60);
                core.postpone(OTHER);
            }
        }
    }

    let mut worker = worker(NoLink);
    let _guard = guard(&mut worker);
    let mut ticks = Ticks(clock() + Duration::from_millis(50), Vec::new());
    let exit = worker.run(&mut ticks);
    assert!(matches!(exit, Exit::External(OTHER)), "{exit:?}");
    assert_eq!(ticks.1.len(), 3);
}
