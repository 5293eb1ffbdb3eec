//! Flows that came in from outside: what part of the table they have, and which of them go first.
//!
//! Whoever can send to a forwarded port can begin flows. So there are shares of the table, by
//! protocol and by listening socket, and those that were not answered are the first to go where
//! room is short. Next go flows of datagrams that were answered, but whose exchange did not go on:
//! a source whose every port gets an answer could have all places otherwise. Each of these flows is
//! in a list, oldest first. A listening socket stands in one of a fixed number of buckets, which
//! makes the greediest one quick to find; sockets that share a bucket share its fate. The lists are
//! links between places of the flow table, so nothing is allocated and each operation takes
//! constant time.

use passt_proto::time::Instant;

use super::Side;

/// Lists for each [`InboundClass`].
const BUCKETS: usize = 64;
/// Rows of lists: of unanswered flows by class, then of those answered once.
const ROWS: usize = 6;
/// No slot.
const NONE: u32 = u32::MAX;

/// Kinds of flows that come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InboundClass {
    /// TCP connections, by whatever way.
    Tcp,
    /// The same from the namespace: the guest's own, which have no share.
    TcpOwn,
    /// Datagrams to the guest through the listening socket.
    Udp,
    /// Datagrams that bypass the link, with a descriptor of their own.
    UdpAcross,
}

/// What a new flow of datagrams finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Room.
    Free,
    /// Room, if the flow in this slot goes.
    InsteadOf(u32),
    /// None.
    Full,
}

/// Flows from outside, by their slots in the flow table.
#[derive(Debug)]
pub(crate) struct Inbound {
    entries: Vec<InboundEntry>,
    lists: [[List; BUCKETS]; ROWS],
    /// Flows of connections, answered ones included.
    connections: usize,
    /// The same of datagrams, by bucket and all.
    datagrams: [usize; BUCKETS],
    all_datagrams: usize,
    capacity: usize,
}

#[derive(Clone, Copy, Debug)]
struct InboundEntry {
    previous: u32,
    next: u32,
    since: Instant,
    class: InboundClass,
    bucket: u8,
    state: Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    /// Not a flow from outside.
    Other,
    /// In a list.
    Unanswered,
    /// In another: datagrams that were answered, fewer than two each way.
    Single,
    /// In none: it stays until it ends.
    Lasting,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
    len: usize,
}

const EMPTY: List = List { first: NONE, last: NONE, len: 0 };
const OTHER: InboundEntry = InboundEntry {
    previous: NONE,
    next: NONE,
    since: Instant::ZERO,
    class: InboundClass::Tcp,
    bucket: 0,
    state: Exchange::Other,
};

impl InboundClass {
    /// Of connections that come in on this side.
    pub(crate) fn connections(side: Side) -> Self {
        if side == Side::Host { Self::Tcp } else { Self::TcpOwn }
    }
}

