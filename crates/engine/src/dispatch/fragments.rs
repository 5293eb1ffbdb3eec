//! Packets that the guest sends in fragments: each is put together in a block of the pool, and
//! handed on as one that came whole.
//!
//! What is missing of them, and which are given up, [`Reassembly`] says. Payload is copied, as a
//! frame is gone with its batch and the guest may write to it; and only then looked at.

use std::io;

use passt_proto::addr::Mac;
use passt_proto::classify::{self, Class, Fragment};
use passt_proto::drop::DropReason;
use passt_proto::reassembly::{Map, PACKETS, Place, Reassembly, Removed, Verdict};
use passt_proto::time::Instant;
use passt_proto::wire::build::Path;
use passt_proto::wire::icmp;
use passt_proto::wire::offload::{Gso, Offload};
use passt_proto::wire::report::Quoted;
use passt_sys::alloc;
use passt_sys::iovec::Gather;

use super::Engine;
use super::from_guest::sender;
use crate::core::{Core, Storage};
use crate::link::Link;

/// Packets in fragments, and the blocks that these are kept in.
pub(crate) struct Fragments {
    pending: Reassembly<Maps>,
    blocks: [Option<u16>; PACKETS],
}

/// Reserved memory, not touched before the first fragment.
struct Maps(Vec<Map>);

impl AsRef<[Map]> for Maps {
    fn as_ref(&self) -> &[Map] {
        &self.0
    }
}

impl AsMut<[Map]> for Maps {
    fn as_mut(&mut self) -> &mut [Map] {
        if self.0.is_empty() {
            self.0.resize(PACKETS, Map::default());
        }
        &mut self.0
    }
}

impl Fragments {
    pub(crate) fn new() -> io::Result<Self> {
        let maps = Maps(alloc::reserved(PACKETS)?);
        Ok(Self { pending: Reassembly::new(maps), blocks: [None; PACKETS] })
    }

    /// When [`Engine::expire_fragments`] may have something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pending.due()
    }

    /// Keeps what frame `index` of the batch has of a packet. False if there is no room for that,
    /// or the frame is gone.
    fn keep<L: Link>(&mut self, core: &mut Core<L>, index: usize, fragment: &Fragment, place: Place) -> bool {
        let Some(block) = self.blocks.get_mut(place.index) else { return false };
        if place.displaces {
            core.counters.drop(DropReason::FragmentRoom);
        }
        let Some(block) = block.or_else(|| core.pool.take()).inspect(|&taken| *block = Some(taken)) else {
            return false;
        };
        let mut data = Gather::new();
        core.link.payload(index, fragment.payload(), &mut data);
        let room = core.pool.bytes_mut(block).get_mut(fragment.part.range());
        room.is_some_and(|room| data.copy_out(0, room) == room.len())
    }

    /// Gives back the block of a packet.
    fn give_back<L: Link>(&mut self, core: &mut Core<L>, index: usize) {
        if let Some(block) = self.blocks.get_mut(index).and_then(Option::take) {
            core.pool.give_back(block);
        }
    }
}

impl<L: Link> Engine<L> {
    /// Frame `index` of the batch, from the station `source`, has a fragment of a packet, which is
    /// handed on if nothing else was missing.
    #[cold]
    pub(super) fn fragment(&mut self, index: usize, source: Mac) -> Result<(), DropReason> {
        let Self { ctx, fragments, .. } = self;
        let core = &mut ctx.core;
        core.guest.heard(source, None);
        let frame = core.link.frame(index).ok_or(DropReason::Offload)?;
        let fragment = classify::fragment(frame.head, frame.len)?;
        // No device can cut one again, or complete the checksum of what it has a part of.
        if frame.offload.needs_csum || frame.offload.gso != Gso::None {
            return Err(DropReason::Offload);
        }
        log::trace!("from guest: {} bytes, {:?} of {:?}", frame.len, fragment.part, fragment.packet);
        match fragments.pending.add(core.now, source, &fragment.packet, &fragment.part) {
            Verdict::Keep(place) if fragments.keep(core, index, &fragment, place) => Ok(()),
            Verdict::Complete(place) if fragments.keep(core, index, &fragment, place) => {
                self.complete(place.index)
            }
            Verdict::Keep(place) | Verdict::Complete(place) => {
                fragments.pending.remove(place.index);
                fragments.give_back(core, place.index);
                Err(DropReason::FragmentRoom)
            }
            Verdict::Drop(reason, place) => {
                if let Some(index) = place {
                    fragments.give_back(core, index);
                }
                Err(reason)
            }
        }
    }

    /// Hands on the packet in a place, which is whole. Nothing of it waits any more when this
    /// returns, so that its block can be used again.
    fn complete(&mut self, index: usize) -> Result<(), DropReason> {
        let removed = self.fragments.pending.remove(index);
        let block = self.fragments.blocks.get(index).copied().flatten();
        let outcome = match (removed, block) {
            (Some(removed), Some(block)) => self.whole(&removed, block),
            _ => Err(DropReason::FragmentRoom),
        };
        self.udp_end_batch();
        self.fragments.give_back(&mut self.ctx.core, index);
        outcome
    }

    fn whole(&mut self, packet: &Removed, block: u16) -> Result<(), DropReason> {
        let core = &mut self.ctx.core;
        let body = core.pool.bytes(block).get(..packet.total.unwrap_or(0)).unwrap_or_default();
        let class = classify::reassembled(&packet.packet, body)?;
        core.guest.heard(packet.station, sender(&class));
        let is_segment = matches!(class, Class::Tcp { .. });
        let outcome = self.packet(Storage::Block(block), class, &Offload::default());
        if is_segment {
            self.tcp_end_batch();
        }
        outcome
    }

    /// Gives up packets whose fragments did not all come in time.
    #[inline]
    pub(crate) fn expire_fragments(&mut self) {
        if self.fragments.due().is_some_and(|due| due <= self.ctx.core.now) {
            self.give_up_fragments();
        }
    }

    #[cold]
    fn give_up_fragments(&mut self) {
        let Self { ctx, fragments, .. } = self;
        while let Some(removed) = fragments.pending.expire(ctx.core.now) {
            if !removed.spoilt {
                ctx.core.dropped(DropReason::FragmentTimeout);
                if let Some(block) = fragments.blocks.get(removed.index).copied().flatten() {
                    tell(&mut ctx.core, &removed, block);
                }
            }
            fragments.give_back(&mut ctx.core, removed.index);
        }
    }
}

/// Tells the guest that fragments of its packet were missing for too long, on behalf of whom it was
/// for: if the first was there (RFC 792; RFC 8200, section 4.5).
fn tell<L: Link>(core: &mut Core<L>, Removed { packet, station, first, .. }: &Removed, block: u16) {
    let Some(&transport) = core.pool.bytes(block).first_chunk() else { return };
    if *first < transport.len() || packet.src.is_unspecified() {
        return;
    }
    let ours = core.services.our_mac;
    let path = Path {
        src_mac: *station,
        dst_mac: ours,
        src: packet.src,
        dst: packet.dst,
        ttl: packet.marks.ttl,
        traffic_class: packet.marks.traffic_class,
    };
    let quoted = Quoted { path, protocol: packet.protocol, transport, len: *first };
    let header = icmp::Error::ReassemblyTime.header(packet.src.is_v4());
    let payload = Storage::Block(block).piece(transport.len()..*first);
    core.icmp_error(packet.dst, header, &quoted, &payload);
}
