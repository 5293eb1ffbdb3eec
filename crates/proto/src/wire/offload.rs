//! What a frame leaves to the device: `struct virtio_net_hdr` (virtio 1.2, section
//! 5.1.6; Linux, `include/uapi/linux/virtio_net.h`) as a value, and the same work
//! done in software for links without a device.

use zerocopy::{FromBytes, IntoBytes};

use super::checksum::Sum;
use super::{U16, ethernet, ipv4, ipv6, tcp, udp};
use crate::drop::DropReason;

/// Bytes of the header before frames of a tap device.
pub const LEN: usize = 10;

/// Bytes of the header of virtio 1.0 devices, with the number of buffers at its end.
pub const MERGEABLE_LEN: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The first segment has CWR set; says nothing that the segment does not.
const GSO_ECN: u8 = 0x80;

/// How a super-frame is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// Not at all.
    #[default]
    None,
    /// Into TCP segments over IPv4.
    TcpV4,
    /// Into TCP segments over IPv6.
    TcpV6,
    /// Into UDP datagrams of either family.
    Udp,
}

/// The metadata of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum is to be completed from `csum_start` on.
    pub needs_csum: bool,
    /// The checksum has been verified.
    pub data_valid: bool,
    /// How the frame is to be cut.
    pub gso: Gso,
    /// Bytes of all headers, a hint.
    pub hdr_len: u16,
    /// Bytes of payload in each piece but the last.
    pub gso_size: u16,
    /// Bytes from the start of the frame to the transport header.
    pub csum_start: u16,
    /// Bytes from the transport header to the checksum.
    pub csum_offset: u16,
}

/// One piece of a super-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many pieces come before.
    pub index: u16,
    /// Bytes of payload before.
    pub offset: usize,
    /// Bytes of payload.
    pub len: usize,
    /// Whether this is the last.
    pub last: bool,
}

impl Offload {
    /// A frame whose transport header starts at `start`, its checksum to be completed.
    pub(crate) fn partial(start: usize, csum_offset: u16) -> Option<Self> {
        Some(Self {
            needs_csum: true,
            csum_start: u16::try_from(start).ok()?,
            csum_offset,
            ..Self::default()
        })
    }

    /// The frame is to be cut if it has more than `size` bytes of payload.
    pub(crate) fn with_gso(
        mut self,
        gso: Gso,
        size: u16,
        header_len: usize,
        payload_len: usize,
    ) -> Option<Self> {
        self.hdr_len = u16::try_from(header_len).ok()?;
        if size != 0 && payload_len > usize::from(size) {
            self.gso = gso;
            self.gso_size = size;
        }
        Some(self)
    }

