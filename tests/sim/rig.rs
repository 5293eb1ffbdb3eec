//! An engine with one of the links that a test can have in memory, to be joined with any guest.
//! Used by the simulations and by a fuzz target.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::net::UnixStream;

use passt_engine::dispatch::Protocols;
use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::rule::{Listen, PortRange, Rule};
use passt_engine::forward::{Change, Changes, Entry, Forward};
use passt_engine::link::channel::{Channel, Packet};
use passt_engine::link::ring::{self, RingLink};
use passt_engine::link::stream::{Framing, StreamLink};
use passt_engine::link::vhost_user::mock::{self, Machine as Monitor};
use passt_engine::link::vhost_user::{self, Features, ProtocolFeatures, VhostUserLink};
use passt_engine::link::{Caps, ClientLink as _, Link};
use passt_engine::worker::{EngineOptions, Worker};
use passt_proto::addr::{Addr, Mac};
use passt_proto::guest::{Configured, FamilyConfig};
use passt_proto::responder::custom::Custom;
use passt_proto::responder::{Config, Services, V4, V6};
use passt_proto::wire::build::Path;
use passt_proto::wire::offload::Offload;

pub(crate) const GUEST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const GUEST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// What the guest calls the host's loopback, and its gateway.
pub(crate) const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const OURS6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Where frames enter and leave an engine.
pub(crate) trait End: Sized {
    /// The engine's end.
    type Link: Link;

    /// Both ends of a new link.
    fn pair() -> (Self, Self::Link);

    /// Sends a frame to the engine.
    fn send(&mut self, link: &mut Self::Link, frame: Packet);

    /// What the engine has sent.
    fn receive(&mut self, link: &mut Self::Link) -> Vec<Packet>;
}

/// The link in memory.
pub(crate) struct Memory;

impl End for Memory {
    type Link = Channel;

    fn pair() -> (Self, Channel) {
        (Self, Channel::plain())
    }

    fn send(&mut self, link: &mut Channel, frame: Packet) {
        link.from_guest.push_back(frame);
    }

    fn receive(&mut self, link: &mut Channel) -> Vec<Packet> {
        link.spent.clear();
        link.to_guest.drain(..).collect()
    }
}

/// The same, of which the engine receives so little at once that more is nearly always left.
pub(crate) struct Backlogged;

impl End for Backlogged {
    type Link = Channel;

    fn pair() -> (Self, Channel) {
        let (_, mut link) = Memory::pair();
        link.batch_limit = 2;
        (Self, link)
    }

    fn send(&mut self, link: &mut Channel, frame: Packet) {
        Memory.send(link, frame);
    }

    fn receive(&mut self, link: &mut Channel) -> Vec<Packet> {
        Memory.receive(link)
    }
}

/// A link that leaves segmentation and checksums of both protocols to the guest.
pub(crate) struct Offloading;

impl End for Offloading {
    type Link = Channel;

    fn pair() -> (Self, Channel) {
        (Self, Channel::new(Caps::ALL))
    }

    fn send(&mut self, link: &mut Channel, frame: Packet) {
        Memory.send(link, frame);
    }

    fn receive(&mut self, link: &mut Channel) -> Vec<Packet> {
        Memory.receive(link)
    }
}

/// Offloads of a ring: none.
pub(crate) const OFF: u8 = 0;
/// All.
pub(crate) const ON: u8 = 1;
/// Now all, now none, from one batch to the next.
pub(crate) const SWITCHED: u8 = 2;

/// A guest on rings in shared memory, whose frames lie in pieces.
pub(crate) struct Ring<const OFFLOADS: u8> {
    guest: ring::Guest,
    /// Frames that the ring did not take.
    outgoing: VecDeque<Packet>,
    caps: Caps,
    /// Batches seen, and frames sent.
    batches: usize,
    sent: usize,
    /// It gives no buffers back to the engine.
    pub(crate) holds: bool,
    /// The engine was told in the batch before the last, or earlier, that frames have to be plain.
    plain: bool,
}

