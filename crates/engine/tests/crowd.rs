//! Crowds at forwarded ports, through the whole engine: a guest in memory that answers or doesn't,
//! and real clients on the loopback interface. The engine's clock is the test's.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use passt_engine::flow::Protocol;
use passt_engine::link::channel::{Channel, Packet};
use passt_engine::worker::Worker;
use passt_proto::addr::{Addr, Mac};
use passt_proto::drop::DropReason;
use passt_proto::guest::{Configured, FamilyConfig};
use passt_proto::seq::Seq;
use passt_proto::time::Instant;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::tcp::{Flags, Segment};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use common::{ENGINE, addr, ip, open, options, own_socket, rule};

/// Two sources that the guest sees as such, its own address, and what it calls the sources.
const CROWD: &str = "127.0.0.1";
const OTHER: &str = "127.0.0.9";
const GUEST: &str = "192.0.2.2";
const SEEN: [(&str, &str); 2] = [(CROWD, "192.0.2.1"), (OTHER, "192.0.2.254")];
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

struct Guest {
    worker: Worker<Channel>,
    now: Instant,
}

impl Guest {
    fn new(max_flows: usize) -> Self {
        // Clients of all tests are descriptors of this process.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let v4 = FamilyConfig {
            host_loopback: Some(addr(SEEN[0].1)),
            assigned: [addr(GUEST)].into_iter().collect(),
            ours: Some(addr(SEEN[1].1)),
            ..FamilyConfig::default()
        };
        let options = options(1500, &Configured { v4, ..Configured::default() }, max_flows);
        let now = Instant::from_millis(1000);
        Self { worker: Worker::new(Channel::plain(), &options, now).unwrap(), now }
    }

    /// Forwards a free port to the guest's port 80.
    fn forward(&mut self, protocol: Protocol) -> u16 {
        loop {
            let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let rule = rule(Some("0.0.0.0"), port, 80);
            if let Ok(listeners) = open(protocol, vec![rule]) {
                self.worker.listen(listeners).unwrap();
                return port;
            }
        }
    }

    fn turn(&mut self) {
        self.worker.turn(self.now).unwrap();
    }

    /// Lets time pass, whenever there is something to do or once in a while.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let next = self.worker.next_timeout().unwrap_or(end).max(self.now + MS);
            self.now = next.min(end);
            self.turn();
        }
    }

    /// Packets for the guest since, as seen by it: source, ports, and the transport header's rest.
    fn packets(&mut self) -> Vec<(Addr, u16, Vec<u8>)> {
        let packets: Vec<Packet> = self.worker.context().core.link.to_guest.drain(..).collect();
        let ip = packets.iter().map(|p| &p.bytes[14..]).filter(|ip| ip.first() == Some(&0x45));
        ip.map(|ip| {
            let src = IpAddr::from(<[u8; 4]>::try_from(&ip[12..16]).unwrap());
            let end = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            (src.into(), u16::from_be_bytes([ip[20], ip[21]]), ip[20..end].to_vec())
        })
        .collect()
    }

    /// The sequence number of a SYN that came for this client since, if one did.
    fn syn_of(&mut self, client: SocketAddr) -> Option<Seq> {
        let (_, seen) = SEEN.into_iter().find(|(own, _)| ip(own) == client.ip()).unwrap();
        let wanted = (addr(seen), client.port());
        let packets = self.packets();
        let syn = packets.iter().find(|(src, port, tcp)| (*src, *port) == wanted && tcp[13] == 0x02)?;
        Some(Seq(u32::from_be_bytes(syn.2[4..8].try_into().unwrap())))
    }

    /// Sends a segment without data to a client.
    fn answer(&mut self, client: SocketAddr, seq: u32, ack: Seq, flags: Flags) {
        let (_, seen) = SEEN.into_iter().find(|(own, _)| ip(own) == client.ip()).unwrap();
        let segment = Segment {
            src_port: 80,
            dst_port: client.port(),
            seq: Seq(seq),
            ack,
            flags,
            window: 65_535,
            ..Segment::default()
        };
        let mut header = [0; MAX_HEADERS];
        let (len, offload) = path(seen).emit_tcp(&mut header, &segment, 0, 0).unwrap();
        self.worker
            .context()
            .core
            .link
            .from_guest
            .push_back(Packet { bytes: header[..len].to_vec(), offload });
        self.turn();
    }

    /// Sends a datagram from port 80.
    fn datagram(&mut self, to: &str, port: u16) {
        let mut header = [0; MAX_HEADERS];
        let (len, offload) = path(to).emit_udp(&mut header, (80, port), 1, 0).unwrap();
        let bytes = [&header[..len], b"!"].concat();
        self.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
        self.turn();
    }
}

