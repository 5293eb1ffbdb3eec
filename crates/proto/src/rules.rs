//! Whom the guest talks to on the host's side, and whom the guest believes to talk to.
//!
//! A guest normally shares the host's own address, so no translation is needed at
//! all. What remains is decided here, once for each flow, when it begins: names for the
//! host's loopback and for the host itself, a resolver that only the host can
//! reach, and a source to show where the guest could not answer the real one.
//! There is no state but the addresses that the guest was seen to use.
//!
//! Which ports are forwarded is no question of addresses: listening sockets stand
//! for them, and say which guest address they were configured for, if any.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::addr::{Addr, Endpoint};
use crate::drop::DropReason;

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

/// The addresses that mean something else on the other side, for both families.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddressMap {
    /// Those of IPv4.
    pub v4: FamilyMap,
    /// Those of IPv6.
    pub v6: FamilyMap,
    /// How local connections bypass the link.
    pub bypass: Bypass,
    /// Index of the host's interface on which link-local addresses and multicast
    /// groups of IPv6 are reached; zero leaves it to the kernel.
    pub scope: u32,
}

/// Where connections from the host's loopback arrive that bypass the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bypass {
    /// There is no bypass (`--no-splice`, or no namespace): they travel on the link.
    #[default]
    Off,
    /// At the guest's own address, so that what listens on its loopback alone stays out of reach.
    Public,
    /// At the guest's loopback (`--host-lo-to-ns-lo`).
    Loopback,
}

/// The addresses of one family. Each is of that family; `None` is a feature that is off
/// or an address that nobody has.
#[derive(Clone, Copy, Debug, Default)]
pub struct FamilyMap {
    /// As the guest sees it: the host's loopback (`--map-host-loopback`).
    pub host_loopback: Option<Addr>,
    /// As the guest sees it: the host at the address that it shares with the guest (`--map-guest-addr`).
    pub host_itself: Option<Addr>,
    /// As the guest sees it: a resolver (`--dns-forward`).
    pub dns_forward: Option<Addr>,
    /// On the host's side: that resolver (`--dns-host`).
    pub dns_host: Option<Addr>,
    /// Source address of what leaves the host (`--outbound`).
    pub outbound: Option<Addr>,
    /// The address that the guest was assigned.
    pub assigned: Option<Addr>,
    /// Our own address on the link, shown where the guest could not answer the real one.
    pub ours: Option<Addr>,
    /// Whether the guest was assigned an address by the user, who means it: none is learnt.
    pub fixed: bool,
    /// The address that the guest used last, other than link-local in IPv6. See [`AddressMap::learn`].
    pub seen: Option<Addr>,
    /// The guest's IPv6 link-local address.
    pub seen_link_local: Option<Addr>,
}

/// The host's side of a flow that the guest began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSide {
    /// Whom to connect or send to.
    pub remote: Endpoint,
    /// The address to bind to; the kernel chooses if there is none.
    pub bind: Option<Addr>,
}

/// The guest's side of a flow that the host's side began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestSide {
    /// Whom the guest is shown.
    pub remote: Endpoint,
    /// The guest's own address, or a multicast group.
    pub guest: Addr,
}

impl AddressMap {
    /// Whom the guest means by `remote`.
    pub fn from_guest(&self, protocol: Protocol, remote: Endpoint) -> Result<HostSide, DropReason> {
        if remote.addr.is_loopback() {
            return Err(DropReason::Loopback);
        }
        let map = self.family(remote.addr);
        let named = Some(remote.addr);
        let addr = if named == map.dns_forward && is_dns(protocol, remote.port) {
            map.dns_host.ok_or(DropReason::Unmapped)?
        } else if named == map.host_loopback {
            loopback(remote.addr)
        } else if named == map.host_itself {
            map.assigned.ok_or(DropReason::Unmapped)?
        } else {
            remote.addr
        };
        let bind = if addr.is_loopback() { Some(loopback(addr)) } else { map.outbound };
        let remote = Endpoint::new(addr, remote.port);
        Ok(HostSide { remote, bind })
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
        let map = self.family(shown);
        let own = || {
            if !shown.is_v4() && shown.is_link_local() {
                map.seen_link_local
            } else {
                map.seen.or(map.assigned).or(map.seen_link_local)
            }
        };
        let group = Some(destination).filter(|d| d.is_group());
        let guest = target.or(group).or_else(own).ok_or(DropReason::Unmapped)?;
        if guest.is_v4() != shown.is_v4() {
            return Err(DropReason::Unmapped);
        }
        Ok(GuestSide { remote: Endpoint::new(shown, source.port), guest })
    }

