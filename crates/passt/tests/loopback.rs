//! Datagrams and streams that bypass the link, through the whole engine without one. Both sides are the namespace
//! of the test: clients and servers are sockets on its loopback interface, where what
//! is sent has arrived when the call returns.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use passt::flow::{Protocol, Side};
use passt::forward::Forward;
use passt::link::none::NoLink;
use passt::worker::{Worker, clock};
use passt_proto::drop::DropReason;
use passt_proto::rules::{AddressMap, Bypass, FamilyMap};
use passt_proto::time::Instant;
use passt_sys::dgram::{self, Outgoing};
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::namespace::Resident;

use common::{ip, options, pattern, rule};

const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];

struct Engine {
    worker: Worker<NoLink>,
    now: Instant,
}

impl Engine {
    fn new(bypass: Bypass) -> Self {
        Self::with_room(bypass, 256)
    }

    fn with_room(bypass: Bypass, max_flows: usize) -> Self {
        // An address of ours that is not the one that clients talk to.
        let v4 = FamilyMap { assigned: Some(ip("127.0.0.2").into()), ..FamilyMap::default() };
        let options = options(0, &AddressMap { bypass, v4, ..AddressMap::default() }, max_flows);
        let now = Instant::from_millis(1000);
        let mut worker = Worker::new(NoLink, &options, now).unwrap();
        worker.context().enter(Some(Resident::here().unwrap())).unwrap();
        Self { worker, now }
    }

    /// Forwards `port` of one side to `to` of the other, for datagrams.
    fn forward(&mut self, side: Side, address: &str, port: u16, to: u16) {
        self.forward_any(Protocol::Udp, side, address, port, to);
    }

    /// A connection of a client to a port that stands for a server on the other side.
    fn connection(&mut self, side: Side, address: &str, server: &TcpListener) -> [TcpStream; 2] {
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        self.forward_any(Protocol::Tcp, side, address, port, server.local_addr().unwrap().port());
        let client = TcpStream::connect((address, port)).unwrap();
        self.turn();
        [client, server.accept().unwrap().0]
    }

    fn forward_any(&mut self, protocol: Protocol, side: Side, address: &str, port: u16, to: u16) {
        let rule = rule(Some(address), port, to);
        // Opened as for the host: sockets of the namespace would listen on one interface.
        let mut listeners = Forward::default().open(Side::Host, protocol, vec![rule]).unwrap();
        for listener in &mut listeners {
            listener.side = side;
        }
        self.worker.listen(listeners).unwrap();
    }

    /// A client's socket, connected to a port that stands for `server` on the other side.
    fn client_of(&mut self, side: Side, server: &UdpSocket, address: &str) -> UdpSocket {
        let port = free_port(address);
        self.forward(side, address, port, server.local_addr().unwrap().port());
        client(address, port)
    }

    /// A round, and as many more as the thread that makes sockets takes.
    fn turn(&mut self) {
        let mut waits = true;
        while waits {
            waits = self.worker.awaits_namespace();
            self.worker.turn(self.now).unwrap();
            waits |= self.worker.awaits_namespace();
            std::thread::yield_now();
        }
    }

