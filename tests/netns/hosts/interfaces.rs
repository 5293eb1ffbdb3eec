//! Kinds, names and sizes of the host's interfaces.

use crate::row::{Base, Family, LOCAL6, ROW, Row, V4, V6};

/// Both families by another interface than `eth0`, which has the peer behind it.
const fn by(interface: &'static str) -> Row {
    let v4 = Some(Family { template: interface, ..V4 });
    let v6 = Some(Family { template: interface, ..V6 });
    Row { base: Base::Link, tap: interface, v4, v6, ..ROW }
}

/// The link, and the only one, by another name.
const fn named(interface: &'static str) -> Row {
    Row { base: Base::Both, ..by(interface) }
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "point-to-point addresses",
        base: Base::Link,
        setup: "
            ip addr add 192.0.2.2 peer 192.0.2.1 dev eth0
            ip addr add 2001:db8::2 peer 2001:db8::1 dev eth0
            ip route add default via 192.0.2.1
            again ip route add default via 2001:db8::1
        ",
        v4: Some(Family { addresses: &["192.0.2.2 peer 192.0.2.1/32"], ..V4 }),
        v6: Some(Family { addresses: &["2001:db8::2 peer 2001:db8::1/128"], ..V6 }),
        ..ROW
    },
    Row {
        name: "a tun beside",
        setup: "
            ip tuntap add tun0 mode tun
            ip link set tun0 up
            ip addr add 10.7.0.2 peer 10.7.0.1 dev tun0
            ip route add 10.8.0.0/16 via 10.7.0.1
            ip route add default dev tun0 metric 900
        ",
        v4: Some(Family { own: &["10.7.0.2"], ..V4 }),
        ..ROW
    },
    Row {
        name: "a tun alone",
        base: Base::Nothing,
        setup: "
            ip tuntap add tun0 mode tun
            ip link set tun0 up
            ip addr add 10.7.0.2 peer 10.7.0.1 dev tun0
            ip route add default via 10.7.0.1
        ",
        tap: "tun0",
        v4: Some(Family {
            template: "tun0",
            addresses: &["10.7.0.2 peer 10.7.0.1/32"],
            routes: &["default via 10.7.0.1"],
            far: &[],
            near: &[],
            own: &["10.7.0.2"],
            host: "10.7.0.1",
            ..V4
        }),
        v6: Some(LOCAL6),
        ..ROW
    },
    Row {
        name: "a dummy beside",
        needs: &["dummy"],
        setup: "
            ip link add dummy0 type dummy
            ip link set dummy0 up
            ip addr add 10.7.0.2/24 dev dummy0
        ",
        v4: Some(Family { own: &["10.7.0.2"], ..V4 }),
        ..ROW
    },
    Row {
        name: "VLAN",
        needs: &["vlan"],
        setup: "
            ip link add link eth0 name eth0.100 type vlan id 100
            ip link set eth0.100 up
            ip -n $PEER link add link eth0 name eth0.100 type vlan id 100
            peer link set eth0.100 up
            peer addr flush dev eth0
            peer addr add 192.0.2.1/24 dev eth0.100
            peer addr add 2001:db8::1/64 dev eth0.100
            ip addr add 192.0.2.2/24 dev eth0.100
            ip addr add 2001:db8::2/64 dev eth0.100
            ip route add default via 192.0.2.1
            ip route add default via 2001:db8::1
        ",
        ..by("eth0.100")
    },
    Row {
        name: "bridge",
        needs: &["bridge"],
        setup: "
            ip link add br0 type bridge
            ip link set eth0 master br0
            ip link set br0 up
            ip addr add 192.0.2.2/24 dev br0
            ip addr add 2001:db8::2/64 dev br0
            ip route add default via 192.0.2.1
            ip route add default via 2001:db8::1
        ",
        ..by("br0")
    },
    Row {
        name: "a bridge of containers beside",
        needs: &["bridge"],
        setup: "
            ip link add br0 type bridge
            ip link set br0 up
            ip addr add 172.17.0.1/16 dev br0
            ip addr add fd00:17::1/64 dev br0
        ",
        v4: Some(Family { own: &["172.17.0.1"], ..V4 }),
        ..ROW
    },
    Row {
        name: "macvlan",
        needs: &["macvlan"],
        setup: "
            ip link add link eth0 name mv0 type macvlan mode bridge
            ip link set mv0 up
            ip addr add 192.0.2.2/24 dev mv0
            ip addr add 2001:db8::2/64 dev mv0
            ip route add default via 192.0.2.1
            ip route add default via 2001:db8::1
        ",
        ..by("mv0")
    },
    Row {
        name: "bond",
        needs: &["bond"],
        setup: "
            ip link add bond0 type bond mode active-backup
            ip link set eth0 down
            ip link set eth0 master bond0
            ip link set bond0 up
            ip addr add 192.0.2.2/24 dev bond0
            ip addr add 2001:db8::2/64 dev bond0
            ip route add default via 192.0.2.1
            ip route add default via 2001:db8::1
        ",
        ..by("bond0")
    },
    Row {
        name: "MTU 1280",
        setup: "
            ip link set eth0 mtu 1280
            peer link set eth0 mtu 1280
        ",
        ..ROW
    },
    Row {
        name: "MTU 9000",
        setup: "
            ip link set eth0 mtu 9000
            peer link set eth0 mtu 9000
        ",
        ..ROW
    },
    Row {
        name: "MTU 65535",
        setup: "
            ip link set eth0 mtu 65535
            peer link set eth0 mtu 65535
        ",
        ..ROW
    },
    Row {
        name: "a name of 15 characters",
        setup: "
            ip link set eth0 down
            ip link set eth0 name enp0s31f6u1u2i4
            ip link set enp0s31f6u1u2i4 up
            ip route add default via 192.0.2.1
            ip addr add 2001:db8::2/64 dev enp0s31f6u1u2i4
            ip route add default via 2001:db8::1
        ",
        ..named("enp0s31f6u1u2i4")
    },
    Row {
        name: "a name with dots and dashes",
        setup: "
            ip link set eth0 down
            ip link set eth0 name wan-1.100_a-b
            ip link set wan-1.100_a-b up
            ip route add default via 192.0.2.1
            ip addr add 2001:db8::2/64 dev wan-1.100_a-b
            ip route add default via 2001:db8::1
        ",
        ..named("wan-1.100_a-b")
    },
    Row {
        name: "the better route's interface has no carrier",
        setup: "
            link eth1 203.0.113.1/24
            ip addr add 203.0.113.2/24 dev eth1
            tune net/ipv4/conf/eth1/ignore_routes_with_linkdown 1
            tune net/ipv6/conf/eth1/ignore_routes_with_linkdown 1
            ip route del default
            ip route add default via 203.0.113.1 metric 10
            ip route add default via 192.0.2.1 metric 20
            peer link set eth1 down
            noticed() { ip route | grep -q linkdown; }
            again noticed
        ",
        v4: Some(Family {
            routes: &["default via 192.0.2.1 metric 20"],
            own: &["203.0.113.2"],
            ..V4
        }),
        ..ROW
    },
    Row {
        name: "another interface is down",
        setup: "
            link eth1 203.0.113.1/24
            ip addr add 203.0.113.2/24 dev eth1
            ip link set eth1 down
        ",
        v4: Some(Family { own: &["203.0.113.2"], ..V4 }),
        ..ROW
    },
    Row {
        name: "the only interface has no carrier",
        setup: "
            peer link set eth0 down
            noticed() { ip route | grep -q linkdown; }
            again noticed
        ",
        v4: Some(Family { far: &[], near: &[], own: &["192.0.2.2"], ..V4 }),
        v6: Some(Family { far: &[], near: &[], own: &["2001:db8::2"], ..V6 }),
        ..ROW
    },
    Row {
        name: "the addresses are on the loopback",
        base: Base::Link,
        setup: "
            until_shown fe80
            peer -6 route add 2001:db8::2 via $(ip -br addr show dev eth0 | sed 's/.* fe80/fe80/; s,/.*,,') dev eth0
            ip addr add 192.0.2.2/32 dev lo
            ip addr add 2001:db8::2/128 dev lo nodad
            ip route add 192.0.2.1 dev eth0 src 192.0.2.2
            ip route add default via 192.0.2.1 src 192.0.2.2
            ip route add default via fe80::1 dev eth0 src 2001:db8::2
        ",
        v4: Some(Family {
            addresses: &["192.0.2.2/32"],
            routes: &["192.0.2.1 src 192.0.2.2", "default via 192.0.2.1 src 192.0.2.2"],
            ..V4
        }),
        v6: Some(Family {
            addresses: &["2001:db8::2/128"],
            routes: &["default via fe80::1 src 2001:db8::2"],
            host: "fe80::1",
            ..V6
        }),
        ..ROW
    },
    Row {
        name: "more addresses on the loopback",
        setup: "
            ip addr add 203.0.113.9/32 dev lo
            ip addr add 2001:db8:9::9/128 dev lo
        ",
        v4: Some(Family { near: &["192.0.2.2", "203.0.113.9"], ..V4 }),
        v6: Some(Family { own: &["2001:db8:9::9"], ..V6 }),
        ..ROW
    },
];
