//! From the bodies of rtnetlink messages to what [`super::host`] chooses from.
//!
//! A body that makes no sense is passed over, never an error.

use std::net::IpAddr;

use netlink_packet_core::{Emitable, NlasIterator, Parseable, parse_ip};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkLayerType};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol,
    RouteType,
};
use passt_proto::addr::Mac;
use passt_sys::netlink::u32_at;

use super::host::{IfAddr, Interface};
use super::rtnl::{Error, RTM_GETNEXTHOP, RTM_GETROUTE, Rtnl};

const LINK_HEADER_LEN: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;

const NEXTHOP_HEADER_LEN: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

/// An interface. The library's own parser would read dozens of attributes, and
/// fail for one that it does not know.
pub(super) fn link(body: &[u8]) -> Option<Interface> {
    let header = LinkHeader::parse(body).ok()?;
    let mut link = Interface {
        index: header.index,
        loopback: header.flags.contains(LinkFlags::Loopback),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        ..Interface::default()
    };
    let ethernet = header.link_layer_type == LinkLayerType::Ether;
    for attribute in NlasIterator::new(body.get(LINK_HEADER_LEN..)?).map_while(Result::ok) {
        let value = attribute.value();
        match attribute.kind() {
            IFLA_IFNAME => {
                let name = String::from_utf8_lossy(value);
                name.trim_end_matches('\0').clone_into(&mut link.name);
            }
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_ADDRESS if ethernet => link.mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(link)
}

/// An address and what decides about its use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assigned {
    pub(super) ip: IfAddr,
    pub(super) index: u32,
    /// Neither link-local nor for this host alone.
    pub(super) global: bool,
    pub(super) usable: Use,
    /// For IPv6: temporary.
    pub(super) secondary: bool,
}

/// What an address is good for, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// Everything.
    Any,
    /// Duplicate address detection goes on (RFC 4862, section 5.4).
    Tentative,
    /// What is there already (RFC 4862, section 5.5.4).
    Deprecated,
    /// Nothing: somebody else has it.
    Nothing,
}

impl Use {
    fn of(flags: AddressFlags) -> Self {
        // Optimistic ones are used meanwhile (RFC 4429).
        let tentative = flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
        match flags {
            _ if flags.contains(AddressFlags::Dadfailed) => Self::Nothing,
            _ if flags.contains(AddressFlags::Deprecated) => Self::Deprecated,
            _ if tentative => Self::Tentative,
            _ => Self::Any,
        }
    }
}

/// An address of an interface.
pub(super) fn address(body: &[u8]) -> Option<Assigned> {
    let message = AddressMessage::parse(body).ok()?;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => other = Some(*a),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let addr = local.or(other)?;
    let link_local = matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
    let local_scope =
        matches!(message.header.scope, AddressScope::Link | AddressScope::Host | AddressScope::Nowhere);
    Some(Assigned {
        ip: IfAddr {
            addr,
            prefix_len: message.header.prefix_len,
            peer: other.filter(|a| *a != addr),
            no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
        },
        index: message.header.index,
        global: !link_local && !local_scope && !addr.is_loopback(),
        usable: Use::of(flags),
        secondary: flags.contains(AddressFlags::Secondary),
    })
}

/// The unicast routes of the main table, each with its hops in it.
pub(super) fn routes(nl: &mut Rtnl) -> Result<Vec<RouteMessage>, Error> {
    let mut main = RouteMessage::default();
    main.header.table = RouteHeader::RT_TABLE_MAIN;
    let mut routes = nl.dump(RTM_GETROUTE, &main, route)?;
    if routes.iter().any(|r| unresolved(r).is_some()) {
        let objects = nl.dump(RTM_GETNEXTHOP, &NextHopRequest, next_hop)?;
        for route in &mut routes {
            resolve(route, &objects);
        }
    }
    Ok(routes)
}

/// A route, if it is a usual one: not a kernel's cache entry, not to a link-local destination, which
/// each interface has anyway.
pub(super) fn route(body: &[u8]) -> Option<RouteMessage> {
    let route = RouteMessage::parse(body).ok()?;
    let header = &route.header;
    let mut table = u32::from(header.table);
    let mut local = false;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Destination(RouteAddress::Inet6(a)) => local = a.is_unicast_link_local(),
            _ => {}
        }
    }
    let usual = matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6)
        && matches!(header.kind, RouteType::Unicast | RouteType::Multicast)
        && header.protocol != RouteProtocol::IcmpRedirect
        && !header.flags.contains(RouteFlags::Cloned)
        && table == u32::from(RouteHeader::RT_TABLE_MAIN);
    (usual && !local).then_some(route)
}

/// The next hop object of a route that says no more about its hops, as the
/// kernel reports them with `net.ipv4.nexthop_compat_mode` off.
fn unresolved(route: &RouteMessage) -> Option<u32> {
    let mut id = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::NhId(i) => id = Some(*i),
            RouteAttribute::Oif(_) | RouteAttribute::MultiPath(_) => return None,
            _ => {}
        }
    }
    id
}

/// Puts hops into a route that refers to an object.
fn resolve(route: &mut RouteMessage, objects: &[NextHop]) {
    let Some(id) = unresolved(route) else { return };
    let find = |id: u32| objects.iter().find(|o| o.id == id);
    let Some(object) = find(id) else { return };
    let group = object.group.iter().filter_map(|(id, weight)| Some((find(*id)?, *weight)));
    let members = std::iter::once((object, 0)).chain(group);
    let v6 = route.header.address_family == AddressFamily::Inet6;
    let hops = members.filter_map(|(o, weight)| {
        let mut hop = RouteNextHop::default();
        hop.hops = weight;
        hop.interface_index = o.interface?;
        let gateway = o.gateway.filter(|g| g.is_ipv6() == v6);
        hop.attributes.extend(gateway.map(|g| RouteAttribute::Gateway(g.into())));
        Some(hop)
    });
    let hops = hops.collect();
    route.attributes.push(RouteAttribute::MultiPath(hops));
}

/// A next hop object: a hop, or a group of others.
#[derive(Debug, Default)]
struct NextHop {
    id: u32,
    interface: Option<u32>,
    gateway: Option<IpAddr>,
    /// Of others, with their weights less one.
    group: Vec<(u32, u8)>,
}

fn next_hop(body: &[u8]) -> Option<NextHop> {
    let mut object = NextHop::default();
    for attribute in NlasIterator::new(body.get(NEXTHOP_HEADER_LEN..)?).map_while(Result::ok) {
        let value = attribute.value();
        match attribute.kind() {
            NHA_ID => object.id = u32_at(value, 0)?,
            NHA_OIF => object.interface = u32_at(value, 0),
            NHA_GATEWAY => object.gateway = parse_ip(value).ok(),
            // Entries of 8 bytes: identifier, weight, and what is reserved (`struct nexthop_grp`).
            NHA_GROUP => {
                let weight = |e: &[u8]| e.get(4).copied().unwrap_or_default();
                object.group =
                    value.chunks_exact(8).filter_map(|e| Some((u32_at(e, 0)?, weight(e)))).collect();
            }
            _ => {}
        }
    }
    Some(object)
}

/// The body of a request for all next hop objects.
struct NextHopRequest;

impl Emitable for NextHopRequest {
    fn buffer_len(&self) -> usize {
        NEXTHOP_HEADER_LEN
    }

    fn emit(&self, _all_zero: &mut [u8]) {}
}
