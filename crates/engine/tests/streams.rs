//! Streams that bypass the link, through the whole engine without one.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bypass;
mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use passt_engine::clock;
use passt_engine::control::Control;
use passt_engine::core::Token;
use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::rule::Rule;
use passt_engine::worker::Exit;
use passt_proto::guest::Bypass;

use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use bypass::{Engine, LOOPBACKS};
use common::{ip, open, own_limits, own_socket, pattern, rule, usual_limits};

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

/// Whatever the pieces that two programs write and read, with urgent bytes among them: each has all
/// that the other wrote, in order, and the end behind it.
#[test]
fn streams_of_any_pieces() {
    let _limits = usual_limits();
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

/// The kernel ends a read at urgent data: what is behind it needs no further event, and no end, to
/// arrive.
#[test]
fn nothing_waits_behind_urgent_data() {
    let _limits = usual_limits();
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

/// On which side the client is, the address, and the end that does something: the client's is the
/// first.
fn cases() -> impl Iterator<Item = (Side, &'static str, usize)> {
    let sides = [Side::Host, Side::Namespace];
    let each = sides.into_iter().flat_map(|side| LOOPBACKS.map(|address| (side, address)));
    each.flat_map(|(side, address)| [0, 1].map(|end| (side, address, end)))
}

/// A server with little room.
fn listener(address: &str) -> TcpListener {
    let listener = TcpListener::bind((address, 0)).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 65_536).unwrap();
    listener
}

/// Writes until no more is taken.
fn fill(engine: &mut Engine, from: &mut Program) {
    let mut idle = 0;
    while idle < 50 && !from.finished {
        let before = from.sent;
        from.write(usize::MAX, false);
        engine.turn();
        idle = if from.sent == before { idle + 1 } else { 0 };
    }
}

/// Passes on all that `from` has to send.
fn finish(engine: &mut Engine, from: &mut Program, to: &mut Program) {
    for _ in 0..100_000 {
        from.write(usize::MAX, false);
        engine.turn();
        to.read(1 << 20);
        if to.ended {
            break;
        }
    }
    assert!(to.ended && to.received == from.to_send, "{} of {}", to.received.len(), from.to_send.len());
}

/// Has the loop run for a while in real time: how many rounds it made.
fn rounds(engine: &mut Engine) -> u64 {
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty()).unwrap();
    let at = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let once = Itimerspec { it_interval: Timespec::default(), it_value: at };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once).unwrap();
    engine.worker.context().core.watch(&timer, Token::External(1), EventFlags::IN).unwrap();
    let before = engine.worker.context().core.counters.rounds;
    assert!(matches!(engine.worker.run(&mut |_, _: &mut Control<'_, _>| true), Exit::External(1)));
    engine.worker.context().core.counters.rounds - before
}

/// A receiver that does not read has the sender wait, and the loop sleep; all arrives once it does,
/// with pipes and without.
#[test]
fn receivers_that_pause() {
    // More than all queues on the way have room for: newer kernels let one have 32 MiB.
    let data = pattern(64 << 20);
    for (side, address, from) in cases() {
        for has_pipes in [true, false] {
            let _limits = own_limits();
            let mut engine = Engine::new(Bypass::Loopback);
            let [(mut from, mut to), (mut other, _other_to)] = [(); 2].map(|()| {
                let [client, server] = engine.connection(side, address, &listener(address));
                let (sender, receiver) = if from == 0 { (client, server) } else { (server, client) };
                (Program::new(sender, data.clone()), Program::new(receiver, Vec::new()))
            });
            let usual = getrlimit(Resource::Nofile);
            if !has_pipes {
                // The one pipe there is has the other's data.
                fill(&mut engine, &mut other);
                setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..usual }).unwrap();
            }
            fill(&mut engine, &mut from);
            assert!(!from.finished, "{side:?} {address} {has_pipes}");
            setrlimit(Resource::Nofile, usual).unwrap();
            let count = rounds(&mut engine);
            assert!(count < 100, "{count} rounds {side:?} {address} {has_pipes}");
            if !has_pipes {
                setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..usual }).unwrap();
            }
            // What is under way needs nothing but a receiver.
            for _ in 0..20_000 {
                engine.turn();
                to.read(1 << 20);
                if to.received.len() == from.sent {
                    break;
                }
            }
            assert_eq!(to.received.len(), from.sent, "{side:?} {address} {has_pipes}");
            finish(&mut engine, &mut from, &mut to);
            setrlimit(Resource::Nofile, usual).unwrap();
        }
    }
}

