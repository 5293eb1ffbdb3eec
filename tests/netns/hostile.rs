//! Guests that write nonsense into their interface, and into the queues that they share with passt.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use passt_tests::transfer::{MIB, at, download, far_servers, upload};
use passt_tests::{FAR4, FAR6, Net, Place, User, eventually_within, uml};

/// Seeds that every run repeats; each gives other frames.
const SEEDS: [u64; 4] = [1, 0x0bad_cafe, 0x5eed_5eed_5eed, 0xfeed_beef_dead_f00d];
/// Frames for each seed.
const FRAMES: u64 = 20_000;

/// A number in the environment.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A seed that no run had before; or the one in the environment, `HOSTILE_SEED`.
fn fresh_seed() -> u64 {
    let seed = variable("HOSTILE_SEED").unwrap_or_else(|| RandomState::new().hash_one("seed"));
    println!("seed: {seed}; to repeat it: HOSTILE_SEED={seed}");
    seed
}

/// 100 000 mutated frames while transfers run: these stay intact, the program
/// lives, and serves new connections afterwards.
#[test]
fn mutated_frames_do_no_harm() {
    let Some(net) = Net::new() else { return };
    let seeds = SEEDS.into_iter().chain([fresh_seed()]);
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

/// A driver that writes nonsense into its queues, for as many seconds as `HOSTILE_SECONDS` says: a
/// machine of another passt and local connections of a namespace notice nothing, and the passt serves
/// the next driver.
#[test]
fn nonsense_in_queues_does_no_harm() {
    let Some(net) = Net::new() else { return };
    let (seconds, seed) = (variable("HOSTILE_SECONDS").unwrap_or(15), fresh_seed());
    let _servers = far_servers(&net);
    let passt = |socket: &str| net.passt(User::Normal).with("--vhost-user").listen(socket);
    let (mut hostile, _other) = (passt("hostile"), passt("other"));
    // Where there can be none, the others are there all the same.
    let machine = uml::boot(&net, "guest", "other");
    if let Some(machine) = &machine {
        machine.configure();
    }
    let mut local = net.pasta(User::Normal).with("--config-net -t none -u none -T 5002 -U none").start();
    let _local_server = net.host.serve("127.0.0.1:5002");
    let mut steady = local.start_peer(&format!("steady {}", at("127.0.0.1", 5002)));
    steady.wait_for("STEADY");

    let socket = net.dir().join("hostile");
    let mut driver = net.host.start_peer(&format!("spoil {} {seconds} {seed}", socket.display()));
    let mut transfers = 0;
    while driver.try_wait().is_none() {
        let place = machine.as_ref().map_or(&local as &dyn Place, |machine| machine);
        upload(place, &at(FAR4, 5001), 16 * MIB);
        download(place, &at(FAR4, 5001), 16 * MIB);
        transfers += 1;
    }
    let rounds = driver.succeed_within(Duration::from_secs(10));
    println!("{} devices spoilt, {transfers} transfers meanwhile", rounds.trim());
    assert!(transfers > 0 && rounds.trim().parse::<u64>().expect("a number") > 10);
    steady.succeed();
    local.assert_alive();
    assert!(hostile.try_wait().is_none(), "passt ended: {}", hostile.stdout());
    let answer = net.host.peer(&format!("front-end {} memfd", socket.display()));
    assert!(answer.starts_with("ANSWER"), "{answer}");
}
