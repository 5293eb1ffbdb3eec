//! What the command line and the host's network mean together.
//!
//! [`Setup::new`] is a pure function: every rule about defaults, about which address
//! stands for which, and about what to do when the host has no network is here and can be
//! tested with tables. Its result never changes. Left out: ports, which depend on
//! sockets, and everything that is the command line's alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use passt_proto::addr::Addr;
use passt_proto::guest::{self, Bypass, Configured};
use passt_proto::responder::dhcp::leases::Leases;
use passt_proto::responder::{self, Name, Services, V4, V6};
use thiserror::Error;

use crate::cli::{Addresses, Config, MapOptions, PastaOptions, PerFamily, ResolvConf, Source, Splice};
use crate::netconf::guest::{FamilyConfig, GuestNetwork, Routes, TapConfig};
use crate::netconf::host::{HostNetwork, IfAddr, Select, Template};
use crate::netconf::resolv::Resolv;
use crate::netconf::route;

mod dns;
mod names;

/// Our own IPv4 address, and a guest's gateway, where the host offers none (RFC 3927).
const OUR_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 2);
/// The address of a guest with our address as gateway.
const LOCAL_V4: IfAddr = IfAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 2, 1)), 16);
/// Our own link-local IPv6 address where the host offers none.
const OUR_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Name of a tap interface that resembles no other.
const TAP_NAME: &str = "tap0";

/// Why the host's network does not allow what was asked for.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SetupError {
    /// An interface was named that has no addresses or routes.
    #[error("External interface not usable")]
    Interface,
}

/// Everything that depends on the host's network, decided once at start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the guest is told by ARP, NDP, DHCP and DHCPv6. A family that is `None` is off.
    pub responder: Box<responder::Config>,
    /// Addresses for DHCP clients, where there is more than one.
    pub leases: Option<Leases>,
    /// Which addresses stand for which.
    pub guest: Configured,
    /// Interfaces that sockets towards the network are bound to.
    pub outbound_interface: PerFamily<Option<String>>,
    /// The tap interface; `None` without one (passt, or all traffic bypasses it).
    pub tap: Option<TapSetup>,
    /// Names of the interfaces that served as template.
    pub template: PerFamily<Option<String>>,
    /// The guest's network is to have none.
    pub apart: bool,
    /// Text of a resolv.conf for a command that we start; `None` if it has the host's.
    pub resolv_conf: Option<String>,
}

/// The tap interface in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapSetup {
    /// Its name.
    pub name: String,
    /// How it is configured.
    pub config: TapConfig,
}

/// Which of the host's interfaces [`crate::netconf::host::read`] is to look at.
pub fn select(config: &Config) -> Select<'_> {
    let linked = config.pasta().is_none_or(|pasta| pasta.splice != Splice::Only);
    let copies = |on: bool, v6| linked && on && of(&config.guest.addr, v6).is_none();
    Select {
        interface: config.host.interface.as_deref(),
        v4: config.host.outbound_interface.v4.as_deref(),
        v6: config.host.outbound_interface.v6.as_deref(),
        copied: [copies(config.families.v4(), false), copies(config.families.v6(), true)],
    }
}

