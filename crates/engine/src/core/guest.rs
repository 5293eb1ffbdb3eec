//! The guest as a worker knows it: a value that is replaced as a whole.
//!
//! Others may keep what they read ([`Known::share`]): it stays as it is when something else becomes known.

use std::ops::Deref;
use std::sync::Arc;

use passt_proto::addr::{Addr, Mac};
use passt_proto::guest::{Configured, Guest};

/// What is known about the guest.
#[derive(Debug)]
pub struct Known {
    guest: Arc<Guest>,
    /// Whom the last frame came from, and the address that it named: most frames are from the same. Forgotten
    /// with every change.
    latest: (Mac, Addr),
}

/// Of nobody.
const NOBODY: (Mac, Addr) = (Mac([0; 6]), Addr::UNSPECIFIED);

impl Known {
    pub(super) fn new(configured: &Configured) -> Self {
        Self { guest: Arc::new(Guest::new(configured.clone())), latest: NOBODY }
    }

    /// What is known now, to be kept.
    pub fn share(&self) -> Arc<Guest> {
        Arc::clone(&self.guest)
    }

    /// Changes what is known.
    pub fn change(&mut self, change: impl FnOnce(&mut Guest)) {
        change(Arc::make_mut(&mut self.guest));
        self.latest = NOBODY;
    }

    /// A frame came from `station`, with a packet from `source` if it named one.
    #[inline]
    pub(crate) fn heard(&mut self, station: Mac, source: Option<&Addr>) {
        let (last, addr) = &self.latest;
        if *last != station || source.is_some_and(|source| source != addr) {
            self.heard_another(station, source.copied().filter(|addr| !addr.is_unspecified()));
        }
    }

    #[cold]
    fn heard_another(&mut self, station: Mac, source: Option<Addr>) {
        if self.learnt.is_news(station, source) {
            self.change(|guest| guest.learnt.hear(station, source));
        }
        self.latest = (station, source.unwrap_or(Addr::UNSPECIFIED));
    }

    /// The guest claims to have this address.
    pub(crate) fn claimed(&mut self, addr: Addr) {
        if self.believes(addr) {
            self.used(addr);
        }
    }

    /// The guest uses this address of its own accord.
    pub(super) fn used(&mut self, addr: Addr) {
        if self.is_new(addr) {
            self.change(|guest| guest.learn(addr));
        }
    }
}

impl Deref for Known {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}
