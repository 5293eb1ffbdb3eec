//! The addresses of one link.

use crate::row::{Base, Family, LOCAL6, ROW, Row, V4, V6};

/// A host with a script of its own for IPv4, and no IPv6.
const ONLY4: Row = Row { base: Base::Link, v6: Some(LOCAL6), ..ROW };

/// A host with IPv4 as usual and a script of its own for IPv6.
const OWN6: Row = Row { base: Base::V4, ..ROW };

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "/32, gateway declared on the link",
        setup: "
            peer addr add 203.0.113.1/32 dev eth0
            ip addr add 192.0.2.2/32 dev eth0
            ip route add default via 203.0.113.1 dev eth0 onlink
        ",
        v4: Some(Family {
            addresses: &["192.0.2.2/32"],
            routes: &["default via 203.0.113.1 onlink"],
            host: "203.0.113.1",
            ..V4
        }),
        ..ONLY4
    },
    Row {
        name: "/32, route to the gateway",
        setup: "
            peer addr add 203.0.113.1/32 dev eth0
            ip addr add 192.0.2.2/32 dev eth0
            ip route add 203.0.113.1 dev eth0
            ip route add default via 203.0.113.1
        ",
        v4: Some(Family {
            addresses: &["192.0.2.2/32"],
            routes: &["203.0.113.1", "default via 203.0.113.1"],
            host: "203.0.113.1",
            ..V4
        }),
        ..ONLY4
    },
    Row {
        name: "/31",
        setup: "
            peer addr add 192.0.2.3/31 dev eth0
            ip addr add 192.0.2.2/31 dev eth0
            ip route add default via 192.0.2.3
        ",
        v4: Some(Family {
            addresses: &["192.0.2.2/31"],
            routes: &["default via 192.0.2.3"],
            host: "192.0.2.3",
            ..V4
        }),
        ..ONLY4
    },
    Row {
        name: "/25",
        setup: "
            ip addr add 192.0.2.2/25 dev eth0
            ip route add default via 192.0.2.1
        ",
        v4: Some(Family { addresses: &["192.0.2.2/25"], ..V4 }),
        ..ONLY4
    },
    Row {
        name: "/16",
        setup: "
            ip addr add 192.0.2.2/16 dev eth0
            ip route add default via 192.0.2.1
        ",
        v4: Some(Family { addresses: &["192.0.2.2/16"], ..V4 }),
        ..ONLY4
    },
    Row {
        name: "/8, broadcast address of its own",
        setup: "
            peer addr add 10.0.0.1/8 dev eth0
            ip addr add 10.1.2.3/8 broadcast 10.1.2.255 dev eth0
            ip route add default via 10.0.0.1
        ",
        v4: Some(Family {
            addresses: &["10.1.2.3/8"],
            routes: &["default via 10.0.0.1"],
            near: &["10.1.2.3"],
            host: "10.0.0.1",
            ..V4
        }),
        ..ONLY4
    },
    Row {
        name: "several addresses in one subnet",
        setup: "
            ip addr add 192.0.2.3/24 dev eth0
            ip addr add 192.0.2.4/24 dev eth0
            ip addr add 2001:db8::3/64 dev eth0
        ",
        v4: Some(Family {
            primary: "192.0.2.2",
            addresses: &["192.0.2.2/24", "192.0.2.3/24", "192.0.2.4/24"],
            near: &["192.0.2.2", "192.0.2.3", "192.0.2.4"],
            ..V4
        }),
        v6: Some(Family {
            primary: "2001:db8::3",
            addresses: &["2001:db8::2/64", "2001:db8::3/64"],
            near: &["2001:db8::2", "2001:db8::3"],
            ..V6
        }),
        ..ROW
    },
    Row {
        name: "several subnets",
        setup: "
            peer addr add 203.0.113.1/24 dev eth0
            peer addr add 2001:db8:1::1/64 dev eth0
            ip addr add 203.0.113.2/24 dev eth0
            ip addr add 2001:db8:1::2/64 dev eth0
        ",
        v4: Some(Family {
            addresses: &["192.0.2.2/24", "203.0.113.2/24"],
            far: &["198.51.100.1", "203.0.113.1"],
            near: &["192.0.2.2", "203.0.113.2"],
            ..V4
        }),
        v6: Some(Family {
            primary: "2001:db8:1::2",
            addresses: &["2001:db8::2/64", "2001:db8:1::2/64"],
            far: &["2001:db8:f::1", "2001:db8:1::1"],
            near: &["2001:db8::2", "2001:db8:1::2"],
            ..V6
        }),
        ..ROW
    },
    Row {
        name: "a /32 beside the /24",
        setup: "ip addr add 203.0.113.9/32 dev eth0",
        v4: Some(Family {
            addresses: &["192.0.2.2/24", "203.0.113.9/32"],
            near: &["192.0.2.2", "203.0.113.9"],
            ..V4
        }),
        ..ROW
    },
    Row {
        name: "labels",
        setup: "
            ip addr add 192.0.2.3/24 dev eth0 label eth0:1
            ip addr add 203.0.113.2/24 dev eth0 label eth0:web
        ",
        v4: Some(Family {
            addresses: &["192.0.2.2/24", "192.0.2.3/24", "203.0.113.2/24"],
            near: &["192.0.2.2", "192.0.2.3", "203.0.113.2"],
            ..V4
        }),
        ..ROW
    },
    Row {
        name: "an address of link scope, which is not copied",
        setup: "ip addr add 203.0.113.9/32 dev eth0 scope link",
        ..ROW
    },
    Row {
        name: "finite lifetimes",
        setup: "
            ip addr change 192.0.2.2/24 dev eth0 valid_lft 3600 preferred_lft 1800
            ip addr change 2001:db8::2/64 dev eth0 valid_lft 3600 preferred_lft 1800
        ",
        ..ROW
    },
    Row {
        name: "valid for ever, preferred for a while",
        setup: "
            ip addr change 192.0.2.2/24 dev eth0 valid_lft forever preferred_lft 1800
            ip addr change 2001:db8::2/64 dev eth0 valid_lft forever preferred_lft 1800
        ",
        ..ROW
    },
    Row {
        name: "no route to the subnet but a given one",
        setup: "
            ip addr add 192.0.2.2/24 dev eth0 noprefixroute
            ip addr add 2001:db8::2/64 dev eth0 noprefixroute
            ip route add 192.0.2.1 dev eth0 metric 9
            ip route add default via 192.0.2.1 metric 9
            ip route add 2001:db8::/60 dev eth0 metric 9
            ip route add default via 2001:db8::1 dev eth0 metric 9
        ",
        base: Base::Link,
        v4: Some(Family { routes: &["192.0.2.1 metric 9", "default via 192.0.2.1 metric 9"], ..V4 }),
        v6: Some(Family { routes: &["2001:db8::/60 metric 9", "default via 2001:db8::1 metric 9"], ..V6 }),
        ..ROW
    },
    Row {
        name: "metrics of subnets",
        setup: "
            ip addr add 192.0.2.2/24 dev eth0 metric 77
            ip addr add 2001:db8::2/64 dev eth0 metric 77
            ip route add default via 192.0.2.1
            ip route add default via 2001:db8::1 dev eth0
        ",
        base: Base::Link,
        ..ROW
    },
    Row {
        name: "169.254/16 before another",
        setup: "
            ip addr add 169.254.7.7/16 dev eth0
            ip addr add 192.0.2.2/24 dev eth0
            ip route add default via 192.0.2.1
        ",
        v4: Some(Family {
            primary: "192.0.2.2",
            addresses: &["169.254.7.7/16", "192.0.2.2/24"],
            near: &["192.0.2.2", "169.254.7.7"],
            ..V4
        }),
        ..ONLY4
    },
    Row {
        name: "169.254/16 alone",
        setup: "
            ip addr add 169.254.7.7/16 dev eth0
            ip route add default dev eth0
        ",
        v4: Some(Family {
            addresses: &["169.254.7.7/16"],
            routes: &["default"],
            near: &["169.254.7.7"],
            host: "",
            ..V4
        }),
        ..ONLY4
    },
    Row {
        name: "/128, link-local gateway",
        setup: "
            ip addr add 2001:db8::2/128 dev eth0
            ip route add default via fe80::1 dev eth0
        ",
        v6: Some(Family {
            addresses: &["2001:db8::2/128"],
            routes: &["default via fe80::1"],
            host: "fe80::1",
            ..V6
        }),
        ..OWN6
    },
    Row {
        name: "/127",
        setup: "
            peer addr add 2001:db8::3/127 dev eth0
            ip addr add 2001:db8::2/127 dev eth0
            ip route add default via 2001:db8::3
        ",
        v6: Some(Family {
            addresses: &["2001:db8::2/127"],
            routes: &["default via 2001:db8::3"],
            host: "2001:db8::3",
            ..V6
        }),
        ..OWN6
    },
    Row {
        name: "ULA and global",
        setup: "
            ip addr add fd00:7::2/64 dev eth0
            ip addr add 2001:db8::2/64 dev eth0
            ip route add default via fe80::1 dev eth0
        ",
        v6: Some(Family {
            primary: "2001:db8::2",
            addresses: &["fd00:7::2/64", "2001:db8::2/64"],
            routes: &["default via fe80::1"],
            near: &["2001:db8::2", "fd00:7::2"],
            host: "fe80::1",
            ..V6
        }),
        ..OWN6
    },
    Row {
        name: "ULA alone",
        setup: "
            ip addr add fd00:7::2/64 dev eth0
            ip route add default via fe80::1 dev eth0
        ",
        v6: Some(Family {
            addresses: &["fd00:7::2/64"],
            routes: &["default via fe80::1"],
            near: &["fd00:7::2"],
            host: "fe80::1",
            ..V6
        }),
        ..OWN6
    },
    Row {
        name: "temporary address",
        setup: "
            tune net/ipv6/conf/eth0/use_tempaddr 2
            ip addr add 2001:db8::2/64 dev eth0 mngtmpaddr
            ip route add default via fe80::1 dev eth0
            until_shown temporary
        ",
        v6: Some(Family {
            addresses: &["2001:db8::2/64", "2001:db8::*"],
            routes: &["default via fe80::1"],
            host: "fe80::1",
            ..V6
        }),
        ..OWN6
    },
    Row {
        name: "deprecated address, which is not copied",
        setup: "
            ip addr add 2001:db8::9/64 dev eth0 preferred_lft 0
            until_shown deprecated
        ",
        ..ROW
    },
    Row {
        name: "several global addresses, one of another size",
        setup: "
            ip addr add 2001:db8:1::2/48 dev eth0
            ip addr add 2001:db8:2::2/128 dev eth0
        ",
        v6: Some(Family {
            primary: "2001:db8:2::2",
            addresses: &["2001:db8::2/64", "2001:db8:1::2/48", "2001:db8:2::2/128"],
            near: &["2001:db8::2", "2001:db8:1::2", "2001:db8:2::2"],
            ..V6
        }),
        ..ROW
    },
    Row {
        name: "tentative address, which is waited for",
        setup: "
            settle() { :; }
            tune net/ipv6/conf/eth0/accept_dad 1
            tune net/ipv6/conf/eth0/router_solicitation_delay 0
            ip addr add 2001:db8::2/64 dev eth0
            ip route add default via 2001:db8::1 dev eth0
        ",
        v6: Some(Family { far: &[], near: &[], ..V6 }),
        ..OWN6
    },
    Row {
        name: "duplicate address, which is not copied",
        setup: "
            tune net/ipv6/conf/eth0/accept_dad 1
            tune net/ipv6/conf/eth0/router_solicitation_delay 0
            peer addr add 2001:db8:5::9/64 dev eth0
            ip addr add 2001:db8:5::9/64 dev eth0
            until_shown dadfailed
        ",
        ..ROW
    },
    Row {
        name: "optimistic address",
        setup: "
            settle() { :; }
            tune net/ipv6/conf/eth0/accept_dad 1
            tune net/ipv6/conf/eth0/optimistic_dad 1
            ip addr add 2001:db8::2/64 dev eth0 optimistic
            ip route add default via 2001:db8::1 dev eth0
        ",
        v6: Some(Family { far: &[], near: &[], ..V6 }),
        ..OWN6
    },
    Row {
        name: "address without duplicate detection",
        setup: "
            tune net/ipv6/conf/eth0/accept_dad 1
            ip addr add 2001:db8::2/64 dev eth0 nodad
            ip route add default via 2001:db8::1 dev eth0
        ",
        ..OWN6
    },
];