impl Setup {
    /// Combines the command line with what the host has. Returns warnings, too, one line each.
    pub fn new(
        config: &Config,
        host: &HostNetwork,
        resolv: &Resolv,
    ) -> Result<(Self, Vec<String>), SetupError> {
        let mut warnings = Vec::new();
        let linked = config.pasta().is_none_or(|pasta| pasta.splice != Splice::Only);
        let mut nets = if linked { nets(config, host)? } else { PerFamily::default() };
        let mut guest = Configured {
            v4: nets.v4.as_ref().map(|n| n.map(config)).unwrap_or_default(),
            v6: nets.v6.as_ref().map(|n| n.map(config)).unwrap_or_default(),
            scope: host.v6.as_ref().map_or(0, |t| t.link.index),
            bypass: config.pasta().map_or(Bypass::Off, |pasta| {
                match (pasta.splice, pasta.host_lo_to_ns_lo) {
                    (Splice::Never, _) => Bypass::Off,
                    (_, true) => Bypass::Loopback,
                    (_, false) => Bypass::Public,
                }
            }),
        };
        for (net, template, family) in
            [(&nets.v4, &host.v4, &mut guest.v4), (&nets.v6, &host.v6, &mut guest.v6)]
        {
            let joins = net.is_some() && config.services.multicast && config.services.udp;
            family.groups = template.as_ref().filter(|_| joins).map(|template| template.link.index);
        }
        (guest.v4.off, guest.v6.off) = (!config.families.v4(), !config.families.v6());
        warnings.extend(names::of_the_guest(config, &guest));
        let dns = dns::servers(config, host, resolv, &mut guest, &mut warnings);
        for (net, family) in [(&mut nets.v4, &guest.v4), (&mut nets.v6, &guest.v6)] {
            if let Some(net) = net {
                net.lead_to(family);
            }
        }
        let responder = Box::new(responder::Config {
            our_mac: config.mac,
            mtu: config.mtu.unwrap_or(0),
            v4: nets.v4.as_ref().and_then(|n| n.responder_v4(&dns)),
            v6: nets.v6.as_ref().and_then(|n| n.responder_v6(&dns)),
            search: search(config, resolv, &mut warnings),
            hostname: config.guest.hostname.as_deref().and_then(|n| name(n, &mut warnings)),
            fqdn: config.guest.fqdn.as_deref().and_then(|n| name(n, &mut warnings)),
            services: services(config, nets.v6.as_ref()),
            custom: config.custom.clone(),
        });
        let template = PerFamily {
            v4: nets.v4.as_ref().and_then(|n| n.template.clone()),
            v6: nets.v6.as_ref().and_then(|n| n.template.clone()),
        };
        let tap = config.pasta().filter(|_| linked).map(|p| tap(config, p, &template, &nets));
        let own_file =
            wants_resolv_conf(config, || dns::reaches_any(host, resolv, &guest), &mut warnings, &dns);
        let interface = tap.as_ref().map_or(TAP_NAME, |tap| tap.name.as_str());
        let resolv_conf = own_file.then(|| resolv_conf(config, resolv, &dns, interface));
        let outbound_interface = config.host.outbound_interface.clone();
        let leases = config.guest.leases.map(|(first, count)| Leases::new(first, count));
        Ok((
            Self {
                responder,
                leases,
                guest,
                outbound_interface,
                tap,
                template,
                apart: config.host.apart,
                resolv_conf,
            },
            warnings,
        ))
    }

    /// What the guest's names for others stand for, for whoever looks closely: some lines.
    pub fn names(&self) -> Vec<String> {
        [&self.guest.v4, &self.guest.v6].into_iter().flat_map(names::meanings).collect()
    }

    /// Logs the choices that were made.
    pub fn tell(&self) {
        for line in self.summary() {
            log::info!("{line}");
        }
        for line in self.names() {
            log::debug!("{line}");
        }
    }

    /// The choices that were made, for the user: some lines.
    pub fn summary(&self) -> Vec<String> {
        let told = &self.responder;
        let mut lines = Vec::new();
        for (family, interface) in [("IPv4", &self.template.v4), ("IPv6", &self.template.v6)] {
            lines.extend(interface.as_ref().map(|i| format!("Template interface for {family}: {i}")));
        }
        if self.template.v4.is_none()
            && self.template.v6.is_none()
            && (told.v4.is_some() || told.v6.is_some())
            && !self.apart
        {
            lines.push("No usable network interface on the host: the guest gets local addresses only".into());
        }
        lines.extend(self.tap.as_ref().map(|tap| format!("Namespace interface: {}", tap.name)));
        lines.push(format!("MAC address of the host's side: {}", told.our_mac));
        if let Some(v4) = &told.v4 {
            let len = v4.prefix_len;
            let is_given = self.tap.as_ref().is_some_and(|tap| tap.config.network.is_some());
            let is_leased = told.services.contains(Services::DHCP) && !is_given;
            let assigned = match self.leases.as_ref().filter(|_| is_leased).map(Leases::ends) {
                Some((first, last)) => format!("{first}/{len} to {last}/{len} by DHCP"),
                None => format!("{}/{len}", v4.addr),
            };
            lines.push(format!("IPv4: assign {assigned}, router {}{}", v4.gateway, listed(", DNS", &v4.dns)));
        }
        if let Some(v6) = &told.v6 {
            let assigned = match v6.addr {
                Ipv6Addr::UNSPECIFIED => "link-local addresses only".into(),
                addr => format!("assign {addr}/{}", v6.prefix_len),
            };
            lines.push(format!("IPv6: {assigned}, router {}{}", v6.our_ll, listed(", DNS", &v6.dns)));
        }
        let silent =
            [told.v4.as_ref().map(|v4| v4.dns.is_empty()), told.v6.as_ref().map(|v6| v6.dns.is_empty())];
        if silent.contains(&Some(true)) && !silent.contains(&Some(false)) {
            lines.push("No name servers to announce".into());
        }
        lines.extend(Some(listed("DNS search list:", &told.search)).filter(|l| !l.is_empty()));
        lines
    }
}

