//! A guest that writes nonsense into its interface.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use passt_tests::transfer::at;
use passt_tests::{FAR4, FAR6, Net, Place as _, User, eventually_within};

/// Seeds that every run repeats; each gives other frames.
const SEEDS: [u64; 4] = [1, 0x0bad_cafe, 0x5eed_5eed_5eed, 0xfeed_beef_dead_f00d];
/// Frames for each seed.
const FRAMES: u64 = 20_000;

/// The saved seeds and one that no run had before; or the one in the environment, `HOSTILE_SEED`.
fn seeds() -> Vec<u64> {
    if let Ok(seed) = std::env::var("HOSTILE_SEED") {
        return vec![seed.parse().expect("a seed")];
    }
    let fresh = RandomState::new().hash_one("seed");
    SEEDS.into_iter().chain([fresh]).collect()
}

/// 100 000 mutated frames while transfers run: these stay intact, the program
/// lives, and serves new connections afterwards.
#[test]
fn mutated_frames_do_no_harm() {
    let Some(net) = Net::new() else { return };
    let seeds = seeds();
    println!("seeds: {seeds:?}; to repeat one: HOSTILE_SEED=N");
    // Connections that mutated frames open to nowhere end soon.
    net.host.sysctl("net.ipv4.tcp_syn_retries=1");
    let _servers = [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5001)));
    let mut guest = net.pasta(User::Normal).with("--config-net").start();
    let mut transfers =
        [FAR4, FAR6].map(|address| guest.start_peer(&format!("steady {}", at(address, 5001))));
    for transfer in &mut transfers {
        transfer.wait_for("STEADY");
    }
    for seed in seeds {
        let flood = guest.start_peer(&format!("mangle eth0 {FRAMES} {seed}"));
        let taken = flood.succeed_within(Duration::from_secs(90));
        assert!(taken.trim().parse::<u64>().expect("a number") >= FRAMES);
        guest.assert_alive();
    }
    for transfer in transfers {
        transfer.succeed();
    }
    eventually_within(Duration::from_secs(90), "a new connection", || {
        let client = guest.start_peer(&format!("connect {}", at(FAR4, 5001)));
        client.finish().stdout.starts_with("connected").then_some(())
    });
    guest.assert_alive();
}
