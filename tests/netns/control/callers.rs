//! What calls pesto, and the C program on either side.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use passt_tests::transfer::{at, exchange};
use passt_tests::{
    Finished, GATEWAY4, HOST4, HOST6, Net, Newest, Place as _, Process, User, eventually, skip,
};

use super::{QUIET, Served, start};

/// A client that connects and says nothing, and one that stops in the middle of its tables.
fn stalled(served: &Served) -> [UnixStream; 2] {
    let connect = || UnixStream::connect(&served.socket).expect("a server");
    let (silent, mut half) = (connect(), connect());
    // The host's table is to have two rules, of which one begins.
    half.write_all(&[1, 0, 0, 0, 2, 0, 0]).expect("room");
    [silent, half]
}

/// A container starts, is started again after a crash, leaves its network and comes back, stops; two
/// at once; while others have stalled.
#[test]
fn what_podman_does() {
    let Some(served) = start(QUIET) else { return };
    let _stalled = stalled(&served);
    let _servers = [served.guest.serve("[::]:80"), served.guest.serve("[::]:81")];
    let container = |port: u16, to: u16| {
        format!("-t 0.0.0.0/{port}:{HOST4}/{to} -t [::]/{port}:{HOST6}/{to} -u 0.0.0.0/{port}:{HOST4}/{to}")
    };
    let one = container(8080, 80);
    let is_there = |port: u16| {
        for address in [HOST4, HOST6] {
            exchange(&served.net.peer, &at(address, port));
        }
    };
    let is_gone = |port: u16| {
        for address in [HOST4, HOST6, "127.0.0.1", "::1"] {
            let outcome = served.net.host.peer(&format!("connect {}", at(address, port)));
            assert!(outcome.starts_with("ConnectionRefused"), "{address}: {outcome}");
        }
    };
    for _ in 0..2 {
        served.pesto_succeeds(&format!("--add {one}"));
        is_there(8080);
    }
    // Disconnected, and connected again.
    served.pesto_succeeds(&format!("--delete {one}"));
    is_gone(8080);
    served.pesto_succeeds(&format!("--add {one}"));
    is_there(8080);
    let two = container(8081, 81);
    let both: Vec<Process> = vec![
        served.start_tool("pesto", &format!("--add {two}")),
        served.start_tool("pesto", &format!("--add {}", container(8082, 81))),
    ];
    for process in both {
        assert!(process.finish().status.success());
    }
    for port in [8080, 8081, 8082] {
        is_there(port);
    }
    for there in [true, false] {
        let finished = served.start_tool("pesto", &format!("--delete {one}")).finish();
        assert!(finished.status.success(), "{finished:?}");
        let untold =
            finished.stderr.lines().filter(|line| line.starts_with("Nothing to delete: TCP ")).count();
        assert_eq!(untold == 0, there, "{finished:?}");
    }
    is_gone(8080);
    is_there(8081);
}

/// Who is isolated and has a way to the socket opens none to the host's loopback, nor ports that it
/// chooses; ports that are named can be had.
#[test]
fn an_isolated_guest_opens_nothing() {
    let Some(served) = start("--isolate-host") else { return };
    let _service = served.net.host.serve("127.0.0.1:7777");
    for ports in ["-T 7777", "-U 7777", "-T auto", "-t auto", "-u auto"] {
        let finished = served.pesto(&format!("--add {ports}"));
        let told =
            "Invalid forwarding rule: --isolate-host excludes ports of the namespace, and automatic ones";
        assert!(!finished.status.success() && finished.stderr.starts_with(told), "{ports}: {finished:?}");
    }
    let outcome = served.guest.peer("connect 127.0.0.1:7777");
    assert!(outcome.starts_with("ConnectionRefused"), "{outcome}");
    served.pesto_succeeds("--add -t 8080:80");
    let _inside = served.guest.serve("0.0.0.0:80");
    exchange(&served.net.peer, &at(HOST4, 8080));
}

#[test]
fn what_rootlesskit_does() {
    let Some(served) = start(QUIET) else { return };
    let version = served.pesto("--version");
    assert!(version.status.success() && version.stdout.starts_with("pesto "), "{version:?}");
    let _server = served.guest.serve("[::]:80");
    for (rule, address, port) in [
        ("--tcp-ports=0.0.0.0/8080:80", HOST4, 8080),
        ("--tcp-ports=::/8081:80", HOST6, 8081),
        ("--tcp-ports=127.0.0.1/8082:80", "127.0.0.1", 8082),
    ] {
        served.pesto_succeeds(&format!("-A {rule}"));
        exchange(&served.net.host, &at(address, port));
        served.pesto_succeeds(&format!("-D {rule}"));
        let outcome = served.connect(&at(address, port));
        assert!(outcome.starts_with("ConnectionRefused"), "{outcome}");
    }
}

