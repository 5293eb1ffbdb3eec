//! The sockets that listen, as the process has them: which there are, and the numbers by which
//! workers know them.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::listener::Listener;
use super::table::{Entry, Place, RuleId};

/// Inodes of all listening sockets of ours, in use or not yet: by these the kernel tells what
/// listens, and none of ours is a service to be followed. Locked for moments, where sockets are
/// opened and closed, and once a second where services are looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Inodes(Arc<Mutex<HashSet<u64>>>);

/// The listening socket itself, which rules can have one after the other.
#[derive(Debug)]
pub(crate) struct Socket {
    // Closed before its inode is forgotten: fields go in this order.
    fd: OwnedFd,
    _noted: Noted,
}

/// An inode that is one of ours.
#[derive(Debug)]
struct Noted {
    inode: u64,
    inodes: Inodes,
}

impl Inodes {
    /// Notes a socket, before it listens.
    pub(super) fn note(&self, fd: OwnedFd, inode: u64) -> Socket {
        self.all().insert(inode);
        Socket { fd, _noted: Noted { inode, inodes: self.clone() } }
    }

    /// Whether the socket with this inode is one of these.
    pub(super) fn is_ours(&self, inode: u64) -> bool {
        self.all().contains(&inode)
    }

    fn all(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.inodes.all().remove(&self.inode);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The sockets that listen now. Each has a number, which no other has later but one that stands for
/// it: what is left of a closed one, an event or a flow, reaches no stranger.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    open: BTreeMap<u32, Arc<Listener>>,
    pub(super) inodes: Inodes,
    next: u32,
}

impl Registry {
    /// Adds a socket and gives it a number.
    pub(crate) fn insert(&mut self, listener: Listener) -> (u32, Arc<Listener>) {
        let number = self.next;
        self.next = number.wrapping_add(1);
        let listener = Arc::new(listener);
        self.open.insert(number, Arc::clone(&listener));
        (number, listener)
    }

    /// A socket by its number, unless it was taken out.
    pub(super) fn get(&self, number: u32) -> Option<&Listener> {
        self.open.get(&number).map(|listener| &**listener)
    }

    /// Takes a socket out. It is closed when no worker has it.
    pub(crate) fn remove(&mut self, number: u32) -> Option<Arc<Listener>> {
        self.open.remove(&number)
    }

    /// Has a socket listen for another rule. It has another number then, if flows through it would
    /// go elsewhere.
    pub(super) fn hand_over(
        &mut self,
        number: u32,
        place: Place,
        entry: &Entry,
    ) -> Option<(u32, Arc<Listener>)> {
        let former = self.remove(number)?;
        let listener = former.for_rule(place, entry);
        if !listener.leads_elsewhere(&former) {
            return Some((number, self.insert_as(number, listener)));
        }
        Some(self.insert(listener))
    }

    /// Adds a socket under a number that one had which is gone, and for which it stands.
    pub(super) fn insert_as(&mut self, number: u32, listener: Listener) -> Arc<Listener> {
        let listener = Arc::new(listener);
        self.open.insert(number, Arc::clone(&listener));
        listener
    }

    /// How many listen for each rule.
    pub(super) fn by_rule(&self) -> BTreeMap<RuleId, usize> {
        let mut counts = BTreeMap::new();
        for listener in self.open.values() {
            *counts.entry(listener.place.rule).or_default() += 1;
        }
        counts
    }

    /// The number that the next one gets.
    pub(super) fn next_number(&self) -> u32 {
        self.next
    }

    /// All of them with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Listener)> {
        self.open.iter().map(|(&number, listener)| (number, &**listener))
    }
}
