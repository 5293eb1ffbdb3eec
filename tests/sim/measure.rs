//! What options of TCP buy a stream to the guest on a bad link, in virtual time; as
//! smoltcp tells of one range at a time, Linux gains more. It measures rather than tests:
//!
//!     cargo test -p passt-tests --test sim measure -- --ignored --nocapture

use std::time::Duration;

use crate::link::Node;
use crate::machine::{Setup, Sim};
use crate::secs;

/// A link of 1 Gbit/s with nothing but losses.
fn link(loss: u16, delay: Duration) -> Vec<Node> {
    vec![Node::Loss(loss), Node::rate(8), Node::Delay(delay)]
}

/// Milliseconds for 8 MiB to the guest: the median, and the worst, of 21 runs.
fn millis(setup: &Setup) -> (u64, u64) {
    let mut times: Vec<u64> = (0..21)
        .map(|seed| {
            let mut sim = Sim::new(&Setup { seed, down: 8 << 20, ..setup.clone() });
            let begun = sim.now;
            sim.run(secs(1000), |sim| sim.app.received == 8 << 20);
            u64::try_from(sim.now.since(begun).as_millis()).expect("a time")
        })
        .collect();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

#[test]
#[ignore = "measures"]
fn measure_options() {
    println!(
        "| Round trip | MTU | Loss | neither | SACK | timestamps | both |\n|---|---|---|---|---|---|---|"
    );
    for half in [Duration::from_micros(100), Duration::from_millis(5)] {
        for mtu in [1500, 65_520] {
            for loss in [0, 1, 10, 50] {
                let cell = |(sack, timestamps)| {
                    let (from_guest, to_guest) = (link(loss, half), link(loss, half));
                    let tick = Duration::from_micros(100);
                    let setup =
                        Setup { mtu, sack, timestamps, tick, from_guest, to_guest, ..Setup::default() };
                    let (median, worst) = millis(&setup);
                    format!("{median} ({worst})")
                };
                let cells =
                    [(false, false), (true, false), (false, true), (true, true)].map(cell).join(" | ");
                println!("| {:?} | {mtu} | {} % | {cells} |", half * 2, f64::from(loss) / 10.0);
            }
        }
    }
}
