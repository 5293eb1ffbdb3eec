//! Faults that are known, while they last: they are reported and do not fail the test.

/// A fault of the program under test.
struct Known {
    /// What is wrong.
    fault: &'static str,
    /// The rows that show it.
    rows: &'static [&'static str],
    /// What is found of it there begins with one of these.
    found: &'static [&'static str],
}

const KNOWN: &[Known] = &[Known {
    fault: "the route is copied without its gateway",
    rows: &["IPv4 by an IPv6 gateway"],
    found: &["routes -4"],
}];

/// The fault of which something that was found in a row comes.
pub(crate) fn known(row: &str, found: &str) -> Option<&'static str> {
    let of = |known: &&Known| {
        known.rows.contains(&row) && known.found.iter().any(|start| found.starts_with(start))
    };
    KNOWN.iter().find(of).map(|known| known.fault)
}
