//! What the host's network looks like to a guest that is to resemble it.
//!
//! For each family one interface is the template: the one of the best
//! default route, or else the first with any route, or the one that the user names. A family
//! without one is not an error: the guest gets a local configuration. Only the
//! main routing table is looked at, policy routing is not.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use passt_proto::addr::Mac;
use thiserror::Error;

use super::parse::{self, Assigned, Use};
use super::route::{Hop, copyable, destination, hops, is_v6};
use super::rtnl::{self, RTM_GETADDR, RTM_GETLINK, Rtnl};

/// Why the host's configuration could not be read.
#[derive(Debug, Error)]
pub enum Error {
    /// The interface that the user named does not exist.
    #[error("Invalid interface name {0}: No such device")]
    NoInterface(String),
    /// The kernel did not even list the interfaces.
    #[error("Can't list network interfaces: {0}")]
    Links(rtnl::Error),
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
    /// Whether the guest is to have addresses like those of IPv4, and of IPv6: they are waited for
    /// then.
    pub copied: [bool; 2],
}

/// What a guest can be modelled on. A family that is `None` has no usable interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// The template for IPv4.
    pub v4: Option<Template>,
    /// The template for IPv6.
    pub v6: Option<Template>,
    /// All interfaces.
    pub links: Vec<Interface>,
}

