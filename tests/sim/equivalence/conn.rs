//! One connection of the model: what its guest and its peer on the host have written, sent and
//! seen.
//!
//! Positions are counted from each stream's first byte.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::RawFd;

use passt_engine::flow::Handle;
use passt_proto::seq::Seq;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::tcp::{Flags, Options, Segment};
use rustix::net::SendFlags;

use super::tape::Tape;

/// Where the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its SYN was sent.
    SynSent,
    /// The host began; no SYN was seen yet.
    Listening,
    Open,
    /// It knows of no such connection.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Conn {
    /// Tells the content of its streams from that of others.
    pub(crate) id: u32,
    pub(crate) v4: bool,
    /// The guest's port, and that of the host's peer as the guest sees it.
    pub(crate) ports: (u16, u16),
    pub(crate) phase: Phase,
    pub(crate) guest: Guest,
    pub(crate) host: Host,
    /// The engine's flow, and its socket with its port.
    pub(crate) handle: Option<Handle>,
    pub(crate) fd: Option<(RawFd, u16)>,
    /// Jumps of the clock before it was open.
    pub(crate) waited: u32,
    /// The engine is known to have opened it.
    pub(crate) confirmed: bool,
    /// One of the two reset it: the other may hear of that.
    pub(crate) broken: bool,
    /// Its SYN came in the same batch as a RST that ended its predecessor: it has to have an
    /// effect.
    pub(crate) due: bool,
}

/// The guest's end.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) iss: Seq,
    irs: Seq,
    pub(crate) offer: Options,
    /// Sent, and acknowledged.
    pub(crate) max: u32,
    pub(crate) una: u32,
    /// What the engine can take.
    pub(crate) edge: u32,
    scale: u8,
    /// It has finished; that is acknowledged.
    pub(crate) fin: bool,
    pub(crate) fin_acked: bool,
    /// Received without a gap, and what lies behind.
    pub(crate) next: u32,
    ranges: BTreeMap<u32, u32>,
    pub(crate) end: Option<u32>,
    /// The window to be told, and the furthest edge that was.
    pub(crate) window: u16,
    granted: u32,
    /// Another connection's number that it acknowledges until that is reset.
    pub(crate) half_open: Option<Seq>,
    pub(crate) owes: bool,
    /// When it sent last what was not acknowledged, and the first time since something was.
    sent: Option<Instant>,
    stalled: Option<Instant>,
    /// It may have repeated something for a second.
    lenient: bool,
}

/// The peer on the host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) listener: Option<TcpListener>,
    pub(crate) stream: Option<TcpStream>,
    pub(crate) written: u32,
    pub(crate) read: u32,
    pub(crate) eof: bool,
    pub(crate) shut: bool,
}

impl Host {
    pub(crate) fn new(listener: Option<TcpListener>, stream: Option<TcpStream>) -> Self {
        Self { listener, stream, written: 0, read: 0, eof: false, shut: false }
    }
}

