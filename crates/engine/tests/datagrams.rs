//! UDP and pings through the whole engine: a guest in memory on one side, real
//! sockets on the loopback interface on the other. What is sent there has arrived when the call
//! returns, so nothing here waits, and the engine's clock is the test's.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use common::{addr, free_port, guest_port, may_ping, pattern, send_joined};
use guest::{Guest, OFFLOAD, PLAIN, ip_addr, names, server};
use passt_engine::link::channel::Packet;
use passt_proto::drop::DropReason;
use passt_proto::guest::Configured;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::{icmp, ip::protocol};
use passt_sys::dgram::{self, Envelope, Outgoing};
use passt_sys::iovec::{Gather, Scatter};
use passt_testing::skip;
use rustix::net::{AddressFamily, SocketType, ipproto};

#[test]
fn datagrams_of_every_size_both_ways() {
    for (v4, caps, mtu) in [
        (true, PLAIN, 1500),
        (true, OFFLOAD, 1500),
        (true, PLAIN, 65520),
        (false, PLAIN, 1500),
        (false, OFFLOAD, 1500),
        (false, OFFLOAD, 65520),
    ] {
        let mut guest = Guest::new(caps, mtu);
        let (server, port) = server(v4);
        let (mut buffer, mut from) = (vec![0; 65536], None);
        for len in [0, 1, 2, 1451, 1452, 1453, 1472, 1473, 9000, 32768, 65471, 65492, 65493, 65506, 65507] {
            let payload = pattern(len);
            // More than that in a packet of IPv6 may nobody cut, and the loopback interface not send.
            if v4 || len <= 65_536 - 48 {
                guest.send(v4, (guest_port(), port), &payload);
                let (n, source) = server.recv_from(&mut buffer).unwrap();
                assert!(buffer[..n] == payload, "{len} bytes arrived as {n}");
                from = Some(source);
            }
            server.send_to(&payload, from.unwrap()).unwrap();
            let reply = guest.one();
            let (own, host) = names(v4);
            assert_eq!((reply.src, reply.dst, reply.ports()), (host, own, (port, guest_port())));
            assert!(reply.payload() == payload, "{len} bytes came back as {}", reply.payload().len());
        }
        assert_eq!(guest.worker.flow_count(), 1);
    }
}

#[test]
fn the_guests_port_is_kept() {
    let mut guest = Guest::new(PLAIN, 1500);
    let own = free_port();
    let (first, port) = server(true);
    guest.send(true, (own, port), b"?");
    let (_, from) = first.recv_from(&mut [0; 9]).unwrap();
    assert_eq!(from.port(), own);
    // A port that is taken does not keep the guest from being served.
    let (second, other) = server(true);
    guest.send(true, (port, other), b"?");
    let (_, from) = second.recv_from(&mut [0; 9]).unwrap();
    assert_ne!(from.port(), port);
    second.send_to(b"!", from).unwrap();
    assert_eq!(guest.one().ports(), (other, port));
}

/// Nothing of a family that is switched off passes.
#[test]
fn a_family_that_is_off() {
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        guest.worker.context().core.guest.change(|guest| {
            let Configured { v4: four, v6: six, .. } = &mut guest.configured;
            (four.off, six.off) = (v4, !v4);
        });
        let [(server, port), (other, other_port)] = [v4, !v4].map(server);
        server.set_nonblocking(true).unwrap();
        guest.send(v4, (guest_port(), port), b"?");
        assert!(guest.receive().is_empty() && server.recv(&mut [0; 9]).is_err());
        assert_eq!((guest.worker.drops(DropReason::Disabled), guest.worker.flow_count()), (1, 0));
        guest.send(!v4, (guest_port(), other_port), b"?");
        assert_eq!(other.recv(&mut [0; 9]).unwrap(), 1);
    }
}

/// Only a host that the guest sent to can answer.
#[test]
fn strangers_are_not_heard() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (peer, port) = server(true);
    guest.send(true, (guest_port(), port), b"?");
    let (_, from) = peer.recv_from(&mut [0; 9]).unwrap();
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    stranger.send_to(b"let me in", from).unwrap();
    assert!(guest.receive().is_empty());
    peer.send_to(b"!", from).unwrap();
    assert_eq!(guest.one().payload(), b"!");
}

