//! Which name servers the guest is told of, and what is behind the addresses that we answer for.
//!
//! A resolver on the host's loopback, or on a link that is not the guest's, is out of a guest's
//! reach. It is announced by the address that is forwarded to it, for which the host's loopback
//! serves if none was chosen. One on the gateway, as in many homes, would be hidden where the
//! gateway's address stands for the host's loopback: queries to it reach the gateway all the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use passt_proto::addr::Addr;
use passt_proto::guest::{Configured, FamilyConfig};

use crate::cli::{Config, ResolvConf, Source};
use crate::netconf::host::HostNetwork;
use crate::netconf::resolv::{Resolv, Server};

/// Names for the host's resolver where it is to have one, and the host's loopback has none.
const OWN_NAME_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const OWN_NAME_V6: Ipv6Addr = Ipv6Addr::new(0xfd9d, 0x6c1f, 0x5e2a, 0, 0, 0, 0, 0x53);

/// A name server as the host reaches it.
#[derive(Clone, Copy, Debug)]
struct Resolver {
    addr: Addr,
    /// The interface, if its address is link-local, and not on the template's.
    scope: Option<u32>,
}

/// The loopback interface's index, in every namespace.
const LOOPBACK: u32 = 1;

impl Resolver {
    /// Whether it is on the host's loopback, by its address or by its interface.
    fn is_on_loopback(self) -> bool {
        self.addr.is_loopback() || self.scope == Some(LOOPBACK)
    }

    /// Whether the guest of this family can't reach it by its own address: it is on loopback, on
    /// another link, or at an address that the guest has as well.
    fn is_hidden(self, family: &FamilyConfig) -> bool {
        self.addr.is_loopback() || self.scope.is_some() || family.assigned.contains(&self.addr)
    }
}

/// The host's resolvers that it can reach itself.
fn resolvers(host: &HostNetwork, resolv: &Resolv) -> Vec<Resolver> {
    let template = host.v6.as_ref().map(|template| template.link.index);
    let resolver = |server: &Server| {
        let scope = match &server.zone {
            Some(zone) => Some(host.index(zone)?).filter(|index| Some(*index) != template),
            None => None,
        };
        Some(Resolver { addr: server.addr.into(), scope })
    };
    resolv.servers.iter().filter_map(resolver).collect()
}

/// The name servers that the guest is told. Fills in the resolvers behind `dns_forward`.
pub(super) fn servers(
    config: &Config,
    host: &HostNetwork,
    resolv: &Resolv,
    guest: &mut Configured,
    warnings: &mut Vec<String>,
) -> Vec<IpAddr> {
    let mut all = resolvers(host, resolv);
    let on_loopback = !all.is_empty() && all.iter().all(|resolver| resolver.is_on_loopback());
    all.retain(|resolver| !(config.dns.spare_loopback && resolver.is_on_loopback()));
    let from_host = matches!(config.dns.servers, Source::Host);
    let needed = config.pasta().is_some_and(|pasta| pasta.resolv_conf == ResolvConf::Always);
    let on = [guest.v4.ours.is_some(), guest.v6.ours.is_some()];
    let chosen = |family: &FamilyConfig| family.dns_host.map(|addr| Resolver { addr, scope: None });
    let chosen = [chosen(&guest.v4), chosen(&guest.v6)];
    for (v6, family) in [(false, &mut guest.v4), (true, &mut guest.v6)] {
        if on[usize::from(v6)] {
            let chosen = (chosen[usize::from(v6)], chosen[usize::from(!v6)]);
            resolve(family, v6, &all, chosen, on[usize::from(!v6)]);
            let own_name = if v6 { Addr::from(OWN_NAME_V6) } else { OWN_NAME_V4.into() };
            announce(family, v6, &all, from_host, needed.then_some(own_name));
        }
    }
    if config.dns.closed {
        (guest.v4.dns_host, guest.v6.dns_host) = (None, None);
    }
    let leads_nowhere = |family: &&FamilyConfig| family.dns_forward.is_some() && family.dns_host.is_none();
    let leads = |family: &FamilyConfig| family.dns_forward.is_some() && family.dns_host.is_some();
    let has_way = leads(&guest.v4) || leads(&guest.v6);
    let nowhere = !config.dns.closed && [&guest.v4, &guest.v6].iter().any(leads_nowhere);
    if nowhere && !(on_loopback && all.is_empty()) {
        warnings.push("No name server on the host for --dns-forward".into());
    } else if nowhere
        || !has_way && on_loopback && is_told(config) && from_host && announced(guest, &all).is_empty()
    {
        warnings.push(out_of_reach(config));
    }
    warnings.extend(own_loopback(config));
    // Where the host's are spared, a name for them leads nowhere.
    let is_spared = |server: &IpAddr| {
        let family = if server.is_ipv4() { &guest.v4 } else { &guest.v6 };
        let is_name = family.dns_forward == Some(Addr::from(*server));
        nowhere && on_loopback && config.dns.spare_loopback && is_name && family.dns_host.is_none()
    };
    match &config.dns.servers {
        Source::Host => announced(guest, &all),
        Source::Given(servers) => {
            let is_on = |server: &&IpAddr| on[usize::from(server.is_ipv6())] && !server.is_unspecified();
            servers.iter().filter(is_on).filter(|server| !is_spared(server)).copied().collect()
        }
        Source::None => Vec::new(),
    }
}

