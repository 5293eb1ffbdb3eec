//! Prints how fast checksums are, of payload that is in the second cache as it is when frames are
//! completed for a link that offloads nothing:
//!
//!     cargo run --release -p passt-proto --example sums
#![expect(clippy::disallowed_methods, reason = "real time is what is measured")]

use std::hint::black_box;
use std::time::Instant;

use passt_proto::wire::checksum::Sum;

const ROUNDS: usize = 20_000;

fn main() {
    let bytes = vec![0xa5; 128 * 1024];
    for size in [1460, 65_536] {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for piece in bytes.chunks_exact(size) {
                black_box(Sum::new().bytes(black_box(piece)).finish());
            }
        }
        let bits = ROUNDS * bytes.len() / size * size * 8;
        println!("pieces of {size} bytes: {} Gbit/s", bits as u128 / start.elapsed().as_nanos());
    }
}