/// Has the guest's names for resolvers stand for those that the host has now.
pub fn follow(config: &Config, host: &HostNetwork, resolv: &Resolv, guest: &mut Configured) {
    let [v4, v6] = dns::others(config, host, resolv, guest);
    (guest.v4.dns_host, guest.v4.dns_scope) = v4;
    (guest.v6.dns_host, guest.v6.dns_scope) = v6;
}

/// A title and the items of a list, nothing for an empty one.
fn listed<T: ToString>(title: &str, items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { String::new() } else { format!("{title} {}", items.join(" ")) }
}

/// The guest's networks, `None` for a family that is switched off. One that the host has no way
/// beyond for is local.
fn nets(config: &Config, host: &HostNetwork) -> Result<PerFamily<Option<Net>>, SetupError> {
    let on = [(false, config.families.v4(), &host.v4), (true, config.families.v6(), &host.v6)];
    let [v4, v6] = on.map(|(v6, on, template)| {
        let template = template.as_ref().filter(|_| !config.host.apart);
        let like = template.map(|template| Net::like(config, v6, template));
        let like = like.filter(|net| net.primary.is_some());
        // The guest can talk to the host, and to itself, without a way beyond.
        let other = || if config.host.apart { Net::apart(config, v6) } else { Net::local(config, v6) };
        on.then(|| like.unwrap_or_else(other))
    });
    let has_template = |net: &Option<Net>| net.as_ref().is_some_and(|net| net.template.is_some());
    let bound = &config.host.outbound_interface;
    let none = !has_template(&v4) && !has_template(&v6);
    if config.host.apart {
        return Ok(PerFamily { v4, v6 });
    }
    if v4.is_some() && bound.v4.is_some() && !has_template(&v4)
        || v6.is_some() && bound.v6.is_some() && !has_template(&v6)
        || config.host.interface.is_some() && none
    {
        return Err(SetupError::Interface);
    }
    Ok(PerFamily { v4, v6 })
}

/// The guest's network of one family. All addresses are of that family.
#[derive(Debug)]
struct Net {
    v6: bool,
    /// Name of the host's interface that it resembles.
    template: Option<String>,
    /// The guest's first or only address.
    primary: Option<IfAddr>,
    gateway: Option<IpAddr>,
    /// Our own address on the link.
    ours: IpAddr,
    /// What a namespace is given.
    family: FamilyConfig,
}

impl Net {
    /// A network like that of an interface of the host.
    fn like(config: &Config, v6: bool, template: &Template) -> Self {
        let given = given(config, v6);
        let mut own = template.addresses.clone();
        if let (Some(first), Some(len), false) = (own.first_mut(), config.guest.prefix_len, v6) {
            first.prefix_len = len;
        }
        let gateway = of(&config.guest.gateway, v6).or(template.gateway);
        let link_local = gateway.filter(|g| matches!(g, IpAddr::V6(g) if g.is_unicast_link_local()));
        let ours = if v6 {
            link_local.unwrap_or_else(|| template.link_local.unwrap_or(OUR_V6).into())
        } else {
            gateway.unwrap_or(OUR_V4.into())
        };

        let copies_routes = config.pasta().is_some_and(|p| either(p.copy_routes, v6));
        if copies_routes {
            // The kernel's own would stand beside that of the host.
            for own in &mut own {
                let replaces = |known| route::replaces_own(known, own.addr, own.prefix_len);
                own.no_prefix_route |= template.routes.iter().any(replaces);
            }
        }
        let primary = given.or(own.first().copied());
        let copied = config.pasta().is_some_and(|p| either(p.copy_addrs, v6)) && given.is_none();
        let mut addresses = if copied { own } else { primary.into_iter().collect() };
        let routes = if copies_routes {
            Routes::Copied(template.routes.clone())
        } else {
            for address in &mut addresses {
                address.no_prefix_route = false;
            }
            Routes::Default(gateway)
        };
        let template = Some(template.link.name.clone());
        Self { v6, template, primary, gateway, ours, family: FamilyConfig { addresses, routes } }
    }

