//! A guest in memory, with its view of what the engine sends: datagrams reassembled and cut.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use arrayvec::ArrayVec;
use passt_engine::link::Caps;
use passt_engine::link::channel::{Channel, Packet};
use passt_engine::worker::Worker;
use passt_proto::addr::{Addr, Mac};
use passt_proto::guest::{Configured, FamilyConfig};
use passt_proto::responder::{Services, V4, V6};
use passt_proto::seq::Seq;
use passt_proto::time::Instant;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::offload::{Gso, Offload};
use passt_proto::wire::tcp::{Flags, Options, Segment};

use crate::common::{ENGINE, addr, options};

pub(crate) const OFFLOAD: Caps = Caps::ALL;
pub(crate) const PLAIN: Caps = Caps::PLAIN;

/// The guest's addresses, and what it calls the host's loopback.
pub(crate) fn names(v4: bool) -> (Addr, Addr) {
    if v4 { (addr("192.0.2.2"), addr("192.0.2.1")) } else { (addr("2001:db8::2"), addr("2001:db8::1")) }
}

/// An IP packet as the guest's stack would pass it on: datagrams reassembled and cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) src: Addr,
    pub(crate) dst: Addr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) traffic_class: u8,
    /// From the transport header on.
    pub(crate) bytes: Vec<u8>,
}

impl Received {
    pub(crate) fn ports(&self) -> (u16, u16) {
        let port = |i| u16::from_be_bytes([self.bytes[i], self.bytes[i + 1]]);
        (port(0), port(2))
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[8..]
    }
}

/// A connection of the guest to a server on the host.
pub(crate) struct Connected {
    /// The server's end.
    pub(crate) peer: TcpStream,
    pub(crate) remote: Addr,
    /// An acknowledgement with the next numbers of both.
    pub(crate) next: Segment,
    /// What the guest may send.
    pub(crate) window: u32,
}

pub(crate) struct Guest {
    pub(crate) worker: Worker<Channel>,
    pub(crate) now: Instant,
    pub(crate) fragments: BTreeMap<u32, Vec<u8>>,
    /// Frames received.
    pub(crate) frames: usize,
}

impl Guest {
    pub(crate) fn new(caps: Caps, mtu: u16) -> Self {
        let family = |v4| {
            let (guest, host) = names(v4);
            let ours = Some(if v4 { addr("192.0.2.254") } else { addr("fe80::1") });
            FamilyConfig {
                host_loopback: Some(host),
                assigned: [guest].into_iter().collect(),
                ours,
                ..FamilyConfig::default()
            }
        };
        let map = Configured { v4: family(true), v6: family(false), ..Configured::default() };
        let options = options(mtu, &map, 64);
        let now = Instant::from_millis(1000);
        let worker = Worker::new(Channel::new(caps), &options, now).unwrap();
        Self { worker, now, fragments: BTreeMap::new(), frames: 0 }
    }