#[test]
fn a_closed_port_is_reported_with_the_datagram() {
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        let port = free_port();
        let mut header = [0; MAX_HEADERS];
        let path = Path { ttl: 33, ..Guest::path(v4) };
        let (len, offload) = path.emit_udp(&mut header, (guest_port(), port), 14, 0).unwrap();
        let bytes = [&header[..len], b"anybody there?"].concat();
        guest.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
        guest.turn();
        let error = guest.one();
        let (own, host) = names(v4);
        let kind = if v4 { (protocol::ICMP, [3, 3]) } else { (protocol::ICMPV6, [1, 4]) };
        assert_eq!((error.src, error.dst, error.protocol), (host, own, kind.0));
        assert_eq!(error.bytes[..2], kind.1);
        let quoted = &error.bytes[8..];
        let (inner, rest) = quoted.split_at(if v4 { 20 } else { 40 });
        let addresses = if v4 { &inner[12..] } else { &inner[8..] };
        let (src, dst) = addresses.split_at(addresses.len() / 2);
        assert_eq!((ip_addr(src), ip_addr(dst)), (own, host));
        let ports = [guest_port().to_be_bytes(), port.to_be_bytes()].concat();
        assert_eq!((&rest[..4], &rest[4..6]), (&ports[..], &[0, 22][..]));
        assert_eq!(inner[if v4 { 8 } else { 7 }], 33, "the guest's time to live");
        assert_eq!(if v4 { &inner[2..4] } else { &inner[4..6] }, if v4 { [0, 42] } else { [0, 22] });
        assert_eq!(&rest[8..], b"anybody there?");
        // The flow goes on.
        let again = UdpSocket::bind((if v4 { "127.0.0.1" } else { "::1" }, port)).unwrap();
        guest.send(v4, (guest_port(), port), b"now?");
        assert_eq!(again.recv(&mut [0; 9]).unwrap(), 4);
    }
}

/// Whatever follows what, each datagram arrives, alone and in its place: those of one size that may
/// travel together, empty ones, and more than fit one super-frame.
#[test]
fn sequences_of_datagrams() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound).unwrap()
    };
    for round in 0..150 {
        let v4 = round % 2 == 0;
        let mut guest = Guest::new(if round % 4 < 2 { PLAIN } else { OFFLOAD }, 1500);
        let (server, port) = server(v4);
        guest.send(v4, (guest_port(), port), b"?");
        let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
        let kinds = 1 + below(3);
        let sizes = [(); 3].map(|()| [0, 1, 8, 100, 1452, 1472, 4000][below(7)]);
        let sequence: Vec<usize> = (0..=below(90)).map(|_| sizes[below(kinds as u64)]).collect();
        for (number, &len) in sequence.iter().enumerate() {
            let number = u8::try_from(number).unwrap();
            server.send_to(&vec![number; len], from).unwrap();
        }
        let mut received = Vec::new();
        while received.len() < sequence.len() {
            let more = guest.receive();
            assert!(!more.is_empty(), "{} of {sequence:?}", received.len());
            received.extend(more);
        }
        if round % 4 < 2 {
            let most = if v4 { 1480 } else { 1448 };
            let frames =
                |&len: &usize| if len <= if v4 { 1472 } else { 1452 } { 1 } else { (len + 8).div_ceil(most) };
            assert_eq!(guest.frames, sequence.iter().map(frames).sum::<usize>(), "{sequence:?}");
        }
        for (number, (packet, &len)) in received.iter().zip(&sequence).enumerate() {
            let number = u8::try_from(number).unwrap();
            assert!(
                packet.payload() == vec![number; len],
                "{number} of {sequence:?}: {}",
                packet.payload().len()
            );
        }
        // And back, in one batch.
        for (number, &len) in sequence.iter().enumerate() {
            let fits = if v4 { 1472 } else { 1452 };
            guest.queue(v4, (guest_port(), port), &vec![u8::try_from(number).unwrap(); len.min(fits)], 0);
        }
        guest.turn();
        let mut buffer = vec![0; 65_536];
        for (number, &len) in sequence.iter().enumerate() {
            let fits = if v4 { 1472 } else { 1452 };
            let found = server.recv(&mut buffer).unwrap();
            let number = u8::try_from(number).unwrap();
            assert!(buffer[..found] == vec![number; len.min(fits)], "{number} of {sequence:?}: {found}");
        }
        assert_eq!(guest.worker.context().core.counters.flows, 1);
    }
}

