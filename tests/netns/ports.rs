//! Connections into the namespace: `-t` and `-u` in their plain forms.

use std::net::SocketAddr;

use passt_tests::transfer::{at, exchange};
use passt_tests::{
    FAR4, GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Launch, Net, Place, User, find_program, skip,
};

const OTHER4: &str = "192.0.2.3";
/// Addresses inside that pasta knows nothing of.
const TARGET4: &str = "10.9.9.9";
const TARGET6: &str = "fd00:9::9";

fn start(options: &str) -> Option<(Guest, Net)> {
    let net = Net::new()?;
    net.host.ip(&format!("addr add {OTHER4}/24 dev eth0"));
    let guest = net.pasta(User::Normal).with("--config-net -T none -U none").with(options).start();
    Some((guest, net))
}

fn udp_server(guest: &(impl Place + ?Sized), address: &str) -> passt_tests::Process {
    guest.listening(&format!("udp-serve {address}"))
}

#[test]
fn tcp_port() {
    let Some((guest, net)) = start("-t 5001 -u none") else { return };
    let _server = guest.serve("[::]:5001");
    for address in [HOST4, OTHER4, HOST6] {
        exchange(&net.peer, &at(address, 5001));
    }
}

#[test]
fn the_server_sees_who_connects() {
    let Some((guest, net)) = start("-t 5001 -u 6001") else { return };
    let _servers = [guest.serve("[::]:5001"), udp_server(&guest, "[::]:6001")];
    for (address, client) in [(HOST4, GATEWAY4), (HOST6, GATEWAY6)] {
        assert_eq!(net.peer.peer(&format!("who {}", at(address, 5001))).trim(), client);
        let seen = net.peer.peer(&format!("udp-ask {} who", at(address, 6001)));
        assert!(seen.contains(client), "{seen}");
    }
}

#[test]
fn tcp_port_to_another() {
    let Some((guest, net)) = start("-t 5001:7001 -u none") else { return };
    let _server = guest.serve("[::]:7001");
    for address in [HOST4, HOST6] {
        exchange(&net.peer, &at(address, 5001));
    }
}

#[test]
fn tcp_address_and_port() {
    let Some((guest, net)) = start(&format!("-t {HOST4}/5001,5002:7002 -u none")) else { return };
    let _servers = [guest.serve("[::]:5001"), guest.serve("[::]:7002")];
    exchange(&net.peer, &at(HOST4, 5001));
    exchange(&net.peer, &at(HOST4, 5002));
    for address in [OTHER4, HOST6] {
        let outcome = net.peer.peer(&format!("connect {}", at(address, 5001)));
        assert!(outcome.starts_with("ConnectionRefused"), "{address}: {outcome}");
    }
}

/// Nobody listens inside: the client outside is refused or reset, not left waiting.
#[test]
fn a_closed_port_inside_is_seen_outside() {
    let Some((guest, net)) = start("-t 5001 -u none") else { return };
    for address in [HOST4, HOST6] {
        let finished = net.peer.start_peer(&format!("who {}", at(address, 5001))).finish();
        let reason = finished.stderr.to_lowercase();
        let told = reason.contains("reset") || reason.contains("refused");
        assert!(told && finished.stdout.trim().is_empty(), "{address}: {finished:?}");
    }
    // That the port is forwarded at all.
    let _server = guest.serve("[::]:5001");
    exchange(&net.peer, &at(HOST4, 5001));
}

#[test]
fn a_port_not_given_is_closed() {
    let Some((guest, net)) = start("-t 5001 -u none") else { return };
    let _server = guest.serve("[::]:5002");
    let outcome = net.peer.peer(&format!("connect {}", at(HOST4, 5002)));
    assert!(outcome.starts_with("ConnectionRefused"), "{outcome}");
}

#[test]
fn udp_port_to_the_same_and_another() {
    let Some((guest, net)) = start(&format!("-t none -u 6001 -u 6002:7002 -u {OTHER4}/6003")) else { return };
    let _servers = ["[::]:6001", "[::]:7002", "[::]:6003"].map(|address| udp_server(&guest, address));
    for to in [at(HOST4, 6001), at(HOST6, 6001), at(HOST4, 6002), at(HOST6, 6002), at(OTHER4, 6003)] {
        assert_eq!(net.peer.peer(&format!("udp-ask {to} hello")).trim(), "hello", "{to}");
    }
    assert_eq!(net.peer.peer(&format!("udp-ask {} hello", at(HOST4, 6003))).trim(), "ConnectionRefused");
}

