//! Packets that come in fragments (RFC 791, section 3.2; RFC 815; RFC 8200, section 4.5): which of
//! their fragments are there, and which of the packets are given up, and when. Where payload is
//! kept is up to the caller.
//!
//! - A packet is told from others by its addresses, its identification and, of IPv4, its protocol;
//!   and by the station that sent it, so that no other one can spoil it.
//! - Fragments that overlap, or contradict each other, end the packet and all of it that comes
//!   later (RFC 5722). Exact duplicates are ignored, as both families allow.
//! - The time for a packet begins with the first of its fragments that arrives (RFC 8200, section
//!   4.5; RFC 1122, section 3.3.2).
//! - There are [`PACKETS`] at a time. Another one takes the place of the oldest of those with most:
//!   of the station with most of them, and there of the address with most. So a flood, whatever
//!   names it goes by within its station, is at the cost of who sends it.
//!
//! They are found by comparing: with so few that takes no longer than a hash that nobody can
//! foresee, and none of it is done for ordinary packets.

mod map;
#[cfg(test)]
mod tests;

pub use self::map::{Addition, Map};

use core::cmp::Reverse;

use crate::addr::{Addr, Mac};
use crate::drop::DropReason;
use crate::time::{Duration, Instant};
use crate::wire::fragment::Part;
use crate::wire::ip::Packet;

/// Packets that can be in fragments at the same time.
pub const PACKETS: usize = 64;

/// How long fragments are waited for. RFC 1122 wants 60 to 120 seconds, by which identifications
/// of 16 bits come again (RFC 4963): half a minute is what hosts do.
const TIMEOUT_V4: Duration = Duration::from_secs(30);
/// RFC 8200, section 4.5.
const TIMEOUT_V6: Duration = Duration::from_secs(60);

/// Packets in fragments; `maps` are [`PACKETS`] in number.
pub struct Reassembly<M> {
    packets: [Option<Pending>; PACKETS],
    maps: M,
    count: usize,
    /// When the first of them is given up at the earliest.
    due: Instant,
}

/// What a packet is told from others by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    id: u32,
    /// Zero for IPv6.
    protocol: u8,
    src: Addr,
    dst: Addr,
    station: Mac,
}

/// A packet of which fragments are missing.
#[derive(Clone, Copy, Debug)]
struct Pending {
    name: Name,
    /// What its first fragment said, or any other one until that is there.
    packet: Packet,
    begun: Instant,
    /// Its fragments contradicted each other: what comes of it is dropped.
    spoilt: bool,
}

/// What is to be done with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be kept with the others of the packet in this place.
    Keep(Place),
    /// The same, and that completes the packet: it is to be [removed](Reassembly::remove).
    Complete(Place),
    /// It is to be dropped, and all that is kept in a place with it, if one is named.
    Drop(DropReason, Option<usize>),
}

/// Where a packet's fragments are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// One of [`PACKETS`].
    pub index: usize,
    /// What it has of another packet, which made room, is to be dropped.
    pub displaces: bool,
}

/// A packet that is whole, or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Where it was kept.
    pub index: usize,
    /// What its first fragment said; without that, any other one.
    pub packet: Packet,
    /// Its station.
    pub station: Mac,
    /// Bytes of its payload that the first fragment has; zero if that was missing.
    pub first: usize,
    /// Bytes of its payload, if the last fragment was there.
    pub total: Option<usize>,
    /// Whether nothing of it is kept, because its fragments contradicted each other.
    pub spoilt: bool,
}

impl Pending {
    /// When it is given up.
    fn due(&self) -> Instant {
        self.begun + if self.name.src.is_v4() { TIMEOUT_V4 } else { TIMEOUT_V6 }
    }
}

impl<M: AsRef<[Map]> + AsMut<[Map]>> Reassembly<M> {
    /// No packets.
    pub fn new(maps: M) -> Self {
        Self { packets: [None; PACKETS], maps, count: 0, due: Instant::ZERO }
    }

