use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::{Report, Tape, datagrams, world};
use crate::rig::{
    BARE, Backlogged, End, FULL, LARGE, MANY, Machine, Memory, OFF, ON, Offloading, Ring, SWITCHED,
    SharedMemory,
};

/// Operations of one run.
const OPERATIONS: u64 = 400;

/// The saved seeds, and `count` more from `first` on, each in a thread whose descriptors, and
/// network if that can be had, nobody else has. `run` is told whether pings work there.
fn runs(first: u64, count: u64, run: impl Fn(&mut Tape<'_>, bool) -> Report + Send + 'static) -> Report {
    let work = move || {
        unshare(CloneFlags::CLONE_FILES).expect("descriptors of its own");
        let pings = own_network();
        let open = || std::fs::read_dir("/proc/thread-self/fd").expect("procfs").count();
        let before = open();
        let mut all = Report::default();
        for seed in crate::seeds().into_iter().chain(first..first + count) {
            let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut Tape::Seed(seed), pings)));
            let Ok(report) = outcome else { panic!("SIM_SEED={seed}") };
            all += report;
            assert_eq!(open(), before, "descriptors left by {seed}");
        }
        if !pings {
            passt_tests::skip("pings: no network of its own, or no group that may ping");
        }
        all
    };
    let all = std::thread::spawn(work).join().expect("no fault");
    println!("{all:?}");
    all
}

/// Takes the thread to a network with a loopback interface, where everybody may ping.
fn own_network() -> bool {
    unshare(CloneFlags::CLONE_NEWNET).is_ok()
        && Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|status| status.success())
        && std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").is_ok()
}

fn streams<E: End>(first: u64, count: u64) {
    let all = runs(first, count, |tape, _| world::run::<E>(tape, OPERATIONS));
    assert!(all.batch > 512 && all.resets > 0 && all.short > 0 && all.up > 0 && all.down > 0, "{all:?}");
}

fn exchanges<E: End>(first: u64, count: u64) {
    let all = runs(first, count, |tape, pings| datagrams::run::<E>(tape, OPERATIONS, pings));
    assert!(all.batch > 8 && all.short > 0 && all.lost > 0 && all.up > 0 && all.down > 0, "{all:?}");
}

#[test]
fn streams_in_memory() {
    streams::<Memory>(1000, 100);
}

#[test]
fn streams_on_a_backlogged_link() {
    streams::<Backlogged>(2000, 60);
}

#[test]
fn streams_with_offloads() {
    streams::<Offloading>(3000, 100);
}

#[test]
fn streams_of_a_machine() {
    streams::<Machine>(4000, 100);
}

#[test]
fn streams_of_a_ring() {
    streams::<Ring<OFF>>(5000, 20);
}

#[test]
fn streams_of_a_ring_with_offloads() {
    streams::<Ring<ON>>(6000, 20);
}

#[test]
fn streams_of_a_ring_that_switches() {
    streams::<Ring<SWITCHED>>(7000, 60);
}

#[test]
fn streams_of_a_virtual_machine() {
    streams::<SharedMemory<FULL>>(8000, 20);
}

#[test]
fn streams_of_a_virtual_machine_without_features() {
    streams::<SharedMemory<BARE>>(9000, 20);
}

#[test]
fn streams_of_a_virtual_machine_with_large_buffers() {
    streams::<SharedMemory<LARGE>>(10_000, 20);
}

#[test]
fn streams_of_a_virtual_machine_by_pairs() {
    streams::<SharedMemory<MANY>>(11_000, 20);
}

#[test]
fn datagrams_in_memory() {
    exchanges::<Memory>(1000, 50);
}

#[test]
fn datagrams_with_offloads() {
    exchanges::<Offloading>(2000, 50);
}

#[test]
fn datagrams_of_a_machine() {
    exchanges::<Machine>(3000, 50);
}

#[test]
fn datagrams_of_a_ring() {
    exchanges::<Ring<OFF>>(4000, 20);
}

#[test]
fn datagrams_of_a_ring_with_offloads() {
    exchanges::<Ring<ON>>(5000, 20);
}

#[test]
fn datagrams_of_a_virtual_machine() {
    exchanges::<SharedMemory<FULL>>(7000, 20);
}

#[test]
fn datagrams_of_a_virtual_machine_without_features() {
    exchanges::<SharedMemory<BARE>>(8000, 20);
}

#[test]
fn datagrams_of_a_ring_that_switches() {
    exchanges::<Ring<SWITCHED>>(6000, 50);
}
