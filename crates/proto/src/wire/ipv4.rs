//! IPv4 (RFC 791). Options are skipped. Fragments are parsed apart from whole packets.

use core::net::Ipv4Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::U16;
use super::checksum::Sum;
use super::fragment::Part;
use super::ip::{Marks, Packet};
use crate::drop::DropReason;

/// Bytes of a header without options, the only kind we send.
pub const LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
/// More Fragments, and the offset.
const FRAGMENT_MASK: u16 = 0x3fff;
const MORE: u16 = 0x2000;
/// The offset, in units of eight bytes.
pub(super) const OFFSET_MASK: u16 = 0x1fff;

/// The header without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Version (4) and header length in words.
    pub version_ihl: u8,
    /// Differentiated services and ECN.
    pub tos: u8,
    /// Bytes of header and payload.
    pub total_len: U16,
    /// Identification.
    pub id: U16,
    /// Flags and fragment offset.
    pub fragment: U16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: U16,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

impl Header {
    /// A complete header for `payload_len` bytes; `None` if they are too many.
    /// Sent with Don't Fragment, so that the identification may be zero (RFC 6864, section 4.1).
    pub fn new(
        src: Ipv4Addr,
        dst: Ipv4Addr,
        protocol: u8,
        (ttl, tos): (u8, u8),
        payload_len: usize,
    ) -> Option<Self> {
        let total_len = u16::try_from(payload_len.checked_add(LEN)?).ok()?;
        let mut header = Self {
            version_ihl: 0x45,
            tos,
            total_len: total_len.into(),
            id: 0.into(),
            fragment: DONT_FRAGMENT.into(),
            ttl,
            protocol,
            checksum: 0.into(),
            src: src.octets(),
            dst: dst.octets(),
        };
        header.update_checksum();
        Some(header)
    }

    /// Computes the checksum anew, after a change.
    pub fn update_checksum(&mut self) {
        self.checksum = 0.into();
        self.checksum = Sum::new().bytes(self.as_bytes()).finish().into();
    }
}

/// Validates the header of a whole packet at the start of `head`, in a frame that holds `available`
/// bytes from there.
pub fn parse(head: &[u8], available: usize) -> Result<Packet, DropReason> {
    let (header, packet) = validated(head, available)?;
    if header.fragment.get() & FRAGMENT_MASK != 0 {
        return Err(DropReason::Fragment);
    }
    Ok(packet)
}

/// The same of a packet that is a fragment: what it is a fragment of, as far as its own header
/// says, and which part of that is its payload.
pub fn parse_fragment(head: &[u8], available: usize) -> Result<(Packet, Part), DropReason> {
    let (header, packet) = validated(head, available)?;
    let flags = header.fragment.get();
    let offset = (flags & OFFSET_MASK) << 3;
    let part = Part::new(offset, packet.len, flags & MORE != 0, header.id.get().into())?;
    Ok((packet, part))
}

fn validated(head: &[u8], available: usize) -> Result<(&Header, Packet), DropReason> {
    let (header, _) = Header::ref_from_prefix(head).map_err(|_| DropReason::Truncated)?;
    let offset = usize::from(header.version_ihl & 0xf) * 4;
    if header.version_ihl >> 4 != 4 || offset < LEN {
        return Err(DropReason::IpHeader);
    }
    let whole = head.get(..offset).ok_or(DropReason::Truncated)?;
    let total_len = usize::from(header.total_len.get());
    if total_len > available {
        return Err(DropReason::IpLength);
    }
    let len = total_len.checked_sub(offset).ok_or(DropReason::IpLength)?;
    // None is as good as the right one on a link that loses nothing: VPNKit's clients send so.
    if header.checksum.get() != 0 && Sum::new().bytes(whole).finish() != 0 {
        return Err(DropReason::IpChecksum);
    }
    let dont_fragment = header.fragment.get() & DONT_FRAGMENT != 0;
    let marks = Marks { ttl: header.ttl, traffic_class: header.tos, dont_fragment };
    let packet = Packet {
        src: Ipv4Addr::from(header.src).into(),
        dst: Ipv4Addr::from(header.dst).into(),
        protocol: header.protocol,
        marks,
        offset,
        len,
        is_atomic: false,
    };
    Ok((header, packet))
}
