//! Addresses by which the guest knows others: what they stand for, and where they can't.

use std::net::IpAddr;

use passt_proto::addr::Addr;
use passt_proto::guest::{Configured, FamilyConfig};
use passt_proto::responder::dhcp::leases::Leases;

use super::of;
use crate::cli::Config;

/// Names for others that are the guest's own addresses, or may become its own: a warning each.
pub(super) fn of_the_guest(config: &Config, guest: &Configured) -> Vec<String> {
    let names = [
        ("the host's resolver (--dns-forward)", &config.dns.forward),
        ("the host's loopback (--map-host-loopback)", &config.mapping.host_loopback),
        ("the host (--map-guest-addr)", &config.mapping.guest_addr),
        ("the gateway (--gateway)", &config.guest.gateway),
    ];
    let leases = config.guest.leases.filter(|_| config.services.dhcp);
    let leases = leases.map(|(first, count)| Leases::new(first, count).ends());
    let is_leased = |name: IpAddr| {
        leases.is_some_and(|(first, last)| (IpAddr::V4(first)..=IpAddr::V4(last)).contains(&name))
    };
    let of_family = |(v6, family): (bool, &FamilyConfig)| {
        let warning = |(what, names)| {
            let name = of(names, v6)?;
            let whose = if family.assigned.contains(&name.into()) {
                "the guest's own address"
            } else if is_leased(name) {
                "an address that DHCP gives"
            } else {
                return None;
            };
            Some(format!("{name} is {whose}, so it can't stand for {what}, too"))
        };
        names.into_iter().filter_map(warning).collect::<Vec<_>>()
    };
    [(false, &guest.v4), (true, &guest.v6)].into_iter().flat_map(of_family).collect()
}

/// What a family's names stand for, a line each.
pub(super) fn meanings(family: &FamilyConfig) -> impl Iterator<Item = String> {
    let name = |what: &str, name: Option<Addr>| name.map(|name| format!("Name: {name} is {what}"));
    let resolver = family.dns_host.map(|host| format!("the resolver {host}"));
    let lines = [
        name("the host's loopback", family.host_loopback),
        name("the host itself", family.host_itself),
        resolver.and_then(|resolver| name(&resolver, family.dns_forward)),
        name("this program on the link", family.ours),
        name("where the guest's traffic leaves from", family.outbound),
    ];
    lines.into_iter().flatten()
}
