//! What one batch may hold: more segments than a call takes, the end of a connection and the
//! beginning of the next, and calls that the kernel obeys in part. A guest without a TCP of its own
//! says exactly what arrives when.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use passt_engine::link::HEAD_LEN;
use passt_engine::link::channel::Packet;
use passt_engine::protocols::tcp::slack::Slack;
use passt_engine::worker::Worker;
use passt_proto::classify::{Class, classify};
use passt_proto::responder::Services;
use passt_proto::rules::Protocol;
use passt_proto::seq::Seq;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::MAX_HEADERS;
use passt_proto::wire::tcp::{Flags, Options, Segment};
use passt_sys::inject::Fate;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType};

use crate::equivalence::script::Script;
use crate::rig::{End, Machine, Memory, Offloading, door, loopback, options, path};

const ACK: Flags = Flags::ACK;
const SYN: Flags = Flags::SYN;
const FIN: Flags = Flags::FIN.union(Flags::ACK);
const RST: Flags = Flags::RST;
const ISS: u32 = 0xffff_ff00;
const PORT: u16 = 40_000;

struct Guest<E: End> {
    worker: Worker<E::Link>,
    end: E,
    now: Instant,
    outbox: Vec<Packet>,
    v4: bool,
}

/// A connection of the guest to `port`.
#[derive(Clone, Copy)]
struct Conn {
    port: u16,
    irs: Seq,
    /// The window told with the last segment of the handshake.
    window: u32,
}

impl<E: End> Guest<E> {
    fn new(v4: bool) -> Self {
        let (end, link) = E::pair();
        let now = Instant::from_millis(1000);
        let mut options = options(65_520, 64);
        options.services.services = Services::empty();
        let worker = Worker::new(link, &options, now).expect("an engine");
        Self { worker, end, now, outbox: Vec::new(), v4 }
    }

    fn put(&mut self, segment: &Segment, payload: &[u8]) {
        let mut header = [0; MAX_HEADERS];
        let emitted = path(self.v4).emit_tcp(&mut header, segment, payload.len(), u16::MAX);
        let (len, offload) = emitted.expect("a frame");
        self.outbox.push(Packet { bytes: [&header[..len], payload].concat(), offload });
    }

    /// A segment of the guest, numbered from the first byte of its stream.
    fn segment(conn: &Conn, flags: Flags, at: u32) -> Segment {
        let (seq, ack) = (Seq(ISS) + 1 + at, conn.irs + 1);
        Segment { src_port: PORT, dst_port: conn.port, seq, ack, flags, window: 65_535, ..Segment::default() }
    }

    fn syn(&mut self, port: u16, seq: Seq) {
        let options = Options { mss: Some(1400), window_scale: Some(7), ..Options::default() };
        let syn = Segment { seq, flags: SYN, options, ..Self::segment(&conn(port), SYN, 0) };
        self.put(&syn, &[]);
    }

    /// One batch, and what comes back at once.
    fn turn(&mut self) -> Vec<(Segment, Vec<u8>)> {
        for frame in std::mem::take(&mut self.outbox) {
            self.end.send(&mut self.worker.context().core.link, frame);
        }
        // The host's kernel may say something later than the guest.
        let mut packets = Vec::new();
        for _ in 0..3 {
            self.worker.turn(self.now).expect("a link");
            packets.extend(self.end.receive(&mut self.worker.context().core.link));
        }
        let segment = |packet: Packet| {
            let head = packet.bytes.get(..HEAD_LEN).unwrap_or(&packet.bytes);
            let Class::Tcp { segment, payload, .. } = classify(head, packet.bytes.len()).ok()? else {
                return None;
            };
            Some((segment, packet.bytes[payload].to_vec()))
        };
        packets.into_iter().filter_map(segment).collect()
    }

    /// The answer to a SYN, in a batch in which it is the last.
    fn answered(&mut self, port: u16) -> Conn {
        let all = self.turn();
        let answer = all.iter().find(|(segment, _)| segment.flags == SYN | ACK);
        let (segment, _) = answer.unwrap_or_else(|| panic!("no answer to a SYN: {all:?}"));
        Conn { port, irs: segment.seq, window: segment.window.into() }
    }

    fn connect(&mut self, server: &TcpListener) -> (Conn, TcpStream) {
        let port = server.local_addr().expect("bound").port();
        self.syn(port, Seq(ISS));
        let conn = self.answered(port);
        self.put(&Self::segment(&conn, ACK, 0), &[]);
        self.turn();
        (conn, accept(server))
    }
}

fn conn(port: u16) -> Conn {
    Conn { port, irs: Seq(0), window: 0 }
}

fn server(v4: bool) -> TcpListener {
    TcpListener::bind((loopback(v4), 0)).expect("a server")
}

fn accept(server: &TcpListener) -> TcpStream {
    let (stream, _) = server.accept().expect("a client");
    stream.set_nonblocking(true).expect("non-blocking");
    stream
}

fn read(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, true),
            Ok(n) => all.extend(&buffer[..n]),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                return (all, false);
            }
        }
    }
}

