//! Bulk transfers over good and bad links, and readers that pause.

use smoltcp::socket::tcp::State;

use crate::link::Node;
use crate::machine::{Setup, Sim};
use crate::{ms, secs, seeds};

const MIB: u64 = 1024 * 1024;

fn transfer(setup: &Setup) -> Sim {
    let mut sim = Sim::new(setup);
    sim.run(secs(3600), Sim::is_complete);
    sim
}

/// Up, down and both at once, at all MTUs, with and without options.
fn all_ways(loss: u16) {
    for seed in seeds() {
        for mtu in [1280, 1500, 65_520] {
            for sack in [true, false] {
                for (up, down) in [(MIB, 0), (0, MIB), (MIB, MIB)] {
                    let setup = Setup { seed, mtu, sack, up, down, ..Setup::default() };
                    transfer(&setup.lossy(loss));
                }
            }
        }
    }
}

#[test]
fn without_loss() {
    all_ways(0);
}

#[test]
fn loss_of_1_percent() {
    all_ways(10);
}

#[test]
fn loss_of_5_percent() {
    all_ways(50);
}

#[test]
fn nothing_is_sent_twice_without_loss() {
    for (up, down) in [(4 * MIB, 0), (0, 4 * MIB), (4 * MIB, 4 * MIB)] {
        let sim = transfer(&Setup { up, down, ..Setup::default() });
        assert_eq!(sim.retransmitted, 0);
    }
}

#[test]
fn opened_by_the_host() {
    for seed in seeds() {
        for loss in [0, 10, 50] {
            let setup = Setup { seed, guest_opens: false, up: MIB, down: MIB, ..Setup::default() };
            transfer(&setup.lossy(loss));
        }
    }
}

#[test]
fn small_buffers_of_the_guest() {
    for seed in seeds() {
        let setup = Setup { seed, buffer: 4096, up: MIB / 4, down: MIB / 4, ..Setup::default() };
        transfer(&setup.clone().lossy(10));
        transfer(&Setup { mtu: 65_520, ..setup });
    }
}

#[test]
fn a_queue_that_overflows() {
    for seed in seeds() {
        let nodes = vec![Node::rate(80), Node::Queue(50)];
        let setup = Setup {
            seed,
            up: MIB,
            down: 4 * MIB,
            from_guest: nodes.clone(),
            to_guest: nodes,
            ..Setup::default()
        };
        transfer(&setup);
    }
}

#[test]
fn far_peer() {
    for seed in seeds() {
        for loss in [0, 10] {
            let setup = Setup { seed, far: Some(ms(40)), up: MIB, down: MIB, ..Setup::default() };
            transfer(&setup.clone().lossy(loss));
            transfer(&Setup { guest_opens: false, ..setup }.lossy(loss));
        }
    }
}

#[test]
fn handshakes_survive_losses() {
    for guest_opens in [true, false] {
        for lost in 0..3 {
            let drop = |numbers: Vec<usize>| vec![Node::Drop(numbers), Node::Delay(ms(1))];
            let setup = Setup { guest_opens, up: 1000, down: 1000, ..Setup::default() };
            transfer(&Setup { from_guest: drop((0..=lost).collect()), ..setup.clone() });
            transfer(&Setup { to_guest: drop((0..=lost).collect()), ..setup.clone() });
            transfer(&Setup { from_guest: drop(vec![lost]), to_guest: drop(vec![lost]), ..setup });
        }
    }
}

#[test]
fn host_that_does_not_read() {
    for seed in seeds() {
        for (pause, loss, far) in [(10, 0, None), (100, 0, None), (100, 50, None), (10, 10, Some(ms(40)))] {
            let mut sim =
                Sim::new(&Setup { seed, far, up: 2 * MIB, down: 1000, ..Setup::default() }.lossy(loss));
            sim.host.reading = false;
            sim.run_for(secs(pause));
            assert_eq!(sim.host.delivered, 0);
            assert!(sim.app.sent < 2 * MIB, "the guest is held back");
            sim.host.reading = true;
            sim.run(secs(3600), Sim::is_complete);
        }
    }
}

#[test]
fn guest_that_does_not_read() {
    for seed in seeds() {
        for (pause, loss) in [(10, 0), (100, 0), (100, 50)] {
            let mut sim = Sim::new(&Setup { seed, up: 1000, down: 2 * MIB, ..Setup::default() }.lossy(loss));
            sim.app.reading = false;
            sim.run_for(secs(pause));
            assert!(sim.host.arrived < 2 * MIB, "the host is held back");
            sim.app.reading = true;
            sim.guest_step();
            sim.run(secs(3600), Sim::is_complete);
        }
    }
}

#[test]
fn guest_that_is_paused() {
    for seed in seeds() {
        let mut sim = Sim::new(&Setup { seed, up: 8 * MIB, down: 8 * MIB, ..Setup::default() }.lossy(10));
        sim.run(secs(60), |sim| sim.app.received > MIB && sim.host.delivered > MIB);
        sim.guest_runs = false;
        sim.run_for(secs(60));
        sim.guest_runs = true;
        sim.run(secs(3600), Sim::is_complete);
    }
}

#[test]
fn idle_connections_live_while_the_guest_does() {
    let mut sim = Sim::new(&Setup { up: 1000, down: 1000, ..Setup::default() });
    sim.app.closing = false;
    sim.host.closing = false;
    sim.run(secs(10), |sim| sim.app.received == 1000 && sim.host.delivered == 1000);
    sim.run_for(secs(24 * 3600));
    assert_eq!(sim.app.state(&sim.guest), State::Established);
    assert_eq!(sim.end, None);
    sim.guest_runs = false;
    sim.run_for(secs(2 * 3600 - 150));
    assert_eq!(sim.end, None, "silent for less than two hours");
    sim.run(secs(3600), |sim| sim.end.is_some());
    sim.guest_runs = true;
    sim.guest_step();
    sim.run_for(secs(1));
    assert_eq!(sim.app.state(&sim.guest), State::Closed, "the guest was told");
}
