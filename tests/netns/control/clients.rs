//! What clients may do: many at once, all nonsense, none that reads, others that are not let in.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use passt_control::Protocol;
use passt_control::client::Greeted;
use passt_control::frame;
use passt_control::reply::Answer;
use passt_control::request::{Change, Message, Request};
use passt_tests::transfer::{MIB, at, exchange, far_servers, upload};
use passt_tests::{FAR4, HOST4, Net, Place as _, Process, User, eventually};

use super::{QUIET, Random, Served, change, connect, port, rules, start};

/// Transactions of each of a hundred clients.
const TRANSACTIONS: usize = 1000;

#[test]
fn a_hundred_clients() {
    let Some(served) = start(QUIET) else { return };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..100_u16 {
            let socket = &served.socket;
            scope.spawn(move || {
                let mut client_of = connect(socket);
                let rule = port(Protocol::Tcp, 10_000 + client, 80);
                for round in 0..TRANSACTIONS {
                    let add = round % 2 == 0;
                    let wanted = if add { Change::Add(rule.clone()) } else { Change::Delete(rule.clone()) };
                    assert!(change(&mut client_of, vec![wanted], false).committed);
                }
            });
        }
    });
    let time = begun.elapsed();
    println!("{} transactions in {time:?}", 100 * TRANSACTIONS);
    let left = rules(&mut served.client()).len();
    assert_eq!(left, if TRANSACTIONS % 2 == 1 { 100 } else { 0 });
    served.pesto_succeeds("-A -t 8080");
}

/// More clients than there may be: whoever is silent makes room.
#[test]
fn clients_that_say_nothing() {
    let Some(served) = start(QUIET) else { return };
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(UnixStream::connect(&served.socket).expect("a server"));
    }
    served.pesto_succeeds("-A -t 8080");
    assert!(served.pesto_succeeds("").contains(":8080 "));
    let descriptors = served.guest.descriptors();
    drop(silent);
    eventually("they are gone", || (served.guest.descriptors() + 100 < descriptors).then_some(()));
}

/// A client that asks for much and reads nothing is not asked for more, and holds nobody up.
#[test]
fn a_client_that_does_not_read() {
    let Some(served) = start(QUIET) else { return };
    let mut deaf = UnixStream::connect(&served.socket).expect("a server");
    deaf.set_nonblocking(true).expect("a socket");
    let mut request = Vec::new();
    frame::append(&mut request, &Message { id: 1, request: Request::Counters }).expect("JSON");
    let mut bytes = frame::HELLO.to_vec();
    bytes.extend(request.repeat(20_000));
    let mut sent = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        match deaf.write(&bytes[sent..]) {
            Ok(0) | Err(_) => std::thread::sleep(Duration::from_millis(10)),
            Ok(length) => sent += length,
        }
        if sent == bytes.len() {
            break;
        }
    }
    assert!(sent < bytes.len(), "all was taken");
    let mut other = served.client();
    let Ok(Answer::Counters(counters)) = other.ask(Request::Counters) else { panic!("no answer") };
    assert!(counters.memory < 4 << 20, "{counters:?}");
    // One that wants events, and does not read them, is sent away.
    let mut subscriber = served.client();
    subscriber.ask(Request::Events).expect("done");
    let before = clients(&mut other);
    let rule = port(Protocol::Tcp, 8080, 80);
    for _ in 0..20_000 {
        assert!(change(&mut other, vec![Change::Add(rule.clone())], false).committed);
        assert!(change(&mut other, vec![Change::Delete(rule.clone())], false).committed);
        if clients(&mut other) < before {
            return;
        }
    }
    panic!("it is still there");
}

/// As many of them as there may be, each of which asks for far more than it reads: memory for all of
/// that is not there, and it costs them alone.
#[test]
fn a_crowd_that_does_not_read() {
    let Some(mut served) = start("-t 8080:80 -u none -T none -U none") else { return };
    let _server = served.guest.serve("[::]:80");
    let rules: Vec<_> = (0..1000).map(|i| Change::Add(port(Protocol::Tcp, 20_000 + i, 80))).collect();
    for part in rules.chunks(200) {
        assert!(change(&mut served.client(), part.to_vec(), false).committed);
    }
    let mut request = Vec::new();
    let page = passt_control::request::Page::default();
    frame::append(&mut request, &Message { id: 1, request: Request::Rules(page) }).expect("JSON");
    let bytes = [frame::HELLO.to_vec(), request.repeat(1500)].concat();
    let mut crowd = Vec::new();
    for _ in 0..128 {
        let mut deaf = UnixStream::connect(&served.socket).expect("a server");
        deaf.set_nonblocking(true).expect("a socket");
        let _ = deaf.write(&bytes);
        crowd.push(deaf);
    }
    exchange(&served.net.peer, &at(HOST4, 8080));
    eventually("somebody else is served", || {
        served.guest.assert_alive();
        let finished = served.pesto("-A -t 8081:80");
        finished.status.success().then_some(())
    });
    drop(crowd);
    exchange(&served.net.peer, &at(HOST4, 8081));
    eventually("their memory is free", || match served.client().ask(Request::Counters) {
        Ok(Answer::Counters(counters)) => (counters.memory < 2 << 20).then_some(()),
        _ => None,
    });
}