impl<const OFFLOADS: u8> Ring<OFFLOADS> {
    fn push(&mut self) {
        while let Some(frame) = self.outgoing.front() {
            // All of the metadata at first, or a part; headers apart or not.
            let cuts: &[usize] =
                [&[] as &[usize], &[12], &[12, 14, 20, 20], &[3, 20, 1, 0, 400]][self.sent % 4];
            if !self.guest.send(frame, cuts) {
                break;
            }
            self.sent += 1;
            self.outgoing.pop_front();
        }
        self.guest.kick();
    }

    fn switch(&mut self) {
        self.caps = if self.caps == Caps::ALL { Caps::PLAIN } else { Caps::ALL };
        self.plain = false;
        self.guest.switch(self.caps);
    }
}

impl<const OFFLOADS: u8> End for Ring<OFFLOADS> {
    type Link = RingLink;

    fn pair() -> (Self, RingLink) {
        let shape = ring::Shape { transmit: 2048, receive: 512, buffer: 1000 };
        let caps = if OFFLOADS == OFF { Caps::PLAIN } else { Caps::ALL };
        let (mut guest, link) = ring::Guest::pair(shape, caps).expect("memory");
        guest.post();
        let plain = OFFLOADS == OFF;
        (Self { guest, outgoing: VecDeque::new(), caps, batches: 0, sent: 0, holds: false, plain }, link)
    }

    fn send(&mut self, _: &mut RingLink, frame: Packet) {
        self.outgoing.push_back(frame);
        self.push();
    }

    fn receive(&mut self, link: &mut RingLink) -> Vec<Packet> {
        let frames = self.guest.take();
        let bare = frames.iter().find(|frame| frame.offload != Offload::default());
        assert!(!self.plain || bare.is_none(), "{bare:?}");
        if !self.holds {
            self.guest.post();
        }
        self.push();
        self.plain = self.caps == Caps::PLAIN && link.caps() == Caps::PLAIN;
        self.batches += 1;
        if OFFLOADS == SWITCHED && self.batches.is_multiple_of(3) {
            self.switch();
        }
        frames
    }
}

/// A machine monitor that shares its guest's memory: with everything that can be agreed on, with
/// nothing of it, or with frames of any length in one buffer.
pub(crate) struct SharedMemory<const KIND: u8> {
    machine: Monitor,
    /// Frames that the queue did not take.
    outgoing: VecDeque<Packet>,
    sent: usize,
    /// It gives no buffers back to the engine.
    pub(crate) holds: bool,
}

/// Everything.
pub(crate) const FULL: u8 = 0;
/// Nothing.
pub(crate) const BARE: u8 = 1;
/// Super-frames without `VIRTIO_NET_F_MRG_RXBUF`.
pub(crate) const LARGE: u8 = 2;
/// Everything, and several pairs of queues.
pub(crate) const MANY: u8 = 3;
/// So many.
const PAIRS: usize = 4;

impl<const KIND: u8> SharedMemory<KIND> {
    fn shape() -> mock::Shape {
        let least = Features::VERSION_1 | Features::PROTOCOL_FEATURES;
        let large = Features::GUEST_CSUM | Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::EVENT_IDX;
        let (features, receive, buffer) = match KIND {
            FULL | MANY => (VhostUserLink::FEATURES, 512, 1000),
            // What drivers post that agree on nothing: a header of virtio, and a frame of Ethernet.
            BARE => (least, 512, 12 + 14 + 1500),
            _ => (least | large | Features::CSUM | Features::INDIRECT_DESC, 64, 66_000),
        };
        let pairs = if KIND == MANY { PAIRS } else { 1 };
        mock::Shape {
            features,
            protocol: ProtocolFeatures::REPLY_ACK,
            pairs,
            transmit: 2048,
            receive,
            buffer,
        }
    }

