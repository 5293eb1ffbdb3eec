use super::control::CMSG_HEADER;
use super::*;
use std::net::UdpSocket;
use std::os::fd::AsFd;

fn pair(addr: &str) -> (UdpSocket, UdpSocket) {
    let a = UdpSocket::bind(addr).expect("bind");
    let b = UdpSocket::bind(addr).expect("bind");
    a.connect(b.local_addr().expect("bound")).expect("connect");
    (a, b)
}

#[test]
fn a_batch_arrives_with_its_boundaries() {
    let (a, b) = pair("127.0.0.1:0");
    let mut data = Gather::new();
    assert!(data.push(b"one") && data.push(b"tw") && data.push(b"o!"));
    let messages =
        [Outgoing { buffers: 1, ..Outgoing::default() }, Outgoing { first: 1, buffers: 2, segment: 0 }];
    assert_eq!(send(a.as_fd(), &data, &messages, &Envelope::default(), true).expect("sent"), 2);
    let mut inbox = Inbox::new();
    assert_eq!(inbox.receive(b.as_fd()).expect("received"), 2);
    let (first, payload) = inbox.message(0).expect("there");
    assert_eq!((payload, first.source), (&b"one"[..], Some(a.local_addr().expect("bound"))));
    assert_eq!(inbox.message(1).expect("there").1, b"two!");
    assert!(inbox.message(2).is_none());
}

#[test]
fn the_kernel_cuts_and_joins() {
    let (a, b) = pair("[::1]:0");
    let payload: Vec<u8> = (0..250).collect();
    let mut data = Gather::new();
    assert!(data.push(&payload));
    let message = [Outgoing { first: 0, buffers: 1, segment: 100 }];
    send(a.as_fd(), &data, &message, &Envelope::default(), false).expect("sent");
    let mut buffer = [0; 300];
    assert_eq!(b.recv(&mut buffer).expect("cut"), 100);
    want_joined(b.as_fd()).expect("Linux 5.0");
    send(a.as_fd(), &data, &message, &Envelope::default(), false).expect("sent");
    assert_eq!((b.recv(&mut buffer).expect("cut"), b.recv(&mut buffer).expect("cut")), (100, 50));
    let ahead = peek(b.as_fd()).expect("something is there");
    assert_eq!((ahead.len, ahead.segment), (250, 100));
    let mut into = Scatter::new();
    into.push(&mut buffer);
    let joined = receive(b.as_fd(), &into).expect("received");
    assert_eq!((joined.len, joined.segment), (250, 100));
    assert_eq!(buffer[..250], payload);
}

/// On a socket for both families, addresses of either come out in their own form.
#[test]
fn destination_and_source_of_either_family() {
    let b = UdpSocket::bind("[::]:0").expect("bind");
    want_destination(b.as_fd(), true).expect("option");
    let port = b.local_addr().expect("bound").port();
    for ip in ["127.0.0.5", "::1"] {
        let ip: IpAddr = ip.parse().expect("address");
        let a = UdpSocket::bind((ip, 0)).expect("bind");
        let peer = a.local_addr().expect("bound");
        a.send_to(b"ping", (ip, port)).expect("sent");
        let mut buffer = [0; 16];
        let mut into = Scatter::new();
        into.push(&mut buffer);
        let received = receive(b.as_fd(), &into).expect("received");
        assert_eq!((received.source, received.destination), (Some(peer), Some(ip)));

        let mut data = Gather::new();
        data.push(b"pong");
        let message = [Outgoing { first: 0, buffers: 1, segment: 0 }];
        let envelope = Envelope { to: Some(mapped(peer)), from: Some(ip), ..Envelope::default() };
        send(b.as_fd(), &data, &message, &envelope, ip.is_ipv4()).expect("sent");
        let (len, from) = a.recv_from(&mut [0; 16]).expect("received");
        assert_eq!((len, from), (4, (ip, port).into()));
    }
}

/// Time to live and traffic class are those of each message, also of IPv4 through a socket for both
/// families, and to a socket for both.
#[test]
fn marks_of_each_message() {
    let both = || UdpSocket::bind("[::]:0").expect("bind");
    let (a, b) = (both(), both());
    want_marks(b.as_fd(), true).expect("options");
    let port = b.local_addr().expect("bound").port();
    for ip in ["127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().expect("address");
        for (ttl, traffic_class) in [(None, 0), (Some(7), 0), (None, 0xb8), (Some(255), 3), (None, 0)] {
            let mut data = Gather::new();
            data.push(b"?");
            let to = Some(mapped((ip, port).into()));
            let envelope = Envelope { to, from: None, ttl, traffic_class };
            let message = [Outgoing { first: 0, buffers: 1, segment: 0 }];
            send(a.as_fd(), &data, &message, &envelope, ip.is_ipv4()).expect("sent");
            let received = receive(b.as_fd(), &Scatter::new()).expect("received");
            assert_eq!((received.ttl, received.traffic_class), (Some(ttl.unwrap_or(64)), traffic_class));
        }
    }
}

#[test]
fn errors_come_with_the_datagram() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let (a, b) = pair(addr);
        want_failures(a.as_fd(), addr.starts_with('[')).expect("option");
        let closed = b.local_addr().expect("bound");
        drop(b);
        a.send(b"anybody there?").expect("sent");
        let mut payload = [0; 64];
        let failure = receive_failure(a.as_fd(), &mut payload).expect("loopback is synchronous");
        let origin = if addr.starts_with('[') { Origin::Icmpv6 } else { Origin::Icmp };
        assert_eq!((failure.errno, failure.origin), (libc::ECONNREFUSED, origin));
        assert_eq!(failure.destination, Some(closed));
        assert_eq!(failure.offender, Some(closed.ip()));
        assert_eq!(&payload[..failure.len], b"anybody there?");
    }
}

#[test]
fn control_messages_that_lie_about_their_length() {
    for len in [0usize, 3, CMSG_HEADER - 1, CMSG_HEADER + 200, usize::MAX] {
        let mut control = CmsgBuffer::EMPTY;
        control.push(libc::SOL_UDP, UDP_GRO, &[0; 4]);
        control.bytes[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
        assert_eq!(control.messages().count(), 0, "{len}");
    }
}

/// An error comes with all that a socket of both families can be told beside it.
#[test]
fn an_error_has_room_beside_the_rest() {
    let socket = UdpSocket::bind("[::]:0").expect("bind");
    for want in [want_failures, want_destination, want_marks] {
        want(socket.as_fd(), true).expect("an option");
    }
    want_joined(socket.as_fd()).expect("Linux 5.0");
    for (ip, origin) in [("127.0.0.1", Origin::Icmp), ("::1", Origin::Icmpv6)] {
        let ip: IpAddr = ip.parse().expect("an address");
        let nobody = UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr()).expect("a port");
        socket.send_to(b"?", mapped(nobody)).expect("sent");
        let failure = receive_failure(socket.as_fd(), &mut [0; 9]).expect("an error");
        assert_eq!((failure.origin, failure.offender), (origin, Some(ip)), "{failure:?}");
        assert_eq!(failure.destination, Some(nobody));
        // It is also the next call's.
        let _ = socket.take_error();
    }
}
