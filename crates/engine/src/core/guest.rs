//! The guest as workers know it: a value that is replaced as a whole, and published to all of them.
//!
//! Nobody waits: a worker reads its own copy, and looks once a round whether there is another. What
//! was read can be kept ([`Known::share`]), and stays as it is when something else becomes known.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use passt_proto::addr::{Addr, Mac};
use passt_proto::guest::{Configured, Evidence, Guest, Learnt};

/// No station, and no address.
const NOBODY: (Mac, Addr) = (Mac([0; 6]), Addr::UNSPECIFIED);

/// What is known about the guest, as a worker has it.
#[derive(Debug)]
pub struct Known {
    published: Arc<Published>,
    guest: Arc<Guest>,
    /// Memory for another value.
    spare: Arc<Guest>,
    /// Of what is published, that this is.
    version: u32,
    /// Station of the last frame, and the source address in it: most frames have the same.
    /// Forgotten with every change.
    latest: (Mac, Addr),
    /// Station of the last frame.
    speaker: Mac,
    /// Queue of the link that the last frame came by.
    pub(crate) queue: u8,
    /// A frame came from a station of which none came before, or which has an address now that
    /// another had: an address may have moved there, or may not.
    stranger: bool,
}

#[derive(Debug)]
struct Published {
    guest: ArcSwap<Guest>,
    /// Changes so far.
    version: AtomicU32,
}

impl Known {
    pub(super) fn new(configured: &Configured) -> Self {
        let guest = ArcSwap::from_pointee(Guest::new(configured.clone()));
        Self::of(Arc::new(Published { guest, version: AtomicU32::new(0) }))
    }

    fn of(published: Arc<Published>) -> Self {
        let version = published.version.load(Ordering::Acquire);
        let guest = published.guest.load_full();
        let spare = Arc::default();
        Self {
            published,
            guest,
            spare,
            version,
            latest: NOBODY,
            speaker: NOBODY.0,
            queue: 0,
            stranger: false,
        }
    }

    /// The same guest for another worker.
    pub fn for_another(&self) -> Self {
        Self::of(Arc::clone(&self.published))
    }

    /// What is known now, to be kept.
    pub fn share(&self) -> Arc<Guest> {
        Arc::clone(&self.guest)
    }

    /// Takes over what others have changed.
    #[inline]
    pub(crate) fn refresh(&mut self) {
        let version = self.published.version.load(Ordering::Acquire);
        if version != self.version {
            (self.version, self.latest) = (version, NOBODY);
            self.guest = self.published.guest.load_full();
        }
    }

    /// Changes what is known, for all workers. Where others change it at the same time, this is
    /// done again to what they made of it. Memory is that of the value before the last, unless
    /// others still read it: the data path allocates nothing.
    pub fn change(&mut self, change: impl Fn(&mut Guest)) {
        loop {
            let before = self.published.guest.load_full();
            let mut after = std::mem::replace(&mut self.spare, Arc::clone(&before));
            match Arc::get_mut(&mut after) {
                Some(memory) => memory.clone_from(&before),
                None => after = Arc::new(Guest::clone(&before)),
            }
            change(Arc::make_mut(&mut after));
            let previous = self.published.guest.compare_and_swap(&before, after);
            if Arc::ptr_eq(&previous, &before) {
                break;
            }
        }
        self.published.version.fetch_add(1, Ordering::Release);
        self.refresh();
    }

    /// A frame came from `station`, with a packet from `source` if it named one.
    #[inline]
    pub(crate) fn heard(&mut self, station: Mac, source: Option<&Addr>) {
        let (last, addr) = &self.latest;
        if *last != station || source.is_some_and(|source| source != addr) {
            let source = source.copied().filter(|addr| !addr.is_unspecified());
            self.heard_another(station, source, Evidence::Used);
        }
    }

    #[cold]
    fn heard_another(&mut self, station: Mac, source: Option<Addr>, evidence: Evidence) {
        self.stranger |= !self.learnt.has_met(station)
            || source.is_some_and(|source| self.learnt.is_taken_by(station, source));
        if self.learnt.is_news(station, source, evidence) {
            self.change(|guest| guest.learnt.hear(station, source, evidence));
        }
        self.latest = (station, source.unwrap_or(Addr::UNSPECIFIED));
        self.speaker = station;
    }

    /// The station that the last frame came from.
    pub(crate) fn speaker(&self) -> Mac {
        self.speaker
    }

