//! UDP (RFC 768).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::U16;
use crate::drop::DropReason;

/// Bytes of the header.
pub const LEN: usize = 8;

/// Bytes from the start of the header to its checksum.
pub const CHECKSUM_OFFSET: u16 = 6;

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Bytes of header and payload.
    pub len: U16,
    /// Checksum over pseudo-header, header and payload; zero if there is none (IPv4 only).
    pub checksum: U16,
}

/// The header at the start of `head`, and the bytes of payload behind it, in a
/// packet with `available` bytes of UDP. The checksum is not looked at.
pub fn parse(head: &[u8], available: usize) -> Result<(Header, usize), DropReason> {
    let (header, _) = Header::read_from_prefix(head).map_err(|_| DropReason::Truncated)?;
    let len = usize::from(header.len.get());
    if len > available {
        return Err(DropReason::UdpLength);
    }
    let payload = len.checked_sub(LEN).ok_or(DropReason::UdpLength)?;
    Ok((header, payload))
}