/// What can't be had is told, by whom it is held; nothing else changes.
#[test]
fn a_port_that_is_taken() {
    let Some(served) = start("-t 8082 -u none -T none -U none") else { return };
    let _others = served.net.host.serve("127.0.0.1:8080");
    let before = served.pesto_succeeds("");
    let finished = served.pesto("-A -t 8079 -t 8080 -u 8080 -t 127.0.0.1/8081");
    assert!(!finished.status.success() && finished.stdout.is_empty(), "{finished:?}");
    let lines: Vec<_> = finished.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let told = "Listen failed for HOST TCP port 8080: Address already in use";
    assert!(lines[0].starts_with(told), "{lines:?}");
    assert_eq!(served.pesto_succeeds(""), before);
    for port in [8079, 8081] {
        assert!(served.connect(&at("127.0.0.1", port)).starts_with("ConnectionRefused"));
    }
    let finished = served.pesto("-A -t 8082:80");
    assert!(finished.stderr.contains("conflict") && !finished.status.success(), "{finished:?}");
    let seen = served.pesto("-A -t 1");
    assert!(seen.stderr.contains("HOST TCP port 1: Permission denied"), "{seen:?}");
    // Root sees who it is.
    let line = format!("{} -A -t 8080 {}", served.net.tool("pesto").display(), served.socket.display());
    let seen = served.net.host.start(&line).finish();
    assert!(seen.stderr.contains("by peer (PID "), "{seen:?}");
}

/// Wrong command lines: one line each, and exit status 1.
#[test]
fn what_is_wrong() {
    let Some(served) = start(QUIET) else { return };
    for (options, expected) in [
        ("-A -t 0", "Invalid port specifier 0"),
        ("-t 80 -t none", "-t none conflicts with previous options"),
        ("-C FOO", "Unsupported pif name FOO"),
        ("-A -t 0.0.0.0/80:::1/80", "0.0.0.0 can't forward to ::1"),
        ("--request nonsense", "Not a request"),
        ("--request {\"end\":{\"flow\":\"1.1\"}}", "There is no such flow"),
    ] {
        let finished = served.pesto(options);
        assert_eq!(finished.status.code(), Some(1), "{options}: {finished:?}");
        assert!(finished.stderr.contains(expected), "{options}: {finished:?}");
        assert_eq!(finished.stderr.lines().count(), 1, "{options}: {finished:?}");
    }
    let elsewhere = served.net.host.start(&format!("{} /nonexistent", served.net.tool("pesto").display()));
    let finished = elsewhere.finish();
    let told = "Failed to connect to /nonexistent: No such file or directory; ";
    assert!(finished.stderr.starts_with(told) && finished.stderr.lines().count() == 1, "{finished:?}");
    let nobody = served.net.host.start(&served.net.tool("pesto").display().to_string()).finish();
    assert!(nobody.status.code() == Some(1) && nobody.stderr.starts_with("pesto: no PATH "), "{nobody:?}");
}

fn newest(net: &Net) -> Option<Newest> {
    match Newest::install(net.dir()) {
        Ok(newest) => Some(newest),
        Err(error) => {
            skip(&format!("the newest C program can't be had: {error:#}"));
            None
        }
    }
}

/// The C program's pesto with a server of either kind.
fn their_pesto(net: &Net, newest: &Newest, options: &str, socket: &str) -> Finished {
    let line = format!("{} {} {options} {socket}", newest.loader("pesto"), newest.client().display());
    net.host.start(&line).finish()
}

