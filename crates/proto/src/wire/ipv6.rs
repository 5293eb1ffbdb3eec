//! IPv6 (RFC 8200). Extension headers are skipped, that of a packet which is its only fragment as
//! well (RFC 6946); other fragments are not reassembled.

use core::net::Ipv6Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ip::Packet;
use super::{U16, U32};
use crate::drop::DropReason;

/// Bytes of the fixed header, the only one we send.
pub const LEN: usize = 40;

/// Next header: options for every router.
pub const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Of a fragment header: the offset, and whether more follows.
const FRAGMENT_MASK: u16 = 0xfff9;

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
        hop_limit: u8,
        payload_len: usize,
    ) -> Option<Self> {
        Some(Self {
            version_class_label: 0x6000_0000.into(),
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
    let (header, _) = Header::ref_from_prefix(head).map_err(|_| DropReason::Truncated)?;
    if header.version_class_label.get() >> 28 != 6 {
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
    let (protocol, offset, is_atomic) = skip_extensions(head, header.next_header)?;
    Ok(Packet {
        src: src.into(),
        dst: dst.into(),
        protocol,
        ttl: header.hop_limit,
        offset,
        len: end.checked_sub(offset).ok_or(DropReason::IpLength)?,
        is_atomic,
    })
}

/// The transport protocol and where it starts in `head`, a packet from its fixed header on, and
/// whether a fragment header was skipped.
fn skip_extensions(head: &[u8], first: u8) -> Result<(u8, usize, bool), DropReason> {
    let (mut protocol, mut offset, mut is_atomic) = (first, LEN, false);
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