/// Little at a time, until the last of it finds no room: what was read already waits, what was not
/// is read again once there is room.
#[test]
fn the_last_of_little_waits() {
    for (side, address, from) in cases() {
        for has_pipes in [true, false] {
            let _limits = own_limits();
            let mut engine = Engine::new(Bypass::Loopback);
            let [mut both, mut others] = [(); 2].map(|()| {
                let [client, server] = engine.connection(side, address, &listener(address));
                let (sender, receiver) = if from == 0 { (client, server) } else { (server, client) };
                (Program::new(sender, pattern(30 << 20)), Program::new(receiver, Vec::new()))
            });
            let usual = getrlimit(Resource::Nofile);
            let (sender, receiver) = &mut both;
            sender.stream.set_nodelay(true).unwrap();
            let at = sender.stream.local_addr().unwrap();
            let ours = own_socket(|fd, _| {
                let peer = rustix::net::getpeername(fd).ok().flatten();
                peer.and_then(|peer| SocketAddr::try_from(peer).ok()) == Some(at)
            });
            if !has_pipes {
                fill(&mut engine, &mut others.0);
                setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..usual }).unwrap();
            }
            // Until the engine leaves something in the queue, or in a pipe.
            let mut taken = true;
            while taken {
                assert!(!sender.finished);
                sender.write(1001, false);
                engine.turn();
                taken = rustix::io::ioctl_fionread(&ours).unwrap() == 0;
            }
            for _ in 0..20_000 {
                engine.turn();
                receiver.read(1 << 20);
                if receiver.received.len() == sender.sent {
                    break;
                }
            }
            assert!(
                receiver.received == sender.to_send[..sender.sent],
                "{side:?} {address} {has_pipes}: {} of {}",
                receiver.received.len(),
                sender.sent
            );
            setrlimit(Resource::Nofile, usual).unwrap();
        }
    }
}

/// What waits in a pipe when its connection ends reaches nobody else.
#[test]
fn pipes_are_given_back_empty() {
    let _limits = usual_limits();
    for (side, address, from) in cases() {
        let mut engine = Engine::new(Bypass::Loopback);
        for (data, reads) in
            [(vec![0xaa; 30 << 20], false), (pattern(3 << 20), true), (pattern(3 << 20), true)]
        {
            let streams = engine.connection(side, address, &listener(address));
            let mut programs = streams.map(|stream| Program::new(stream, Vec::new()));
            programs[from].to_send.clone_from(&data);
            let [client, server] = &mut programs;
            let (from, to) = if from == 0 { (client, server) } else { (server, client) };
            if reads {
                finish(&mut engine, from, to);
            } else {
                fill(&mut engine, from);
                rustix::net::sockopt::set_socket_linger(&to.stream, Some(Duration::ZERO)).unwrap();
            }
            drop(programs);
            engine.turn();
            engine.turn();
            assert_eq!(engine.worker.flow_count(), 0);
        }
    }
}

/// What a client sends before anybody looks at it.
#[test]
fn data_that_comes_with_the_connection() {
    let _limits = usual_limits();
    for (side, address, _) in cases() {
        for len in [1, 100_000, 6 << 20] {
            let mut engine = Engine::new(Bypass::Loopback);
            let listener = listener(address);
            let client = engine.client_of_stream(side, address, &listener);
            let mut client = Program::new(client, pattern(len));
            client.write(usize::MAX, false);
            engine.turn();
            let mut server = Program::new(listener.accept().unwrap().0, Vec::new());
            finish(&mut engine, &mut client, &mut server);
        }
    }
}

/// A reset is passed on as one, behind what was sent before it.
#[test]
fn a_reset_reaches_the_other_end() {
    let _limits = usual_limits();
    for (side, address, end) in cases() {
        for (before, back) in [(0, 0), (1000, 0), (1000, 500), (0, 500), (200_000, 0)] {
            let mut engine = Engine::new(Bypass::Loopback);
            let listener = TcpListener::bind((address, 0)).unwrap();
            let [client, server] = engine.connection(side, address, &listener);
            let (mut from, mut to) = if end == 0 { (client, server) } else { (server, client) };
            from.set_nonblocking(true).unwrap();
            // One that paces would not have sent it yet.
            rustix::net::sockopt::set_tcp_congestion(&from, "reno").unwrap();
            let sent = if before > 0 { from.write(&pattern(before)).unwrap() } else { 0 };
            to.write_all(&pattern(back)).unwrap();
            rustix::net::sockopt::set_socket_linger(&from, Some(Duration::ZERO)).unwrap();
            drop(from);
            engine.turn();
            engine.turn();
            assert_eq!(engine.worker.flow_count(), 0);
            to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut received = Vec::new();
            let error = to.read_to_end(&mut received).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            assert!(pattern(before).starts_with(&received));
            assert!(
                received.len() == sent || before > 100_000,
                "{} of {sent}, {back} {side:?} {address} {end}",
                received.len()
            );
        }
    }
}

/// Nobody listens, or the way leads back to where it began.
#[test]
fn what_leads_nowhere_is_reset() {
    let _limits = usual_limits();
    for (side, address, _) in cases() {
        for circle in [false, true] {
            let mut engine = Engine::new(Bypass::Loopback);
            let listener = TcpListener::bind((address, 0)).unwrap();
            let mut client = engine.client_of_stream(side, address, &listener);
            let back = client.peer_addr().unwrap().port();
            let to = listener.local_addr().unwrap().port();
            drop(listener);
            if circle {
                engine.forward_any(Protocol::Tcp, side.other(), address, to, back);
            }
            // Nobody else's, and nobody listens there.
            let taken = bound(address, to);
            assert_eq!(taken.is_err(), circle);
            (0..4).for_each(|_| engine.turn());
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let error = client.read(&mut [0]).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{side:?} {circle}");
            assert_eq!(engine.worker.flow_count(), 0);
        }
    }
}

