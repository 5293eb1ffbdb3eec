use super::{Report, Tape, world};
use crate::rig::{Backlogged, End, Machine, Memory, Offloading};

/// Operations of one run.
const OPERATIONS: u64 = 400;

/// Runs seeds from `first` on, in a thread whose descriptors nobody else has.
fn runs<E: End>(first: u64, count: u64) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).expect("descriptors of its own");
        let mut all = Report::default();
        let open = || std::fs::read_dir("/proc/thread-self/fd").expect("procfs").count();
        let before = open();
        for seed in crate::seeds().into_iter().chain(first..first + count) {
            let outcome = std::panic::catch_unwind(|| world::run::<E>(&mut Tape::Seed(seed), OPERATIONS));
            let Ok(report) = outcome else { panic!("SIM_SEED={seed}") };
            all += report;
            assert_eq!(open(), before, "descriptors left by {seed}");
        }
        all
    });
    let all = thread.join().expect("no fault");
    println!("{all:?}");
    assert!(all.batch > 512 && all.resets > 0 && all.short > 0 && all.up > 0 && all.down > 0, "{all:?}");
}

#[test]
fn streams_in_memory() {
    runs::<Memory>(1000, 100);
}

#[test]
fn streams_on_a_backlogged_link() {
    runs::<Backlogged>(2000, 60);
}

#[test]
fn streams_with_offloads() {
    runs::<Offloading>(3000, 100);
}

#[test]
fn streams_of_a_machine() {
    runs::<Machine>(4000, 100);
}
