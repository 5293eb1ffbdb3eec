//! Which client has which address of a range.
//!
//! A guest that is like the host has one address, and so has whoever asks. A network of its own may
//! have a range of addresses for clients, each known by its link-layer address. They are given
//! in ascending order; when all are taken the client that was silent for longest loses its own, so
//! that a guest which makes up link-layer addresses harms itself alone. Nothing is stored for another
//! process: a client that asks for the address that it had gets it, if that is free.

use core::net::Ipv4Addr;

use arrayvec::ArrayVec;

use crate::addr::Mac;

/// Addresses of a range at most.
pub const MAX_LEASES: usize = 254;

/// The range, and its clients.
#[derive(Clone, Debug)]
pub struct Leases {
    first: Ipv4Addr,
    count: usize,
    /// The client of each address, as far as any was given.
    clients: ArrayVec<Option<Client>, MAX_LEASES>,
    /// Requests so far.
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    mac: Mac,
    /// The last request.
    heard: u64,
}

impl Leases {
    /// A range of `count` addresses, at least one and at most [`MAX_LEASES`].
    pub fn new(first: Ipv4Addr, count: usize) -> Self {
        Self { first, count: count.clamp(1, MAX_LEASES), clients: ArrayVec::new(), clock: 0 }
    }

    /// The first and the last address.
    pub fn ends(&self) -> (Ipv4Addr, Ipv4Addr) {
        (self.first, self.at(self.count - 1))
    }

    /// The address of a client, which would like to have `wanted`: that which it has, or else the one
    /// wanted if that is free, or else the first free one.
    pub fn of(&mut self, mac: Mac, wanted: Option<Ipv4Addr>) -> Ipv4Addr {
        self.clock += 1;
        let index = self.find(mac).or_else(|| self.free(wanted?)).unwrap_or_else(|| self.first_free());
        while self.clients.len() <= index && self.clients.try_push(None).is_ok() {}
        if let Some(place) = self.clients.get_mut(index) {
            *place = Some(Client { mac, heard: self.clock });
        }
        self.at(index)
    }

    fn at(&self, index: usize) -> Ipv4Addr {
        let offset = u32::try_from(index).unwrap_or(0);
        Ipv4Addr::from_bits(self.first.to_bits().wrapping_add(offset))
    }

    fn find(&self, mac: Mac) -> Option<usize> {
        self.clients.iter().position(|client| client.is_some_and(|client| client.mac == mac))
    }

    /// The place of an address that nobody has.
    fn free(&self, wanted: Ipv4Addr) -> Option<usize> {
        let index = usize::try_from(wanted.to_bits().checked_sub(self.first.to_bits())?).ok()?;
        let is_free = self.clients.get(index).is_none_or(Option::is_none);
        (index < self.count && is_free).then_some(index)
    }

    /// The first place that nobody has, or that of whoever was silent for longest.
    fn first_free(&self) -> usize {
        if let Some(free) = self.clients.iter().position(Option::is_none) {
            return free;
        }
        if self.clients.len() < self.count {
            return self.clients.len();
        }
        let heard = |client: &Option<Client>| client.map_or(0, |client| client.heard);
        let silent = self.clients.iter().enumerate().min_by_key(|(_, client)| heard(client));
        silent.map_or(0, |(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn addr(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 2, last)
    }

    #[test]
    fn addresses_are_given_in_order() {
        let mut leases = Leases::new(addr(15), 3);
        assert_eq!(leases.ends(), (addr(15), addr(17)));
        // Client, address wanted, address had.
        let steps = [
            (1, None, 15),
            (1, Some(16), 15),
            (2, Some(17), 17),
            (3, Some(17), 16),
            (2, None, 17),
            // The first is silent for longest.
            (4, None, 15),
            (5, Some(99), 16),
            (1, Some(14), 17),
        ];
        for (client, wanted, had) in steps {
            assert_eq!(leases.of(mac(client), wanted.map(addr)), addr(had), "{client} {wanted:?}");
        }
    }

    #[test]
    fn a_range_has_bounds() {
        for count in [0, 1, 254, 1000] {
            let mut leases = Leases::new(Ipv4Addr::new(255, 255, 255, 250), count);
            let (first, last) = leases.ends();
            assert_eq!(last.to_bits().wrapping_sub(first.to_bits()) as usize, count.clamp(1, 254) - 1);
            leases.of(mac(1), Some(Ipv4Addr::UNSPECIFIED));
        }
    }

    proptest! {
        /// Whatever clients want, each has one address of the range, and no two have the same.
        #[test]
        fn nobody_shares(count in 1usize..6, asked in prop::collection::vec((0u8..8, 10u8..25), 0..100)) {
            let mut leases = Leases::new(addr(15), count);
            let mut last: Vec<(u8, Ipv4Addr)> = Vec::new();
            for (client, wanted) in asked {
                let had = leases.of(mac(client), Some(addr(wanted)));
                prop_assert!(had >= leases.ends().0 && had <= leases.ends().1);
                last.retain(|(other, addr)| *other != client && *addr != had);
                last.push((client, had));
                let holders: BTreeMap<_, _> = last.iter().map(|(client, addr)| (addr, client)).collect();
                prop_assert!(holders.len() == last.len() && last.len() <= count);
                // One that asks again has the same.
                prop_assert_eq!(leases.of(mac(client), None), had);
            }
        }
    }
}
