//! Frames in a byte stream, as qemu's `-netdev stream` and its relatives send them: each
//! follows its length, 32 bits in network order.

use super::ethernet;

/// Bytes of the length before each frame.
pub const PREFIX: usize = 4;

/// Longest frame: the longest packet of IPv4 behind an Ethernet header.
pub const MAX_FRAME: usize = 65_535 + ethernet::LEN;

/// A length that no frame has. What follows in the stream cannot be made sense of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of {0} bytes")]
pub struct BadLength(pub u32);

/// The length of the frame behind the prefix that `bytes` start with; `None` unless
/// all of the frame is there.
pub fn frame_len(bytes: &[u8]) -> Result<Option<usize>, BadLength> {
    let Some((&prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let announced = u32::from_be_bytes(prefix);
    match usize::try_from(announced) {
        Ok(len @ ethernet::LEN..=MAX_FRAME) => Ok((rest.len() >= len).then_some(len)),
        _ => Err(BadLength(announced)),
    }
}

/// What is sent before a frame of `len` bytes; `None` if it is too long.
pub fn prefix(len: usize) -> Option<[u8; PREFIX]> {
    let len = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME)?;
    Some(len.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        let mut bytes = std::vec![0; PREFIX + MAX_FRAME];
        for (announced, there, expected) in [
            (0, 100, Err(BadLength(0))),
            (13, 0, Err(BadLength(13))),
            (14, 13, Ok(None)),
            (14, 14, Ok(Some(14))),
            (14, 100, Ok(Some(14))),
            (65_549, 65_548, Ok(None)),
            (65_549, 65_549, Ok(Some(65_549))),
            (65_550, 0, Err(BadLength(65_550))),
            (u32::MAX, 100, Err(BadLength(u32::MAX))),
        ] {
            bytes[..PREFIX].copy_from_slice(&announced.to_be_bytes());
            assert_eq!(frame_len(&bytes[..PREFIX + there]), expected);
        }
        for end in 0..PREFIX {
            assert_eq!(frame_len(&[0xff; PREFIX][..end]), Ok(None));
        }
        assert_eq!(prefix(MAX_FRAME), Some([0, 1, 0, 13]));
        assert_eq!(prefix(MAX_FRAME + 1), None);
    }
}
