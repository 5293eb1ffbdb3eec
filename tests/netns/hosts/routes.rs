//! The host's routes.

use crate::row::{Base, Family, ROW, Row, V4, V6};

/// A second link with addresses of both families and no routes yet.
macro_rules! second_link {
    ($routes:literal) => {
        concat!(
            "
            link eth1 203.0.113.1/24 2001:db8:1::1/64
            ip addr add 203.0.113.2/24 dev eth1
            ip addr add 2001:db8:1::2/64 dev eth1
            ip route del default
            ip -6 route del default
            ",
            $routes
        )
    };
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "two default routes over one interface",
        setup: "
            ip route add default via 192.0.2.9 metric 200
            ip route add default via 2001:db8::9 dev eth0 metric 2000
        ",
        v4: Some(Family { routes: &["default via 192.0.2.1", "default via 192.0.2.9 metric 200"], ..V4 }),
        v6: Some(Family {
            routes: &["default via 2001:db8::1", "default via 2001:db8::9 metric 2000"],
            ..V6
        }),
        ..ROW
    },
    Row {
        name: "two interfaces, the second is better",
        setup: second_link!(
            "
            ip route add default via 192.0.2.1 metric 200
            ip route add default via 203.0.113.1 metric 100
            ip route add default via 2001:db8::1 metric 200
            ip route add default via 2001:db8:1::1 metric 100
            "
        ),
        tap: "eth1",
        v4: Some(Family {
            template: "eth1",
            addresses: &["203.0.113.2/24"],
            routes: &["default via 203.0.113.1 metric 100"],
            near: &["203.0.113.2", "192.0.2.2"],
            host: "203.0.113.1",
            ..V4
        }),
        v6: Some(Family {
            template: "eth1",
            addresses: &["2001:db8:1::2/64"],
            routes: &["default via 2001:db8:1::1 metric 100"],
            near: &["2001:db8:1::2"],
            own: &["2001:db8::2"],
            host: "2001:db8:1::1",
            ..V6
        }),
        ..ROW
    },
    Row {
        name: "two next hops of one weight",
        setup: "
            peer addr add 192.0.2.9/24 dev eth0
            ip route replace default nexthop via 192.0.2.1 nexthop via 192.0.2.9
        ",
        v4: Some(Family {
            routes: &["default nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.9 weight 1"],
            ..V4
        }),
        ..ROW
    },
    Row {
        name: "the second next hop is heavier",
        setup: "
            peer addr add 192.0.2.9/24 dev eth0
            peer addr add 2001:db8::9/64 dev eth0
            ip route replace default nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.9 weight 5
            ip -6 route del default
            ip -6 route add default nexthop via 2001:db8::1 weight 1 nexthop via 2001:db8::9 weight 5
        ",
        v4: Some(Family {
            routes: &["default nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.9 weight 5"],
            host: "192.0.2.9",
            ..V4
        }),
        v6: Some(Family {
            routes: &["default nexthop via 2001:db8::1 weight 1 nexthop via 2001:db8::9 weight 5"],
            host: "2001:db8::9",
            ..V6
        }),
        ..ROW
    },
    Row {
        name: "the heavier next hop is on another interface",
        setup: second_link!(
            "
            ip route add default nexthop via 192.0.2.1 weight 1 nexthop via 203.0.113.1 weight 5
            ip -6 route add default nexthop via 2001:db8::1 weight 1 nexthop via 2001:db8:1::1 weight 5
            "
        ),
        tap: "eth1",
        v4: Some(Family {
            template: "eth1",
            addresses: &["203.0.113.2/24"],
            routes: &["default via 203.0.113.1"],
            // Over which of the two the host goes is a matter of chance.
            far: &[],
            near: &["203.0.113.2"],
            own: &["192.0.2.2"],
            host: "203.0.113.1",
            ..V4
        }),
        v6: Some(Family {
            template: "eth1",
            addresses: &["2001:db8:1::2/64"],
            routes: &["default via 2001:db8:1::1"],
            far: &[],
            near: &["2001:db8:1::2"],
            own: &["2001:db8::2"],
            host: "2001:db8:1::1",
            ..V6
        }),
        ..ROW
    },
    Row {
        name: "next hop objects",
        setup: "
            ip nexthop add id 4 via 192.0.2.1 dev eth0
            ip nexthop add id 6 via 2001:db8::1 dev eth0
            ip route del default
            ip -6 route del default
            ip route add default nhid 4
            ip -6 route add default nhid 6
        ",
        ..ROW
    },
    Row {
        name: "next hop objects, described nowhere else",
        setup: "
            tune net/ipv4/nexthop_compat_mode 0
            ip nexthop add id 4 via 192.0.2.1 dev eth0
            ip nexthop add id 6 via 2001:db8::1 dev eth0
            ip route del default
            ip -6 route del default
            ip route add default nhid 4
            ip -6 route add default nhid 6
        ",
        ..ROW
    },
    Row {
        name: "a group of next hop objects",
        setup: "
            peer addr add 192.0.2.9/24 dev eth0
            ip nexthop add id 1 via 192.0.2.1 dev eth0
            ip nexthop add id 2 via 192.0.2.9 dev eth0
            ip nexthop add id 10 group 1,1/2,5
            ip route del default
            ip route add default nhid 10
        ",
        v4: Some(Family {
            routes: &["default nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.9 weight 5"],
            host: "192.0.2.9",
            ..V4
        }),
        ..ROW
    },
    Row {
        name: "source addresses of routes",
        setup: "
            ip addr add 192.0.2.3/24 dev eth0
            ip addr add 2001:db8::3/64 dev eth0 nodad
            ip route replace default via 192.0.2.1 src 192.0.2.3
            ip -6 route replace default via 2001:db8::1 dev eth0 src 2001:db8::2
        ",
        v4: Some(Family {
            primary: "192.0.2.3",
            addresses: &["192.0.2.2/24", "192.0.2.3/24"],
            routes: &["default via 192.0.2.1 src 192.0.2.3"],
            near: &["192.0.2.2", "192.0.2.3"],
            ..V4
        }),
        v6: Some(Family {
            addresses: &["2001:db8::2/64", "2001:db8::3/64"],
            routes: &["default via 2001:db8::1 src 2001:db8::2"],
            near: &["2001:db8::2", "2001:db8::3"],
            ..V6
        }),
        ..ROW
    },
    Row {
        name: "metrics of TCP in routes",
        setup: "
            ip route replace default via 192.0.2.1 mtu 1400 advmss 1300 initcwnd 20
            ip -6 route del default
            ip -6 route add default via 2001:db8::1 dev eth0 mtu 1400
        ",
        v4: Some(Family { routes: &["default via 192.0.2.1 mtu 1400 advmss 1300 initcwnd 20"], ..V4 }),
        v6: Some(Family { routes: &["default via 2001:db8::1 mtu 1400"], ..V6 }),
        ..ROW
    },
    Row {
        name: "routes that lead nowhere, which are not copied",
        setup: "
            ip route add unreachable 10.1.0.0/16
            ip route add blackhole 10.2.0.0/16
            ip route add prohibit 10.3.0.0/16
            ip route add unreachable 2001:db8:11::/48
            ip route add blackhole 2001:db8:12::/48
            ip route add prohibit 2001:db8:13::/48
            ip route add unreachable default metric 4278198272
            ip -6 route add unreachable default metric 4278198272
        ",
        ..ROW
    },
    Row {
        name: "multicast routes",
        setup: "
            ip route add multicast 232.0.0.0/8 dev eth0
            ip route add 224.0.0.0/4 dev eth0
            ip route add 239.1.0.0/16 via 192.0.2.1
            ip -6 route add ff05::/16 dev eth0
        ",
        v4: Some(Family {
            routes: &[
                "default via 192.0.2.1",
                "multicast 232.0.0.0/8",
                "224.0.0.0/4",
                "239.1.0.0/16 via 192.0.2.1",
            ],
            ..V4
        }),
        v6: Some(Family { routes: &["default via 2001:db8::1", "ff05::/16"], ..V6 }),
        ..ROW
    },
    Row {
        name: "link-local gateway",
        base: Base::V4,
        setup: "
            ip addr add 2001:db8::2/64 dev eth0
            ip route add default via fe80::1 dev eth0
        ",
        v6: Some(Family { routes: &["default via fe80::1"], host: "fe80::1", ..V6 }),
        ..ROW
    },
    Row {
        name: "IPv4 by an IPv6 gateway",
        base: Base::V6,
        setup: "
            ip addr add 192.0.2.2/24 dev eth0
            ip -4 route add default via inet6 fe80::1 dev eth0
        ",
        v4: Some(Family { routes: &["default via inet6 fe80::1"], host: "", ..V4 }),
        ..ROW
    },
    Row {
        name: "default routes without a gateway",
        setup: "
            ip route replace default dev eth0
            ip -6 route del default
            ip -6 route add default dev eth0
            peer addr add 2001:db8:f::1/128 dev eth0
        ",
        v4: Some(Family { routes: &["default"], host: "", ..V4 }),
        v6: Some(Family { routes: &["default"], host: "", ..V6 }),
        ..ROW
    },
    Row {
        name: "the halves of a default route",
        setup: "
            ip route del default
            ip route add 0.0.0.0/1 via 192.0.2.1
            ip route add 128.0.0.0/1 via 192.0.2.1
            ip -6 route del default
            ip -6 route add ::/1 via 2001:db8::1
            ip -6 route add 8000::/1 via 2001:db8::1
        ",
        v4: Some(Family {
            routes: &["0.0.0.0/1 via 192.0.2.1", "128.0.0.0/1 via 192.0.2.1"],
            host: "",
            ..V4
        }),
        v6: Some(Family { routes: &["::/1 via 2001:db8::1", "8000::/1 via 2001:db8::1"], host: "", ..V6 }),
        ..ROW
    },
    Row {
        name: "routes beside the default one",
        setup: "
            ip route add 10.1.0.0/16 via 192.0.2.1 metric 50
            ip route add 10.1.0.0/16 via 192.0.2.9 metric 60
            ip route add 10.2.0.0/16 via 192.0.2.1 tos 0x10
            ip -6 route add 2001:db8:11::/48 via fe80::9 dev eth0
            ip -6 route add fd00::/8 via 2001:db8::9 metric 50
        ",
        v4: Some(Family {
            routes: &[
                "default via 192.0.2.1",
                "10.1.0.0/16 via 192.0.2.1 metric 50",
                "10.1.0.0/16 via 192.0.2.9 metric 60",
                "10.2.0.0/16 tos 0x10 via 192.0.2.1",
            ],
            ..V4
        }),
        v6: Some(Family {
            routes: &[
                "default via 2001:db8::1",
                "2001:db8:11::/48 via fe80::9",
                "fd00::/8 via 2001:db8::9 metric 50",
            ],
            ..V6
        }),
        ..ROW
    },
];
