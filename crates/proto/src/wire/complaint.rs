//! ICMP errors from the guest (RFC 792; RFC 4443, section 3): what one says, and about which of the
//! packets that it got.
//!
//! Anybody behind the guest can send one, about anything. So a quotation is read as strictly as it
//! can be: it has the headers that we write, and the address that it was sent from is the one that
//! the error goes to. Whether there is such a flow, and whether it could have sent this, is for
//! whoever has the flow to say.
//!
//! Left out: errors about echo replies, which end nothing.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::FromBytes;

use super::checksum::Sum;
use super::icmp::{self, PARAMETER_PROBLEM_V4, TIME_EXCEEDED_V4, UNREACHABLE_V4};
use super::ip::protocol;
use super::{ipv4, ipv6};
use crate::addr::{Addr, Endpoint};
use crate::drop::DropReason;
use crate::seq::Seq;

/// Codes of destination unreachable (RFC 792, RFC 1122, RFC 1812) that there are.
const LAST_CODE_V4: u8 = 15;
/// Fragmentation needed.
const TOO_BIG_V4: u8 = 4;
/// Types of IPv6.
const UNREACHABLE_V6: u8 = 1;
const TOO_BIG_V6: u8 = 2;
const TIME_EXCEEDED_V6: u8 = 3;
const PARAMETER_PROBLEM_V6: u8 = 4;

/// The least path MTU of IPv4 that is believed, as Linux's `min_pmtu`: a smaller one would cost
/// more packets than it is worth, and whoever says 0 knows no number (RFC 1191, section 5).
pub const MIN_MTU_V4: u16 = 552;
/// The same of IPv6: every link has as much (RFC 8200, section 5), so that an error which says less
/// is discarded (RFC 8201, section 4).
pub const MIN_MTU_V6: u16 = 1280;

/// An ICMP error about a packet that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What became of the packet.
    pub trouble: Trouble,
    /// Where the packet came from, as the guest sees it.
    pub from: Endpoint,
    /// Where it was to go.
    pub to: Endpoint,
    /// What it was.
    pub packet: Quoted,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A link on its way takes packets of this many bytes at most.
    TooBig {
        /// At least [`MIN_MTU_V4`] or [`MIN_MTU_V6`].
        mtu: u16,
    },
    /// Nobody takes it, and that will stay so: no such port or protocol, or a filter forbids it.
    Refused,
    /// It did not get through, which may pass: no route, or its time to live was used up.
    Lost,
}

/// The kind of packet that is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoted {
    /// A segment.
    Tcp {
        /// Its sequence number.
        seq: Seq,
    },
    /// A datagram, or its first fragment.
    Udp,
}

impl Complaint {
    /// Whether an ICMP message of this type is an error.
    pub const fn has_type(v4: bool, kind: u8) -> bool {
        if v4 {
            matches!(kind, UNREACHABLE_V4 | TIME_EXCEEDED_V4 | PARAMETER_PROBLEM_V4)
        } else {
            matches!(kind, UNREACHABLE_V6..=PARAMETER_PROBLEM_V6)
        }
    }

    /// The error in a whole ICMP message, from `src` to `dst`.
    pub fn parse(src: Addr, dst: Addr, message: &[u8]) -> Result<Self, DropReason> {
        let (header, quotation) =
            icmp::Header::read_from_prefix(message).map_err(|_| DropReason::Truncated)?;
        let v4 = src.is_v4();
        let start = if v4 { Sum::new() } else { Sum::pseudo(src, dst, protocol::ICMPV6, message.len()) };
        if start.bytes(message).finish() != 0 {
            return Err(DropReason::IcmpChecksum);
        }
        let trouble = if v4 { Trouble::v4(header) } else { Trouble::v6(header) }?;
        let (from, to, kind, transport) = if v4 { quoted_v4(quotation) } else { quoted_v6(quotation) }?;
        let &[a, b, c, d, s0, s1, s2, s3, ..] = transport;
        let packet = match kind {
            protocol::TCP => Quoted::Tcp { seq: Seq(u32::from_be_bytes([s0, s1, s2, s3])) },
            protocol::UDP => Quoted::Udp,
            _ => return Err(DropReason::IcmpInvalid),
        };
        if from != dst {
            return Err(DropReason::IcmpInvalid);
        }
        let from = Endpoint::new(from, u16::from_be_bytes([a, b]));
        let to = Endpoint::new(to, u16::from_be_bytes([c, d]));
        Ok(Self { trouble, from, to, packet })
    }
}

