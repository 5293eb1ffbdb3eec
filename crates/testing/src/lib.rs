//! What the tests of every crate share: how a test says that this machine can't show what it is
//! about.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Records that the running test can't show anything here, and why. The test returns after it;
/// `cargo xtask test` counts and lists these lines.
///
/// # Panics
/// Where the list can't be written.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("SKIP {}: {reason}\n", thread.name().unwrap_or("?"));
    eprint!("{line}");
    if let Some(path) = std::env::var_os("PASST_TEST_SKIPS") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("PASST_TEST_SKIPS");
        file.write_all(line.as_bytes()).expect("PASST_TEST_SKIPS");
    }
}
