//! Ports that follow what listens on the other side, as they do unless told otherwise.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use passt_tests::transfer::{at, exchange};
use passt_tests::{
    FAR4, FAR6, GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Net, Place, Process, User, eventually_within, have,
    skip,
};

/// A service is seen once a second, and one more is for a busy machine.
const NOTICED: Duration = Duration::from_secs(2);

fn start(options: &str) -> Option<(Guest, Net)> {
    let net = Net::new()?;
    let guest = net.pasta(User::Normal).with("--config-net").with(options).start();
    Some((guest, net))
}

fn udp_server(place: &impl Place, address: &str) -> Process {
    place.listening(&format!("udp-serve {address}"))
}

/// What listens in a place, as the kernel lists it.
fn listening(place: &(impl Place + ?Sized)) -> String {
    place.run("ss -Hlntu")
}

/// Whether something listens on `port` for `protocol` there, in which of the families.
fn bound(place: &(impl Place + ?Sized), protocol: &str, port: u16) -> [bool; 2] {
    let list = listening(place);
    let at_port: Vec<&str> = list
        .lines()
        .filter(|line| line.starts_with(protocol))
        .filter_map(|line| line.split_whitespace().nth(4)?.strip_suffix(&format!(":{port}")))
        .collect();
    let dual = at_port.iter().any(|address| address.starts_with('*'));
    let of = |v6: bool| at_port.iter().any(|address| address.starts_with('[') == v6);
    [dual || of(false), dual || of(true)]
}

fn noticed(what: &str, ready: impl Fn() -> bool) {
    eventually_within(NOTICED, what, || ready().then_some(()));
}

/// A client at `place` exchanges data with TCP port 5001 and UDP port 6001 of `to`, and is seen by
/// the address given. With none the ports are closed.
fn seen_as(place: &impl Place, to: &str, client: Option<&str>) {
    let (tcp, udp) = (at(to, 5001), format!("udp-ask {} who", at(to, 6001)));
    let Some(client) = client else {
        let outcome = place.peer(&format!("connect {tcp}"));
        assert!(outcome.starts_with("ConnectionRefused"), "{tcp}: {outcome}");
        return assert_eq!(place.peer(&udp).trim(), "ConnectionRefused", "{udp}");
    };
    exchange(place, &tcp);
    assert_eq!(place.peer(&format!("who {tcp}")).trim(), client, "{tcp}");
    let seen: SocketAddr = place.peer(&udp).trim().parse().expect("an address");
    assert_eq!(seen.ip().to_canonical().to_string(), client, "{udp}");
}

#[test]
fn services_inside_come_and_go() {
    let Some((guest, net)) = start("-T none -U none") else { return };
    for (address, families) in
        [("[::]", [true, true]), ("0.0.0.0", [true, false]), (HOST6, [false, true]), ("[::]", [true, true])]
    {
        let listen =
            |port| if address.starts_with('[') { format!("{address}:{port}") } else { at(address, port) };
        let servers = [guest.serve(&listen(5001)), udp_server(&guest, &listen(6001))];
        noticed("TCP", || bound(&net.host, "tcp", 5001) == families);
        noticed("UDP", || bound(&net.host, "udp", 6001) == families);
        let [v4, v6] = families;
        seen_as(&net.peer, HOST4, v4.then_some(GATEWAY4));
        seen_as(&net.peer, HOST6, v6.then_some(GATEWAY6));
        seen_as(&net.host, "127.0.0.1", v4.then_some(HOST4));
        seen_as(&net.host, "::1", v6.then_some(HOST6));
        drop(servers);
        noticed("the end", || bound(&net.host, "tcp", 5001) == [false; 2]);
        noticed("the end", || bound(&net.host, "udp", 6001) == [false; 2]);
    }
}