/// The address that a server sees a client at `place` have, by TCP and by UDP.
fn seen_as(place: &(impl Place + ?Sized), to: &str, client: &str) {
    assert_eq!(place.peer(&format!("who {to}")).trim(), client, "{to}");
    let seen = place.peer(&format!("udp-ask {to} who"));
    let seen: SocketAddr = seen.trim().parse().unwrap_or_else(|_| panic!("{to}: {seen}"));
    assert_eq!(seen.ip().to_canonical().to_string(), client, "{to}");
}

/// That nobody is at a port, by TCP and by UDP.
fn is_closed(place: &(impl Place + ?Sized), to: &str, spec: &str) {
    let outcome = place.peer(&format!("connect {to}"));
    assert!(outcome.starts_with("ConnectionRefused"), "{spec}: {to}: {outcome}");
    let outcome = place.peer(&format!("udp-ask {to} who"));
    assert_eq!(outcome.trim(), "ConnectionRefused", "{spec}: {to}");
}

/// Every form of a specifier, for both protocols: what it is, the server inside, which addresses
/// and ports outside reach it, and which are closed.
#[test]
fn forms() {
    let interface = [at(HOST4, 5001), at(OTHER4, 5001), at(HOST6, 5001)];
    let [host, other, v6] = interface.clone();
    let closed = |port| vec![at(HOST4, port), at(HOST6, port)];
    let cases = [
        ("5000-5001", 5001, interface.to_vec(), closed(5002)),
        ("5001,5003:5001", 5001, [interface.to_vec(), vec![at(HOST4, 5003)]].concat(), closed(5002)),
        ("5000-5002:7000-7002,~5002", 7001, interface.to_vec(), [closed(5002), closed(7001)].concat()),
        (&format!("{HOST4}/5001"), 5001, vec![host.clone()], vec![other.clone(), v6.clone()]),
        (&format!("[{HOST6}]/5001"), 5001, vec![v6.clone()], vec![host.clone(), other.clone()]),
        ("*/5001", 5001, interface.to_vec(), closed(5002)),
        ("%eth0/5001", 5001, interface.to_vec(), closed(5002)),
        (&format!("{OTHER4}%eth0/5001:7001"), 7001, vec![other], vec![host, v6]),
        ("all", 5001, interface.to_vec(), closed(5999)),
        ("~5002", 5001, interface.to_vec(), closed(5002)),
        ("all,~1-1100", 5001, interface.to_vec(), closed(1001)),
    ];
    for (spec, server, reached, closed) in cases {
        let Some(net) = Net::new() else { return };
        net.host.ip(&format!("addr add {OTHER4}/24 dev eth0"));
        // What is ephemeral is the kernel's business, and all others would be very many.
        net.host.sysctl("net.ipv4.ip_local_port_range=5998 65535");
        let ports = format!("--config-net -T none -U none -t {spec} -u {spec}");
        let guest = net.pasta(User::Normal).with(&ports).start();
        let server = format!("[::]:{server}");
        let _servers = [guest.serve(&server), udp_server(&guest, &server)];
        let port = reached[0].rsplit(':').next().expect("a port").parse().expect("a port");
        for to in &reached {
            seen_as(&net.peer, to, if to.starts_with('[') { GATEWAY6 } else { GATEWAY4 });
        }
        // The bypass, in which a client on the host appears as the host.
        if reached.len() >= interface.len() && !spec.contains('%') {
            seen_as(&net.host, &at("127.0.0.1", port), HOST4);
            seen_as(&net.host, &at("::1", port), HOST6);
        }
        for to in closed {
            is_closed(&net.peer, &to, spec);
        }
    }
}

/// What a specifier is for, in both protocols: the server, at the only address where it is; who
/// reaches it, and is seen there as whom; and who doesn't.
struct Form<'a> {
    spec: &'a str,
    server: &'a str,
    reached: &'a [(At, &'a str, &'a str)],
    closed: &'a [(At, &'a str)],
}

/// Where a client is.
#[derive(Clone, Copy)]
enum At {
    Peer,
    Host,
    Guest,
}

