//! What a frame from the guest is: a request that is answered inside, a packet of
//! a flow, or nothing that we serve.
//!
//! Only headers are looked at, and each is validated here, once: whoever gets a
//! [`Class`] can rely on its addresses and ranges. Transport checksums are not
//! verified, as frames need not carry them (see [`crate::wire::offload`]).

mod fragments;
mod shown;

pub use self::fragments::{Fragment, fragment, reassembled};

use core::ops::Range;

use zerocopy::FromBytes;

use crate::addr::{Addr, Endpoint, Mac};
use crate::drop::DropReason;
use crate::wire::complaint::Complaint;
use crate::wire::ip::{Marks, Packet, protocol};
use crate::wire::{ethernet, icmp, ipv4, ipv6, membership, tcp, udp};

/// What a frame is. All ranges and offsets are those of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// An ARP packet.
    Arp {
        /// Where it starts.
        offset: usize,
    },
    /// A message of IPv6 neighbour discovery.
    Ndp {
        /// Source, unspecified while the guest has no address.
        src: Addr,
        /// Destination.
        dst: Addr,
        /// Hop limit.
        hop_limit: u8,
        /// The ICMPv6 message from its type on.
        message: Range<usize>,
    },
    /// A message about multicast groups: IGMP, or MLD.
    Membership {
        /// Source, for IGMP perhaps unspecified.
        src: Addr,
        /// Destination.
        dst: Addr,
        /// Time to live or hop limit.
        ttl: u8,
        /// The message from its type on.
        message: Range<usize>,
    },
    /// A datagram to a DHCP server.
    Dhcp(Datagram),
    /// A datagram to a DHCPv6 server on the link.
    Dhcpv6(Datagram),
    /// A TCP segment.
    Tcp {
        /// Source address, unicast.
        src: Addr,
        /// Destination address, unicast.
        dst: Addr,
        /// The header.
        segment: tcp::Segment,
        /// What it asks of routers.
        marks: Marks,
        /// The payload.
        payload: Range<usize>,
    },
    /// A UDP datagram.
    Udp(Datagram),
    /// An echo request.
    Echo {
        /// Source address, unicast.
        src: Addr,
        /// Destination address, unicast.
        dst: Addr,
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
        /// What it asks of routers.
        marks: Marks,
        /// The ICMP message from its type on.
        payload: Range<usize>,
    },
    /// An ICMP error about a packet that we sent.
    Complaint {
        /// Source address, unicast: the guest's, or that of a router behind it.
        src: Addr,
        /// What it says.
        complaint: Complaint,
    },
}

impl Class {
    /// The source address of a packet, which may be unspecified. ARP has none.
    #[inline]
    pub fn sender(&self) -> Option<&Addr> {
        match self {
            Self::Arp { .. } => None,
            Self::Ndp { src, .. }
            | Self::Membership { src, .. }
            | Self::Tcp { src, .. }
            | Self::Echo { src, .. }
            | Self::Complaint { src, .. } => Some(src),
            Self::Dhcp(datagram) | Self::Dhcpv6(datagram) | Self::Udp(datagram) => Some(&datagram.src.addr),
        }
    }

    /// The same in a frame with a tag in its Ethernet header.
    fn behind_tag(self) -> Self {
        self.moved(|offset| offset.saturating_add(ethernet::TAG_LEN))
    }

    /// The same where each offset in the frame is another one.
    fn moved(mut self, to: impl Fn(usize) -> usize) -> Self {
        let moved = match &mut self {
            Self::Arp { offset } => {
                *offset = to(*offset);
                return self;
            }
            Self::Complaint { .. } => return self,
            Self::Ndp { message: range, .. }
            | Self::Membership { message: range, .. }
            | Self::Tcp { payload: range, .. }
            | Self::Echo { payload: range, .. }
            | Self::Dhcp(Datagram { payload: range, .. })
            | Self::Dhcpv6(Datagram { payload: range, .. })
            | Self::Udp(Datagram { payload: range, .. }) => range,
        };
        *moved = to(moved.start)..to(moved.end);
        self
    }
}

/// A UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source; the address is unicast, or unspecified for DHCP.
    pub src: Endpoint,
    /// Destination, perhaps multicast or broadcast.
    pub dst: Endpoint,
    /// What it asks of routers.
    pub marks: Marks,
    /// The payload, in the frame.
    pub payload: Range<usize>,
}