    fn sleep_until_flows_end(&mut self) -> Duration {
        let begun = self.now;
        while self.worker.flow_count() > 0 {
            self.now = self.worker.next_timeout().unwrap();
            self.turn();
        }
        self.now.since(begun)
    }
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn client(address: &str, port: u16) -> UdpSocket {
    let client = socket(if address.contains(':') { "::1" } else { "127.0.0.1" });
    client.connect((address, port)).unwrap();
    client
}

fn free_port(address: &str) -> u16 {
    socket(address).local_addr().unwrap().port()
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(len);
    (buffer, from)
}

fn empty(socket: &UdpSocket) -> bool {
    socket.recv(&mut [0; 9]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn datagrams_of_every_size_both_ways() {
    for (side, address) in [Side::Host, Side::Namespace].into_iter().flat_map(|s| LOOPBACKS.map(|a| (s, a))) {
        let mut engine = Engine::new(Bypass::Loopback);
        let server = socket(address);
        let client = engine.client_of(side, &server, address);
        for len in [0, 1, 2, 1472, 1473, 9000, 32_768, 65_471, 65_506, 65_507] {
            client.send(&pattern(len)).unwrap();
            engine.turn();
            let (received, from) = receive(&server);
            assert!(received == pattern(len), "{len} bytes arrived as {}", received.len());
            server.send_to(&received, from).unwrap();
            engine.turn();
            // The client is connected: it hears nobody but whom it talked to.
            assert!(receive(&client).0 == pattern(len), "{len} bytes came back");
        }
        assert_eq!(engine.worker.flow_count(), 1);
    }
}

/// Clients keep their ports if these are free on the other side, and are told apart in any case.
#[test]
fn clients_are_kept_apart() {
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    let port = free_port("127.0.0.1");
    engine.forward(Side::Host, "127.0.0.1", port, server.local_addr().unwrap().port());
    let clients: Vec<UdpSocket> = (0..60).map(|_| client("127.0.0.1", port)).collect();
    for (i, client) in (0u8..).zip(&clients) {
        client.send(&[i]).unwrap();
    }
    // No more at once than there are sockets for.
    for _ in 0..60 {
        engine.turn();
    }
    let mut all: Vec<_> = clients.iter().map(|_| receive(&server)).collect();
    all.reverse();
    for (payload, from) in &all {
        server.send_to(payload, from).unwrap();
    }
    for _ in 0..3 {
        engine.turn();
    }
    for (i, client) in (0u8..).zip(&clients) {
        assert_eq!(receive(client).0, [i]);
        assert!(empty(client));
    }
    assert_eq!(engine.worker.flow_count(), 60);
}

#[test]
fn who_arrives_where() {
    for (bypass, side, reached, expected) in [
        (Bypass::Public, Side::Host, "127.0.0.1", "127.0.0.2"),
        (Bypass::Public, Side::Host, "127.0.0.9", "127.0.0.2"),
        (Bypass::Loopback, Side::Host, "127.0.0.9", "127.0.0.9"),
        (Bypass::Loopback, Side::Namespace, "127.0.0.9", "127.0.0.1"),
        (Bypass::Loopback, Side::Host, "::1", "::1"),
    ] {
        let mut engine = Engine::new(bypass);
        let server = socket(expected);
        let to_any = if reached == "::1" { "::" } else { "0.0.0.0" };
        let port = free_port(to_any);
        engine.forward(side, to_any, port, server.local_addr().unwrap().port());
        let client = client(reached, port);
        client.send(b"?").unwrap();
        engine.turn();
        let (_, from) = receive(&server);
        server.send_to(b"!", from).unwrap();
        engine.turn();
        assert_eq!(receive(&client).0, b"!", "{bypass:?} {side:?} {reached}");
    }
}

/// Without a bypass, or an address of the guest, or a way into the namespace, nothing passes.
#[test]
fn nothing_bypasses_unless_it_may() {
    let cases = [
        (Bypass::Off, "127.0.0.1", true),
        (Bypass::Public, "::1", true),
        (Bypass::Public, "127.0.0.1", false),
    ];
    for (bypass, address, inside) in cases {
        let mut engine = Engine::new(bypass);
        if !inside {
            engine.worker.context().enter(None).unwrap();
        }
        let server = socket(if address == "::1" { address } else { "0.0.0.0" });
        let client = engine.client_of(Side::Host, &server, address);
        client.send(b"?").unwrap();
        engine.turn();
        assert!(empty(&server));
        assert_eq!(engine.worker.drops(DropReason::Unmapped), 1, "{bypass:?} {address}");
    }
}

/// The loop goes on while the thread in the namespace is busy, however long, and nobody is lost: clients wait
/// for the sockets that it makes.
#[test]
fn a_thread_that_is_busy() {
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    let ports = [(); 2].map(|()| free_port("127.0.0.1"));
    let to = server.local_addr().unwrap().port();
    engine.forward(Side::Host, "127.0.0.1", ports[0], to);
    engine.forward(Side::Namespace, "127.0.0.1", ports[1], to);
    let inside = Resident::here().unwrap();
    let (free, busy) = std::sync::mpsc::channel::<()>();
    inside.begin(move || busy.recv()).unwrap();
    engine.worker.context().enter(Some(inside)).unwrap();

    let waiting: Vec<UdpSocket> = (0..50).map(|_| client("127.0.0.1", ports[0])).collect();
    for client in &waiting {
        client.send(b"1").unwrap();
    }
    let other = client("127.0.0.1", ports[1]);
    other.send(b"2").unwrap();
    for _ in 0..10 {
        engine.worker.turn(engine.now).unwrap();
    }
    assert_eq!(receive(&server).0, b"2");
    assert!(empty(&server) && engine.worker.awaits_namespace());
    free.send(()).unwrap();
    for _ in &waiting {
        while empty(&server) {
            engine.turn();
        }
    }
    assert_eq!(engine.worker.flow_count(), 51);
    assert_eq!(engine.worker.drops(DropReason::Socket), 0);
}

/// What a sender's kernel left joined is passed on joined; batches come out as they went in.
#[test]
fn batches_and_joined_datagrams() {
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    dgram::want_joined(server.as_fd()).unwrap();
    let client = engine.client_of(Side::Host, &server, "127.0.0.1");
    dgram::want_joined(client.as_fd()).unwrap();
    let payload = pattern(30_500);
    let mut data = Gather::new();
    data.push(&payload);
    let mut buffer = vec![0; 65_536];
    let mut joined = |socket: &UdpSocket| {
        let mut into = Scatter::new();
        into.push(&mut buffer);
        let message = dgram::receive(socket.as_fd(), &into).unwrap();
        assert!(buffer[..message.len] == payload);
        (message.segment, message.source.unwrap())
    };
    dgram::send(client.as_fd(), &data, &[Outgoing { first: 0, buffers: 1, segment: 1000 }], None, None)
        .unwrap();
    engine.turn();
    let (segment, from) = joined(&server);
    assert_eq!(segment, 1000);
    server.connect(from).unwrap();
    dgram::send(server.as_fd(), &data, &[Outgoing { first: 0, buffers: 1, segment: 1200 }], None, None)
        .unwrap();
    engine.turn();
    assert_eq!(joined(&client).0, 1200);

    let sizes = [1000, 1000, 1000, 400, 1200, 1200, 1300, 0, 7];
    for len in sizes {
        client.send(&pattern(len)).unwrap();
    }
    engine.turn();
    let mut received = 0;
    while received < sizes.iter().sum() {
        received += receive(&server).0.len();
    }
    assert_eq!(received, sizes.iter().sum());
}

/// A closed port is counted, once the kernel has told of it, and ends nothing: a server may come.
#[test]
fn a_closed_port_ends_nothing() {
    for address in LOOPBACKS {
        let mut engine = Engine::new(Bypass::Loopback);
        let absent = socket(address);
        let at = absent.local_addr().unwrap();
        let client = engine.client_of(Side::Host, &absent, address);
        drop(absent);
        for _ in 0..2 {
            client.send(b"anybody?").unwrap();
            engine.turn();
            engine.turn();
        }
        assert_eq!(engine.worker.drops(DropReason::Socket), 2);
        assert!(empty(&client));
        let server = UdpSocket::bind(at).unwrap();
        client.send(b"now?").unwrap();
        engine.turn();
        assert_eq!(receive(&server).0, b"now?");
        assert_eq!(engine.worker.flow_count(), 1);
    }
}

/// What would go round for ever does not begin to.
#[test]
fn a_port_forwarded_both_ways() {
    for (side, other) in [(Side::Host, Side::Namespace), (Side::Namespace, Side::Host)] {
        let mut engine = Engine::new(Bypass::Loopback);
        let ports = [(); 2].map(|()| free_port("127.0.0.1"));
        engine.forward(side, "127.0.0.1", ports[0], ports[1]);
        engine.forward(other, "127.0.0.1", ports[1], ports[0]);
        client("127.0.0.1", ports[0]).send(b"?").unwrap();
        engine.turn();
        assert_eq!((engine.worker.flow_count(), engine.worker.drops(DropReason::Circular)), (0, 1));
    }
}

#[test]
fn unused_flows_end() {
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    let client = engine.client_of(Side::Host, &server, "127.0.0.1");
    client.send(b"1").unwrap();
    engine.turn();
    receive(&server);
    let single = engine.sleep_until_flows_end();
    for _ in 0..2 {
        client.send(b"2").unwrap();
        engine.turn();
        let (_, from) = receive(&server);
        server.send_to(b"3", from).unwrap();
        engine.turn();
        receive(&client);
    }
    let stream = engine.sleep_until_flows_end();
    assert!(single >= Duration::from_secs(1) && stream > single, "{single:?} {stream:?}");
}

/// Without the listening socket there is no way to the client.
#[test]
fn a_flow_ends_with_its_listener() {
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    let client = engine.client_of(Side::Host, &server, "127.0.0.1");
    client.send(b"?").unwrap();
    engine.turn();
    let (_, from) = receive(&server);
    let numbers: Vec<u32> = engine.worker.context().listeners.iter().map(|(number, _)| number).collect();
    for number in numbers {
        engine.worker.context().listeners.remove(number);
    }
    server.send_to(b"!", from).unwrap();
    engine.turn();
    assert_eq!(engine.worker.flow_count(), 0);
}

#[test]
fn a_full_table_refuses_and_counts() {
    let mut engine = Engine::with_room(Bypass::Loopback, 64);
    let server = socket("127.0.0.1").local_addr().unwrap().port();
    // Some of the 64 places are for the namespace alone.
    for (side, room, asked) in [(Side::Host, 1..64, 65), (Side::Namespace, 64..65, 130)] {
        let port = free_port("127.0.0.1");
        engine.forward(side, "127.0.0.1", port, server);
        let clients: Vec<UdpSocket> = (0..65).map(|_| client("127.0.0.1", port)).collect();
        for client in &clients {
            client.send(b"?").unwrap();
            engine.turn();
        }
        let flows = engine.worker.flow_count();
        let lost = [DropReason::TableFull, DropReason::Displaced].map(|reason| engine.worker.drops(reason));
        let lost: u64 = lost.into_iter().sum();
        assert!(room.contains(&flows), "{side:?}: {flows}");
        assert_eq!(lost + flows as u64, asked);
    }
}

/// One of the two programs at the ends of a connection.
struct Program {
    stream: TcpStream,
    to_send: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
    finished: bool,
    ended: bool,
}

impl Program {
    fn new(stream: TcpStream, to_send: Vec<u8>) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self { stream, to_send, sent: 0, received: Vec::new(), finished: false, ended: false }
    }

    /// Writes up to `len` bytes, or one as urgent, and finishes behind the last.
    fn write(&mut self, len: usize, urgent: bool) {
        let rest = &self.to_send[self.sent..];
        let n = if urgent && !rest.is_empty() {
            rustix::net::send(&self.stream, &rest[..1], rustix::net::SendFlags::OOB).unwrap_or(0)
        } else {
            self.stream.write(&rest[..len.min(rest.len())]).unwrap_or(0)
        };
        self.sent += n;
        if self.sent == self.to_send.len() && !std::mem::replace(&mut self.finished, true) {
            self.stream.shutdown(Shutdown::Write).unwrap();
        }
    }

    fn read(&mut self, len: usize) {
        let mut buffer = vec![0; len];
        match self.stream.read(&mut buffer) {
            Ok(n) => {
                self.ended |= n == 0;
                self.received.extend(&buffer[..n]);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// Whatever the pieces that two programs write and read, with urgent bytes among them: each has all that the other wrote, in
/// order, and the end behind it.
#[test]
fn streams_of_any_pieces() {
    for seed in 1..=60_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % bound).unwrap()
        };
        let side = if seed % 2 == 0 { Side::Host } else { Side::Namespace };
        let address = LOOPBACKS[below(2)];
        let mut engine = Engine::new(Bypass::Loopback);
        let listener = TcpListener::bind((address, 0)).unwrap();
        if below(3) == 0 {
            rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 8192).unwrap();
        }
        let streams = engine.connection(side, address, &listener);
        let urgent = [0_u64, 20, 3][below(3)];
        let mut programs = streams.map(|stream| {
            let bits = 1 + below(22);
            Program::new(stream, pattern(below(1 << bits)))
        });
        let deadline = clock() + Duration::from_secs(60);
        while !programs.iter().all(|program| program.ended) {
            assert!(clock() < deadline, "stuck with seed {seed}");
            let program = &mut programs[below(2)];
            match below(4) {
                0 => program.write(1 << below(19), urgent > 0 && below(urgent) == 0),
                1 => program.read(1 << below(21)),
                2 => program.write(usize::MAX, false),
                _ => engine.turn(),
            }
        }
        let [client, server] = &programs;
        assert!(client.received == server.to_send, "to the client, seed {seed}: {}", client.received.len());
        assert!(server.received == client.to_send, "to the server, seed {seed}: {}", server.received.len());
        engine.turn();
        assert_eq!(engine.worker.flow_count(), 0, "seed {seed}");
    }
}

/// The kernel ends a read at urgent data: what is behind it needs no further event, and no end, to arrive.
#[test]
fn nothing_waits_behind_urgent_data() {
    for (side, address) in [Side::Host, Side::Namespace].into_iter().flat_map(|s| LOOPBACKS.map(|a| (s, a))) {
        for len in [3, 300_000] {
            let mut engine = Engine::new(Bypass::Loopback);
            let listener = TcpListener::bind((address, 0)).unwrap();
            let [client, server] = engine.connection(side, address, &listener);
            for (mut from, to) in [(&client, &server), (&server, &client)] {
                from.write_all(&pattern(len)).unwrap();
                rustix::net::send(from, b"!", rustix::net::SendFlags::OOB).unwrap();
                from.write_all(b"more").unwrap();
                let mut reader = Program::new(to.try_clone().unwrap(), Vec::new());
                for _ in 0..1000 {
                    engine.turn();
                    reader.read(1 << 20);
                }
                assert_eq!(reader.received.len(), len + 5);
                assert!(reader.received.ends_with(b"!more"));
                from.set_nonblocking(false).unwrap();
                to.set_nonblocking(false).unwrap();
            }
        }
    }
}