    /// The same, told of its networks by all services.
    pub(crate) fn served(caps: Caps, mtu: u16) -> Self {
        let mut guest = Self::new(caps, mtu);
        let services = &mut guest.worker.context().core.services;
        let (own, gateway) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 254));
        let dns = ArrayVec::default();
        services.v4 = Some(V4 { addr: own, prefix_len: 24, gateway, our_addr: gateway, dns });
        let (own, our_ll) = ("2001:db8::2".parse().unwrap(), "fe80::1".parse().unwrap());
        services.v6 = Some(V6 { addr: own, prefix_len: 64, our_ll, dns: ArrayVec::default() });
        services.services = Services::all();
        guest.turn();
        guest.worker.context().core.link.to_guest.clear();
        guest
    }

    pub(crate) fn path(v4: bool) -> Path {
        let (src, dst) = names(v4);
        Path { src_mac: Mac([4; 6]), dst_mac: ENGINE, src, dst, ttl: 64, traffic_class: 0 }
    }

    /// Puts a datagram, or a super-frame of some, on the link.
    pub(crate) fn queue(&mut self, v4: bool, ports: (u16, u16), payload: &[u8], segment: u16) {
        let mut header = [0; MAX_HEADERS];
        let (len, offload) = Self::path(v4).emit_udp(&mut header, ports, payload.len(), segment).unwrap();
        let bytes = [&header[..len], payload].concat();
        self.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
    }

    /// Puts a segment for `remote` on the link.
    pub(crate) fn segment(&mut self, remote: Addr, segment: &Segment, payload: &[u8]) {
        let mut header = [0; MAX_HEADERS];
        let path = Path { dst: remote, ..Self::path(remote.is_v4()) };
        let (len, offload) = path.emit_tcp(&mut header, segment, payload.len(), 1460).unwrap();
        let bytes = [&header[..len], payload].concat();
        self.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
    }

    /// Connects `port` to a server on the host, which has accepted when this returns.
    pub(crate) fn connect(&mut self, listener: &TcpListener, port: u16) -> Connected {
        self.connect_with(listener, port, None)
    }

    /// The same, with segments of so many bytes for the guest.
    pub(crate) fn connect_with(&mut self, listener: &TcpListener, port: u16, mss: Option<u16>) -> Connected {
        let at = listener.local_addr().unwrap();
        let remote = if at.ip().is_loopback() { names(at.is_ipv4()).1 } else { at.ip().into() };
        let syn = Segment {
            src_port: port,
            dst_port: at.port(),
            seq: Seq(1000),
            flags: Flags::SYN,
            window: 65_535,
            options: Options { mss, ..Options::default() },
            ..Segment::default()
        };
        self.segment(remote, &syn, &[]);
        let (answer, _) = Segment::parse(&self.answers()[0].bytes).unwrap();
        assert_eq!((answer.flags, answer.ack), (Flags::SYN | Flags::ACK, Seq(1001)));
        let next = Segment {
            seq: Seq(1001),
            ack: answer.seq + 1,
            flags: Flags::ACK,
            options: Options::default(),
            ..syn
        };
        self.segment(remote, &next, &[]);
        self.turn();
        Connected { peer: listener.accept().unwrap().0, remote, next, window: answer.window.into() }
    }

    /// What the guest gets next. The kernel passes packets on at once, unless it is busy with
    /// others.
    pub(crate) fn answers(&mut self) -> Vec<Received> {
        let mut receive = |wait| {
            std::thread::sleep(Duration::from_millis(wait));
            self.receive()
        };
        let found = (0..2000).map(|round| receive(u64::from(round > 10))).find(|found| !found.is_empty());
        found.expect("an answer")
    }

    pub(crate) fn turn(&mut self) {
        self.worker.turn(self.now).unwrap();
    }

    pub(crate) fn send(&mut self, v4: bool, ports: (u16, u16), payload: &[u8]) {
        self.queue(v4, ports, payload, 0);
        self.turn();
    }

    /// What the guest got since.
    pub(crate) fn receive(&mut self) -> Vec<Received> {
        self.turn();
        let packets: Vec<Packet> = self.worker.context().core.link.to_guest.drain(..).collect();
        self.frames += packets.len();
        packets.into_iter().flat_map(|packet| self.packet(&packet)).collect()
    }

    pub(crate) fn packet(&mut self, packet: &Packet) -> Vec<Received> {
        let ip = &packet.bytes[14..];
        let v4 = ip[0] >> 4 == 4;
        let (start, len) = if v4 {
            assert_eq!(Sum::new().bytes(&ip[..20]).finish(), 0, "header checksum");
            (20, usize::from(u16::from_be_bytes([ip[2], ip[3]])))
        } else {
            (40, 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])))
        };
        let (src, dst) = if v4 { (&ip[12..16], &ip[16..20]) } else { (&ip[8..24], &ip[24..40]) };
        let mut protocol = if v4 { ip[9] } else { ip[6] };
        let mut bytes = ip[start..len].to_vec();
        let mut fragment = None;
        if v4 {
            let flags = u16::from_be_bytes([ip[6], ip[7]]);
            fragment = Some((u32::from(ip[5]), usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0));
        } else if protocol == 44 {
            let flags = u16::from_be_bytes([bytes[2], bytes[3]]);
            fragment = Some((u32::from(bytes[7]), usize::from(flags & 0xfff8), flags & 1 != 0));
            protocol = bytes[0];
            bytes.drain(..8);
        }
        if let Some((id, offset, more)) = fragment.filter(|&(_, offset, more)| more || offset > 0) {
            assert!(len <= usize::from(self.worker.context().core.services.mtu), "fragment of {len}");
            let whole = self.fragments.entry(id).or_default();
            assert_eq!(whole.len(), offset);
            whole.append(&mut bytes);
            if more {
                return Vec::new();
            }
            bytes = self.fragments.remove(&id).unwrap();
        }
        let (ttl, traffic_class) = if v4 { (ip[8], ip[1]) } else { (ip[7], ip[0] << 4 | ip[1] >> 4) };
        let (src, dst) = (ip_addr(src), ip_addr(dst));
        let received = Received { src, dst, protocol, ttl, traffic_class, bytes };
        cut(received, &packet.offload)
    }

    /// Lets time pass, from one timer to the next; returns how much did.
    pub(crate) fn sleep_until_flows_end(&mut self) -> Duration {
        let begun = self.now;
        while self.worker.flow_count() > 0 {
            self.now = self.worker.next_timeout().unwrap();
            self.turn();
        }
        self.now.since(begun)
    }

    /// The only packet since.
    pub(crate) fn one(&mut self) -> Received {
        let mut all = self.answers();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

pub(crate) fn ip_addr(bytes: &[u8]) -> Addr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4).into(),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()).into(),
    }
}

/// The datagrams of a super-frame; verifies checksums unless that is left to the guest.
pub(crate) fn cut(packet: Received, offload: &Offload) -> Vec<Received> {
    let pseudo = Sum::pseudo(packet.src, packet.dst, packet.protocol, packet.bytes.len());
    if !offload.needs_csum {
        let start = if packet.protocol == protocol::ICMP { Sum::new() } else { pseudo };
        assert_eq!(start.bytes(&packet.bytes).finish(), 0, "checksum of {packet:?}");
    }
    if offload.gso == Gso::None {
        return vec![packet];
    }
    let header = packet.bytes[..8].to_vec();
    let pieces = packet.bytes[8..].chunks(offload.gso_size.into());
    pieces.map(|p| Received { bytes: [&header, p].concat(), ..packet.clone() }).collect()
}

pub(crate) fn server(v4: bool) -> (UdpSocket, u16) {
    let server = UdpSocket::bind((if v4 { "127.0.0.1" } else { "::1" }, 0)).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}