const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;

/// The stations that a frame goes to and comes from, whatever the frame is.
pub fn stations(head: &[u8]) -> Result<(Mac, Mac), DropReason> {
    let (frame, _) = ethernet::Header::ref_from_prefix(head).map_err(|_| DropReason::Truncated)?;
    let (destination, source) = (Mac(frame.dst), Mac(frame.src));
    let is_station = !(source.is_group() || source.is_zero());
    is_station.then_some((destination, source)).ok_or(DropReason::MacSource)
}

/// Finds out what a frame of `frame_len` bytes is from its contiguous start `head`,
/// which holds at least all headers, and of messages for a responder everything. Whose it is
/// [`stations`] say.
pub fn classify(head: &[u8], frame_len: usize) -> Result<Class, DropReason> {
    let head = head.get(..frame_len).unwrap_or(head);
    let (frame, rest) = ethernet::Header::ref_from_prefix(head).map_err(|_| DropReason::Truncated)?;
    let available = frame_len.saturating_sub(ethernet::LEN);
    match frame.ethertype.get() {
        ethernet::TAGGED => tagged(rest, available),
        ethertype => untagged(ethertype, rest, available),
    }
}

/// The station that sent a frame, and what the frame is, for tests.
#[cfg(test)]
pub(crate) fn from_station(frame: &[u8]) -> Result<(Mac, Class), DropReason> {
    let (_, source) = stations(frame)?;
    Ok((source, classify(frame, frame.len())?))
}

/// Classifies what follows the Ethernet header of a frame without a tag.
fn untagged(ethertype: u16, rest: &[u8], available: usize) -> Result<Class, DropReason> {
    match ethertype {
        ethernet::IPV4 => network(rest, ipv4::parse(rest, available)?),
        ethernet::IPV6 => network(rest, ipv6::parse(rest, available)?),
        ethernet::ARP => Ok(Class::Arp { offset: ethernet::LEN }),
        _ => Err(DropReason::EtherType),
    }
}

/// Classifies what follows the Ethernet header of a frame with a tag. One that gives a priority
/// alone changes nothing (IEEE 802.1Q, section 6.9).
#[cold]
fn tagged(rest: &[u8], available: usize) -> Result<Class, DropReason> {
    let (&[a, b, c, d], rest) = rest.split_first_chunk().ok_or(DropReason::Truncated)?;
    let (tag, ethertype) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if tag & ethernet::VLAN_ID != 0 || ethertype == ethernet::TAGGED {
        return Err(DropReason::Vlan);
    }
    untagged(ethertype, rest, available.saturating_sub(ethernet::TAG_LEN)).map(Class::behind_tag)
}

/// Classifies the packet at the start of `head`.
fn network(head: &[u8], packet: Packet) -> Result<Class, DropReason> {
    addresses(&packet)?;
    let body = head.get(packet.offset..).ok_or(DropReason::Truncated)?;
    let body = body.get(..packet.len).unwrap_or(body);
    match (packet.protocol, packet.src.is_v4()) {
        (protocol::TCP, _) => segment(body, packet),
        (protocol::UDP, _) => datagram(body, packet),
        (protocol::ICMP, true) => icmp_v4(body, packet),
        (protocol::IGMP, true) => Ok(membership(packet)),
        (protocol::ICMPV6, false) if body.first().is_some_and(|&kind| membership::is_mld(kind)) => {
            // RFC 3810, section 5.
            membership::has_alert(head).then(|| membership(packet)).ok_or(DropReason::GroupInvalid)
        }
        (protocol::ICMPV6, false) => icmp_v6(body, packet),
        _ => Err(DropReason::IpProtocol),
    }
}

/// Refuses addresses that no packet of ours may have.
#[inline]
fn addresses(packet: &Packet) -> Result<(), DropReason> {
    if packet.src.is_group() {
        return Err(DropReason::IpSource);
    }
    if packet.dst.is_unspecified() {
        return Err(DropReason::IpDestination);
    }
    if packet.src.is_loopback() || packet.dst.is_loopback() {
        return Err(DropReason::Loopback);
    }
    Ok(())
}

fn membership(packet: Packet) -> Class {
    let message = range(packet, 0, packet.len);
    Class::Membership { src: packet.src, dst: packet.dst, ttl: packet.marks.ttl, message }
}

