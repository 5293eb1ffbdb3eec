//! The guest as a worker knows it: a value that is replaced as a whole.
//!
//! Others may keep what they read ([`Known::share`]): it stays as it is when something else becomes known.

use std::ops::Deref;
use std::sync::Arc;

use passt_proto::addr::{Addr, Mac};
use passt_proto::guest::{Configured, Guest};

/// What is known about the guest.
#[derive(Debug)]
pub struct Known(Arc<Guest>);

impl Known {
    pub(super) fn new(configured: &Configured) -> Self {
        Self(Arc::new(Guest::new(configured.clone())))
    }

    /// What is known now, to be kept.
    pub fn share(&self) -> Arc<Guest> {
        Arc::clone(&self.0)
    }

    /// Changes what is known.
    pub fn change(&mut self, change: impl FnOnce(&mut Guest)) {
        change(Arc::make_mut(&mut self.0));
    }

    /// A frame came from `station`, with a packet from `source` if it had one.
    pub(crate) fn heard(&mut self, station: Mac, source: Option<Addr>) {
        if self.learnt.is_news(station, source) {
            self.change(|guest| guest.learnt.hear(station, source));
        }
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
        &self.0
    }
}
