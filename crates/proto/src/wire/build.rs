//! Headers of what we send to the guest: one builder for every protocol and both families.
//!
//! Transport checksums are left to be completed, as [`Offload`] says, by the
//! guest's kernel, or by [`Offload::finish_header`] for a link that
//! cannot offload: the field holds the sum of the pseudo-header.

use zerocopy::IntoBytes;

use super::checksum::Sum;
use super::ip::{Marks, protocol};
use super::offload::{Gso, Offload};
use super::{ethernet, ipv4, ipv6, tcp, udp};
use crate::addr::{Addr, Mac};

/// Room for the longest headers of a frame.
pub const MAX_HEADERS: usize = ethernet::LEN + ipv6::LEN + tcp::MAX_LEN;

/// Hop limit and time to live of what starts with us.
pub const DEFAULT_TTL: u8 = 64;

/// Where a frame goes, below the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Source address of the frame.
    pub src_mac: Mac,
    /// Destination address of the frame.
    pub dst_mac: Mac,
    /// Source address of the packet.
    pub src: Addr,
    /// Destination address of the packet, of the same family.
    pub dst: Addr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Traffic class (RFC 8200, section 7), in IPv4 the byte of differentiated services and ECN.
    pub traffic_class: u8,
}

impl Path {
    /// The same for packets with these marks.
    #[must_use]
    pub fn marked(self, Marks { ttl, traffic_class, .. }: Marks) -> Self {
        Self { ttl, traffic_class, ..self }
    }

    /// Bytes of the Ethernet and IP headers.
    pub fn header_len(&self) -> usize {
        ethernet::LEN + if self.dst.is_v4() { ipv4::LEN } else { ipv6::LEN }
    }

    /// Writes the Ethernet and IP headers of a packet that carries `payload_len`
    /// bytes of `protocol`, transport header included, and returns their length.
    /// `None` if the families differ, the payload is too long or `out` too short.
    pub fn emit(&self, out: &mut [u8], protocol: u8, payload_len: usize) -> Option<usize> {
        let (frame, packet) = out.split_at_mut_checked(ethernet::LEN)?;
        let marks = (self.ttl, self.traffic_class);
        let ethertype = match (self.src.v4(), self.dst.v4()) {
            (Some(src), Some(dst)) => {
                let header = ipv4::Header::new(src, dst, protocol, marks, payload_len)?;
                header.write_to_prefix(packet).ok()?;
                ethernet::IPV4
            }
            (None, None) => {
                let (src, dst) = (self.src.octets().into(), self.dst.octets().into());
                let header = ipv6::Header::new(src, dst, protocol, marks, payload_len)?;
                header.write_to_prefix(packet).ok()?;
                ethernet::IPV6
            }
            _ => return None,
        };
        let header = ethernet::Header::new(self.src_mac, self.dst_mac, ethertype);
        header.write_to(frame).ok()?;
        Some(self.header_len())
    }

    /// Writes all headers of a TCP segment with `payload_len` bytes, and returns their length. More
    /// than `mss` bytes make a super-frame for the link to cut. `None` as for [`Path::emit`].
    pub fn emit_tcp(
        &self,
        out: &mut [u8],
        segment: &tcp::Segment,
        payload_len: usize,
        mss: u16,
    ) -> Option<(usize, Offload)> {
        let len = segment.header_len().checked_add(payload_len)?;
        let start = self.emit(out, protocol::TCP, len)?;
        let header = out.get_mut(start..)?;
        let header_len = start.checked_add(segment.emit(header)?)?;
        let sum = Sum::pseudo(self.src, self.dst, protocol::TCP, len).partial();
        let (header, _) = zerocopy::FromBytes::mut_from_prefix(header).ok()?;
        let tcp::Header { checksum, .. } = header;
        *checksum = sum.into();
        let gso = if self.dst.is_v4() { Gso::TcpV4 } else { Gso::TcpV6 };
        let offload = Offload::partial(start, tcp::CHECKSUM_OFFSET)?;
        Some((header_len, offload.with_gso(gso, mss, header_len, payload_len)?))
    }

    /// Writes all headers of a datagram with `payload_len` bytes, or of a sequence of
    /// datagrams of `gso_size` bytes if there are more. `None` as for [`Path::emit`].
    pub fn emit_udp(
        &self,
        out: &mut [u8],
        ports: (u16, u16),
        payload_len: usize,
        gso_size: u16,
    ) -> Option<(usize, Offload)> {
        let len = payload_len.checked_add(udp::LEN)?;
        let start = self.emit(out, protocol::UDP, len)?;
        let header = udp::Header {
            src_port: ports.0.into(),
            dst_port: ports.1.into(),
            len: u16::try_from(len).ok()?.into(),
            checksum: Sum::pseudo(self.src, self.dst, protocol::UDP, len).partial().into(),
        };
        header.write_to_prefix(out.get_mut(start..)?).ok()?;
        let header_len = start.checked_add(udp::LEN)?;
        let offload = Offload::partial(start, udp::CHECKSUM_OFFSET)?;
        Some((header_len, offload.with_gso(Gso::Udp, gso_size, header_len, payload_len)?))
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn path(src: impl Into<Addr>, dst: impl Into<Addr>) -> Path {
        Path {
            src_mac: Mac([2; 6]),
            dst_mac: Mac([4; 6]),
            src: src.into(),
            dst: dst.into(),
            ttl: 64,
            traffic_class: 0,
        }
    }

    #[test]
    fn what_fits_and_what_does_not() {
        let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        assert_eq!(MAX_HEADERS, 14 + 40 + 60, "Ethernet, IPv6, TCP with all options");
        let mut out = [0; MAX_HEADERS];
        // The payload's length is in 16 bits, of IPv4 with the header.
        for (path, most, len) in [(path(v4, v4), 65_515, 34), (path(v6, v6), 65_535, 54)] {
            assert_eq!(path.emit(&mut out, protocol::UDP, most), Some(len));
            assert_eq!(path.emit(&mut out, protocol::UDP, most + 1), None);
            assert_eq!(path.emit(&mut out[..len], protocol::UDP, 8), Some(len));
            assert_eq!(path.emit(&mut out[..len - 1], protocol::UDP, 8), None);
            assert_eq!(path.header_len(), len);
            assert_eq!(
                path.emit_udp(&mut out[..len + udp::LEN], (1, 2), 0, 0).map(|(len, _)| len),
                Some(len + 8)
            );
            assert_eq!(path.emit_udp(&mut out[..len + udp::LEN - 1], (1, 2), 0, 0), None);
        }
        for mixed in [path(v4, v6), path(v6, v4)] {
            assert_eq!(mixed.emit(&mut out, protocol::UDP, 8), None);
        }
    }
}