fn segment(body: &[u8], packet: Packet) -> Result<Class, DropReason> {
    unicast(packet)?;
    let (segment, header_len) = tcp::Segment::parse(body)?;
    ports(segment.src_port, segment.dst_port)?;
    Ok(Class::Tcp {
        src: packet.src,
        dst: packet.dst,
        segment,
        marks: packet.marks,
        payload: range(packet, header_len, packet.len),
    })
}

fn datagram(body: &[u8], packet: Packet) -> Result<Class, DropReason> {
    let (header, len) = udp::parse(body, packet.len)?;
    let (src, dst) = (header.src_port.get(), header.dst_port.get());
    ports(src, dst)?;
    let datagram = Datagram {
        src: Endpoint::new(packet.src, src),
        dst: Endpoint::new(packet.dst, dst),
        marks: packet.marks,
        payload: range(packet, udp::LEN, udp::LEN.saturating_add(len)),
    };
    if dst == DHCP_SERVER && packet.dst.is_v4() {
        return Ok(Class::Dhcp(datagram));
    }
    if packet.src.is_unspecified() {
        return Err(DropReason::IpSource);
    }
    if dst == DHCPV6_SERVER && (packet.dst.is_group() || packet.dst.is_link_local()) {
        return Ok(Class::Dhcpv6(datagram));
    }
    Ok(Class::Udp(datagram))
}

fn icmp_v4(body: &[u8], packet: Packet) -> Result<Class, DropReason> {
    match body.first() {
        Some(&icmp::ECHO_REQUEST_V4) => echo(body, packet),
        Some(&kind) if Complaint::has_type(true, kind) => complaint(body, packet),
        Some(_) => Err(DropReason::IcmpType),
        None => Err(DropReason::Truncated),
    }
}

fn icmp_v6(body: &[u8], packet: Packet) -> Result<Class, DropReason> {
    match body.first() {
        Some(&icmp::ECHO_REQUEST_V6) => echo(body, packet),
        Some(&kind) if Complaint::has_type(false, kind) => complaint(body, packet),
        // RFC 6980, section 5.
        Some(&kind) if icmp::is_neighbour_discovery(kind) && packet.is_atomic => Err(DropReason::Fragment),
        Some(&kind) if icmp::is_neighbour_discovery(kind) => Ok(Class::Ndp {
            src: packet.src,
            dst: packet.dst,
            hop_limit: packet.marks.ttl,
            message: range(packet, 0, packet.len),
        }),
        Some(_) => Err(DropReason::IcmpType),
        None => Err(DropReason::Truncated),
    }
}

fn echo(body: &[u8], packet: Packet) -> Result<Class, DropReason> {
    unicast(packet)?;
    let (header, _) = icmp::Header::ref_from_prefix(body).map_err(|_| DropReason::Truncated)?;
    if header.code != 0 {
        return Err(DropReason::IcmpType);
    }
    Ok(Class::Echo {
        src: packet.src,
        dst: packet.dst,
        id: header.id.get(),
        seq: header.seq.get(),
        marks: packet.marks,
        payload: range(packet, 0, packet.len),
    })
}

fn complaint(body: &[u8], packet: Packet) -> Result<Class, DropReason> {
    unicast(packet)?;
    let message = body.get(..packet.len).ok_or(DropReason::Truncated)?;
    let complaint = Complaint::parse(packet.src, packet.dst, message)?;
    Ok(Class::Complaint { src: packet.src, complaint })
}

/// Both ends are single stations with an address.
fn unicast(packet: Packet) -> Result<(), DropReason> {
    if packet.src.is_unspecified() {
        return Err(DropReason::IpSource);
    }
    if packet.dst.is_group() {
        return Err(DropReason::IpDestination);
    }
    Ok(())
}

/// No socket can have port zero.
fn ports(src: u16, dst: u16) -> Result<(), DropReason> {
    if src == 0 || dst == 0 {
        return Err(DropReason::PortZero);
    }
    Ok(())
}

/// Part of a packet's payload as a range of the frame; empty rather than reversed.
fn range(packet: Packet, start: usize, end: usize) -> Range<usize> {
    let base = ethernet::LEN.saturating_add(packet.offset);
    let start = base.saturating_add(start);
    start..base.saturating_add(end).max(start)
}

#[cfg(test)]
mod tests;
