//! How frames are told apart on their way to and from a peer behind a socket or a pipe: by the
//! length before each, or because each is a message.

use super::ethernet;

/// Most bytes before a frame, whatever the framing.
pub const PREFIX: usize = 4;

/// Longest frame: the longest packet of IPv4 behind an Ethernet header.
pub const MAX_FRAME: usize = 65_535 + ethernet::LEN;

/// What is around Ethernet frames, which are without FCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// In a byte stream, each frame behind its length, 32 bits in network order: QEMU's `-netdev
    /// stream` (`net/stream.c`, `net/stream_data.c`).
    Be32,
    /// In a byte stream, each frame behind its length, 16 bits, least significant first: what
    /// follows the handshake between hyperkit and `VPNKit`, and all there is by gvisor-tap-vsock's
    /// `stdio` (`pkg/types/configuration.go` there).
    Le16,
    /// Each frame is one message of a socket that keeps them apart: `SOCK_SEQPACKET` for
    /// slirp4netns's `--target-type=bess` and user-mode Linux, `SOCK_DGRAM` for vfkit.
    Message,
}

/// A length that no frame has. What follows in a stream cannot be made sense of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of {0} bytes{how}", how = self.advice())]
pub struct BadLength(pub u32);

impl BadLength {
    /// What to do if it is the beginning of another protocol: vhost-user begins with the number of a
    /// request, 32 bits, least significant first.
    const fn advice(self) -> &'static str {
        match self.0.swap_bytes() {
            1..64 => ", as vhost-user begins, which takes --vhost-user",
            _ => "",
        }
    }
}

impl Framing {
    /// Bytes before each frame, at most [`PREFIX`].
    pub const fn prefix_len(self) -> usize {
        match self {
            Self::Be32 => 4,
            Self::Le16 => 2,
            Self::Message => 0,
        }
    }

    /// The length of the frame behind the prefix that `bytes` start with; `None` unless all of the
    /// frame is there. A message is all of `bytes`.
    pub fn frame_len(self, bytes: &[u8]) -> Result<Option<usize>, BadLength> {
        let (announced, there) = match self {
            Self::Be32 => {
                let Some((&prefix, rest)) = bytes.split_first_chunk() else { return Ok(None) };
                (u32::from_be_bytes(prefix), rest.len())
            }
            Self::Le16 => {
                let Some((&prefix, rest)) = bytes.split_first_chunk() else { return Ok(None) };
                (u32::from(u16::from_le_bytes(prefix)), rest.len())
            }
            Self::Message => (u32::try_from(bytes.len()).unwrap_or(u32::MAX), bytes.len()),
        };
        match usize::try_from(announced) {
            Ok(len @ ethernet::LEN..=MAX_FRAME) => Ok((there >= len).then_some(len)),
            _ => Err(BadLength(announced)),
        }
    }

