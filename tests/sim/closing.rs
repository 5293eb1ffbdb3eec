//! How connections end: in order, half, and by force.

use passt_proto::tcp::Action;
use smoltcp::socket::tcp::{Socket, State};

use crate::machine::{Setup, Sim};
use crate::{secs, seeds};

#[test]
fn half_closed_by_the_guest() {
    for seed in seeds() {
        let mut sim = Sim::new(&Setup { seed, up: 10_000, down: 500_000, ..Setup::default() }.lossy(20));
        sim.host.to_send = 0;
        sim.host.closing = false;
        sim.run(secs(60), |sim| sim.host.eof);
        sim.run_for(secs(200));
        assert_eq!(sim.end, None);
        (sim.host.to_send, sim.host.closing) = (500_000, true);
        sim.run(secs(3600), Sim::is_complete);
    }
}

#[test]
fn half_closed_by_the_host() {
    for seed in seeds() {
        let mut sim = Sim::new(&Setup { seed, up: 500_000, down: 10_000, ..Setup::default() }.lossy(20));
        sim.app.to_send = 0;
        sim.app.closing = false;
        sim.run(secs(60), |sim| sim.app.eof);
        sim.run_for(secs(200));
        assert_eq!(sim.end, None);
        (sim.app.to_send, sim.app.closing) = (500_000, true);
        sim.guest_step();
        sim.run(secs(3600), Sim::is_complete);
    }
}

#[test]
fn a_half_closed_guest_is_not_answered_more_than_it_says() {
    let mut sim = Sim::new(&Setup { up: 1, down: 4 << 20, ..Setup::default() });
    sim.run(secs(3600), Sim::is_complete);
    assert!(sim.bare < 10, "{} bare acknowledgements", sim.bare);
}

#[test]
fn reset_by_the_guest() {
    for seed in seeds() {
        let mut sim = Sim::new(&Setup { seed, up: 5_000_000, down: 5_000_000, ..Setup::default() });
        sim.run(secs(60), |sim| sim.app.received > 1_000_000);
        sim.guest.sockets.get_mut::<Socket>(sim.app.socket).abort();
        sim.run(secs(60), |sim| sim.end.is_some());
        assert_eq!(sim.end, Some(Action::Abort));
    }
}

#[test]
fn reset_by_the_host() {
    for seed in seeds() {
        let mut sim = Sim::new(&Setup { seed, up: 5_000_000, down: 5_000_000, ..Setup::default() });
        sim.run(secs(60), |sim| sim.app.received > 1_000_000);
        sim.host_resets();
        assert_eq!(sim.end, Some(Action::Close));
        sim.run(secs(60), |sim| sim.app.state(&sim.guest) == State::Closed);
        assert!(!sim.app.eof, "not mistaken for an end");
    }
}

#[test]
fn refused() {
    let mut sim = Sim::new(&Setup { connects: false, ..Setup::default() });
    sim.run(secs(1), |sim| sim.end.is_some());
    sim.run(secs(1), |sim| sim.app.state(&sim.guest) == State::Closed);
}

#[test]
fn refused_by_the_guest() {
    let mut sim = Sim::new(&Setup { guest_opens: false, ..Setup::default() });
    sim.guest.sockets.get_mut::<Socket>(sim.app.socket).abort();
    sim.run(secs(1), |sim| sim.end == Some(Action::Abort));
}

#[test]
fn a_guest_that_never_answers() {
    let mut sim = Sim::new(&Setup { guest_opens: false, ..Setup::default() });
    sim.guest_runs = false;
    sim.run_for(secs(100));
    assert_eq!(sim.end, None);
    sim.run(secs(100), |sim| sim.end == Some(Action::Abort));
}