    /// Whether a frame came, since this was asked last, from a station that nobody knows, or that
    /// took another's address.
    pub(crate) fn take_stranger(&mut self) -> bool {
        std::mem::take(&mut self.stranger)
    }

    /// The guest claims to have this address, in a frame from `station`.
    pub(crate) fn claimed(&mut self, station: Mac, addr: Addr) {
        self.heard_another(station, Some(addr), Evidence::Claimed);
        if self.believes(addr) {
            self.used(addr);
        }
    }

    /// The guest uses this address of its own accord.
    pub(crate) fn used(&mut self, addr: Addr) {
        if self.is_new(addr) {
            self.change(|guest| guest.learn(addr));
        }
    }
}

/// The station of the guest that a flow's frames go to: that of its own last frame, unless its
/// address was claimed by another one since. They go by the queue that this came by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Station {
    mac: Mac,
    /// As [`Learnt::moves`] counted then.
    moves: u32,
    queue: u8,
}

impl Station {
    /// None in particular.
    pub(crate) const EVERY: Self = Self { mac: Mac::BROADCAST, moves: 0, queue: 0 };

    /// That of a flow which begins with the guest at `addr`.
    pub(crate) fn of(learnt: &Learnt, addr: Addr) -> Self {
        let mac = learnt.station_of(addr).unwrap_or(Mac::BROADCAST);
        Self { mac, moves: learnt.moves(), queue: 0 }
    }

    /// The last frame is one of the flow's.
    #[inline]
    pub(crate) fn heard(&mut self, known: &Known) {
        *self = Self { mac: known.speaker, moves: known.learnt.moves(), queue: known.queue };
    }

    /// The link's queue that frames go by.
    pub(crate) fn queue(&self) -> u8 {
        self.queue
    }

    /// Where frames for the guest at `addr` go: to everybody while nobody was heard.
    pub(crate) fn mac(&self, learnt: &Learnt, addr: Addr) -> Mac {
        if self.moves == learnt.moves() {
            return self.mac;
        }
        learnt.station_after(addr, self.mac).unwrap_or(Mac::BROADCAST)
    }
}

impl Deref for Known {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;
    use std::thread;

    use super::*;

    fn addr(last: u8) -> Addr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    /// What one worker learns all know, and what was kept stays as it was.
    #[test]
    fn what_one_worker_learns_is_known_to_others() {
        let mut one = Known::new(&Configured::default());
        let mut other = one.for_another();
        let before = other.share();
        one.heard(mac(1), Some(&addr(1)));
        one.used(addr(1));
        assert_eq!(other.learnt.station_of(addr(1)), None, "its round goes on");
        other.refresh();
        let known = |guest: &Guest| (guest.learnt.station_of(addr(1)), guest.learnt.used(addr(1)));
        assert_eq!(known(&other), (Some(mac(1)), Some(addr(1))));
        assert_eq!(known(&before), (None, None));
        // The guest has another card now, seen elsewhere: an older frame's does not come back by
        // itself.
        other.heard(mac(2), Some(&addr(1)));
        one.refresh();
        assert_eq!(known(&one).0, Some(mac(2)));
        one.heard(mac(1), Some(&addr(1)));
        assert_eq!(known(&one).0, Some(mac(1)));
    }

    /// A guest that changes all the time has two values by turns.
    #[test]
    fn memory_is_used_again() {
        let mut known = Known::new(&Configured::default());
        let values: BTreeSet<_> = (0..100)
            .map(|last| {
                known.heard(mac(last), Some(&addr(last)));
                assert_eq!(known.learnt.station_of(addr(last)), Some(mac(last)));
                Arc::as_ptr(&known.guest)
            })
            .collect();
        assert!(values.len() <= 2, "{values:?}");
    }

    /// Nothing that workers learn at the same time is lost.
    #[test]
    fn workers_learn_at_the_same_time() {
        let mut all = Known::new(&Configured::default());
        thread::scope(|scope| {
            for worker in 0..4 {
                let mut known = all.for_another();
                scope.spawn(move || {
                    for round in 0..1000_u16 {
                        known.refresh();
                        let last = worker * 4 + u8::try_from(round % 4).unwrap_or(0);
                        known.heard(mac(last), Some(&addr(last)));
                        assert_eq!(known.latest, (mac(last), addr(last)));
                    }
                });
            }
        });
        all.refresh();
        for last in 0..16 {
            assert_eq!(all.learnt.station_of(addr(last)), Some(mac(last)), "{last}");
        }
    }
}