/// Into the namespace, or out of it.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

/// Tries forms that are given together. Servers of `-t` and `-u` are in the namespace, others on
/// the host, or behind it at [`FAR4`].
fn try_forms(way: Way, options: &str, forms: &[Form<'_>]) -> Option<()> {
    let net = Net::new()?;
    net.host.ip(&format!("addr add {OTHER4}/24 dev eth0"));
    net.host.sysctl("net.ipv4.ip_local_port_range=5998 65535");
    let inside = net.empty_guest();
    inside.sysctl("net.ipv4.ip_local_port_range=5998 65535");
    inside.ip(&format!("addr add {TARGET4}/32 dev lo"));
    inside.ip(&format!("addr add {TARGET6}/128 dev lo nodad"));
    let (ports, none) = match way {
        Way::In => (["-t", "-u"], ["-T", "-U"]),
        Way::Out => (["-T", "-U"], ["-t", "-u"]),
    };
    let mut launch = net.pasta(User::Root).with("--config-net").with(options);
    for form in forms {
        launch = launch.with(&ports.map(|option| format!("{option} {}", form.spec)).join(" "));
    }
    launch = launch.with(&none.map(|option| format!("{option} none")).join(" "));
    let servers = |form: &Form<'_>| {
        let place: &dyn Place = match way {
            Way::In => &inside,
            Way::Out if form.server.contains(FAR4) => &net.peer,
            Way::Out => &net.host,
        };
        (place.serve(form.server), udp_server(place, form.server))
    };
    let _servers: Vec<_> = forms.iter().map(servers).collect();
    let _pasta = Background::start(&net, &launch, inside.name());
    for Form { spec, reached, closed, .. } in forms {
        let place = |at: At| -> &dyn Place {
            match at {
                At::Peer => &net.peer,
                At::Host => &net.host,
                At::Guest => &inside,
            }
        };
        for (at, to, client) in *reached {
            seen_as(place(*at), to, client);
        }
        for (at, to) in *closed {
            is_closed(place(*at), to, spec);
        }
    }
    Some(())
}

/// pasta in the background, for an existing namespace. It has ended when this has.
struct Background<'n> {
    net: &'n Net,
    pid: String,
}

impl<'n> Background<'n> {
    fn start(net: &'n Net, launch: &Launch<'n>, name: &str) -> Self {
        let file = net.dir().join("pid");
        let options = format!("--pid {}", file.display());
        let finished = launch.clone().with(&options).run(&format!("--netns /run/netns/{name}"));
        assert!(finished.status.success(), "{}", finished.stderr);
        let pid = std::fs::read_to_string(file).expect("PID file").trim().to_owned();
        Self { net, pid }
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        drop(self.net.host.start(&format!("kill {}", self.pid)).finish());
    }
}

