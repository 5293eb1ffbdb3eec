//! A guest that writes nonsense into its interface.

use std::time::Duration;

use passt_tests::transfer::at;
use passt_tests::{FAR4, FAR6, Net, Place as _, User, eventually_within};

/// 100 000 mutated frames while transfers run: these stay intact, the program
/// lives, and serves new connections afterwards.
#[test]
fn mutated_frames_do_no_harm() {
    let Some(net) = Net::new() else { return };
    // Connections that mutated frames open to nowhere end soon.
    net.host.sysctl("net.ipv4.tcp_syn_retries=1");
    let _servers = [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5001)));
    let mut guest = net.pasta(User::Normal).with("--config-net").start();
    let mut transfers =
        [FAR4, FAR6].map(|address| guest.start_peer(&format!("steady {}", at(address, 5001))));
    for transfer in &mut transfers {
        transfer.wait_for("STEADY");
    }
    let flood = guest.start_peer("mangle eth0 100000 1");
    let taken = flood.succeed_within(Duration::from_secs(150));
    assert!(taken.trim().parse::<u64>().expect("a number") >= 100_000);
    guest.assert_alive();
    for transfer in transfers {
        transfer.succeed();
    }
    eventually_within(Duration::from_secs(90), "a new connection", || {
        let client = guest.start_peer(&format!("connect {}", at(FAR4, 5001)));
        client.finish().stdout.starts_with("connected").then_some(())
    });
    guest.assert_alive();
}