fn path(to: &str) -> Path {
    Path { src_mac: Mac([4; 6]), dst_mac: ENGINE, src: addr(GUEST), dst: addr(to), ttl: 64, traffic_class: 0 }
}

/// A client at this address.
fn connect(from: &str, port: u16) -> TcpStream {
    let fd = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .unwrap();
    rustix::net::bind(&fd, &SocketAddr::new(ip(from), 0)).unwrap();
    rustix::net::connect(&fd, &SocketAddr::new(ip("127.0.0.1"), port)).unwrap();
    fd.into()
}

/// A client of another source gets through to the guest, within this time.
fn gets_through(guest: &mut Guest, port: u16, within: Duration) {
    let client = connect(OTHER, port);
    let end = guest.now + within;
    while guest.syn_of(client.local_addr().unwrap()).is_none() {
        assert!(guest.now < end, "no SYN within {within:?}");
        guest.pass(10 * MS);
    }
}

/// A listening socket of this process: a second descriptor of it.
fn listening_on(port: u16) -> OwnedFd {
    own_socket(|fd, at| at.port() == port && rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false))
}

/// A listening socket that fails is left alone for a while, and others serve on.
#[test]
fn a_listening_socket_that_fails() {
    let mut guest = Guest::new(64);
    let [broken, sound] = [(); 2].map(|()| guest.forward(Protocol::Tcp));
    rustix::net::shutdown(listening_on(broken), rustix::net::Shutdown::Both).unwrap();
    for _ in 0..50 {
        guest.turn();
    }
    assert_eq!(guest.worker.drops(DropReason::Socket), 1, "tried once in that time");
    assert!(guest.worker.next_timeout().unwrap() > guest.now, "the loop may sleep");
    let client = connect(OTHER, sound);
    guest.turn();
    assert!(guest.syn_of(client.local_addr().unwrap()).is_some());
    guest.pass(10 * SECOND);
    assert!((2..200).contains(&guest.worker.drops(DropReason::Socket)), "it is tried again");
}

/// Clients that are gone before the guest answered keep nobody out.
#[test]
fn clients_that_are_gone() {
    let ends: [fn(&mut TcpStream); 4] = [
        |client| client.shutdown(Shutdown::Write).unwrap(),
        |client| {
            client.write_all(b"x").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        },
        |client| client.shutdown(Shutdown::Both).unwrap(),
        |client| rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO)).unwrap(),
    ];
    for end in ends {
        let mut guest = Guest::new(1024);
        let port = guest.forward(Protocol::Tcp);
        for count in [300, 1000] {
            for _ in 0..count {
                end(&mut connect(CROWD, port));
                guest.turn();
            }
            gets_through(&mut guest, port, 2 * SECOND);
        }
    }
}

/// A client that finished without a word, and that the guest does not answer, is given up.
#[test]
fn nothing_is_kept_for_whom_nobody_waits() {
    let mut guest = Guest::new(64);
    let port = guest.forward(Protocol::Tcp);
    let silent = connect(CROWD, port);
    silent.shutdown(Shutdown::Write).unwrap();
    let mut other = connect(CROWD, port);
    other.write_all(b"x").unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    guest.turn();
    guest.pass(900 * MS);
    assert_eq!(guest.worker.flow_count(), 2);
    guest.pass(200 * MS);
    assert_eq!(guest.worker.flow_count(), 1);
}

