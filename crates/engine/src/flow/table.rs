//! The table of flows: slots with generations, and a keyed hash over what the guest sees.
//!
//! The hash is `SipHash` with a random key, so that a guest cannot choose
//! addresses that collide. Open addressing with linear probing and backward-shift
//! deletion keeps look-ups short without tombstones. The index has twice as many
//! places as there are slots. It is zeroed memory that the kernel provides when
//! first touched, and slots are appended only when no free one is left: a large
//! table costs what it uses. Frames come in trains, so what was found last is looked at first.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::io;

use passt_sys::alloc;
use siphasher::sip::SipHasher13;

use super::Key;
use crate::core::token::{Handle, MAX_FLOWS};

/// The part of all slots that only the guest's own flows get.
const RESERVE: usize = 16;

/// Flows of type `T`.
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Option<u32>,
    /// Slot number plus one; zero is an empty place.
    index: Vec<u32>,
    /// The slot that was found last.
    last: Cell<u32>,
    live: usize,
    capacity: usize,
    secret: (u64, u64),
    /// Generation of a slot that was never used. Only tests have another than zero, to be where a
    /// slot is after billions of flows.
    pub first_generation: u32,
}

struct Slot<T> {
    generation: u32,
    key: Key,
    content: Content<T>,
}

enum Content<T> {
    Used(T),
    /// The next free slot.
    Free(Option<u32>),
}

impl<T> Table<T> {
    /// Reserves a table for `capacity` flows (a power of two, at most [`MAX_FLOWS`]), hashed with a
    /// random `secret`.
    pub fn new(capacity: usize, secret: (u64, u64)) -> io::Result<Self> {
        let capacity = capacity.next_power_of_two().min(MAX_FLOWS);
        Ok(Self {
            slots: alloc::reserved(capacity)?,
            free: None,
            index: alloc::zeroed(capacity * 2)?,
            last: Cell::new(0),
            live: 0,
            capacity,
            secret,
            first_generation: 0,
        })
    }

    /// Number of flows.
    pub fn count(&self) -> usize {
        self.live
    }

    /// Flows at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether there is no room for another flow.
    pub fn is_full(&self) -> bool {
        self.live == self.capacity
    }

    /// Whether what room there is should be left for the guest's own flows.
    pub fn is_reserved(&self) -> bool {
        self.live >= self.capacity - self.capacity / RESERVE
    }

    /// Slots that were ever used: all flows are in those below this number.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Adds a flow; gives it back when the table is full or `key` is taken.
    #[inline]
    pub fn insert(&mut self, key: Key, value: T) -> Result<Handle, T> {
        let place = self.place_of(&key);
        if self.index[place] != 0 {
            return Err(value);
        }
        let Some(slot) = self.take_slot(key) else {
            return Err(value);
        };
        self.index[place] = slot + 1;
        self.live += 1;
        let entry = &mut self.slots[slot as usize];
        entry.content = Content::Used(value);
        Ok(Handle { index: slot, generation: entry.generation })
    }

    /// The flow that the guest's view `key` belongs to.
    pub fn find(&self, key: &Key) -> Option<Handle> {
        let last = self.last.get();
        if self.slots.get(last as usize).is_some_and(|slot| slot.key == *key)
            && let Some(handle) = self.at(last)
        {
            return Some(handle);
        }
        let slot = self.index[self.place_of(key)].checked_sub(1)?;
        self.last.set(slot);
        Some(Handle { index: slot, generation: self.slots[slot as usize].generation })
    }

    /// The flow in slot `index`, if there is one.
    pub fn at(&self, index: u32) -> Option<Handle> {
        let slot = self.slots.get(index as usize)?;
        matches!(slot.content, Content::Used(_)).then_some(Handle { index, generation: slot.generation })
    }

    /// The flow itself, unless it ended.
    pub fn get(&self, handle: Handle) -> Option<(&Key, &T)> {
        let slot = self.slots.get(handle.index as usize)?;
        match &slot.content {
            Content::Used(value) if slot.generation == handle.generation => Some((&slot.key, value)),
            _ => None,
        }
    }

    /// The flow itself, to be changed.
    pub fn get_mut(&mut self, handle: Handle) -> Option<(&Key, &mut T)> {
        let slot = self.slots.get_mut(handle.index as usize)?;
        match &mut slot.content {
            Content::Used(value) if slot.generation == handle.generation => Some((&slot.key, value)),
            _ => None,
        }
    }

    /// Removes a flow and gives it back.
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let key = *self.get_mut(handle)?.0;
        let place = self.place_of(&key);
        self.close_gap(place);
        let slot = &mut self.slots[handle.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.live -= 1;
        match std::mem::replace(&mut slot.content, Content::Free(self.free.replace(handle.index))) {
            Content::Used(value) => Some(value),
            Content::Free(_) => None,
        }
    }

