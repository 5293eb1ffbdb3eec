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

const KNOWN: &[Known] = &[
    Known {
        fault: "an address of another interface, from which no route leads, instead of local ones",
        rows: &["-i eth0, IPv4 is on eth1"],
        found: &[
            "addresses -4",
            "routes -4",
            "template -4",
            "Tcp guest to the host",
            "Udp guest to the host",
        ],
    },
    Known {
        fault: "an address of another interface, from which no route leads, instead of local ones",
        rows: &["-i eth0, IPv6 is on eth1"],
        found: &[
            "addresses -6",
            "routes -6",
            "template -6",
            "Tcp guest to the host",
            "Udp guest to the host",
        ],
    },
    Known {
        fault: "the guest has no route to the address that stands for the host",
        rows: &["-i eth0 without a default route", "no default route", "default route in another table"],
        found: &["Tcp host to 192.0.2.2", "Udp host to 192.0.2.2"],
    },
    Known {
        fault: "the guest's kernel adds routes to the subnets, with the usual metric",
        rows: &["metrics of subnets"],
        found: &["networks"],
    },
    Known {
        fault: "the preferred address is assigned first, which makes it the subnet's source address",
        rows: &["source addresses of routes"],
        found: &["networks -4"],
    },
    Known {
        fault: "the route is copied without its gateway",
        rows: &["IPv4 by an IPv6 gateway"],
        found: &["routes -4"],
    },
    Known {
        fault: "datagrams to one of the addresses come at another",
        rows: &[
            "several subnets",
            "several addresses in one subnet",
            "a /32 beside the /24",
            "labels",
            "ULA and global",
            "temporary address",
            "several global addresses, one of another size",
            "169.254/16 before another",
            "source addresses of routes",
        ],
        found: &["Udp peer to", "Udp host to"],
    },
    Known { fault: "it is the first address", rows: &["169.254/16 before another"], found: &["primary -4"] },
    Known {
        fault: "duplicate address detection is not waited for",
        rows: &["tentative address, which is waited for", "optimistic address"],
        found: &["addresses -6", "routes -6", "networks -6", "template -6", "Tcp guest", "Udp guest"],
    },
    Known {
        fault: "the first next hop is the gateway",
        rows: &["the second next hop is heavier", "a group of next hop objects"],
        found: &["Tcp guest to the host", "Udp guest to the host"],
    },
    Known {
        fault: "the first next hop's interface is the template",
        rows: &["the heavier next hop is on another interface"],
        found: &["nsenter"],
    },
    Known { fault: "multicast routes are not copied", rows: &["multicast routes"], found: &["routes"] },
];

/// The fault of which something that was found in a row comes.
pub(crate) fn known(row: &str, found: &str) -> Option<&'static str> {
    let of = |known: &&Known| {
        known.rows.contains(&row) && known.found.iter().any(|start| found.starts_with(start))
    };
    KNOWN.iter().find(of).map(|known| known.fault)
}
