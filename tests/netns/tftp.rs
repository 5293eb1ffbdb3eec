//! Servers that answer each client from a port of their own (RFC 1350, section 4): from outside,
//! from inside, and past the link.

use std::fs;
use std::path::{Path, PathBuf};

use passt_tests::transfer::at;
use passt_tests::{FAR4, FAR6, GATEWAY4, Guest, HOST4, HOST6, Net, Place, Process, User, eventually, have};

/// The port that servers have, and those that lead to it from outside and from inside.
const SERVED: u16 = 69;
const IN: u16 = 6969;
const OUT: u16 = 6970;

/// What is served is of many blocks, the last of which is not full.
fn content() -> Vec<u8> {
    (0..200_001u32).map(|i| (i * 31).to_le_bytes()[1]).collect()
}

fn root(net: &Net) -> PathBuf {
    let root = net.dir().join("tftp");
    fs::create_dir(&root).expect("a directory");
    fs::write(root.join("file"), content()).expect("a file");
    root
}

fn serve(place: &dyn Place, root: &Path) -> Process {
    let server = place.start(&format!(
        "dnsmasq --no-daemon --conf-file=/dev/null --port=0 --pid-file= \
         --enable-tftp --tftp-root={}",
        root.display()
    ));
    eventually("a server", || server.stderr().contains("TFTP root").then_some(()));
    server
}

/// Gets the file from a server, from any address or one.
fn fetch(net: &Net, place: &dyn Place, from: &str, address: &str, port: u16) {
    let got = net.dir().join("got");
    let url = format!("tftp://{}/file", at(address, port));
    let from = if from.is_empty() { String::new() } else { format!("--interface {from}") };
    place.run(&format!("curl -sS --max-time 20 {from} -o {} {url}", got.display()));
    assert!(fs::read(&got).expect("a file") == content(), "{url}");
    fs::remove_file(&got).expect("removed");
}

fn started() -> Option<(Guest, Net, PathBuf)> {
    let net = Net::new()?;
    if !have(&["curl", "dnsmasq"]) {
        return None;
    }
    let ports = format!("--config-net -t none -u {IN}:{SERVED} -T none -U {OUT}:{SERVED}");
    let guest = net.pasta(User::Normal).with(&ports).start();
    let root = root(&net);
    Some((guest, net, root))
}

#[test]
fn a_server_inside() {
    let Some((guest, net, root)) = started() else { return };
    let _server = serve(&guest, &root);
    for address in ["127.0.0.1", "::1", HOST4, HOST6] {
        fetch(&net, &net.host, "", address, IN);
    }
    // Its address on the link is the gateway's, which stands for the host to the guest.
    for (far, address) in [(FAR4, HOST4), (FAR6, HOST6)] {
        fetch(&net, &net.peer, far, address, IN);
    }
}

#[test]
fn a_server_outside() {
    let Some((guest, net, root)) = started() else { return };
    let _servers = [serve(&net.host, &root), serve(&net.peer, &root)];
    for address in ["127.0.0.1", "::1"] {
        fetch(&net, &guest, "", address, OUT);
    }
    for address in [GATEWAY4, FAR4, FAR6] {
        fetch(&net, &guest, "", address, SERVED);
    }
}

/// The ports that we wait at for an answer are no services, on neither side: none of them is
/// forwarded.
#[test]
fn waiting_is_no_service() {
    let Some(net) = Net::new() else { return };
    if !have(&["bash", "socat", "ss"]) {
        return;
    }
    let guest = net.pasta(User::Normal).with("--config-net -t none -u auto -T none -U auto").start();
    let ways: [(&dyn Place, &dyn Place, u16); 2] = [(&net.host, &guest, IN), (&guest, &net.host, OUT)];
    for (client, server, port) in ways {
        let bound = |port: u16| client.run("ss -Hlun").contains(&format!(":{port} ")).then_some(());
        let count = || client.run("ss -Hlun").lines().count();
        let at_first = count();
        let mut silent = server.start(&format!("socat -u UDP4-RECV:{port} STDOUT"));
        eventually("the service", || bound(port));
        let say = format!("echo one > /dev/udp/127.0.0.1/{port}");
        Process::start(client.command("bash").args(["-c", &say])).succeed();
        silent.wait_for("one");
        let opened = count() - at_first;
        let _another = server.start(&format!("socat -u UDP4-RECV:{} STDOUT", port + 100));
        // When that is seen, all that was there before has been.
        eventually("another service", || bound(port + 100));
        assert_eq!(count(), at_first + 2 * opened, "{}", client.run("ss -lun"));
    }
}

/// Somebody else on the server's side who sends first, from another port of the same address, takes
/// nothing from the client: the server that was asked is heard when it answers.
#[test]
fn nobody_diverts_an_answer() {
    let Some(net) = Net::new() else { return };
    if !have(&["bash", "socat", "ss"]) {
        return;
    }
    let options = format!("--config-net -t none -u {IN} -T none -U {OUT} --host-lo-to-ns-lo");
    let guest = net.pasta(User::Normal).with(&options).start();
    let ways: [(&dyn Place, &dyn Place, u16); 2] = [(&net.host, &guest, IN), (&guest, &net.host, OUT)];
    for (client, server, port) in ways {
        let go = net.dir().join(format!("go{port}"));
        let answer = format!("until [ -e {} ]; do sleep 0.05; done; cat", go.display());
        let serve = format!("UDP4-RECVFROM:{port},fork");
        let _slow = Process::start(server.command("socat").args([&serve, &format!("SYSTEM:{answer}")]));
        let ports = || -> Vec<String> {
            let list = server.run("ss -Hun4 state all");
            list.lines().filter_map(|line| Some(line.split_whitespace().nth(3)?.to_owned())).collect()
        };
        eventually("the server", || ports().iter().any(|at| at.ends_with(&format!(":{port}"))).then_some(()));
        let before = ports();
        let asks = client.start_peer(&format!("udp-ask {} hello", at("127.0.0.1", port)));
        let waits = eventually("the waiting port", || ports().into_iter().find(|at| !before.contains(at)));
        let (_, waits) = waits.rsplit_once(':').expect("a port");
        let disturb = format!("echo other > /dev/udp/127.0.0.1/{waits}");
        Process::start(server.command("bash").args(["-c", &disturb])).succeed();
        fs::write(&go, "").expect("a file");
        assert_eq!(asks.succeed().trim(), "hello");
    }
}
