//! Fragments, and what is made of them: a packet without the headers of any frame, classified as
//! one that came whole.

use super::{Class, addresses, network, segment};
use crate::drop::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::fragment::Part;
use crate::wire::ip::{Marks, Packet, protocol};
use crate::wire::{ethernet, icmp, ipv4, ipv6, udp};
use core::ops::Range;

/// A fragment in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What it is a fragment of, as far as it says.
    pub packet: Packet,
    /// What it has of that one's payload.
    pub part: Part,
    /// Where in the frame this starts.
    start: usize,
}

impl Fragment {
    /// Its payload, in the frame.
    pub fn payload(&self) -> Range<usize> {
        self.start..self.start.saturating_add(self.part.len.into())
    }
}

/// Validates the fragment in a frame of `frame_len` bytes that starts with `head`, which
/// [`classify`](super::classify) refused as [`DropReason::Fragment`]. Nothing is known to be in it
/// but what its own headers say.
pub fn fragment(head: &[u8], frame_len: usize) -> Result<Fragment, DropReason> {
    let head = head.get(..frame_len).unwrap_or(head);
    let kind = |at: usize| head.get(at..).and_then(|rest| rest.first_chunk()).map(|&b| u16::from_be_bytes(b));
    let tag = match kind(ethernet::LEN - 2) {
        Some(ethernet::TAGGED) => ethernet::TAG_LEN,
        _ => 0,
    };
    let start = ethernet::LEN + tag;
    let ethertype = kind(start - 2).ok_or(DropReason::Truncated)?;
    let (rest, available) = (head.get(start..).unwrap_or_default(), frame_len.saturating_sub(start));
    let (packet, part) = match ethertype {
        ethernet::IPV4 => ipv4::parse_fragment(rest, available)?,
        ethernet::IPV6 => ipv6::parse_fragment(rest, available)?,
        _ => return Err(DropReason::EtherType),
    };
    addresses(&packet)?;
    if part.offset == 0 {
        headers(rest.get(packet.offset..).unwrap_or_default(), &packet)?;
    }
    Ok(Fragment { packet, part, start: start.saturating_add(packet.offset) })
}

/// The first fragment has all headers, of IPv6 the transport header too (RFC 7112, section 5). Of
/// IPv4 that may be in two, which is harmless when nobody looks before the packet is whole (RFC
/// 3128 is about filters that do).
fn headers(body: &[u8], packet: &Packet) -> Result<(), DropReason> {
    if packet.src.is_v4() {
        return Ok(());
    }
    let body = body.get(..packet.len).unwrap_or(body);
    let incomplete = |_| DropReason::Fragment;
    let (kind, at, is_nested) = ipv6::skip_extensions(body, packet.protocol, 0).map_err(incomplete)?;
    let transport = body.get(at..).unwrap_or_default();
    let is_complete = match kind {
        protocol::TCP => segment(transport, Packet { len: transport.len(), ..*packet }).is_ok(),
        protocol::UDP => transport.len() >= udp::LEN,
        protocol::ICMPV6 => transport.len() >= icmp::LEN,
        _ => return Err(DropReason::IpProtocol),
    };
    if is_complete && !is_nested { Ok(()) } else { Err(DropReason::Fragment) }
}

/// Finds out what the packet is whose payload `body` was put together of fragments; `first` says
/// what the first of these did. All ranges are those of `body`. Transport checksums are verified:
/// that is how fragments of two packets are found out that had the same identification (RFC 4963).
///
/// What is answered or kept inside has to be in one piece: neighbour discovery (RFC 6980, section
/// 5), reports of groups, which their senders split themselves (RFC 3376, section 4.2.16; RFC 3810,
/// section 5.2.15), and DHCP, whose clients have not so much to say.
pub fn reassembled(first: &Packet, body: &[u8]) -> Result<Class, DropReason> {
    let v4 = first.src.is_v4();
    let (kind, start) = if v4 {
        (first.protocol, 0)
    } else {
        let (kind, at, is_nested) = ipv6::skip_extensions(body, first.protocol, 0)?;
        (kind, if is_nested { return Err(DropReason::IpExtension) } else { at })
    };
    let len = body.len().saturating_sub(start);
    let marks = Marks { dont_fragment: false, ..first.marks };
    let packet = Packet { protocol: kind, marks, offset: start, len, is_atomic: true, ..*first };
    let class = match network(body, packet)? {
        class @ (Class::Tcp { .. } | Class::Udp(_) | Class::Echo { .. } | Class::Complaint { .. }) => class,
        Class::Arp { .. }
        | Class::Ndp { .. }
        | Class::Membership { .. }
        | Class::Dhcp(_)
        | Class::Dhcpv6(_) => return Err(DropReason::Fragment),
    };
    if !is_intact(&packet, body.get(start..).unwrap_or_default()) {
        return Err(DropReason::FragmentChecksum);
    }
    Ok(class.moved(|offset| offset.saturating_sub(ethernet::LEN)))
}

/// Whether the checksum of a transport header and all behind it matches. UDP over IPv4 may have
/// none, and its length may be less than the packet's.
fn is_intact(packet: &Packet, transport: &[u8]) -> bool {
    let mut covered = transport;
    if packet.protocol == protocol::UDP {
        let Ok((header, len)) = udp::parse(transport, transport.len()) else { return false };
        if header.checksum.get() == 0 {
            return packet.src.is_v4();
        }
        covered = transport.get(..udp::LEN.saturating_add(len)).unwrap_or(transport);
    }
    let sum = match packet.protocol {
        protocol::ICMP => Sum::new(),
        kind => Sum::pseudo(packet.src, packet.dst, kind, covered.len()),
    };
    sum.bytes(covered).finish() == 0
}