/// A flow with answers lives longer than one without, and both end.
#[test]
fn unused_flows_end() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (server, port) = server(true);
    let mut buffer = [0; 9];
    guest.send(true, (guest_port(), port), b"1");
    assert_eq!(guest.worker.flow_count(), 1);
    let single = guest.sleep_until_flows_end();
    server.recv_from(&mut buffer).unwrap();
    for _ in 0..2 {
        guest.send(true, (guest_port(), port), b"2");
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(b"3", from).unwrap();
        guest.one();
    }
    let stream = guest.sleep_until_flows_end();
    assert!(single >= Duration::from_secs(1) && stream > single, "{single:?} {stream:?}");
}

#[test]
fn a_full_table_refuses_and_counts() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (server, port) = server(true);
    for own in 0..65 {
        guest.send(true, (41_000 + own, port), b"?");
    }
    assert_eq!(guest.worker.flow_count(), 64);
    assert_eq!(guest.worker.drops(DropReason::TableFull), 1);
    drop(server);
}

/// What the guest's kernel left joined, and what comes in one batch, arrives as it was sent.
#[test]
fn batches_and_super_frames_from_the_guest() {
    let mut guest = Guest::new(OFFLOAD, 1500);
    let (server, port) = server(true);
    let mut expected = Vec::new();
    let whole = pattern(1050);
    guest.queue(true, (guest_port(), port), &whole, 100);
    expected.extend(whole.chunks(100).map(<[u8]>::to_vec));
    for len in [500, 500, 500, 20, 500, 0, 0, 700, 600] {
        guest.queue(true, (guest_port(), port), &pattern(len), 0);
        expected.push(pattern(len));
    }
    // More than the kernel takes at once.
    for i in 0..150u8 {
        guest.queue(true, (guest_port(), port), &[i; 30], 0);
        expected.push(vec![i; 30]);
    }
    // Between them another flow.
    let (other, other_port) = crate::server(false);
    guest.queue(false, (guest_port(), other_port), b"other", 0);
    guest.queue(true, (guest_port(), port), b"last", 0);
    expected.push(b"last".to_vec());
    guest.turn();
    let mut buffer = [0; 2000];
    for payload in expected {
        let n = server.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], payload);
    }
    assert_eq!(other.recv(&mut buffer).unwrap(), 5);
}

#[test]
fn batches_for_the_guest_are_joined_where_the_link_can() {
    for (caps, expected) in [(OFFLOAD, 3), (PLAIN, 7)] {
        let mut guest = Guest::new(caps, 1500);
        let (server, port) = server(true);
        guest.send(true, (guest_port(), port), b"?");
        let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
        let sizes = [1000, 1000, 1000, 400, 1200, 1200, 1300];
        for (i, len) in (0u8..).zip(sizes) {
            server.send_to(&vec![i; len], from).unwrap();
        }
        let all = guest.receive();
        for ((i, len), packet) in (0u8..).zip(sizes).zip(&all) {
            assert_eq!(packet.payload(), vec![i; len]);
        }
        assert_eq!((all.len(), guest.frames), (sizes.len(), expected));
    }
}

/// The sender's kernel keeps datagrams joined, and so do we, whatever comes between; except
/// where each alone is too large for the guest.
#[test]
fn joined_datagrams_stay_joined() {
    let mut guest = Guest::new(OFFLOAD, 1500);
    let (server, port) = server(true);
    guest.send(true, (guest_port(), port), b"?");
    let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
    server.connect(from).unwrap();
    let cases =
        [(3000, 1000), (60_000, 1400), (50, 0), (5000, 1200), (9000, 4000), (65_490, 1250), (65_507, 1250)];
    for (len, segment) in cases {
        let payload = pattern(len);
        send_joined(&server, &payload, segment, None);
        guest.frames = 0;
        let mut all = guest.receive();
        // What is too long for the loopback device is cut there.
        all.append(&mut guest.receive());
        let sizes: Vec<usize> = all.iter().map(|p| p.payload().len()).collect();
        let whole: Vec<u8> = all.iter().flat_map(|p| p.payload().iter().copied()).collect();
        assert!(whole == payload, "{len} by {segment}: {sizes:?}");
        let step = if segment == 0 { len } else { segment.into() };
        assert_eq!(sizes, payload.chunks(step).map(<[u8]>::len).collect::<Vec<_>>());
        let frames = if step > 1472 { 3 + 3 + 1 } else { 1 + usize::from(len > 65_495) };
        assert_eq!(guest.frames, frames, "{len} by {segment}");
    }
}