impl Inbound {
    /// For a table of `capacity` flows.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: Vec::with_capacity(capacity),
            lists: [[EMPTY; BUCKETS]; ROWS],
            connections: 0,
            datagrams: [0; BUCKETS],
            all_datagrams: 0,
            capacity,
        }
    }

    /// A flow began that came in through a listening socket.
    pub(crate) fn begun(&mut self, slot: u32, class: InboundClass, listener: u32, now: Instant) {
        self.ended(slot);
        if self.entries.len() <= slot as usize {
            self.entries.resize(slot as usize + 1, OTHER);
        }
        let bucket = bucket(listener);
        self.count(class, bucket, 1);
        self.entries[slot as usize] = InboundEntry { since: now, class, bucket, ..OTHER };
        self.put(slot, Exchange::Unanswered);
    }

    /// The other side answered.
    pub(crate) fn answered(&mut self, slot: u32) {
        let Some(entry) = self.entries.get(slot as usize) else { return };
        if entry.state == Exchange::Unanswered {
            let single = row(entry.class, Exchange::Single).is_some();
            self.put(slot, if single { Exchange::Single } else { Exchange::Lasting });
        }
    }

    /// There were two datagrams each way.
    pub(crate) fn lasts(&mut self, slot: u32) {
        if self.entries.get(slot as usize).is_some_and(|entry| entry.state != Exchange::Other) {
            self.put(slot, Exchange::Lasting);
        }
    }

    /// The flow is gone.
    pub(crate) fn ended(&mut self, slot: u32) {
        if let Some(&InboundEntry { class, bucket, state, .. }) = self.entries.get(slot as usize)
            && state != Exchange::Other
        {
            self.put(slot, Exchange::Other);
            self.count(class, bucket, -1);
        }
    }

    /// Takes a flow out of the list where it is, and puts it at the end of the one for this state.
    fn put(&mut self, slot: u32, state: Exchange) {
        let entry = &mut self.entries[slot as usize];
        let InboundEntry { previous, next, class, bucket, state: before, .. } = *entry;
        let bucket = usize::from(bucket);
        (entry.state, entry.previous, entry.next) = (state, NONE, NONE);
        if let Some(row) = row(class, before) {
            let list = &mut self.lists[row][bucket];
            list.len -= 1;
            match self.entries.get_mut(previous as usize) {
                Some(entry) => entry.next = next,
                None => list.first = next,
            }
            match self.entries.get_mut(next as usize) {
                Some(entry) => entry.previous = previous,
                None => list.last = previous,
            }
        }
        if let Some(row) = row(class, state) {
            let list = &mut self.lists[row][bucket];
            list.len += 1;
            let last = std::mem::replace(&mut list.last, slot);
            self.entries[slot as usize].previous = last;
            match self.entries.get_mut(last as usize) {
                Some(entry) => entry.next = slot,
                None => list.first = slot,
            }
        }
    }

    fn count(&mut self, class: InboundClass, bucket: u8, change: isize) {
        let add = |count: &mut usize| *count = count.saturating_add_signed(change);
        match class {
            InboundClass::Tcp => add(&mut self.connections),
            InboundClass::TcpOwn => {}
            InboundClass::Udp | InboundClass::UdpAcross => {
                add(&mut self.datagrams[usize::from(bucket)]);
                add(&mut self.all_datagrams);
            }
        }
    }

    /// Whether connections have their share of the table.
    pub(crate) fn has_all_connections(&self) -> bool {
        self.connections >= self.share()
    }

    /// The share of connections, and that of datagrams: three quarters.
    fn share(&self) -> usize {
        self.capacity / 4 * 3
    }

    /// Connections, and their share.
    pub(crate) fn connections(&self) -> (usize, usize) {
        (self.connections, self.share())
    }

    /// Flows of datagrams, and their share.
    pub(crate) fn datagrams(&self) -> (usize, usize) {
        (self.all_datagrams, self.share())
    }

    /// What a new flow of datagrams of `class` finds that comes in through `listener`. The share of
    /// datagrams is three quarters of the table, a listening socket's is five eighths, and that of
    /// all which were not answered one quarter. Past the link they have `across` at most. What is
    /// left of the table may be `reserved` for others. Where no unanswered flow can go, one goes
    /// that was answered, but does not last.
    pub(crate) fn room(&self, class: InboundClass, listener: u32, across: usize, reserved: bool) -> Room {
        let bucket = usize::from(bucket(listener));
        let [.., link, bypass, link_single, bypass_single] = &self.lists;
        let waiting = |lists: &[List]| lists.iter().map(|list| list.len).sum::<usize>();
        let oldest = if self.datagrams[bucket] >= self.capacity / 8 * 5 {
            greediest([&link[bucket], &bypass[bucket]])
                .or_else(|| greediest([&link_single[bucket], &bypass_single[bucket]]))
        } else if class == InboundClass::UdpAcross && waiting(bypass) >= across {
            self.oldest_across()
        } else if reserved
            || self.all_datagrams >= self.share()
            || waiting(link) + waiting(bypass) >= self.capacity / 4
        {
            self.oldest_datagrams()
        } else {
            return Room::Free;
        };
        oldest.map_or(Room::Full, Room::InsteadOf)
    }

    /// The flow of datagrams that is the first to go.
    pub(crate) fn oldest_datagrams(&self) -> Option<u32> {
        let [.., link, bypass, link_single, bypass_single] = &self.lists;
        greediest(link.iter().chain(bypass)).or_else(|| greediest(link_single.iter().chain(bypass_single)))
    }

    /// The first to go of those that have a descriptor.
    pub(crate) fn oldest_across(&self) -> Option<u32> {
        let [.., bypass, _, bypass_single] = &self.lists;
        greediest(bypass).or_else(|| greediest(bypass_single))
    }

    /// Connections of `class` that were not answered, of `listener` and those in the same bucket,
    /// oldest first, and since when.
    pub(crate) fn unanswered(
        &self,
        class: InboundClass,
        listener: u32,
    ) -> impl Iterator<Item = (u32, Instant)> {
        let mut next = self.lists[class as usize][usize::from(bucket(listener))].first;
        std::iter::from_fn(move || {
            let slot = next;
            let entry = self.entries.get(slot as usize)?;
            next = entry.next;
            Some((slot, entry.since))
        })
    }
}

