//! ICMP messages to the guest: echo replies, and errors that quote what the guest sent.
//!
//! Their checksums are complete: they are rare, and no guest needs to know that
//! checksums of ICMP can be left to it.

use zerocopy::IntoBytes;

use super::build::{MAX_HEADERS, Path};
use super::checksum::Sum;
use super::icmp::{PARAMETER_PROBLEM_V4, TIME_EXCEEDED_V4, UNREACHABLE_V4};
use super::ip::protocol;
use super::{icmp, ipv4, ipv6};

/// Most bytes of a packet with an error: any host can take as much
/// (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;

/// Bytes of an error's payload before the quoted payload: network header and the
/// start of the transport header.
const TRANSPORT_LEN: usize = 8;

/// Types of the errors of IPv6: destination unreachable, packet too big, time exceeded, parameter problem (RFC
/// 4443, section 3).
const FIRST_ERROR_V6: u8 = 1;
const LAST_ERROR_V6: u8 = 4;

/// The headers of a packet that the guest sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The packet's way; the link addresses do not matter.
    pub path: Path,
    /// The transport protocol.
    pub protocol: u8,
    /// The start of the transport header.
    pub transport: [u8; TRANSPORT_LEN],
    /// Bytes behind the network header, the transport header included.
    pub len: usize,
}

impl Path {
    /// Writes the headers of an ICMP or ICMPv6 message whose body adds up to `body`, and
    /// returns their length. `None` as for [`Path::emit`].
    pub fn emit_icmp(
        &self,
        out: &mut [u8],
        mut header: icmp::Header,
        body: Sum,
        body_len: usize,
    ) -> Option<usize> {
        let len = body_len.checked_add(icmp::LEN)?;
        let start = self.emit(out, self.icmp(), len)?;
        self.complete_icmp(&mut header, body, body_len);
        header.write_to_prefix(out.get_mut(start..)?).ok()?;
        start.checked_add(icmp::LEN)
    }

    /// The protocol of ICMP messages.
    pub fn icmp(&self) -> u8 {
        if self.dst.is_v4() { protocol::ICMP } else { protocol::ICMPV6 }
    }

    /// Computes the checksum of an ICMP or ICMPv6 message whose body adds up to `body`.
    pub fn complete_icmp(&self, header: &mut icmp::Header, body: Sum, body_len: usize) {
        let pseudo = match self.icmp() {
            protocol::ICMP => Sum::new(),
            kind => Sum::pseudo(self.src, self.dst, kind, body_len.saturating_add(icmp::LEN)),
        };
        header.checksum = 0.into();
        header.checksum = pseudo.bytes(header.as_bytes()).and(body).finish().into();
    }

    /// Writes the headers of an error about the packet `quoted`, which carried at least
    /// `payload`. Returns their length, quoted headers included, and how many bytes of
    /// `payload` go behind them. `None` as for [`Path::emit`].
    pub fn emit_error(
        &self,
        out: &mut [u8; MAX_HEADERS],
        header: icmp::Header,
        quoted: &Quoted,
        payload: &[u8],
    ) -> Option<(usize, usize)> {
        let mut copy = [0; MAX_HEADERS];
        // A quoted frame without its Ethernet header.
        let start = quoted.path.emit(&mut copy, quoted.protocol, quoted.len)?;
        copy.get_mut(start..)?.first_chunk_mut().map(|room| *room = quoted.transport)?;
        let copy = copy.get(super::ethernet::LEN..start.checked_add(TRANSPORT_LEN)?)?;
        let most = if self.dst.is_v4() { MAX_V4 - ipv4::LEN } else { MAX_V6 - ipv6::LEN };
        let room = most.checked_sub(icmp::LEN)?.checked_sub(copy.len())?;
        let payload = payload.get(..room).unwrap_or(payload);
        let body = Sum::new().bytes(copy).bytes(payload);
        let body_len = copy.len().checked_add(payload.len())?;
        let start = self.emit_icmp(out, header, body, body_len)?;
        let end = start.checked_add(copy.len())?;
        out.get_mut(start..end)?.copy_from_slice(copy);
        Some((end, payload.len()))
    }
}