    /// A network without any connection to the host's: in IPv6 the guest has a link-local
    /// address alone unless it is given another.
    fn local(config: &Config, v6: bool) -> Self {
        let primary = given(config, v6).or((!v6).then_some(LOCAL_V4));
        let ours: IpAddr = if v6 { OUR_V6.into() } else { OUR_V4.into() };
        let gateway = Some(of(&config.guest.gateway, v6).unwrap_or(ours));
        let addresses = primary.into_iter().collect();
        let family = FamilyConfig { addresses, routes: Routes::Default(gateway) };
        Self { v6, template: None, primary, gateway, ours, family }
    }

    /// A network of the guest's own, as the command line has it. Its IPv6 address without an interface
    /// identifier is the prefix from which the guest forms one, as router advertisements tell.
    fn apart(config: &Config, v6: bool) -> Self {
        let primary = given(config, v6);
        let gateway = of(&config.guest.gateway, v6);
        let ours = match gateway {
            Some(IpAddr::V6(gateway)) => router_of(gateway).into(),
            None if v6 => OUR_V6.into(),
            other => other.unwrap_or(OUR_V4.into()),
        };
        let prefix = primary.and_then(|own| prefix(own.addr));
        let family = if let Some(prefix) = prefix {
            FamilyConfig {
                addresses: Vec::new(),
                routes: Routes::Advertised(config.services.advertises().then_some(prefix)),
            }
        } else {
            let addresses = primary.into_iter().collect();
            FamilyConfig {
                addresses,
                routes: Routes::Default(Some(if v6 { ours } else { gateway.unwrap_or(ours) })),
            }
        };
        Self { v6, template: None, primary, gateway, ours, family }
    }

    /// The addresses that stand for others, but for those of resolvers.
    fn map(&self, config: &Config) -> guest::FamilyConfig {
        let gateway = self.gateway.filter(|_| config.mapping.gateway);
        let addr = |a: &Addresses| of(a, self.v6).map(Addr::from);
        guest::FamilyConfig {
            host_loopback: addr(&config.mapping.host_loopback).or(gateway.map(Addr::from)),
            host_itself: addr(&config.mapping.guest_addr),
            closed_host: addr(&config.mapping.closed_host),
            dns_forward: addr(&config.dns.forward),
            dns_host: addr(&config.dns.host),
            dns_scope: None,
            groups: None,
            off: false,
            outbound: addr(&config.host.outbound),
            outbound_to_loopback: config.host.outbound_to_loopback,
            apart: self.primary.filter(|_| config.host.apart).map(|own| (own.addr.into(), own.prefix_len)),
            echoing: self.echoing(config),
            assigned: self.assigned(),
            ours: Some(self.ours.into()),
            gateway: addr(&config.guest.gateway),
            fixed: addr(&config.guest.addr).is_some() && config.guest.leases.is_none() && !self.is_formed(),
        }
    }

    /// Whether the guest forms its address by itself.
    fn is_formed(&self) -> bool {
        matches!(self.family.routes, Routes::Advertised(_))
    }

    /// Who answers pings on a link that is like none of the host's: all that are ours there.
    fn echoing(&self, config: &Config) -> ArrayVec<Addr, 3> {
        let MapOptions { host_loopback, closed_host, .. } = &config.mapping;
        let names = [host_loopback, closed_host, &config.dns.forward];
        let names = names.into_iter().filter_map(|name| of(name, self.v6)).map(Addr::from);
        names.filter(|_| config.host.apart).collect()
    }