impl HostNetwork {
    /// The index of an interface, by its name or in decimal, as in a zone (RFC 4007, section 11).
    pub fn index(&self, zone: &str) -> Option<u32> {
        let is_it = |link: &&Interface| link.name == zone || link.index.to_string() == zone;
        self.links.iter().find(is_it).map(|link| link.index)
    }
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
    /// The unicast and multicast routes of the main table over the interface, in the kernel's order
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
    /// Whether there is somebody at the other end (`IFF_LOWER_UP`).
    pub carrier: bool,
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

/// How often is looked whether duplicate address detection is over, in three seconds: it takes one
/// by default, after up to another (RFC 4862, section 5.4).
const LOOKS: u32 = 150;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The first address of a family that an interface has, in the kernel's order.
pub fn first_address(nl: &mut Rtnl, interface: &str, v6: bool) -> Option<IpAddr> {
    let seen = Seen::read(nl).ok()?;
    let index = seen.links.iter().find(|link| link.name == interface)?.index;
    let is_its = |known: &&Assigned| known.index == index && known.ip.addr.is_ipv6() == v6;
    seen.addresses.iter().find(is_its).map(|known| known.ip.addr)
}

/// Reads the configuration of the namespace to which `nl` belongs. Where a template has no other
/// address than one that is tentative, waits until that can be used, for three seconds at most.
pub fn read(nl: &mut Rtnl, select: &Select<'_>) -> Result<HostNetwork, Error> {
    let mut looks = 0..LOOKS;
    loop {
        let seen = Seen::read(nl)?;
        let host = seen.host(select)?;
        if !seen.awaits(&host, select) || looks.next().is_none() {
            seen.tell(&host);
            return Ok(host);
        }
        thread::sleep(PAUSE);
    }
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
    fn read(nl: &mut Rtnl) -> Result<Self, Error> {
        Ok(Self {
            links: nl.dump(RTM_GETLINK, &LinkMessage::default(), parse::link).map_err(Error::Links)?,
            addresses: or_none("addresses", nl.dump(RTM_GETADDR, &AddressMessage::default(), parse::address)),
            routes: or_none("routes", parse::routes(nl)),
        })
    }

    fn host(&self, select: &Select<'_>) -> Result<HostNetwork, Error> {
        let index = |name: &str| self.links.iter().find(|l| l.name == name).map(|l| l.index);
        let both = match select.interface {
            None => None,
            Some(name) => Some(index(name).ok_or_else(|| Error::NoInterface(name.to_owned()))?),
        };
        let template = |v6: bool, name: Option<&str>| match (both, name) {
            (None, Some(name)) => index(name).and_then(|i| self.template(v6, Some(i))),
            _ => self.template(v6, both),
        };
        let (v4, v6) = (template(false, select.v4), template(true, select.v6));
        Ok(HostNetwork { v4, v6, links: self.links.clone() })
    }

    /// Tells of the default routes of a family, where there are several, and which was chosen.
    fn tell(&self, host: &HostNetwork) {
        for (v6, template) in [(false, &host.v4), (true, &host.v6)] {
            let routes = self.routes.iter().filter(|route| is_v6(route) == v6);
            let hops: Vec<_> = routes.flat_map(hops).filter(|hop| hop.default).collect();
            let (Some(template), true) = (template, hops.len() > 1) else { continue };
            let name = |hop: &Hop| self.links.iter().find(|l| l.index == hop.index).map(|l| l.name.clone());
            let shown = |hop: &Hop| Some(format!("{} (metric {})", name(hop)?, hop.metric));
            let all: Vec<_> = hops.iter().filter_map(shown).collect();
            let family = if v6 { "IPv6" } else { "IPv4" };
            log::debug!("{family} default routes: {}; template {}", all.join(", "), template.link.name);
        }
    }

    /// Whether the first address of a template, which is to be the guest's, is still looked for
    /// elsewhere on the link. Where nobody is there that does not end.
    fn awaits(&self, host: &HostNetwork, select: &Select<'_>) -> bool {
        let is_tentative =
            |ip: &IfAddr| self.addresses.iter().any(|a| a.ip == *ip && a.usable == Use::Tentative);
        let waits = |template: &Template| {
            template.link.carrier && template.addresses.first().is_some_and(is_tentative)
        };
        let templates = [&host.v4, &host.v6].into_iter().zip(select.copied);
        templates.filter(|(_, copied)| *copied).any(|(template, _)| template.as_ref().is_some_and(waits))
    }

    /// The template of a family, `wanted` or the best.
    fn template(&self, v6: bool, wanted: Option<u32>) -> Option<Template> {
        let eligible = |index: u32| match wanted {
            Some(wanted) => index == wanted,
            None => self.links.iter().any(|l| l.index == index && !l.loopback),
        };
        let is_unicast = |r: &&RouteMessage| destination(r).is_none_or(|to| !to.is_multicast());
        let routes = || self.routes.iter().filter(|r| is_v6(r) == v6);
        let hops: Vec<Hop> = routes().filter(is_unicast).flat_map(hops).collect();
        let usable = || hops.iter().filter(|h| eligible(h.index));
        let best = |h: &&Hop| (h.dead, h.metric, Reverse(h.weight));
        let default = usable().filter(|h| h.default).min_by_key(best);
        let any = || usable().filter(|h| !h.dead).min_by_key(|h| self.is_makeshift(h.index, v6));
        let index = wanted.or_else(|| default.or_else(any).map(|h| h.index))?;

        let template = Template {
            link: self.links.iter().find(|l| l.index == index)?.clone(),
            addresses: self.addresses(v6, index, default.and_then(|h| h.source)),
            link_local: self.link_local(index).filter(|_| v6),
            gateway: default.and_then(|h| h.gateway),
            routes: routes().filter_map(|r| copyable(r, index)).collect(),
        };
        // An address that is borrowed is of no use where no route leads.
        let has_own =
            self.addresses.iter().any(|a| a.global && a.index == index && a.ip.addr.is_ipv6() == v6);
        let anything = has_own && !template.addresses.is_empty() || !template.routes.is_empty();
        anything.then_some(template)
    }

    /// Whether an interface has nothing but IPv4 link-local addresses, which hosts give themselves
    /// where nobody gives them any (RFC 3927).
    fn is_makeshift(&self, index: u32, v6: bool) -> bool {
        !v6 && self.addresses(v6, index, None).first().is_none_or(|first| is_link_local(first.addr))
    }

    /// The addresses of an interface, the one that its default route prefers first; temporary ones
    /// (RFC 8981), unique local ones and those of makeshift networks behind others. An unnumbered
    /// interface borrows one. Those that are deprecated count where there are no others.
    fn addresses(&self, v6: bool, index: u32, preferred: Option<IpAddr>) -> Vec<IfAddr> {
        let global = || self.addresses.iter().filter(|a| a.global && a.ip.addr.is_ipv6() == v6);
        let usable = || global().filter(|a| a.usable < Use::Deprecated);
        let deprecated = || global().filter(|a| a.usable == Use::Deprecated);
        let mut own: Vec<_> = usable().filter(|a| a.index == index).collect();
        if own.is_empty() {
            own = deprecated().filter(|a| a.index == index).collect();
        }
        let rank = |a: &&Assigned| {
            let is_local = is_link_local(a.ip.addr);
            (Some(a.ip.addr) != preferred, is_local, a.usable, v6 && a.secondary, is_unique_local(a.ip.addr))
        };
        own.sort_by_key(rank);
        if !own.is_empty() {
            return own.iter().map(|a| a.ip).collect();
        }
        let borrowed = usable().find(|a| Some(a.ip.addr) == preferred).or_else(|| usable().next());
        let alone = |a: &Assigned| IfAddr::new(a.ip.addr, if v6 { 128 } else { 32 });
        borrowed.map(alone).into_iter().collect()
    }

    fn link_local(&self, index: u32) -> Option<Ipv6Addr> {
        let mut own = self.addresses.iter().filter(|a| a.index == index && a.usable < Use::Deprecated);
        own.find_map(|a| match a.ip.addr {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
            _ => None,
        })
    }
}

/// Whether an IPv4 address is link-local (RFC 3927). Those of IPv6 are never on offer.
fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V4(addr) if addr.is_link_local())
}

/// Whether an IPv6 address is a unique local one (RFC 4193).
fn is_unique_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unique_local())
}
