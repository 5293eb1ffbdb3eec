//! What the tools say without anything to talk to. The programs are built for this, and other tests
//! use them, too.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs::File;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

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

/// Frames, of which a guest chooses every byte, don't go to a terminal.
#[test]
fn frames_for_a_terminal() {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let pesto = || {
        let mut pesto = Command::new(env!("CARGO_BIN_EXE_pesto"));
        pesto.args(["--capture", "-", "/nonexistent"]);
        pesto
    };
    let said = pesto().stdout(File::from(terminal)).output().unwrap();
    let line = String::from_utf8(said.stderr).unwrap();
    assert!(line.contains("| tcpdump -nr -") && line.lines().count() == 1, "{line}");
    let said = pesto().output().unwrap();
    assert!(String::from_utf8(said.stderr).unwrap().starts_with("Failed to connect"));
}
