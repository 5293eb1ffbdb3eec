//! Interprets bytes as operations on a connection, from both sides, and checks
//! after each what has to hold whatever a guest does. Used by a property test and by a fuzz target.

use passt_proto::seq::Seq;
use passt_proto::tcp::{Action, Behind, Config, Connection, Event};
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::tcp::{Flags, Options, Segment};

const MAX_ACTIONS: usize = 10_000;
const ISS: Seq = Seq(0xffff_f000);
const IRS: Seq = Seq(0x7fff_ff00);

/// Runs a script; panics if a rule is broken.
pub(crate) fn run(script: &[u8]) {
    let mut bytes = Bytes(script);
    let Some(mut world) = World::new(&mut bytes) else { return };
    while world.conn.is_some() {
        if world.operation(&mut bytes).is_none() {
            return;
        }
    }
}

/// The rest of a script.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn u16(&mut self) -> Option<u32> {
        Some(u32::from(u16::from_be_bytes([self.u8()?, self.u8()?])))
    }

    /// A number near `base`, or anywhere.
    fn near(&mut self, base: Seq) -> Option<Seq> {
        Some(match self.u8()? % 16 {
            0..10 => base,
            10..13 => base + u32::from(self.u8()?),
            13..15 => base + self.u16()? - 0x8000,
            _ => Seq(self.u16()? << 16 | self.u16()?),
        })
    }
}

/// A connection, and both sides as far as rules depend on them.
struct World {
    conn: Option<Connection>,
    now: Instant,
    far: bool,
    /// Sent by the guest: next byte expected; whether that was told by the connection.
    irs: Option<Seq>,
    next: Seq,
    pushed: u32,
    held: u32,
    /// The guest may have finished: what it sends then is of no interest.
    fin: bool,
    shut: bool,
    unacknowledged: u32,
    /// Last acknowledged to the guest, and when that was new.
    told: Option<Seq>,
    told_at: Instant,
    /// The guest may have insisted on an acknowledgement.
    lenient: bool,
    /// Furthest right edge promised to the guest, and by it.
    edge: Option<Seq>,
    guest_edge: Seq,
    /// Shifts of the window fields; the guest's is `None` if it offered none.
    guest_scale: Option<u8>,
    scale: u8,
    /// In the host's receive queue: its head, its length, and whether the stream ends there.
    head: Seq,
    queue: u32,
    ended: bool,
    /// Sent to the guest, and acknowledged by it.
    max: Seq,
    acked: Seq,
    open: bool,
}

impl World {
    fn new(bytes: &mut Bytes) -> Option<Self> {
        let bits = bytes.u8()?;
        let config = Config {
            mss: u16::try_from(bytes.u16()?.clamp(88, 65_000)).ok()?,
            room: bytes.u16()? << (bits & 7),
            max_peek: 65_483,
            sack: bits & 16 != 0,
        };
        let (now, far) = (Instant::from_millis(1000), bits & 32 != 0);
        let mut world = Self {
            conn: None,
            now,
            far,
            irs: None,
            next: IRS + 1,
            pushed: 0,
            held: 0,
            fin: false,
            shut: false,
            unacknowledged: 0,
            told: None,
            told_at: now,
            lenient: false,
            edge: None,
            guest_edge: ISS + 1,
            guest_scale: None,
            scale: 0,
            head: ISS + 1,
            queue: 0,
            ended: false,
            max: ISS + 1,
            acked: ISS + 1,
            open: false,
        };
        world.conn = Some(if bits & 64 == 0 {
            Connection::from_host(config, 80, 40_000, ISS, world.far(), now)
        } else {
            let flags = Flags::SYN;
            let syn =
                Segment { seq: IRS, flags, window: 1000, options: options(bytes)?, ..Segment::default() };
            world.syn(&syn);
            Connection::from_guest(config, &syn, ISS)
        });
        world.settle(bytes);
        if bits & 128 == 0 {
            world.handshake(bytes)?;
        }
        Some(world)
    }

    /// Most scripts begin with a connection that is open.
    fn handshake(&mut self, bytes: &mut Bytes) -> Option<()> {
        let mut segment = Segment { seq: IRS + 1, ack: ISS + 1, flags: Flags::ACK, ..Segment::default() };
        if self.irs.is_none() {
            let flags = Flags::SYN | Flags::ACK;
            segment = Segment { seq: IRS, flags, window: 1000, options: options(bytes)?, ..segment };
            self.syn(&segment);
        }
        self.event(Event::Connected { far: self.far() });
        self.settle(bytes);
        self.conn.as_mut()?.segment(self.now, &segment, 0);
        self.settle(bytes);
        Some(())
    }

    fn far(&self) -> Option<Duration> {
        self.far.then_some(Duration::from_millis(50))
    }