    /// Has the guest's names for others and for us, for which we answer on the link, be reached there
    /// where no route that was copied leads to them.
    fn lead_to(&mut self, names: &guest::FamilyConfig) {
        let FamilyConfig { addresses, routes: Routes::Copied(routes) } = &mut self.family else { return };
        let names = [names.dns_forward, names.host_loopback, names.host_itself, names.ours];
        for name in names.into_iter().flatten().map(Addr::ip) {
            let is_near = |own: &IfAddr| {
                !own.no_prefix_route && route::is_within(name, own.peer.unwrap_or(own.addr), own.prefix_len)
            };
            let is_scoped = matches!(name, IpAddr::V6(name) if name.is_unicast_link_local());
            let is_led_to = || routes.iter().any(|known| route::covers(known, name));
            if !is_scoped && !is_led_to() && !addresses.iter().any(is_near) {
                routes.push(route::on_link(self.v6, Some(name)));
            }
        }
    }

    /// All addresses that the guest is given, the first one first.
    fn assigned(&self) -> guest::Addresses {
        let first = self.primary.iter().filter(|_| !self.is_formed());
        let others =
            self.family.addresses.iter().filter(|own| self.primary.is_none_or(|p| p.addr != own.addr));
        first.chain(others).map(|own| own.addr.into()).take(guest::MAX_ADDRESSES).collect()
    }

    fn responder_v4(&self, dns: &[IpAddr]) -> Option<V4> {
        let (IpAddr::V4(addr), IpAddr::V4(our_addr)) = (self.primary?.addr, self.ours) else {
            return None;
        };
        let gateway = match self.gateway {
            Some(IpAddr::V4(gateway)) => gateway,
            _ => our_addr,
        };
        let v4 = |a: &IpAddr| if let IpAddr::V4(a) = a { Some(*a) } else { None };
        let dns = dns.iter().filter_map(v4).take(3).collect();
        Some(V4 { addr, prefix_len: self.primary?.prefix_len, gateway, our_addr, dns })
    }

    fn responder_v6(&self, dns: &[IpAddr]) -> Option<V6> {
        let none = IfAddr::new(Ipv6Addr::UNSPECIFIED.into(), 64);
        let primary = self.primary.unwrap_or(none);
        let (IpAddr::V6(addr), IpAddr::V6(our_ll)) = (primary.addr, self.ours) else {
            return None;
        };
        let v6 = |a: &IpAddr| if let IpAddr::V6(a) = a { Some(*a) } else { None };
        let dns = dns.iter().filter_map(v6).take(3).collect();
        Some(V6 { addr, prefix_len: primary.prefix_len, our_ll, dns })
    }
}

/// The address from the command line, in the network that was given or else follows from it.
fn given(config: &Config, v6: bool) -> Option<IfAddr> {
    let addr = of(&config.guest.addr, v6)?;
    let len = match addr {
        IpAddr::V4(a) => config.guest.prefix_len.unwrap_or_else(|| class_prefix_len(a)),
        IpAddr::V6(_) => 64,
    };
    Some(IfAddr::new(addr, len))
}

/// The prefix length of an address' class (RFC 791, section 2.3).
fn class_prefix_len(addr: Ipv4Addr) -> u8 {
    match addr.to_bits().leading_ones() {
        0 => 8,
        1 => 16,
        2 => 24,
        _ => 32,
    }
}

/// The address of a family.
fn of(addresses: &Addresses, v6: bool) -> Option<IpAddr> {
    if v6 { addresses.v6.map(IpAddr::V6) } else { addresses.v4.map(IpAddr::V4) }
}

/// The address by which routers of a link are known to whom they advertise themselves: link-local, with
/// the interface identifier of the gateway's (RFC 4861, section 4.2).
fn router_of(gateway: Ipv6Addr) -> Ipv6Addr {
    let prefix = OUR_V6.to_bits() >> 64 << 64;
    Ipv6Addr::from_bits(prefix | gateway.to_bits() << 64 >> 64)
}

/// An IPv6 address that has no interface identifier: it is that of all routers there, and no guest's
/// (RFC 4291, section 2.6.1).
fn prefix(addr: IpAddr) -> Option<Ipv6Addr> {
    let IpAddr::V6(addr) = addr else { return None };
    (addr.to_bits() << 64 == 0).then_some(addr)
}

