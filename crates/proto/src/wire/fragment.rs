//! Fragments (RFC 791, section 2.3; RFC 8200, section 4.5): of what is too large for the guest's
//! link, as a datagram cannot be cut otherwise and a host may send 64 KiB of it; and those that the
//! guest sends, which [`crate::reassembly`] puts together.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::build::Path;
use super::{U16, U32, ethernet, ipv4, ipv6};
use crate::drop::DropReason;

const MORE_V4: u16 = 0x2000;
const MORE_V6: u16 = 1;

/// The fragment header of IPv6.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    protocol: u8,
    reserved: u8,
    offset_more: U16,
    id: U32,
}

pub(super) const LEN: usize = size_of::<Header>();

/// Protocol, offset in bytes, whether others follow, and identification of the fragment header at
/// the start of `bytes`.
pub(super) fn parse_header(bytes: &[u8]) -> Option<(u8, u16, bool, u32)> {
    let (header, _) = Header::ref_from_prefix(bytes).ok()?;
    let offset_more = header.offset_more.get();
    Some((header.protocol, offset_more & !7, offset_more & MORE_V6 != 0, header.id.get()))
}

/// Most bytes that a packet's payload has: its length is a number of 16 bits.
const MOST: usize = 65_535;

/// What a fragment of the guest's has of its packet's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Bytes of payload before, a multiple of eight.
    pub offset: u16,
    /// Bytes of payload; without others behind any number, else a multiple of eight.
    pub len: u16,
    /// Whether others follow.
    pub more: bool,
    /// Tells the packet from others between the same two addresses.
    pub id: u32,
}

impl Part {
    /// A part that a packet can have: not empty, not beyond the longest payload, and ending at a
    /// multiple of eight where another follows.
    pub fn new(offset: u16, len: usize, more: bool, id: u32) -> Result<Self, DropReason> {
        let is_possible = len != 0
            && offset.is_multiple_of(8)
            && (!more || len.is_multiple_of(8))
            && len.saturating_add(offset.into()) <= MOST;
        let len = u16::try_from(len).ok().filter(|_| is_possible).ok_or(DropReason::Fragment)?;
        Ok(Self { offset, len, more, id })
    }

    /// The bytes of the packet's payload that it has.
    pub fn range(&self) -> core::ops::Range<usize> {
        let start = usize::from(self.offset);
        start..start.saturating_add(self.len.into())
    }
}

/// A part of a packet's payload, which begins with the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes of payload before, a multiple of eight.
    pub offset: usize,
    /// Bytes of payload.
    pub len: usize,
    /// Whether others follow.
    pub more: bool,
}

impl Path {
    /// The fragments of a packet with `len` bytes of payload, on a link where packets
    /// of `mtu` bytes fit, network header included.
    pub fn fragments(&self, len: usize, mtu: usize) -> impl Iterator<Item = Fragment> + use<> {
        let header = if self.dst.is_v4() { ipv4::LEN } else { ipv6::LEN + LEN };
        let room = (mtu.saturating_sub(header) & !7).max(8);
        (0..len).step_by(room).map(move |offset| {
            let left = len.saturating_sub(offset);
            Fragment { offset, len: left.min(room), more: left > room }
        })
    }

    /// Writes the Ethernet and IP headers of a fragment of a packet that carries `protocol`,
    /// and returns their length. `id` tells the packet from others between the same two
    /// addresses. `None` as for [`Path::emit`].
    pub fn emit_fragment(&self, out: &mut [u8], protocol: u8, id: u32, fragment: &Fragment) -> Option<usize> {
        let units = u16::try_from(fragment.offset / 8).ok().filter(|&u| u < 1 << 13)?;
        if self.dst.is_v4() {
            let len = self.emit(out, protocol, fragment.len)?;
            let (header, _) = ipv4::Header::mut_from_prefix(out.get_mut(ethernet::LEN..)?).ok()?;
            let [_, _, high, low] = id.to_be_bytes();
            header.id = U16::from_bytes([high, low]);
            header.fragment = (units | if fragment.more { MORE_V4 } else { 0 }).into();
            header.update_checksum();
            return Some(len);
        }
        let len = self.emit(out, ipv6::FRAGMENT, fragment.len.checked_add(LEN)?)?;
        let header = Header {
            protocol,
            reserved: 0,
            offset_more: ((units << 3) | if fragment.more { MORE_V6 } else { 0 }).into(),
            id: id.into(),
        };
        header.write_to_prefix(out.get_mut(len..)?).ok()?;
        len.checked_add(LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, Mac};
    use crate::wire::ip::protocol;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn path(v4: bool) -> Path {
        let addr: Addr = if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        Path { src_mac: Mac([2; 6]), dst_mac: Mac([4; 6]), src: addr, dst: addr, ttl: 64, traffic_class: 0 }
    }

    #[test]
    fn headers() {
        let mut out = [0; 100];
        let last = Fragment { offset: 1480, len: 20, more: false };
        let len = path(true).emit_fragment(&mut out, protocol::UDP, 0x1_0002, &last).expect("fits");
        assert_eq!(out[14..22], [0x45, 0, 0, 40, 0, 2, 0, 185], "length, identification, offset");
        assert_eq!((len, out[23]), (34, protocol::UDP));
        let first = Fragment { offset: 0, len: 1448, more: true };
        let len = path(false).emit_fragment(&mut out, protocol::UDP, 0x1_0002, &first).expect("fits");
        assert_eq!(out[18..21], [1456u16.to_be_bytes()[0], 1456u16.to_be_bytes()[1], 44]);
        assert_eq!(out[54..62], [17, 0, 0, 1, 0, 1, 0, 2]);
        assert_eq!(len, 62);
        let last = Fragment { offset: 1448, len: 8, more: false };
        path(false).emit_fragment(&mut out, protocol::UDP, 0x1_0002, &last).expect("fits");
        assert_eq!(out[54..62], [17, 0, 0x05, 0xa8, 0, 1, 0, 2], "an offset in units of eight, times eight");
        let beyond = Fragment { offset: 1 << 16, len: 8, more: false };
        assert_eq!(path(true).emit_fragment(&mut out, protocol::UDP, 0, &beyond), None);
    }

    /// Nothing follows a last fragment that is full.
    #[test]
    fn two_full_fragments() {
        let full = |offset, more| Fragment { offset, len: 1480, more };
        assert!(path(true).fragments(2960, 1500).eq([full(0, true), full(1480, false)]));
    }

    proptest! {
        /// Fragments cover the payload in order, on eight-byte borders, within the MTU, and are as
        /// few as can be.
        #[test]
        fn fragments_cover(len in 1usize..65_536, mtu in 68usize..9000, v4: bool) {
            let header = if v4 { 20 } else { 48 };
            let mut end = 0;
            for fragment in path(v4).fragments(len, mtu) {
                prop_assert_eq!(fragment.offset, end);
                prop_assert_eq!(fragment.offset % 8, 0);
                prop_assert!(fragment.len > 0 && header + fragment.len <= mtu);
                end += fragment.len;
                prop_assert_eq!(fragment.more, end < len);
                prop_assert!(!fragment.more || header + fragment.len + 8 > mtu);
            }
            prop_assert_eq!(end, len);
        }
    }
}
