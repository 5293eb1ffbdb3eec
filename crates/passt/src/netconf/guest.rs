//! Configures a network namespace: loopback, the tap interface, addresses, routes.
//!
//! When this returns everything is usable at once: addresses skip duplicate
//! address detection, as nobody else can be on the link. What a namespace cannot
//! have (no IPv6 in its kernel, a route that depends on something that was not copied) is
//! reported as a warning and left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteScope};
use passt_proto::addr::Mac;
use thiserror::Error;

use super::host::{IfAddr, Interface};
use super::parse;
use super::route::{self, Shown, ip};
use super::rtnl::{self, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, Rtnl};

/// `EEXIST`: what was to be added is there.
const EEXIST: i32 = 17;

/// Why a namespace could not be configured.
#[derive(Debug, Error)]
pub enum Error {
    /// The tap interface is not in the namespace.
    #[error("No interface {0} in the namespace")]
    NoInterface(String),
    /// The kernel refused something that cannot be done without.
    #[error("Can't {what} in the namespace: {error}")]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// The kernel's answer.
        error: rtnl::Error,
    },
}

/// What the interface in the namespace is to become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapConfig {
    /// Its address; `None`: the one that the kernel has given it.
    pub mac: Option<Mac>,
    /// What to configure; `None`: nothing, the interface stays down.
    pub network: Option<GuestNetwork>,
}

/// The configuration of the tap interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestNetwork {
    /// The MTU; `None`: the kernel's.
    pub mtu: Option<u32>,
    /// IPv4; `None`: nothing.
    pub v4: Option<FamilyConfig>,
    /// IPv6; `None`: nothing, not even a link-local address.
    pub v6: Option<FamilyConfig>,
}

/// Addresses and routes of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyConfig {
    /// Addresses, in the order in which they are assigned.
    pub addresses: Vec<IfAddr>,
    /// Routes.
    pub routes: Routes,
}

/// The routes of a namespace beside those that come with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routes {
    /// Those of the host's template, see [`super::host::Template::routes`].
    Copied(Vec<RouteMessage>),
    /// A default route, by a gateway or to the link.
    Default(Option<IpAddr>),
    /// What router advertisements tell, as the guest forms its address with this prefix of 64 bits.
    /// The kernel would form one that is tentative for a second or two, so it gets the same one from
    /// us before; `None`: nothing is advertised.
    Advertised(Option<Ipv6Addr>),
}

/// Brings the loopback interface up.
pub fn loopback_up(nl: &mut Rtnl) -> Result<(), Error> {
    let mut message = up();
    message.header.index = 1;
    change_link(nl, "bring loopback up", &message)
}

/// Configures the tap interface, and returns its index and MAC as they are now.
pub fn configure(nl: &mut Rtnl, name: &str, config: &TapConfig) -> Result<Interface, Error> {
    let mut link = find(nl, name)?;
    if let Some(mac) = config.mac {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes = vec![LinkAttribute::Address(mac.0.to_vec())];
        change_link(nl, "set the MAC address", &message)?;
        link.mac = Some(mac);
    }
    if let Some(network) = &config.network {
        bring_up(nl, &link, network)?;
        for (v6, family) in [(false, &network.v4), (true, &network.v6)] {
            if let Some(family) = family {
                assign(nl, &link, v6, family);
            }
        }
    }
    Ok(link)
}

fn find(nl: &mut Rtnl, name: &str) -> Result<Interface, Error> {
    let links = nl.dump(RTM_GETLINK, &LinkMessage::default(), parse::link);
    let links = links.map_err(|error| Error::Refused { what: "list interfaces", error })?;
    let found = links.into_iter().find(|l| l.name == name);
    found.ok_or_else(|| Error::NoInterface(name.to_owned()))
}

fn change_link(nl: &mut Rtnl, what: &'static str, message: &LinkMessage) -> Result<(), Error> {
    nl.change(RTM_NEWLINK, 0, message).map_err(|error| Error::Refused { what, error })
}

fn up() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// Sets MTU and state. The kernel would make a link-local address that is tentative
/// for a second or two, so it is told not to and gets the same one from us.
fn bring_up(nl: &mut Rtnl, link: &Interface, network: &GuestNetwork) -> Result<(), Error> {
    let no_v6 = |error| log::debug!("No IPv6 on the namespace's interface: {error}");
    generate_link_local(nl, link.index, In6AddrGenMode::None).unwrap_or_else(no_v6);
    let mut message = up();
    message.header.index = link.index;
    message.attributes.extend(network.mtu.map(LinkAttribute::Mtu));
    change_link(nl, "bring the interface up", &message)?;

    let ours = link.mac.filter(|_| network.v6.is_some()).map(link_local);
    if let Some(address) = ours {
        let address = IfAddr::new(address.into(), 64);
        add_address(nl, link.index, &address).unwrap_or_else(no_v6);
        // For the next time that somebody brings it up.
        generate_link_local(nl, link.index, In6AddrGenMode::Eui64).unwrap_or_else(no_v6);
    }
    Ok(())
}

fn generate_link_local(nl: &mut Rtnl, index: u32, mode: In6AddrGenMode) -> Result<(), rtnl::Error> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
    message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![inet6])];
    nl.change(RTM_NEWLINK, 0, &message)
}