impl Trouble {
    /// As `icmp_err_convert` of Linux has it.
    fn v4(header: icmp::Header) -> Result<Self, DropReason> {
        match (header.kind, header.code) {
            (UNREACHABLE_V4, TOO_BIG_V4) => Ok(Self::TooBig { mtu: header.seq.get().max(MIN_MTU_V4) }),
            (UNREACHABLE_V4, 0 | 1 | 5 | 11 | 12) | (TIME_EXCEEDED_V4, _) => Ok(Self::Lost),
            (UNREACHABLE_V4, ..=LAST_CODE_V4) | (PARAMETER_PROBLEM_V4, _) => Ok(Self::Refused),
            _ => Err(DropReason::IcmpInvalid),
        }
    }

    /// As `icmpv6_err_convert` of Linux has it.
    fn v6(header: icmp::Header) -> Result<Self, DropReason> {
        match (header.kind, header.code) {
            (TOO_BIG_V6, _) => {
                let [a, b] = header.id.to_bytes();
                let [c, d] = header.seq.to_bytes();
                let mtu = u16::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(u16::MAX);
                if mtu < MIN_MTU_V6 { Err(DropReason::IcmpInvalid) } else { Ok(Self::TooBig { mtu }) }
            }
            (UNREACHABLE_V6, 1 | 4 | 5 | 6) | (PARAMETER_PROBLEM_V6, _) => Ok(Self::Refused),
            (UNREACHABLE_V6 | TIME_EXCEEDED_V6, _) => Ok(Self::Lost),
            _ => Err(DropReason::IcmpInvalid),
        }
    }
}

/// Source, destination, protocol and start of the transport header of a quoted packet. More than
/// these eight bytes no error has to have (RFC 792).
type Parts<'a> = (Addr, Addr, u8, &'a [u8; 8]);

/// Its checksum is that of another hop, or was left out: what counts is that the flow is ours.
fn quoted_v4(packet: &[u8]) -> Result<Parts<'_>, DropReason> {
    let (header, _) = ipv4::Header::ref_from_prefix(packet).map_err(|_| DropReason::IcmpInvalid)?;
    let offset = usize::from(header.version_ihl & 0xf) * 4;
    let is_first = header.fragment.get() & ipv4::OFFSET_MASK == 0;
    if header.version_ihl >> 4 != 4 || offset < ipv4::LEN || !is_first {
        return Err(DropReason::IcmpInvalid);
    }
    let (src, dst) = (Ipv4Addr::from(header.src), Ipv4Addr::from(header.dst));
    Ok((src.into(), dst.into(), header.protocol, transport(packet, offset)?))
}

/// We write no extension header but that of fragments.
fn quoted_v6(packet: &[u8]) -> Result<Parts<'_>, DropReason> {
    let (header, rest) = ipv6::Header::ref_from_prefix(packet).map_err(|_| DropReason::IcmpInvalid)?;
    let (mut kind, mut offset) = (header.next_header, ipv6::LEN);
    if kind == ipv6::FRAGMENT {
        let &[next, _, high, low, ..] = rest.first_chunk::<8>().ok_or(DropReason::IcmpInvalid)?;
        if u16::from_be_bytes([high, low]) & ipv6::OFFSET_MASK != 0 {
            return Err(DropReason::IcmpInvalid);
        }
        (kind, offset) = (next, ipv6::LEN + 8);
    }
    if header.version_class_label.get() >> 28 != 6 {
        return Err(DropReason::IcmpInvalid);
    }
    let (src, dst) = (Ipv6Addr::from(header.src), Ipv6Addr::from(header.dst));
    Ok((src.into(), dst.into(), kind, transport(packet, offset)?))
}

fn transport(packet: &[u8], offset: usize) -> Result<&[u8; 8], DropReason> {
    packet.get(offset..).and_then(<[u8]>::first_chunk).ok_or(DropReason::IcmpInvalid)
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, Self { from, to, .. }) =
            (if self.packet == Quoted::Udp { "UDP" } else { "TCP" }, self);
        write!(f, "{protocol} {from} to {to} ")?;
        match self.trouble {
            Trouble::TooBig { mtu } => write!(f, "has to fit {mtu} bytes"),
            Trouble::Refused => f.write_str("is refused"),
            Trouble::Lost => f.write_str("does not get through"),
        }
    }
}

#[cfg(test)]
mod tests;
