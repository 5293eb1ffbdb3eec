//! What IPv4 and IPv6 have in common: the packet behind the header, whichever it was.

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

/// A packet whose network header was found valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Protocol of the payload, behind any extension headers.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Bytes from the start of the network header to the payload.
    pub offset: usize,
    /// Bytes of payload, without the frame's padding.
    pub len: usize,
    /// Whether it has a fragment header and is whole (RFC 6946).
    pub is_atomic: bool,
}
