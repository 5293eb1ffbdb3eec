//! What rules there are for a port, without looking at all of them: users pass thousands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use passt_proto::addr::Addr;

use super::rule::PortRange;

/// A port, and one address that it is listened on, or any: `0.0.0.0` and `::` are such, too.
pub(super) type Spot = (u16, Option<Addr>);

/// The last address.
const BEHIND_ALL: Option<Addr> = Some(Addr::LAST);

/// Where a rule for this port listens.
pub(super) fn spot(port: u16, addr: Option<IpAddr>) -> Spot {
    (port, addr.filter(|addr| !addr.is_unspecified()).map(Addr::from))
}

/// Where all those listen that may meet a rule for these ports and this address: at one port, an
/// address meets itself and what stands for any.
pub(super) fn spots(ports: PortRange, addr: Option<IpAddr>) -> impl Iterator<Item = RangeInclusive<Spot>> {
    let (first, last) = (ports.first(), ports.last());
    let (any, exact) = ((first, None), spot(first, addr));
    let [one, other] = match exact {
        (_, Some(_)) if first == last => [Some(any..=any), Some(exact..=exact)],
        _ => [Some(any..=(last, BEHIND_ALL)), None],
    };
    one.into_iter().chain(other)
}

/// Numbers of rules by the ports and addresses where they listen, of which several may have the
/// same. Rules for one port are found at once, also if many addresses have it, and the others, of
/// which an address has few, by their ends.
#[derive(Clone, Debug, Default)]
pub struct ByPort {
    single: BTreeSet<(Spot, u32)>,
    /// By address, and number.
    wide: BTreeMap<(Option<Addr>, u32), PortRange>,
}

impl ByPort {
    /// Adds a number.
    pub fn insert(&mut self, ports: PortRange, addr: Option<IpAddr>, number: u32) {
        if ports.span() == 0 {
            self.single.insert((spot(ports.first(), addr), number));
        } else {
            let (_, addr) = spot(ports.first(), addr);
            self.wide.insert((addr, number), ports);
        }
    }

    /// Takes out a number that was added with these ports and this address.
    pub fn remove(&mut self, ports: PortRange, addr: Option<IpAddr>, number: u32) {
        if ports.span() == 0 {
            self.single.remove(&(spot(ports.first(), addr), number));
        } else {
            let (_, addr) = spot(ports.first(), addr);
            self.wide.remove(&(addr, number));
        }
    }

    /// The numbers of all rules whose ports meet these and whose address may meet this one, in no
    /// order.
    pub fn meeting(&self, ports: PortRange, addr: Option<IpAddr>) -> impl Iterator<Item = u32> {
        let single = spots(ports, addr).flat_map(|spots| {
            let (from, to) = spots.into_inner();
            self.single.range((from, 0)..=(to, u32::MAX)).map(|(_, number)| number)
        });
        let (_, exact) = spot(ports.first(), addr);
        let [any, own] = match exact {
            Some(_) => [Some((None, None)), Some((exact, exact))],
            None => [Some((None, BEHIND_ALL)), None],
        };
        let wide = any.into_iter().chain(own).flat_map(move |(from, to)| {
            let all = self.wide.range((from, 0)..=(to, u32::MAX));
            all.filter(move |(_, range)| range.meets(ports)).map(|((_, number), _)| number)
        });
        single.chain(wide).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_by_ports_that_meet() {
        let range = |first, last| PortRange::new(first, last).expect("ports");
        let mut index = ByPort::default();
        let all = [(80, 80), (80, 80), (81, 81), (70, 80), (80, 90), (65_535, 65_535)];
        for (number, (first, last)) in (0..).zip(all) {
            index.insert(range(first, last), None, number);
        }
        let found = |index: &ByPort, first, last| {
            let mut numbers: Vec<_> = index.meeting(range(first, last), None).collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(found(&index, 80, 80), [0, 1, 3, 4]);
        assert_eq!(found(&index, 81, 65_535), [2, 4, 5]);
        assert_eq!(found(&index, 1, 69), []);
        index.remove(range(80, 80), None, 1);
        index.remove(range(70, 80), None, 3);
        assert_eq!(found(&index, 1, 65_535), [0, 2, 4, 5]);
    }

    /// Whatever meets is found, and little that does not.
    #[test]
    fn rules_are_found_by_addresses_that_meet() {
        let port = PortRange::new(80, 80).expect("a port");
        let texts = ["", "0.0.0.0", "::", "10.0.0.1", "10.0.0.2", "::1", "::2", "::ffff:10.0.0.1"];
        let addrs = texts.map(|text| text.parse::<IpAddr>().ok());
        let mut index = ByPort::default();
        for (number, addr) in (0..).zip(addrs) {
            index.insert(port, addr, number);
        }
        let everything: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7];
        let cases: [(&str, &[u32]); 7] = [
            ("", everything),
            ("0.0.0.0", everything),
            ("::", everything),
            ("10.0.0.1", &[0, 1, 2, 3, 7]),
            ("10.0.0.3", &[0, 1, 2]),
            ("::2", &[0, 1, 2, 6]),
            ("::ffff:10.0.0.1", &[0, 1, 2, 3, 7]),
        ];
        for (text, expected) in cases {
            let mut found: Vec<_> = index.meeting(port, text.parse().ok()).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{text}");
        }
        let wide = PortRange::new(79, 80).expect("ports");
        assert_eq!(index.meeting(wide, addrs[3]).count(), everything.len());
        // The same with ranges.
        let mut index = ByPort::default();
        for (number, addr) in (0..).zip(addrs) {
            index.insert(wide, addr, number);
        }
        for (text, expected) in cases {
            for ports in [port, wide] {
                let mut found: Vec<_> = index.meeting(ports, text.parse().ok()).collect();
                found.sort_unstable();
                assert_eq!(found, expected, "{text}");
            }
        }
        let above = PortRange::new(81, 82).expect("ports");
        assert_eq!(index.meeting(above, None).count(), 0);
        (0..).zip(addrs).for_each(|(number, addr)| index.remove(wide, addr, number));
        assert_eq!(index.meeting(wide, None).count(), 0);
    }
}