/// Targets' addresses, and addresses to listen at, in all forms.
#[test]
fn forms_with_addresses() {
    use At::{Host, Peer};
    let (net4, net6) = (GATEWAY4, GATEWAY6);
    let done = try_forms(
        Way::In,
        "",
        &[
            Form {
                spec: "0.0.0.0/5001:10.9.9.9",
                server: "10.9.9.9:5001",
                reached: &[(Peer, "192.0.2.2:5001", net4), (Host, "127.0.0.1:5001", net4)],
                closed: &[(Peer, "[2001:db8::2]:5001")],
            },
            Form {
                spec: "0.0.0.0/5011-5013:10.9.9.9/7011-7013",
                server: "10.9.9.9:7012",
                reached: &[(Peer, "192.0.2.2:5012", net4), (Peer, "192.0.2.3:5012", net4)],
                closed: &[(Peer, "192.0.2.2:7012")],
            },
            Form {
                spec: "0.0.0.0/5021-5023:[10.9.9.9]",
                server: "10.9.9.9:5022",
                reached: &[(Peer, "192.0.2.2:5022", net4)],
                closed: &[],
            },
            Form {
                spec: "192.0.2.3/5031:[10.9.9.9]/7031",
                server: "10.9.9.9:7031",
                reached: &[(Peer, "192.0.2.3:5031", net4)],
                closed: &[(Peer, "192.0.2.2:5031"), (Host, "127.0.0.1:5031")],
            },
            Form {
                spec: "[::]/5041:[fd00:9::9]/7041",
                server: "[fd00:9::9]:7041",
                reached: &[(Peer, "[2001:db8::2]:5041", net6), (Host, "[::1]:5041", net6)],
                closed: &[(Peer, "192.0.2.2:5041")],
            },
            Form {
                spec: "2001:db8::2/5051:fd00:9::9/7051",
                server: "[fd00:9::9]:7051",
                reached: &[(Peer, "[2001:db8::2]:5051", net6)],
                closed: &[(Host, "[::1]:5051"), (Peer, "192.0.2.2:5051")],
            },
            Form {
                spec: "[2001:db8::2]/5061-5062:[fd00:9::9]/7061-7062",
                server: "[fd00:9::9]:7062",
                reached: &[(Peer, "[2001:db8::2]:5062", net6)],
                closed: &[],
            },
            Form {
                spec: "[::]/5071:fd00:9::9",
                server: "[fd00:9::9]:5071",
                reached: &[(Peer, "[2001:db8::2]:5071", net6)],
                closed: &[],
            },
        ],
    );
    if done.is_none() {
        return;
    }
    // Not beside targets: the address that the namespace used last is where other connections go.
    try_forms(
        Way::In,
        "",
        &[
            Form {
                spec: "127.0.0.1/5081",
                server: "[::]:5081",
                reached: &[(Host, "127.0.0.1:5081", HOST4)],
                closed: &[(Peer, "192.0.2.2:5081"), (Host, "[::1]:5081")],
            },
            Form {
                spec: "[192.0.2.2]/5091",
                server: "[::]:5091",
                reached: &[(Peer, "192.0.2.2:5091", net4)],
                closed: &[(Peer, "192.0.2.3:5091"), (Peer, "[2001:db8::2]:5091")],
            },
            Form {
                spec: "*%eth0/5101",
                server: "[::]:5101",
                reached: &[(Peer, "192.0.2.2:5101", net4), (Peer, "[2001:db8::2]:5101", net6)],
                closed: &[(Host, "127.0.0.1:5101"), (Host, "[::1]:5101")],
            },
        ],
    );
    let all = |spec, server, to, client, closed| {
        let reached = &[(Peer, to, client)];
        try_forms(Way::In, "", &[Form { spec, server, reached, closed: &[(Peer, closed)] }]);
    };
    all("0.0.0.0/all:10.9.9.9", "10.9.9.9:5001", "192.0.2.2:5001", net4, "[2001:db8::2]:5001");
    all("[::]/all:fd00:9::9", "[fd00:9::9]:5001", "[2001:db8::2]:5001", net6, "192.0.2.2:5001");
    all("192.0.2.2/auto", "[::]:5001", "192.0.2.2:5001", net4, "192.0.2.3:5001");
    all("%eth0/auto", "0.0.0.0:5001", "192.0.2.2:5001", net4, "[2001:db8::2]:5001");
}

/// With one family on, targets need no address to listen at.
#[test]
fn targets_with_one_family() {
    let cases = [
        ("-4", "5001:10.9.9.9/7001", "10.9.9.9:7001", HOST4, GATEWAY4, HOST6),
        ("-4", "5001:10.9.9.9", "10.9.9.9:5001", HOST4, GATEWAY4, HOST6),
        ("-4", "*/5000-5001:10.9.9.9/7000-7001", "10.9.9.9:7001", HOST4, GATEWAY4, HOST6),
        ("-4", "all:10.9.9.9", "10.9.9.9:5001", HOST4, GATEWAY4, HOST6),
        ("-6", "5001:[fd00:9::9]/7001", "[fd00:9::9]:7001", HOST6, GATEWAY6, HOST4),
        ("-6", "%eth0/5001:[fd00:9::9]", "[fd00:9::9]:5001", HOST6, GATEWAY6, HOST4),
    ];
    for (family, spec, server, host, client, other) in cases {
        let (to, closed) = (at(host, 5001), at(other, 5001));
        let reached = &[(At::Peer, to.as_str(), client)];
        if try_forms(Way::In, family, &[Form { spec, server, reached, closed: &[(At::Peer, &closed)] }])
            .is_none()
        {
            return;
        }
    }
}

