//! The command line, the socket, the end; and guests that break the rules of framing.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;

use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, Place as _, Process, have};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::client::{framed, rest, uuid, write};
use crate::rig::{FIRST, GW, Rig};

#[test]
fn command_lines() {
    let Some(rig) = Rig::new() else { return };
    let path = rig.path();
    let path = path.display();
    for (line, code, expected) in [
        (String::new(), 1, "Please provide an --ethernet argument\n"),
        (
            format!("--bogus --ethernet {path}"),
            124,
            "vpnkit: unrecognized option '--bogus'; try 'vpnkit --help' for a list of options\n",
        ),
        (format!("--ethernet {path} --mtu many"), 124, "vpnkit: option --mtu: invalid value many\n"),
        (
            format!("--ethernet {path} --port /tmp/x"),
            1,
            "vpnkit: option --port is for Docker Desktop, and not supported\n",
        ),
        (
            format!("--http /x --ethernet {path}"),
            1,
            "vpnkit: option --http is for Docker Desktop, and not supported\n",
        ),
        ("--ethernet fd:99".to_owned(), 1, "Invalid descriptor of a listening socket: 99\n"),
        ("--ethernet fd:0".to_owned(), 1, "Invalid descriptor of a listening socket: 0\n"),
    ] {
        let finished = rig.begin(&line).finish();
        assert_eq!((finished.status.code(), finished.stdout.as_str()), (Some(code), ""), "{line}");
        // It calls itself as it was called.
        assert_eq!(finished.stderr.rsplit('/').next(), expected.rsplit('/').next(), "{line}");
        assert!(!rig.path().exists(), "{line}");
    }
    for word in ["--help", "--version"] {
        let finished = rig.begin(word).finish();
        assert!(finished.status.success() && !finished.stdout.is_empty(), "{finished:?}");
    }
}

/// Options that need no network of their own to be seen.
#[test]
fn accepted_options() {
    let Some(rig) = Rig::new() else { return };
    for more in [
        "--debug",
        "--host-ip=0.0.0.0",
        "--max-connections 100 --listen-backlog 5 --port-max-idle-time 300 --gc-compact-interval 1",
        "--domain example.test --server-macaddr 02:00:00:00:00:77",
    ] {
        let vpnkit = rig.start(1500, more);
        let offer = rig.vif(&uuid(1)).discover();
        assert_eq!(offer.address, FIRST);
        if more.contains("--domain") {
            assert_eq!(offer.option(119), Some(&b"\x07example\x04test\0"[..]));
        }
        vpnkit.signal("TERM");
        let finished = vpnkit.finish();
        assert_eq!(finished.stdout, "", "{more}");
    }
}

#[test]
fn signals_end_it() {
    let Some(rig) = Rig::new() else { return };
    for (name, number) in [("TERM", 15), ("INT", 2), ("KILL", 9)] {
        let vpnkit = rig.start(1500, "");
        let vif = rig.vif(&uuid(1));
        vif.discover();
        vpnkit.signal(name);
        let finished = vpnkit.finish();
        assert!(
            finished.status.signal() == Some(number) || finished.status.code() == Some(0),
            "{name}: {finished:?}"
        );
        // Frames may be on their way, and the end is behind them.
        rest(&vif.stream);
    }
}

/// What another one has left there does not matter.
#[test]
fn a_file_in_the_way() {
    let Some(rig) = Rig::new() else { return };
    let line = format!("--ethernet {} --mtu 1500", rig.path().display());
    let vpnkit = rig.start(1500, "");
    // Who is served knows that it has begun: until then another process cleans up.
    rig.vif(&uuid(1)).discover();
    vpnkit.signal("KILL");
    vpnkit.finish();
    assert!(rig.path().exists(), "a killed one leaves its socket");
    let vpnkit = rig.begin(&line);
    assert_eq!(rig.vif(&uuid(1)).discover().address, FIRST);
    drop(vpnkit);
    fs::remove_file(rig.path()).expect("a socket");
    fs::write(rig.path(), "in the way").expect("a file");
    let _vpnkit = rig.begin(&line);
    assert_eq!(rig.vif(&uuid(1)).discover().address, FIRST);
}

#[test]
fn an_inherited_socket() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let listener = UnixListener::bind(rig.path()).expect("a socket");
    fcntl_setfd(&listener, FdFlags::empty()).expect("a descriptor");
    let number = listener.as_raw_fd();
    // Who comes before the program has started waits.
    let early = rig.connect();
    let mut vpnkit = rig.begin(&format!("--ethernet fd:{number} --mtu 1500"));
    drop(listener);
    let vif = crate::client::introduce(early, 1, &uuid(1), [0, 0, 0, 0].into()).expect("served");
    let (guest, _attached) = rig.guest(&vif, 1500);
    exchange(&guest, &at(FAR4, 5001));
    assert!(vpnkit.try_wait().is_none());
}

#[test]
fn frames_are_recorded() {
    if !have(&["tcpdump"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let file = rig.net.dir().join("capture");
    let vpnkit = rig.start(1500, &format!("--pcap {} --pcap-snaplen 128", file.display()));
    let vif = rig.vif(&uuid(1));
    let (guest, _attached) = rig.guest(&vif, 1500);
    guest.run(&format!("ping -n -c 1 -W 3 {GW}"));
    vpnkit.signal("TERM");
    vpnkit.finish();
    let mut tcpdump = std::process::Command::new("tcpdump");
    let finished = Process::start(tcpdump.args(["-nn", "-r"]).arg(&file)).finish();
    assert!(finished.status.success(), "{finished:?}");
    for part in [
        "0.0.0.0.68 > 255.255.255.255.67",
        "ICMP echo request",
        "ICMP echo reply",
        "192.168.65.1 > 192.168.65.3",
    ] {
        assert!(finished.stdout.contains(part), "{part}: {}", finished.stdout);
    }
}

/// Where no frame can begin any more only that guest's connection ends, and the next is served.
#[test]
fn lengths_that_no_frame_has() {
    let Some(rig) = Rig::new() else { return };
    let mut vpnkit = rig.start(1500, "");
    for length in [0_u16, 1, 13] {
        let vif = rig.vif_after(&uuid(1));
        vif.discover();
        let bytes = [&length.to_le_bytes()[..], &[0; 13]].concat();
        // It may be gone before all of it is sent.
        drop((&vif.stream).write_all(&bytes));
        let end = rest(&vif.stream);
        assert!(end.len() < 4096, "{length}");
        assert_eq!(rig.vif_after(&uuid(1)).discover().address, FIRST);
    }
    assert!(vpnkit.try_wait().is_none());
}

/// Frames longer than the network's are lost or taken, and nothing else is.
#[test]
fn frames_that_are_too_long() {
    let Some(rig) = Rig::new() else { return };
    let mut vpnkit = rig.start(1500, "");
    let vif = rig.vif(&uuid(1));
    for length in [14, 59, 1514, 1515, 1550, 1551, 9000, 65_534, 65_535] {
        let mut frame = vec![0xa5; length];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&vif.mac);
        frame[12..14].copy_from_slice(&[8, 0]);
        write(&vif.stream, &framed(&frame));
        assert_eq!(vif.discover().address, FIRST, "{length}");
    }
    // The end in the middle of one is an end like any other.
    write(&vif.stream, &[200, 0, 1, 2, 3]);
    drop(vif);
    assert_eq!(rig.vif_after(&uuid(1)).discover().address, FIRST);
    assert!(vpnkit.try_wait().is_none());
}
