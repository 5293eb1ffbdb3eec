//! The sockets that listen, as the process has them: which there are, and the numbers by which workers know
//! them.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::sync::Arc;

use super::listener::Listener;
use super::table::RuleId;

/// The sockets that listen now, each with a number that is never used twice: what is left of a
/// closed one, an event or a flow, reaches no other.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    open: BTreeMap<u32, Arc<Listener>>,
    /// Inodes, and how many have each: a socket that is handed over to another rule is there twice.
    inodes: HashMap<u64, u32>,
    next: u32,
}

impl Registry {
    /// Adds a socket and gives it a number.
    pub(crate) fn insert(&mut self, listener: Listener) -> (u32, Arc<Listener>) {
        let number = self.next;
        self.next = number.wrapping_add(1);
        *self.inodes.entry(listener.inode).or_default() += 1;
        let listener = Arc::new(listener);
        self.open.insert(number, Arc::clone(&listener));
        (number, listener)
    }

    /// Takes a socket out. It is closed when no worker has it.
    pub(crate) fn remove(&mut self, number: u32) -> Option<Arc<Listener>> {
        let listener = self.open.remove(&number)?;
        if let hash_map::Entry::Occupied(mut count) = self.inodes.entry(listener.inode) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(listener)
    }

    /// Whether the socket with this inode is one of these.
    pub(super) fn is_ours(&self, inode: u64) -> bool {
        self.inodes.contains_key(&inode)
    }

    /// How many listen for each rule.
    pub(super) fn by_rule(&self) -> BTreeMap<RuleId, usize> {
        let mut counts = BTreeMap::new();
        for listener in self.open.values() {
            *counts.entry(listener.place.rule).or_default() += 1;
        }
        counts
    }

    /// All of them with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Listener)> {
        self.open.iter().map(|(&number, listener)| (number, &**listener))
    }
}