/// From the namespace: targets anywhere, all ports, and all but some.
#[test]
fn forms_from_the_namespace() {
    let both = [(At::Guest, "127.0.0.1:5001", "127.0.0.1"), (At::Guest, "[::1]:5001", "::1")];
    let v4 = [(At::Guest, "127.0.0.1:5001", "127.0.0.1")];
    let to_host = [(At::Guest, "127.0.0.1:5001", HOST4)];
    let to_host6 = [(At::Guest, "[::1]:5001", HOST6)];
    let none4 = [(At::Guest, "[::1]:5001")];
    let none6 = [(At::Guest, "127.0.0.1:5001")];
    let cases: [(_, _, _, &[_], &[_]); 9] = [
        ("", "all", "[::]:5001", &both, &[(At::Guest, "127.0.0.1:5999")]),
        ("", "~5002", "[::]:5001", &both, &[(At::Guest, "127.0.0.1:5002"), (At::Guest, "[::1]:5002")]),
        ("", "all,~1-4000,~5002", "[::]:5001", &both, &[(At::Guest, "127.0.0.1:3999")]),
        ("-4", "5001:127.0.0.9/7001", "127.0.0.9:7001", &v4, &none4),
        ("-4", "5001:192.0.2.2", "192.0.2.2:5001", &to_host, &none4),
        ("-4", "5000-5001:198.51.100.1/7000-7001", "198.51.100.1:7001", &to_host, &none4),
        ("-4", "all:127.0.0.9", "127.0.0.9:5001", &v4, &none4),
        ("-6", "5001:[2001:db8::2]/7001", "[2001:db8::2]:7001", &to_host6, &none6),
        ("-6", "5001-5002:[2001:db8::2]", "[2001:db8::2]:5001", &to_host6, &none6),
    ];
    for (options, spec, server, reached, closed) in cases {
        if try_forms(Way::Out, options, &[Form { spec, server, reached, closed }]).is_none() {
            return;
        }
    }
}

/// A target's address is one of the namespace's that pasta knows nothing of.
#[test]
fn another_address_inside() {
    let options = "-t 0.0.0.0/5001:10.9.9.9/7001 -u 0.0.0.0/6001:10.9.9.9/7001 -t 5002:7002 -u 6002:7002";
    let Some((guest, net)) = start(options) else { return };
    guest.run("ip addr add 10.9.9.9/32 dev lo");
    let _servers = ["10.9.9.9:7001", &at(HOST4, 7002)].map(|to| (guest.serve(to), udp_server(&guest, to)));
    exchange(&net.peer, &at(HOST4, 5001));
    assert_eq!(net.peer.peer(&format!("udp-ask {} hello", at(HOST4, 6001))).trim(), "hello");
    // The host's loopback has a name inside, by which it is seen: there is no bypass to such a
    // target.
    for (place, to) in [(&net.peer, HOST4), (&net.host, "127.0.0.1")] {
        assert_eq!(place.peer(&format!("who {}", at(to, 5001))).trim(), GATEWAY4, "{to}");
        let seen = place.peer(&format!("udp-ask {} who", at(to, 6001)));
        assert_eq!(seen.trim().parse::<SocketAddr>().expect("an address").ip().to_string(), GATEWAY4);
    }
    let outcome = net.peer.peer(&format!("connect {}", at(HOST6, 5001)));
    assert!(outcome.starts_with("ConnectionRefused"), "{outcome}");
    // That it answers from there does not mean that all else is there.
    exchange(&net.peer, &at(HOST4, 5002));
    assert_eq!(net.peer.peer(&format!("udp-ask {} hello", at(HOST4, 6002))).trim(), "hello");
}

/// From the namespace's loopback, to the same port of the host's and to others.
#[test]
fn from_the_namespace() {
    let spec = "5001,5002-5004:7002-7004,~5003";
    let Some(net) = Net::new() else { return };
    let options = format!("--config-net -t none -u none -T {spec} -U {spec}");
    let guest = net.pasta(User::Normal).with(&options).start();
    let _servers = [5001, 7002, 7003, 7004].map(|port| {
        let address = format!("[::]:{port}");
        (net.host.serve(&address), udp_server(&net.host, &address))
    });
    for loopback in ["127.0.0.1", "::1"] {
        for port in [5001, 5002, 5004] {
            seen_as(&guest, &at(loopback, port), loopback);
        }
        for port in [5003, 7002] {
            let outcome = guest.peer(&format!("connect {}", at(loopback, port)));
            assert!(outcome.starts_with("ConnectionRefused"), "{port}: {outcome}");
        }
    }
    // Not from the tap device's side.
    let outcome = guest.peer(&format!("connect {}", at(HOST4, 5001)));
    assert!(outcome.starts_with("ConnectionRefused"), "{outcome}");
}

