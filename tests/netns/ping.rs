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
        let out = guest.run(&format!("ping -c 1 -W 2 -s {size} {FAR4}"));
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
