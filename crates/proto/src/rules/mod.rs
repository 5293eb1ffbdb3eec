//! Whom the guest talks to on the host's side, and whom the guest believes to talk to.
//!
//! A guest normally shares the host's own address, so no translation is needed at
//! all. What remains is decided here, once for each flow, when it begins: names for the
//! host's loopback and for the host itself, a resolver that only the host can
//! reach, and a source to show where the guest could not answer the real one.
//! There is no state but what is known about the [guest](crate::guest).
//!
//! Which ports are forwarded is no question of addresses: listening sockets stand
//! for them, and say which guest address they were configured for, if any.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::addr::{Addr, Endpoint};
use crate::drop::DropReason;
use crate::guest::{Bypass, Guest};

/// Transport protocols that flows exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo; ports are the identifier.
    Echo,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Echo => "ICMP echo",
        })
    }
}

/// The host's side of a flow that the guest began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSide {
    /// Peer to connect or send to.
    pub remote: Endpoint,
    /// The address to bind to; the kernel chooses if there is none.
    pub bind: Option<Addr>,
    /// Index of the interface on which link-local addresses and groups are meant; zero: any.
    pub scope: u32,
    /// Whoever asks is told that the network is unreachable.
    pub closed: bool,
}

impl HostSide {
    /// The form of `at`, which is on this side, that sockets of the host take.
    pub fn socket_addr(&self, at: Endpoint) -> SocketAddr {
        match at.socket_addr() {
            SocketAddr::V6(a) if at.addr.is_link_local() || at.addr.is_group() => {
                SocketAddrV6::new(*a.ip(), a.port(), 0, self.scope).into()
            }
            other => other,
        }
    }
}

/// The guest's side of a flow that the host's side began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestSide {
    /// Peer as the guest sees it.
    pub remote: Endpoint,
    /// The guest's own address, or a multicast group.
    pub guest: Addr,
}

impl Guest {
    /// The host's side of a flow that the guest sends to `remote`.
    pub fn from_guest(&self, protocol: Protocol, remote: Endpoint) -> Result<HostSide, DropReason> {
        if remote.addr.is_loopback() || remote.addr.is_interface_local() {
            return Err(DropReason::Loopback);
        }
        let map = self.family(remote.addr);
        let (named, mut scope) = (Some(remote.addr), self.configured.scope);
        // On a link of the guest's own a resolver answers plain queries, and is nothing else: it may be
        // at the host's loopback, where others are.
        let is_query = is_dns(protocol, remote.port) && (map.apart.is_none() || remote.port == DNS);
        let addr = if named == map.dns_forward && is_query {
            scope = map.dns_scope.unwrap_or(scope);
            map.dns_host.ok_or(DropReason::Unmapped)?
        } else if named == map.host_loopback {
            loopback(remote.addr)
        } else if named == map.host_itself {
            map.assigned.first().copied().ok_or(DropReason::Unmapped)?
        } else if self.is_vacant(remote.addr) {
            return Err(DropReason::Unmapped);
        } else {
            remote.addr
        };
        let is_resolver = map.apart.is_some() && named == map.dns_forward && addr == remote.addr;
        if is_resolver && map.dns_host.is_none() {
            return Err(DropReason::Unmapped);
        }
        // A resolver may be of the other family.
        let outbound = self.family(addr).outbound;
        let bind = if addr.is_loopback() {
            Some(outbound.filter(|_| map.outbound_to_loopback).unwrap_or(loopback(addr)))
        } else {
            outbound
        };
        let closed = is_resolver || named == map.closed_host && addr == remote.addr;
        Ok(HostSide { remote: Endpoint::new(addr, remote.port), bind, scope, closed })
    }

    /// How something that `source` sent to `destination` on the host's side looks to the
    /// guest. `target` is the guest's address if the user chose one for this way in.
    pub fn to_guest(
        &self,
        protocol: Protocol,
        source: Endpoint,
        destination: Addr,
        target: Option<Addr>,
    ) -> Result<GuestSide, DropReason> {
        let shown = self.shown(protocol, source).ok_or(DropReason::Unmapped)?;
        let group = Some(destination).filter(|d| d.is_group());
        let guest = target.or(group).or_else(|| self.own(shown, destination)).ok_or(DropReason::Unmapped)?;
        if guest.is_v4() != shown.is_v4() {
            return Err(DropReason::Unmapped);
        }
        let shown = self.towards(guest, shown);
        Ok(GuestSide { remote: Endpoint::new(shown, source.port), guest })
    }