    /// The address in the guest's namespace at which something arrives that `source` sent to
    /// `destination` on the host's side, if it bypasses the link: what comes from loopback does, unless
    /// the user chose a `target` for this way in. An unspecified `destination` is unknown.
    pub fn past_link(&self, source: Addr, destination: Addr, target: Option<Addr>) -> Option<Addr> {
        if !source.is_loopback() || target.is_some() {
            return None;
        }
        let map = self.family(source);
        match self.bypass {
            Bypass::Off => None,
            Bypass::Public => map.seen.or(map.assigned),
            Bypass::Loopback if destination.is_loopback() => Some(destination),
            Bypass::Loopback => Some(loopback(source)),
        }
    }

    /// Whom something in the guest's namespace means that reached us at its loopback at `destination`.
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
        if addr == map.assigned && map.host_itself.is_some() {
            return map.host_itself;
        }
        let own = [map.assigned, map.seen, map.seen_link_local].contains(&addr);
        if own || source.addr.is_loopback() { map.ours } else { addr }
    }

    /// Notes the source address of a packet from the guest, which must be unicast. Guests need not
    /// use what they were assigned, and what the host forwards is to reach them anyway.
    pub fn learn(&mut self, source: Addr) {
        let v4 = source.is_v4();
        let map = if v4 { &mut self.v4 } else { &mut self.v6 };
        if !v4 && source.is_link_local() {
            map.seen_link_local = Some(source);
        } else if !map.fixed {
            map.seen = Some(source);
        }
    }

    /// The addresses that the guest has, as far as is known.
    pub fn guest(&self) -> [Option<Addr>; 5] {
        let Self { v4, v6, .. } = self;
        [v4.assigned, v4.seen, v6.assigned, v6.seen, v6.seen_link_local]
    }

    /// Notes an address that the guest claims to have, before or without any packet from there. A claim counts less
    /// than use: what the guest was assigned stays once it is known to be there, and none of our own names is taken.
    pub fn claim(&mut self, claimed: Addr) {
        let map = self.family(claimed);
        let by_name = [map.host_loopback, map.host_itself, map.dns_forward, map.ours];
        let shown = map.seen.is_some() && map.seen == map.assigned;
        let is_global = claimed.is_v4() || !claimed.is_link_local();
        if !(by_name.contains(&Some(claimed)) || shown && is_global) {
            self.learn(claimed);
        }
    }

    /// The guest has what it was assigned, as we have configured it.
    pub fn configured(&mut self) {
        for map in [&mut self.v4, &mut self.v6] {
            map.seen = map.assigned;
        }
    }

    /// The form of `at` that sockets of the host take.
    pub fn socket_addr(&self, at: Endpoint) -> SocketAddr {
        match at.socket_addr() {
            SocketAddr::V6(a) if at.addr.is_link_local() || at.addr.is_group() => {
                SocketAddrV6::new(*a.ip(), a.port(), 0, self.scope).into()
            }
            other => other,
        }
    }

    fn family(&self, addr: Addr) -> &FamilyMap {
        if addr.is_v4() { &self.v4 } else { &self.v6 }
    }
}

/// Whether a port is one of a resolver: plain or over TLS (RFC 7858).
fn is_dns(protocol: Protocol, port: u16) -> bool {
    protocol != Protocol::Echo && matches!(port, 53 | 853)
}

