//! Ethernet II frames (IEEE 802.3, clause 3). A tag that gives a priority alone (IEEE 802.1Q) is
//! skipped; VLANs are none of ours.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::U16;
use crate::addr::Mac;

/// Bytes of the header.
pub const LEN: usize = 14;

/// Bytes of the shortest frame, without the check sequence; shorter ones are padded with zeroes.
pub const MIN_FRAME: usize = 60;

/// Type of IPv4 packets.
pub const IPV4: u16 = 0x0800;
/// Type of tagged frames: two bytes of [priority and VLAN](VLAN_ID), then the type proper.
pub const TAGGED: u16 = 0x8100;

/// Bytes of a tag.
pub const TAG_LEN: usize = 4;

/// The bits of a tag that name a VLAN; zero in a tag that gives a priority alone.
pub const VLAN_ID: u16 = 0x0fff;

/// Type of ARP packets.
pub const ARP: u16 = 0x0806;
/// Type of IPv6 packets.
pub const IPV6: u16 = 0x86dd;

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Destination address.
    pub dst: [u8; 6],
    /// Source address.
    pub src: [u8; 6],
    /// What the frame carries.
    pub ethertype: U16,
}

impl Header {
    /// A header from its parts.
    pub fn new(src: Mac, dst: Mac, ethertype: u16) -> Self {
        Self { dst: dst.0, src: src.0, ethertype: ethertype.into() }
    }
}
