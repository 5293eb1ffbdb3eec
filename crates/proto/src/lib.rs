//! Protocol code of passt and pasta.
//!
//! Everything that can be decided without a system call lives here: header
//! formats, the services answered inside, the TCP translation, the smaller
//! UDP and ICMP machines, address mapping. The crate can do no I/O, read no
//! clock and allocate nothing, so all of it can be tested and fuzzed alone, in
//! virtual time. Sockets, devices and the event loop are in the crate `engine`.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod classify;
pub mod drop;
pub mod groups;
pub mod guest;
pub mod reassembly;
pub mod responder;
pub mod rules;
pub mod seq;
pub mod tcp;
pub mod time;
pub mod wire;
