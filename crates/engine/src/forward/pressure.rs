//! Room for connections that come in.
//!
//! A flood of connections to a forwarded port must leave flows that exist, and the guest's own new
//! ones, alone. So what one listening socket lets in before it is established is bounded, and the
//! last descriptors and places in the flow table are not for those who come in. Others wait in the
//! kernel's backlog, and are let in once there is room: listening sockets that had to wait are not
//! watched meanwhile, and kept in mind here.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use passt_proto::addr::Addr;
use passt_proto::time::{Duration, Instant};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, getrlimit};

use crate::core::LOOK_AGAIN;

/// Connections of one listening socket that are being established, at most.
pub(crate) const OPENING: u32 = 256;
/// For how long a source that was not heard is taken not to be.
const UNHEARD: Duration = Duration::from_secs(10);
/// The part of all descriptors that is kept, and the most of them.
const KEPT: (u64, u64) = (8, 1024);

/// The most descriptors that ports take which need not all be had: three of four. Connections need
/// the others.
pub(super) fn for_ports() -> RawFd {
    RawFd::try_from(limit() / 4 * 3).unwrap_or(RawFd::MAX)
}

fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What counts as one client: an IPv4 address, or an IPv6 network, of which a host may use every
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client(pub(crate) u64);

impl From<Addr> for Client {
    fn from(addr: Addr) -> Self {
        let [network @ .., _, _, _, _, _, _, _, _] = addr.octets();
        Self(addr.v4().map_or(u64::from_be_bytes(network), |v4| u32::from(v4).into()))
    }
}

/// Connections of a listening socket that are being established.
#[derive(Debug, Default)]
pub(crate) struct Opening(Arc<UnderWay>);

/// Stands for one of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    count: AtomicU32,
    /// The source that was last given up as unheard, and until when that tells something, in
    /// milliseconds.
    unheard: AtomicU64,
    until: AtomicU64,
}

impl Opening {
    /// A ticket for one more.
    pub(crate) fn ticket(&self) -> Ticket {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Ticket(Arc::clone(&self.0))
    }

    /// Whether this ticket is one of these.
    pub(crate) fn issued(&self, ticket: &Ticket) -> bool {
        Arc::ptr_eq(&self.0, &ticket.0)
    }

    /// Whether there are enough.
    pub(crate) fn is_full(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) >= OPENING
    }
}

impl Opening {
    /// Whether the guest did not answer this source when it was last tried.
    pub(crate) fn is_unheard(&self, source: Client, now: Instant) -> bool {
        let UnderWay { unheard, until, .. } = &*self.0;
        unheard.load(Ordering::Relaxed) == source.0 && now.as_millis() < until.load(Ordering::Relaxed)
    }

    /// The guest did not answer this source.
    pub(crate) fn unheard(&self, source: Client, now: Instant) {
        self.0.unheard(source, now);
    }
}

impl UnderWay {
    fn unheard(&self, source: Client, now: Instant) {
        self.unheard.store(source.0, Ordering::Relaxed);
        self.until.store((now + UNHEARD).as_millis(), Ordering::Relaxed);
    }
}

impl Ticket {
    /// The guest did not answer this source.
    pub(crate) fn unheard(&self, source: Client, now: Instant) {
        self.0.unheard(source, now);
    }

