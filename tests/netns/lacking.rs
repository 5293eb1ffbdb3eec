//! What older kernels and sandboxes lack, taken away one by one, and by the version of a kernel: all
//! works nevertheless, and little is said of it.

use std::fs;

use passt_tests::lacking::features;
use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{
    FAR4, FAR6, Finished, HOST4, HOST6, Launch, Machine, Net, Place, Process, User, eventually,
};

/// Kernels that are simulated, the oldest that we know to work and those of distributions that last.
const KERNELS: [&str; 4] = ["4.18", "5.4", "5.10", "6.1"];

/// Each feature by itself; a system call with both of the errors that it may fail with.
#[test]
fn one_thing_is_missing() {
    let Some(hosts) = Hosts::new() else { return };
    for feature in features() {
        hosts.carries(&feature.name);
        if feature.is_unknown_call() {
            hosts.carries(&format!("EPERM,{}", feature.name));
        }
    }
}

/// All that came after a version.
#[test]
fn a_kernel_of_old() {
    let Some(hosts) = Hosts::new() else { return };
    for kernel in KERNELS {
        for what in [kernel.to_owned(), format!("EPERM,{kernel},statx")] {
            for user in User::BOTH {
                hosts.serves(&what, user);
            }
            hosts.serves_a_machine(&what);
        }
    }
}

/// What leaves the host can be bound to an interface only by who may: root can at the start, and not
/// as who it becomes. Then it goes by any, and that is said.
#[test]
fn binding_to_an_interface_takes_a_right() {
    let Some(hosts) = Hosts::new() else { return };
    for user in User::BOTH {
        let launch = hosts.net.pasta(user).with("--config-net --outbound-if4 eth0 --outbound-if6 eth0");
        let guest = hosts.lacking(launch, "bindtodevice").start();
        exchange(&guest, &at(FAR4, 5001));
        exchange(&guest, &at(FAR6, 5001));
        let said = guest.stop().stderr;
        assert_eq!(said.matches("can't be bound to interface eth0, and go by any").count(), 2, "{said}");
    }
}

/// Signals from a machine whose memory passt has are taken without waiting in another way.
#[test]
fn a_machine_by_vhost_user() {
    let Some(hosts) = Hosts::new() else { return };
    let passt = hosts.net.passt(User::Normal).with("--vhost-user --one-off");
    let passt = hosts.lacking(passt, "4.18").listen("socket");
    let socket = hosts.net.dir().join("socket");
    let moved = hosts.net.host.peer(&format!("driver {} in {} 1500 1", socket.display(), at(FAR4, 5001)));
    let bytes = moved.split_whitespace().next().and_then(|bytes| bytes.parse::<u64>().ok());
    assert!(bytes.is_some_and(|bytes| bytes > MIB), "{moved}");
    assert!(passt.finish().status.success());
}

/// The test's namespaces, and what listens there.
struct Hosts {
    net: Net,
    _servers: Vec<Process>,
}

impl Hosts {
    fn new() -> Option<Self> {
        let net = Net::new()?;
        let mut servers =
            [FAR4, FAR6].map(|far| net.peer.serve(&at(far, 5001))).into_iter().collect::<Vec<_>>();
        // The second is taken for a resolver.
        for server in [at(FAR4, 6001), at(FAR4, 53), at(FAR6, 6001)] {
            servers.push(udp_server(&net.peer, &server));
        }
        servers.push(net.host.serve("[::1]:5003"));
        servers.push(udp_server(&net.host, "127.0.0.1:6003"));
        Some(Self { net, _servers: servers })
    }

    /// A start without `what`. Sockets may be bound to interfaces by who has the right.
    fn lacking<'n>(&'n self, launch: Launch<'n>, what: &str) -> Launch<'n> {
        launch.under(&format!("{} lacking {what}", self.net.dir().join("peer").display()))
    }