    /// The metadata in the first [`LEN`] bytes of `bytes`, little-endian.
    /// Unknown segmentation types, and segments of no size, are refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DropReason> {
        let header = bytes.first_chunk::<LEN>().ok_or(DropReason::Truncated)?;
        let &[flags, gso, hl, hh, sl, sh, cl, ch, ol, oh] = header;
        let gso = match gso & !GSO_ECN {
            0 => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return Err(DropReason::Offload),
        };
        let gso_size = u16::from_le_bytes([sl, sh]);
        if gso != Gso::None && gso_size == 0 {
            return Err(DropReason::Offload);
        }
        Ok(Self {
            needs_csum: flags & NEEDS_CSUM != 0,
            data_valid: flags & DATA_VALID != 0,
            gso,
            hdr_len: u16::from_le_bytes([hl, hh]),
            gso_size,
            csum_start: u16::from_le_bytes([cl, ch]),
            csum_offset: u16::from_le_bytes([ol, oh]),
        })
    }

    /// The form before frames of a tap device.
    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut flags = 0;
        if self.needs_csum {
            flags |= NEEDS_CSUM;
        }
        if self.data_valid {
            flags |= DATA_VALID;
        }
        let gso = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        let [hl, hh] = self.hdr_len.to_le_bytes();
        let [sl, sh] = self.gso_size.to_le_bytes();
        let [cl, ch] = self.csum_start.to_le_bytes();
        let [ol, oh] = self.csum_offset.to_le_bytes();
        [flags, gso, hl, hh, sl, sh, cl, ch, ol, oh]
    }

    /// The form of virtio 1.0 devices, for a frame in `num_buffers` buffers.
    pub fn to_mergeable_bytes(&self, num_buffers: u16) -> [u8; MERGEABLE_LEN] {
        let [a, b, c, d, e, f, g, h, i, j] = self.to_bytes();
        let [k, l] = num_buffers.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// The pieces that `payload_len` bytes are to be cut into: at least one.
    pub fn pieces(&self, payload_len: usize) -> impl Iterator<Item = Piece> + use<> {
        let size = match self.gso {
            Gso::None => payload_len,
            _ => usize::from(self.gso_size),
        }
        .max(1);
        let offsets = (0..payload_len.max(1)).step_by(size);
        offsets.zip(0..=u16::MAX).map(move |(offset, index)| {
            let left = payload_len.saturating_sub(offset);
            Piece { index, offset, len: left.min(size), last: left <= size }
        })
    }

    /// Writes the headers of one piece of a super-frame with the headers `template`
    /// to `out`, which is as long: lengths, sequence number, flags and identification
    /// as a device would (and `tcp_gso_segment()`, `__udp_gso_segment()` of Linux).
    /// The transport checksum is left partial. Headers of a frame that is not to be cut are
    /// copied as they are. `None` if the headers are not what the metadata say.
    pub fn segment_header(&self, template: &[u8], piece: Piece, out: &mut [u8]) -> Option<()> {
        let out = out.get_mut(..template.len())?;
        out.copy_from_slice(template);
        if self.gso == Gso::None {
            return Some(());
        }
        let (frame, packet) = ethernet::Header::mut_from_prefix(out).ok()?;
        let start = usize::from(self.csum_start).checked_sub(ethernet::LEN)?;
        let (network, transport) = packet.split_at_mut_checked(start)?;
        let len = transport.len().checked_add(piece.len)?;
        let pseudo = match frame.ethertype.get() {
            ethernet::IPV4 => piece_of_ipv4(network, piece, len)?,
            ethernet::IPV6 => piece_of_ipv6(network, len)?,
            _ => return None,
        };
        let pseudo = pseudo.u32(u32::try_from(len).ok()?);
        match self.gso {
            Gso::TcpV4 | Gso::TcpV6 => piece_of_tcp(transport, piece, pseudo),
            Gso::Udp => piece_of_udp(transport, len, pseudo),
            Gso::None => Some(()),
        }
    }

    /// Completes the checksum in `header`, the contiguous headers of a frame whose payload
    /// adds up to `payload`. `None` if the metadata point outside of it.
    pub fn finish_header(&self, header: &mut [u8], payload: Sum) -> Option<()> {
        if !self.needs_csum {
            return Some(());
        }
        let transport = header.get_mut(self.csum_start.into()..)?;
        let check = Sum::new().bytes(transport).and(payload).finish_nonzero();
        let field = transport.get_mut(self.csum_offset.into()..)?;
        U16::from(check).write_to_prefix(field).ok()
    }
}

/// Adjusts an IPv4 header, and returns the sum of addresses and protocol.
fn piece_of_ipv4(network: &mut [u8], piece: Piece, len: usize) -> Option<Sum> {
    let total_len = u16::try_from(network.len().checked_add(len)?).ok()?;
    let (header, options) = ipv4::Header::mut_from_prefix(network).ok()?;
    header.total_len = total_len.into();
    header.id = header.id.get().wrapping_add(piece.index).into();
    header.checksum = 0.into();
    let sum = Sum::new().bytes(header.as_bytes()).bytes(options);
    header.checksum = sum.finish().into();
    let addresses = Sum::new().bytes(&header.src).bytes(&header.dst);
    Some(addresses.u16(header.protocol.into()))
}

/// Adjusts an IPv6 header, and returns the sum of addresses and protocol.
fn piece_of_ipv6(network: &mut [u8], len: usize) -> Option<Sum> {
    let (header, extensions) = ipv6::Header::mut_from_prefix(network).ok()?;
    header.payload_len = u16::try_from(extensions.len().checked_add(len)?).ok()?.into();
    let addresses = Sum::new().bytes(&header.src).bytes(&header.dst);
    // Extension headers have a next header of their own, and we send none.
    Some(addresses.u16(header.next_header.into()))
}