    /// The guest answered this source.
    pub(crate) fn heard(&self, source: Client) {
        if self.0.unheard.load(Ordering::Relaxed) == source.0 {
            self.0.until.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Descriptors, and the listening sockets that wait for room.
#[derive(Debug)]
pub(crate) struct Pressure {
    /// Descriptors from here on are kept.
    kept: RawFd,
    /// See [`for_ports`].
    ports: usize,
    /// There are no others; when to look again.
    scarce: Option<Instant>,
    /// When the first listening socket that waits by itself has to be tried again.
    again: Option<Instant>,
    waiting: BTreeSet<u32>,
    /// Those that wait for sockets of the namespace, of which there are none in stock.
    without_sockets: BTreeSet<u32>,
}

impl Pressure {
    /// For the limit that the process has now.
    pub(crate) fn new() -> Self {
        let kept = limit() - (limit() / KEPT.0).min(KEPT.1);
        Self {
            kept: kept.try_into().unwrap_or(RawFd::MAX),
            ports: usize::try_from(for_ports()).unwrap_or(0),
            scarce: None,
            without_sockets: BTreeSet::new(),
            again: None,
            waiting: BTreeSet::new(),
        }
    }

    /// Whether only descriptors are left that are kept.
    pub(crate) fn is_scarce(&self) -> bool {
        self.scarce.is_some()
    }

    /// Whether a new descriptor is one of those that are kept: the kernel gives out the lowest free
    /// number.
    pub(crate) fn keeps(&self, fd: impl AsFd) -> bool {
        fd.as_fd().as_raw_fd() >= self.kept
    }

    /// Descriptors from this number on are kept.
    pub(crate) fn kept(&self) -> RawFd {
        self.kept
    }

    /// Listening sockets at most, where not all need be had.
    pub(crate) fn ports(&self) -> usize {
        self.ports
    }

    /// Descriptors that are not kept.
    pub(crate) fn descriptors(&self) -> usize {
        usize::try_from(self.kept).unwrap_or(0)
    }

    /// Descriptors that datagrams from outside have at most which nobody has answered: a quarter.
    pub(crate) fn share(&self) -> usize {
        self.descriptors() / 4
    }

    /// Takes note of a new descriptor.
    pub(crate) fn taken(&mut self, fd: impl AsFd, now: Instant) {
        if self.keeps(fd) {
            self.exhausted(now);
        }
    }

    /// The kernel has no descriptors for us.
    pub(crate) fn exhausted(&mut self, now: Instant) {
        self.scarce = Some(now + LOOK_AGAIN);
    }

    /// Until when something about a single listening socket is not tried again. The loop is awake
    /// then.
    pub(crate) fn pause(&mut self, now: Instant) -> Instant {
        let until = now + LOOK_AGAIN;
        self.remind(until);
        until
    }

    /// Has the loop awake at `until`, when such a pause ends.
    pub(crate) fn remind(&mut self, until: Instant) {
        self.again = Some(self.again.map_or(until, |again| again.min(until)));
    }

    /// Keeps a listening socket in mind that has to wait.
    pub(crate) fn wait(&mut self, number: u32) {
        self.waiting.insert(number);
    }

    /// The same until the thread in the namespace has made sockets.
    pub(crate) fn wait_for_sockets(&mut self, number: u32) {
        self.without_sockets.insert(number);
    }

    /// A listening socket is closed.
    pub(crate) fn forget(&mut self, number: u32) {
        self.waiting.remove(&number);
        self.without_sockets.remove(&number);
    }

    /// Whether one waits for that.
    pub(crate) fn awaits_sockets(&self) -> bool {
        !self.without_sockets.is_empty()
    }

    /// How many listening sockets have to wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.union(&self.without_sockets).count()
    }

    /// Whether no listening socket has to wait, which is how it mostly is.
    pub(crate) fn nobody_waits(&self) -> bool {
        self.waiting.is_empty() && self.without_sockets.is_empty()
    }

    /// Those that wait and should be tried now.
    pub(crate) fn resume(&mut self, now: Instant) -> BTreeSet<u32> {
        self.again.take_if(|again| *again <= now);
        if !self.waiting.is_empty() && self.scarce.is_some_and(|due| due <= now) {
            self.scarce = None;
            // Of a kind that is in use anyway: the filter knows no other.
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None) {
                Ok(fd) => self.taken(fd, now),
                Err(_) => self.exhausted(now),
            }
        }
        let mut tried = std::mem::take(&mut self.without_sockets);
        if !self.is_scarce() {
            tried.append(&mut self.waiting);
        }
        tried
    }

    /// When there is something to resume, if nothing happens before.
    pub(crate) fn due(&self) -> Option<Instant> {
        [self.scarce, self.again].into_iter().flatten().min().filter(|_| !self.waiting.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_counted() {
        let opening = Opening::default();
        let mut tickets: Vec<Ticket> = (0..OPENING).map(|_| opening.ticket()).collect();
        assert!(opening.is_full());
        tickets.pop();
        assert!(!opening.is_full());
    }

    #[test]
    fn parts_of_all_descriptors() {
        let pressure = Pressure::new();
        let all = usize::try_from(limit()).expect("a number");
        assert!(pressure.descriptors() < all && pressure.descriptors() >= all - all.div_ceil(8));
        assert_eq!(pressure.share(), pressure.descriptors() / 4);
        assert_eq!(pressure.ports(), all / 4 * 3);
    }

    #[test]
    fn a_source_that_was_not_heard() {
        let (opening, other, now) = (Opening::default(), Opening::default(), Instant::from_millis(5000));
        let ticket = opening.ticket();
        assert!(opening.issued(&ticket) && !other.issued(&ticket));
        assert!(!opening.is_unheard(Client(7), now));
        ticket.unheard(Client(7), now);
        for (source, after, unheard) in
            [(7, 0, true), (7, 9999, true), (7, 10_000, false), (8, 0, false), (8, 10_000, false)]
        {
            let at = now + Duration::from_millis(after);
            assert_eq!(opening.is_unheard(Client(source), at), unheard, "{source} {after}");
        }
        ticket.heard(Client(8));
        assert!(opening.is_unheard(Client(7), now));
        ticket.heard(Client(7));
        assert!(!opening.is_unheard(Client(7), now));
        opening.unheard(Client(9), now);
        assert!(opening.is_unheard(Client(9), now));
    }

    #[test]
    fn ports_have_three_of_four_descriptors() {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let expected = RawFd::try_from(limit - limit.div_ceil(4)).unwrap_or(RawFd::MAX);
        assert!((expected - 3..=expected).contains(&for_ports()), "{} of {limit}", for_ports());
    }

    #[test]
    fn pauses_end() {
        let mut pressure = Pressure::new();
        let now = Instant::from_millis(1000);
        let until = pressure.pause(now);
        pressure.wait(1);
        assert_eq!(pressure.due(), Some(until));
        pressure.resume(now);
        pressure.wait(1);
        assert_eq!(pressure.due(), Some(until), "not over");
        pressure.resume(until);
        pressure.wait(1);
        assert_eq!(pressure.due(), None);
    }

    #[test]
    fn who_waits_is_tried_when_descriptors_are_free() {
        let (now, later) = (Instant::ZERO, Instant::ZERO + LOOK_AGAIN);
        let mut pressure = Pressure::new();
        for number in [3, 5, 3] {
            pressure.wait(number);
        }
        assert_eq!((pressure.resume(now), pressure.due()), ([3, 5].into(), None));
        pressure.exhausted(now);
        assert_eq!(pressure.due(), None, "nobody waits");
        pressure.wait(7);
        assert_eq!((pressure.resume(now), pressure.due()), ([].into(), Some(later)));
        pressure.kept = 0;
        assert_eq!((pressure.resume(later), pressure.is_scarce()), ([].into(), true), "all are kept");
        pressure.kept = RawFd::MAX;
        assert_eq!(pressure.resume(later + LOOK_AGAIN), [7].into());
        assert!(!pressure.is_scarce());
    }

    /// An address of IPv4, and a network of IPv6.
    #[test]
    fn who_is_one_source() {
        let source =
            |addr: &str| Client::from(Addr::from(addr.parse::<std::net::IpAddr>().expect("an address")));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_ne!(source("192.0.2.1"), source("2001:db8::1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }
}