fn either(values: PerFamily<bool>, v6: bool) -> bool {
    if v6 { values.v6 } else { values.v4 }
}

fn search(config: &Config, resolv: &Resolv, warnings: &mut Vec<String>) -> ArrayVec<Name, 6> {
    let domains = match &config.dns.search {
        Source::Host => resolv.search.as_slice(),
        Source::Given(domains) => domains.as_slice(),
        Source::None => &[],
    };
    domains.iter().filter_map(|d| name(d, warnings)).take(6).collect()
}

/// Whether a command that we start gets a resolv.conf with these servers. The host's one is left where
/// it does for the command what it does for others.
fn wants_resolv_conf(
    config: &Config,
    host_does: impl FnOnce() -> bool,
    warnings: &mut Vec<String>,
    dns: &[IpAddr],
) -> bool {
    let Some(pasta) = config.pasta().filter(|pasta| pasta.target.spawns()) else { return false };
    match pasta.resolv_conf {
        ResolvConf::Always if dns.is_empty() => {
            warnings.push("No name server for --resolv-conf".into());
            false
        }
        ResolvConf::Always => true,
        ResolvConf::IfNeeded => !dns.is_empty() && !host_does(),
        ResolvConf::Never => false,
    }
}

/// A resolv.conf like the host's with other servers (resolv.conf(5)).
fn resolv_conf(config: &Config, resolv: &Resolv, dns: &[IpAddr], interface: &str) -> String {
    let mut lines = vec!["# By pasta, for this mount namespace alone".to_owned()];
    lines.extend(dns.iter().map(|server| match server {
        IpAddr::V6(addr) if addr.is_unicast_link_local() => format!("nameserver {addr}%{interface}"),
        server => format!("nameserver {server}"),
    }));
    let is_list = |line: &&String| line.starts_with("search") || line.starts_with("domain");
    match &config.dns.search {
        Source::Host => lines.extend(resolv.others.iter().filter(is_list).cloned()),
        Source::Given(domains) => lines.push(format!("search {}", domains.join(" "))),
        // Without a line it would be the domain of the host's name.
        Source::None => lines.push("search .".into()),
    }
    lines.extend(resolv.others.iter().filter(|line| !is_list(line)).cloned());
    lines.join("\n") + "\n"
}

fn name(text: &str, warnings: &mut Vec<String>) -> Option<Name> {
    Name::from(text).map_err(|_| warnings.push(format!("Name is too long, ignored: {text}"))).ok()
}

/// The services that are on. DHCPv6 has nothing to offer to a guest without an address.
fn services(config: &Config, v6: Option<&Net>) -> Services {
    let asked = config.services;
    let assignable = v6.is_some_and(|n| n.primary.is_some());
    let mut on = Services::empty();
    on.set(Services::DHCP, asked.dhcp);
    on.set(Services::NDP, asked.ndp);
    on.set(Services::RA, asked.ra);
    on.set(Services::DHCPV6, asked.dhcpv6 && assignable);
    on.set(Services::DNS, config.dns.announce_servers);
    on.set(Services::SEARCH, config.dns.announce_search);
    on
}

/// The tap interface. Unless it is given a name it takes that of the template, if it can: loopback
/// has its own.
fn tap(
    config: &Config,
    pasta: &PastaOptions,
    template: &PerFamily<Option<String>>,
    nets: &PerFamily<Option<Net>>,
) -> TapSetup {
    let template = template.v4.as_ref().or(template.v6.as_ref()).filter(|name| *name != "lo");
    let name = pasta.interface.as_ref().or(template);
    let family = |net: &Option<Net>| net.as_ref().map(|n| n.family.clone());
    let network = pasta.config_net.then(|| GuestNetwork {
        mtu: config.mtu.map(u32::from),
        v4: family(&nets.v4),
        v6: family(&nets.v6),
    });
    TapSetup {
        name: name.map_or(TAP_NAME, String::as_str).to_owned(),
        config: TapConfig { mac: pasta.mac, network },
    }
}

#[cfg(test)]
mod tests;