/// Whether the guest is isolated, by which no port of the namespace's loopback leads to the host's
/// either, and learns of name servers by us or by the host's file.
fn is_told(config: &Config) -> bool {
    let spawning = config.pasta().filter(|pasta| pasta.target.spawns());
    let has_file = spawning.is_some_and(|pasta| pasta.resolv_conf != ResolvConf::Never);
    config.host.closed && (has_file || config.dns.announce_servers)
}

/// What to say where the guest has no way to any of the host's name servers.
fn out_of_reach(config: &Config) -> String {
    let spawns = config.pasta().is_some_and(|pasta| pasta.target.spawns());
    let option = if spawns { "--resolv-conf" } else { "--dns-forward with an address for them" };
    let ports = if config.host.apart { "port 53" } else { "ports 53 and 853" };
    format!(
        "The host's name servers are on its loopback, out of the guest's reach; {option} leads to them, \
         {ports} there"
    )
}

/// What to say where an isolated guest is told a name server on loopback, which is its own.
fn own_loopback(config: &Config) -> Option<String> {
    let Source::Given(servers) = &config.dns.servers else { return None };
    let server = servers.iter().find(|server| server.is_loopback()).filter(|_| is_told(config))?;
    let spawns = config.pasta().is_some_and(|pasta| pasta.target.spawns());
    let option = if spawns { "--resolv-conf" } else { "--dns-forward with an address for it" };
    Some(format!(
        "--dns {server} is on the guest's own loopback; in its place --dns-host {server} and {option} lead \
         to the host's"
    ))
}

/// The resolvers behind `dns_forward` of IPv4 and IPv6, and their interfaces, now that the host has
/// others. What the guest was told stays.
pub(super) fn others(
    config: &Config,
    host: &HostNetwork,
    resolv: &Resolv,
    guest: &Configured,
) -> [(Option<Addr>, Option<u32>); 2] {
    let mut now = guest.clone();
    for (family, chosen) in
        [(&mut now.v4, config.dns.host.v4.map(Addr::from)), (&mut now.v6, config.dns.host.v6.map(Addr::from))]
    {
        (family.dns_host, family.dns_scope) = (chosen, None);
    }
    servers(config, host, resolv, &mut now, &mut Vec::new());
    [(&guest.v4, now.v4), (&guest.v6, now.v6)].map(|(before, now)| {
        let same = before.dns_forward == now.dns_forward;
        let before = (before.dns_host, before.dns_scope);
        if same { (now.dns_host, now.dns_scope) } else { before }
    })
}