/// What can't be had is an error with its reason, on either side.
#[test]
fn ports_that_cannot_be_had() {
    let Some(net) = Net::new() else { return };
    net.host.sysctl("net.ipv4.ip_local_port_range=32768 60999");
    let inside = net.empty_guest();
    inside.ip("link set lo up");
    let _servers = [net.host.serve("127.0.0.1:5001"), inside.serve("127.0.0.1:5002")];
    let other = at("192.0.2.99", 5003).replace(':', "/");
    let cases = [
        ("-t 5001", "HOST TCP port 5001: Address already in use"),
        ("-t 4999-5003:6999-7003", "HOST TCP port 5001: Address already in use"),
        ("-T 5002 -t 5009", "NS TCP port 5002: Address already in use"),
        (&format!("-u {other}"), "HOST UDP port 192.0.2.99/5003: "),
        ("-t %none0/5003", "HOST TCP port *%none0/5003: "),
        ("-t 127.0.0.1/5001 -t 127.0.0.2/5001 -t 0.0.0.0/5001", "Forwarding configuration conflict"),
    ];
    for (spec, message) in cases {
        let defaults = ["-t", "-u", "-T", "-U"]
            .map(|option| if spec.contains(option) { String::new() } else { format!(" {option} none") });
        let launch = net.pasta(User::Root).with(spec).with(&defaults.concat());
        let finished = launch.run(&format!("--netns {}", inside.name()));
        assert_eq!(finished.status.code(), Some(1), "{spec}: {finished:?}");
        assert!(finished.stderr.contains(message), "{spec}: {}", finished.stderr);
        let conflict = message.contains("conflict");
        let last = if conflict { message } else { "Couldn't listen on requested ports" };
        let told = finished.stderr.lines().last().unwrap_or_default();
        assert!(told.starts_with(last), "{spec}: {}", finished.stderr);
    }
    // Addresses may come later, low ports are root's, and of all ports some are enough.
    for (user, spec) in [
        (User::Normal, format!("--freebind -t {other} -u {other}")),
        (User::Root, "-t 80 -u 53".to_owned()),
        (User::Normal, "-t 127.0.0.1/5001,auto -u ~1-32000".to_owned()),
    ] {
        let finished = net.pasta(user).with("-T none -U none").with(&spec).run("true");
        assert!(finished.status.success(), "{spec}: {}", finished.stderr);
    }
    let finished = net.pasta(User::Normal).with("-t 80").run("true");
    assert!(finished.stderr.contains("HOST TCP port 80: Permission denied"), "{}", finished.stderr);
}

/// Addresses that the host gets later are listened at from the start.
#[test]
fn addresses_that_come_later() {
    let Some(net) = Net::new() else { return };
    let later =
        [("192.0.2.99", "192.0.2.99/24", GATEWAY4), ("2001:db8::99", "2001:db8::99/64 nodad", GATEWAY6)];
    let ports = later.map(|(address, ..)| format!("-t [{address}]/5001 -u [{address}]/5001"));
    let options = format!("--config-net --freebind -T none -U none {}", ports.join(" "));
    let guest = net.pasta(User::Normal).with(&options).start();
    let _servers = (guest.serve("[::]:5001"), udp_server(&guest, "[::]:5001"));
    for (address, with_prefix, client) in later {
        let to = at(address, 5001);
        assert!(!net.host.peer(&format!("connect {to}")).starts_with("connected"));
        net.host.ip(&format!("addr add {with_prefix} dev eth0"));
        exchange(&net.peer, &to);
        seen_as(&net.peer, &to, client);
    }
}

/// A thousand clients of one port each get what is theirs, through the tap device.
#[test]
fn a_thousand_clients() {
    let Some((guest, net)) = start("-t none -u 6001") else { return };
    let _server = udp_server(&guest, "[::]:6001");
    for address in [HOST4, HOST6] {
        let before = guest.frames("eth0");
        net.peer.peer(&format!("udp-many {} 1000", at(address, 6001)));
        let passed = guest.frames("eth0") - before;
        assert!(passed >= 4000, "{passed} frames");
    }
}