    /// All flows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &Key, &T)> {
        self.slots.iter().zip(0u32..).filter_map(|(slot, index)| match &slot.content {
            Content::Used(value) => Some((Handle { index, generation: slot.generation }, &slot.key, value)),
            Content::Free(_) => None,
        })
    }

    fn take_slot(&mut self, key: Key) -> Option<u32> {
        if let Some(index) = self.free {
            let slot = &mut self.slots[index as usize];
            if let Content::Free(next) = slot.content {
                self.free = next;
            }
            slot.key = key;
            return Some(index);
        }
        if self.slots.len() == self.capacity {
            return None;
        }
        let index = u32::try_from(self.slots.len()).ok()?;
        self.slots.push(Slot { generation: self.first_generation, key, content: Content::Free(None) });
        Some(index)
    }

    /// The place of `key` in the index, or the empty place where it belongs.
    fn place_of(&self, key: &Key) -> usize {
        let mut place = self.home(key);
        loop {
            match self.index[place].checked_sub(1) {
                Some(slot) if self.slots[slot as usize].key != *key => place = self.next(place),
                _ => return place,
            }
        }
    }

    fn home(&self, key: &Key) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        key.hash(&mut hasher);
        usize::try_from(hasher.finish() & (self.index.len() as u64 - 1)).unwrap_or(0)
    }

    fn next(&self, place: usize) -> usize {
        (place + 1) & (self.index.len() - 1)
    }

    /// Empties `gap` and moves later entries of the same run back, so that no
    /// look-up meets a hole before its entry.
    fn close_gap(&mut self, mut gap: usize) {
        let mask = self.index.len() - 1;
        let mut place = self.next(gap);
        while let Some(slot) = self.index[place].checked_sub(1) {
            let home = self.home(&self.slots[slot as usize].key);
            let from_home = place.wrapping_sub(home) & mask;
            let from_gap = place.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.index[gap] = slot + 1;
                gap = place;
            }
            place = self.next(place);
        }
        self.index[gap] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Protocol;
    use crate::flow::Via;
    use passt_proto::addr::Endpoint;
    use std::net::Ipv4Addr;

    fn key(port: u16) -> Key {
        let at = |p| Endpoint::new(Ipv4Addr::LOCALHOST, p);
        Key { via: Via::Link, protocol: Protocol::Tcp, guest: at(port), remote: at(1) }
    }

    #[test]
    fn stale_handles_reach_nothing() {
        let mut table = Table::new(4, (1, 2)).expect("memory");
        let old = table.insert(key(1), "old").expect("room");
        assert_eq!(table.remove(old), Some("old"));
        let new = table.insert(key(2), "new").expect("room");
        assert_eq!(old.index, new.index);
        assert!(table.get(old).is_none() && table.get_mut(old).is_none());
        assert_eq!(table.remove(old), None);
        assert_eq!(table.get(new).map(|(_, v)| *v), Some("new"));
        assert_eq!(table.get_mut(new).map(|(_, v)| *v), Some("new"));
    }

    #[test]
    fn a_sixteenth_is_reserved() {
        let mut table = Table::new(64, (1, 2)).expect("memory");
        for port in 0..64 {
            assert_eq!(table.is_reserved(), port >= 60, "{port}");
            table.insert(key(port), ()).expect("room");
        }
        assert!(table.is_reserved() && table.is_full());
    }

    #[test]
    fn full_table_refuses_and_recovers() {
        let mut table = Table::new(4, (1, 2)).expect("memory");
        let handles: Vec<_> = (0..4).map(|p| table.insert(key(p), p).expect("room")).collect();
        assert_eq!(table.insert(key(9), 9), Err(9));
        assert_eq!(table.insert(key(2), 7), Err(7), "a key is unique");
        table.remove(handles[1]);
        assert!(table.insert(key(9), 9).is_ok());
        assert_eq!(table.count(), 4);
    }

    /// Whatever the order of insertions and removals, look-ups agree with a map.
    #[test]
    fn agrees_with_a_map() {
        let mut table = Table::new(64, (3, 4)).expect("memory");
        let mut model = std::collections::HashMap::new();
        let mut random = 12345u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let port = (random >> 16) as u16 % 100;
            if let Some(handle) = model.remove(&port) {
                assert_eq!(table.find(&key(port)), Some(handle));
                assert_eq!(table.remove(handle), Some(port));
            } else if let Ok(handle) = table.insert(key(port), port) {
                model.insert(port, handle);
            } else {
                assert_eq!(model.len(), 64);
            }
            assert_eq!(table.count(), model.len());
        }
        for port in 0..100 {
            assert_eq!(table.find(&key(port)), model.get(&port).copied());
        }
    }
}
