//! A row of the table: one configuration of the host, and what follows from it.

/// One configuration of the host. Rows name what differs from [`ROW`].
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// What the row is about.
    pub(crate) name: &'static str,
    /// Kinds of links that the kernel must know.
    pub(crate) needs: &'static [&'static str],
    /// What is configured before [`Self::setup`].
    pub(crate) base: Base,
    /// Shell script that configures the host and, with `peer …` for `ip …`, the peer. See
    /// [`PRELUDE`].
    pub(crate) setup: &'static str,
    /// Options of pasta beside `--config-net` and the forwarded ports.
    pub(crate) options: &'static str,
    /// Name of the guest's interface.
    pub(crate) tap: &'static str,
    /// What is expected of IPv4; `None` if it is switched off.
    pub(crate) v4: Option<Family>,
    /// The same of IPv6.
    pub(crate) v6: Option<Family>,
}

/// What a row starts from. The links of the peer always have the addresses of [`LINK`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// The loopback interface.
    Nothing,
    /// `eth0`, up, without a global address.
    Link,
    /// `eth0` with one IPv4 address and a default route.
    V4,
    /// The same with IPv6.
    V6,
    /// Both.
    Both,
}

/// What is expected of one family. Rows name what differs from [`V4`] and the like.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    /// The interface of the host that the guest's resembles; empty: none.
    pub(crate) template: &'static str,
    /// The first address of the guest, which DHCP and DHCPv6 tell; empty: the first of the next.
    pub(crate) primary: &'static str,
    /// All addresses of the guest, in any order, but for an IPv6 link-local one. A `*` at the end
    /// stands for anything.
    pub(crate) addresses: &'static [&'static str],
    /// All routes of the guest as `ip route` writes them, without what
    /// [`crate::look::normal`] leaves out, but for those to the networks of its addresses:
    /// these have to be the template's.
    pub(crate) routes: &'static [&'static str],
    /// Addresses of the peer that the guest and the host reach.
    pub(crate) far: &'static [&'static str],
    /// Addresses of the host where the peer and the host reach the guest's ports.
    pub(crate) near: &'static [&'static str],
    /// Addresses of the host where nobody but the host itself reaches the guest's ports.
    pub(crate) own: &'static [&'static str],
    /// Address that stands for the host's loopback in the guest; empty: not asked for.
    pub(crate) host: &'static str,
    /// Whether the host's loopback interface has its address.
    pub(crate) loopback: bool,
}

/// What the setup scripts share.
pub(crate) const PRELUDE: &str = "
    peer() { ip -n $PEER $*; }
    tune() { echo $2 >/proc/sys/$1; }
    # Another link beside eth0, by its name, with addresses at the peer's end.
    link() {
        ip link add $1 type veth peer name $1 netns $PEER
        peer link set $1 up
        ip link set $1 up
        name=$1
        shift
        for address in $*; do peer addr add $address dev $name; done
    }
    # Tries a command until it succeeds, for five seconds.
    again() {
        for i in $(seq 250); do
            $* 2>/dev/null && return
            sleep 0.02
        done
        $*
    }
    # Waits until ip shows an address of eth0 with a word.
    shown() { ip -o addr show dev eth0 | grep -q $1; }
    until_shown() { again shown $1; }
    # At the end: until the kernel is done with addresses, which are used or not meanwhile.
    settled() { ! { ip -o -6 addr show tentative; peer -o -6 addr show tentative; } | grep -qv dadfailed; }
    settle() { again settled; }
";

/// The link and the peer's addresses. The peer asks on the link for whatever address it has no
/// route to.
pub(crate) const LINK: &str = "
    link eth0 192.0.2.1/24 2001:db8::1/64 fe80::1/64
    peer addr add 198.51.100.1/32 dev lo
    peer addr add 2001:db8:f::1/128 dev lo
    peer route add default dev eth0
    peer -6 route add default dev eth0
";

/// The host's IPv4 configuration in many rows.
pub(crate) const HOST_V4: &str = "
    ip addr add 192.0.2.2/24 dev eth0
    ip route add default via 192.0.2.1
";

/// The host's IPv6 configuration in many rows.
pub(crate) const HOST_V6: &str = "
    ip addr add 2001:db8::2/64 dev eth0 nodad
    ip route add default via 2001:db8::1 dev eth0
";

/// Both families, and nothing else.
pub(crate) const ROW: Row = Row {
    name: "",
    needs: &[],
    base: Base::Both,
    setup: "",
    options: "",
    tap: "eth0",
    v4: Some(V4),
    v6: Some(V6),
};

/// What follows from [`HOST_V4`].
pub(crate) const V4: Family = Family {
    template: "eth0",
    primary: "",
    addresses: &["192.0.2.2/24"],
    routes: &["default via 192.0.2.1"],
    far: &["198.51.100.1"],
    near: &["192.0.2.2"],
    own: &[],
    host: "192.0.2.1",
    loopback: true,
};

/// What follows from [`HOST_V6`].
pub(crate) const V6: Family = Family {
    addresses: &["2001:db8::2/64"],
    routes: &["default via 2001:db8::1"],
    far: &["2001:db8:f::1"],
    near: &["2001:db8::2"],
    host: "2001:db8::1",
    ..V4
};

/// What follows where no interface of the host can be the template for IPv4.
pub(crate) const LOCAL4: Family = Family {
    template: "",
    addresses: &["169.254.2.1/16"],
    routes: &["default via 169.254.2.2"],
    far: &[],
    near: &[],
    host: "169.254.2.2",
    ..V4
};

/// The same for IPv6.
pub(crate) const LOCAL6: Family =
    Family { addresses: &[], routes: &["default via fe80::1"], host: "fe80::1", ..LOCAL4 };