fn clients(client: &mut passt_control::client::Client) -> u64 {
    match client.ask(Request::Counters) {
        Ok(Answer::Counters(counters)) => counters.clients,
        other => panic!("{other:?}"),
    }
}

/// Bytes of a conversation, some of which are others than they should be.
fn nonsense(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    if random.below(3) > 0 {
        bytes.extend(frame::HELLO);
        for _ in 0..random.below(6) {
            let text = [
                r#"{"id":1,"request":"counters"}"#,
                r#"{"id":2,"request":{"flows":{"from":4294967295,"most":0}}}"#,
                r#"{"request":{"change":{"changes":[{"add":{"protocol":"tcp","first":30000}}],"more":true}}}"#,
                r#"{"request":{"change":{"changes":[{"delete":{"protocol":"tcp","first":30000}}]}}}"#,
                r#"{"request":{"describe":{"flows":["0.0","x","1.1"]}}}"#,
                r#"{"request":"capture"}"#,
                r#"{"request":"events"}"#,
                r#"{"request":{"set":{"log_level":"loud"}}}"#,
                r#"{"request":{"rules":{"from":77}}}"#,
                "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
            ][random.below(10)];
            bytes.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
            bytes.extend(text.as_bytes());
        }
    } else {
        let rule = port(Protocol::Udp, 30_001, 53);
        let families = passt_control::Families { v4: true, v6: true };
        let rules = vec![rule; random.below(3)];
        bytes = passt_control::v2::encode_tables([(passt_control::Side::Host, families, &rules[..])]);
    }
    for _ in 0..random.below(4) {
        if !bytes.is_empty() {
            let place = random.below(bytes.len());
            bytes[place] = u8::try_from(random.below(256)).expect("a byte");
        }
    }
    bytes.truncate(bytes.len() - random.below(bytes.len().max(1)) / 3);
    bytes
}