/// A client that has sent all that it has to say is served by a guest that answers late.
#[test]
fn clients_that_finish_early_are_served() {
    let cases = [
        (&b""[..], 10 * MS),
        (b"", 900 * MS),
        (b"text", 900 * MS),
        (b"text", 5 * SECOND),
        // One byte is a word, however often the guest did not hear of it.
        (b"t", 40 * SECOND),
    ];
    for (text, late) in cases {
        let mut guest = Guest::new(1024);
        let port = guest.forward(Protocol::Tcp);
        let mut client = connect(CROWD, port);
        client.write_all(text).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let from = client.local_addr().unwrap();
        guest.turn();
        guest.turn();
        let syn = guest.syn_of(from).unwrap();
        guest.pass(late);
        guest.packets();
        guest.answer(from, 5000, syn + 1, Flags::SYN | Flags::ACK);
        guest.pass(10 * MS);
        let mut seen = Vec::new();
        let mut finished = false;
        for (_, _, tcp) in guest.packets() {
            seen.extend_from_slice(&tcp[usize::from(tcp[12] >> 4) * 4..]);
            finished |= tcp[13] & 1 != 0;
        }
        assert!(seen == text && finished, "{text:?} after {late:?}: {seen:?} {finished}");
        let all = u32::try_from(text.len()).unwrap() + 2;
        guest.answer(from, 5001, syn + all, Flags::FIN | Flags::ACK);
        guest.pass(10 * MS);
        assert_eq!(client.read(&mut [0; 9]).unwrap(), 0);
        assert_eq!(guest.worker.flow_count(), 0);
    }
}

/// A client that was reset before the loop saw it does not keep out the next one from its address
/// and port.
#[test]
fn a_port_of_a_client_that_is_used_again() {
    let mut guest = Guest::new(64);
    let port = guest.forward(Protocol::Tcp);
    let first = connect(CROWD, port);
    let from = first.local_addr().unwrap();
    rustix::net::sockopt::set_socket_linger(&first, Some(Duration::ZERO)).unwrap();
    // Both wait to be accepted, the first of them dead.
    drop(first);
    let second = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&second, true).unwrap();
    rustix::net::bind(&second, &from).unwrap();
    rustix::net::connect(&second, &SocketAddr::new(ip(CROWD), port)).unwrap();
    for _ in 0..4 {
        guest.turn();
    }
    let syn = guest.syn_of(from).unwrap();
    guest.answer(from, 5000, syn + 1, Flags::SYN | Flags::ACK);
    rustix::net::send(&second, b"still here", rustix::net::SendFlags::empty()).unwrap();
    guest.pass(10 * MS);
    let here = guest.packets().into_iter().any(|(_, _, tcp)| tcp.ends_with(b"still here"));
    assert!(here, "the second is served");
}

/// One source cannot have all places, though its clients wait.
#[test]
fn one_source_does_not_keep_others_out() {
    let mut guest = Guest::new(1024);
    let port = guest.forward(Protocol::Tcp);
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(connect(CROWD, port));
        guest.turn();
    }
    gets_through(&mut guest, port, 4 * SECOND);
    assert!(guest.worker.drops(DropReason::Displaced) <= 45, "no more went than had to");
}

/// Whoever is behind a crowd in the backlog does not wait until the guest has ignored each of its
/// clients, and those of it that have waited longest are still served.
#[test]
fn a_crowd_in_the_backlog() {
    let mut guest = Guest::new(1024);
    let port = guest.forward(Protocol::Tcp);
    let crowd: Vec<_> = (0..560).map(|_| connect(CROWD, port)).collect();
    guest.turn();
    let first = crowd[0].local_addr().unwrap();
    let syn = guest.syn_of(first).unwrap();
    let client = connect(OTHER, port);
    let at = client.local_addr().unwrap();
    let end = guest.now + 4 * SECOND;
    let other_syn = loop {
        if let Some(syn) = guest.syn_of(at) {
            break syn;
        }
        assert!(guest.now < end, "it waits for the crowd");
        guest.pass(10 * MS);
    };
    // Whoever comes later does not wait at all.
    gets_through(&mut guest, port, 200 * MS);
    guest.pass(5 * SECOND);
    for (client, syn) in [(at, other_syn), (first, syn)] {
        guest.packets();
        guest.answer(client, 5000, syn + 1, Flags::SYN | Flags::ACK);
        guest.pass(MS);
        let (_, seen) = SEEN.into_iter().find(|(own, _)| ip(own) == client.ip()).unwrap();
        let wanted = (addr(seen), client.port());
        let reply = guest.packets().into_iter().find(|(src, port, _)| (*src, *port) == wanted);
        assert_eq!(reply.unwrap().2[13], 0x10, "accepted");
    }
}