fn piece_of_tcp(transport: &mut [u8], piece: Piece, pseudo: Sum) -> Option<()> {
    let (header, _) = tcp::Header::mut_from_prefix(transport).ok()?;
    let offset = u32::try_from(piece.offset).ok()?;
    header.seq = header.seq.get().wrapping_add(offset).into();
    let mut flags = tcp::Flags::from_bits_retain(header.flags);
    if !piece.last {
        flags.remove(tcp::Flags::FIN | tcp::Flags::PSH);
    }
    if piece.index != 0 {
        flags.remove(tcp::Flags::CWR);
    }
    header.flags = flags.bits();
    header.checksum = pseudo.partial().into();
    Some(())
}

fn piece_of_udp(transport: &mut [u8], len: usize, pseudo: Sum) -> Option<()> {
    let (header, _) = udp::Header::mut_from_prefix(transport).ok()?;
    header.len = u16::try_from(len).ok()?.into();
    header.checksum = pseudo.partial().into();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, Mac};
    use crate::seq::Seq;
    use crate::wire::build::{MAX_HEADERS, Path};
    use crate::wire::decode::decode;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn path(v4: bool) -> Path {
        let (src, dst): (Addr, Addr) = if v4 {
            (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into())
        } else {
            let src = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            (src.into(), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2).into())
        };
        Path {
            src_mac: Mac([2, 0, 0, 0, 0, 1]),
            dst_mac: Mac([2, 0, 0, 0, 0, 2]),
            src,
            dst,
            ttl: 64,
            traffic_class: 0,
        }
    }

    /// What a link without offload sends for a frame.
    fn cut(header: &[u8], offload: &Offload, payload: &[u8]) -> Vec<Vec<u8>> {
        let piece = |piece: Piece| {
            let payload = &payload[piece.offset..piece.offset + piece.len];
            let mut frame = [header, payload].concat();
            let (header_out, _) = frame.split_at_mut(header.len());
            if offload.gso != Gso::None {
                offload.segment_header(header, piece, header_out).unwrap();
            }
            offload.finish_header(header_out, Sum::new().bytes(payload)).unwrap();
            frame
        };
        offload.pieces(payload.len()).map(piece).collect()
    }

    /// As virtio 1.2, section 5.1.6, has the fields.
    #[test]
    fn bytes_of_each_kind() {
        let kinds = [(0, Gso::None), (1, Gso::TcpV4), (4, Gso::TcpV6), (5, Gso::Udp)];
        for (byte, gso) in kinds {
            for (flags, needs_csum, data_valid) in [(0, false, false), (1, true, false), (2, false, true)] {
                let bytes = [flags, byte, 1, 2, 3, 4, 5, 6, 7, 8];
                let offload = Offload {
                    needs_csum,
                    data_valid,
                    gso,
                    hdr_len: 0x0201,
                    gso_size: 0x0403,
                    csum_start: 0x0605,
                    csum_offset: 0x0807,
                };
                assert_eq!(Offload::from_bytes(&bytes), Ok(offload), "{bytes:?}");
                assert_eq!(offload.to_bytes(), bytes, "{offload:?}");
                // That of ECN says no more.
                let mut ecn = bytes;
                ecn[1] |= 0x80;
                assert_eq!(Offload::from_bytes(&ecn), Ok(offload), "{ecn:?}");
            }
            let no_size = Offload::from_bytes(&[0, byte, 0, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(no_size.is_ok(), gso == Gso::None, "{byte}");
        }
        for unknown in [2, 3, 6, 0x7f] {
            let bytes = [0, unknown, 0, 0, 1, 0, 0, 0, 0, 0];
            assert_eq!(Offload::from_bytes(&bytes), Err(DropReason::Offload), "{unknown}");
        }
        assert_eq!(Offload::from_bytes(&[0; LEN - 1]), Err(DropReason::Truncated));
    }

    /// What is no longer than a piece is none to be cut, and neither is what has no size of pieces.
    #[test]
    fn super_frames_have_more_than_a_piece() {
        for (payload_len, size, gso) in
            [(1000, 1000, Gso::None), (1001, 1000, Gso::Udp), (1001, 0, Gso::None), (0, 0, Gso::None)]
        {
            let mut header = [0; MAX_HEADERS];
            let (_, offload) = path(true).emit_udp(&mut header, (1, 2), payload_len, size).unwrap();
            let expected = if gso == Gso::None { 0 } else { size };
            assert_eq!((offload.gso, offload.gso_size), (gso, expected), "{payload_len} by {size}");
        }
    }

    proptest! {
        #[test]
        fn tcp_pieces_are_whole_segments(
            v4: bool,
            payload in prop::collection::vec(any::<u8>(), 0..6000),
            mss in 1u16..3000,
            seq: u32,
        ) {
            let flags = tcp::Flags::ACK | tcp::Flags::PSH | tcp::Flags::FIN | tcp::Flags::CWR;
            let segment = tcp::Segment {
                src_port: 80, dst_port: 40000, seq: Seq(seq), flags, window: 1, ..Default::default()
            };
            let mut header = [0; MAX_HEADERS];
            let (len, offload) = path(v4).emit_tcp(&mut header, &segment, payload.len(), mss).unwrap();
            let frames = cut(&header[..len], &offload, &payload);
            let mut next = seq;
            let mut joined = Vec::new();
            for (i, frame) in frames.iter().enumerate() {
                let decoded = decode(frame);
                let tcp = decoded.tcp.unwrap();
                prop_assert_eq!(decoded.ports, (80, 40000));
                prop_assert_eq!(tcp.sequence_number, next);
                prop_assert!(decoded.payload.len() <= mss.into());
                let last = i + 1 == frames.len();
                prop_assert_eq!((tcp.fin, tcp.psh, tcp.cwr), (last, last, i == 0));
                next = next.wrapping_add(u32::try_from(decoded.payload.len()).unwrap());
                joined.extend(decoded.payload);
            }
            prop_assert_eq!(frames.len(), payload.len().div_ceil(mss.into()).max(1));
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn udp_pieces_are_whole_datagrams(
            v4: bool,
            payload in prop::collection::vec(any::<u8>(), 0..4000),
            size in 1u16..1500,
        ) {
            let mut header = [0; MAX_HEADERS];
            let (len, offload) = path(v4).emit_udp(&mut header, (53, 999), payload.len(), size).unwrap();
            let mut joined = Vec::new();
            for frame in cut(&header[..len], &offload, &payload) {
                let decoded = decode(&frame);
                prop_assert_eq!(decoded.ports, (53, 999));
                joined.extend(decoded.payload);
            }
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn contradictions_never_panic(bytes: [u8; LEN], header: [u8; 70], index: u16, len in 0usize..70000) {
            if let Ok(offload) = Offload::from_bytes(&bytes) {
                let piece = Piece { index, offset: len, len, last: false };
                let mut out = [0; 70];
                let _ = offload.segment_header(&header, piece, &mut out);
                let _ = offload.finish_header(&mut out, Sum::new());
            }
        }
    }

    #[test]
    fn impossible_segmentation_is_refused() {
        // UDP fragmentation, an unknown type, segments of no size.
        for header in [
            [0, 3, 0, 0, 1, 0, 0, 0, 0, 0],
            [0, 2, 0, 0, 1, 0, 0, 0, 0, 0],
            [1, 1, 54, 0, 0, 0, 34, 0, 16, 0],
        ] {
            assert_eq!(Offload::from_bytes(&header), Err(DropReason::Offload));
        }
        assert_eq!(Offload::from_bytes(&[0; 9]), Err(DropReason::Truncated));
    }

    #[test]
    fn more_pieces_than_an_index_counts() {
        let offload = Offload { gso: Gso::Udp, gso_size: 1, ..Offload::default() };
        assert_eq!(offload.pieces(0xffff).last().map(|p| (p.index, p.last)), Some((0xfffe, true)));
        assert_eq!(offload.pieces(0x2_0000).count(), 0x1_0000);
    }

    #[test]
    fn form_of_a_super_frame() {
        // As Linux writes it for TCP over IPv4, with ECN.
        let bytes = [1, 0x81, 66, 0, 0xb4, 5, 34, 0, 16, 0];
        let offload = Offload {
            needs_csum: true,
            gso: Gso::TcpV4,
            hdr_len: 66,
            gso_size: 1460,
            csum_start: 34,
            csum_offset: 16,
            ..Offload::default()
        };
        assert_eq!(Offload::from_bytes(&bytes), Ok(offload));
        assert_eq!(offload.to_mergeable_bytes(2), [1, 1, 66, 0, 0xb4, 5, 34, 0, 16, 0, 2, 0]);
    }
}
