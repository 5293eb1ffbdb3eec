//! Many connections: at the same time, and one after the other.

use std::time::Duration;

use passt_tests::transfer::at;
use passt_tests::{FAR4, FAR6, Net, Place as _, User, eventually_within};

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
