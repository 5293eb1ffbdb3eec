//! The translation in virtual time: deterministic, on lossy links, no privilege.
//!
//! [`machine`] joins the TCP of smoltcp, as the guest, with the project's state machine and a model
//! of the host's socket. [`engine`] joins it with the whole engine and real sockets on loopback,
//! over each of the links that a test can have ([`every_link`]). What happens follows from a seed,
//! which a failing test prints; seeds worth keeping are in `seeds.txt`, and `SIM_SEED` in the
//! environment replaces them.

#![cfg_attr(not(feature = "inject"), allow(dead_code, reason = "what only those tests use that interfere"))]

#[cfg(feature = "inject")]
mod batches;
mod closing;
mod control;
mod engine;
#[cfg(feature = "inject")]
mod equivalence;
mod every_link;
mod gauge;
mod guest;
mod host;
mod link;
mod machine;
#[cfg(feature = "inject")]
mod refusals;
mod rig;
mod ring;
mod stream;
mod transfers;

use std::time::Duration;

/// The seeds to run with.
pub(crate) fn seeds() -> Vec<u64> {
    let list = std::env::var("SIM_SEED").unwrap_or_else(|_| include_str!("seeds.txt").to_owned());
    let parse = |s: &str| s.strip_prefix("0x").map_or_else(|| s.parse(), |hex| u64::from_str_radix(hex, 16));
    list.lines().map(|line| parse(line).expect("a seed")).collect()
}

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
