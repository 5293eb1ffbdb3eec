//! Ports that come and go all the time: traffic goes on, and nobody waits for them.
#![expect(clippy::disallowed_methods, reason = "requests are counted in real time")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use passt_tests::transfer::{MIB, at, upload};
use passt_tests::{FAR4, Place as _};

use crate::api::{ask, serve};
use crate::rig::{Rig, original};

const SECONDS: u64 = 10;

/// One request and its answer, by blocking calls alone: there are thousands.
fn asked(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("a server that accepts");
    stream.write_all(request.as_bytes()).expect("a server that reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Adds and removes ports until it is `over`; how many requests that were.
fn churn(socket: &Path, over: &AtomicBool) -> u64 {
    let mut count = 0;
    let ports = (20_000..21_000).cycle().take_while(|_| !over.load(Ordering::Relaxed));
    for port in ports {
        let arguments =
            format!(r#""proto":"tcp","host_addr":"127.0.0.1","host_port":{port},"guest_port":80"#);
        let added = asked(socket, &format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#));
        let id = added.strip_prefix(r#"{"return":{"id":"#).and_then(|rest| rest.strip_suffix("}}"));
        let id = id.unwrap_or_else(|| panic!("{added}"));
        let removed = asked(socket, &format!(r#"{{"execute":"remove_hostfwd","arguments":{{"id":{id}}}}}"#));
        assert_eq!(removed, r#"{"return":{}}"#);
        count += 2;
    }
    count
}

/// Tells clients that it is over.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Thousands of requests a second, beside a transfer and requests of the guest's own.
#[test]
fn ports_that_come_and_go() {
    if original() {
        return;
    }
    let Some(served) = serve("--mtu=65520") else { return };
    let Rig { guest, net } = &served.rig;
    let servers = [format!("serve {}", at(FAR4, 5001)), format!("rr-serve {}", at(FAR4, 5002))];
    let _servers = servers.map(|line| net.peer.listening(&line));
    let over = AtomicBool::new(false);
    let (requests, longest) = std::thread::scope(|scope| {
        let clients = scope.spawn(|| churn(&served.socket, &over));
        let transfers = scope.spawn(|| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(SECONDS) {
                upload(guest, &at(FAR4, 5001), 64 * MIB);
            }
        });
        // However the rest ends, the clients do.
        let end = End(&over);
        let longest = guest.peer(&format!("rr-longest {} {SECONDS}", at(FAR4, 5002)));
        drop(end);
        transfers.join().expect("transfers");
        (clients.join().expect("requests"), longest.trim().parse::<u64>().expect("microseconds"))
    });
    assert!(requests >= 1000 * SECONDS, "{requests} requests");
    assert!(longest < 200_000, "{longest} us without traffic");
    let left = ask(&served.socket, br#"{"execute":"list_hostfwd"}"#);
    assert_eq!(left, r#"{"return":{"entries":[]},"entries":[]}"#);
    eprintln!("{requests} requests in {SECONDS} s, the longest exchange meanwhile {longest} us");
}

/// Many whole requests at once are all answered, and in effect; a part of one is answered as well once
/// nothing more comes.
#[test]
fn many_at_once() {
    let Some(served) = serve("") else { return };
    let answers: Vec<String> = std::thread::scope(|scope| {
        let one = |port: u16| {
            let arguments =
                format!(r#""proto":"udp","host_addr":"127.0.0.1","host_port":{port},"guest_port":9"#);
            let request = format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#);
            let socket = &served.socket;
            scope.spawn(move || ask(socket, request.as_bytes()))
        };
        let all: Vec<_> = (20_000..20_400).map(one).collect();
        all.into_iter().map(|client| client.join().expect("an answer")).collect()
    });
    let added = answers.iter().filter(|answer| answer.starts_with(r#"{"return":{"id":"#)).count();
    assert_eq!(added, 400, "{answers:?}");
    let mut stream = UnixStream::connect(&served.socket).expect("a server");
    stream.write_all(br#"{"execute":"#).expect("a server that reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, r#"{"error":{"desc":"bad request: cannot parse JSON"}}"#);
}
