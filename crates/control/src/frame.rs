//! Frames: four bytes of length, big-endian, and so many bytes of JSON (RFC 8259).

use serde::Serialize;

/// What a client says instead of tables, to speak in frames from then on. Its first byte is no
/// interface's number.
pub const HELLO: [u8; 8] = *b"passt:j1";
/// Bytes of JSON of a request at most.
pub const MAX_REQUEST: usize = 1 << 16;
/// Bytes of JSON of what comes back at most.
pub const MAX_REPLY: usize = 1 << 18;
/// Bytes of the length.
pub const HEADER: usize = 4;

/// A frame that is longer than it may be, or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A message of {0} bytes, of at most {1}")]
pub struct BadLength(usize, usize);

/// The first frame's JSON in `bytes`, and the length of all of the frame; `None` if more is to come.
pub fn first(bytes: &[u8], most: usize) -> Result<Option<(&[u8], usize)>, BadLength> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
    if !(1..=most).contains(&length) {
        return Err(BadLength(length, most));
    }
    Ok(rest.get(..length).map(|body| (body, HEADER + length)))
}

/// Adds a frame to `bytes`.
pub fn append(bytes: &mut Vec<u8>, message: &impl Serialize) -> serde_json::Result<()> {
    let start = bytes.len();
    bytes.extend([0; HEADER]);
    if let Err(error) = serde_json::to_writer(&mut *bytes, message) {
        bytes.truncate(start);
        return Err(error);
    }
    let length = u32::try_from(bytes.len() - start - HEADER).unwrap_or(u32::MAX);
    if let Some(header) = bytes.get_mut(start..start + HEADER) {
        header.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_one_after_the_other() {
        let mut bytes = Vec::new();
        append(&mut bytes, &"a").expect("text");
        append(&mut bytes, &[1, 2]).expect("numbers");
        assert_eq!(first(&bytes, 8), Ok(Some((&b"\"a\""[..], 7))));
        assert_eq!(first(&bytes[7..], 8), Ok(Some((&b"[1,2]"[..], 9))));
        for end in 0..7 {
            assert_eq!(first(&bytes[..end], 8), Ok(None));
        }
        assert_eq!(first(&bytes, 2), Err(BadLength(3, 2)));
        assert_eq!(first(&[0; 4], 2), Err(BadLength(0, 2)));
        assert_eq!(first(&[255; 4], 2), Err(BadLength(u32::MAX as usize, 2)));
    }
}
