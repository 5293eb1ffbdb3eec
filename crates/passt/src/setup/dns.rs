//! Which name servers the guest is told of, and what is behind the addresses that we answer for.
//!
//! A resolver on the host's loopback, or on a link that is not the guest's, is out of a guest's
//! reach. It is announced by the address that is forwarded to it, for which the host's loopback
//! serves if none was chosen. One on the gateway, as in many homes, would be hidden where the
//! gateway's address stands for the host's loopback: queries to it reach the gateway all the same.

use std::net::IpAddr;

use passt_proto::addr::Addr;
use passt_proto::guest::{Configured, FamilyConfig};

use crate::cli::{Config, Source};
use crate::netconf::host::HostNetwork;
use crate::netconf::resolv::{Resolv, Server};

/// A name server as the host reaches it.
#[derive(Clone, Copy, Debug)]
struct Resolver {
    addr: Addr,
    /// The interface, of a link-local address; zero: the template's.
    scope: u32,
}

impl Resolver {
    /// Whether the guest can't reach it by its own address.
    fn is_hidden(self) -> bool {
        self.addr.is_loopback() || self.scope != 0
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
        Some(Resolver { addr: server.addr.into(), scope: scope.unwrap_or(0) })
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
    let all = resolvers(host, resolv);
    let from_host = matches!(config.dns.servers, Source::Host);
    let on = [guest.v4.ours.is_some(), guest.v6.ours.is_some()];
    let chosen = [&guest.v4, &guest.v6].map(|family| family.dns_host);
    for (v6, family) in [(false, &mut guest.v4), (true, &mut guest.v6)] {
        if on[usize::from(v6)] {
            let other = (chosen[usize::from(!v6)], on[usize::from(!v6)]);
            resolve(family, v6, &all, other, from_host);
        }
    }
    if [&guest.v4, &guest.v6].iter().any(|family| family.dns_forward.is_some() && family.dns_host.is_none()) {
        warnings.push("No name server on the host for --dns-forward".into());
    }
    let used = [guest.v4.dns_host, guest.v6.dns_host];
    let elsewhere = all.iter().find(|resolver| resolver.scope != 0 && used.contains(&Some(resolver.addr)));
    guest.dns_scope = elsewhere.map_or(0, |resolver| resolver.scope);
    match &config.dns.servers {
        Source::Host => announced(guest, &all),
        Source::Given(servers) => {
            let is_on = |server: &&IpAddr| on[usize::from(server.is_ipv6())] && !server.is_unspecified();
            servers.iter().filter(is_on).copied().collect()
        }
        Source::None => Vec::new(),
    }
}

/// Decides which resolver a family's name is for. What the `other` family has, a resolver that was
/// chosen and whether it is on, serves where this one has none.
fn resolve(
    family: &mut FamilyConfig,
    v6: bool,
    all: &[Resolver],
    (chosen, other_is_on): (Option<Addr>, bool),
    from_host: bool,
) {
    let own = || all.iter().filter(|resolver| resolver.addr.is_v4() != v6);
    let at_gateway = own().find(|resolver| Some(resolver.addr) == family.host_loopback);
    if family.dns_forward.is_none() && family.dns_host.is_none() && chosen.is_none() {
        (family.dns_forward, family.dns_host) = (at_gateway.map(|r| r.addr), at_gateway.map(|r| r.addr));
    }
    // Where the other family is on, its own resolvers can be reached by it.
    let across = chosen.or_else(|| all.first().map(|resolver| resolver.addr));
    let across = across.filter(|_| family.dns_forward.is_some() || !other_is_on);
    let own_host = || own().next().map(|resolver| resolver.addr).filter(|_| chosen.is_none());
    let own_or_across = || own_host().or(across).or_else(|| own().next().map(|resolver| resolver.addr));
    family.dns_host = family.dns_host.or_else(own_or_across);
    let behind = |addr: &Addr| {
        let known = all.iter().find(|resolver| resolver.addr == *addr);
        addr.is_loopback() || addr.is_v4() == v6 || known.is_some_and(|resolver| resolver.is_hidden())
    };
    let is_hidden = family.dns_host.as_ref().is_some_and(behind) || own().any(|r| r.is_hidden());
    if from_host && is_hidden && family.dns_forward.is_none() && family.dns_host.is_some() {
        family.dns_forward = family.host_loopback;
    }
}

/// What stands for the host's resolvers, in their order.
fn announced(guest: &Configured, all: &[Resolver]) -> Vec<IpAddr> {
    let mut shown: Vec<IpAddr> = Vec::new();
    for resolver in all {
        let own = if resolver.addr.is_v4() { &guest.v4 } else { &guest.v6 };
        let reached = match own.ours {
            Some(_) if !resolver.is_hidden() => Some(resolver.addr),
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
