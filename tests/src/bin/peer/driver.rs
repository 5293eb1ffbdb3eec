//! A driver of vhost-user's queues with one TCP connection, whose data it does not look at: a guest
//! that costs next to nothing, so that the back end is what is measured.
//!
//! It takes from the device what that offers, receives in order only, and sends all behind the last
//! acknowledgement again when that is repeated, or nothing has come for a while.

use std::net::SocketAddrV4;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use passt_engine::link::channel::Packet;
use passt_engine::link::vhost_user::mock::{Machine, RECEIVE, Shape, TRANSMIT};
use passt_engine::link::vhost_user::{Features, ProtocolFeatures};
use passt_proto::addr::{Addr, Mac};
use passt_proto::seq::Seq;
use passt_proto::wire::build::Path;
use passt_proto::wire::tcp::{Flags, Options, Segment};
use passt_tests::{HOST4, eventually_within, frame};
use rustix::event::{PollFd, PollFlags, poll};

/// Ethernet, IPv4 without options.
const IP: usize = frame::ETHERNET;
const TCP: usize = IP + 20;
/// With all options that are known.
const HEADERS: usize = TCP + 60;
/// The most that a packet of IPv4 carries behind the headers.
const LARGEST: usize = 65_535 - 40;

const PORT: u16 = 40_000;
const INITIAL: Seq = Seq(1_000_000);
const SCALE: u8 = 7;
/// As Linux's `tcp_rmem` has it: half of 6 MiB.
const WINDOW: u32 = 3 << 20;
/// The most to have under way, for want of congestion control.
const UNDER_WAY: u32 = 256 << 10;
/// Without anything new for so long all is sent again.
const STALLED: Duration = Duration::from_millis(200);
/// For how long the back end is waited for, and the server: that is asked each time that all is sent
/// again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Moves data `in` or `out` for a time by a connection to the server [`serve`](crate::tcp::serve) at
/// `to`; returns how many bytes, and in how many seconds.
#[expect(clippy::disallowed_methods, reason = "real time is measured")]
pub(crate) fn run(socket: &str, direction: &str, to: &str, mtu: u16, seconds: u64) -> Result<String> {
    let mut driver = Driver::new(socket, to.parse()?, mtu)?;
    driver.connect()?;
    driver.say(if direction == "in" { b"flood\n" } else { b"sink\n" });
    let (start, time) = (Instant::now(), Duration::from_secs(seconds));
    while start.elapsed() < time {
        if direction == "out" {
            driver.fill();
        }
        driver.receive()?;
    }
    let elapsed = start.elapsed().as_secs_f64();
    driver.emit(driver.next, Flags::RST | Flags::ACK, Options::default());
    Ok(format!("{} {elapsed}", driver.moved))
}

struct Driver {
    machine: Machine,
    path: Path,
    to: u16,
    /// Bytes of payload of a segment.
    mss: u16,
    /// Whether a frame may have several of them.
    is_cut: bool,
    /// The next number to come.
    received: Seq,
    /// The first number that was not acknowledged, and the next to send.
    acknowledged: Seq,
    next: Seq,
    /// How often that acknowledgement was repeated.
    repeated: u32,
    /// What may be under way, and how it is scaled.
    window: u32,
    scale: u8,
    /// Bytes that were received or acknowledged.
    moved: u64,
    /// When something new came last.
    news: Instant,
}

