//! A network of the guest's own, instead of one like the host's: who has which address there.
//!
//! It is plain data, which becomes settings that options can make one by one as well. Nothing
//! below the command line knows where they come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::config::{Addresses, Config, Source};

/// Addresses of a network, with what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    pub(super) v4: Option<SubnetV4>,
    pub(super) v6: Option<SubnetV6>,
}

/// Those of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubnetV4 {
    pub(super) prefix_len: u8,
    /// The guest, where it is not told by DHCP.
    pub(super) guest: Ipv4Addr,
    /// The way out.
    pub(super) gateway: Ipv4Addr,
    /// The host's loopback.
    pub(super) host: Option<Ipv4Addr>,
    /// The host's resolver.
    pub(super) resolver: Ipv4Addr,
    /// DHCP clients: the first address, and how many.
    pub(super) leases: (Ipv4Addr, usize),
}

/// Those of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubnetV6 {
    /// Of 64 bits; the guest forms its own address.
    pub(super) prefix: Ipv6Addr,
    pub(super) gateway: Ipv6Addr,
    /// The host's loopback.
    pub(super) host: Option<Ipv6Addr>,
    /// The host's resolver.
    pub(super) resolver: Ipv6Addr,
}

impl SubnetV4 {
    /// The network as libslirp divides it: .2 is the host, .3 its resolver, .100 the guest, or what
    /// DHCP gives it from .15 on.
    pub(super) fn like_libslirp(network: Ipv4Addr, prefix_len: u8) -> Self {
        let at = |offset| Ipv4Addr::from_bits(network.to_bits().wrapping_add(offset));
        Self {
            prefix_len,
            guest: at(100),
            gateway: at(2),
            host: Some(at(2)),
            resolver: at(3),
            leases: (at(15), 16),
        }
    }
}

impl SubnetV6 {
    /// The same for IPv6, where the guest forms its address.
    pub(super) fn like_libslirp() -> Self {
        let at = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
        Self { prefix: at(0), gateway: at(2), host: Some(at(2)), resolver: at(3) }
    }
}

impl Subnet {
    /// Has the guest's network be this one, but for what was chosen already.
    pub(super) fn apply(&self, config: &mut Config) {
        let Self { v4, v6 } = *self;
        config.host.apart = true;
        let guest = &mut config.guest;
        guest.prefix_len = guest.prefix_len.or(v4.map(|v4| v4.prefix_len));
        if guest.addr.v4.is_none() {
            guest.leases = v4.map(|v4| v4.leases);
        }
        // What guests form their addresses from is told by advertisements alone.
        config.services.dhcpv6 &= guest.addr.v6.is_some();
        fill(&mut guest.addr, v4.map(|v4| v4.guest), v6.map(|v6| v6.prefix));
        fill(&mut guest.gateway, v4.map(|v4| v4.gateway), v6.map(|v6| v6.gateway));
        if config.mapping.gateway {
            let (v4, v6) = (v4.and_then(|v4| v4.host), v6.and_then(|v6| v6.host));
            fill(&mut config.mapping.host_loopback, v4, v6);
        }
        let dns = &mut config.dns;
        fill(&mut dns.forward, v4.map(|v4| v4.resolver), v6.map(|v6| v6.resolver));
        if matches!(dns.servers, Source::Host) {
            let resolvers = [dns.forward.v4.map(IpAddr::V4), dns.forward.v6.map(IpAddr::V6)];
            dns.servers = Source::Given(resolvers.into_iter().flatten().collect());
        }
        dns.follow = dns.host == Addresses::default();
        // Who shares no network with the guest has no name but these.
        config.mapping.gateway = false;
        // Groups are those of the host's network.
        config.services.multicast = false;
        config.custom.ra.unasked = false;
    }
}

/// Has addresses that were not chosen be these.
fn fill(addresses: &mut Addresses, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) {
    (addresses.v4, addresses.v6) = (addresses.v4.or(v4), addresses.v6.or(v6));
}