    /// The pair of queues that a connection goes by, as its port on the guest's side says; the
    /// first for other frames.
    fn pair_of(frame: &[u8], is_from_guest: bool) -> Option<usize> {
        const SYN_OR_RST: u8 = 2 | 4;
        let transport = match frame.get(12..14)? {
            [8, 0] if frame.get(23) == Some(&6) => 34,
            [0x86, 0xdd] if frame.get(20) == Some(&6) => 54,
            _ => return None,
        };
        let port = if is_from_guest { transport } else { transport + 2 };
        let port = frame.get(port..port + 2)?;
        // A connection that the host begins goes by the first until the guest has said something.
        if !is_from_guest && frame.get(transport + 13)? & SYN_OR_RST != 0 {
            return None;
        }
        Some(if KIND == MANY { usize::from(port[1]) % PAIRS } else { 0 })
    }

    fn push(&mut self) {
        while let Some(frame) = self.outgoing.front() {
            let cuts: &[usize] =
                [&[] as &[usize], &[12], &[12, 14, 20, 20], &[3, 20, 1, 0, 400]][self.sent % 4];
            let pair = Self::pair_of(&frame.bytes, true).unwrap_or(0);
            if !self.machine.send_by(pair, frame, cuts) {
                break;
            }
            self.sent += 1;
            self.outgoing.pop_front();
        }
    }

    /// What the engine has sent: each connection's by the pair that the guest uses for it.
    fn take(&mut self) -> Vec<Packet> {
        let mut all = Vec::new();
        for pair in 0..Self::shape().pairs {
            let frames = self.machine.take_from(pair);
            let stray = frames
                .iter()
                .find(|frame| Self::pair_of(&frame.bytes, false).is_some_and(|expected| expected != pair));
            assert!(stray.is_none(), "by {pair}: {stray:?}");
            all.extend(frames);
        }
        all
    }
}

impl<const KIND: u8> End for SharedMemory<KIND> {
    type Link = VhostUserLink;

    fn pair() -> (Self, VhostUserLink) {
        let (mut machine, socket) = Monitor::pair(Self::shape()).expect("a machine");
        let mut link = VhostUserLink::new(vhost_user::Config::default());
        link.connect(socket);
        link.renew_fds();
        machine.start();
        link.receive(0).expect("a front end");
        assert!(machine.answer().is_some(), "it has asked for features");
        machine.post();
        (Self { machine, outgoing: VecDeque::new(), sent: 0, holds: false }, link)
    }

    fn send(&mut self, _: &mut VhostUserLink, frame: Packet) {
        self.outgoing.push_back(frame);
        self.push();
    }

    fn receive(&mut self, _: &mut VhostUserLink) -> Vec<Packet> {
        let frames = self.take();
        let bare = frames.iter().find(|frame| frame.offload != Offload::default());
        assert!(KIND != BARE || bare.is_none(), "{bare:?}");
        if !self.holds {
            self.machine.post();
        }
        self.push();
        frames
    }
}

/// Bytes before each frame on a machine's socket.
const PREFIX: usize = Framing::Be32.prefix_len();

/// A machine's end of the socket.
pub(crate) struct Machine {
    socket: UnixStream,
    /// Frames from the guest that the socket did not take, and the start of one for it.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Bytes read in one go.
    pub(crate) pace: usize,
}

