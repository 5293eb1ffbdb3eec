//! What a test can't show on this machine.

use std::io::Write as _;

/// Records that the running test can't show anything here, and why. The test returns after it;
/// `cargo xtask test` counts and lists these lines.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("SKIP {}: {reason}\n", thread.name().unwrap_or("?"));
    eprint!("{line}");
    if let Some(path) = std::env::var_os("PASST_TEST_SKIPS") {
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).open(path).expect("PASST_TEST_SKIPS");
        file.write_all(line.as_bytes()).expect("PASST_TEST_SKIPS");
    }
}
