//! What a guest has sent and been told is received, while the host's peer does not read: what
//! becomes of it when the guest, or this program, goes away. The engine's clock is the test's.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::{own_limits, usual_limits};
use guest::{Connected, Guest, PLAIN, names};
use passt_proto::addr::Addr;
use passt_proto::drop::DropReason;
use passt_proto::wire::tcp::{Flags, Segment};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const SEGMENT: u32 = 1400;
/// A connection of the guest, whose data is the same byte throughout.
struct Upload {
    peer: TcpStream,
    remote: Addr,
    /// With the numbers of the first byte each way.
    next: Segment,
    sent: u32,
    acked: u32,
    window: u32,
}

impl Upload {
    fn connect(guest: &mut Guest, listener: &TcpListener, port: u16) -> Self {
        let Connected { peer, remote, next, window } = guest.connect(listener, port);
        Self { peer, remote, next, sent: 0, acked: 0, window }
    }

    /// Sends `len` bytes of the stream, `from` its start.
    fn put(&self, guest: &mut Guest, flags: Flags, from: u32, len: u32) {
        let segment = Segment { seq: self.next.seq + from, flags, ..self.next };
        guest.segment(self.remote, &segment, &vec![7; len as usize]);
    }

    /// What the engine says; whether it reset the connection.
    fn hear(&mut self, guest: &mut Guest) -> bool {
        let mut reset = false;
        for packet in guest.receive() {
            assert_eq!((packet.src, packet.dst), (names(true).1, names(true).0));
            if packet.ports().1 == self.next.src_port {
                let (segment, _) = Segment::parse(&packet.bytes).unwrap();
                reset |= segment.flags.contains(Flags::RST);
                (self.acked, self.window) = (segment.ack.distance(self.next.seq), segment.window.into());
            }
        }
        reset
    }

    /// Sends until the host's kernel takes no more, and finishes.
    fn fill(&mut self, guest: &mut Guest) {
        let mut idle = 0;
        while idle < 5 {
            while self.sent + SEGMENT <= self.acked + self.window {
                self.put(guest, Flags::ACK, self.sent, SEGMENT);
                self.sent += SEGMENT;
                idle = 0;
            }
            self.hear(guest);
            idle += 1;
        }
        assert!(self.acked < self.sent, "something is held");
        self.put(guest, Flags::ACK | Flags::FIN, self.sent, 0);
        self.hear(guest);
    }

    /// Repeats what is not acknowledged, as a kernel does; in the end all is, the FIN as well.
    fn insist(&mut self, guest: &mut Guest) {
        for wait in [0, 400, 800] {
            assert!(self.acked < self.sent);
            guest.now = guest.now + Duration::from_millis(wait);
            self.put(guest, Flags::ACK, self.acked, SEGMENT.min(self.sent - self.acked));
            self.hear(guest);
        }
        assert_eq!(self.acked, self.sent + 1);
    }