impl icmp::Header {
    /// The header of an error whose type and code came from the network, for a guest of the same
    /// family. `info` is what the kernel says with it (`ee_info` of ip(7)): the MTU for a packet
    /// that was too big, the place of the fault for a parameter problem.
    ///
    /// `None` for all that does not tell the sender what became of its packet: only destination
    /// unreachable, time exceeded and parameter problem (RFC 792) do, and for IPv6 packet too big
    /// (RFC 4443, section 3). A redirect (RFC 792; RFC 4861, section 8) concerns the network that
    /// the host is in, and would come to the guest as if from its own gateway; source quench is
    /// obsolete (RFC 6633).
    pub fn relayed(v4: bool, kind: u8, code: u8, info: u32) -> Option<Self> {
        let info = match (v4, kind) {
            // The pointer has 8 bits and stands first.
            (true, PARAMETER_PROBLEM_V4) => info.checked_shl(24)?,
            (true, UNREACHABLE_V4 | TIME_EXCEEDED_V4) | (false, FIRST_ERROR_V6..=LAST_ERROR_V6) => info,
            _ => return None,
        };
        let mut header = icmp::Error::TooBig { mtu: info }.header(v4);
        (header.kind, header.code) = (kind, code);
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, Mac};
    use crate::wire::{ethernet, udp};
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn path(v4: bool) -> Path {
        let [src, dst]: [Addr; 2] = if v4 {
            [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).into()]
        } else {
            [Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()]
        };
        Path { src_mac: Mac([2; 6]), dst_mac: Mac([4; 6]), src, dst, ttl: 64, traffic_class: 0 }
    }

    fn quoted(v4: bool, len: usize) -> Quoted {
        let Path { src, dst, .. } = path(v4);
        let header =
            udp::Header { src_port: 7.into(), dst_port: 9.into(), len: 8.into(), checksum: 0.into() };
        let mut transport = [0; 8];
        transport.copy_from_slice(header.as_bytes());
        let path = Path { src: dst, dst: src, ..path(v4) };
        Quoted { path, protocol: protocol::UDP, transport, len }
    }

    /// Errors are as long as allowed, verify, and quote the packet as it was.
    #[test]
    fn errors_verify() {
        for (v4, payload_len, total) in
            [(true, 3, 20 + 8 + 28 + 3), (true, 1000, 576), (false, 3, 40 + 8 + 48 + 3), (false, 2000, 1280)]
        {
            let payload = [0xa5; 2000];
            let payload = &payload[..payload_len];
            let mut out = [0; MAX_HEADERS];
            let header = icmp::Error::PortUnreachable.header(v4);
            let (end, n) =
                path(v4).emit_error(&mut out, header, &quoted(v4, 8 + payload_len), payload).expect("fits");
            assert_eq!(end + n - ethernet::LEN, total);
            let start = path(v4).header_len();
            let body = Sum::new().bytes(&out[start..end]).bytes(&payload[..n]);
            let check = if v4 {
                body.finish()
            } else {
                let Path { src, dst, .. } = path(v4);
                Sum::pseudo(src, dst, protocol::ICMPV6, end - start + n).and(body).finish()
            };
            assert_eq!(check, 0);
            assert_eq!(out[end - 8..end], quoted(v4, 0).transport);
            let inner = &out[start + icmp::LEN..end];
            assert_eq!(inner[0] >> 4, if v4 { 4 } else { 6 });
        }
    }

    #[test]
    fn mtu_and_pointer_where_they_belong() {
        for (v4, kind, code, info, expected) in [
            (true, 3, 4, 1400, [3, 4, 0, 0, 0, 0, 5, 120]),
            (true, 12, 0, 9, [12, 0, 0, 0, 9, 0, 0, 0]),
            (false, 2, 0, 0x1_0000, [2, 0, 0, 0, 0, 1, 0, 0]),
            (false, 4, 1, 40, [4, 1, 0, 0, 0, 0, 0, 40]),
        ] {
            let header = icmp::Header::relayed(v4, kind, code, info).expect("an error");
            assert_eq!(header.as_bytes(), expected);
        }
    }

    /// Of all types and codes only errors about the guest's own packets pass.
    #[test]
    fn no_other_type_passes() {
        for kind in 0..=u8::MAX {
            for code in 0..=u8::MAX {
                for (v4, passing) in [(true, [3, 11, 12].as_slice()), (false, &[1, 2, 3, 4])] {
                    let header = icmp::Header::relayed(v4, kind, code, 0).map(|h| (h.kind, h.code));
                    assert_eq!(header, passing.contains(&kind).then_some((kind, code)), "{v4} {kind} {code}");
                }
            }
        }
    }
}