fn bound(address: &str, port: u16) -> rustix::io::Result<OwnedFd> {
    let at = SocketAddr::new(ip(address), port);
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &at)?;
    Ok(socket)
}

/// A server that accepts no more: connections to it are never established.
fn busy(address: &str) -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let at = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&at, Duration::from_millis(50));
    let waiting = std::iter::from_fn(|| connect().ok()).collect();
    (listener, waiting)
}

/// What a client sends and that it finishes waits until the server accepts.
#[test]
fn clients_that_finish_before_the_server_accepts() {
    let _limits = usual_limits();
    for (side, len) in [(Side::Host, 5000), (Side::Host, 0), (Side::Namespace, 5000), (Side::Namespace, 0)] {
        let mut engine = Engine::new(Bypass::Loopback);
        let (listener, waiting) = busy("127.0.0.1");
        let client = engine.client_of_stream(side, "127.0.0.1", &listener);
        let mut client = Program::new(client, pattern(len));
        client.write(usize::MAX, false);
        engine.turn();
        assert_eq!(engine.worker.flow_count(), 1);
        for _ in &waiting {
            listener.accept().unwrap();
        }
        // The engine's SYN is sent again, and has room then.
        let mut ready = [PollFd::new(&listener, PollFlags::IN)];
        poll(&mut ready, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (server, _) = listener.accept().expect("a connection");
        engine.turn();
        finish(&mut engine, &mut client, &mut Program::new(server, Vec::new()));
    }
}

/// As many connections as a port may have under way make room for one more where a client has
/// finished.
#[test]
fn a_crowd_whose_server_does_not_accept() {
    let _limits = own_limits();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    for side in [Side::Host, Side::Namespace] {
        let mut engine = Engine::with_room(Bypass::Loopback, 1024);
        let (listener, _waiting) = busy("127.0.0.1");
        let first = engine.client_of_stream(side, "127.0.0.1", &listener);
        let to = first.peer_addr().unwrap();
        let mut clients = vec![first];
        clients.extend((1..256).map(|_| TcpStream::connect(to).unwrap()));
        for _ in 0..20 {
            engine.turn();
        }
        assert_eq!(engine.worker.flow_count(), 256, "{side:?}");
        let is_reset = |client: &TcpStream| {
            client.set_nonblocking(true).unwrap();
            client.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
        };
        for more in 0..3 {
            // One that has finished, with or without a word, among others that have not.
            clients[100 + more].write_all(&[7; 2][..more]).unwrap();
            clients[100 + more].shutdown(Shutdown::Write).unwrap();
            engine.turn();
            clients.push(TcpStream::connect(to).unwrap());
            for _ in 0..20 {
                engine.now = engine.now + Duration::from_millis(100);
                engine.turn();
            }
            // An error is told once.
            let reset: Vec<usize> = (0..clients.len()).filter(|&index| is_reset(&clients[index])).collect();
            assert_eq!(reset, [100 + more], "{side:?}");
            assert_eq!(engine.worker.flow_count(), 256, "{side:?}");
        }
    }
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Without a bypass, or with another target, connections go to the guest, which is not there.
#[test]
fn what_does_not_bypass() {
    let _limits = usual_limits();
    for (bypass, target) in [(Bypass::Off, None), (Bypass::Loopback, Some("127.0.0.1"))] {
        let mut engine = Engine::new(bypass);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let to = listener.local_addr().unwrap().port();
        let rule = Rule { target: target.map(ip), ..rule(Some("127.0.0.1"), port, to) };
        let listeners = open(Protocol::Tcp, vec![rule]).unwrap();
        engine.worker.listen(listeners).unwrap();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        engine.turn();
        engine.turn();
        assert!(listener.accept().is_err(), "{bypass:?}");
    }
}

/// Connections from outside have three quarters of the table, those of the namespace what is left
/// as well.
#[test]
fn a_full_table_has_clients_wait() {
    let _limits = usual_limits();
    let mut engine = Engine::with_room(Bypass::Loopback, 64);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut all = Vec::new();
    for (side, flows) in [(Side::Host, 48), (Side::Namespace, 64)] {
        let first = engine.client_of_stream(side, "127.0.0.1", &listener);
        let to = first.peer_addr().unwrap();
        let clients: Vec<TcpStream> = (1..70).map(|_| TcpStream::connect(to).unwrap()).collect();
        for _ in 0..100 {
            engine.turn();
        }
        assert_eq!(engine.worker.flow_count(), flows, "{side:?}");
        all.push((first, clients));
    }
    assert!(engine.worker.context().core.counters.flows >= 64);
}
