//! TCP segments (RFC 9293, section 3.1) and the options that we take part in.
//!
//! Others are ignored. Blocks of selective acknowledgements (RFC 2018) are only read: we send none.
//!
//! The checksum is neither verified nor computed here: that needs the payload,
//! which belongs to kernels and devices.

use core::fmt;

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::writer::Writer;
use super::{U16, U32};
use crate::drop::DropReason;
use crate::seq::Seq;

/// Bytes of a header without options.
pub const LEN: usize = 20;

/// Bytes of the longest header.
pub const MAX_LEN: usize = 60;

/// Bytes from the start of the header to its checksum.
pub const CHECKSUM_OFFSET: u16 = 16;

/// The largest window scale (RFC 7323, section 2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

/// The header without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Sequence number.
    pub seq: U32,
    /// Acknowledgement number.
    pub ack: U32,
    /// Header length in words, in the upper half.
    pub data_offset: u8,
    /// See [`Flags`].
    pub flags: u8,
    /// Window, not scaled.
    pub window: U16,
    /// Checksum over pseudo-header, header and payload.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

bitflags! {
    /// The control bits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Flags: u8 {
        /// No more data from the sender.
        const FIN = 0x01;
        /// Synchronize sequence numbers.
        const SYN = 0x02;
        /// Reset.
        const RST = 0x04;
        /// Push.
        const PSH = 0x08;
        /// The acknowledgement number counts.
        const ACK = 0x10;
        /// The urgent pointer counts.
        const URG = 0x20;
        /// ECN echo.
        const ECE = 0x40;
        /// Congestion window reduced.
        const CWR = 0x80;
    }
}

/// A segment's header: everything but checksum, urgent pointer and payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first byte, or of the SYN.
    pub seq: Seq,
    /// The next sequence number expected; counts if [`Flags::ACK`] is set.
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// Window as on the wire, not scaled.
    pub window: u16,
    /// Options.
    pub options: Options,
}

/// The options that are understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale, at most [`MAX_WINDOW_SCALE`].
    pub window_scale: Option<u8>,
    /// Selective acknowledgement is permitted.
    pub sack_permitted: bool,
    /// Selectively acknowledged blocks; never written.
    pub sack: SackBlocks,
}

impl Segment {
    /// The segment at the start of `bytes`, and the length of its header.
    ///
    /// Options from the first malformed one on are ignored: a header that
    /// is otherwise good is worth more than its options.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), DropReason> {
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| DropReason::Truncated)?;
        let header_len = usize::from(header.data_offset >> 4) * 4;
        if header_len < LEN {
            return Err(DropReason::TcpHeader);
        }
        let options = bytes.get(LEN..header_len).ok_or(DropReason::Truncated)?;
        let segment = Self {
            src_port: header.src_port.get(),
            dst_port: header.dst_port.get(),
            seq: Seq(header.seq.get()),
            ack: Seq(header.ack.get()),
            flags: Flags::from_bits_retain(header.flags),
            window: header.window.get(),
            options: Options::parse(options),
        };
        Ok((segment, header_len))
    }

    /// Bytes that [`Segment::emit`] writes.
    pub fn header_len(&self) -> usize {
        LEN + self.options.len()
    }

    /// Writes the header, with checksum and urgent pointer zero, and returns its
    /// length; `None` if `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let header_len = self.header_len();
        let words = u8::try_from(header_len / 4).ok()?;
        let header = Header {
            src_port: self.src_port.into(),
            dst_port: self.dst_port.into(),
            seq: self.seq.0.into(),
            ack: self.ack.0.into(),
            data_offset: words << 4,
            flags: self.flags.bits(),
            window: self.window.into(),
            checksum: 0.into(),
            urgent: 0.into(),
        };
        header.write_to_prefix(out).ok()?;
        self.options.emit(out.get_mut(LEN..header_len)?)?;
        Some(header_len)
    }
}

/// Option kinds (IANA).
mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const MSS: u8 = 2;
    pub(super) const WINDOW_SCALE: u8 = 3;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const SACK: u8 = 5;
}

