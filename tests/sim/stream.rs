//! A real socket as it serves a virtual machine: what [`crate::every_link`] demands of every link
//! is tested there, and here what happens on a stream that may stop.

use passt_engine::control::Control;
use passt_engine::core::Token;
use passt_engine::link::Link as _;
use passt_engine::worker::Exit;
use passt_proto::drop::DropReason;
use rustix::event::epoll::EventFlags;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::engine::{MIB, Pair, World};
use crate::rig::Machine;
use crate::secs;

fn world() -> World<Machine> {
    World::usual(0, &[])
}

/// Connections share what the machine reads, both ways go on, and nothing is lost by us.
#[test]
fn a_machine_that_reads_slowly() {
    let mut world = world();
    world.end.pace = 30_000;
    for _ in 0..32 {
        world.connect(true, MIB / 4, MIB);
    }
    let (mut congested, mut least) = (0, None);
    while !world.pairs.iter().all(Pair::is_complete) {
        world.step();
        congested += u32::from(world.worker.context().core.link.is_congested());
        if least.is_none() && world.pairs.iter().any(|pair| pair.app.received == MIB) {
            least = world.pairs.iter().map(|pair| pair.app.received).min();
        }
    }
    assert!(least > Some(MIB / 4), "{least:?} bytes when the first had all");
    assert!(congested > 100, "{congested} rounds with congestion");
    assert_eq!(world.worker.drops(DropReason::LinkBusy), 0);
}

/// A machine that is paused: the loop sleeps, the host's peers are held back, and all ends well.
#[test]
fn a_machine_that_stops_reading() {
    let mut world = world();
    world.real_time = true;
    world.step();
    for _ in 0..8 {
        world.connect(true, 0, 16 * MIB);
    }
    world.run(secs(60), |world| world.pairs.iter().all(|pair| pair.app.received > MIB));
    world.end.pace = 0;
    world.run(secs(60), |world| world.worker.context().core.link.is_congested());
    let before = world.worker.context().core.counters.rounds;
    sleep_in_the_loop(&mut world, 3);
    let rounds = world.worker.context().core.counters.rounds - before;
    assert!(rounds < 200, "{rounds} rounds in 3 s");
    assert!(world.pairs.iter().map(|pair| pair.sent).sum::<u64>() < 100 * MIB, "the peers are held back");
    // Congestion may have ended: the socket had room, and the guest's windows are full.
    assert_eq!(world.worker.drops(DropReason::LinkBusy), 0);
    world.end.pace = 1 << 20;
    world.run_to_end();
}

/// Runs the engine by the real clock.
fn sleep_in_the_loop(world: &mut World<Machine>, seconds: i64) {
    let timer =
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).expect("a timer");
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let at = Itimerspec { it_interval: none, it_value: Timespec { tv_sec: seconds, tv_nsec: 0 } };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &at).expect("set");
    world.worker.context().core.watch(&timer, Token::External(0), EventFlags::IN).expect("watched");
    assert!(matches!(world.worker.run(&mut |_, _: &mut Control<'_, _>| true), Exit::External(0)));
}

/// With a kernel whose calls a script decides.
#[cfg(feature = "inject")]
mod scripted {
    use std::io::{ErrorKind, Read as _};
    use std::os::fd::BorrowedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use passt_engine::link::stream::{Framing, StreamLink};
    use passt_engine::link::{ClientLink as _, Link as _};
    use passt_sys::inject::{self, Fate, Faults};
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    /// What becomes of the next calls, the last of these first.
    struct Once(Vec<Fate>);

    impl Faults for Once {
        fn stream(&mut self, _: BorrowedFd<'_>, _: usize) -> Fate {
            self.0.pop().unwrap_or(Fate::Pass)
        }

        fn datagrams(&mut self, _: BorrowedFd<'_>, _: usize, _: bool) -> Fate {
            self.0.pop().unwrap_or(Fate::Pass)
        }
    }

    /// A kernel that has no memory for a message now: this one and those behind it wait.
    #[test]
    fn messages_wait_for_memory() {
        for (kind, errno) in [SocketType::SEQPACKET, SocketType::DGRAM]
            .into_iter()
            .flat_map(|kind| [Errno::NOBUFS, Errno::NOMEM].map(|errno| (kind, errno)))
        {
            let (ours, machine) =
                socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("sockets");
            let mut link = StreamLink::new(Framing::Message);
            link.connect(ours);
            let fail = |errno: Errno| Fate::Fail(errno.raw_os_error());
            let fates = vec![fail(errno), fail(Errno::INTR), Fate::AtMost(2)];
            inject::install(Some(Box::new(Once(fates))));
            for byte in 0..5 {
                link.send(&[byte; 60]).expect("room");
            }
            assert_eq!(link.flush(), Some(0), "{kind:?} {errno}");
            assert_eq!(link.flush(), None);
            inject::install(None);
            for byte in 0..5 {
                let mut message = [0; 100];
                let (_, len) = recv(&machine, &mut message, RecvFlags::DONTWAIT).expect("a message");
                assert_eq!(message[..len], [byte; 60], "{kind:?} {errno}");
            }
        }
    }

    /// A kernel that has no memory for the rest of a frame: what follows would be taken for that
    /// rest.
    #[test]
    fn half_a_frame_ends_the_client() {
        for errno in [Errno::NOBUFS, Errno::NOMEM] {
            let (ours, mut machine) = UnixStream::pair().expect("sockets");
            machine.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
            let mut link = StreamLink::new(Framing::Be32);
            link.connect(ours.into());
            inject::install(Some(Box::new(Once(vec![Fate::Fail(errno.raw_os_error()), Fate::AtMost(10)]))));
            for _ in 0..3 {
                let _ = link.send(&[1; 60]);
                link.flush();
            }
            inject::install(None);
            let mut received = Vec::new();
            machine.read_to_end(&mut received).expect("the end");
            assert_eq!(received.len(), 10, "{errno}");
            assert_eq!(link.receive(0).expect_err("no client").kind(), ErrorKind::UnexpectedEof);
            assert!(!link.is_connected());
        }
    }
}
