//! What a capture has of frames whose checksums are left to a device.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use common::{guest_port, pattern, usual_limits};
use guest::{Connected, Guest, OFFLOAD, PLAIN, ip_addr, server};
use passt_engine::core::Capture;
use passt_proto::time::Instant;
use passt_proto::wire::checksum::Sum;
use passt_sys::iovec::Gather;

/// A capture in memory.
#[derive(Default)]
struct Frames(Mutex<Vec<Vec<u8>>>);

impl Capture for Frames {
    fn record(&self, _: Instant, head: &[u8], rest: &Gather<'_>) {
        let mut frame = head.to_vec();
        frame.resize(head.len() + rest.total(), 0);
        assert_eq!(rest.copy_out(0, &mut frame[head.len()..]), rest.total());
        self.0.lock().unwrap().push(frame);
    }

    fn lost(&self) -> u64 {
        0
    }
}

/// Verifies checksums as a reader of the capture does, and returns the transport protocol and how
/// much the packet carries of it.
fn verify(frame: &[u8]) -> (u8, usize) {
    let ip = &frame[14..];
    let (src, dst, protocol, body) = if ip[0] >> 4 == 4 {
        assert_eq!(Sum::new().bytes(&ip[..20]).finish(), 0);
        let len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        (&ip[12..16], &ip[16..20], ip[9], &ip[20..len])
    } else {
        let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        (&ip[8..24], &ip[24..40], ip[6], &ip[40..40 + len])
    };
    let sum = Sum::pseudo(ip_addr(src), ip_addr(dst), protocol, body.len());
    assert_eq!(sum.bytes(body).finish(), 0, "{protocol}: {} bytes", body.len());
    (protocol, body.len())
}

/// Whoever computes checksums, a capture has those of the frames that it shows, also of frames that
/// are to be cut later.
#[test]
fn checksums_are_complete() {
    let _limits = usual_limits();
    for (caps, v4) in [(OFFLOAD, true), (OFFLOAD, false), (PLAIN, true), (PLAIN, false)] {
        let frames = Arc::new(Frames::default());
        let mut guest = Guest::new(caps, 1500);
        guest.worker.context().core.capture = Some(frames.clone());
        let listener = TcpListener::bind((if v4 { "127.0.0.1" } else { "::1" }, 0)).unwrap();
        let Connected { mut peer, remote, next, .. } = guest.connect(&listener, 40_000);
        guest.segment(remote, &next, &pattern(5001));
        guest.turn();
        peer.write_all(&pattern(20_001)).unwrap();
        guest.answers();
        let (server, port) = server(v4);
        guest.queue(v4, (guest_port(), port), &pattern(3000), 1000);
        guest.turn();
        let from = server.recv_from(&mut [0; 2000]).unwrap().1;
        server.send_to(b"odd", from).unwrap();
        guest.answers();
        let seen: Vec<_> = frames.0.lock().unwrap().iter().map(|frame| verify(frame)).collect();
        for (protocol, least) in [(6, 5001), (6, 10_000), (17, 3000), (17, 11)] {
            let found = seen.iter().any(|&(of, len)| of == protocol && len >= least);
            assert!(found || caps == PLAIN && least == 10_000, "{protocol} {least}: {seen:?}");
        }
    }
}
