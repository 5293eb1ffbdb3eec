//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use crate::addr::Addr;

/// Bytes summed by one step of the wide loop.
const STRIDE: usize = 64;

/// A sum of 16-bit words in one's complement that is still open for more.
///
/// Pieces may be of any length: a piece that follows an odd number of bytes is
/// shifted to its place by swapping the bytes of its sum (RFC 1071, section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Folded lazily: each addition puts in 16 bits.
    total: u64,
    /// Whether an odd number of bytes has been added.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Self {
        Self { total: 0, odd: false }
    }

    /// The sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1)
    /// for `len` bytes of `protocol`, header included. Both addresses are of one family.
    pub fn pseudo(src: Addr, dst: Addr, protocol: u8, len: usize) -> Self {
        let sum = match (src.v4(), dst.v4()) {
            (Some(src), Some(dst)) => Self::new().u32(src.to_bits()).u32(dst.to_bits()),
            _ => Self::new().bytes(&src.octets()).bytes(&dst.octets()),
        };
        sum.u32(u32::try_from(len).unwrap_or(u32::MAX)).u16(protocol.into())
    }

    /// Adds bytes.
    #[inline]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.and(Self { total: sum_bytes(bytes).into(), odd: !bytes.len().is_multiple_of(2) })
    }

    /// Adds a number of two bytes in network order.
    #[inline]
    pub fn u16(self, word: u16) -> Self {
        self.and(Self { total: word.into(), odd: false })
    }

    /// Adds a number of four bytes in network order.
    #[inline]
    pub fn u32(self, word: u32) -> Self {
        self.and(Self { total: word.into(), odd: false })
    }

    /// Adds the sum of bytes that follow those of this one.
    #[inline]
    pub fn and(self, next: Self) -> Self {
        let piece = fold(next.total);
        let piece = if self.odd { piece.swap_bytes() } else { piece };
        Self { total: self.total.wrapping_add(piece.into()), odd: self.odd != next.odd }
    }

    /// The sum in 16 bits, not complemented: what stands in the checksum field of a
    /// packet whose checksum the receiver of the frame is to complete.
    #[inline]
    pub fn partial(self) -> u16 {
        fold(self.total)
    }

    /// The checksum: the complement of the sum. Zero over data that contain a valid checksum.
    #[inline]
    pub fn finish(self) -> u16 {
        !fold(self.total)
    }

    /// The checksum for UDP and ICMPv6, where zero would mean that there is none;
    /// all ones is the same number.
    #[inline]
    pub fn finish_nonzero(self) -> u16 {
        match self.finish() {
            0 => u16::MAX,
            check => check,
        }
    }
}

/// Adds the carries back in until 16 bits are left. After the second step at most 0x1fffe is, so
/// that the third one leaves no carry.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "halves and quarters of a word, that is the point")]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) as u32 + (sum & 0xffff) as u32 + ((sum >> 16) & 0xffff) as u32;
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The sum of big-endian words; a last single byte is the upper half of a word.
///
/// Summed in the machine's own order and swapped once at the end, which gives
/// the same (RFC 1071, section 2, B). Independent 64-bit lanes fed with 32-bit
/// words leave room for 2³² carries, so that the loop compiles to vector additions.
#[inline]
fn sum_bytes(bytes: &[u8]) -> u16 {
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    // Headers are shorter.
    let mut sum = if strides.is_empty() { 0 } else { sum_strides(strides) };
    let (words, rest) = rest.as_chunks::<4>();
    for &word in words {
        sum = sum.wrapping_add(u32::from_ne_bytes(word).into());
    }
    let mut last = [0; 4];
    for (to, &from) in last.iter_mut().zip(rest) {
        *to = from;
    }
    sum = sum.wrapping_add(u32::from_ne_bytes(last).into());
    u16::from_be(fold(sum))
}

/// The wide loop.
fn sum_strides(strides: &[[u8; STRIDE]]) -> u64 {
    let mut lanes = [0u64; STRIDE / 4];
    for stride in strides {
        let (words, _) = stride.as_chunks::<4>();
        for (lane, &word) in lanes.iter_mut().zip(words) {
            *lane = lane.wrapping_add(u32::from_ne_bytes(word).into());
        }
    }
    lanes.iter().fold(0, |sum, &lane| sum + u64::from(fold(lane)))
}

#[cfg(test)]
mod tests {
    use super::Sum;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn example_of_rfc_1071() {
        let sum = Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.partial(), 0xddf2);
    }

    #[test]
    fn carries_of_long_input() {
        let mixed = |n: u32| (n.wrapping_mul(2_654_435_761) >> 24) | 0x80;
        let mixed: Vec<u8> = (0..65_537).map(|n| u8::try_from(mixed(n)).unwrap()).collect();
        for bytes in [std::vec![0xff; 65_537], mixed] {
            for len in [4095, 65_535, 65_537] {
                assert_eq!(Sum::new().bytes(&bytes[..len]).finish(), naive(&bytes[..len]), "{len}");
            }
        }
    }

    proptest! {
        #[test]
        fn carries_of_any_total(total: u64) {
            let words = total.to_be_bytes();
            prop_assert_eq!(Sum { total, odd: false }.finish(), naive(&words));
        }

        #[test]
        fn same_as_naive(bytes: Vec<u8>, cuts in prop::collection::vec(0usize..200, 0..4)) {
            let mut rest = bytes.as_slice();
            let mut sum = Sum::new();
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                sum = sum.and(Sum::new().bytes(piece));
                rest = tail;
            }
            prop_assert_eq!(sum.bytes(rest).finish(), naive(&bytes));
        }
    }
}
