//! Bulk TCP never collapses: retransmissions stay rare in every combination
//! that is known to be hard.

use std::path::Path;

use passt_tests::transfer::at;
use passt_tests::{FAR4, GATEWAY4, Guest, Net, Place, User, program_path, skip};

/// Counters of the guest's kernel: segments it sent, those it sent again and those
/// of them that were probes only; segments it received, and those of them that
/// came out of order, behind a loss, or twice.
///
/// A probe (RFC 8985) goes out when nothing was acknowledged for 8 ms, which a busy
/// machine's scheduler alone can do. A real loss shows in more than a probe.
#[derive(Clone, Copy)]
struct Segments {
    sent: u64,
    sent_again: u64,
    probes: u64,
    received: u64,
    received_oddly: u64,
}

impl Segments {
    fn of(guest: &Guest) -> Self {
        let table = guest.run("nstat -asz");
        let value = |name: &str| -> u64 {
            let line = table.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
            line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {table}"))
        };
        Self {
            sent: value("TcpOutSegs "),
            sent_again: value("TcpRetransSegs "),
            probes: value("TcpExtTCPLossProbes "),
            received: value("TcpInSegs "),
            received_oddly: value("TcpExtTCPOFOQueue ") + value("TcpExtTCPDSACKOldSent "),
        }
    }

    fn assert_few_again_since(&self, before: Self, case: &str) {
        let (sent, again) = (self.sent - before.sent, self.sent_again - before.sent_again);
        let probes = self.probes - before.probes;
        println!("{case}: sent {sent}, again {again}, of these probes {probes}");
        assert!(
            again.saturating_sub(probes) * 1000 <= sent && probes * 100 <= sent,
            "{case}: the guest sent {sent} segments, {again} again, of these {probes} as probes"
        );
        let (received, oddly) =
            (self.received - before.received, self.received_oddly - before.received_oddly);
        assert!(oddly * 1000 <= received, "{case}: the guest received {received} segments, {oddly} oddly");
    }
}

/// Mbit/s over a few seconds, `up` from the guest or `down` to it.
fn pump(guest: &Guest, direction: &str, to: &str) -> u64 {
    guest.peer(&format!("pump {direction} {to} 2")).trim().parse().expect("a number")
}

/// Moves data both ways to the far and the local server; at most one in 1000
/// segments on the link may be sent twice.
fn no_collapse(mtu: u32, congestion_control: &str) {
    let Some(net) = Net::new() else { return };
    let setting = format!("net.ipv4.tcp_congestion_control={congestion_control}");
    if !net.host.run("sysctl -n net.ipv4.tcp_available_congestion_control").contains(congestion_control) {
        return skip(&format!("this kernel has no {congestion_control}"));
    }
    let guest = net.pasta(User::Normal).with(&format!("--config-net --mtu {mtu}")).start();
    net.host.sysctl(&setting);
    net.peer.sysctl(&setting);
    guest.sysctl(&setting);
    let _servers = [net.peer.serve(&at(FAR4, 5001)), net.host.serve("127.0.0.1:5001")];
    for server in [FAR4, GATEWAY4] {
        for direction in ["up", "down"] {
            let before = Segments::of(&guest);
            let rate = pump(&guest, direction, &at(server, 5001));
            let case = format!("{direction} {server} mtu {mtu} {congestion_control}: {rate} Mbit/s");
            assert!(rate > 1000, "{case}");
            Segments::of(&guest).assert_few_again_since(before, &case);
        }
    }
}

#[test]
fn mtu_65520_cubic() {
    no_collapse(65_520, "cubic");
}

#[test]
fn mtu_65520_bbr() {
    no_collapse(65_520, "bbr");
}

#[test]
fn mtu_1500_cubic() {
    no_collapse(1500, "cubic");
}

#[test]
fn mtu_1500_bbr() {
    no_collapse(1500, "bbr");
}

/// Out at MTU 1500, against the C program as the distribution has it.
#[test]
fn ten_times_the_c_program() {
    let theirs = Path::new("/usr/bin/pasta");
    if !theirs.exists() || program_path("pasta") == theirs {
        return skip("no /usr/bin/pasta to compare with");
    }
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let rate = |program: Option<&Path>| {
        let launch = net.pasta(User::Normal).with("--config-net --mtu 1500 -t none -u none -T none -U none");
        let guest = program.map_or(launch.clone(), |path| launch.program(path)).start();
        guest.sysctl("net.ipv4.tcp_congestion_control=cubic");
        pump(&guest, "up", &at(FAR4, 5001))
    };
    let (ours, theirs) = (rate(None), rate(Some(theirs)));
    println!("{ours} Mbit/s, the C program {theirs}");
    assert!(ours >= 10 * theirs, "{ours} Mbit/s, the C program {theirs}");
}
