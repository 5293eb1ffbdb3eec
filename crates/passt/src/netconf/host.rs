//! What the host's network looks like to a guest that is to resemble it.
//!
//! For each family one interface is the template: the one of the best
//! default route, or else the first with any route, or the one that the user names. A family
//! without one is not an error: the guest gets a local configuration. Only the
//! main routing table is looked at, policy routing is not.

use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
};
use passt_proto::addr::Mac;
use thiserror::Error;

use super::parse::{self, Assigned};
use super::rtnl::{self, RTM_GETADDR, RTM_GETLINK, Rtnl};

/// Why the host's configuration could not be read.
#[derive(Debug, Error)]
pub enum Error {
    /// The interface that the user named does not exist.
    #[error("Invalid interface name {0}: No such device")]
    NoInterface(String),
    /// The kernel did not even list the interfaces.
    #[error("Can't list network interfaces: {0}")]
    Links(#[from] rtnl::Error),
}

/// The interfaces that the user chose, by name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Select<'a> {
    /// The template for both families: it must exist.
    pub interface: Option<&'a str>,
    /// The template for IPv4 if `interface` is not given. If it does not exist there is none.
    pub v4: Option<&'a str>,
    /// The same for IPv6.
    pub v6: Option<&'a str>,
}

/// What a guest can be modelled on. A family that is `None` has no usable interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// The template for IPv4.
    pub v4: Option<Template>,
    /// The template for IPv6.
    pub v6: Option<Template>,
}

/// One interface as seen by one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// The interface.
    pub link: Interface,
    /// Its addresses worth copying, the best to present to a guest first. If it
    /// has none, a global address of another interface. May be empty.
    pub addresses: Vec<IfAddr>,
    /// Its IPv6 link-local address, if usable.
    pub link_local: Option<Ipv6Addr>,
    /// The next hop of the best default route, if that has one.
    pub gateway: Option<IpAddr>,
    /// The unicast routes of the main table over the interface, in the kernel's order
    /// and fit for copying: they name no interface but this one (single hops none at all),
    /// no next hop object, encapsulation or gateway of the other family.
    pub routes: Vec<RouteMessage>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The index in its namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The MTU, in bytes of a network-layer packet.
    pub mtu: u32,
    /// The address, if this is an Ethernet interface.
    pub mac: Option<Mac>,
    /// Whether this is the loopback interface.
    pub loopback: bool,
}

/// An address as assigned to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IfAddr {
    /// The address.
    pub addr: IpAddr,
    /// Bits of the network part; of `peer`, if there is one.
    pub prefix_len: u8,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// Whether the route to the address' network is not the kernel's affair.
    pub no_prefix_route: bool,
}

impl IfAddr {
    /// An address in its network, as the kernel assigns it by default.
    pub const fn new(addr: IpAddr, prefix_len: u8) -> Self {
        Self { addr, prefix_len, peer: None, no_prefix_route: false }
    }
}

/// Reads the configuration of the namespace to which `nl` belongs.
pub fn read(nl: &mut Rtnl, select: &Select<'_>) -> Result<HostNetwork, Error> {
    let seen = Seen {
        links: nl.dump(RTM_GETLINK, &LinkMessage::default(), parse::link)?,
        addresses: or_none("addresses", nl.dump(RTM_GETADDR, &AddressMessage::default(), parse::address)),
        routes: or_none("routes", parse::routes(nl)),
    };
    let index = |name: &str| seen.links.iter().find(|l| l.name == name).map(|l| l.index);
    let both = match select.interface {
        None => None,
        Some(name) => Some(index(name).ok_or_else(|| Error::NoInterface(name.to_owned()))?),
    };
    let template = |v6: bool, name: Option<&str>| match (both, name) {
        (None, Some(name)) => index(name).and_then(|i| seen.template(v6, Some(i))),
        _ => seen.template(v6, both),
    };
    Ok(HostNetwork { v4: template(false, select.v4), v6: template(true, select.v6) })
}

