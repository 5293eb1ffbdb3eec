//! Which families the host has, and where.

use crate::row::{Base, Family, LOCAL4, LOCAL6, ROW, Row, V4, V6};

/// IPv6 at the host's second link.
const SECOND6: Family = Family {
    template: "eth1",
    addresses: &["2001:db8:1::2/64"],
    routes: &["default via 2001:db8:1::1"],
    near: &["2001:db8:1::2"],
    host: "2001:db8:1::1",
    ..V6
};

/// IPv4 at the host's second link.
const SECOND4: Family = Family {
    template: "eth1",
    addresses: &["203.0.113.2/24"],
    routes: &["default via 203.0.113.1"],
    near: &["203.0.113.2"],
    host: "203.0.113.1",
    ..V4
};

pub(crate) const ROWS: &[Row] = &[
    Row { name: "both families", ..ROW },
    Row {
        name: "IPv4, link-local IPv6",
        base: Base::V4,
        setup: "ip addr add fe80::2/64 dev eth0 nodad",
        v6: Some(Family { near: &["fe80::2"], ..LOCAL6 }),
        ..ROW
    },
    Row { name: "IPv6 alone", base: Base::V6, v4: Some(LOCAL4), ..ROW },
    Row {
        name: "IPv6 disabled everywhere",
        base: Base::V4,
        setup: "tune net/ipv6/conf/all/disable_ipv6 1",
        v6: Some(Family { loopback: false, ..LOCAL6 }),
        ..ROW
    },
    Row {
        name: "IPv6 disabled on the link",
        setup: "tune net/ipv6/conf/eth0/disable_ipv6 1",
        v6: Some(LOCAL6),
        ..ROW
    },
    Row { name: "--ipv4-only", options: "--ipv4-only", v6: None, ..ROW },
    Row { name: "--ipv6-only", options: "--ipv6-only", v4: None, ..ROW },
    Row {
        name: "nothing but the loopback",
        base: Base::Nothing,
        tap: "tap0",
        v4: Some(LOCAL4),
        v6: Some(LOCAL6),
        ..ROW
    },
    Row {
        name: "no global address",
        base: Base::Link,
        tap: "tap0",
        v4: Some(LOCAL4),
        v6: Some(LOCAL6),
        ..ROW
    },
    Row {
        name: "the only interface is down",
        setup: "ip link set eth0 down",
        tap: "tap0",
        v4: Some(Family { own: &["192.0.2.2"], ..LOCAL4 }),
        v6: Some(LOCAL6),
        ..ROW
    },
    Row {
        name: "IPv4 on eth0, IPv6 on eth1",
        base: Base::V4,
        setup: "
            link eth1 2001:db8:1::1/64
            ip addr add 2001:db8:1::2/64 dev eth1
            ip route add default via 2001:db8:1::1
        ",
        v6: Some(SECOND6),
        ..ROW
    },
    Row {
        name: "IPv6 on eth0, IPv4 on eth1",
        base: Base::V6,
        setup: "
            link eth1 203.0.113.1/24
            ip addr add 203.0.113.2/24 dev eth1
            ip route add default via 203.0.113.1
        ",
        tap: "eth1",
        v4: Some(SECOND4),
        ..ROW
    },
    Row {
        name: "-i eth0, IPv6 is on eth1",
        base: Base::V4,
        setup: "
            link eth1 2001:db8:1::1/64
            ip addr add 2001:db8:1::2/64 dev eth1
            ip route add default via 2001:db8:1::1
        ",
        options: "-i eth0",
        v6: Some(LOCAL6),
        ..ROW
    },
    Row {
        name: "-i eth0, IPv4 is on eth1",
        base: Base::V6,
        setup: "
            link eth1 203.0.113.1/24
            ip addr add 203.0.113.2/24 dev eth1
            ip route add default via 203.0.113.1
        ",
        options: "-i eth0",
        v4: Some(LOCAL4),
        ..ROW
    },
    Row {
        name: "-i eth1, the worse of two",
        setup: "
            link eth1 203.0.113.1/24 2001:db8:1::1/64
            ip addr add 203.0.113.2/24 dev eth1
            ip addr add 2001:db8:1::2/64 dev eth1
            ip route add default via 203.0.113.1 metric 700
            ip route add default via 2001:db8:1::1 metric 7000
        ",
        options: "-i eth1",
        tap: "eth1",
        v4: Some(Family { routes: &["default via 203.0.113.1 metric 700"], ..SECOND4 }),
        v6: Some(Family { routes: &["default via 2001:db8:1::1 metric 7000"], ..SECOND6 }),
        ..ROW
    },
    Row {
        name: "-i eth0 without a default route",
        setup: "
            ip route del default
            ip -6 route del default
        ",
        options: "-i eth0",
        v4: Some(Family { routes: &["169.254.2.2"], far: &["192.0.2.1"], host: "", ..V4 }),
        v6: Some(Family { routes: &[], far: &["2001:db8::1"], host: "", ..V6 }),
        ..ROW
    },
    Row {
        name: "no default route",
        setup: "
            ip route del default
            ip -6 route del default
        ",
        v4: Some(Family { routes: &["169.254.2.2"], far: &["192.0.2.1"], host: "", ..V4 }),
        v6: Some(Family { routes: &[], far: &["2001:db8::1"], host: "", ..V6 }),
        ..ROW
    },
    Row {
        name: "default route in another table",
        setup: "
            ip route del default
            ip -6 route del default
            ip route add default via 192.0.2.1 table 100
            ip -6 route add default via 2001:db8::1 dev eth0 table 100
            ip rule add from all lookup 100
            ip -6 rule add from all lookup 100
        ",
        v4: Some(Family { routes: &["169.254.2.2"], far: &["192.0.2.1"], host: "", ..V4 }),
        v6: Some(Family { routes: &[], far: &["2001:db8::1"], host: "", ..V6 }),
        ..ROW
    },
];