    fn operation(&mut self, bytes: &mut Bytes) -> Option<()> {
        match bytes.u8()? % 16 {
            0..7 => self.segment(bytes)?,
            7 => self.event(Event::Connected { far: self.far() }),
            8..10 => {
                if !self.ended {
                    self.queue = self.queue.saturating_add(bytes.u16()?).min(1 << 22);
                }
                self.event(Event::Readable);
            }
            10 => {
                self.ended = true;
                self.event(Event::Readable);
            }
            11 => {
                self.held = self.held.saturating_sub(bytes.u16()?);
                self.event(Event::Flushed { held: self.held });
            }
            12 => {
                self.unacknowledged = bytes.u16()?;
                self.event(Event::Timeout);
            }
            13 => {
                self.now = self.now + Duration::from_millis(u64::from(bytes.u16()?) << (bytes.u8()? % 8));
                self.event(Event::Timeout);
            }
            14 => {
                self.now = self.conn.as_ref()?.next_timeout().unwrap_or(self.now).max(self.now);
                self.event(Event::Timeout);
            }
            _ => match bytes.u8()? {
                0 => self.event(Event::Failed),
                1..64 => self.quiet(bytes),
                64..96 => {
                    let seq = bytes.near(self.max)?;
                    let heeded = self.conn.as_mut()?.undelivered(seq).is_ok();
                    assert!(!heeded || !self.open, "an open connection goes on");
                }
                96..128 => self.shrink(bytes)?,
                _ => {
                    let room = bytes.u16()? << (bytes.u8()? & 7);
                    if let Some(conn) = &mut self.conn {
                        conn.set_room(room);
                    }
                }
            },
        }
        self.settle(bytes);
        Some(())
    }

    /// A path takes less than was sent: only what is under way counts.
    fn shrink(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (seq, mss) = (bytes.near(self.head)?, bytes.u16()?);
        let conn = self.conn.as_mut()?;
        let before = conn.mss();
        let heeded = conn.shrink(self.now, seq, mss).is_ok();
        assert_eq!(conn.mss(), if heeded { mss.max(1) } else { before });
        assert!(!heeded || (mss < before && !seq.before(self.head) && seq.before(self.max)));
        Some(())
    }

    /// What has waited is told then.
    fn quiet(&mut self, bytes: &mut Bytes) {
        let due = !self.far && self.conn.as_ref().is_some_and(Connection::awaits_quiet);
        self.event(Event::Quiet);
        self.settle(bytes);
        let told = self.conn.is_none() || self.told == Some(self.queued_end());
        assert!(!due || told, "{:?} instead of {:?}", self.told, self.queued_end());
    }

    fn event(&mut self, event: Event) {
        if let Some(conn) = &mut self.conn {
            conn.handle(self.now, event);
        }
    }

    fn segment(&mut self, bytes: &mut Bytes) -> Option<()> {
        let flags = match bytes.u8()? {
            0..4 => Flags::from_bits_retain(bytes.u8()?),
            4..16 => Flags::FIN | Flags::ACK,
            16..20 => Flags::SYN | Flags::ACK,
            _ => Flags::ACK,
        };
        let seq = bytes.near(self.next + u32::from(self.fin))?;
        let ack = if bytes.u8()? % 4 == 0 { self.acked } else { bytes.near(self.max)? };
        let len = if flags.contains(Flags::SYN) { 0 } else { bytes.u16()? >> (bytes.u8()? % 17) };
        let window = u16::try_from(bytes.u16()?).ok()?;
        let seq = if flags.contains(Flags::SYN) && self.irs.is_none() { IRS } else { seq };
        let segment = Segment { seq, ack, flags, window, options: options(bytes)?, ..Segment::default() };
        if flags.contains(Flags::SYN | Flags::ACK) && ack == self.max && self.irs.is_none() {
            self.syn(&segment);
        }
        if flags.contains(Flags::ACK) && !ack.after(self.max) && !ack.before(self.head) {
            self.acked = self.acked.max(ack);
            let scale = if flags.contains(Flags::SYN) { 0 } else { self.guest_scale.unwrap_or(0) };
            self.guest_edge = self.guest_edge.max(ack + (u32::from(window) << scale));
        }
        let due = self.due(&segment, len);
        let push = self.conn.as_mut()?.segment(self.now, &segment, len);
        assert!(push.skip.checked_add(push.len).is_some_and(|end| end <= len), "{push:?} of {len}");
        assert!(due.is_none_or(|due| push.len == due), "{push:?} instead of {due:?}");
        self.fin |= flags.contains(Flags::FIN) && !seq.after(self.next);
        self.pushed += push.len;
        self.next += push.len;
        if bytes.u8()? % 4 > 0 {
            // The batch ends; what it brought may have to wait.
            self.held += self.pushed >> (bytes.u8()? % 4) >> 1;
            self.event(Event::Queued { taken: self.pushed, held: self.held });
            self.pushed = 0;
            if bytes.u8()? % 4 == 0 {
                self.event(Event::Busy);
            }
            self.settle(bytes);
        }
        Some(())
    }

    fn syn(&mut self, syn: &Segment) {
        self.irs = Some(syn.seq);
        self.guest_scale = syn.options.window_scale;
        self.guest_edge = ISS + 1 + u32::from(syn.window);
    }