    /// Writes what comes before a frame that takes up the rest of `room`, and returns that rest;
    /// `None` if the frame is too long to be announced, or there is no room for what comes before.
    pub fn begin(self, room: &mut [u8]) -> Option<&mut [u8]> {
        let frame = match self {
            Self::Be32 => {
                let (prefix, frame) = room.split_first_chunk_mut()?;
                *prefix = u32::try_from(frame.len()).ok()?.to_be_bytes();
                frame
            }
            Self::Le16 => {
                let (prefix, frame) = room.split_first_chunk_mut()?;
                *prefix = u16::try_from(frame.len()).ok()?.to_le_bytes();
                frame
            }
            Self::Message => room,
        };
        (frame.len() <= MAX_FRAME).then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::Framing::{Be32, Le16, Message};
    use super::*;

    /// Prefix, bytes behind it, what is found.
    type Case = (Framing, &'static [u8], usize, Result<Option<usize>, BadLength>);

    #[test]
    fn another_protocol_is_named() {
        for (length, is_named) in [(0_u32, false), (13, false), (1 << 24, true), (u32::MAX, false)] {
            let text = std::format!("{}", BadLength(length));
            assert_eq!(text.contains("--vhost-user"), is_named, "{text}");
        }
    }

    #[test]
    fn lengths() {
        let cases: &[Case] = &[
            (Be32, &[0, 0, 0, 0], 100, Err(BadLength(0))),
            (Be32, &[0, 0, 0, 13], 0, Err(BadLength(13))),
            (Be32, &[0, 0, 0, 14], 13, Ok(None)),
            (Be32, &[0, 0, 0, 14], 14, Ok(Some(14))),
            (Be32, &[0, 0, 0, 14], 100, Ok(Some(14))),
            (Be32, &[0, 1, 0, 13], 65_548, Ok(None)),
            (Be32, &[0, 1, 0, 13], 65_549, Ok(Some(65_549))),
            (Be32, &[0, 1, 0, 14], 0, Err(BadLength(65_550))),
            (Be32, &[255; 4], 100, Err(BadLength(u32::MAX))),
            (Be32, &[255; 3], 0, Ok(None)),
            (Be32, &[], 0, Ok(None)),
            (Le16, &[0, 0], 100, Err(BadLength(0))),
            (Le16, &[13, 0], 0, Err(BadLength(13))),
            (Le16, &[14, 0], 13, Ok(None)),
            (Le16, &[14, 0], 14, Ok(Some(14))),
            (Le16, &[14, 0], 100, Ok(Some(14))),
            (Le16, &[0, 14], 3583, Ok(None)),
            (Le16, &[0, 14], 3584, Ok(Some(3584))),
            (Le16, &[255, 255], 65_534, Ok(None)),
            (Le16, &[255, 255], 65_535, Ok(Some(65_535))),
            (Le16, &[0], 0, Ok(None)),
            (Le16, &[], 0, Ok(None)),
            (Message, &[], 0, Err(BadLength(0))),
            (Message, &[], 13, Err(BadLength(13))),
            (Message, &[], 14, Ok(Some(14))),
            (Message, &[], 65_549, Ok(Some(65_549))),
            (Message, &[], 65_550, Err(BadLength(65_550))),
        ];
        for &(framing, prefix, behind, expected) in cases {
            let mut bytes = prefix.to_vec();
            bytes.resize(prefix.len() + behind, 0xa5);
            assert_eq!(framing.frame_len(&bytes), expected, "{framing:?} {prefix:?} {behind}");
        }
    }

    #[test]
    fn what_comes_before() {
        let cases: &[(Framing, usize, Option<&[u8]>)] = &[
            (Be32, 60, Some(&[0, 0, 0, 60])),
            (Be32, MAX_FRAME, Some(&[0, 1, 0, 13])),
            (Be32, MAX_FRAME + 1, None),
            (Le16, 60, Some(&[60, 0])),
            (Le16, 1514, Some(&[0xea, 5])),
            (Le16, 65_535, Some(&[255, 255])),
            (Le16, 65_536, None),
            (Le16, MAX_FRAME, None),
            (Message, MAX_FRAME, Some(&[])),
            (Message, MAX_FRAME + 1, None),
        ];
        for &(framing, len, expected) in cases {
            let mut room = std::vec![0xa5; framing.prefix_len() + len];
            let found = framing.begin(&mut room).map(|frame| frame.len());
            assert_eq!(found, expected.map(|_| len), "{framing:?} {len}");
            if let Some(prefix) = expected {
                assert_eq!(&room[..framing.prefix_len()], prefix, "{framing:?} {len}");
                assert!(room[framing.prefix_len()..].iter().all(|&byte| byte == 0xa5));
            }
        }
        for framing in [Be32, Le16] {
            let mut short = [0; PREFIX];
            assert_eq!(framing.begin(&mut short[..framing.prefix_len() - 1]), None);
        }
    }

    /// Appends a frame to what is sent.
    fn encode(framing: Framing, frame: &[u8], into: &mut Vec<u8>) {
        let start = into.len();
        into.resize(start + framing.prefix_len() + frame.len(), 0);
        framing.begin(&mut into[start..]).expect("a frame").copy_from_slice(frame);
    }

    /// Takes the frames that are complete off what was received.
    fn decode(framing: Framing, bytes: &mut Vec<u8>) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(len) = framing.frame_len(bytes).expect("frames") {
            let frame = bytes.drain(..framing.prefix_len() + len).skip(framing.prefix_len());
            frames.push(frame.collect());
        }
        frames
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received(
            framing in prop::sample::select(std::vec![Be32, Le16]),
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 14..200), 0..20),
            cuts in prop::collection::vec(1usize..300, 1..20),
        ) {
            let mut bytes = Vec::new();
            for frame in &frames {
                encode(framing, frame, &mut bytes);
            }
            let (mut rest, mut buffer, mut got) = (bytes.as_slice(), Vec::new(), Vec::new());
            for cut in cuts.iter().cycle() {
                let (part, others) = rest.split_at(rest.len().min(*cut));
                buffer.extend_from_slice(part);
                got.extend(decode(framing, &mut buffer));
                rest = others;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn a_message_is_a_frame(frame in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut message = Vec::new();
            encode(Message, &frame, &mut message);
            prop_assert_eq!(&message, &frame);
            let found = Message.frame_len(&message);
            prop_assert_eq!(found.ok().flatten(), (frame.len() >= 14).then_some(frame.len()));
        }

        #[test]
        fn whatever_comes_is_whole(
            framing in prop::sample::select(std::vec![Be32, Le16, Message]),
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            if let Ok(Some(len)) = framing.frame_len(&bytes) {
                prop_assert!(len >= 14 && framing.prefix_len() + len <= bytes.len());
            }
        }
    }
}