/// More segments than one call takes: all are queued, acknowledged once, and so is the end behind
/// them.
fn a_long_batch<E: End>() {
    for v4 in [true, false] {
        for count in [511, 512, 513, 600, 2000] {
            let mut guest = Guest::<E>::new(v4);
            let (conn, mut stream) = guest.connect(&server(v4));
            for at in 0..count {
                let byte = [u8::try_from(at % 251).expect("a byte")];
                guest.put(&Guest::<E>::segment(&conn, ACK, at), &byte);
            }
            guest.put(&Guest::<E>::segment(&conn, FIN, count), &[]);
            let answers = guest.turn();
            let (bytes, ended) = read(&mut stream);
            assert!(bytes.iter().zip(0..).all(|(&byte, at)| u32::from(byte) == at % 251));
            assert_eq!((bytes.len(), ended), (count as usize, true));
            let acked = answers.last().expect("an acknowledgement").0.ack;
            assert_eq!(acked.distance(Seq(ISS) + 1), count + 1);
        }
    }
}

#[test]
fn a_long_batch_in_memory() {
    a_long_batch::<Memory>();
}

#[test]
fn a_long_batch_of_a_machine() {
    a_long_batch::<Machine>();
}

/// The guest uses a port again at once: behind a RST, behind the last acknowledgement of a
/// connection that ended, and behind a SYN that it gave up.
#[test]
fn what_a_segment_ends_is_over_for_the_next() {
    for v4 in [true, false] {
        let listener = server(v4);
        let port = listener.local_addr().expect("bound").port();

        let mut guest = Guest::<Memory>::new(v4);
        let (conn, mut stream) = guest.connect(&listener);
        guest.put(&Guest::<Memory>::segment(&conn, ACK, 0), b"last words");
        guest.put(&Guest::<Memory>::segment(&conn, RST, 10), &[]);
        guest.syn(port, Seq(77));
        guest.answered(port);
        // The host's peer may still read what came before it.
        let mut buffer = [0; 16];
        let error = std::iter::from_fn(|| Some(stream.read(&mut buffer))).take(2).find_map(Result::err);
        assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::ConnectionReset));
        drop(accept(&listener));

        let mut guest = Guest::<Memory>::new(v4);
        let (conn, stream) = guest.connect(&listener);
        guest.put(&Guest::<Memory>::segment(&conn, FIN, 0), &[]);
        stream.shutdown(std::net::Shutdown::Write).expect("shut down");
        let ends = guest.turn();
        assert!(ends.iter().any(|(segment, _)| segment.flags.contains(Flags::FIN)), "{ends:?}");
        let last = Guest::<Memory>::segment(&conn, ACK, 1);
        guest.put(&Segment { ack: conn.irs + 2, ..last }, &[]);
        guest.syn(port, Seq(77));
        guest.answered(port);
        drop(accept(&listener));

        let mut guest = Guest::<Memory>::new(v4);
        guest.syn(port, Seq(ISS));
        guest.syn(port, Seq(77));
        let answer = guest.turn();
        let acked: Vec<Seq> = answer.iter().map(|(segment, _)| segment.ack).collect();
        assert_eq!(acked, [Seq(78)]);
        assert_eq!(guest.worker.flow_count(), 1);
    }
}

/// However the first window is told, it is no more than what others have left.
#[test]
fn first_promises_in_a_crowd() {
    for v4 in [true, false] {
        let mut guest = Guest::<Memory>::new(v4);
        guest.worker.engine().common.tcp.slack = Slack::new(4).expect("memory");
        let door = door(&mut guest.worker, v4, Protocol::Tcp);
        let listener = server(v4);
        let (stalled, _stream) = guest.connect(&listener);
        // The first acknowledgement opens the window.
        guest.put(&Guest::<Memory>::segment(&stalled, ACK, 0), &[7]);
        guest.turn();
        let script = Script::install();
        script.with(|state| state.most = 1);
        let payload = vec![7; 65_000];
        for at in (1..260_001).step_by(payload.len()) {
            guest.put(&Guest::<Memory>::segment(&stalled, ACK, at), &payload);
        }
        guest.turn();
        script.with(|state| state.most = 0);

        // A server that speaks first.
        let other = server(v4);
        let port = other.local_addr().expect("bound").port();
        guest.syn(port, Seq(ISS));
        let conn = guest.answered(port);
        assert!(conn.window <= 16 * 1024, "{}", conn.window);
        accept(&other).write_all(b"hello").expect("written");
        guest.put(&Guest::<Memory>::segment(&conn, ACK, 0), &[]);
        let (hello, _) = guest.turn().into_iter().find(|(_, payload)| payload == b"hello").expect("it");
        assert!(u32::from(hello.window) << 8 <= 16 * 1024 + 255, "{}", hello.window);

        // A connection that is accepted.
        let _client = TcpStream::connect((loopback(v4), door)).expect("connected");
        let (syn, _) = guest.turn().into_iter().find(|(s, _)| s.flags == SYN).expect("a SYN");
        assert!(syn.window <= 16 * 1024, "{}", syn.window);
        let seq = Seq(500);
        let (src_port, dst_port) = (syn.dst_port, syn.src_port);
        let options = Options { window_scale: Some(7), ..Options::default() };
        let window = 65_535;
        let answer = Segment { src_port, dst_port, seq, ack: syn.seq + 1, flags: SYN | ACK, window, options };
        guest.put(&answer, &[]);
        let (ack, _) = guest.turn().into_iter().find(|(s, _)| s.ack == seq + 1).expect("an acknowledgement");
        assert!(u32::from(ack.window) << 8 <= 16 * 1024 + 255, "{}", ack.window);
        passt_sys::inject::install(None);
    }
}

