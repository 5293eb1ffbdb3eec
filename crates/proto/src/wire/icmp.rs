//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and the errors we report to a guest.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::U16;

/// Bytes of the header of an echo message or an error.
pub const LEN: usize = 8;

/// Echo request of IPv4.
pub const ECHO_REQUEST_V4: u8 = 8;
/// Echo reply of IPv4.
pub const ECHO_REPLY_V4: u8 = 0;
/// Echo request of IPv6.
pub const ECHO_REQUEST_V6: u8 = 128;
/// Echo reply of IPv6.
pub const ECHO_REPLY_V6: u8 = 129;

/// Types of the errors of IPv4 that a sender has use for (RFC 792).
pub(super) const UNREACHABLE_V4: u8 = 3;
pub(super) const TIME_EXCEEDED_V4: u8 = 11;
pub(super) const PARAMETER_PROBLEM_V4: u8 = 12;

/// The header shared by all messages we know, with the two fields of echo.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum; with a pseudo-header for IPv6 only.
    pub checksum: U16,
    /// Echo: identifier. Error: unused, or the upper half of the MTU.
    pub id: U16,
    /// Echo: sequence number. Error: unused, or the lower half of the MTU.
    pub seq: U16,
}

/// Why a datagram of the guest could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody listens on the port.
    PortUnreachable,
    /// The host cannot be reached.
    HostUnreachable,
    /// There is no route to the network.
    NetUnreachable,
    /// A filter forbids it.
    Prohibited,
    /// Fragments of the packet were missing for too long.
    ReassemblyTime,
    /// The packet is larger than a link on the path can carry.
    TooBig {
        /// The largest packet that passes, network header included.
        mtu: u32,
    },
}

impl Error {
    /// The header of the message, its checksum zero, for IPv4 (RFC 792, 1191) or IPv6 (RFC 4443,
    /// section 3).
    pub fn header(self, v4: bool) -> Header {
        let (kind, code) = match (self, v4) {
            (Self::NetUnreachable, true) => (3, 0),
            (Self::HostUnreachable, true) | (Self::ReassemblyTime, false) => (3, 1),
            (Self::PortUnreachable, true) => (3, 3),
            (Self::TooBig { .. }, true) => (3, 4),
            (Self::Prohibited, true) => (3, 13),
            (Self::ReassemblyTime, true) => (11, 1),
            (Self::NetUnreachable, false) => (1, 0),
            (Self::Prohibited, false) => (1, 1),
            (Self::HostUnreachable, false) => (1, 3),
            (Self::PortUnreachable, false) => (1, 4),
            (Self::TooBig { .. }, false) => (2, 0),
        };
        let [a, b, c, d] = match self {
            Self::TooBig { mtu } => mtu.to_be_bytes(),
            _ => [0; 4],
        };
        Header { kind, code, checksum: 0.into(), id: U16::from_bytes([a, b]), seq: U16::from_bytes([c, d]) }
    }
}

/// Whether an ICMPv6 type is one of neighbour discovery that a host sends:
/// router solicitation, neighbour solicitation or advertisement (RFC 4861, section 4).
pub const fn is_neighbour_discovery(kind: u8) -> bool {
    matches!(kind, 133 | 135 | 136)
}
