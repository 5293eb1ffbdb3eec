//! Sequences of operations on a TCP connection; `driver` says which.
#![no_main]

#[path = "../../crates/proto/tests/tcp_ops/driver.rs"]
mod driver;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| driver::run(script));
