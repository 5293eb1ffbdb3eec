//! What streams have in them, and spans of time in short.

use std::time::Duration;

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Fills `out` with what the stream `stream` has at `offset`.
pub(crate) fn fill(stream: u8, offset: u64, out: &mut [u8]) {
    for (at, byte) in (offset..).zip(out) {
        *byte = content(stream, at);
    }
}

/// Fails if `bytes` is not what the stream `stream` has at `offset`.
pub(crate) fn check(stream: u8, offset: u64, bytes: &[u8]) {
    for (at, byte) in (offset..).zip(bytes) {
        assert_eq!(*byte, content(stream, at), "content at {at} of stream {stream}");
    }
}

fn content(stream: u8, at: u64) -> u8 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0] ^ stream
}

/// The stream from the guest, and the one to it.
pub(crate) const UP: u8 = 0x55;
pub(crate) const DOWN: u8 = 0xaa;