/// Nonsense beside a transfer and a client that says what it means.
#[test]
fn nonsense_does_no_harm() {
    let Some(mut served) = start("-t 8080:80 -u none -T none -U none") else { return };
    let _far = far_servers(&served.net);
    let _server = served.guest.serve("[::]:80");
    let mut steady = served.net.peer.start_peer(&format!("steady {}", at(HOST4, 8080)));
    steady.wait_for("STEADY");
    let seconds = std::env::var("HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let (begun, mut random, mut count) = (Instant::now(), Random(0x5eed), 0_u64);
    let mut open = Vec::new();
    while begun.elapsed() < Duration::from_secs(seconds) {
        let mut client = UnixStream::connect(&served.socket).expect("a server");
        client.set_nonblocking(true).expect("a socket");
        // Who writes to one that was sent away gets an error.
        let _ = client.write(&nonsense(&mut random));
        let _ = client.read(&mut [0; 4096]);
        // Some stay for a while, in the middle of a message or not.
        open.push(client);
        if open.len() > 40 {
            open.swap_remove(random.below(40));
        }
        count += 1;
        if count.is_multiple_of(100) {
            let rule = port(Protocol::Tcp, 8081, 80);
            let mut sane = served.client();
            // What was said may happen to be a table of rules, which takes others away once it is read.
            open.clear();
            eventually("nobody else is left", || (clients(&mut sane) == 1).then_some(()));
            assert!(change(&mut sane, vec![Change::Add(rule.clone())], false).committed);
            exchange(&served.net.peer, &at(HOST4, 8081));
            assert!(change(&mut sane, vec![Change::Delete(rule)], false).committed);
        }
    }
    drop(open);
    upload(&served.guest, &at(FAR4, 5001), 4 * MIB);
    println!("{count} clients, {}", steady.finish().stdout.trim());
    served.guest.assert_alive();
    eventually("no client is left", || (clients(&mut served.client()) == 1).then_some(()));
}

/// Clients that are killed leave nothing, wherever they were.
#[test]
fn clients_that_are_killed() {
    let Some(served) = start(QUIET) else { return };
    let before = served.guest.descriptors();
    for round in 0..20_u64 {
        let option = ["--events", "--capture /dev/null", "-A -t 20000-21000", "--capture -"]
            [usize::try_from(round % 4).expect("small")];
        let mut tool = served.start_tool("pesto", option);
        std::thread::sleep(Duration::from_millis(round));
        if tool.try_wait().is_none() {
            tool.signal("KILL");
        }
        drop(tool.finish());
    }
    eventually("descriptors are closed", || {
        served.pesto_succeeds("-C HOST");
        (served.guest.descriptors() <= before).then_some(())
    });
    let Ok(Answer::Settings(settings)) = served.client().ask(Request::Settings) else { panic!("none") };
    assert!(!settings.capture, "somebody's recording goes on");
}

/// A live socket is refused, a stale one replaced; the mode is that of the umask.
#[test]
fn the_file() {
    let Some(served) = start(QUIET) else { return };
    let mode = |path| fs::metadata(path).expect("a socket").permissions().mode() & 0o777;
    assert_eq!(mode(&served.socket), 0o755);
    let line = format!("--config-net -c {}", served.socket.display());
    let second = served.net.pasta(User::Normal).with(&line).run("true");
    assert!(!second.status.success());
    let told = format!("Socket path {} already in use", served.socket.display());
    assert!(second.stderr.contains(&told), "{second:?}");
    served.pesto_succeeds("");
    let Served { guest, net, socket } = served;
    guest.stop();
    assert!(socket.exists(), "it is stale");
    let umask = net.pasta(User::Normal).through("sh -c").with("x");
    drop(umask);
    let guest = net.pasta(User::Normal).with(&line).with(QUIET).start();
    let served = Served { guest, net, socket };
    served.pesto_succeeds("");
    // Not a socket.
    let file = served.net.dir().join("file");
    fs::write(&file, "text").expect("a file");
    let line = format!("--config-net -c {}", file.display());
    let third = served.net.pasta(User::Normal).with(&line).run("true");
    assert!(
        !third.status.success() && third.stderr.contains("Couldn't bind UNIX domain socket"),
        "{third:?}"
    );
}

/// Somebody else is let in by nobody's mistake: the socket's mode decides, and where it lets all
/// write, who they are.
#[test]
fn others_are_sent_away() {
    let Some(served) = start(QUIET) else { return };
    let pesto = served.net.tool("pesto");
    let by = |id: u32| {
        let line = format!(
            "setpriv --reuid={id} --regid={id} --clear-groups {} {}",
            pesto.display(),
            served.socket.display()
        );
        served.net.host.start(&line).finish()
    };
    let other = User::NORMAL_ID + 1;
    assert!(by(other).stderr.contains("Permission denied"));
    assert!(by(0).status.success());
    fs::set_permissions(&served.socket, fs::Permissions::from_mode(0o777)).expect("its owner's right");
    let refused = by(other);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(by(User::NORMAL_ID).status.success());
}

/// passt has a control socket as well, in the background and as another user.
#[test]
fn passt_as_well() {
    let Some(net) = Net::new() else { return };
    for user in [User::Root, User::Normal] {
        let file = |name: &str| net.dir().join(format!("{user:?}-{name}"));
        let (socket, pid, vm) = (file("ctl"), file("pid"), file("vm"));
        let line =
            format!("-c {} --pid {} --socket {} -t 8080:80", socket.display(), pid.display(), vm.display());
        let started = net.passt(user).with(&line).run("");
        assert!(started.status.success(), "{started:?}");
        let id = fs::read_to_string(&pid).expect("a PID file").trim().to_owned();
        let mut client = connect(&socket);
        let Ok(Answer::Hello(hello)) = client.ask(Request::Hello) else { panic!("no answer") };
        assert_eq!((hello.program.as_str(), hello.link.as_str()), ("passt", "stream"));
        assert!(change(&mut client, vec![Change::Add(port(Protocol::Tcp, 8081, 81))], false).committed);
        assert!(change(&mut client, vec![Change::Add(port(Protocol::Udp, 8081, 81))], false).committed);
        assert_eq!(rules(&mut client).len(), 3);
        let inside =
            passt_control::Rule { side: passt_control::Side::Namespace, ..port(Protocol::Tcp, 8082, 82) };
        let refused = change(&mut client, vec![Change::Add(inside)], false);
        assert!(refused.refused[0].reason.contains("there is no namespace"), "{refused:?}");
        let Ok(Answer::Guest(guest)) = client.ask(Request::Guest) else { panic!("no answer") };
        assert!(!guest.connected);
        let greeting = Greeted::connect(&socket).expect("a server").greeting().clone();
        assert_eq!(greeting.tables.len(), 1);
        let mut events = connect(&socket);
        events.ask(Request::Events).expect("done");
        let machine = passt_tests::Machine::start(&net, &vm, 1500);
        machine.configure();
        assert_eq!(events.event().expect("an event"), passt_control::reply::Event::GuestCame);
        let _server = machine.serve("[::]:81");
        exchange(&net.peer, &at(HOST4, 8081));
        drop(machine);
        assert_eq!(events.event().expect("an event"), passt_control::reply::Event::GuestLeft);
        drop(Process::start(net.host.command("kill").arg(&id)).finish());
        eventually("its end", || (!std::path::Path::new(&format!("/proc/{id}")).exists()).then_some(()));
        drop(fs::remove_file(&pid));
    }
}
