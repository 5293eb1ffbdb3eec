//! A virtual machine by vhost-user under the loop of a worker: both ends sleep until they are told.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use common::options;
use passt_engine::control::Control;
use passt_engine::core::{Token, clock};
use passt_engine::link::ClientLink as _;
use passt_engine::link::vhost_user::mock::{Machine, RECEIVE, Shape, TRANSMIT};
use passt_engine::link::vhost_user::{Config, Features, ProtocolFeatures, VhostUserLink};
use passt_engine::worker::{Exit, Worker};
use passt_proto::guest::Configured;
use passt_proto::responder::{Services, V4};
use passt_sys::event::Event;
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Number of what ends the loop.
const DONE: u32 = 3;

/// A request that is answered.
const ARP: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 4, 4, 4, 4, 4, 4, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 4, 4, 4, 4, 4, 4,
    192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 254,
];

fn shape(features: Features) -> Shape {
    let least = Features::VERSION_1 | Features::PROTOCOL_FEATURES | Features::MRG_RXBUF;
    let protocol = ProtocolFeatures::REPLY_ACK;
    Shape { features: least | features, protocol, pairs: 1, transmit: 16, receive: 16, buffer: 500 }
}

fn worker(socket: OwnedFd) -> Worker<VhostUserLink> {
    let mut link = VhostUserLink::new(Config::default());
    link.connect(socket);
    let mut options = options(1500, &Configured::default(), 64);
    let (addr, gateway) = ([192, 0, 2, 2].into(), [192, 0, 2, 254].into());
    options.services.services = Services::all();
    options.services.v4 =
        Some(V4 { addr, prefix_len: 24, gateway, our_addr: gateway, dns: [].into_iter().collect() });
    Worker::new(link, &options, clock()).unwrap()
}

/// Answers that have come, among what else a guest is told.
fn answers(machine: &mut Machine) -> usize {
    let is_answer =
        |bytes: &[u8]| bytes[..6] == ARP[6..12] && bytes[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
    machine.take().iter().filter(|frame| is_answer(&frame.bytes)).count()
}

/// Waits until one of these is readable; false if that takes too long.
fn wait(fds: [BorrowedFd<'_>; 2]) -> bool {
    let mut fds = fds.each_ref().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN));
    poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap() > 0
}

/// Sends requests in bursts until all of so many are answered; how often it was told nothing for
/// too long.
fn ask(machine: &mut Machine, requests: usize) -> usize {
    let (mut sent, mut answered, mut lost, mut burst) = (0, 0, 0, 1);
    while answered < requests && lost < 3 {
        burst = burst * 7 % 31;
        while sent < requests && sent - answered < burst.min(14) {
            if !machine.send(&ARP.to_vec().into(), &[12, 20][..burst % 3]) {
                break;
            }
            sent += 1;
        }
        let came = answers(machine);
        answered += came;
        machine.post();
        if came == 0 && sent > answered {
            lost += usize::from(!wait([machine.call(RECEIVE), machine.call(TRANSMIT)]));
            machine.is_interrupted(RECEIVE);
            machine.is_interrupted(TRANSMIT);
        }
    }
    lost
}

/// However the two race each other, neither waits for the other in vain.
#[test]
fn nobody_sleeps_over_what_is_there() {
    for features in [Features::empty(), Features::EVENT_IDX, Features::EVENT_IDX | Features::INDIRECT_DESC] {
        let (to_worker, from_machine) = mpsc::channel();
        let done = Event::new().unwrap();
        let signal = Event::adopt(done.try_clone().unwrap()).unwrap();
        let guest = thread::spawn(move || {
            let (mut machine, socket) = Machine::pair(shape(features)).unwrap();
            to_worker.send(socket).unwrap();
            machine.start();
            machine.post();
            let lost = ask(&mut machine, 20_000);
            let kicked = machine.kicked();
            signal.signal();
            (lost, kicked)
        });
        let mut worker = worker(from_machine.recv().unwrap());
        worker.context().core.watch(done.as_fd(), Token::External(DONE), EventFlags::IN).unwrap();
        let exit = worker.run(&mut |_, _: &mut Control<'_, _>| true);
        let (lost, kicked) = guest.join().unwrap();
        assert!(matches!(exit, Exit::External(DONE) | Exit::Link(_)), "{exit:?}");
        assert_eq!(lost, 0, "{features:?}");
        let counters = &worker.context().core.counters;
        assert!(counters.from_guest.frames >= 20_000 && kicked > 0);
    }
}

/// A front end that leaves is gone with all that it passed on: what it still has of that keeps no
/// loop busy, and the next one is served.
#[test]
fn one_after_the_other() {
    let (mut machine, socket) = Machine::pair(shape(Features::EVENT_IDX)).unwrap();
    let mut worker = worker(socket);
    let mut kept = Vec::new();
    for _ in 0..3 {
        machine.start();
        machine.post();
        assert!(machine.send(&ARP.to_vec().into(), &[]));
        for _ in 0..4 {
            worker.quiet_turn(clock()).unwrap();
        }
        assert_eq!(answers(&mut machine), 1);
        machine.kick(TRANSMIT);
        let (next, socket) = Machine::pair(shape(Features::EVENT_IDX)).unwrap();
        kept.push(std::mem::replace(&mut machine, next).leave());
        assert!(worker.quiet_turn(clock()).is_err());
        let before = worker.context().core.counters.rounds;
        let pause = Event::new().unwrap();
        worker.context().core.watch(pause.as_fd(), Token::External(DONE), EventFlags::IN).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(std::time::Duration::from_millis(100));
                pause.signal();
            });
            assert!(matches!(worker.run(&mut |_, _: &mut Control<'_, _>| true), Exit::External(DONE)));
        });
        assert!(worker.context().core.counters.rounds - before < 5, "a busy loop");
        worker.context().core.link.connect(socket);
        worker.greet().unwrap();
    }
}