/// A flow is in use while datagrams come, joined by the kernel or not.
#[test]
fn joined_datagrams_keep_their_flow() {
    let mut guest = Guest::new(OFFLOAD, 1500);
    let (server, port) = server(true);
    guest.send(true, (guest_port(), port), b"?");
    let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
    server.connect(from).unwrap();
    let payload = pattern(1000);
    for second in 0..200 {
        send_joined(&server, &payload, 500, None);
        assert_eq!(guest.receive().len(), 2, "after {second} s");
        guest.now = guest.now + Duration::from_secs(1);
        guest.turn();
    }
}

/// Pings of the gateway are answered by the host with the guest's identifier.
#[test]
fn pings() {
    if let Err(error) = may_ping() {
        return skip(&format!("no ping sockets: {error}"));
    }
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        for (seq, len) in [(1, 0), (2, 56), (3, 1400)] {
            let kind = if v4 { icmp::ECHO_REQUEST_V4 } else { icmp::ECHO_REQUEST_V6 };
            let payload = pattern(len);
            let header =
                icmp::Header { kind, code: 0, checksum: 0.into(), id: 0x1234.into(), seq: seq.into() };
            let mut out = [0; MAX_HEADERS];
            let sum = Sum::new().bytes(&payload);
            let end = Guest::path(v4).emit_icmp(&mut out, header, sum, len).unwrap();
            guest.worker.context().core.link.from_guest.push_back([&out[..end], &payload].concat().into());
            guest.turn();
            let reply = guest.one();
            let (own, host) = names(v4);
            assert_eq!((reply.src, reply.dst), (host, own));
            let expected = if v4 { icmp::ECHO_REPLY_V4 } else { icmp::ECHO_REPLY_V6 };
            assert_eq!(reply.bytes[..2], [expected, 0]);
            assert_eq!(reply.bytes[4..8], [0x12, 0x34, 0, u8::try_from(seq).unwrap()]);
            assert!(reply.payload() == payload);
        }
        assert_eq!(guest.worker.flow_count(), 1);
        assert_eq!(guest.sleep_until_flows_end(), Duration::from_secs(60));
    }
}

/// Time to live and traffic class that the guest chose are what the host's peer sees, whenever they
/// change, and the other way round; of several flows of one port each has its own.
#[test]
fn marks_of_each_datagram() {
    for v4 in [true, false] {
        let mut guest = Guest::new(OFFLOAD, 1500);
        let servers = [server(v4), server(v4)];
        for (server, _) in &servers {
            dgram::want_marks(server.as_fd(), !v4).unwrap();
        }
        for (ttl, traffic_class) in [(64, 0), (7, 0), (7, 0xb8), (255, 1), (64, 3), (64, 0)] {
            let marks = (ttl, traffic_class);
            for (_, port) in &servers {
                let mut header = [0; MAX_HEADERS];
                let path = Path { ttl, traffic_class, ..Guest::path(v4) };
                let (len, _) = path.emit_udp(&mut header, (9, *port), 0, 0).unwrap();
                guest.worker.context().core.link.from_guest.push_back(header[..len].to_vec().into());
            }
            guest.turn();
            for (server, _) in &servers {
                let message = dgram::receive(server.as_fd(), &Scatter::new()).unwrap();
                assert_eq!((message.ttl, message.traffic_class), (Some(ttl), traffic_class), "{v4}");
                let (to, ttl) = (message.source, Some(ttl));
                let envelope = Envelope { to, from: None, ttl, traffic_class };
                let nothing = [Outgoing { first: 0, buffers: 0, segment: 0 }];
                dgram::send(server.as_fd(), &Gather::new(), &nothing, &envelope, v4).unwrap();
                let answer = guest.one();
                assert_eq!((answer.ttl, answer.traffic_class), marks, "{v4}");
            }
        }
    }
}