/// A guest that was paused answers again: whoever of the crowd comes then is served, whatever still
/// waits.
#[test]
fn a_guest_that_was_paused_serves_the_crowd_again() {
    let mut guest = Guest::new(1024);
    let port = guest.forward(Protocol::Tcp);
    let waiting: Vec<_> = (0..300)
        .map(|_| {
            let client = connect(CROWD, port);
            guest.turn();
            client
        })
        .collect();
    guest.pass(8 * SECOND);
    guest.packets();
    let mut new = Vec::new();
    let mut heard: Vec<(u16, Seq)> = Vec::new();
    for _ in 0..10 {
        // Many at once, some of which have no more to say.
        let clients: Vec<_> = (0..40).map(|_| connect(CROWD, port)).collect();
        for client in &clients[..20] {
            client.shutdown(Shutdown::Write).unwrap();
        }
        new.extend(clients);
        for _ in 0..20 {
            guest.pass(25 * MS);
            // It answers what it hears of now, a little later.
            for (from, seq) in heard.drain(..) {
                let from = SocketAddr::new(ip(CROWD), from);
                guest.answer(from, 5000, seq + 1, Flags::SYN | Flags::ACK);
            }
            let syns = guest.packets().into_iter().filter(|(.., tcp)| tcp[13] == 0x02);
            heard.extend(
                syns.map(|(_, from, tcp)| (from, Seq(u32::from_be_bytes(tcp[4..8].try_into().unwrap())))),
            );
        }
    }
    let is_reset = |client: &TcpStream| {
        client.set_nonblocking(true).unwrap();
        client.peek(&mut [0]).is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    };
    assert_eq!(new.iter().filter(|client| is_reset(client)).count(), 0);
    drop(waiting);
}

/// A client that uses its port again after an orderly end, of which the guest's last
/// acknowledgement is still under way.
#[test]
fn a_port_that_is_used_again_after_an_orderly_end() {
    let mut guest = Guest::new(64);
    let port = guest.forward(Protocol::Tcp);
    let mut first = connect(CROWD, port);
    let from = first.local_addr().unwrap();
    guest.turn();
    let syn = guest.syn_of(from).unwrap();
    guest.answer(from, 5000, syn + 1, Flags::SYN | Flags::ACK);
    // The guest finishes first, so that the client's port is free at once.
    guest.answer(from, 5001, syn + 1, Flags::FIN | Flags::ACK);
    guest.pass(10 * MS);
    assert_eq!(first.read(&mut [0; 9]).unwrap(), 0);
    drop(first);
    guest.pass(10 * MS);
    assert_eq!(guest.worker.flow_count(), 1, "the acknowledgement is missing");
    let second = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&second, true).unwrap();
    rustix::net::bind(&second, &from).unwrap();
    rustix::net::connect(&second, &SocketAddr::new(ip(CROWD), port)).unwrap();
    guest.packets();
    guest.pass(10 * MS);
    let syn = guest.syn_of(from).expect("the second is let in");
    guest.answer(from, 9000, syn + 1, Flags::SYN | Flags::ACK);
    rustix::net::send(&second, b"here", rustix::net::SendFlags::empty()).unwrap();
    guest.pass(10 * MS);
    assert!(guest.packets().into_iter().any(|(_, _, tcp)| tcp.ends_with(b"here")));
}

/// Datagrams of ever new sources, that nobody answers, keep nobody else out, and end no flow that
/// was answered.
#[test]
fn datagrams_from_everywhere() {
    let mut guest = Guest::new(1024);
    let [flooded, other] = [(); 2].map(|()| guest.forward(Protocol::Udp));
    let tcp = guest.forward(Protocol::Tcp);
    let ask = |guest: &mut Guest, from: &str, port: u16| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.send_to(b"?", ("127.0.0.1", port)).unwrap();
        guest.turn();
        let at = socket.local_addr().unwrap().port();
        let seen = guest.packets().iter().any(|(_, port, _)| *port == at);
        (socket, at, seen)
    };
    let answered: Vec<_> = (0..20).map(|_| ask(&mut guest, CROWD, flooded)).collect();
    for (socket, port, seen) in &answered {
        assert!(seen);
        guest.datagram(SEEN[0].1, *port);
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 1);
    }
    // Begun by the guest.
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    guest.datagram(SEEN[0].1, server.local_addr().unwrap().port());
    let (_, own) = server.recv_from(&mut [0; 9]).unwrap();

    for _ in 0..3000 {
        assert!(ask(&mut guest, CROWD, flooded).2);
    }
    assert!(guest.worker.flow_count() < 400, "{} flows", guest.worker.flow_count());
    let (socket, port, seen) = ask(&mut guest, OTHER, other);
    assert!(seen, "another port");
    guest.datagram(SEEN[1].1, port);
    assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 1);
    gets_through(&mut guest, tcp, Duration::from_millis(50));
    for (socket, port, _) in &answered {
        socket.send_to(b"again", ("127.0.0.1", flooded)).unwrap();
        guest.turn();
        assert!(guest.packets().iter().any(|(_, from, _)| from == port));
        guest.datagram(SEEN[0].1, *port);
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 1, "the flow is the same");
    }
    server.send_to(b"answer", own).unwrap();
    guest.turn();
    assert_eq!(guest.packets().len(), 1, "the guest's own flow lives");
}

