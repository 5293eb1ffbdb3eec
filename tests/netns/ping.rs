//! ICMP and ICMPv6 echo from the guest.

use passt_tests::{FAR4, FAR6, GATEWAY4, Net, Place as _, User, have};

#[test]
fn echo_is_answered_from_near_and_far() {
    let Some(net) = Net::new() else { return };
    if !have(&["ping"]) {
        return;
    }
    let guest = net.pasta(User::Normal).with("--config-net").start();
    for address in [GATEWAY4, FAR4, FAR6] {
        let out = guest.run(&format!("ping -c 3 -i 0.2 -W 2 {address}"));
        assert!(out.contains("3 received"), "{address}: {out}");
    }
}

/// Two programs that ping the same address at once, with identifiers of their
/// own choice: each gets its own replies, and only these.
#[test]
fn identifiers_are_kept() {
    let Some(net) = Net::new() else { return };
    if !have(&["ping"]) {
        return;
    }
    let guest = net.pasta(User::Normal).with("--config-net").start();
    for address in [FAR4, FAR6] {
        let first = guest.start(&format!("ping -c 5 -i 0.2 -W 2 -e 1111 {address}"));
        let second = guest.start(&format!("ping -c 5 -i 0.2 -W 2 -e 2222 {address}"));
        for out in [first.succeed(), second.succeed()] {
            assert!(out.contains("5 received") && !out.contains("DUP"), "{address}: {out}");
        }
    }
}

#[test]
fn large_and_small_echoes_come_back_whole() {
    let Some(net) = Net::new() else { return };
    if !have(&["ping"]) {
        return;
    }
    let guest = net.pasta(User::Normal).with("--config-net --mtu 65520").start();
    for size in [0, 1, 56, 1400, 8000, 60_000] {
        // The first that is too big for the path tells the guest so.
        let count = if size == 8000 { 2 } else { 1 };
        let out = guest.run(&format!("ping -c {count} -i 0.2 -W 2 -s {size} {FAR4}"));
        assert!(out.contains("1 received"), "{size}: {out}");
    }
}

#[test]
fn an_address_that_nobody_has_is_not_answered() {
    let Some(net) = Net::new() else { return };
    if !have(&["ping"]) {
        return;
    }
    let guest = net.pasta(User::Normal).with("--config-net").start();
    let finished = guest.start("ping -c 2 -i 0.2 -W 1 198.51.100.99").finish();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stdout);
}

/// Errors about the guest's own packets reach it. What the host's network says to the host alone
/// does not, and is counted: a redirect would seem to come from the guest's own gateway.
#[test]
fn redirects_and_source_quench_are_kept_from_the_guest() {
    let Some(net) = Net::new() else { return };
    if !have(&["ping"]) {
        return;
    }
    // The last of each is an error that passes. Redirects of IPv6 are none that Linux tells ping
    // sockets of.
    let cases =
        [("v4", FAR4, "5 4 12 3", 3, [5, 4], [12, 3]), ("v6", FAR6, "137 3 1", 1, [137, 137], [3, 1])];
    let mut guest = net.pasta(User::Normal).with("--foreground --config-net --stats 1").start();
    for (family, address, forged, last, kept, passed) in cases {
        let forger = net.peer.listening(&format!("icmp-forge {family} {forged}"));
        let watcher = guest.listening(&format!("icmp-watch {family} {last}"));
        // Errors may end it before its reply is there.
        guest.start(&format!("ping -c 1 -W 5 {address}")).finish();
        forger.succeed();
        let line = watcher.succeed();
        let line = line.lines().last().expect("what arrived");
        let arrived: Vec<u8> =
            line.trim_matches(['[', ']']).split(", ").map(|number| number.parse().expect("a type")).collect();
        assert!(passed.iter().all(|kind| arrived.contains(kind)), "{family}: {arrived:?}");
        assert!(!kept.iter().any(|kind| arrived.contains(kind)), "{family}: {arrived:?}");
    }
    guest.pasta.wait_for("dropped icmp-for-host 2");
}
