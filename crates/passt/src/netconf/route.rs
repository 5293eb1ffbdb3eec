//! Routes of rtnetlink: by which hops they lead, what they cover, and how one is copied or told of.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType,
};

/// One way that a route can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    /// The interface.
    pub(super) index: u32,
    pub(super) gateway: Option<IpAddr>,
    pub(super) dead: bool,
    /// Whether the route is a default route.
    pub(super) default: bool,
    pub(super) metric: u32,
    /// Share of the traffic, of hops of one route (`RTA_MULTIPATH`).
    pub(super) weight: u16,
    pub(super) source: Option<IpAddr>,
}

pub(super) fn is_v6(route: &RouteMessage) -> bool {
    route.header.address_family == AddressFamily::Inet6
}

/// The hops of a route, in order.
pub(super) fn hops(route: &RouteMessage) -> Vec<Hop> {
    let mut hop = Hop {
        index: 0,
        gateway: gateway(&route.attributes),
        dead: route.header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown),
        default: route.header.destination_prefix_length == 0,
        metric: 0,
        weight: 0,
        source: None,
    };
    let mut several: &[RouteNextHop] = &[];
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => hop.index = *index,
            RouteAttribute::Priority(metric) => hop.metric = *metric,
            RouteAttribute::PrefSource(a) => hop.source = ip(a),
            RouteAttribute::MultiPath(hops) => several = hops,
            _ => {}
        }
    }
    if several.is_empty() {
        return vec![hop];
    }
    let down = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
    let one = |h: &RouteNextHop| Hop {
        index: h.interface_index,
        gateway: gateway(&h.attributes),
        dead: h.flags.intersects(down),
        weight: h.hops.into(),
        ..hop
    };
    several.iter().map(one).collect()
}

/// Where a route leads to; `None` for a default route.
pub(super) fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(a) => ip(a),
        _ => None,
    })
}

/// Whether an address is in the network of another.
pub fn is_within(addr: IpAddr, network: IpAddr, prefix_len: u8) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let differing = (bits(addr) ^ bits(network)).leading_zeros();
    addr.is_ipv4() == network.is_ipv4() && differing >= prefix_len.into()
}

/// Whether a route leads to `addr`, which is of its family.
pub fn covers(route: &RouteMessage, addr: IpAddr) -> bool {
    let len = route.header.destination_prefix_length;
    len == 0 || destination(route).is_some_and(|network| is_within(addr, network, len))
}

/// Whether a route is to the network of an address of its interface, but is not the one that the
/// kernel adds along with such an address: its metric is another, or its source.
pub fn replaces_own(route: &RouteMessage, addr: IpAddr, prefix_len: u8) -> bool {
    // `IP6_RT_PRIO_ADDRCONF` (`include/net/ip6_route.h`); none in IPv4.
    let (mut metric, usual, mut source) = (0, if addr.is_ipv4() { 0 } else { 256 }, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(own) => metric = *own,
            RouteAttribute::PrefSource(own) => source = ip(own),
            _ => {}
        }
    }
    let is_to_network = route.header.destination_prefix_length == prefix_len
        && destination(route).is_some_and(|network| is_within(addr, network, prefix_len));
    let is_usual = metric == usual && source.is_none_or(|source| source == addr);
    is_to_network && hops(route).iter().all(|hop| hop.gateway.is_none()) && !is_usual
}

/// A route to the link, to a single address or to everything.
pub fn on_link(v6: bool, addr: Option<IpAddr>) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Link;
    route.header.kind = RouteType::Unicast;
    if let Some(addr) = addr {
        route.header.destination_prefix_length = if v6 { 128 } else { 32 };
        route.attributes = vec![RouteAttribute::Destination(addr.into())];
    }
    route
}

/// A route by its destination and gateways, as users write it.
pub struct Shown<'a>(pub &'a RouteMessage);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (destination(self.0), self.0.header.destination_prefix_length) {
            (Some(network), len) => write!(f, "{network}/{len}")?,
            (None, _) => write!(f, "{} default", if is_v6(self.0) { "IPv6" } else { "IPv4" })?,
        }
        hops(self.0).iter().filter_map(|hop| hop.gateway).try_for_each(|via| write!(f, " via {via}"))
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(a) => ip(a),
        _ => None,
    })
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// The part of a route that goes over an interface, in the form that
/// [`Template::routes`](super::host::Template::routes) promises.
pub(super) fn copyable(route: &RouteMessage, index: u32) -> Option<RouteMessage> {
    let mut copy = route.clone();
    copy.header.flags &= RouteFlags::Onlink;
    copy.attributes.clear();
    let mut matches = false;
    for attribute in &route.attributes {
        copy.attributes.push(match attribute {
            RouteAttribute::Oif(oif) => {
                matches |= *oif == index;
                continue;
            }
            RouteAttribute::MultiPath(hops) => {
                let hops: Vec<_> = hops.iter().filter_map(|h| copyable_hop(h, index)).collect();
                matches |= !hops.is_empty();
                RouteAttribute::MultiPath(hops)
            }
            RouteAttribute::Destination(_)
            | RouteAttribute::Source(_)
            | RouteAttribute::Gateway(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::Priority(_)
            | RouteAttribute::Metrics(_)
            | RouteAttribute::Preference(_) => attribute.clone(),
            _ => continue,
        });
    }
    let several = copy.attributes.iter().any(|a| matches!(a, RouteAttribute::MultiPath(_)));
    if !several && gateway(&copy.attributes).is_none() {
        copy.header.flags = RouteFlags::empty();
    }
    matches.then_some(copy)
}

fn copyable_hop(hop: &RouteNextHop, index: u32) -> Option<RouteNextHop> {
    let mut copy = hop.clone();
    copy.attributes.retain(|a| matches!(a, RouteAttribute::Gateway(_)));
    copy.flags &= RouteNextHopFlags::Onlink;
    if copy.attributes.is_empty() {
        copy.flags = RouteNextHopFlags::empty();
    }
    (hop.interface_index == index).then_some(copy)
}
