//! A guest that has rings: what [`crate::every_link`] demands of every link is tested there, and
//! here what happens when it has no buffers left for the engine.

use passt_engine::link::Link as _;
use passt_proto::drop::DropReason;

use crate::engine::{MIB, World};
use crate::rig::{BARE, End, FULL, LARGE, MANY, OFF, ON, Ring, SWITCHED, SharedMemory};
use crate::{ms, secs};

/// A guest that can keep its buffers.
trait Holds: End {
    fn hold(&mut self, holds: bool);
}

impl<const OFFLOADS: u8> Holds for Ring<OFFLOADS> {
    fn hold(&mut self, holds: bool) {
        self.holds = holds;
    }
}

impl<const KIND: u8> Holds for SharedMemory<KIND> {
    fn hold(&mut self, holds: bool) {
        self.holds = holds;
    }
}

/// Connections wait, the loop sleeps, what can't wait is dropped and counted, and all ends well
/// once there are buffers.
fn a_guest_without_buffers<E: Holds>() {
    let mut world = World::<E>::usual(0, &[]);
    for n in 0..4 {
        world.connect(n % 2 == 0, 8 * MIB, 8 * MIB);
    }
    world.run(secs(60), |world| world.pairs.iter().all(|pair| pair.app.received > MIB));
    world.end.hold(true);
    world.run(secs(60), |world| world.worker.context().core.link.is_congested());
    // What the guest still says is answered from what is kept for that, until this is used up.
    world.run(secs(60), |world| world.worker.drops(DropReason::LinkBusy) > 0);
    let end = world.now + secs(2);
    let mut soon = 0;
    world.run(secs(60), |world| {
        soon += u32::from(world.worker.next_timeout().is_some_and(|due| due <= world.now));
        world.now > end
    });
    assert!(world.worker.context().core.link.is_congested());
    assert!(soon < 100, "{soon} rounds in which there was something to do");
    world.end.hold(false);
    world.run(ms(10_000), |world| !world.worker.context().core.link.is_congested());
    world.run_to_end();
}

#[test]
fn a_guest_without_buffers_and_offloads() {
    a_guest_without_buffers::<Ring<OFF>>();
}

#[test]
fn a_guest_without_buffers_that_offloads() {
    a_guest_without_buffers::<Ring<ON>>();
}

#[test]
fn a_guest_without_buffers_that_switches() {
    a_guest_without_buffers::<Ring<SWITCHED>>();
}

#[test]
fn a_virtual_machine_without_buffers() {
    a_guest_without_buffers::<SharedMemory<FULL>>();
}

#[test]
fn a_virtual_machine_without_buffers_and_features() {
    a_guest_without_buffers::<SharedMemory<BARE>>();
}

#[test]
fn a_virtual_machine_without_buffers_in_any_pair() {
    a_guest_without_buffers::<SharedMemory<MANY>>();
}

#[test]
fn a_virtual_machine_without_large_buffers() {
    a_guest_without_buffers::<SharedMemory<LARGE>>();
}