    /// Whom the guest sees at its address `guest` instead of `shown`: where that is our own address,
    /// the gateway that the user named, if its scope is that of `guest` (RFC 4007, section 9).
    fn towards(&self, guest: Addr, shown: Addr) -> Addr {
        let map = self.family(shown);
        let gateway = map.gateway.filter(|gateway| gateway.is_link_local() == guest.is_link_local());
        gateway.filter(|_| Some(shown) == map.ours).unwrap_or(shown)
    }

    /// The address in the guest's namespace at which something arrives that `source` sent to
    /// `destination` on the host's side, if it bypasses the link: what comes from loopback does,
    /// unless the user chose a `target` for this way in. An unspecified `destination` is unknown.
    pub fn past_link(&self, source: Addr, destination: Addr, target: Option<Addr>) -> Option<Addr> {
        if !source.is_loopback() || target.is_some() {
            return None;
        }
        let map = self.family(source);
        match self.configured.bypass {
            Bypass::Off => None,
            Bypass::Public if map.assigned.contains(&destination) => Some(destination),
            Bypass::Public => self.learnt.used(source).or(map.assigned.first().copied()),
            Bypass::Loopback if destination.is_loopback() => Some(destination),
            Bypass::Loopback => Some(loopback(source)),
        }
    }

    /// Destination on the host for what was received on the namespace's loopback for `destination`.
    pub fn past_link_out(destination: Addr) -> Addr {
        loopback(destination)
    }

    /// The address by which the guest knows `source`, a host on the host's side.
    /// `None` if there is none.
    pub fn shown(&self, protocol: Protocol, source: Endpoint) -> Option<Addr> {
        let map = self.family(source.addr);
        let addr = Some(source.addr);
        if source.addr.is_unspecified() || source.addr.is_group() {
            return None;
        }
        if addr == map.dns_host && map.dns_forward.is_some() && is_dns(protocol, source.port) {
            return map.dns_forward;
        }
        if source.addr == loopback(source.addr) && map.host_loopback.is_some() {
            return map.host_loopback;
        }
        if map.assigned.contains(&source.addr) && map.host_itself.is_some() {
            return map.host_itself;
        }
        let learnt = [self.learnt.used(source.addr), self.learnt.link_local()];
        let own = map.assigned.contains(&source.addr) || learnt.contains(&addr);
        if own || source.addr.is_loopback() || self.is_vacant(source.addr) { map.ours } else { addr }
    }

    /// The guest's own address for what arrives on the host's side at `destination` from a host
    /// that it knows as `shown`: the one that was reached, if the guest was assigned it and uses no
    /// other than those assigned.
    fn own(&self, shown: Addr, destination: Addr) -> Option<Addr> {
        let (assigned, used) = (&self.family(shown).assigned, self.learnt.used(shown));
        let is_one_of_them = used.is_none_or(|used| assigned.contains(&used));
        if is_one_of_them && assigned.contains(&destination) {
            return Some(destination);
        }
        if !shown.is_v4() && shown.is_link_local() {
            return self.learnt.link_local();
        }
        used.or(assigned.first().copied()).or(self.learnt.link_local())
    }

    /// The other addresses at which the guest may have been reached when it answers from `own`:
    /// servers that listen at any address answer datagrams from the one that the guest's kernel
    /// chooses.
    pub fn other_addresses(&self, own: Addr) -> impl Iterator<Item = Addr> {
        let link_local = self.learnt.link_local().filter(|_| !own.is_v4());
        let all = self.family(own).assigned.iter().copied().chain(link_local);
        let is_known = all.clone().any(|known| known == own);
        all.filter(move |other| is_known && *other != own)
    }
}

/// The port for plain queries (RFC 1035, section 4.2).
const DNS: u16 = 53;

/// Whether a port is one of a resolver: plain or over TLS (RFC 7858).
fn is_dns(protocol: Protocol, port: u16) -> bool {
    protocol != Protocol::Echo && matches!(port, DNS | 853)
}

/// The loopback address of `like`'s family.
fn loopback(like: Addr) -> Addr {
    if like.is_v4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

#[cfg(test)]
mod tests;