impl Driver {
    #[expect(clippy::disallowed_methods, reason = "real time is measured")]
    fn new(socket: &str, to: SocketAddrV4, mtu: u16) -> Result<Self> {
        let usual = Shape::usual(ProtocolFeatures::REPLY_ACK);
        let shape = Shape { buffer: 4096, ..usual };
        let mut machine = Machine::new(shape, UnixStream::connect(socket).context("the back end")?)?;
        machine.numbers(1, false, &[]);
        let (_, offered) = eventually_within(PATIENCE, "an answer of the back end", || machine.number());
        let features = shape.features & Features::from_bits_retain(offered);
        machine.renew(features);
        machine.start();
        machine.post();
        let mss = mtu.checked_sub(40).context("the MTU")?;
        let path = Path {
            src_mac: Mac([2, 0, 0, 0, 0, 1]),
            dst_mac: Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]),
            src: HOST4.parse::<std::net::Ipv4Addr>()?.into(),
            dst: Addr::from(*to.ip()),
            ttl: 64,
            traffic_class: 0,
        };
        Ok(Self {
            machine,
            path,
            to: to.port(),
            mss,
            is_cut: features.contains(Features::HOST_TSO4),
            repeated: 0,
            received: Seq(0),
            acknowledged: INITIAL,
            next: INITIAL + 1,
            window: 0,
            scale: 0,
            moved: 0,
            news: Instant::now(),
        })
    }

    /// A frame's headers, for `payload` bytes.
    fn headers(&self, seq: Seq, flags: Flags, options: Options, payload: usize) -> Packet {
        let window = if flags.contains(Flags::SYN) { u32::from(u16::MAX) } else { WINDOW >> SCALE };
        let segment = Segment {
            src_port: PORT,
            dst_port: self.to,
            seq,
            ack: self.received,
            flags,
            window: u16::try_from(window).expect("a window"),
            options,
        };
        let mut bytes = vec![0; HEADERS];
        let emitted = self.path.emit_tcp(&mut bytes, &segment, payload, self.mss);
        let (len, offload) = emitted.expect("room for headers");
        bytes.truncate(len);
        Packet { bytes, offload }
    }

    fn emit(&mut self, seq: Seq, flags: Flags, options: Options) {
        let headers = self.headers(seq, flags, options, 0);
        self.machine.send_any(&[(headers, 0)]);
    }

    #[expect(clippy::disallowed_methods, reason = "a server answers in real time")]
    fn connect(&mut self) -> Result<()> {
        let options = Options { mss: Some(self.mss), window_scale: Some(SCALE), ..Options::default() };
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            self.emit(INITIAL, Flags::SYN, options);
            self.wait(STALLED);
            let answer = self.answer()?;
            self.machine.post();
            let Some(Segment { seq, ack, window, options, .. }) = answer else { continue };
            self.scale = options.window_scale.unwrap_or(0);
            (self.received, self.acknowledged, self.window) = (seq + 1, ack, window.into());
            self.mss = self.mss.min(options.mss.unwrap_or(self.mss));
            self.emit(self.next, Flags::ACK, Options::default());
            return Ok(());
        }
        bail!("no answer to the first segment")
    }

    /// The server's answer to the first segment, if it is there.
    fn answer(&mut self) -> Result<Option<Segment>> {
        while let Some((head, _)) = self.machine.take_head(HEADERS) {
            let Some((segment, _)) = Self::parse(&head) else { continue };
            ensure!(!segment.flags.contains(Flags::RST), "the connection is refused");
            if segment.flags.contains(Flags::SYN | Flags::ACK) {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// A segment of the connection, and how long its payload is.
    fn parse(head: &[u8]) -> Option<(Segment, u32)> {
        let is_tcp = head.get(12..14)? == [8, 0] && head.get(IP + 9) == Some(&frame::TCP);
        let (segment, header) = Segment::parse(head.get(TCP..).filter(|_| is_tcp)?).ok()?;
        let total = u16::from_be_bytes([*head.get(IP + 2)?, *head.get(IP + 3)?]);
        let payload = usize::from(total).checked_sub(20 + header)?;
        (segment.dst_port == PORT).then_some((segment, u32::try_from(payload).ok()?))
    }

    /// Says what the connection is for.
    fn say(&mut self, request: &[u8]) {
        let headers = self.headers(self.next, Flags::ACK | Flags::PSH, Options::default(), request.len());
        let bytes = [&headers.bytes, request].concat();
        self.machine.send(&Packet { bytes, offload: headers.offload }, &[]);
        self.next += u32::try_from(request.len()).expect("a line");
    }

    /// Takes what has come, and acknowledges it once.
    #[expect(clippy::disallowed_methods, reason = "real time is measured")]
    fn receive(&mut self) -> Result<()> {
        let (received, acknowledged, mut data) = (self.received, self.acknowledged, false);
        while let Some((head, _)) = self.machine.take_head(HEADERS) {
            let Some((segment, payload)) = Self::parse(&head) else { continue };
            ensure!(!segment.flags.intersects(Flags::RST | Flags::FIN), "the connection has ended");
            data |= payload > 0;
            if segment.seq == self.received {
                self.received += payload;
            }
            if segment.ack.after(self.acknowledged) {
                (self.acknowledged, self.repeated) = (segment.ack, 0);
                self.next = self.next.max(segment.ack);
            } else if payload == 0 && self.next.after(segment.ack) {
                self.repeated += 1;
            }
            self.window = u32::from(segment.window) << self.scale;
        }
        let moved = self.received.distance(received) + self.acknowledged.distance(acknowledged);
        self.moved += u64::from(moved);
        self.machine.post();
        if data {
            self.emit(self.next, Flags::ACK, Options::default());
        }
        if self.repeated == 2 {
            self.next = self.acknowledged;
        }
        if moved > 0 {
            self.news = Instant::now();
        } else if self.news.elapsed() > STALLED {
            (self.next, self.news) = (self.acknowledged, Instant::now());
        } else {
            self.wait(STALLED);
        }
        Ok(())
    }

    /// Sends as much as may be under way.
    fn fill(&mut self) {
        let mss = usize::from(self.mss);
        let largest = if self.is_cut { LARGEST - LARGEST % mss } else { mss };
        let mut frames = Vec::new();
        let (mut next, edge) = (self.next, self.acknowledged + self.window.min(UNDER_WAY));
        while edge.after(next) && frames.len() < 64 {
            let room = usize::try_from(edge.distance(next)).expect("a window");
            let payload = room.min(largest);
            frames.push((self.headers(next, Flags::ACK, Options::default(), payload), payload));
            next += u32::try_from(payload).expect("a frame");
        }
        let sent = self.machine.send_any(&frames);
        for (_, payload) in &frames[..sent] {
            self.next += u32::try_from(*payload).expect("a frame");
        }
    }

    /// Waits until the device says something.
    fn wait(&self, most: Duration) {
        let calls = [RECEIVE, TRANSMIT].map(|index| self.machine.call(index));
        let mut fds = calls.map(|call| PollFd::from_borrowed_fd(call, PollFlags::IN));
        let _ = poll(&mut fds, Some(&most.try_into().expect("a short time")));
        for index in [RECEIVE, TRANSMIT] {
            self.machine.is_interrupted(index);
        }
    }
}