/// Datagrams leave from the address asked for (`--outbound`), with the guest's port if nobody has
/// it there.
#[test]
fn the_address_that_datagrams_come_from() {
    if let Err(error) = common::own_network() {
        return skip(&format!("no network of its own: {error}"));
    }
    for addresses in [["10.9.9.1", "10.9.9.2"], ["2001:db8:9::1", "2001:db8:9::2"]] {
        common::own_addresses(&addresses);
        let [server, own] = addresses.map(common::ip);
        for taken in [false, true] {
            let server = UdpSocket::bind((server, 0)).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let _other = taken.then(|| UdpSocket::bind((own, guest_port())).unwrap());
            let mut guest = Guest::new(PLAIN, 1500);
            guest.worker.context().core.guest.change(|guest| {
                let Configured { v4, v6, .. } = &mut guest.configured;
                (v4.outbound, v6.outbound) = (Some(own.into()), Some(own.into()));
            });
            let at = server.local_addr().unwrap();
            let path = Path { dst: at.ip().into(), ..Guest::path(at.is_ipv4()) };
            let mut header = [0; MAX_HEADERS];
            let (len, _) = path.emit_udp(&mut header, (guest_port(), at.port()), 0, 0).unwrap();
            guest.worker.context().core.link.from_guest.push_back(header[..len].to_vec().into());
            guest.turn();
            let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
            assert_eq!((from.ip(), from.port() == guest_port()), (own, !taken));
            // Answers find the guest.
            server.send_to(b"!", from).unwrap();
            assert_eq!(guest.one().ports(), (at.port(), guest_port()));
        }
    }
}

/// An error about a ping comes back as one about the guest's.
#[test]
fn errors_about_pings() {
    if let Err(error) = common::own_network().and_then(|()| may_ping()) {
        return skip(&format!("no network of its own: {error}"));
    }
    let mut guest = Guest::new(PLAIN, 1500);
    let raw = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
    // It is none of those that the guest talks to.
    rustix::net::bind(&raw, &std::net::SocketAddr::from(([127, 0, 0, 5], 0))).unwrap();
    for (ttl, id) in [(64, 0x1234_u16), (9, 0x1234), (33, 0x4321)] {
        let header = icmp::Header {
            kind: icmp::ECHO_REQUEST_V4,
            code: 0,
            checksum: 0.into(),
            id: id.into(),
            seq: 5.into(),
        };
        let mut out = [0; MAX_HEADERS];
        let path = Path { ttl, ..Guest::path(true) };
        let payload = pattern(56);
        let end = path.emit_icmp(&mut out, header, Sum::new().bytes(&payload), 56).unwrap();
        guest.worker.context().core.link.from_guest.push_back([&out[..end], &payload].concat().into());
        assert_eq!(guest.receive().len(), 1, "the answer");
        // A router on the way to the host's loopback, as it were, has no route: it quotes what it
        // got.
        let path = Path { src: addr("127.0.0.1"), dst: addr("127.0.0.1"), ..path };
        let end = path.emit_icmp(&mut out, header, Sum::new().bytes(&payload), 56).unwrap();
        let mut error = [&[3, 1, 0, 0, 0, 0, 0, 0], &out[14..end], &payload].concat();
        let sum = Sum::new().bytes(&error).finish();
        error[2..4].copy_from_slice(&sum.to_be_bytes());
        rustix::net::sendto(
            &raw,
            &error,
            rustix::net::SendFlags::empty(),
            &std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        )
        .unwrap();
        let report = guest.one();
        assert_eq!(report.src, addr("192.0.2.254"), "the router");
        assert_eq!(
            (report.dst, report.protocol, &report.bytes[..2]),
            (names(true).0, protocol::ICMP, &[3, 1][..])
        );
        let quoted = &report.bytes[8..];
        assert_eq!(
            (quoted[8], ip_addr(&quoted[12..16]), ip_addr(&quoted[16..20])),
            (ttl, names(true).0, names(true).1)
        );
        assert_eq!((quoted[20], &quoted[24..28]), (8, &[id.to_be_bytes(), [0, 5]].concat()[..]));
        assert_eq!(&quoted[28..], &payload[..quoted.len() - 28]);
    }
}

/// Datagrams to loopback addresses, or without an address, never reach the host's services.
#[test]
fn the_hosts_loopback_has_no_address_on_the_link() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (server, port) = server(true);
    server.set_nonblocking(true).unwrap();
    let path = Path { dst: addr("127.0.0.1"), ..Guest::path(true) };
    let mut header = [0; MAX_HEADERS];
    let (len, _) = path.emit_udp(&mut header, (9, port), 0, 0).unwrap();
    guest.worker.context().core.link.from_guest.push_back(header[..len].to_vec().into());
    guest.turn();
    assert!(server.recv(&mut [0; 9]).is_err());
    assert_eq!((guest.worker.flow_count(), guest.worker.drops(DropReason::Loopback)), (0, 1));
}