/// The loopback address of `like`'s family.
fn loopback(like: Addr) -> Addr {
    if like.is_v4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn at(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().expect("address and port").into()
    }

    /// A guest that has the host's addresses, with every feature on.
    fn map() -> AddressMap {
        let family = |list: [&str; 7]| {
            let [loopback, itself, dns, resolver, outbound, assigned, ours] = list.map(|a| Some(addr(a)));
            FamilyMap {
                host_loopback: loopback,
                host_itself: itself,
                dns_forward: dns,
                dns_host: resolver,
                outbound,
                assigned,
                ours,
                ..FamilyMap::default()
            }
        };
        AddressMap {
            v4: family([
                "192.0.2.1",
                "192.0.2.3",
                "192.0.2.53",
                "127.0.0.53",
                "198.51.100.9",
                "192.0.2.2",
                "192.0.2.254",
            ]),
            v6: family([
                "2001:db8::1",
                "2001:db8::3",
                "2001:db8::53",
                "2001:db8:5::5",
                "2001:db8:9::9",
                "2001:db8::2",
                "fe80::1",
            ]),
            scope: 7,
            bypass: Bypass::Off,
        }
    }

    #[test]
    fn from_guest() {
        use Protocol::{Echo, Tcp, Udp};
        let cases: [(_, _, Result<(_, _), _>); 14] = [
            (Tcp, "203.0.113.5:80", Ok(("203.0.113.5:80", "198.51.100.9"))),
            (Tcp, "192.0.2.1:80", Ok(("127.0.0.1:80", "127.0.0.1"))),
            (Echo, "192.0.2.1:80", Ok(("127.0.0.1:80", "127.0.0.1"))),
            (Tcp, "192.0.2.3:80", Ok(("192.0.2.2:80", "198.51.100.9"))),
            (Udp, "192.0.2.53:53", Ok(("127.0.0.53:53", "127.0.0.1"))),
            (Tcp, "192.0.2.53:853", Ok(("127.0.0.53:853", "127.0.0.1"))),
            (Udp, "192.0.2.53:54", Ok(("192.0.2.53:54", "198.51.100.9"))),
            (Echo, "192.0.2.53:53", Ok(("192.0.2.53:53", "198.51.100.9"))),
            (Udp, "127.0.0.1:53", Err(DropReason::Loopback)),
            (Udp, "[2001:db8::1]:9", Ok(("[::1]:9", "::1"))),
            (Udp, "[2001:db8::3]:9", Ok(("[2001:db8::2]:9", "2001:db8:9::9"))),
            (Udp, "[2001:db8::53]:53", Ok(("[2001:db8:5::5]:53", "2001:db8:9::9"))),
            (Udp, "[ff02::fb]:5353", Ok(("[ff02::fb]:5353", "2001:db8:9::9"))),
            (Udp, "[::1]:5353", Err(DropReason::Loopback)),
        ];
        for (protocol, remote, expected) in cases {
            let expected =
                expected.map(|(remote, bind)| HostSide { remote: at(remote), bind: Some(addr(bind)) });
            assert_eq!(map().from_guest(protocol, at(remote)), expected, "{protocol:?} {remote}");
        }
    }

    #[test]
    fn features_that_are_off_change_nothing() {
        let map = AddressMap::default();
        for remote in ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::9]:53", "224.0.0.1:1"] {
            let unchanged = HostSide { remote: at(remote), bind: None };
            assert_eq!(map.from_guest(Protocol::Udp, at(remote)), Ok(unchanged));
        }
        let source = at("192.0.2.1:53");
        assert_eq!(
            map.to_guest(Protocol::Udp, source, addr("192.0.2.2"), None),
            Err(DropReason::Unmapped),
            "no address of the guest is known"
        );
        let mut forward = map;
        forward.v4.dns_forward = Some(source.addr);
        assert_eq!(forward.from_guest(Protocol::Udp, source), Err(DropReason::Unmapped), "no resolver");
    }

    #[test]
    fn to_guest() {
        let mut map = map();
        map.learn(addr("fe80::aaaa"));
        let cases = [
            ("203.0.113.5:80", "192.0.2.2", None, Some(("203.0.113.5:80", "192.0.2.2"))),
            ("127.0.0.1:80", "127.0.0.1", None, Some(("192.0.2.1:80", "192.0.2.2"))),
            ("127.0.0.9:80", "127.0.0.1", None, Some(("192.0.2.254:80", "192.0.2.2"))),
            ("127.0.0.53:53", "127.0.0.1", None, Some(("192.0.2.53:53", "192.0.2.2"))),
            ("127.0.0.53:54", "127.0.0.1", None, Some(("192.0.2.254:54", "192.0.2.2"))),
            ("203.0.113.5:53", "192.0.2.2", None, Some(("203.0.113.5:53", "192.0.2.2"))),
            ("192.0.2.2:80", "192.0.2.2", None, Some(("192.0.2.3:80", "192.0.2.2"))),
            ("192.0.2.9:80", "224.0.0.251", None, Some(("192.0.2.9:80", "224.0.0.251"))),
            ("192.0.2.9:80", "192.0.2.2", Some("10.0.0.1"), Some(("192.0.2.9:80", "10.0.0.1"))),
            ("0.0.0.0:80", "192.0.2.2", None, None),
            ("224.0.0.1:80", "192.0.2.2", None, None),
            ("[2001:db8:8::8]:80", "2001:db8::2", None, Some(("[2001:db8:8::8]:80", "2001:db8::2"))),
            ("[::1]:80", "::1", None, Some(("[2001:db8::1]:80", "2001:db8::2"))),
            ("[fe80::bbbb]:80", "fe80::2", None, Some(("[fe80::bbbb]:80", "fe80::aaaa"))),
            ("[fe80::aaaa]:80", "fe80::2", None, Some(("[fe80::1]:80", "fe80::aaaa"))),
            ("[::1]:80", "::1", Some("10.0.0.1"), None),
        ];
        for (source, destination, target, expected) in cases {
            let side = map.to_guest(Protocol::Udp, at(source), addr(destination), target.map(addr));
            let expected =
                expected.map(|(remote, guest)| GuestSide { remote: at(remote), guest: addr(guest) });
            assert_eq!(side.ok(), expected, "{source} to {destination}");
        }
    }

    #[test]
    fn past_link() {
        use Bypass::{Loopback, Off, Public};
        let cases = [
            (Off, "127.0.0.1", "127.0.0.1", None, None),
            (Public, "127.0.0.1", "127.0.0.1", None, Some("192.0.2.2")),
            (Public, "127.0.0.7", "127.0.0.9", None, Some("192.0.2.2")),
            (Public, "::1", "::1", None, Some("2001:db8::2")),
            (Public, "192.0.2.2", "192.0.2.2", None, None),
            (Public, "127.0.0.1", "127.0.0.1", Some("192.0.2.7"), None),
            (Loopback, "127.0.0.1", "127.0.0.1", None, Some("127.0.0.1")),
            (Loopback, "127.0.0.1", "127.0.0.9", None, Some("127.0.0.9")),
            (Loopback, "127.0.0.5", "0.0.0.0", None, Some("127.0.0.1")),
            (Loopback, "::1", "::1", None, Some("::1")),
            (Loopback, "203.0.113.5", "192.0.2.2", None, None),
        ];
        for (bypass, source, destination, target, expected) in cases {
            let map = AddressMap { bypass, ..map() };
            let found = map.past_link(addr(source), addr(destination), target.map(addr));
            assert_eq!(found, expected.map(addr), "{bypass:?} {source} {destination}");
        }
        let unnumbered = AddressMap { bypass: Public, ..AddressMap::default() };
        assert_eq!(unnumbered.past_link(addr("127.0.0.1"), addr("127.0.0.1"), None), None);
    }

    /// Without a name for loopback or for the host itself, the guest sees our address.
    #[test]
    fn sources_the_guest_cannot_answer() {
        let mut map = map();
        map.v4.host_loopback = None;
        map.v4.host_itself = None;
        let ours = map.v4.ours;
        for source in ["127.0.0.1:9", "192.0.2.2:9"] {
            assert_eq!(map.shown(Protocol::Tcp, at(source)), ours, "{source}");
        }
        map.v4.ours = None;
        assert_eq!(map.shown(Protocol::Tcp, at("127.0.0.1:9")), None);
    }

    #[test]
    fn learnt_addresses_replace_assigned_ones_unless_fixed() {
        for (fixed, expected) in [(false, "192.0.2.77"), (true, "192.0.2.2")] {
            let mut map = map();
            map.v4.fixed = fixed;
            map.learn(addr("192.0.2.77"));
            let side = map.to_guest(Protocol::Tcp, at("203.0.113.5:80"), addr("192.0.2.2"), None);
            assert_eq!(side.map(|s| s.guest), Ok(addr(expected)));
        }
    }

    #[test]
    fn addresses_of_the_guest() {
        let mut map = map();
        for source in ["192.0.2.77", "2001:db8::77", "fe80::77"] {
            map.learn(addr(source));
        }
        let known = ["192.0.2.2", "192.0.2.77", "2001:db8::2", "2001:db8::77", "fe80::77"];
        assert_eq!(map.guest(), known.map(|text| Some(addr(text))));
    }

    #[test]
    fn claims_count_less_than_use() {
        let after = |fixed, steps: &[(bool, &str)]| {
            let mut map = map();
            map.v6.fixed = fixed;
            for (claim, address) in steps {
                let note = if *claim { AddressMap::claim } else { AddressMap::learn };
                note(&mut map, addr(address));
            }
            let side = map.to_guest(Protocol::Tcp, at("[2001:db8:8::8]:80"), addr("2001:db8::2"), None);
            side.map(|side| side.guest)
        };
        let (claim, learn) = (true, false);
        let (assigned, formed, other) = ("2001:db8::2", "2001:db8::aaaa", "2001:db8::bbbb");
        let cases: [(_, &[_], _); 8] = [
            (false, &[(claim, formed)], formed),
            (false, &[(claim, formed), (claim, other)], other),
            (false, &[(claim, formed), (claim, assigned), (claim, other)], assigned),
            (false, &[(learn, assigned), (claim, other)], assigned),
            (false, &[(claim, assigned), (learn, other)], other),
            (false, &[(claim, "fe80::aaaa")], assigned),
            (false, &[(claim, "2001:db8::1"), (claim, "2001:db8::3"), (claim, "2001:db8::53")], assigned),
            (true, &[(claim, formed)], assigned),
        ];
        for (fixed, steps, expected) in cases {
            assert_eq!(after(fixed, steps), Ok(addr(expected)), "{fixed} {steps:?}");
        }
        let mut map = map();
        map.configured();
        for address in ["fe80::aaaa", "fe80::1", formed] {
            map.claim(addr(address));
        }
        assert_eq!((map.v6.seen, map.v6.seen_link_local), (map.v6.assigned, Some(addr("fe80::aaaa"))));
    }

    /// Whatever the guest reaches by a name, answers under that name.
    #[test]
    fn names_work_both_ways() {
        for remote in ["192.0.2.1:80", "192.0.2.3:80", "192.0.2.53:53", "203.0.113.1:1", "[2001:db8::1]:1"] {
            let host = map().from_guest(Protocol::Udp, at(remote)).expect("reachable");
            assert_eq!(map().shown(Protocol::Udp, host.remote), Some(at(remote).addr));
        }
    }

    #[test]
    fn scope_only_where_it_means_something() {
        let cases = [("[fe80::5]:1", 7), ("[ff02::fb]:1", 7), ("[2001:db8::5]:1", 0)];
        for (text, scope) in cases {
            let SocketAddr::V6(a) = map().socket_addr(at(text)) else { panic!("{text}") };
            assert_eq!(a.scope_id(), scope, "{text}");
        }
    }
}
