//! The content of every transfer: a pseudo-random stream that both ends can
//! compute from a seed, compared by SHA-256.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock};

use sha2::{Digest as _, Sha256};

/// Bytes generated at once.
pub const CHUNK: usize = 256 * 1024;

/// The endless stream of a seed, by [`CHUNK`]s.
pub struct Stream {
    state: u64,
    buffer: Vec<u8>,
}

impl Stream {
    /// The stream's beginning.
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, buffer: vec![0; CHUNK] }
    }

    /// The next [`CHUNK`] bytes.
    pub fn next_chunk(&mut self) -> &[u8] {
        for word in self.buffer.chunks_exact_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes());
        }
        &self.buffer
    }

    /// Hands the first `total` bytes to `sink` in order.
    pub fn take<E>(mut self, total: u64, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut left = total;
        while left > 0 {
            let chunk = self.next_chunk();
            let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            sink(&chunk[..size])?;
            left -= size as u64;
        }
        Ok(())
    }
}

/// Length and SHA-256 of what was received, written `LENGTH HEX`.
#[derive(Default)]
pub struct Summary {
    length: u64,
    hash: Sha256,
}

impl Summary {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.hash.update(bytes);
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The text to compare.
    pub fn finish(self) -> String {
        let mut text = format!("{} ", self.length);
        for byte in self.hash.finalize() {
            write!(text, "{byte:02x}").expect("a string takes everything");
        }
        text
    }
}

/// The [`Summary`] of the first `length` bytes of a seed's stream, computed
/// once in each process.
pub fn expected(length: u64, seed: u64) -> String {
    static KNOWN: OnceLock<Mutex<HashMap<(u64, u64), String>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().expect("no panic");
    let compute = || {
        let mut summary = Summary::default();
        let done = Stream::new(seed).take(length, |bytes| {
            summary.update(bytes);
            Ok::<_, std::convert::Infallible>(())
        });
        done.map_or_else(|never| match never {}, |()| summary.finish())
    };
    known.entry((length, seed)).or_insert_with(compute).clone()
}
