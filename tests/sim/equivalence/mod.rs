//! The whole engine against a model of what it is for: each byte of a stream arrives once, in
//! order, and is not acknowledged before; each datagram arrives unaltered, once, or is counted.
//!
//! The guest is not a TCP but a script: segments of any size, repeated, overlapping, reordered and
//! lost, in batches of any size, windows of any size, and an end at any point. The host's sockets
//! are real ones on loopback, and a script decides how much they take at a time. When a run is over
//! everything has ended, nothing is left in the engine, and the streams are compared.
//!
//! A run follows from a [`Tape`]: a seed in the tests here, bytes in a fuzz target.

pub(crate) mod conn;
pub(crate) mod datagrams;
mod guest;
pub(crate) mod script;
pub(crate) mod tape;
#[cfg(test)]
mod tests;
pub(crate) mod world;

use passt_proto::wire::tcp::Flags;
pub(crate) use tape::Tape;

const ACK: Flags = Flags::ACK;
const SYN: Flags = Flags::SYN;
const RST: Flags = Flags::RST;
const FIN: Flags = Flags::FIN;

/// What runs did, to show that they did anything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) operations: u64,
    pub(crate) frames: u64,
    /// Frames in the largest batch.
    pub(crate) batch: usize,
    pub(crate) connections: u64,
    pub(crate) resets: u64,
    /// Bytes, or datagrams, from the guest and to it.
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Calls of which the kernel took less than all.
    pub(crate) short: u64,
    /// Datagrams that were counted as lost.
    pub(crate) lost: u64,
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.frames += other.frames;
        self.batch = self.batch.max(other.batch);
        self.connections += other.connections;
        self.resets += other.resets;
        self.up += other.up;
        self.down += other.down;
        self.short += other.short;
        self.lost += other.lost;
    }
}
