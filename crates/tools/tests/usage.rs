//! What the tools say without anything to talk to. The programs are built for this, and other tests
//! use them, too.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::process::Command;

#[test]
fn who_they_are_and_what_is_wrong() {
    for (name, program) in
        [("pesto", env!("CARGO_BIN_EXE_pesto")), ("passtop", env!("CARGO_BIN_EXE_passtop"))]
    {
        let said = Command::new(program).arg("--version").output().unwrap();
        assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
        assert!(String::from_utf8(said.stdout).unwrap().starts_with(&format!("{name} ")));
        let said = Command::new(program).arg("--no-such-option").output().unwrap();
        assert!(!said.status.success() && said.stdout.is_empty(), "{said:?}");
        assert!(String::from_utf8(said.stderr).unwrap().contains("--no-such-option"));
    }
}
