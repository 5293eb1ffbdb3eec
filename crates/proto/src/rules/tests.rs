use std::net::IpAddr;
use std::vec::Vec;

use super::*;
use crate::addr::Mac;
use crate::guest::{Configured, FamilyConfig};

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

fn at(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("address and port").into()
}

/// A guest that has the host's addresses, with every feature on.
fn map() -> Guest {
    let family = |list: [&str; 7]| {
        let [loopback, itself, dns, resolver, outbound, assigned, ours] = list.map(|a| Some(addr(a)));
        FamilyConfig {
            host_loopback: loopback,
            host_itself: itself,
            dns_forward: dns,
            dns_host: resolver,
            outbound,
            assigned: assigned.into_iter().collect(),
            ours,
            ..FamilyConfig::default()
        }
    };
    Guest::new(Configured {
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
    })
}

/// The guest claims to have an address.
fn note_claim(guest: &mut Guest, claimed: Addr) {
    if guest.believes(claimed) {
        guest.learn(claimed);
    }
}

#[test]
fn from_guest() {
    use Protocol::{Echo, Tcp, Udp};
    let cases: [(_, _, Result<(_, _), _>); 17] = [
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
        (Udp, "[ff01::fb]:5353", Err(DropReason::Loopback)),
        (Udp, "[ff10::fb]:5353", Err(DropReason::Loopback)),
        (Echo, "[ff31::1]:7", Err(DropReason::Loopback)),
    ];
    for (protocol, remote, expected) in cases {
        let expected = expected.map(|(remote, bind)| HostSide {
            remote: at(remote),
            bind: Some(addr(bind)),
            scope: 7,
            closed: false,
        });
        assert_eq!(map().from_guest(protocol, at(remote)), expected, "{protocol:?} {remote}");
    }
}

#[test]
fn features_that_are_off_change_nothing() {
    let map = Guest::default();
    for remote in ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::9]:53", "224.0.0.1:1"] {
        let unchanged = HostSide { remote: at(remote), bind: None, scope: 0, closed: false };
        assert_eq!(map.from_guest(Protocol::Udp, at(remote)), Ok(unchanged));
    }
    let source = at("192.0.2.1:53");
    assert_eq!(
        map.to_guest(Protocol::Udp, source, addr("192.0.2.2"), None),
        Err(DropReason::Unmapped),
        "no address of the guest is known"
    );
    let mut forward = map.clone();
    forward.configured.v4.dns_forward = Some(source.addr);
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
        let expected = expected.map(|(remote, guest)| GuestSide { remote: at(remote), guest: addr(guest) });
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
        (Public, "127.0.0.1", "192.0.2.7", None, Some("192.0.2.7")),
        (Public, "127.0.0.1", "192.0.2.8", None, Some("192.0.2.2")),
        (Public, "192.0.2.2", "192.0.2.2", None, None),
        (Public, "127.0.0.1", "127.0.0.1", Some("192.0.2.7"), None),
        (Loopback, "127.0.0.1", "127.0.0.1", None, Some("127.0.0.1")),
        (Loopback, "127.0.0.1", "127.0.0.9", None, Some("127.0.0.9")),
        (Loopback, "127.0.0.5", "0.0.0.0", None, Some("127.0.0.1")),
        (Loopback, "::1", "::1", None, Some("::1")),
        (Loopback, "203.0.113.5", "192.0.2.2", None, None),
    ];
    for (bypass, source, destination, target, expected) in cases {
        let mut map = map();
        map.configured.bypass = bypass;
        map.configured.v4.assigned.push(addr("192.0.2.7"));
        let found = map.past_link(addr(source), addr(destination), target.map(addr));
        assert_eq!(found, expected.map(addr), "{bypass:?} {source} {destination}");
    }
    let unnumbered = Guest::new(Configured { bypass: Public, ..Configured::default() });
    assert_eq!(unnumbered.past_link(addr("127.0.0.1"), addr("127.0.0.1"), None), None);
}