/// From the namespace the host's services are at loopback, if that is where the host has them.
#[test]
fn services_of_the_host_come_and_go() {
    let Some((guest, net)) = start("-t none -u none") else { return };
    for (address, families) in
        [("[::]", [true, true]), ("127.0.0.1", [true, false]), ("[::1]", [false, true]), (HOST4, [false; 2])]
    {
        let servers = (
            net.host.serve(&format!("{address}:5001")),
            udp_server(&net.host, &format!("{address}:6001")),
            // When this is seen, the others have been.
            net.host.serve("[::]:5009"),
        );
        noticed("the other", || bound(&guest, "tcp", 5009) == [true; 2]);
        assert_eq!(bound(&guest, "tcp", 5001), families, "{address}");
        assert_eq!(bound(&guest, "udp", 5001), families, "{address}: UDP follows");
        assert_eq!(bound(&guest, "udp", 6001), families, "{address}: UDP");
        for (loopback, serves) in ["127.0.0.1", "::1"].into_iter().zip(families) {
            seen_as(&guest, loopback, serves.then_some(loopback));
        }
        drop(servers);
        noticed("the end", || bound(&guest, "tcp", 5001) == [false; 2]);
        noticed("the end", || bound(&guest, "tcp", 5009) == [false; 2]);
    }
}

/// A service on loopback inside is nobody's business outside, unless the user says so.
#[test]
fn loopback_inside() {
    for (options, families) in [("", [false; 2]), ("--host-lo-to-ns-lo", [true, false])] {
        let Some((guest, net)) = start(&format!("-T none -U none {options}")) else { return };
        let _servers = [guest.serve("127.0.0.1:5001"), guest.serve("[::]:5009")];
        noticed("the other", || bound(&net.host, "tcp", 5009) == [true; 2]);
        assert_eq!(bound(&net.host, "tcp", 5001), families, "{options}");
        if families[0] {
            exchange(&net.host, "127.0.0.1:5001");
        }
    }
}

/// Our own sockets are no services: what is forwarded one way doesn't come back the other way.
#[test]
fn no_loops() {
    let Some((guest, net)) = start("") else { return };
    let places: [&dyn Place; 2] = [&guest, &net.host];
    for (place, other) in [(places[0], places[1]), (places[1], places[0])] {
        let server = place.serve("[::]:5001");
        noticed("the service", || bound(other, "tcp", 5001) == [true; 2]);
        // What we hold there has been looked at when this is seen.
        let _marker = other.serve("[::]:5009");
        noticed("the other", || bound(place, "tcp", 5009) == [true; 2]);
        let sockets =
            listening(place).lines().filter(|l| l.starts_with("tcp") && l.contains(":5001 ")).count();
        assert_eq!(sockets, 1, "{}", listening(place));
        drop(server);
        noticed("the end", || bound(other, "tcp", 5001) == [false; 2]);
    }
}

/// With ranges only those, exclusions aside, and other ports where that was asked for.
#[test]
fn ranges() {
    let Some((guest, net)) = start("-t auto,5000-5009:7000-7009,~5002 -u none -T none -U none") else {
        return;
    };
    let _servers = [5001, 7001, 7002, 7009].map(|port| guest.serve(&format!("[::]:{port}")));
    noticed("the last", || bound(&net.host, "tcp", 5009) == [true; 2]);
    exchange(&net.peer, &at(HOST4, 5001));
    for port in [5002, 7001, 7009] {
        assert_eq!(bound(&net.host, "tcp", port), [false; 2], "{port}");
    }
    assert_eq!(bound(&net.host, "udp", 5001), [false; 2]);
}

/// Ports below 1024 are followed as far as the kernel lets whoever pasta is then: inside always, on
/// the host where anybody may have them.
#[test]
fn low_ports() {
    for user in User::BOTH {
        for (unprivileged, had) in [(1024, false), (80, true)] {
            let Some(net) = Net::new() else { return };
            net.host.sysctl(&format!("net.ipv4.ip_unprivileged_port_start={unprivileged}"));
            let mut guest = net.pasta(user).with("--config-net").start();
            let of_host = (net.host.serve("[::1]:81"), udp_server(&net.host, "[::1]:81"));
            noticed("the host's service", || bound(&guest, "tcp", 81) == [false, true]);
            noticed("the host's service", || bound(&guest, "udp", 81) == [false, true]);
            exchange(&guest, "[::1]:81");
            drop(of_host);
            let _servers =
                (guest.serve("0.0.0.0:80"), udp_server(&guest, "0.0.0.0:80"), guest.serve("[::]:5009"));
            noticed("the other", || bound(&net.host, "tcp", 5009) == [true; 2]);
            for protocol in ["tcp", "udp"] {
                assert_eq!(
                    bound(&net.host, protocol, 80),
                    [had, false],
                    "{user:?} {unprivileged} {protocol}"
                );
            }
            let outcome = net.peer.peer(&format!("connect {}", at(HOST4, 80)));
            assert_eq!(outcome.starts_with("connected"), had, "{user:?} {unprivileged}: {outcome}");
            if had {
                assert_eq!(net.peer.peer(&format!("who {}", at(HOST4, 80))).trim(), GATEWAY4);
                assert!(net.peer.peer(&format!("udp-ask {} who", at(HOST4, 80))).contains(GATEWAY4));
            }
            guest.assert_alive();
        }
    }
}

