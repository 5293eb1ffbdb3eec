//! A real socket as it serves a virtual machine: what [`crate::every_link`] demands of every link is tested there,
//! and here what happens on a stream that may stop.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use passt::link::Link as _;
use passt::link::channel::Packet;
use passt::link::stream::StreamLink;
use passt::worker::{Exit, Token};
use passt_proto::drop::DropReason;
use passt_proto::wire::stream::{PREFIX, frame_len, prefix};
use rustix::event::epoll::EventFlags;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::engine::{End, MIB, Pair, World};
use crate::secs;

/// A machine's end of the socket.
pub(crate) struct Machine {
    socket: UnixStream,
    /// Frames from the guest that the socket did not take, and the start of one for it.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Bytes read in one go.
    pace: usize,
}

impl Machine {
    fn push(&mut self) {
        match self.socket.write(&self.outgoing) {
            Ok(n) => drop(self.outgoing.drain(..n)),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
}

impl End for Machine {
    type Link = StreamLink;

    fn pair() -> (Self, StreamLink) {
        let (ours, socket) = UnixStream::pair().expect("sockets");
        socket.set_nonblocking(true).expect("non-blocking");
        let mut link = StreamLink::new();
        link.connect(ours.into());
        (Self { socket, outgoing: Vec::new(), incoming: Vec::new(), pace: 1 << 20 }, link)
    }

    fn send(&mut self, _: &mut StreamLink, frame: Packet) {
        // What is shorter ends the client, which is tested elsewhere.
        if frame.bytes.len() >= 14 {
            self.outgoing.extend(prefix(frame.bytes.len()).expect("a frame"));
            self.outgoing.extend(frame.bytes);
        }
        self.push();
    }

    fn receive(&mut self, _: &mut StreamLink) -> Vec<Vec<u8>> {
        self.push();
        let mut buffer = vec![0; self.pace];
        match self.socket.read(&mut buffer) {
            Ok(n) => self.incoming.extend(&buffer[..n]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        let (mut frames, mut done) = (Vec::new(), 0);
        while let Some(len) = frame_len(&self.incoming[done..]).expect("a length") {
            frames.push(self.incoming[done + PREFIX..done + PREFIX + len].to_vec());
            done += PREFIX + len;
        }
        self.incoming.drain(..done);
        frames
    }
}

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
        congested += u32::from(world.worker.context().link.is_congested());
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
    world.run(secs(60), |world| world.worker.context().link.is_congested());
    let before = world.worker.context().counters.rounds;
    sleep_in_the_loop(&mut world, 3);
    let rounds = world.worker.context().counters.rounds - before;
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
    world.worker.context().watch(&timer, Token::External(0), EventFlags::IN).expect("watched");
    assert!(matches!(world.worker.run(|_, _| true), Exit::External(0)));
}
