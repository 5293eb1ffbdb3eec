//! The wrapper for old versions of qemu, with shell scripts in qemu's place.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use passt_tests::client::Client;
use passt_tests::{Net, Process, User, program_path};

/// What a script on the connection does: read the first frame, then write nonsense, whereupon passt
/// closes.
const EXCHANGE: &str = "head -c 64 <&5 | od -An -v -tx1 | tr -d '\\n '; echo; printf '\\0\\0\\0\\1' >&5; \
                        cat <&5 >/dev/null; echo closed";

fn passt(net: &Net) -> (Process, PathBuf) {
    let socket = net.dir().join("socket");
    let launch = net.passt(User::Root).with(&format!("--foreground --socket {}", socket.display()));
    let mut passt = Process::start(&mut launch.command(""));
    passt.wait_for("UNIX domain socket bound at");
    (passt, socket)
}

fn qrap(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program_path("qrap"));
    command.args(args).env("PASST_SOCKET", socket);
    command
}

/// The first frame is a whole ARP request, behind its length.
fn assert_exchanged(out: &str) {
    let mut lines = out.lines().rev();
    assert_eq!(lines.next(), Some("closed"));
    let frame = lines.next().expect("a frame");
    assert!(frame.starts_with("0000003cffffffffffff9a559a559a550806"), "{out}");
}

#[test]
fn a_command_gets_the_connection() {
    let Some(net) = Net::new() else { return };
    let (_passt, socket) = passt(&net);
    let out = Process::start(&mut qrap(&socket, &["5", "sh", "-c", EXCHANGE])).succeed();
    assert_exchanged(&out);
    // By any number, and nothing else is left open.
    let open = Process::start(&mut qrap(&socket, &["9", "ls", "/proc/self/fd"])).succeed();
    // Higher numbers may have been inherited by us.
    let open: Vec<&str> = open.split_whitespace().filter(|number| number.len() == 1).collect();
    assert_eq!(open, ["0", "1", "2", "3", "9"]);
    let finished = Process::start(&mut qrap(&socket, &["5", "sh", "-c", "exit 7"])).finish();
    assert_eq!(finished.status.code(), Some(7));
}

#[test]
fn qemu_is_found_and_gets_a_network() {
    let Some(net) = Net::new() else { return };
    let (_passt, socket) = passt(&net);
    let kvm = net.dir().join("kvm");
    std::fs::write(&kvm, format!("#!/bin/sh\necho \"$@\"\n[ -e /proc/self/fd/5 ] || exit 3\n{EXCHANGE}\n"))
        .expect("script");
    std::fs::set_permissions(&kvm, std::fs::Permissions::from_mode(0o755)).expect("script");
    let path = format!("{}:/usr/bin:/bin", net.dir().display());
    let args = ["-netdev", "user,id=n0", "-device", "e1000,netdev=n0"];
    let out = Process::start(qrap(&socket, &args).env("PATH", &path)).succeed();
    assert!(out.starts_with("-netdev socket,fd=5,id=n0 -device e1000,netdev=n0\n"), "{out}");
    assert_exchanged(&out);
    let asked = Process::start(qrap(Path::new("/no/socket"), &["-version"]).env("PATH", &path)).finish();
    assert_eq!((asked.status.code(), asked.stdout.as_str()), (Some(3), "-version\n"));
}

/// A client that still holds passt may leave soon.
#[test]
fn a_connection_is_waited_for() {
    let Some(net) = Net::new() else { return };
    let (mut passt, socket) = passt(&net);
    let mut client = Client::connect(&socket);
    client.ask_for_gateway();
    let qrap_waits = Process::start(&mut qrap(&socket, &["5", "sh", "-c", EXCHANGE]));
    passt.wait_for("discarding connection");
    drop(client);
    assert_exchanged(&qrap_waits.succeed());
}

#[test]
fn what_fails_says_why() {
    for (args, reason) in [
        (&[][..], "Usage: qrap FDNUM COMMAND"),
        (&["5"], "no command to run with descriptor 5"),
        (&["1", "true"], "1 is no descriptor to give away: take 3 or more"),
        (&["5", "true"], "/no/socket"),
    ] {
        let finished = Process::start(&mut qrap(Path::new("/no/socket"), args)).finish();
        assert_eq!(finished.status.code(), Some(1), "{args:?}");
        assert!(finished.stderr.contains(reason), "{args:?}: {}", finished.stderr);
    }
}
