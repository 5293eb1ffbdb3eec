//! Sequences of operations on the whole engine, over each link in memory; `equivalence` says which,
//! and what must hold.
#![no_main]

#[path = "../../tests/sim/equivalence/mod.rs"]
mod equivalence;
#[path = "../../tests/sim/rig.rs"]
mod rig;

use equivalence::{Tape, datagrams, world};
use libfuzzer_sys::fuzz_target;
use rig::{
    BARE, Backlogged, FULL, LARGE, MANY, Machine, Memory, OFF, ON, Offloading, Ring, SWITCHED, SharedMemory,
};

/// Operations of one run at most.
const OPERATIONS: u64 = 500;

fuzz_target!(|script: &[u8]| {
    let Some((&kind, script)) = script.split_first() else { return };
    let tape = &mut Tape::Bytes(script);
    match kind % 17 {
        0 => world::run::<Memory>(tape, OPERATIONS),
        1 => world::run::<Backlogged>(tape, OPERATIONS),
        2 => world::run::<Offloading>(tape, OPERATIONS),
        3 => world::run::<Machine>(tape, OPERATIONS),
        4 => datagrams::run::<Memory>(tape, OPERATIONS, false),
        5 => datagrams::run::<Offloading>(tape, OPERATIONS, false),
        6 => datagrams::run::<Machine>(tape, OPERATIONS, false),
        7 => world::run::<Ring<OFF>>(tape, OPERATIONS),
        8 => world::run::<Ring<ON>>(tape, OPERATIONS),
        9 => world::run::<Ring<SWITCHED>>(tape, OPERATIONS),
        10 => datagrams::run::<Ring<OFF>>(tape, OPERATIONS, false),
        11 => datagrams::run::<Ring<SWITCHED>>(tape, OPERATIONS, false),
        12 => world::run::<SharedMemory<FULL>>(tape, OPERATIONS),
        13 => world::run::<SharedMemory<BARE>>(tape, OPERATIONS),
        14 => world::run::<SharedMemory<LARGE>>(tape, OPERATIONS),
        15 => datagrams::run::<SharedMemory<FULL>>(tape, OPERATIONS, false),
        _ => world::run::<SharedMemory<MANY>>(tape, OPERATIONS),
    };
});