/// A slot is as good after billions of flows as it was for the first.
#[test]
fn slots_that_were_used_often() {
    for generation in [1 << 29, (1 << 29) + 1, u32::MAX] {
        let mut guest = Guest::<Memory>::new(true);
        guest.worker.engine().flows.first_generation = generation;
        let (_, mut stream) = guest.connect(&server(true));
        stream.write_all(b"anybody there?").expect("written");
        let got = guest.turn().into_iter().any(|(_, payload)| payload == b"anybody there?");
        assert!(got, "events of generation {generation} reach nobody");
    }
}

/// What the kernel takes of datagrams it takes once, whatever it says about the others, and it cuts
/// messages again later.
#[test]
fn datagrams_that_the_kernel_takes_in_part() {
    for (refused, fates) in [
        (None, vec![Fate::AtMost(1)]),
        (Some(Errno::MSGSIZE), vec![Fate::AtMost(3)]),
        (Some(Errno::IO), vec![Fate::AtMost(2), Fate::Fail(Errno::CONNREFUSED.raw_os_error())]),
    ] {
        let mut guest = Guest::<Offloading>::new(true);
        let server = UdpSocket::bind((loopback(true), 0)).expect("a server");
        server.set_nonblocking(true).expect("non-blocking");
        let port = server.local_addr().expect("bound").port();
        let send = |guest: &mut Guest<Offloading>| {
            let payload: Vec<u8> = (0..10).flat_map(|n| [n; 100]).collect();
            let mut header = [0; MAX_HEADERS];
            let emitted = path(true).emit_udp(&mut header, (PORT, port), payload.len(), 100);
            let (len, offload) = emitted.expect("a frame");
            guest.outbox.push(Packet { bytes: [&header[..len], &payload].concat(), offload });
            guest.turn();
            let mut buffer = [0; 200];
            let got: Vec<_> =
                std::iter::from_fn(|| server.recv(&mut buffer).ok().map(|n| (n, buffer[0]))).collect();
            assert_eq!(got, (0..10).map(|n| (100, n)).collect::<Vec<_>>(), "{refused:?}");
        };
        let script = Script::install();
        script
            .with(|state| (state.datagrams, state.refuses_cuts) = (fates, refused.map(Errno::raw_os_error)));
        send(&mut guest);
        script.with(|state| (state.datagrams, state.refuses_cuts) = (Vec::new(), None));
        guest.now = guest.now + Duration::from_millis(1001);
        send(&mut guest);
        assert!(script.with(|state| state.cut), "one message for all of them, as before");
        passt_sys::inject::install(None);
    }
}

/// A server whose backlog is full lets a client in late, and may have said all by the time the loop
/// hears that the connection is there.
#[test]
fn a_peer_that_finishes_before_the_loop_looks() {
    for (v4, urgent) in [(true, false), (false, false), (true, true)] {
        let (family, mut guest) =
            (if v4 { AddressFamily::INET } else { AddressFamily::INET6 }, Guest::<Memory>::new(v4));
        let socket = rustix::net::socket(family, SocketType::STREAM, None).expect("a socket");
        rustix::net::bind(&socket, &SocketAddr::new(loopback(v4), 0)).expect("bound");
        rustix::net::listen(&socket, 0).expect("a backlog");
        let server = TcpListener::from(socket);
        let at = server.local_addr().expect("bound");
        let _crowd = TcpStream::connect(at).expect("room for one");
        guest.syn(at.port(), Seq(ISS));
        assert!(guest.turn().is_empty(), "the host's kernel tries again in a second");
        drop(server.accept().expect("the first"));
        let (mut stream, _) = server.accept().expect("the guest's");
        stream.write_all(b"hello").expect("written");
        if urgent {
            rustix::net::send(&stream, b"!", SendFlags::OOB).expect("sent");
            stream.write_all(b"more").expect("written");
        }
        stream.shutdown(std::net::Shutdown::Write).expect("shut down");

        let conn = guest.answered(at.port());
        let (mut got, mut ended) = (Vec::new(), false);
        guest.put(&Guest::<Memory>::segment(&conn, ACK, 0), &[]);
        for (segment, payload) in guest.turn() {
            got.extend(payload);
            ended |= segment.flags.contains(Flags::FIN);
        }
        let all: &[u8] = if urgent { b"hello!more" } else { b"hello" };
        assert_eq!((got.as_slice(), ended), (all, true));
    }
}
