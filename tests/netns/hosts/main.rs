//! The host's network in many forms: what a guest is given of each, and that it reaches and is
//! reached.
//!
//! Each row of the tables has namespaces of its own, *guest – host – peer*. What traffic looks like
//! is not written in the table: whom a server sees has to be whom it sees where the host itself is
//! in the guest's place. `HOSTS_ROW` in the environment chooses rows by a part of their names.

mod check;
mod families;
mod interfaces;
mod known;
mod look;
mod prefixes;
mod routes;
mod row;
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use known::known;
use passt_tests::Net;
use row::Row;

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
    if Net::isolated().is_none() {
        return;
    }
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
            // Under the test's name, which is what a skip is listed by.
            let named = std::thread::Builder::new().name("every_host".into());
            named.spawn_scoped(scope, work).expect("a thread");
        }
    });
    failures.into_inner().expect("no panic")
}

/// Says how a row ended; returns what is to fail the test.
fn report(row: &Row, end: End) -> Option<String> {
    let faults = match end {
        End::Good => Vec::new(),
        End::Skipped(reason) => {
            passt_tests::skip(&format!("{}: {reason}", row.name));
            return None;
        }
        End::Bad(faults) => faults,
    };
    let mut failures = Vec::new();
    for found in faults {
        match known(row.name, &found) {
            Some(fault) => eprintln!("KNOWN {}: {fault}: {found}", row.name),
            None => failures.push(found),
        }
    }
    (!failures.is_empty()).then(|| format!("{}\n    {}", row.name, failures.join("\n    ")))
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