/// The link-local address that belongs to a MAC address (RFC 4291, appendix A).
pub fn link_local(mac: Mac) -> Ipv6Addr {
    formed(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), mac)
}

/// The address with the first 64 bits of `prefix` that belongs to a MAC address.
fn formed(prefix: Ipv6Addr, mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let mut octets = prefix.octets();
    octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    octets.into()
}

/// Assigns the addresses of a family and adds its routes.
fn assign(nl: &mut Rtnl, link: &Interface, v6: bool, family: &FamilyConfig) {
    let index = link.index;
    let formed = match (&family.routes, link.mac) {
        (Routes::Advertised(Some(prefix)), Some(mac)) => Some(IfAddr::new(formed(*prefix, mac).into(), 64)),
        _ => None,
    };
    for address in family.addresses.iter().chain(&formed) {
        // What the guest forms by itself it may also do without.
        let level = if formed.is_some() { log::Level::Debug } else { log::Level::Warn };
        match add_address(nl, index, address) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(EEXIST) => {}
            Err(error) => log::log!(level, "Can't assign {} in the namespace: {error}", address.addr),
        }
    }
    match &family.routes {
        Routes::Copied(routes) => copy_routes(nl, index, &family.addresses, routes),
        Routes::Default(gateway) => copy_routes(nl, index, &[], &[default_route(v6, *gateway)]),
        Routes::Advertised(_) => {}
    }
}

fn add_address(nl: &mut Rtnl, index: u32, address: &IfAddr) -> Result<(), rtnl::Error> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len;
    message.header.family = family(address.addr.is_ipv6());
    let mut flags = AddressFlags::Nodad;
    flags.set(AddressFlags::Noprefixroute, address.no_prefix_route);
    message.attributes = vec![
        AddressAttribute::Local(address.addr),
        AddressAttribute::Address(address.peer.unwrap_or(address.addr)),
        AddressAttribute::Flags(flags),
    ];
    if let IpAddr::V4(addr) = address.addr {
        let broadcast = broadcast(addr, address.prefix_len).map(AddressAttribute::Broadcast);
        message.attributes.extend(broadcast);
    }
    nl.change(RTM_NEWADDR, NLM_F_CREATE, &message)
}

/// The directed broadcast address of a network, if it is large enough to have one (RFC 3021).
fn broadcast(addr: Ipv4Addr, prefix_len: u8) -> Option<Ipv4Addr> {
    let host = u32::MAX.checked_shr(prefix_len.into()).filter(|h| *h > 1)?;
    Some(Ipv4Addr::from_bits(addr.to_bits() | host))
}

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn default_route(v6: bool, gateway: Option<IpAddr>) -> RouteMessage {
    let mut route = route::on_link(v6, None);
    if let Some(gateway) = gateway {
        route.header.scope = RouteScope::Universe;
        route.attributes = vec![RouteAttribute::Gateway(gateway.into())];
    }
    route
}

/// Adds routes. The order in which the kernel lists them is not one in which it takes them:
/// a gateway must be reachable already. Those refused are tried again as long as others
/// succeed; what is left then gets its gateways declared to be on the link.
fn copy_routes(nl: &mut Rtnl, index: u32, sources: &[IfAddr], routes: &[RouteMessage]) {
    let mut left: Vec<_> = routes.iter().map(|r| over(r, index, sources)).collect();
    loop {
        let before = left.len();
        left.retain(|route| add_route(nl, route).is_err());
        if left.is_empty() || left.len() == before {
            break;
        }
    }
    for mut route in left {
        declare_onlink(&mut route);
        if let Err(error) = add_route(nl, &route) {
            log::warn!("Can't add a route in the namespace, {}: {error}", Shown(&route));
        }
    }
}

/// The route, over the interface with the given index. The kernel wants its source
/// address to be one that is there.
fn over(route: &RouteMessage, index: u32, sources: &[IfAddr]) -> RouteMessage {
    let mut route = route.clone();
    route.attributes.retain(|a| match a {
        RouteAttribute::PrefSource(a) => sources.iter().any(|s| Some(s.addr) == ip(a)),
        _ => true,
    });
    let mut single = true;
    for attribute in &mut route.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            single = false;
            for hop in hops {
                hop.interface_index = index;
            }
        }
    }
    if single {
        route.attributes.push(RouteAttribute::Oif(index));
    }
    route
}

fn declare_onlink(route: &mut RouteMessage) {
    for attribute in &mut route.attributes {
        match attribute {
            RouteAttribute::Gateway(_) => route.header.flags |= RouteFlags::Onlink,
            RouteAttribute::MultiPath(hops) => {
                for hop in hops.iter_mut().filter(|h| !h.attributes.is_empty()) {
                    hop.flags |= RouteNextHopFlags::Onlink;
                }
            }
            _ => {}
        }
    }
}

/// Adds a route, after those to the same destination. One that is there already is as good.
fn add_route(nl: &mut Rtnl, route: &RouteMessage) -> Result<(), rtnl::Error> {
    // In IPv6 the flag would turn routes without a gateway into one with several hops.
    let append = match route.header.address_family {
        AddressFamily::Inet => NLM_F_APPEND,
        _ => 0,
    };
    match nl.change(RTM_NEWROUTE, NLM_F_CREATE | append, route) {
        Err(error) if error.errno() == Some(EEXIST) => Ok(()),
        result => result,
    }
}