#[test]
fn the_c_programs_pesto() {
    let Some(served) = start("-t 18080:80 -t 127.0.0.1/18081 -u none -T 19090 -U 19091:91") else { return };
    let Some(newest) = newest(&served.net) else { return };
    let socket = served.socket.display().to_string();
    let theirs = |options: &str| their_pesto(&served.net, &newest, options, &socket);
    let listed = theirs("");
    assert_eq!(listed.stdout, served.pesto_succeeds(""), "{listed:?}");
    assert_eq!(
        listed.stdout,
        format!(
            "passt/pasta configuration ({socket})\n  HOST\n    TCP [*]:18080  =>  80 \n    \
             TCP [127.0.0.1]:18081  =>  18081 \n  SPLICE\n    TCP [*]%lo:19090  =>  19090 \n    \
             UDP [*]%lo:19091  =>  91 \n"
        )
    );
    let _server = served.guest.serve("[::]:80");
    exchange(&served.net.peer, &at(HOST4, 18080));
    // It does not wait until the server is done.
    let lists = |expected: &[&str], missing: &[&str]| {
        eventually("rules that were sent", || {
            let listed = served.pesto_succeeds("");
            let is_there = |part: &&str| listed.contains(*part);
            (expected.iter().all(is_there) && !missing.iter().any(is_there)).then_some(())
        });
    };
    let exit = |options: &str| theirs(options).status.code();
    assert_eq!(exit("-A -t 18082:80 -t [::]/18083:fd00::5/80"), Some(0));
    lists(&["TCP [*]:18082  =>  80", "TCP [::]:18083  =>  fd00::5:80", "TCP [*]:18080"], &[]);
    exchange(&served.net.peer, &at(HOST6, 18082));
    assert_eq!(exit("-D -t 18080:80"), Some(0));
    lists(&["TCP [*]:18082"], &["TCP [*]:18080"]);
    assert_eq!(exit("-A -t 18082:80"), Some(1), "it looks itself");
    assert_eq!(exit("-t 18084:80"), Some(0));
    lists(&["TCP [*]:18084", "SPLICE\n    TCP [*]%lo:19090"], &["18082", "18081"]);
    exchange(&served.net.peer, &at(HOST4, 18084));
    // A port that is taken: it can't know, and the others are there.
    let _others = served.net.host.serve("127.0.0.1:18085");
    assert_eq!(exit("-A -t 18085 -t 18086:80"), Some(0));
    lists(&["TCP [*]:18086"], &["18085"]);
    assert_eq!(exit("-C SPLICE"), Some(0));
    lists(&["TCP [*]:18084"], &["19090", "19091"]);
    assert_eq!(exit("-C HOST"), Some(0));
    lists(&[], &["TCP"]);
}

#[test]
fn a_server_of_the_c_program() {
    let Some(net) = Net::new() else { return };
    let Some(newest) = newest(&net) else { return };
    let socket = net.dir().join("theirs.sock");
    let launch = net.pasta(User::Normal).through(&newest.loader("pasta")).program(&newest.program());
    let options = format!("--config-net -t 18080:80 -u none -T none -U none -c {}", socket.display());
    let guest = launch.with(&options).start();
    let served = Served { guest, net, socket };
    let _server = served.guest.serve("[::]:80");
    let path = served.socket.display().to_string();
    let theirs = |options: &str| their_pesto(&served.net, &newest, options, &path).stdout;
    assert_eq!(served.pesto_succeeds(""), theirs(""));
    // Each is in effect when pesto has ended.
    served.pesto_succeeds("-A -t 18081:80 -t 0.0.0.0/18082:80");
    for port in [18080, 18081, 18082] {
        exchange(&served.net.peer, &at(HOST4, port));
    }
    served.pesto_succeeds("-A -t 18081:80");
    served.pesto_succeeds("-D -t 18081:80");
    assert!(served.connect(&at(GATEWAY4, 18081)).contains("Refused"));
    served.pesto_succeeds("-D -t 18081:80");
    assert_eq!(served.pesto_succeeds(""), theirs(""));
    let conflict = served.pesto("-A -t 18080:81");
    let line = "Forwarding configuration conflict: TCP [*]:18080  =>  81  versus TCP [*]:18080  =>  80";
    assert!(conflict.stderr.starts_with(line) && !conflict.status.success(), "{conflict:?}");
    served.pesto_succeeds("-C HOST -A -T 19090");
    assert_eq!(served.pesto_succeeds(""), theirs(""));
    assert!(theirs("").ends_with("  HOST\n  SPLICE\n    TCP [*]%lo:19090  =>  19090 \n"), "{}", theirs(""));
    let metrics = served.pesto("--metrics");
    assert!(metrics.stderr.contains("needs a server of this project"), "{metrics:?}");
}

/// Two of them at the same time change what each meant to.
#[test]
fn tables_that_cross() {
    let Some(served) = start(QUIET) else { return };
    // Both know an empty table of each side.
    let mut clients: Vec<_> =
        (0..2).map(|_| UnixStream::connect(&served.socket).expect("a server")).collect();
    for client in &mut clients {
        let mut greeting = vec![0; 20 + 2 * 137 + 1];
        client.read_exact(&mut greeting).expect("a greeting");
    }
    for (client, port) in clients.iter_mut().zip([8080_u16, 8081]) {
        let rule = super::port(passt_control::Protocol::Tcp, port, port);
        let families = passt_control::Families { v4: true, v6: true };
        let tables = passt_control::v2::encode_tables([(passt_control::Side::Host, families, &[rule][..])]);
        // A byte at a time.
        for byte in tables {
            client.write_all(&[byte]).expect("room");
        }
        assert_eq!(client.read(&mut [0]).expect("an end"), 0, "nothing is answered");
    }
    let listed = served.pesto_succeeds("");
    assert!(listed.contains(":8080 ") && listed.contains(":8081 "), "{listed}");
}
