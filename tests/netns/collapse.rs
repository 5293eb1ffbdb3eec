//! Bulk TCP never collapses: retransmissions stay rare in every combination
//! that is known to be hard.

use std::path::Path;

use passt_tests::transfer::at;
use passt_tests::{FAR4, GATEWAY4, Guest, Net, Place, User, pasta_path, skip};

/// Segments sent and retransmitted by a namespace's kernel so far.
fn segments(place: &impl Place) -> (u64, u64) {
    let table = place.run("cat /proc/net/snmp");
    let mut rows = table.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let value = |wanted: &str| {
        let (_, value) =
            names.clone().zip(values.clone()).find(|(name, _)| *name == wanted).expect("a counter");
        value.parse::<u64>().expect("a number")
    };
    (value("OutSegs"), value("RetransSegs"))
}

/// Mbit/s over a few seconds, `up` from the guest or `down` to it.
fn pump(guest: &Guest, direction: &str, to: &str) -> u64 {
    guest.peer(&format!("pump {direction} {to} 2")).trim().parse().expect("a number")
}

/// Moves data both ways to the far and the local server; fewer than one in
/// 1000 segments of either end may be sent twice.
fn no_collapse(mtu: u32, congestion_control: &str) {
    let Some(net) = Net::new() else { return };
    let setting = format!("net.ipv4.tcp_congestion_control={congestion_control}");
    if !Path::new("/proc/sys/net/ipv4/tcp_available_congestion_control").exists()
        || !net.host.run("sysctl -n net.ipv4.tcp_available_congestion_control").contains(congestion_control)
    {
        return skip(&format!("this kernel has no {congestion_control}"));
    }
    let guest = net.pasta(User::Normal).with(&format!("--config-net --mtu {mtu}")).start();
    net.host.sysctl(&setting);
    net.peer.sysctl(&setting);
    guest.sysctl(&setting);
    let _servers = [net.peer.serve(&at(FAR4, 5001)), net.host.serve("127.0.0.1:5001")];
    for server in [FAR4, GATEWAY4] {
        for direction in ["up", "down"] {
            let before = [segments(&guest), segments(&net.host), segments(&net.peer)];
            let rate = pump(&guest, direction, &at(server, 5001));
            let after = [segments(&guest), segments(&net.host), segments(&net.peer)];
            let case = format!("{direction} {server} mtu {mtu} {congestion_control}: {rate} Mbit/s");
            println!("{case}");
            assert!(rate > 1000, "{case}");
            for (place, (before, after)) in ["guest", "host", "peer"].iter().zip(before.iter().zip(after)) {
                let (sent, again) = (after.0 - before.0, after.1 - before.1);
                assert!(again * 1000 <= sent, "{case}: {place} sent {sent} segments, {again} again");
            }
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
    if !theirs.exists() || pasta_path() == theirs {
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