    /// All that the peer has, in order and to the end.
    fn read(&mut self, guest: &mut Guest) -> std::io::Result<usize> {
        self.peer.set_nonblocking(true).unwrap();
        let (mut all, mut buffer) = (0, vec![0; 1 << 20]);
        for _ in 0..100_000 {
            guest.turn();
            match self.peer.read(&mut buffer) {
                Ok(0) => return Ok(all),
                Ok(len) => {
                    assert!(buffer[..len].iter().all(|&byte| byte == 7));
                    all += len;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        panic!("no end behind {all} of {}", self.sent);
    }
}

/// With little room, in which nobody reads.
fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4096).unwrap();
    listener
}

#[test]
fn a_guest_that_is_gone_leaves_all_that_it_sent() {
    let _limits = usual_limits();
    for spoke in [false, true] {
        let mut guest = Guest::new(PLAIN, 1500);
        let mut upload = Upload::connect(&mut guest, &listener(), 40_000);
        assert_eq!(guest.worker.context().core.counters.flows, 1);
        upload.fill(&mut guest);
        upload.insist(&mut guest);
        if spoke {
            upload.peer.write_all(b"!").unwrap();
            guest.turn();
        }
        upload.put(&mut guest, Flags::RST, upload.sent + 1, 0);
        assert!(!upload.hear(&mut guest));
        assert_eq!(guest.worker.flow_count(), 1);
        assert_eq!(upload.read(&mut guest).unwrap(), upload.sent as usize, "{spoke}");
        assert_eq!(guest.worker.flow_count(), 0);
        assert_eq!(guest.worker.drops(DropReason::WindowOverrun), 0);
    }
}

/// A guest that has finished, and aborts then: what the host's kernel has is the peer's, and the
/// end.
#[test]
fn a_guest_that_aborts_after_its_end() {
    let _limits = usual_limits();
    let mut guest = Guest::new(PLAIN, 1500);
    let mut upload = Upload::connect(&mut guest, &listener(), 40_000);
    while upload.sent < 20 * SEGMENT {
        upload.put(&mut guest, Flags::ACK, upload.sent, SEGMENT);
        upload.sent += SEGMENT;
    }
    upload.put(&mut guest, Flags::ACK | Flags::FIN, upload.sent, 0);
    upload.hear(&mut guest);
    assert_eq!(upload.acked, upload.sent + 1, "the kernel has all");
    // What it says back is nobody's any more.
    upload.peer.write_all(b"!").unwrap();
    guest.turn();
    upload.put(&mut guest, Flags::RST, upload.sent + 1, 0);
    upload.hear(&mut guest);
    assert_eq!(guest.worker.flow_count(), 0);
    assert_eq!(upload.read(&mut guest).unwrap(), upload.sent as usize);
}

/// An end in order would say that the peer has all.
#[test]
fn a_program_that_ends_says_so_to_peers_that_lack_something() {
    let _limits = usual_limits();
    for (insists, is_gone) in [(false, false), (true, false), (true, true)] {
        let mut guest = Guest::new(PLAIN, 1500);
        let mut upload = Upload::connect(&mut guest, &listener(), 40_000);
        upload.fill(&mut guest);
        if insists {
            upload.insist(&mut guest);
        }
        if is_gone {
            upload.put(&mut guest, Flags::RST, upload.sent + 1, 0);
            guest.turn();
        }
        drop(guest);
        let mut all = Vec::new();
        let end = upload.peer.read_to_end(&mut all);
        // What the guest was not told of it may send again, elsewhere.
        assert_eq!(end.is_err(), insists, "{} of {}", all.len(), upload.sent);
        assert!(all.len() < upload.sent as usize);
    }
}

/// Once all is delivered an end is one in order.
#[test]
fn a_program_that_ends_after_all_was_read() {
    let _limits = usual_limits();
    let mut guest = Guest::new(PLAIN, 1500);
    let mut upload = Upload::connect(&mut guest, &listener(), 40_000);
    upload.fill(&mut guest);
    upload.insist(&mut guest);
    assert_eq!(upload.read(&mut guest).unwrap(), upload.sent as usize);
    assert_eq!(guest.worker.flow_count(), 1, "the peer has not finished");
    drop(guest);
    assert!(upload.peer.write(b"?").is_ok(), "no reset came");
}

/// Neither number nor time of what is left behind is without bounds.
#[test]
fn few_leave_something_behind_and_not_for_long() {
    let _limits = own_limits();
    let usual = getrlimit(Resource::Nofile);
    // An eighth of 56 descriptors.
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..usual }).unwrap();
    let mut guest = Guest::new(PLAIN, 1500);
    setrlimit(Resource::Nofile, usual).unwrap();
    let listener = listener();
    let mut uploads = Vec::new();
    for port in 40_000..40_009 {
        let mut upload = Upload::connect(&mut guest, &listener, port);
        upload.fill(&mut guest);
        upload.insist(&mut guest);
        upload.put(&mut guest, Flags::RST, upload.sent + 1, 0);
        guest.turn();
        uploads.push(upload);
        assert_eq!(guest.worker.flow_count(), uploads.len().min(7));
    }
    for upload in &mut uploads[7..] {
        assert_eq!(upload.read(&mut guest).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    // One makes room for another.
    let mut first = uploads.remove(0);
    assert_eq!(first.read(&mut guest).unwrap(), first.sent as usize);
    assert_eq!(guest.worker.flow_count(), 6);
    let mut next = Upload::connect(&mut guest, &listener, 40_010);
    next.fill(&mut guest);
    next.insist(&mut guest);
    next.put(&mut guest, Flags::RST, next.sent + 1, 0);
    guest.turn();
    assert_eq!(guest.worker.flow_count(), 7);
    assert_eq!(next.read(&mut guest).unwrap(), next.sent as usize);
    assert_eq!(guest.worker.flow_count(), 6);
    // What the host's kernel moved meanwhile is seen at the first look.
    let mut pass = |seconds| {
        guest.now = guest.now + Duration::from_secs(seconds);
        guest.turn();
        guest.worker.flow_count()
    };
    assert_eq!(pass(280), 6);
    pass(301);
    assert_eq!(pass(301), 0);
    assert_eq!(uploads[0].read(&mut guest).unwrap_err().kind(), ErrorKind::ConnectionReset);
}