/// The row of lists in which flows in this state are, if they are in one.
fn row(class: InboundClass, state: Exchange) -> Option<usize> {
    match (state, class) {
        (Exchange::Unanswered, _) => Some(class as usize),
        (Exchange::Single, InboundClass::Udp) => Some(ROWS - 2),
        (Exchange::Single, InboundClass::UdpAcross) => Some(ROWS - 1),
        _ => None,
    }
}

fn bucket(listener: u32) -> u8 {
    const { assert!(BUCKETS == 64) };
    listener.to_le_bytes()[0] & 63
}

/// The oldest of the longest list.
fn greediest<'a>(lists: impl IntoIterator<Item = &'a List>) -> Option<u32> {
    lists.into_iter().max_by_key(|list| list.len).filter(|list| list.len > 0).map(|list| list.first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::ZERO;

    fn waiting(inbound: &Inbound, listener: u32) -> Vec<u32> {
        inbound.unanswered(InboundClass::Tcp, listener).map(|(slot, _)| slot).collect()
    }

    #[test]
    fn oldest_first_whatever_is_taken_out() {
        for taken in [[3, 4, 5], [5, 4, 3], [4, 3, 5], [3, 5, 4]] {
            let mut inbound = Inbound::new(64);
            for slot in 3..6 {
                inbound.begun(slot, InboundClass::Tcp, 7, NOW);
            }
            let mut rest = vec![3, 4, 5];
            assert_eq!(waiting(&inbound, 7), rest);
            for (slot, end) in taken.into_iter().zip([true, false, true]) {
                if end {
                    inbound.ended(slot);
                } else {
                    inbound.answered(slot);
                }
                rest.retain(|&other| other != slot);
                assert_eq!(waiting(&inbound, 7), rest, "{taken:?}");
            }
            inbound.begun(3, InboundClass::Tcp, 7, NOW);
            assert_eq!(waiting(&inbound, 7), [3]);
            assert_eq!(waiting(&inbound, 8), []);
        }
    }

    #[test]
    fn slots_used_again_are_counted_once() {
        let mut inbound = Inbound::new(16);
        for _ in 0..100 {
            inbound.begun(1, InboundClass::Tcp, 0, NOW);
        }
        assert!(!inbound.has_all_connections());
        for slot in 0..12 {
            inbound.begun(slot, InboundClass::Tcp, slot, NOW);
            inbound.answered(slot);
        }
        assert!(inbound.has_all_connections());
        inbound.ended(5);
        inbound.ended(5);
        assert!(!inbound.has_all_connections());
        inbound.begun(5, InboundClass::Udp, 0, NOW);
        assert!(!inbound.has_all_connections());
    }

    #[test]
    fn the_greediest_gives_way() {
        let mut inbound = Inbound::new(64);
        let room = |inbound: &Inbound, listener| inbound.room(InboundClass::Udp, listener, usize::MAX, false);
        assert_eq!(inbound.room(InboundClass::Udp, 1, 0, true), Room::Full);
        for slot in 0..16 {
            assert_eq!(room(&inbound, 1), Room::Free);
            inbound.begun(slot, InboundClass::Udp, if slot < 4 { 2 } else { 1 }, NOW);
        }
        assert_eq!((room(&inbound, 1), room(&inbound, 9)), (Room::InsteadOf(4), Room::InsteadOf(4)));
        inbound.answered(4);
        assert_eq!(room(&inbound, 1), Room::Free, "what was answered is not thrown out");
        for slot in 0..16 {
            inbound.answered(slot);
            inbound.lasts(slot);
        }
        for slot in 16..44 {
            assert_eq!(room(&inbound, 1), Room::Free);
            inbound.begun(slot, InboundClass::Udp, 1, NOW);
            inbound.answered(slot);
            inbound.lasts(slot);
        }
        assert_eq!(room(&inbound, 1), Room::Full, "the socket's share");
        assert_eq!(room(&inbound, 2), Room::Free);
        for slot in 44..48 {
            inbound.begun(slot, InboundClass::Udp, 2, NOW);
            inbound.answered(slot);
            inbound.lasts(slot);
        }
        assert_eq!(room(&inbound, 2), Room::Full, "the protocol's");
        inbound.ended(47);
        assert_eq!(room(&inbound, 2), Room::Free);
    }

    #[test]
    fn answered_once_goes_after_what_was_not() {
        let mut inbound = Inbound::new(64);
        let room = |inbound: &Inbound, listener| inbound.room(InboundClass::Udp, listener, usize::MAX, false);
        for slot in 0..40 {
            inbound.begun(slot, InboundClass::Udp, 1, NOW);
            inbound.answered(slot);
        }
        assert_eq!(room(&inbound, 1), Room::InsteadOf(0), "the socket's share");
        for slot in 40..48 {
            assert_eq!(room(&inbound, 2), Room::Free);
            inbound.begun(slot, InboundClass::Udp, 2, NOW);
            inbound.answered(slot);
        }
        assert_eq!(room(&inbound, 3), Room::InsteadOf(0), "of the greediest");
        inbound.lasts(0);
        assert_eq!((room(&inbound, 3), inbound.oldest_datagrams()), (Room::InsteadOf(1), Some(1)));
        assert_eq!(inbound.oldest_across(), None);
        inbound.ended(47);
        inbound.begun(47, InboundClass::UdpAcross, 2, NOW);
        assert_eq!((room(&inbound, 3), inbound.oldest_across()), (Room::InsteadOf(47), Some(47)));
        inbound.answered(47);
        assert_eq!((room(&inbound, 3), inbound.oldest_across()), (Room::InsteadOf(1), Some(47)));
        for slot in 1..48 {
            inbound.lasts(slot);
        }
        assert_eq!((room(&inbound, 1), room(&inbound, 3)), (Room::Full, Room::Full));
        assert_eq!((inbound.oldest_datagrams(), inbound.oldest_across()), (None, None));
        inbound.ended(0);
        assert_eq!(room(&inbound, 1), Room::Free);
    }

    #[test]
    fn connections_that_were_answered_stay() {
        let mut inbound = Inbound::new(64);
        inbound.begun(0, InboundClass::Tcp, 1, NOW);
        inbound.answered(0);
        assert_eq!(
            (inbound.room(InboundClass::Udp, 1, 0, true), inbound.oldest_datagrams()),
            (Room::Full, None)
        );
        inbound.lasts(9);
        // Numbers of 64 bits are aligned to 32 on some processors.
        assert!(size_of::<InboundEntry>() <= 24);
    }

    #[test]
    fn descriptors_are_had_from_those_that_have_some() {
        let mut inbound = Inbound::new(64);
        for slot in 0..3 {
            inbound.begun(slot, InboundClass::Udp, 1, NOW);
        }
        assert_eq!(
            (inbound.oldest_across(), inbound.room(InboundClass::UdpAcross, 2, 0, false)),
            (None, Room::Full)
        );
        assert_eq!(inbound.room(InboundClass::UdpAcross, 2, 2, true), Room::InsteadOf(0));
        for slot in 3..5 {
            assert_eq!(inbound.room(InboundClass::UdpAcross, 2, 2, false), Room::Free);
            inbound.begun(slot, InboundClass::UdpAcross, 2, NOW);
        }
        assert_eq!(inbound.room(InboundClass::UdpAcross, 2, 2, false), Room::InsteadOf(3));
        assert_eq!(inbound.room(InboundClass::Udp, 1, 2, false), Room::Free);
        assert_eq!(inbound.oldest_across(), Some(3));
    }
}