/// A port that somebody else has is taken when that one is gone.
#[test]
fn a_port_in_use_is_taken_later() {
    let Some((guest, net)) = start("-u none -U none") else { return };
    let theirs = net.host.serve("127.0.0.1:5001");
    let _servers = [guest.serve("0.0.0.0:5001"), guest.serve("[::]:5009")];
    noticed("the other", || bound(&net.host, "tcp", 5009) == [true; 2]);
    assert!(!listening(&net.host).contains("0.0.0.0:5001 "));
    drop(theirs);
    noticed("the port", || listening(&net.host).contains("0.0.0.0:5001 "));
    exchange(&net.peer, &at(HOST4, 5001));
}

#[test]
fn connections_outlive_their_port() {
    let Some((guest, net)) = start("-T none -U none") else { return };
    let _server = guest.listening("serve-one [::]:5001");
    noticed("the service", || bound(&net.host, "tcp", 5001) == [true; 2]);
    let mut client = net.peer.start_peer(&format!("steady {}", at(HOST4, 5001)));
    client.wait_for("STEADY");
    noticed("the end", || bound(&net.host, "tcp", 5001) == [false; 2]);
    let rounds = client.stdout();
    let outcome = client.succeed();
    assert!(outcome.contains("rounds"), "{rounds} {outcome}");
}

/// Services that are there already are forwarded when the parent ends.
#[test]
fn what_is_there_is_ready_at_once() {
    let Some(net) = Net::new() else { return };
    let inside = net.empty_guest();
    inside.ip("link set lo up");
    let _servers = [inside.serve("[::]:5001"), net.host.serve("[::]:5002")];
    let pid = net.dir().join("pid");
    let options = format!("--config-net --pid {}", pid.display());
    let started = net.pasta(User::Root).with(&options).run(&format!("--netns {}", inside.name()));
    assert!(started.status.success(), "{}", started.stderr);
    assert_eq!(bound(&net.host, "tcp", 5001), [true; 2]);
    assert_eq!(bound(&inside, "tcp", 5002), [true; 2]);
    exchange(&net.peer, &at(HOST4, 5001));
    exchange(&inside, &at("127.0.0.1", 5002));
    let pid = fs::read_to_string(pid).expect("PID file");
    net.host.run(&format!("kill {}", pid.trim()));
}

/// A web server inside is there for the host and for others, and nobody asked for it.
#[test]
fn nginx_inside() {
    if !have(&["curl", "nginx", "wrk"]) {
        return;
    }
    let Some((guest, net)) = start("") else { return };
    let dir = net.dir().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind}; "))
        .concat();
    let config = format!(
        "daemon off; master_process off; user root; pid {dir}/nginx.pid; error_log stderr; events {{ }}\n\
         http {{ access_log off; {temporary} server {{ listen [::]:8080 ipv6only=off; root {dir}; }} }}\n"
    );
    fs::write(net.dir().join("nginx.conf"), config).expect("configuration");
    fs::write(net.dir().join("page"), "from inside\n").expect("page");
    let _server = guest.start(&format!("nginx -e stderr -c {dir}/nginx.conf"));
    noticed("the service", || bound(&net.host, "tcp", 8080) == [true; 2]);
    for (place, to) in [(&net.host, "localhost"), (&net.host, HOST4), (&net.peer, HOST4)] {
        assert_eq!(place.run(&format!("curl -sS -f http://{to}:8080/page")), "from inside\n", "{to}");
    }
    assert_eq!(net.peer.run(&format!("curl -sS -f http://[{HOST6}]:8080/page")), "from inside\n");
    for (place, to) in [(&net.host, "127.0.0.1"), (&net.peer, HOST4)] {
        let out = place.run(&format!("wrk -t 2 -c 50 -d 2s http://{to}:8080/page"));
        let failed = out.contains("Socket errors") || out.contains("Non-2xx");
        assert!(out.contains("requests in") && !failed, "{out}");
    }
}

