//! The host's network in many forms: what a guest is given of each, and that it reaches and is
//! reached.
//!
//! Each row of the tables has namespaces of its own, *guest – host – peer*. What traffic looks like
//! is not written in the table: whom a server sees has to be whom it sees where the host itself is
//! in the guest's place.

mod check;
mod families;
mod interfaces;
mod look;
mod prefixes;
mod routes;
mod row;
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use row::Row;

/// Rows that show a fault that is known, and where: they are reported and do not fail the test.
const KNOWN: &[(&str, &str)] = &[
    ("-i eth0, IPv6 is on eth1", BORROWED),
    ("-i eth0, IPv4 is on eth1", BORROWED),
    ("-i eth0 without a default route", NO_WAY_BACK),
    ("no default route", NO_WAY_BACK),
    ("default route in another table", NO_WAY_BACK),
    ("several subnets", ANOTHER_ADDRESS),
    ("several addresses in one subnet", ANOTHER_ADDRESS),
    ("a /32 beside the /24", ANOTHER_ADDRESS),
    ("labels", ANOTHER_ADDRESS),
    ("ULA and global", ANOTHER_ADDRESS),
    ("temporary address", ANOTHER_ADDRESS),
    ("several global addresses, one of another size", ANOTHER_ADDRESS),
    ("169.254/16 before another", "it is the first address; and: datagrams to one address come at another"),
    ("source addresses of routes", "the order of addresses; and: datagrams to one address come at another"),
    ("metrics of subnets", "the guest's kernel adds its own routes to the subnets"),
    ("tentative address, which is waited for", "it is not waited for"),
    ("optimistic address", "it is not waited for"),
    ("the second next hop is heavier", "the first one is the gateway"),
    ("the heavier next hop is on another interface", "the first one is the template"),
    ("a group of next hop objects", "the first one is the gateway"),
    ("multicast routes", "they are not copied"),
    ("IPv4 by an IPv6 gateway", "the route is copied without the gateway"),
];

const BORROWED: &str = "an address of another interface, which no route leads from, instead of local ones";
const NO_WAY_BACK: &str = "the guest has no route to the address that stands for the host";
const ANOTHER_ADDRESS: &str = "datagrams to one of the addresses come at another";

/// How a row ended.
enum End {
    Good,
    /// This kernel lacks what it takes.
    Skipped(String),
    /// What was not as expected.
    Bad(Vec<String>),
}

#[test]
fn every_host() {
    let rows: Vec<&Row> =
        [families::ROWS, prefixes::ROWS, interfaces::ROWS, routes::ROWS].into_iter().flatten().collect();
    let only = std::env::var("HOSTS_ROW").ok();
    let chosen: Vec<&Row> =
        rows.into_iter().filter(|row| only.as_ref().is_none_or(|part| row.name.contains(part))).collect();
    let failures = run(&chosen);
    assert!(failures.is_empty(), "{} of {} rows:\n{}", failures.len(), chosen.len(), failures.join("\n"));
}

/// Tries all rows, as many at a time as there are processors, and returns what failed.
fn run(rows: &[&Row]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let work = || {
        while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            let end = catch_unwind(AssertUnwindSafe(|| check::row(row)))
                .unwrap_or_else(|panic| End::Bad(vec![message(panic.as_ref())]));
            failures.lock().expect("no panic").extend(report(row, end));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    failures.into_inner().expect("no panic")
}

/// Says how a row ended; returns what is to fail the test.
fn report(row: &Row, end: End) -> Option<String> {
    let known = KNOWN.iter().find(|(name, _)| *name == row.name).map(|(_, fault)| fault);
    match (end, known) {
        (End::Good, None) => None,
        (End::Good, Some(fault)) => {
            eprintln!("MENDED {}: {fault}", row.name);
            None
        }
        (End::Skipped(reason), _) => {
            passt_tests::skip(&format!("{}: {reason}", row.name));
            None
        }
        (End::Bad(faults), Some(fault)) => {
            eprintln!("KNOWN {}: {fault}\n    {}", row.name, faults.join("\n    "));
            None
        }
        (End::Bad(faults), None) => Some(format!("{}\n    {}", row.name, faults.join("\n    "))),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