    /// Requires that pasta carries data both ways, and that a program in its place does lack that.
    fn carries(&self, what: &str) {
        let peer = self.net.dir().join("peer");
        let lacks = self.net.pasta(User::Normal).program(&peer).with(&format!("lacks {what}"));
        let found = self.lacking(lacks, what).run("");
        assert!(found.status.success(), "{}", found.stderr);
        let launch = self.net.pasta(User::Normal).with("--config-net -t 5002");
        let guest = self.lacking(launch, what).start();
        let server = guest.serve("[::]:5002");
        for (far, near) in [(FAR4, HOST4), (FAR6, HOST6)] {
            exchange(&guest, &at(far, 5001));
            guest.peer(&format!("udp-many {} 50", at(far, 6001)));
            exchange(&self.net.peer, &at(near, 5002));
        }
        exchange(&self.net.host, "127.0.0.1:5002");
        drop(server);
        assert_quiet(what, &guest.stop());
    }

    /// Requires that passt serves a machine, both ways.
    fn serves_a_machine(&self, what: &str) {
        let passt = self.net.passt(User::Normal).with("--one-off -t 5002");
        let passt = self.lacking(passt, what).listen("socket");
        let machine = Machine::start(&self.net, &self.net.dir().join("socket"), 65_520);
        machine.configure();
        exchange(&machine, &at(FAR4, 5001));
        exchange(&machine, &at(FAR6, 5001));
        machine.peer(&format!("udp-many {} 100", at(FAR4, 6001)));
        let server = machine.serve("[::]:5002");
        exchange(&self.net.peer, &at(HOST4, 5002));
        assert_locked_in(passt.pid(), 2);
        drop((server, machine));
        let finished = passt.finish();
        assert!(finished.status.success(), "{what}: {finished:?}");
    }

    /// Requires that pasta has all that a user would notice.
    fn serves(&self, what: &str, user: User) {
        let net = &self.net;
        let options = format!(
            "--config-net -T 5003 -U 6003 -t 5002 -u 6002 --dns-forward 192.0.2.53 --dns-host {FAR4}"
        );
        let mut guest = self.lacking(net.pasta(user), what).with(&options).start();
        for far in [FAR4, FAR6] {
            upload(&guest, &at(far, 5001), 4 * MIB);
            download(&guest, &at(far, 5001), 4 * MIB);
            guest.peer(&format!("udp-many {} 100", at(far, 6001)));
            assert!(guest.peer(&format!("connect {}", at(far, 9))).starts_with("ConnectionRefused"));
        }
        assert_eq!(guest.peer("udp-ask 192.0.2.53:53 question").trim(), "question");
        {
            let _inside = [guest.serve("[::]:5002"), udp_server(&guest, "[::]:6002")];
            for host in [HOST4, HOST6] {
                exchange(&net.peer, &at(host, 5002));
                net.peer.peer(&format!("udp-many {} 100", at(host, 6002)));
            }
            for host in ["127.0.0.1", "::1"] {
                exchange(&net.host, &at(host, 5002));
                net.host.peer(&format!("udp-many {} 100", at(host, 6002)));
            }
        }
        exchange(&guest, "[::1]:5003");
        assert_eq!(guest.peer("udp-ask 127.0.0.1:6003 hello").trim(), "hello");
        // One more has `clone3` be missing, which came with 5.3, where another refuses it.
        assert_locked_in(guest.pasta.pid(), if what.starts_with("EPERM,4.18") { 3 } else { 2 });
        guest.assert_alive();
        assert_quiet(what, &guest.stop());
    }
}

fn udp_server(place: &dyn Place, address: &str) -> Process {
    place.listening(&format!("udp-serve {address}"))
}

/// Requires that a process can do no more than anywhere else. It has so many filters for system
/// calls: that which takes things away is one, too.
fn assert_locked_in(pid: u32, filters: usize) {
    let status = eventually("a sealed process", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.contains(&format!("Seccomp_filters:\t{filters}\n")).then_some(status)
    });
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert_eq!(field("NoNewPrivs:"), Some("1"), "{status}");
    assert_eq!(field("CapEff:"), field("CapPrm:"), "{status}");
    assert!([Some("0000000000000400"), Some("0000000000000000")].contains(&field("CapPrm:")), "{status}");
    assert_eq!(fs::read_dir(format!("/proc/{pid}/root")).expect("its root").count(), 0);
}

/// Requires a good end, and that nothing was said that a user need not know.
fn assert_quiet(what: &str, finished: &Finished) {
    let said = finished.stderr.lines().filter(|line| !line.starts_with("Started as root, "));
    let said: Vec<&str> = said.filter(|line| !line.is_empty()).collect();
    assert!(finished.status.success() && said.is_empty(), "{what}: {finished:?}");
}
