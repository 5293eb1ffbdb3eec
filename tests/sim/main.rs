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
mod content;
mod control;
mod engine;
#[cfg(feature = "inject")]
mod equivalence;
mod every_link;
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

pub(crate) use content::{DOWN, UP, check, fill, ms, secs};

/// The seeds to run with.
pub(crate) fn seeds() -> Vec<u64> {
    let list = std::env::var("SIM_SEED").unwrap_or_else(|_| include_str!("seeds.txt").to_owned());
    let parse = |s: &str| s.strip_prefix("0x").map_or_else(|| s.parse(), |hex| u64::from_str_radix(hex, 16));
    list.lines().map(|line| parse(line).expect("a seed")).collect()
}
