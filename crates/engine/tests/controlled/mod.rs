//! An engine under control: what tests of flows and of rules share.
#![allow(dead_code, reason = "each test uses a part")]

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};

use passt_engine::control::{Committed, Control, Cursor, MAX_PAGE};
use passt_engine::dispatch::Description;
use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::{Applied, Change, Entry, Progress};
use passt_engine::link::Link;
use passt_engine::link::none::NoLink;
use passt_engine::worker::Worker;
use passt_proto::guest::{Bypass, Configured};
use passt_proto::time::Instant;
use passt_sys::namespace::Resident;

use crate::common::{options, rule};

pub(crate) fn control<L: Link>(worker: &mut Worker<L>) -> Control<'_, L> {
    worker.control()
}

/// The whole list, of pages of so many flows.
pub(crate) fn list<L: Link>(worker: &mut Worker<L>, most: usize) -> Vec<Description> {
    let (mut all, mut from) = (Vec::new(), Some(Cursor::START));
    while let Some(cursor) = from {
        let page = control(worker).flows(cursor, most);
        assert!(page.flows.len() <= most.min(MAX_PAGE));
        all.extend(page.flows);
        from = page.next;
    }
    all
}

thread_local! {
    static HOME: Ipv4Addr = {
        static TESTS: AtomicU8 = AtomicU8::new(0);
        let [.., high, low] = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, 64 + high % 64, low, 1 + TESTS.fetch_add(1, Ordering::Relaxed))
    };
    static PORT: Cell<u16> = const { Cell::new(20_000) };
}

/// A loopback address that no other test has. What is sent there comes from 127.0.0.1.
pub(crate) fn home() -> Ipv4Addr {
    HOME.with(|home| *home)
}

/// A port that is free there: not one of those that the kernel gives out.
pub(crate) fn own_port() -> u16 {
    PORT.replace(PORT.get() + 1)
}

/// A rule of the host for one port at [`home`].
pub(crate) fn entry(protocol: Protocol, port: u16, to: u16) -> Entry {
    Entry { side: Side::Host, protocol, rule: rule(Some(&home().to_string()), port, to) }
}

/// Plans changes and opens what they need.
pub(crate) fn apply<L: Link>(worker: &mut Worker<L>, changes: &[Change]) -> Applied {
    let plan = control(worker).plan(changes.iter().cloned());
    let mut apply = control(worker).apply(plan);
    while control(worker).step(&mut apply) != Progress::Done {
        std::thread::yield_now();
    }
    apply.finish()
}

/// Changes that are all possible.
pub(crate) fn change<L: Link>(worker: &mut Worker<L>, changes: &[Change]) -> Committed {
    let applied = apply(worker, changes);
    assert!(applied.refused().is_empty(), "{:?}", applied.refused());
    control(worker).commit(applied).unwrap()
}

/// An engine between two sides that are both this thread's network.
pub(crate) fn between() -> Worker<NoLink> {
    let guest = Configured { bypass: Bypass::Loopback, ..Configured::default() };
    let mut worker = Worker::new(NoLink, &options(0, &guest, 256), Instant::from_millis(1000)).unwrap();
    worker.enter(Some(Resident::here().unwrap())).unwrap();
    worker
}
