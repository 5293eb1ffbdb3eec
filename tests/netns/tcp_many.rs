//! Many connections: at the same time, and one after the other.

use std::time::Duration;

use passt_tests::transfer::{MIB, at};
use passt_tests::{FAR4, FAR6, GATEWAY4, Net, Place as _, User, eventually_within, stream};

/// Every other connection of the churn is IPv6.
const CHURN: u32 = 10_000;

#[test]
fn a_thousand_at_once() {
    let Some(net) = Net::new() else { return };
    let _servers = [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5001)));
    let mut guest = net.pasta(User::Normal).with("--config-net").start();
    for address in [FAR4, FAR6] {
        assert_eq!(guest.peer(&format!("many {} 1000", at(address, 5001))).trim(), "1000");
    }
    guest.assert_alive();
}

/// 20 000 connections, opened and closed, leave no descriptor behind.
#[test]
fn churn_leaks_nothing() {
    let Some(net) = Net::new() else { return };
    let _servers = [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5001)));
    let mut guest = net.pasta(User::Normal).with("--config-net").start();
    // What the first connection opens for good is no leak.
    guest.peer(&format!("churn {} 2", at(FAR4, 5001)));
    let settled = |limit: usize| {
        let few = || (guest.descriptors() <= limit).then(|| guest.descriptors());
        eventually_within(Duration::from_secs(90), &format!("{limit} descriptors"), few)
    };
    let idle = settled(guest.descriptors());
    let clients =
        [FAR4, FAR6].map(|address| guest.start_peer(&format!("churn {} {CHURN}", at(address, 5001))));
    for client in clients {
        client.succeed_within(Duration::from_secs(150));
    }
    settled(idle);
    guest.assert_alive();
}

/// Uploads that are stuck hold what was promised to them, but not all that there is: another one goes on as if
/// they were not there.
#[test]
fn stuck_uploads_harm_no_other() {
    /// More than a window of each finds room for.
    const STUCK: u64 = 400;
    let Some(net) = Net::new() else { return };
    let guest = net.pasta(User::Normal).with("--config-net --mtu 65520 --foreground --stats 1").start();
    // The host's kernel takes enough for windows to open, and then nothing. The guest's has a window's worth, and not so
    // much that all of them use up what the machine lends to TCP.
    net.host.sysctl("net.ipv4.tcp_rmem=4096 16384 65536");
    net.host.sysctl("net.ipv4.tcp_wmem=4096 131072 131072");
    guest.sysctl("net.ipv4.tcp_wmem=4096 16384 1500000");
    guest.sysctl("net.ipv4.tcp_congestion_control=cubic");
    let _servers = [net.host.serve("127.0.0.1:5002"), net.peer.serve(&at(FAR4, 5001))];
    let mut stuck = guest.start_peer(&format!("stuck {} {STUCK}", at(GATEWAY4, 5002)));
    let line = stuck.wait_for("STUCK");
    let held: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("bytes");
    assert!(held > 132 * MIB, "only {held} bytes are under way");
    let other = guest.start_peer(&format!("up {} {} 1", at(FAR4, 5001), 50 * MIB));
    assert_eq!(other.succeed_within(Duration::from_secs(5)).trim(), stream::expected(50 * MIB, 1));
    assert!(!guest.pasta.stdout().contains("window-overrun"), "{}", guest.pasta.stdout());
}