impl Options {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        loop {
            bytes = match bytes {
                [] | [kind::END, ..] => return options,
                [kind::NOP, rest @ ..] => rest,
                [kind, len, rest @ ..] => {
                    let body = usize::from(*len).checked_sub(2);
                    let Some((body, rest)) = body.and_then(|n| rest.split_at_checked(n)) else {
                        return options;
                    };
                    options.set(*kind, body);
                    rest
                }
                [_] => return options,
            }
        }
    }

    /// Takes one option over; one of an unknown kind or a wrong length is ignored.
    fn set(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (kind::MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            (kind::WINDOW_SCALE, &[scale]) => {
                self.window_scale = Some(scale.min(MAX_WINDOW_SCALE));
            }
            (kind::SACK_PERMITTED, []) => self.sack_permitted = true,
            (kind::SACK, body) => {
                self.sack = SackBlocks::default();
                for &[a, b, c, d, e, f, g, h] in body.as_chunks().0 {
                    let left = Seq(u32::from_be_bytes([a, b, c, d]));
                    self.sack.push(left, Seq(u32::from_be_bytes([e, f, g, h])));
                }
            }
            _ => {}
        }
    }

    /// Bytes that [`Options::emit`] writes: each option is padded to whole words.
    fn len(&self) -> usize {
        let options = [self.mss.is_some(), self.window_scale.is_some(), self.sack_permitted];
        4 * options.into_iter().filter(|is_there| *is_there).count()
    }

    /// Writes the options to `out`, which is [`Options::len`] bytes long, in the
    /// order that Linux uses and recognises fastest.
    fn emit(&self, out: &mut [u8]) -> Option<()> {
        let mut w = Writer::new(out);
        if let Some(mss) = self.mss {
            w.put(&[kind::MSS, 4])?;
            w.u16(mss)?;
        }
        if self.sack_permitted {
            w.put(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2])?;
        }
        if let Some(scale) = self.window_scale {
            w.put(&[kind::NOP, kind::WINDOW_SCALE, 3, scale])?;
        }
        Some(())
    }
}

/// Blocks of a SACK option (RFC 2018, section 3): left edge, and right edge, exclusive.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [(Seq, Seq); 4],
    len: u8,
}

impl SackBlocks {
    /// Adds a block; a fifth is ignored, as no header has room for it.
    pub fn push(&mut self, left: Seq, right: Seq) {
        if let Some(block) = self.blocks.get_mut(usize::from(self.len)) {
            *block = (left, right);
            self.len += 1;
        }
    }

    /// The blocks in the order of the option.
    pub fn as_slice(&self) -> &[(Seq, Seq)] {
        self.blocks.get(..self.len.into()).unwrap_or_default()
    }
}

impl fmt::Debug for SackBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_options(bytes: &[u8]) -> Options {
        Options::parse(bytes)
    }

    #[test]
    fn options_of_a_linux_syn() {
        let options = parse_options(&[2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
        let expected = Options {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            sack: SackBlocks::default(),
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn what_precedes_a_malformed_option_counts() {
        let mss = Options { mss: Some(536), ..Options::default() };
        let tails: [&[u8]; 6] = [
            &[3],          // no length
            &[3, 0, 7],    // length below two would loop
            &[3, 1, 7],    // likewise
            &[3, 4, 7],    // beyond the end
            &[0, 3, 3, 7], // behind the end of list
            &[3, 4, 7, 7], // window scale of a wrong length
        ];
        for tail in tails {
            let bytes = [&[2, 4, 2, 24], tail].concat();
            assert_eq!(parse_options(&bytes), mss, "{tail:?}");
        }
    }

    #[test]
    fn window_scale_is_capped() {
        assert_eq!(parse_options(&[3, 3, 15]).window_scale, Some(14));
    }

    #[test]
    fn selective_acknowledgements() {
        let block = [0, 0, 0, 5, 0, 0, 0, 9];
        for whole in 0..=4u8 {
            // What follows is cut short, and no block.
            let bytes =
                [&[1, 1, 5, 2 + 8 * whole + 4][..], &block.repeat(whole.into()), &block[..4]].concat();
            assert_eq!(parse_options(&bytes).sack.as_slice(), &[(Seq(5), Seq(9)); 4][..whole.into()]);
        }
    }

    #[test]
    fn bad_headers() {
        let mut bytes = [0; 24];
        assert_eq!(Segment::parse(&bytes[..19]), Err(DropReason::Truncated));
        bytes[12] = 0x40;
        assert_eq!(Segment::parse(&bytes), Err(DropReason::TcpHeader));
        bytes[12] = 0x70;
        assert_eq!(Segment::parse(&bytes), Err(DropReason::Truncated));
        bytes[12] = 0x60;
        assert_eq!(Segment::parse(&bytes).unwrap().1, 24);
    }

    prop_compose! {
        fn options()(
            mss: Option<u16>,
            window_scale in prop::option::of(0..=14u8),
            sack_permitted: bool,
        ) -> Options {
            Options { mss, window_scale, sack_permitted, ..Options::default() }
        }
    }

    proptest! {
        #[test]
        fn emitted_is_parsed(options in options(), ports: (u16, u16), seq: u32, ack: u32, flags: u8, window: u16) {
            let segment = Segment {
                src_port: ports.0,
                dst_port: ports.1,
                seq: Seq(seq),
                ack: Seq(ack),
                flags: Flags::from_bits_retain(flags),
                window,
                options,
            };
            let mut bytes = [0xaa; MAX_LEN];
            let len = segment.emit(&mut bytes).unwrap();
            prop_assert_eq!(len % 4, 0);
            prop_assert_eq!(Segment::parse(&bytes[..len]), Ok((segment, len)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: [u8; 64]) {
            if let Ok((segment, len)) = Segment::parse(&bytes) {
                prop_assert!((LEN..=MAX_LEN).contains(&len));
                prop_assert!(segment.emit(&mut [0; MAX_LEN]).is_some());
            }
        }
    }
}