/// With every client answered one port does not take all of the table, nor do all of UDP.
#[test]
fn answered_datagrams_have_a_share() {
    let mut guest = Guest::new(256);
    let ports = [(); 3].map(|()| guest.forward(Protocol::Udp));
    let tcp = guest.forward(Protocol::Tcp);
    let mut clients = Vec::new();
    for port in ports {
        let (mut served, before) = (0, guest.worker.drops(DropReason::TableFull));
        for _ in 0..256 {
            let socket = UdpSocket::bind((CROWD, 0)).unwrap();
            socket.send_to(b"?", ("127.0.0.1", port)).unwrap();
            guest.turn();
            if guest.worker.drops(DropReason::TableFull) == before + served {
                guest.datagram(SEEN[0].1, socket.local_addr().unwrap().port());
            } else {
                served += 1;
            }
            clients.push(socket);
        }
    }
    let flows = guest.worker.flow_count();
    assert_eq!(flows, 192, "three quarters");
    for _ in 0..32 {
        gets_through(&mut guest, tcp, Duration::from_millis(50));
    }
}

/// Clients who are answered once and ask no more make room for others, those of other ports and
/// those whose exchange goes on.
#[test]
fn answered_once_is_no_claim_to_a_place() {
    let mut guest = Guest::new(256);
    let [flooded, second, other] = [(); 3].map(|()| guest.forward(Protocol::Udp));
    let ask = |guest: &mut Guest, socket: &UdpSocket, to: u16| {
        socket.send_to(b"?", ("127.0.0.1", to)).unwrap();
        guest.turn();
        let port = socket.local_addr().unwrap().port();
        assert!(guest.packets().iter().any(|(_, from, _)| *from == port), "the guest is asked");
        guest.datagram(SEEN[0].1, port);
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 1);
    };
    let client = || {
        let socket = UdpSocket::bind((CROWD, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let lasting = client();
    ask(&mut guest, &lasting, flooded);
    ask(&mut guest, &lasting, flooded);
    let mut clients = Vec::new();
    for (port, count) in [(flooded, 200), (second, 64), (other, 1)] {
        for _ in 0..count {
            clients.push(client());
            ask(&mut guest, clients.last().unwrap(), port);
        }
    }
    assert_eq!(guest.worker.flow_count(), 192, "three quarters");
    let displaced = guest.worker.drops(DropReason::Displaced);
    assert_eq!(displaced, 265 - 191, "one for one");
    ask(&mut guest, &lasting, flooded);
    assert_eq!(guest.worker.drops(DropReason::Displaced), displaced, "its flow is the same");
    assert_eq!(guest.worker.drops(DropReason::TableFull), 0);
}

/// An answer to a client that had to make room has no other place than its question had: the last
/// of the table stays for the guest's own flows.
#[test]
fn late_answers_have_no_place_of_their_own() {
    let mut guest = Guest::new(256);
    let ports = [(); 3].map(|()| guest.forward(Protocol::Udp));
    let mut clients = Vec::new();
    for port in ports {
        for _ in 0..300 {
            let socket = UdpSocket::bind((CROWD, 0)).unwrap();
            socket.send_to(b"?", ("127.0.0.1", port)).unwrap();
            guest.turn();
            clients.push(socket.local_addr().unwrap().port());
        }
    }
    for client in clients {
        guest.datagram(SEEN[0].1, client);
    }
    // One of the answers has a socket of its own, bound to the guest's port.
    assert!(guest.worker.flow_count() <= 193, "{} flows", guest.worker.flow_count());
    for _ in 0..32 {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        guest.datagram(SEEN[0].1, server.local_addr().unwrap().port());
        assert_eq!(server.recv(&mut [0; 9]).unwrap(), 1, "the guest's own");
    }
}