/// A test by UDP that is arranged by TCP: no program opens the UDP port before.
#[test]
fn iperf3_by_udp() {
    if !have(&["iperf3"]) {
        return;
    }
    let Some((guest, net)) = start("") else { return };
    let mut server = guest.start("iperf3 -s -1 --forceflush");
    server.wait_for("Server listening");
    noticed("the service", || bound(&net.host, "udp", 5201) == [true; 2]);
    let report = net.peer.run(&format!("iperf3 -u -b 10M -t 1 -c {HOST4}"));
    let received = report.lines().find(|line| line.contains("receiver")).unwrap_or_default();
    assert!(received.contains("(0%)"), "{report}");
}

/// Where the kernel can't be asked, the files of `/proc/net` tell the same.
#[test]
fn without_sock_diag() {
    if cfg!(any(target_arch = "s390x", target_arch = "x86")) {
        return skip(
            "the C library may make sockets by socketcall, of which no filter knows what it asks for",
        );
    }
    let Some(net) = Net::new() else { return };
    let (peer, pasta) = (net.dir().join("peer"), net.dir().join("pasta"));
    let words = format!("lacking sock_diag {} --debug --config-net", pasta.display());
    let mut guest = net.pasta(User::Normal).program(&peer).with(&words).start();
    for _ in 0..2 {
        let inside = [guest.serve("0.0.0.0:5001"), udp_server(&guest, &at(HOST6, 6001))];
        let outside = [net.host.serve("[::1]:5002"), udp_server(&net.host, "127.0.0.1:6002")];
        noticed("TCP inside", || bound(&net.host, "tcp", 5001) == [true, false]);
        noticed("UDP inside", || bound(&net.host, "udp", 6001) == [false, true]);
        noticed("TCP outside", || bound(&guest, "tcp", 5002) == [false, true]);
        noticed("UDP outside", || bound(&guest, "udp", 6002) == [true, false]);
        exchange(&net.peer, &at(HOST4, 5001));
        exchange(&guest, &at("::1", 5002));
        drop((inside, outside));
        noticed("the end", || bound(&net.host, "tcp", 5001) == [false; 2]);
        noticed("the end", || bound(&guest, "udp", 6002) == [false; 2]);
    }
    guest.assert_alive();
    let said = guest.stop().stderr;
    assert!(said.contains("No sock_diag"), "{said}");
}

/// While nothing happens, a look at both sides each second is all there is.
#[test]
fn idle() {
    if !have(&["strace"]) {
        return;
    }
    let Some((mut guest, net)) = start("") else { return };
    let file = net.dir().join("calls");
    let pid = guest.pasta.pid();
    let mut command = std::process::Command::new("timeout");
    let strace = command.args(["-s", "INT", "5", "strace", "-f", "-p", &pid.to_string(), "-o"]).arg(&file);
    let finished = Process::start(strace).finish();
    let Ok(text) = fs::read_to_string(file) else { return skip(&finished.stderr) };
    let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
    let looks = count("sendmsg(") + count("recvmmsg(");
    // What the guest's kernel sends of its own accord ends waits too; those that ran out are ours.
    let wakes = text.lines().filter(|line| line.contains("epoll_pwait(") && line.ends_with(" = 0")).count();
    println!(
        "{looks} system calls to look, {wakes} waits that ran out, {} calls in 5 seconds",
        text.lines().count()
    );
    assert!((32..=48).contains(&looks) && wakes <= 6);
    guest.assert_alive();
}