impl Machine {
    fn push(&mut self) {
        match self.socket.write(&self.outgoing) {
            Ok(n) => drop(self.outgoing.drain(..n)),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
}

impl End for Machine {
    type Link = StreamLink;

    fn pair() -> (Self, StreamLink) {
        let (ours, socket) = UnixStream::pair().expect("sockets");
        socket.set_nonblocking(true).expect("non-blocking");
        let mut link = StreamLink::new(Framing::Be32);
        link.connect(ours.into());
        (Self { socket, outgoing: Vec::new(), incoming: Vec::new(), pace: 1 << 20 }, link)
    }

    fn send(&mut self, _: &mut StreamLink, frame: Packet) {
        // What is shorter ends the client, which is tested elsewhere.
        if frame.bytes.len() >= 14 {
            let start = self.outgoing.len();
            self.outgoing.resize(start + PREFIX + frame.bytes.len(), 0);
            let room = Framing::Be32.begin(&mut self.outgoing[start..]).expect("a frame");
            room.copy_from_slice(&frame.bytes);
        }
        self.push();
    }

    fn receive(&mut self, _: &mut StreamLink) -> Vec<Packet> {
        self.push();
        let mut buffer = vec![0; self.pace];
        match self.socket.read(&mut buffer) {
            Ok(n) => self.incoming.extend(&buffer[..n]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        let (mut frames, mut done) = (Vec::new(), 0);
        while let Some(len) = Framing::Be32.frame_len(&self.incoming[done..]).expect("a length") {
            frames.push(self.incoming[done + PREFIX..done + PREFIX + len].to_vec().into());
            done += PREFIX + len;
        }
        self.incoming.drain(..done);
        frames
    }
}

/// What an engine is told: the guest's addresses, its gateway, which is the host's loopback, and
/// all services.
pub(crate) fn options(mtu: u16, max_flows: usize) -> EngineOptions {
    let family = |host: IpAddr, guest: IpAddr, ours: IpAddr| FamilyConfig {
        host_loopback: Some(host.into()),
        assigned: [guest.into()].into_iter().collect(),
        ours: Some(ours.into()),
        ..FamilyConfig::default()
    };
    let dns = [Ipv4Addr::new(192, 0, 2, 53)].into_iter().collect();
    EngineOptions {
        services: Config {
            our_mac: Mac([2, 0, 0, 0, 0, 2]),
            mtu,
            v4: Some(V4 { addr: GUEST4, prefix_len: 24, gateway: HOST4, our_addr: HOST4, dns }),
            v6: Some(V6 { addr: GUEST6, prefix_len: 64, our_ll: OURS6, dns: [].into_iter().collect() }),
            search: [].into_iter().collect(),
            hostname: None,
            fqdn: None,
            services: Services::all(),
            custom: Custom::default(),
        },
        guest: Configured {
            v4: family(HOST4.into(), GUEST4.into(), HOST4.into()),
            v6: family(HOST6.into(), GUEST6.into(), OURS6.into()),
            ..Configured::default()
        },
        outbound: [None, None],
        protocols: Protocols { tcp: true, udp: true, icmp: true },
        leases: None,
        max_flows,
        secrets: [1, 2, 3, 4],
    }
}

/// Has the host listen on a port that leads to the same one of the guest.
pub(crate) fn door<L: Link>(worker: &mut Worker<L>, v4: bool, protocol: Protocol) -> u16 {
    for _ in 0..100 {
        let free = TcpListener::bind((loopback(v4), 0)).expect("a port").local_addr().expect("bound").port();
        let listen = Listen { addr: Some(loopback(v4)), interface: None };
        let ports = PortRange::new(free, free).expect("a port");
        let rule = Rule { listen, ports, to: free, target: None, weak: false, scan: false };
        let mut forward = Forward::default();
        let applied =
            forward.apply_here(forward.plan([Change::Add(Entry { side: Side::Host, protocol, rule })]));
        if !applied.lacks_rules() {
            let Changes { open, .. } = forward.commit(applied).expect("new");
            worker.listen(open).expect("watched");
            return free;
        }
    }
    panic!("no port is free");
}

/// The host's loopback.
pub(crate) fn loopback(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// The guest's address, and what it calls the host's loopback.
pub(crate) fn names(v4: bool) -> (Addr, Addr) {
    let (guest, host): (IpAddr, IpAddr) =
        if v4 { (GUEST4.into(), HOST4.into()) } else { (GUEST6.into(), HOST6.into()) };
    (guest.into(), host.into())
}

/// Of a frame from the guest to its gateway.
pub(crate) fn path(v4: bool) -> Path {
    let (src, dst) = names(v4);
    Path {
        src_mac: Mac([2, 0, 0, 0, 0, 1]),
        dst_mac: Mac([2, 0, 0, 0, 0, 2]),
        src,
        dst,
        ttl: 64,
        traffic_class: 0,
    }
}