/// Ports that only root may have, listened at before pasta becomes somebody else.
#[test]
fn low_ports() {
    let Some(net) = Net::new() else { return };
    let options = "--config-net -T none -U none -t 80,443:7443 -u 53 -u 500:7500";
    let guest = net.pasta(User::Root).with(options).start();
    let _tcp = ["[::]:80", "[::]:7443"].map(|address| guest.serve(address));
    let _udp = ["[::]:53", "[::]:7500"].map(|address| udp_server(&guest, address));
    for (address, client) in [(HOST4, GATEWAY4), (HOST6, GATEWAY6)] {
        for port in [80, 443] {
            assert_eq!(net.peer.peer(&format!("who {}", at(address, port))).trim(), client);
        }
        for port in [53, 500] {
            assert!(net.peer.peer(&format!("udp-ask {} who", at(address, port))).contains(client));
        }
    }
}

/// How Podman has ports forwarded: an option for each, lists beside them, in the background.
#[test]
fn as_podman_has_it() {
    let Some(net) = Net::new() else { return };
    let _resolver = {
        net.peer.ip("addr add 192.0.2.53/24 dev eth0");
        udp_server(&net.peer, "192.0.2.53:53")
    };
    let inside = net.empty_guest();
    let options = format!(
        "--config-net -t 8080-8080:80-80 -t 8081-8083:7081-7083 -t {HOST4}/8090-8090:90-90 -t 8100,8101:7101,8102 \
         -u 8080-8080:80-80 -u {HOST4}/8090-8090:90-90 -u 8100,8101:7101,8102 \
         --dns-forward 169.254.1.1 -T none -U none --no-map-gw --map-guest-addr 169.254.1.2 --quiet"
    );
    let _pasta = Background::start(&net, &net.pasta(User::Root).with(&options), inside.name());
    let ports =
        [(8080, 80), (8081, 7081), (8083, 7083), (8090, 90), (8100, 8100), (8101, 7101), (8102, 8102)];
    for (port, to) in ports {
        let server = format!("[::]:{to}");
        let _servers = (inside.serve(&server), udp_server(&inside, &server));
        exchange(&net.peer, &at(HOST4, port));
        assert_eq!(net.peer.peer(&format!("who {}", at(HOST4, port))).trim(), GATEWAY4);
        if !(8081..=8083).contains(&port) {
            let seen = net.peer.peer(&format!("udp-ask {} who", at(HOST4, port)));
            assert!(seen.contains(GATEWAY4), "{port}: {seen}");
        }
    }
    is_closed(&net.peer, &at(HOST4, 8084), "none");
    // The gateway is the gateway, the host has a name of its own, and the resolver one, too.
    let _servers = (net.host.serve(&at(HOST4, 9001)), net.peer.serve(&at(GATEWAY4, 9002)));
    exchange(&inside, "169.254.1.2:9001");
    exchange(&inside, &at(GATEWAY4, 9002));
    assert_eq!(inside.peer("udp-ask 169.254.1.1:53 hello").trim(), "hello");
}

/// Where there are fewer descriptors than ports, some are forwarded, the user is told, and
/// connections have what they need.
#[test]
fn more_ports_than_descriptors() {
    let Some(net) = Net::new() else { return };
    let Some(prlimit) = find_program("prlimit") else { return skip("not installed: prlimit") };
    net.host.sysctl("net.ipv4.ip_unprivileged_port_start=1");
    let program = net.dir().join("pasta");
    let line = format!("--nofile=1024 {} --config-net -t all -u none -T none -U none", program.display());
    let guest = net.pasta(User::Normal).program(&prlimit).with(&line).start();
    let warnings = guest.pasta.stderr();
    assert!(
        warnings.contains("Listen failed for HOST TCP port") && warnings.contains("Too many open files"),
        "{warnings}"
    );
    let _server = guest.serve("[::]:100");
    exchange(&net.peer, &at(HOST4, 100));
    exchange(&net.host, "127.0.0.1:100");
    let outcome = net.peer.peer(&format!("connect {}", at(HOST4, 1000)));
    assert!(outcome.starts_with("ConnectionRefused"), "{outcome}");
}