/// Thousands of services don't take the descriptors that connections need, from whichever side they
/// come: the start succeeds, what is left out is said once, and connections go on.
#[test]
fn more_services_than_descriptors() {
    let begin = |place: &dyn Place| {
        let mut services = place.start_peer("listen 20000 23999 THERE");
        services.wait_for("THERE");
        services
    };
    for inside in [true, false] {
        let Some(net) = Net::new() else { return };
        let of_host = (!inside).then(|| begin(&net.host));
        let limited = format!("--nofile=1024:1024 {}", net.dir().join("pasta").display());
        let launch = net.pasta(User::Normal).program(std::path::Path::new("/usr/bin/prlimit"));
        let mut guest = launch.with(&limited).with("--config-net").start();
        let services = of_host.unwrap_or_else(|| begin(&guest));
        let _servers = (net.peer.serve(&at(FAR4, 5003)), guest.serve("[::]:19000"));
        noticed("a new service", || bound(&net.host, "tcp", 19_000) == [true; 2]);
        for _ in 0..20 {
            exchange(&guest, &at(FAR4, 5003));
            exchange(&net.peer, &at(HOST4, 19_000));
            exchange(&net.host, "127.0.0.1:19000");
        }
        let (client, to): (&dyn Place, _) = if inside { (&net.peer, HOST4) } else { (&guest, "127.0.0.1") };
        let outcome = client.peer(&format!("connect {}", at(to, 20_000)));
        assert!(outcome.starts_with("connected"), "{outcome}");
        assert!(guest.descriptors() < 900, "{} descriptors", guest.descriptors());
        guest.pasta.wait_for("ports of services are not forwarded");
        drop(services);
        let told = guest.pasta.stderr().matches("ports of services are not forwarded").count();
        assert_eq!(told, 1, "{}", guest.pasta.stderr());
        guest.assert_alive();
    }
}

/// Traffic goes on while the thread in the namespace does nothing, though sockets of it are needed;
/// those who need them are served once it does.
#[test]
fn nothing_waits_for_the_namespaces_thread() {
    let Some((mut guest, net)) = start("-t 5001 -u 6001 -T auto -U none") else { return };
    let _servers =
        (guest.serve("[::]:5001"), net.peer.serve(&at(FAR4, 5003)), udp_server(&guest, "[::]:6001"));
    exchange(&net.peer, &at(HOST4, 5001));
    let mut frozen = net.host.start_peer(&format!("freeze {} namespace", guest.pasta.pid()));
    frozen.wait_for("FROZEN");
    // The first clients find no more sockets than were made before, and new ports of the host need
    // some.
    let mut services = net.host.start_peer("listen 20000 20199 THERE");
    services.wait_for("THERE");
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(net.host.start_peer("who 127.0.0.1:5001"));
        clients.push(net.host.start_peer("udp-ask 127.0.0.1:6001 who"));
    }
    for _ in 0..10 {
        exchange(&guest, &at(FAR4, 5003));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(clients.iter_mut().any(|client| client.try_wait().is_none()), "some wait");
    frozen.close_stdin();
    for client in clients {
        assert!(!client.succeed().trim().is_empty());
    }
    guest.assert_alive();
}

/// A service that spoke before it was seen has its port on the host for what it sends. Others reach
/// it there nevertheless, and it still hears whom it spoke to.
#[test]
fn a_service_that_spoke_first() {
    let Some((guest, net)) = start("-t none -T none -U none") else { return };
    let _far = [udp_server(&net.peer, &at(FAR4, 6002))];
    for port in [6001, 6003] {
        let early = guest.start_peer(&format!("udp-scatter {FAR4} 1 6002 {port}"));
        noticed("the port of what it sent", || bound(&net.host, "udp", port)[0]);
        drop(early);
        let _service = udp_server(&guest, &format!("0.0.0.0:{port}"));
        let answered = || net.peer.peer(&format!("udp-ask {} who", at(HOST4, port)));
        // One that nobody answers is waited for longer than a service takes to be noticed.
        let seen = || answered().trim().starts_with(GATEWAY4).then_some(());
        eventually_within(NOTICED * 5, "an answer", seen);
    }
}

/// What one guest sends from is no service to the next one: its ports stay free there.
#[test]
fn another_guest_that_only_sends() {
    let Some((one, net)) = start("") else { return };
    let other = net.pasta(User::Normal).with("--config-net").start();
    for (port, far) in [(6001, FAR4), (6002, FAR6)] {
        let _sends = one.start_peer(&format!("udp-scatter {far} 1 9 {port}"));
        noticed("the port of what it sent", || bound(&net.host, "udp", port) != [false; 2]);
    }
    let _service = udp_server(&net.host, "0.0.0.0:6003");
    // When that is seen, all that was there before has been.
    noticed("a service", || bound(&other, "udp", 6003)[0]);
    for port in [6001, 6002] {
        assert_eq!(bound(&other, "udp", port), [false; 2], "{}", listening(&other));
    }
}
