//! What the model's guest answers to segments that arrive: RFC 9293, section 3.10.7, without a TCP
//! behind it.

use passt_engine::link::channel::Packet;
use passt_proto::wire::build::MAX_HEADERS;
use passt_proto::wire::tcp::Segment;

use super::conn::{Conn, Phase};
use super::{ACK, FIN, RST, SYN};
use crate::rig::path;

/// A frame of the guest, a super-frame if its payload exceeds `mss`.
pub(super) fn put(outbox: &mut Vec<Packet>, v4: bool, segment: &Segment, payload: &[u8], mss: u16) {
    let mut header = [0; MAX_HEADERS];
    let (len, offload) = path(v4).emit_tcp(&mut header, segment, payload.len(), mss).expect("a frame");
    outbox.push(Packet { bytes: [&header[..len], payload].concat(), offload });
}

pub(super) fn pure_ack(outbox: &mut Vec<Packet>, conn: &mut Conn) {
    if conn.phase == Phase::Open {
        conn.guest.owes = false;
        // What was sent beyond the window does not count.
        let at = conn.sent().min(conn.guest.edge.max(conn.guest.una));
        let segment = conn.segment(ACK, at);
        put(outbox, conn.v4, &segment, &[], u16::MAX);
    }
}

/// A segment arrives at a guest that has sent a SYN: RFC 9293, section 3.10.7.3.
pub(super) fn answered(outbox: &mut Vec<Packet>, conn: &mut Conn, segment: &Segment, payload: &[u8]) {
    let flags = segment.flags;
    let acked = flags.contains(ACK) && segment.ack == conn.guest.numbers().1 + 1;
    if flags.contains(RST) {
        if acked {
            assert!(conn.broken, "refused");
            conn.phase = Phase::Gone;
        }
    } else if flags.contains(SYN) && acked {
        conn.opened(segment);
    } else if flags.contains(ACK) && !acked {
        refuse(outbox, conn.v4, segment, payload);
    }
}

/// A segment arrives at a guest that listens, or has another connection there: section 3.10.7.2.
pub(super) fn called(outbox: &mut Vec<Packet>, conn: &mut Conn, segment: &Segment) {
    if segment.flags.contains(RST) {
        if conn.guest.half_open == Some(segment.seq) {
            conn.guest.half_open = None;
        }
    } else if segment.flags.contains(SYN) {
        let answer = if let Some(seq) = conn.guest.half_open {
            Segment { ack: seq, ..conn.segment(ACK, 77) }
        } else {
            conn.opened(segment);
            conn.segment(SYN | ACK, 0)
        };
        put(outbox, conn.v4, &answer, &[], u16::MAX);
    }
}

/// A segment arrives at a guest whose connection is open: section 3.10.7.4.
pub(super) fn passed_on(
    outbox: &mut Vec<Packet>,
    conn: &mut Conn,
    segment: &Segment,
    payload: &[u8],
    taken: Option<u64>,
) {
    let (reset, syn) = (segment.flags.contains(RST), segment.flags.contains(SYN));
    if reset && conn.believes(segment) {
        let done = conn.guest.fin && conn.guest.end == Some(conn.guest.next);
        assert!(conn.broken || done, "reset: {conn:#?}");
        conn.phase = Phase::Gone;
    } else if syn && !segment.flags.contains(ACK) {
        let again = conn.segment(SYN | ACK, 0);
        put(outbox, conn.v4, &again, &[], u16::MAX);
    } else if reset || syn {
        conn.guest.owes = true;
    } else {
        // A challenge may come before it is open.
        let acked = segment.ack != conn.guest.iss + 1;
        conn.confirmed |= acked || !payload.is_empty() || segment.flags.contains(FIN);
        conn.arrived(segment, payload, taken);
    }
}

/// What a host answers that has no such connection: RFC 9293, section 3.10.7.1.
pub(super) fn refuse(outbox: &mut Vec<Packet>, v4: bool, segment: &Segment, payload: &[u8]) {
    if segment.flags.contains(RST) {
        return;
    }
    let ports = Segment { src_port: segment.dst_port, dst_port: segment.src_port, ..Segment::default() };
    let len = u32::try_from(payload.len()).expect("a frame");
    let control = u32::from(segment.flags.contains(SYN)) + u32::from(segment.flags.contains(FIN));
    let reset = if segment.flags.contains(ACK) {
        Segment { seq: segment.ack, flags: RST, ..ports }
    } else {
        Segment { ack: segment.seq + len + control, flags: RST | ACK, ..ports }
    };
    put(outbox, v4, &reset, &[], u16::MAX);
}