/// A byte of the stream of `id` from the guest, or to it.
fn content(id: u32, up: bool, at: u32) -> u8 {
    let key = u64::from(id) << 33 | u64::from(up) << 32 | u64::from(at);
    key.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

fn bytes(id: u32, up: bool, from: u32, len: u32) -> Vec<u8> {
    (from..from + len).map(|at| content(id, up, at)).collect()
}

#[track_caller]
fn check(id: u32, up: bool, from: u32, found: &[u8]) {
    for (at, byte) in (from..).zip(found) {
        let expected = content(id, up, at);
        assert_eq!(
            *byte,
            expected,
            "byte {at} of stream {id}, {}",
            if up { "from the guest" } else { "to it" }
        );
    }
}

impl Conn {
    pub(crate) fn new(
        id: u32,
        v4: bool,
        ports: (u16, u16),
        phase: Phase,
        host: Host,
        tape: &mut Tape,
    ) -> Self {
        let scale = if tape.one_in(3) { None } else { Some(u8::try_from(tape.below(15)).expect("small")) };
        let mss = 88 + u16::try_from(tape.below(65_000)).expect("16 bits");
        let offer = Options {
            mss: Some(mss),
            window_scale: scale,
            sack_permitted: tape.one_in(2),
            ..Options::default()
        };
        let guest = Guest {
            // Never the one before on the same port, whatever the tape says.
            iss: Seq(tape.any().wrapping_add(id.wrapping_mul(0x9e37_79b9))),
            irs: Seq(0),
            offer,
            max: 0,
            una: 0,
            edge: 0,
            scale: 0,
            fin: false,
            fin_acked: false,
            next: 0,
            ranges: BTreeMap::new(),
            end: None,
            window: u16::MAX,
            granted: 0,
            half_open: None,
            owes: false,
            sent: None,
            stalled: None,
            lenient: false,
        };
        Self {
            id,
            v4,
            ports,
            phase,
            guest,
            host,
            handle: None,
            fd: None,
            waited: 0,
            confirmed: false,
            broken: false,
            due: false,
        }
    }

    /// A segment of the guest without payload, numbered from the stream's position `at`.
    pub(crate) fn segment(&mut self, flags: Flags, at: u32) -> Segment {
        let guest = &mut self.guest;
        let sack = guest.offer.sack_permitted;
        let mut options = Options::default();
        for (&from, &to) in guest.ranges.iter().filter(|_| sack).take(3) {
            options.sack.push(guest.irs + 1 + from, guest.irs + 1 + to);
        }
        let syn = flags.contains(Flags::SYN);
        let scale = if syn { 0 } else { guest.offer.window_scale.unwrap_or(0) };
        guest.granted = guest.granted.max(guest.next + (u32::from(guest.window) << scale));
        let end = u32::from(guest.end == Some(guest.next));
        Segment {
            src_port: self.ports.0,
            dst_port: self.ports.1,
            seq: if syn { guest.iss } else { guest.iss + 1 + at },
            ack: if flags.contains(Flags::ACK) { guest.irs + 1 + guest.next + end } else { Seq(0) },
            flags,
            window: guest.window,
            options: if syn { guest.offer } else { options },
        }
    }

    /// The position behind all that was sent, FIN included.
    pub(crate) fn sent(&self) -> u32 {
        self.guest.max + u32::from(self.guest.fin)
    }

    /// The guest's payload at a position.
    pub(crate) fn payload(&self, from: u32, len: u32) -> Vec<u8> {
        bytes(self.id, true, from, len)
    }

    /// The engine opened it, or answered that: the guest has the engine's number, window and offer.
    pub(crate) fn opened(&mut self, segment: &Segment) {
        let guest = &mut self.guest;
        guest.irs = segment.seq;
        guest.edge = segment.window.into();
        guest.scale =
            segment.options.window_scale.filter(|_| guest.offer.window_scale.is_some()).unwrap_or(0);
        if segment.options.window_scale.is_none() {
            guest.offer.window_scale = None;
        }
        if !segment.options.sack_permitted {
            guest.offer.sack_permitted = false;
        }
        guest.owes = true;
        self.phase = Phase::Open;
        self.due = false;
    }

    /// Whether a RST is one that the guest believes.
    pub(crate) fn believes(&self, segment: &Segment) -> bool {
        let end = u32::from(self.guest.end == Some(self.guest.next));
        segment.seq == self.guest.irs + 1 + self.guest.next + end
    }

    /// A segment of an open connection arrived at the guest. `taken` says how much the engine's
    /// socket took, if that is known.
    pub(crate) fn arrived(&mut self, segment: &Segment, payload: &[u8], taken: Option<u64>) {
        let guest = &mut self.guest;
        let acked = segment.ack.distance(guest.iss + 1);
        assert!(acked <= guest.max + u32::from(guest.fin), "{acked} acknowledged of {}", guest.max);
        let data = acked.min(guest.max);
        if let Some(taken) = taken {
            // What the guest repeats for a second in vain is acknowledged wherever it waits.
            let is_there = u64::from(data) <= taken && (acked == data || taken == u64::from(data));
            assert!(is_there || guest.lenient, "{acked} acknowledged, the host's kernel has {taken}");
        }
        if data > guest.una {
            guest.stalled = guest.sent;
        }
        guest.fin_acked |= acked > guest.max;
        guest.una = guest.una.max(data);
        let edge = acked + (u32::from(segment.window) << guest.scale);
        assert!(edge >= guest.edge, "the right edge moved from {} back to {edge}", guest.edge);
        guest.edge = edge;
        let len = u32::try_from(payload.len()).expect("a frame");
        let (fin, at) = (segment.flags.contains(Flags::FIN), segment.seq.distance(guest.irs + 1));
        if len == 0 && !fin {
            // A probe is behind what the guest has; the rest needs no answer.
            guest.owes |=
                segment.seq != guest.irs + 1 + guest.next + u32::from(guest.end == Some(guest.next));
            return;
        }
        guest.owes = true;
        assert!(
            len == 0 || at + len <= guest.granted,
            "{at} + {len} sent into a window up to {}",
            guest.granted
        );
        assert!(at + len <= self.host.written, "{at} + {len} sent of {}", self.host.written);
        check(self.id, false, at, payload);
        if fin {
            assert!(self.broken || self.host.shut && at + len == self.host.written, "an end that is none");
            guest.end = Some(at + len);
        }
        guest.insert(at, at + len);
    }

    /// What the host's peer does with its stream: reads up to `len` bytes.
    pub(crate) fn read(&mut self, len: usize) -> bool {
        let Some(stream) = &mut self.host.stream else { return false };
        let mut buffer = vec![0; len];
        match stream.read(&mut buffer) {
            Ok(0) if len > 0 => {
                let ended = self.guest.fin && self.host.read == self.guest.max;
                assert!(self.broken || ended, "{} of {} bytes, then an end", self.host.read, self.guest.max);
                !std::mem::replace(&mut self.host.eof, true)
            }
            Ok(n) => {
                check(self.id, true, self.host.read, &buffer[..n]);
                self.host.read += u32::try_from(n).expect("a length");
                assert!(self.host.read <= self.guest.max, "more than was sent");
                n > 0
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            Err(e) => {
                assert!(self.broken, "stream {}: {e}", self.id);
                false
            }
        }
    }

    pub(crate) fn write(&mut self, len: u32) -> bool {
        let Some(stream) = self.host.stream.as_mut().filter(|_| !self.host.shut) else { return false };
        match stream.write(&bytes(self.id, false, self.host.written, len)) {
            Ok(n) => {
                self.host.written += u32::try_from(n).expect("a length");
                n > 0
            }
            Err(e) => {
                assert!(self.broken || e.kind() == ErrorKind::WouldBlock, "stream {}: {e}", self.id);
                false
            }
        }
    }

    /// Sends a byte as urgent. The kernel ends reads there. False if there was no room.
    pub(crate) fn write_urgent(&mut self) -> bool {
        let Some(stream) = self.host.stream.as_mut().filter(|_| !self.host.shut) else { return false };
        let byte = bytes(self.id, false, self.host.written, 1);
        let sent = rustix::net::send(stream, &byte, SendFlags::OOB | SendFlags::NOSIGNAL) == Ok(1);
        self.host.written += u32::from(sent);
        sent
    }

    pub(crate) fn shut(&mut self) {
        if let Some(stream) = self.host.stream.as_ref().filter(|_| !self.host.shut) {
            self.host.shut = stream.shutdown(Shutdown::Write).is_ok() || self.broken;
            // The guest's time to answer may have passed before.
            self.broken |= self.is_left();
        }
    }

    /// Whether its client left without a word before the guest had answered in time: nobody waits
    /// for that.
    pub(crate) fn is_left(&self) -> bool {
        let silent = self.host.listener.is_none() && self.host.shut && self.host.written == 0;
        silent && !self.confirmed && self.waited > 0
    }

    /// All that either side wrote has arrived, and both ends.
    pub(crate) fn is_complete(&self) -> bool {
        let up = self.host.eof && self.host.read == self.guest.max;
        let down = self.guest.end == Some(self.guest.next) && self.guest.next == self.host.written;
        up && down && self.guest.fin && self.host.shut
    }
}

impl Guest {
    /// It sends what ends at a position.
    pub(crate) fn sends(&mut self, end: u32, now: Instant) {
        if end > self.una {
            self.sent = Some(now);
            self.stalled.get_or_insert(now);
        }
    }

    /// It is the time `now`: what it has sent for a second in vain may have been acknowledged.
    pub(crate) fn waits(&mut self, now: Instant) {
        self.lenient |= self.stalled.is_some_and(|since| now.since(since) >= Duration::from_secs(1));
    }

    fn insert(&mut self, mut from: u32, mut to: u32) {
        let touching: Vec<u32> =
            self.ranges.iter().filter(|&(&f, &t)| f <= to && t >= from).map(|(&f, _)| f).collect();
        for start in touching {
            let end = self.ranges.remove(&start).expect("it");
            (from, to) = (from.min(start), to.max(end));
        }
        if from <= self.next {
            self.next = self.next.max(to);
        } else {
            self.ranges.insert(from, to);
        }
    }

    /// The number of the engine's next byte, and the number it has of the guest.
    pub(crate) fn numbers(&self) -> (Seq, Seq) {
        (self.irs, self.iss)
    }
}
