//! IPv6 (RFC 8200). Extension headers are skipped, that of a packet which is its only fragment as
//! well (RFC 6946). Other fragments are parsed apart from whole packets.

use core::net::Ipv6Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::fragment::{self, Part};
use super::ip::{Marks, Packet};
use super::{U16, U32};
use crate::addr::Addr;
use crate::drop::DropReason;

/// Bytes of the fixed header, the only one we send.
pub const LEN: usize = 40;

/// Next header: options for every router.
pub const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Of a fragment header: the offset, and whether more follows.
const FRAGMENT_MASK: u16 = 0xfff9;
/// The offset alone.
pub(super) const OFFSET_MASK: u16 = 0xfff8;

/// More extension headers than this are an attack: real packets have one or two.
const MAX_EXTENSIONS: usize = 4;

/// The fixed header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Version (6), traffic class, flow label.
    pub version_class_label: U32,
    /// Bytes behind this header.
    pub payload_len: U16,
    /// Protocol of the payload or of the first extension header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
}

impl Header {
    /// A complete header for `payload_len` bytes; `None` if they are too many.
    pub fn new(
        src: Ipv6Addr,
        dst: Ipv6Addr,
        protocol: u8,
        (hop_limit, traffic_class): (u8, u8),
        payload_len: usize,
    ) -> Option<Self> {
        Some(Self {
            version_class_label: (0x6000_0000 | u32::from(traffic_class) << 20).into(),
            payload_len: u16::try_from(payload_len).ok()?.into(),
            next_header: protocol,
            hop_limit,
            src: src.octets(),
            dst: dst.octets(),
        })
    }
}

/// Validates the headers at the start of `head`, in a frame that holds `available` bytes from
/// there.
///
/// IPv4-mapped addresses have no business on a link (RFC 4942, section 2.2) and
/// would be taken for IPv4 by [`crate::addr::Addr`]: such packets are refused.
pub fn parse(head: &[u8], available: usize) -> Result<Packet, DropReason> {
    let Base { header, traffic_class, src, dst, end } = validated(head, available)?;
    let (protocol, offset, is_atomic) = skip_extensions(head, header.next_header, LEN)?;
    Ok(Packet {
        src,
        dst,
        protocol,
        marks: Marks { ttl: header.hop_limit, traffic_class, dont_fragment: !is_atomic },
        offset,
        len: end.checked_sub(offset).ok_or(DropReason::IpLength)?,
        is_atomic,
    })
}

/// The same of a packet that is a fragment: what it is a fragment of, its protocol being that of
/// the first header behind the fragment header, and which part of that is its payload.
pub fn parse_fragment(head: &[u8], available: usize) -> Result<(Packet, Part), DropReason> {
    let Base { header, traffic_class, src, dst, end } = validated(head, available)?;
    let at = fragment_header(head, header.next_header)?;
    let (protocol, offset, more, id) =
        fragment::parse_header(head.get(at..).unwrap_or_default()).ok_or(DropReason::Truncated)?;
    let start = at.saturating_add(fragment::LEN);
    let len = end.checked_sub(start).ok_or(DropReason::IpLength)?;
    let part = Part::new(offset, len, more, id)?;
    let marks = Marks { ttl: header.hop_limit, traffic_class, dont_fragment: false };
    let packet = Packet { src, dst, protocol, marks, offset: start, len, is_atomic: true };
    Ok((packet, part))
}

/// What is in the fixed header.
struct Base<'a> {
    header: &'a Header,
    traffic_class: u8,
    src: Addr,
    dst: Addr,
    /// Bytes of the packet.
    end: usize,
}

fn validated(head: &[u8], available: usize) -> Result<Base<'_>, DropReason> {
    let (header, _) = Header::ref_from_prefix(head).map_err(|_| DropReason::Truncated)?;
    let [version, class, ..] = header.version_class_label.to_bytes();
    if version >> 4 != 6 {
        return Err(DropReason::IpHeader);
    }
    let end = LEN.saturating_add(header.payload_len.get().into());
    if end > available {
        return Err(DropReason::IpLength);
    }
    let (src, dst) = (Ipv6Addr::from(header.src), Ipv6Addr::from(header.dst));
    if src.to_ipv4_mapped().is_some() {
        return Err(DropReason::IpSource);
    }
    if dst.to_ipv4_mapped().is_some() {
        return Err(DropReason::IpDestination);
    }
    let traffic_class = version << 4 | class >> 4;
    Ok(Base { header, traffic_class, src: src.into(), dst: dst.into(), end })
}

/// The transport protocol and where it starts in `head`, in which extension headers begin at `at`
/// with one of type `first`, if any; and whether a fragment header was skipped.
pub(crate) fn skip_extensions(head: &[u8], first: u8, at: usize) -> Result<(u8, usize, bool), DropReason> {
    let (mut protocol, mut offset, mut is_atomic) = (first, at, false);
    for _ in 0..=MAX_EXTENSIONS {
        if !matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT) {
            return Ok((protocol, offset, is_atomic));
        }
        let extension = head.get(offset..).and_then(|rest| rest.first_chunk());
        let &[next, mut units, high, low] = extension.ok_or(DropReason::Truncated)?;
        match protocol {
            ROUTING if low != 0 => return Err(DropReason::IpExtension),
            FRAGMENT if u16::from_be_bytes([high, low]) & FRAGMENT_MASK != 0 => {
                return Err(DropReason::Fragment);
            }
            // It has no length, as it is always as long.
            FRAGMENT => (units, is_atomic) = (0, true),
            _ => {}
        }
        protocol = next;
        offset = offset.saturating_add((usize::from(units) + 1) * 8);
    }
    Err(DropReason::IpExtension)
}

/// Where the fragment header is in `head`, a packet from its fixed header on.
fn fragment_header(head: &[u8], first: u8) -> Result<usize, DropReason> {
    let (mut protocol, mut offset) = (first, LEN);
    for _ in 0..=MAX_EXTENSIONS {
        if protocol == FRAGMENT {
            return Ok(offset);
        }
        if !matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION) {
            break;
        }
        let extension = head.get(offset..).and_then(|rest| rest.first_chunk());
        let &[next, units, _, left] = extension.ok_or(DropReason::Truncated)?;
        if protocol == ROUTING && left != 0 {
            return Err(DropReason::IpExtension);
        }
        protocol = next;
        offset = offset.saturating_add((usize::from(units) + 1) * 8);
    }
    Err(DropReason::Fragment)
}