    /// What has to be taken of a segment that is plain, in sequence and inside the window.
    fn due(&self, segment: &Segment, len: u32) -> Option<u32> {
        let end = segment.seq + len;
        let plain = segment.flags.contains(Flags::ACK) && !segment.flags.intersects(Flags::SYN | Flags::RST);
        let fits = !segment.seq.after(self.next) && end.after(self.next) && !end.after(self.edge?);
        // What is acknowledged may also be older, but not by more than a window.
        let known = self.open && !self.fin && !segment.ack.after(self.max) && !segment.ack.before(self.acked);
        (plain && fits && known).then(|| end.distance(self.next))
    }

    /// Does what the connection wants.
    fn settle(&mut self, bytes: &mut Bytes) {
        for _ in 0..MAX_ACTIONS {
            let Some(action) = self.conn.as_mut().and_then(|conn| conn.next_action(self.now)) else { return };
            match action {
                Action::Emit(segment) => self.sent(&segment, 0),
                Action::Peek { offset, len } => self.peek(bytes, offset, len),
                Action::Discard(n) => {
                    assert!(n <= self.queue && n > 0, "{n} of {}", self.queue);
                    assert!(!(self.head + n).after(self.acked), "the guest does not have it");
                    self.head += n;
                    self.queue -= n;
                }
                Action::Shutdown => {
                    assert_eq!((self.held, self.shut), (0, false));
                    self.shut = true;
                }
                Action::AskUnacknowledged => {
                    let has = self.queued_end().distance(IRS + 1);
                    self.unacknowledged = self.unacknowledged.min(has);
                    self.event(Event::Unacknowledged { bytes: self.unacknowledged });
                }
                Action::KeepAlive(interval) => {
                    assert!((10..=7200).contains(&interval.as_secs()), "{interval:?}");
                    if bytes.u8().is_some_and(|b| b % 2 == 0) {
                        self.event(Event::Alive);
                    }
                }
                Action::Abort | Action::Close => self.conn = None,
            }
        }
        panic!("actions do not end");
    }

    fn peek(&mut self, bytes: &mut Bytes, offset: u32, len: u32) {
        assert!(len > 0);
        self.open = true;
        let Some(conn) = &mut self.conn else { return };
        // Now and then the kernel hands out less than it has.
        let there = self.queue.saturating_sub(offset);
        let short = if bytes.u8().is_some_and(|b| b == 7) { there / 2 } else { there };
        let found = short.min(len);
        if found == 0 {
            conn.drained(if self.ended && there == 0 { Behind::End } else { Behind::Nothing });
            return;
        }
        let behind = if found == len {
            Behind::More
        } else if self.ended && found == there {
            Behind::End
        } else {
            Behind::Nothing
        };
        let segment = conn.transmit(self.now, found, behind);
        assert_eq!(segment.seq, self.head + offset);
        self.sent(&segment, found);
    }

    /// End of what the host's kernel has.
    fn queued_end(&self) -> Seq {
        self.next - self.pushed - self.held + u32::from(self.shut)
    }

    fn sent(&mut self, segment: &Segment, len: u32) {
        if segment.flags.contains(Flags::RST) {
            return;
        }
        let (syn, fin) = (segment.flags.contains(Flags::SYN), segment.flags.contains(Flags::FIN));
        // While it is being opened, an acknowledgement without SYN is a challenge.
        self.open |= !syn && !self.conn.as_ref().is_some_and(Connection::is_opening);
        if syn {
            self.scale = segment.options.window_scale.unwrap_or(0);
        } else {
            assert!(len == 0 || !(segment.seq + len).after(self.guest_edge), "more than the guest's window");
            self.max = self.max.max(segment.seq + len + u32::from(fin));
        }
        if segment.flags.contains(Flags::ACK) {
            self.lenient |= self.now.since(self.told_at) >= Duration::from_secs(1);
            let held = if self.lenient { self.held + u32::from(self.fin && !self.shut) } else { 0 };
            assert!(!segment.ack.after(self.queued_end() + held), "acknowledges what the host does not have");
            if self.told.replace(segment.ack) != Some(segment.ack) {
                self.told_at = self.now;
            }
            let scale = if syn || self.guest_scale.is_none() { 0 } else { self.scale };
            let edge = segment.ack + (u32::from(segment.window) << scale);
            assert!(self.edge.is_none_or(|before| !edge.before(before)), "the right edge moved back");
            self.edge = Some(edge);
        }
    }
}

fn options(bytes: &mut Bytes) -> Option<Options> {
    let bits = bytes.u8()?;
    let mut options = Options::default();
    if bits & 1 != 0 {
        options.mss = Some(u16::try_from(bytes.u16()?).ok()?);
    }
    if bits & 2 != 0 {
        options.window_scale = Some(bytes.u8()? % 15);
    }
    options.sack_permitted = bits & 4 != 0;
    for _ in 0..bits >> 6 {
        let from = bytes.near(ISS)?;
        options.sack.push(from, bytes.near(from + 1000)?);
    }
    Some(options)
}