    /// A fragment of a station's has come.
    pub fn add(&mut self, now: Instant, station: Mac, packet: &Packet, part: &Part) -> Verdict {
        let (src, dst) = (packet.src, packet.dst);
        let protocol = if src.is_v4() { packet.protocol } else { 0 };
        let name = Name { id: part.id, protocol, src, dst, station };
        let is_it = |pending: &Option<Pending>| pending.as_ref().is_some_and(|p| p.name == name);
        let known = self.packets.iter().position(is_it);
        let (index, displaces) = match known {
            Some(index) => (index, false),
            None => self.begin(now, name, packet),
        };
        let (Some(Some(pending)), Some(map)) =
            (self.packets.get_mut(index), self.maps.as_mut().get_mut(index))
        else {
            return Verdict::Drop(DropReason::FragmentRoom, None);
        };
        if pending.spoilt {
            return Verdict::Drop(DropReason::FragmentOverlap, None);
        }
        let place = Place { index, displaces };
        let addition = map.add(part);
        if part.offset == 0 && matches!(addition, Addition::Added | Addition::Completed) {
            pending.packet = *packet;
        }
        match addition {
            Addition::Added => Verdict::Keep(place),
            Addition::Completed => Verdict::Complete(place),
            Addition::Duplicate => Verdict::Drop(DropReason::FragmentDuplicate, None),
            Addition::Contradiction => {
                pending.spoilt = true;
                Verdict::Drop(DropReason::FragmentOverlap, Some(index))
            }
        }
    }

    /// Makes an entry for a packet: its place, and whether another one had it.
    fn begin(&mut self, now: Instant, name: Name, packet: &Packet) -> (usize, bool) {
        let free = self.packets.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| self.victim());
        let pending = Pending { name, packet: *packet, begun: now, spoilt: false };
        let was_spoilt = self.packets.get(index).is_some_and(|p| p.is_some_and(|p| p.spoilt));
        if let Some(entry) = self.packets.get_mut(index) {
            *entry = Some(pending);
        }
        if let Some(map) = self.maps.as_mut().get_mut(index) {
            *map = Map::default();
        }
        if free.is_some() {
            self.due = if self.count == 0 { pending.due() } else { self.due.min(pending.due()) };
            self.count = self.count.saturating_add(1);
        }
        (index, free.is_none() && !was_spoilt)
    }

    /// The packet that is to make room.
    fn victim(&self) -> usize {
        let others = || self.packets.iter().flatten();
        let share = |own: &Name| {
            let of_station = others().filter(|p| p.name.station == own.station);
            let of_address = of_station.clone().filter(|p| p.name.src == own.src);
            (of_station.count(), of_address.count())
        };
        let candidates = self.packets.iter().enumerate();
        let candidates = candidates.filter_map(|(index, p)| p.as_ref().map(|p| (index, p)));
        let most = candidates.max_by_key(|(_, p)| (share(&p.name), Reverse(p.begun)));
        most.map_or(0, |(index, _)| index)
    }

    /// When [`Reassembly::expire`] may have something to give up.
    pub fn due(&self) -> Option<Instant> {
        (self.count > 0).then_some(self.due)
    }

    /// Gives up a packet whose time is over. Call until there is none.
    pub fn expire(&mut self, now: Instant) -> Option<Removed> {
        if self.due()? > now {
            return None;
        }
        let dues = self.packets.iter().enumerate();
        let dues = dues.filter_map(|(index, pending)| pending.as_ref().map(|p| (p.due(), index)));
        let (due, index) = dues.min()?;
        self.due = due;
        if due > now { None } else { self.remove(index) }
    }

    /// Forgets a packet.
    pub fn remove(&mut self, index: usize) -> Option<Removed> {
        let Pending { name, packet, spoilt, .. } = self.packets.get_mut(index)?.take()?;
        self.count = self.count.saturating_sub(1);
        let map = self.maps.as_ref().get(index)?;
        let (first, total) = (map.first(), map.total());
        Some(Removed { index, packet, station: name.station, first, total, spoilt })
    }

    /// How many packets there are.
    pub fn count(&self) -> usize {
        self.count
    }
}
