//! What rules there are for a port, without looking at all of them: users pass thousands.

use std::collections::BTreeMap;

use super::rule::PortRange;

/// Keys by the ports that they stand for, of which several may have the same. Those of one port
/// are found at once, and the others, of which there are few, by their ends.
#[derive(Clone, Debug)]
pub struct ByPort<K> {
    single: BTreeMap<u16, Vec<K>>,
    wide: Vec<(PortRange, K)>,
}

impl<K> Default for ByPort<K> {
    fn default() -> Self {
        Self { single: BTreeMap::new(), wide: Vec::new() }
    }
}

impl<K: Copy + PartialEq> ByPort<K> {
    /// Adds a key.
    pub fn insert(&mut self, ports: PortRange, key: K) {
        if ports.span() == 0 {
            self.single.entry(ports.first()).or_default().push(key);
        } else {
            self.wide.push((ports, key));
        }
    }

    /// Takes out a key that was added with these ports.
    pub fn remove(&mut self, ports: PortRange, key: K) {
        if let Some(keys) = self.single.get_mut(&ports.first()).filter(|_| ports.span() == 0) {
            keys.retain(|other| *other != key);
        } else {
            self.wide.retain(|(_, other)| *other != key);
        }
    }

    /// All keys whose ports meet these, in no order.
    pub fn meeting(&self, ports: PortRange) -> impl Iterator<Item = K> {
        let single = self.single.range(ports.first()..=ports.last()).flat_map(|(_, keys)| keys);
        let wide = self.wide.iter().filter(move |(range, _)| range.meets(ports)).map(|(_, key)| key);
        single.chain(wide).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_ports_that_meet() {
        let range = |first, last| PortRange::new(first, last).expect("ports");
        let mut index = ByPort::default();
        let all = [(80, 80), (80, 80), (81, 81), (70, 80), (80, 90), (65_535, 65_535)];
        for (key, (first, last)) in all.into_iter().enumerate() {
            index.insert(range(first, last), key);
        }
        let found = |index: &ByPort<usize>, first, last| {
            let mut keys: Vec<_> = index.meeting(range(first, last)).collect();
            keys.sort_unstable();
            keys
        };
        assert_eq!(found(&index, 80, 80), [0, 1, 3, 4]);
        assert_eq!(found(&index, 81, 65_535), [2, 4, 5]);
        assert_eq!(found(&index, 1, 69), []);
        index.remove(range(80, 80), 1);
        index.remove(range(70, 80), 3);
        assert_eq!(found(&index, 1, 65_535), [0, 2, 4, 5]);
    }
}
