//! Flows of datagrams that hear much have a connected socket of their own beside the one of the
//! guest's port: nobody notices.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::free_port;
use guest::{Guest, OFFLOAD, PLAIN, names, server};

/// Sockets of this process with this port, as the kernel lists them: not connected, and connected.
fn sockets(v4: bool, port: u16) -> [usize; 2] {
    let file = if v4 { "/proc/thread-self/net/udp" } else { "/proc/thread-self/net/udp6" };
    let table = std::fs::read_to_string(file).unwrap();
    let local = format!(":{port:04X}");
    let in_state = |state: &str| {
        let is_it = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1].ends_with(&local) && fields[3] == state
        };
        table.lines().filter(is_it).count()
    };
    [in_state("07"), in_state("01")]
}

fn from(server: &UdpSocket) -> SocketAddr {
    server.recv_from(&mut [0; 99]).unwrap().1
}

/// Hundreds of numbered datagrams arrive once, and in order; meanwhile others are heard that may
/// answer, strangers are not, and the guest is at one port to all of them.
#[test]
fn a_flow_that_hears_much() {
    for (v4, caps) in [(true, PLAIN), (true, OFFLOAD), (false, PLAIN), (false, OFFLOAD)] {
        let mut guest = Guest::new(caps, 1500);
        let ((server, at), (other, elsewhere)) = (server(v4), server(v4));
        let port = free_port();
        guest.send(v4, (port, at), b"?");
        let seen = from(&server);
        let (mut sent, mut received, mut heard_other) = (0_u32, 0_u32, 0);
        for round in 0..100 {
            for _ in 0..10 {
                server.send_to(&sent.to_be_bytes().repeat(50), seen).unwrap();
                sent += 1;
            }
            if round % 3 == 0 {
                other.send_to(b"other", seen).unwrap();
            }
            let heard_before = heard_other;
            while received < sent || round % 3 == 0 && heard_other == heard_before {
                for packet in guest.answers() {
                    assert_eq!(packet.dst, names(v4).0);
                    match packet.ports() {
                        ports if ports == (at, port) => {
                            assert_eq!(packet.payload(), received.to_be_bytes().repeat(50));
                            received += 1;
                        }
                        ports => {
                            assert_eq!((ports, packet.payload()), ((elsewhere, port), &b"other"[..]));
                            heard_other += 1;
                        }
                    }
                }
            }
        }
        assert_eq!((received, heard_other), (1000, 34));
        assert_eq!(sockets(v4, seen.port()), [1, 1], "v4: {v4}");
        for (server, port_there) in [(&server, at), (&other, elsewhere)] {
            guest.send(v4, (port, port_there), b"!");
            assert_eq!(from(server), seen);
        }

        // Nothing comes for a while: the host may have moved.
        guest.now = guest.now + Duration::from_secs(5);
        guest.send(v4, (port, at), b"still there?");
        assert_eq!(from(&server), seen);
        assert_eq!(sockets(v4, seen.port()), [1, 0], "v4: {v4}");
        server.send_to(b"yes", seen).unwrap();
        assert_eq!(guest.one().payload(), b"yes");

        guest.sleep_until_flows_end();
        assert_eq!(sockets(v4, seen.port()), [0, 0], "v4: {v4}");
    }
}

/// Few of the peers of a port take descriptors, however busy all are.
#[test]
fn one_port_with_many_busy_peers() {
    let mut guest = Guest::new(PLAIN, 1500);
    let servers: Vec<_> = (0..12).map(|_| server(true)).collect();
    let port = free_port();
    let mut seen = None;
    for (server, at) in &servers {
        guest.send(true, (port, *at), b"?");
        seen = Some(from(server));
    }
    let seen = seen.unwrap();
    for (server, at) in &servers {
        for _ in 0..40 {
            (0..10).for_each(|_| assert!(server.send_to(b"!", seen).is_ok()));
            let mut received = 0;
            while received < 10 {
                let answers = guest.answers();
                assert!(answers.iter().all(|packet| packet.ports() == (*at, port)));
                received += answers.len();
            }
        }
    }
    assert_eq!(sockets(true, seen.port()), [1, 4]);
    // What one of them had is free for another one when its flow has ended.
    guest.sleep_until_flows_end();
    assert_eq!(sockets(true, seen.port()), [0, 0]);
}
