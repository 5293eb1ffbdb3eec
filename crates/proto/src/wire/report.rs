//! ICMP messages to the guest: echo replies, and errors that quote what the guest sent.
//!
//! Their checksums are complete: they are rare, and no guest needs to know that
//! checksums of ICMP can be left to it.

use zerocopy::IntoBytes;

use super::build::{MAX_HEADERS, Path};
use super::checksum::Sum;
use super::ip::protocol;
use super::{icmp, ipv4, ipv6};

/// Most bytes of a packet with an error: any host can take as much
/// (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;

/// Bytes of an error's payload before the quoted payload: network header and the
/// start of the transport header.
const TRANSPORT_LEN: usize = 8;

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
        let (kind, pseudo) = if self.dst.is_v4() {
            (protocol::ICMP, Sum::new())
        } else {
            (protocol::ICMPV6, Sum::pseudo(self.src, self.dst, protocol::ICMPV6, len))
        };
        let start = self.emit(out, kind, len)?;
        header.checksum = 0.into();
        header.checksum = pseudo.bytes(header.as_bytes()).and(body).finish().into();
        header.write_to_prefix(out.get_mut(start..)?).ok()?;
        start.checked_add(icmp::LEN)
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
    /// The header of an error whose type and code came from the network, for the same family;
    /// `mtu` means something only if a packet was too big.
    pub fn relayed(kind: u8, code: u8, mtu: u32) -> Self {
        let mut header = icmp::Error::TooBig { mtu }.header(true);
        (header.kind, header.code) = (kind, code);
        header
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
        Path { src_mac: Mac([2; 6]), dst_mac: Mac([4; 6]), src, dst, ttl: 64 }
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
    fn mtu_where_it_belongs() {
        let header = icmp::Header::relayed(3, 4, 1400);
        assert_eq!(header.as_bytes(), [3, 4, 0, 0, 0, 0, 5, 120]);
    }
}