/// A list that can be done without.
fn or_none<T>(what: &str, list: Result<Vec<T>, rtnl::Error>) -> Vec<T> {
    list.unwrap_or_else(|error| {
        log::warn!("Can't list the host's {what}: {error}");
        Vec::new()
    })
}

/// Everything that was read.
#[derive(Debug, Default)]
struct Seen {
    links: Vec<Interface>,
    addresses: Vec<Assigned>,
    routes: Vec<RouteMessage>,
}

impl Seen {
    /// The template of a family, `wanted` or the best.
    fn template(&self, v6: bool, wanted: Option<u32>) -> Option<Template> {
        let eligible = |index: u32| match wanted {
            Some(wanted) => index == wanted,
            None => self.links.iter().any(|l| l.index == index && !l.loopback),
        };
        let hops: Vec<Hop> = self.routes.iter().filter(|r| is_v6(r) == v6).flat_map(hops).collect();
        let usable = || hops.iter().filter(|h| eligible(h.index));
        let default = usable().filter(|h| h.default).min_by_key(|h| (h.dead, h.metric));
        let any = || usable().find(|h| !h.dead);
        let index = wanted.or_else(|| default.or_else(any).map(|h| h.index))?;

        let template = Template {
            link: self.links.iter().find(|l| l.index == index)?.clone(),
            addresses: self.addresses(v6, index, default.and_then(|h| h.source)),
            link_local: self.link_local(index).filter(|_| v6),
            gateway: default.and_then(|h| h.gateway),
            routes: self
                .routes
                .iter()
                .filter(|r| is_v6(r) == v6)
                .filter_map(|r| copyable(r, index))
                .collect(),
        };
        let anything = !template.addresses.is_empty() || !template.routes.is_empty();
        anything.then_some(template)
    }

    /// The addresses of an interface, the one that its default route prefers first
    /// and temporary ones last (RFC 8981). An unnumbered interface borrows one.
    fn addresses(&self, v6: bool, index: u32, preferred: Option<IpAddr>) -> Vec<IfAddr> {
        let usable = |a: &&Assigned| a.usable && a.global && a.ip.addr.is_ipv6() == v6;
        let mut own: Vec<_> = self.addresses.iter().filter(|a| usable(a) && a.index == index).collect();
        own.sort_by_key(|a| (Some(a.ip.addr) != preferred, v6 && a.secondary));
        if !own.is_empty() {
            return own.iter().map(|a| a.ip).collect();
        }
        let others = || self.addresses.iter().filter(usable);
        let borrowed = others().find(|a| Some(a.ip.addr) == preferred).or_else(|| others().next());
        let alone = |a: &Assigned| IfAddr::new(a.ip.addr, if v6 { 128 } else { 32 });
        borrowed.map(alone).into_iter().collect()
    }

    fn link_local(&self, index: u32) -> Option<Ipv6Addr> {
        self.addresses.iter().filter(|a| a.index == index && a.usable).find_map(|a| match a.ip.addr {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
            _ => None,
        })
    }
}

/// One way that a route can take.
#[derive(Clone, Copy, Debug)]
struct Hop {
    index: u32,
    gateway: Option<IpAddr>,
    dead: bool,
    default: bool,
    metric: u32,
    source: Option<IpAddr>,
}

fn is_v6(route: &RouteMessage) -> bool {
    route.header.address_family == AddressFamily::Inet6
}

/// The hops of a route, in order.
fn hops(route: &RouteMessage) -> Vec<Hop> {
    let mut hop = Hop {
        index: 0,
        gateway: gateway(&route.attributes),
        dead: route.header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown),
        default: route.header.destination_prefix_length == 0,
        metric: 0,
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
        ..hop
    };
    several.iter().map(one).collect()
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
/// [`Template::routes`] promises.
fn copyable(route: &RouteMessage, index: u32) -> Option<RouteMessage> {
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
