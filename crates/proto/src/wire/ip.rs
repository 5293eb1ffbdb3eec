//! What IPv4 and IPv6 have in common: the packet behind the header, whichever it was.

use super::build::DEFAULT_TTL;
use crate::addr::Addr;

/// Protocol numbers (IANA).
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// Membership of groups, for IPv4.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// The bits of [`Marks::traffic_class`] that are ECN (RFC 3168).
pub const ECN: u8 = 3;

/// What a packet asks of the routers on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Traffic class (RFC 8200, section 7), in IPv4 type of service: differentiated services and ECN
    /// (RFC 2474, RFC 3168).
    pub traffic_class: u8,
    /// Whether none of them may cut it: IPv4 with this bit, and IPv6 without a fragment header.
    pub dont_fragment: bool,
}

impl Marks {
    /// What a host chooses that wants nothing in particular.
    pub const USUAL: Self = Self { ttl: DEFAULT_TTL, traffic_class: 0, dont_fragment: false };
}

/// A packet whose network header was found valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Protocol of the payload, behind any extension headers.
    pub protocol: u8,
    /// What it asks of routers.
    pub marks: Marks,
    /// Bytes from the start of the network header to the payload.
    pub offset: usize,
    /// Bytes of payload, without the frame's padding.
    pub len: usize,
    /// Whether it has a fragment header and is whole (RFC 6946).
    pub is_atomic: bool,
}