/// Without a name for loopback or for the host itself, the guest sees our address.
#[test]
fn sources_the_guest_cannot_answer() {
    let mut map = map();
    map.configured.v4.host_loopback = None;
    map.configured.v4.host_itself = None;
    let ours = map.configured.v4.ours;
    for source in ["127.0.0.1:9", "192.0.2.2:9"] {
        assert_eq!(map.shown(Protocol::Tcp, at(source)), ours, "{source}");
    }
    map.configured.v4.ours = None;
    assert_eq!(map.shown(Protocol::Tcp, at("127.0.0.1:9")), None);
}

#[test]
fn learnt_addresses_replace_assigned_ones_unless_fixed() {
    for (fixed, expected) in [(false, "192.0.2.77"), (true, "192.0.2.2")] {
        let mut map = map();
        map.configured.v4.fixed = fixed;
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
    let mut addresses: Vec<Addr> = map.addresses().collect();
    addresses.sort_unstable();
    let mut known = known.map(addr);
    known.sort_unstable();
    assert_eq!(addresses, known);
}

#[test]
fn claims_count_less_than_use() {
    let after = |fixed, steps: &[(bool, &str)]| {
        let mut map = map();
        map.configured.v6.fixed = fixed;
        for (claim, address) in steps {
            let note = if *claim { note_claim } else { Guest::learn };
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
    map.is_configured();
    for address in ["fe80::aaaa", "fe80::1", formed] {
        note_claim(&mut map, addr(address));
    }
    let (own, link_local) = (addr("2001:db8::2"), addr("fe80::aaaa"));
    assert_eq!((map.learnt.used(own), map.learnt.link_local()), (Some(own), Some(link_local)));
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
        let side = map().from_guest(Protocol::Udp, at(text)).expect("reachable");
        let SocketAddr::V6(a) = side.socket_addr(side.remote) else { panic!("{text}") };
        assert_eq!(a.scope_id(), scope, "{text}");
    }
}

/// With several addresses a peer is answered from the one that it reached, as long as the guest
/// uses no other than these; what is on the host at any of them is hidden behind the host's
/// name.
#[test]
fn several_addresses() {
    let (first, second, third) = ("192.0.2.2", "192.0.2.7", "198.51.100.7");
    let (first6, second6) = ("2001:db8::2", "2001:db8::7");
    let guest = |learnt: &[&str]| {
        let mut guest = map();
        guest.configured.v4.assigned = [first, second, third].map(addr).into_iter().collect();
        guest.configured.v6.assigned = [first6, second6].map(addr).into_iter().collect();
        for text in learnt {
            guest.learn(addr(text));
        }
        guest
    };
    let cases: [(&[&str], _, _, _); 11] = [
        (&[], "203.0.113.5:80", first, first),
        (&[], "203.0.113.5:80", second, second),
        (&[first], "203.0.113.5:80", third, third),
        (&[second], "203.0.113.5:80", first, first),
        (&[second], "203.0.113.5:80", "192.0.2.200", second),
        (&["192.0.2.77"], "203.0.113.5:80", second, "192.0.2.77"),
        (&["192.0.2.77", first], "203.0.113.5:80", second, second),
        (&[second6], "203.0.113.5:80", "192.0.2.200", first),
        (&[], "[2001:db8:8::8]:80", second6, second6),
        (&["2001:db8::aaaa"], "[2001:db8:8::8]:80", second6, "2001:db8::aaaa"),
        (&["fe80::aaaa"], "[fe80::bbbb]:80", second6, second6),
    ];
    for (learnt, source, destination, expected) in cases {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let side = guest(learnt).to_guest(protocol, at(source), addr(destination), None);
            assert_eq!(side.map(|side| side.guest), Ok(addr(expected)), "{learnt:?} {source} {destination}");
        }
    }
    // What programs answer from another address is known by all of them.
    let others: Vec<_> = guest(&[]).other_addresses(addr(third)).collect();
    assert_eq!(others, [first, second].map(addr));
    assert_eq!(guest(&[]).other_addresses(addr("192.0.2.77")).count(), 0);
    let linked = guest(&["fe80::aaaa"]);
    let others: Vec<_> = linked.other_addresses(addr("fe80::aaaa")).collect();
    assert_eq!(others, [first6, second6].map(addr));
    assert_eq!(linked.other_addresses(addr(second6)).count(), 2);
    let itself = Some(addr("192.0.2.3"));
    for own in [first, second, third] {
        assert_eq!(guest(&[]).shown(Protocol::Tcp, Endpoint::new(addr(own), 80)), itself, "{own}");
    }
    let named = guest(&[]).from_guest(Protocol::Tcp, at("192.0.2.3:80")).expect("reachable");
    assert_eq!(named.remote, at("192.0.2.2:80"));
    for own in [first6, second6] {
        let mut unnamed = guest(&[]);
        unnamed.configured.v6.host_itself = None;
        assert_eq!(unnamed.shown(Protocol::Tcp, Endpoint::new(addr(own), 80)), unnamed.configured.v6.ours);
    }
}

/// A gateway that the user named is who the guest sees, where it could not see the real peer, at
/// addresses of the gateway's scope.
#[test]
fn a_gateway_that_was_named() {
    let cases = [
        ("192.0.2.99", "192.0.2.2", "192.0.2.2", "192.0.2.99"),
        ("192.0.2.99", "127.0.0.9", "127.0.0.1", "192.0.2.99"),
        ("2001:db8::99", "2001:db8::2", "2001:db8::2", "2001:db8::99"),
        ("fe80::99", "2001:db8::2", "2001:db8::2", "fe80::1"),
        ("fe80::99", "fe80::aaaa", "fe80::2", "fe80::99"),
        ("2001:db8::99", "fe80::aaaa", "fe80::2", "fe80::1"),
        ("2001:db8::99", "2001:db8:8::8", "2001:db8::2", "2001:db8:8::8"),
    ];
    for (gateway, source, destination, expected) in cases {
        let mut map = map();
        map.learn(addr("fe80::aaaa"));
        for family in [&mut map.configured.v4, &mut map.configured.v6] {
            (family.host_itself, family.gateway) = (None, Some(addr(gateway)));
        }
        let source = Endpoint::new(addr(source), 80);
        let side = map.to_guest(Protocol::Udp, source, addr(destination), None).expect("mapped");
        assert_eq!(side.remote, Endpoint::new(addr(expected), 80), "{gateway} {source} {destination}");
    }
}

/// A resolver may be of the other family, and on another link than the template's, where others may
/// have the same address.
#[test]
fn resolvers_of_the_other_family() {
    let mut map = map();
    (map.configured.v4.dns_host, map.configured.v4.dns_scope) = (Some(addr("fe80::53")), Some(9));
    map.configured.v6.dns_host = Some(addr("192.0.2.9"));
    let side = |remote| map.from_guest(Protocol::Udp, at(remote)).expect("mapped");
    let to =
        |host: &str, bind, scope| HostSide { remote: at(host), bind: Some(addr(bind)), scope, closed: false };
    assert_eq!(side("192.0.2.53:53"), to("[fe80::53]:53", "2001:db8:9::9", 9));
    assert_eq!(side("[2001:db8::53]:53"), to("192.0.2.9:53", "198.51.100.9", 7));
    for remote in ["[fe80::53]:53", "[fe80::53]:54", "[fe80::54]:53"] {
        assert_eq!(side(remote), to(remote, "2001:db8:9::9", 7), "the guest's own neighbours");
    }
}

/// A family without any way beyond the host: its addresses are link-local, or what the guest
/// formed itself.
#[test]
fn a_local_configuration() {
    let local = |assigned: Option<&str>, ours| FamilyConfig {
        host_loopback: Some(addr(ours)),
        assigned: assigned.map(addr).into_iter().collect(),
        ours: Some(addr(ours)),
        ..FamilyConfig::default()
    };
    let (v4, v6) = (local(Some("169.254.2.1"), "169.254.2.2"), local(None, "fe80::1"));
    let mut guest = Guest::new(Configured { v4, v6, bypass: Bypass::Public, ..Configured::default() });
    let arrives = |guest: &Guest, source, destination| {
        let side = guest.to_guest(Protocol::Tcp, at(source), addr(destination), None);
        side.map(|side| (side.remote, side.guest))
    };
    let host4 = Ok((at("169.254.2.2:80"), addr("169.254.2.1")));
    assert_eq!(arrives(&guest, "127.0.0.1:80", "127.0.0.1"), host4);
    assert_eq!(arrives(&guest, "[::1]:80", "::1"), Err(DropReason::Unmapped), "nobody is there yet");
    assert_eq!(guest.past_link(addr("::1"), addr("::1"), None), None);
    assert_eq!(guest.past_link(addr("127.0.0.1"), addr("127.0.0.1"), None), Some(addr("169.254.2.1")));
    guest.learn(addr("fe80::aaaa"));
    assert_eq!(arrives(&guest, "[::1]:80", "::1"), Ok((at("[fe80::1]:80"), addr("fe80::aaaa"))));
    let loopback = guest.from_guest(Protocol::Tcp, at("[fe80::1]:80")).expect("the host");
    assert_eq!(loopback.remote, at("[::1]:80"));
}

/// Frames for an address go to the station that used it last, others to the one that was heard
/// last.
#[test]
fn stations() {
    use crate::guest::Evidence::{Claimed, Used};

    let mac = |last| Mac([2, 0, 0, 0, 0, last]);
    let (one, two, three) = (addr("192.0.2.2"), addr("192.0.2.7"), addr("192.0.2.9"));
    let mut learnt = map().learnt;
    assert_eq!(learnt.station_of(one), None);
    for (station, source) in [(1, Some(one)), (2, Some(two)), (3, None)] {
        assert!(learnt.is_news(mac(station), source, Used));
        learnt.hear(mac(station), source, Used);
        assert!(!learnt.is_news(mac(station), source, Used));
    }
    let told = |learnt: &crate::guest::Learnt| [one, two, three].map(|a| learnt.station_of(a));
    assert_eq!(told(&learnt), [1, 2, 3].map(|last| Some(mac(last))));
    let before = learnt.moves();
    learnt.hear(mac(4), Some(one), Used);
    assert_eq!(told(&learnt), [4, 2, 4].map(|last| Some(mac(last))), "another card");
    assert_eq!(learnt.moves(), before, "each may have it, and has flows of its own");
    for (station, evidence, owner) in [(4, Claimed, 4), (2, Used, 4), (2, Claimed, 2), (4, Used, 2)] {
        let (before, known) = (learnt.moves(), learnt.station_of(one));
        let news = learnt.is_news(mac(station), Some(one), evidence);
        learnt.hear(mac(station), Some(one), evidence);
        assert_eq!(learnt.station_of(one), Some(mac(owner)), "{station} {evidence:?}");
        assert_eq!((news, learnt.moves() != before), (evidence == Claimed, news), "{known:?}");
    }
    for last in 0..=255 {
        learnt.hear(mac(5), Some(Addr::from(Ipv4Addr::new(10, 0, 0, last))), Used);
    }
    assert_eq!(told(&learnt), [Some(mac(5)); 3], "a guest with very many addresses");
}

/// A host that is closed answers pings alone: TCP and UDP are told so, but for queries where that
/// address is the resolver's, too.
#[test]
fn a_closed_host() {
    let mut guest = map();
    guest.configured.v4.closed_host = guest.configured.v4.host_loopback.take();
    let closed = |guest: &Guest, protocol, remote| {
        guest.from_guest(protocol, at(remote)).map(|side| side.closed).expect("an address")
    };
    assert!(closed(&guest, Protocol::Tcp, "192.0.2.1:80"));
    assert!(closed(&guest, Protocol::Udp, "192.0.2.1:53"));
    assert!(!closed(&guest, Protocol::Tcp, "192.0.2.3:80"));
    assert!(!closed(&guest, Protocol::Udp, "[2001:db8::1]:80"));
    assert!(guest.is_name(addr("192.0.2.1")), "it is somebody on the link");
    guest.configured.v4.dns_forward = guest.configured.v4.closed_host;
    assert!(!closed(&guest, Protocol::Udp, "192.0.2.1:53"));
    assert!(closed(&guest, Protocol::Udp, "192.0.2.1:54"));
    let source = guest.to_guest(Protocol::Tcp, at("127.0.0.1:9"), addr("127.0.0.1"), None);
    assert_eq!(source.map(|side| side.remote.addr), Ok(addr("192.0.2.254")));
}

/// The source address that was chosen is that of connections to the host's loopback if it is to be.
#[test]
fn a_source_for_the_loopback() {
    let mut guest = map();
    let bind = |guest: &Guest| guest.from_guest(Protocol::Tcp, at("192.0.2.1:80")).expect("the host").bind;
    assert_eq!(bind(&guest), Some(addr("127.0.0.1")));
    guest.configured.v4.outbound_to_loopback = true;
    assert_eq!(bind(&guest), Some(addr("198.51.100.9")));
    guest.configured.v4.outbound = None;
    assert_eq!(bind(&guest), Some(addr("127.0.0.1")));
}

/// On a link of the guest's own nobody is there but those that it knows by name.
#[test]
fn a_link_of_its_own() {
    let mut guest = map();
    guest.configured.v4.apart = Some((addr("192.0.2.0"), 24));
    guest.configured.v6.apart = Some((addr("2001:db8::"), 64));
    let sides = |guest: &Guest, remote| {
        let side = guest.from_guest(Protocol::Tcp, at(remote));
        side.map(|side| (side.remote, side.closed))
    };
    let cases = [
        ("192.0.2.1:80", Ok(("127.0.0.1:80", false))),
        ("192.0.2.53:53", Ok(("127.0.0.53:53", false))),
        ("192.0.2.53:80", Ok(("192.0.2.53:80", true))),
        ("192.0.2.53:853", Ok(("192.0.2.53:853", true))),
        ("192.0.2.77:80", Err(DropReason::Unmapped)),
        ("192.0.2.255:80", Err(DropReason::Unmapped)),
        ("255.255.255.255:80", Err(DropReason::Unmapped)),
        ("198.51.100.1:80", Ok(("198.51.100.1:80", false))),
        ("[2001:db8::77]:80", Err(DropReason::Unmapped)),
        ("[ff02::1]:80", Err(DropReason::Unmapped)),
        ("[2001:db8:0:1::77]:80", Ok(("[2001:db8:0:1::77]:80", false))),
    ];
    for (remote, expected) in cases {
        assert_eq!(sides(&guest, remote), expected.map(|(to, closed)| (at(to), closed)), "{remote}");
    }
    guest.configured.v4.dns_host = None;
    for remote in ["192.0.2.53:53", "192.0.2.53:80"] {
        assert_eq!(sides(&guest, remote), Err(DropReason::Unmapped), "no resolver");
    }
    // Somebody of the host's network that has the same addresses.
    let shown = guest.to_guest(Protocol::Tcp, at("192.0.2.77:9"), addr("198.51.100.1"), None);
    assert_eq!(shown.map(|side| side.remote), Ok(at("192.0.2.254:9")));
    assert!(guest.is_vacant(addr("192.0.2.77")) && !guest.is_vacant(addr("192.0.2.2")));
}