/// The resolvers of a family.
fn of(all: &[Resolver], v6: bool) -> impl Iterator<Item = Resolver> {
    all.iter().copied().filter(move |resolver| resolver.addr.is_v4() != v6)
}

/// Decides which resolver a family's name is for: the one that the user `chose` for it or else for
/// the other family, or one of the host's. Those of the other family serve where this one has none,
/// unless that is on, and they can be reached by it.
fn resolve(
    family: &mut FamilyConfig,
    v6: bool,
    all: &[Resolver],
    (chosen, for_other): (Option<Resolver>, Option<Resolver>),
    other_is_on: bool,
) {
    let at_gateway = of(all, v6).find(|r| Some(r.addr) == family.host_loopback && r.scope.is_none());
    if let (None, None, None, Some(gateway)) = (family.dns_forward, chosen, for_other, at_gateway) {
        (family.dns_forward, family.dns_host) = (Some(gateway.addr), Some(gateway.addr));
        return;
    }
    let named = family.dns_forward.is_some() || !other_is_on;
    let across = for_other.or_else(|| all.first().copied()).filter(|_| named);
    let own = of(all, v6).next();
    let host = chosen.or(own.filter(|_| for_other.is_none())).or(across).or(own);
    (family.dns_host, family.dns_scope) = (host.map(|host| host.addr), host.and_then(|host| host.scope));
}

/// An address, or the next one if the guest has that itself.
fn unless_taken(addr: Addr, family: &FamilyConfig) -> Addr {
    if !family.assigned.contains(&addr) {
        return addr;
    }
    match addr.ip() {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ 2).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() ^ 2).into(),
    }
}

/// Gives a family a name for its resolver, if the guest can't reach that by its own address, or none
/// that the host has of the family: the host's loopback has one, or else it is `own_name`, if any.
fn announce(family: &mut FamilyConfig, v6: bool, all: &[Resolver], from_host: bool, own_name: Option<Addr>) {
    let Some(addr) = family.dns_host.filter(|_| from_host && family.dns_forward.is_none()) else { return };
    let host = Resolver { addr, scope: family.dns_scope };
    let is_across = addr.is_v4() == v6;
    let mut own = of(all, v6).peekable();
    let are_hidden = own.peek().is_some() && own.all(|resolver| resolver.is_hidden(family));
    if is_across || host.is_hidden(family) || are_hidden {
        family.dns_forward = family.host_loopback.or(own_name.map(|name| unless_taken(name, family)));
    }
}

/// Whether the guest reaches one of the host's resolvers by its own address.
pub(super) fn reaches_any(host: &HostNetwork, resolv: &Resolv, guest: &Configured) -> bool {
    resolvers(host, resolv).into_iter().any(|resolver| {
        let own = if resolver.addr.is_v4() { &guest.v4 } else { &guest.v6 };
        own.ours.is_some() && !resolver.is_hidden(own)
    })
}

/// What stands for the host's resolvers, in their order.
fn announced(guest: &Configured, all: &[Resolver]) -> Vec<IpAddr> {
    let mut shown: Vec<IpAddr> = Vec::new();
    for resolver in all {
        let own = if resolver.addr.is_v4() { &guest.v4 } else { &guest.v6 };
        let reached = match own.ours {
            Some(_) if !resolver.is_hidden(own) => Some(resolver.addr),
            Some(_) => own.dns_forward,
            None => None,
        };
        let is_for = |family: &&FamilyConfig| {
            let across = family
                .dns_host
                .is_some_and(|host| host.is_v4() != family.dns_forward.is_some_and(Addr::is_v4));
            across && family.dns_host == Some(resolver.addr)
        };
        let across =
            [&guest.v4, &guest.v6].into_iter().filter(is_for).filter_map(|family| family.dns_forward);
        for addr in reached.into_iter().chain(across).map(Addr::ip) {
            if !shown.contains(&addr) {
                shown.push(addr);
            }
        }
    }
    shown
}
