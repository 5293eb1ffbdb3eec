//! UDP flows: datagrams of the guest leave from a socket of the host, and answers come back.
//!
//! A flow that the guest begins uses the socket that the guest's port has on the host (`mapping`),
//! and where it hears much one beside that, which is connected (`lasting`).
//! A flow that comes in through a forwarded port uses the listening socket: no moment exists in
//! which its datagrams could go astray. One that bypasses the link uses a listening socket on one
//! side and one of its own on the other (`bypass`). There is no state but when a flow was last used.

pub(crate) mod bypass;
mod complaint;
pub(crate) mod errors;
mod facts;
mod frames;
mod lasting;
pub(crate) mod mapping;
mod receive;
mod send;
mod way;

use std::cell::Cell;

use arrayvec::ArrayVec;
use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::ip::Marks;
use passt_proto::wire::offload::{Gso, Offload};
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::{INTERFACE_INDEX, option};
use rustix::io::Errno;

use self::mapping::{Mappings, Permits, Remote};
pub(crate) use self::send::datagrams;
use self::send::{Cuts, Item, MAX_CUTS, Position, Tally};
pub(crate) use self::way::{Shared, Which, open};
use self::way::{Sockets, Ways};
use super::Verdict;
use crate::core::readiness::Futile;
use crate::core::{Core, DontFragment, Known, Payload, Station};
use crate::flow::account::{Account, Direction};
use crate::flow::{Handle, Key, Via};
use crate::forward::{Context, Ports};
use crate::link::Link;

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[
    // Which interface a socket is bound to (`--outbound-if4`).
    Call::only(Sysno::ioctl, &[&[(1, INTERFACE_INDEX)]]),
    // A lasting flow's own socket has the port of the one that it began with.
    Call::only(Sysno::setsockopt, &[option::IP_PKTINFO, option::SO_BROADCAST, option::SO_REUSEPORT]),
];

/// Entries of an error queue, and joined messages, that are dealt with at once.
const BURST: usize = 16;

/// [`UdpFlow::seen`] of an exchange that goes on.
const LASTING: [u8; 2] = [2, 2];

/// What all UDP flows share.
pub struct Udp {
    /// Tells fragmented datagrams from each other.
    next_id: u32,
    /// Datagrams from the guest that were not sent yet, all of one flow.
    batch: ArrayVec<Item, MAX_CUTS>,
    owner: Option<(Key, Handle)>,
    timeouts: Timeouts,
    /// A datagram was too big for the kernel: through which socket, and for whom.
    refused: Cell<Option<(Which, Endpoint)>>,
    /// The sockets of the guest's ports.
    pub(crate) mappings: Mappings,
}

/// How long an unused flow lives.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    /// Until there were two datagrams each way.
    single: Duration,
    /// From then on.
    stream: Duration,
}

/// A UDP flow.
pub struct UdpFlow {
    sockets: Sockets,
    /// The listening socket that the remote was heard through last, if that is at another port than
    /// the flow's own socket: the guest spoke first.
    last_heard: Option<Shared>,
    /// Peer of the guest on the host's side; on the bypass the server.
    remote: Endpoint,
    /// Whom the guest's port hears because of it, if it has a mapping.
    permits: Permits,
    marks: Marks,
    /// What its own socket was told of these.
    told: DontFragment,
    /// It came in.
    is_inbound: bool,
    cuts: Cuts,
    /// The kernel joined the last datagrams (`UDP_GRO`): it is likely to do so again.
    joined: bool,
    /// Batches seen from the guest (on the bypass the client) and to it, up to two.
    seen: [u8; 2],
    last: Instant,
    account: Account,
    futile: Futile,
    station: Station,
}

impl Udp {
    pub(crate) fn new(first_id: u32, mappings: Mappings) -> Self {
        Self {
            next_id: first_id,
            batch: ArrayVec::new(),
            owner: None,
            timeouts: Timeouts {
                single: setting("udp_timeout", 30),
                stream: setting("udp_timeout_stream", 120),
            },
            refused: Cell::new(None),
            mappings,
        }
    }
}

/// A time that the host's connection tracking uses, for the same purpose.
fn setting(name: &str, default: u64) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    seconds(&text.unwrap_or_default(), default)
}

fn seconds(text: &str, default: u64) -> Duration {
    let seconds = text.trim().parse().ok();
    Duration::from_secs(seconds.filter(|&s| s > 0).unwrap_or(default))
}

impl Udp {
    /// The flow of the datagrams that wait to be sent.
    pub(crate) fn owner(&self) -> Option<(Key, Handle)> {
        self.owner
    }

    /// Whether no more datagrams can wait.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.is_full()
    }

    /// Has datagrams wait to be sent by their flow.
    pub(crate) fn add(&mut self, owner: (Key, Handle), payload: Payload, offload: &Offload) {
        let segment = if offload.gso == Gso::Udp { offload.gso_size } else { 0 };
        self.owner = Some(owner);
        self.batch.push(Item::new(payload, segment));
    }

    /// The flow that is to send what waits; nothing waits any more once it [has](Self::clear).
    pub(crate) fn take_owner(&mut self) -> Option<Handle> {
        self.owner.take().map(|(_, handle)| handle)
    }

    /// Nothing waits.
    pub(crate) fn clear(&mut self) {
        self.batch.clear();
    }

    /// Through which socket a datagram was to go that was too big for the kernel, and for whom, since
    /// this was asked last.
    pub(crate) fn take_refused(&self) -> Option<(Which, Endpoint)> {
        self.refused.take()
    }

    /// Notes that a flow began. False where there is no memory for that.
    pub(crate) fn begun(&mut self, guest: Addr, flow: &UdpFlow) -> bool {
        flow.mapping().is_none_or(|mapping| self.mappings.join(mapping, guest, flow.to()))
    }

    /// The guest sends through a flow that has a mapping, and whose peer came by itself: the guest's
    /// port hears it from now on.
    pub(crate) fn spoke(&mut self, guest: Addr, flow: &mut UdpFlow) {
        let heard = Remote { permits: Permits::Host, ..flow.to() };
        if let Some(mapping) = flow.mapping()
            && self.mappings.permit(mapping, guest, heard)
        {
            flow.permits = Permits::Host;
        }
    }

    /// Takes back what a flow had that has ended.
    pub(crate) fn ended(&mut self, flow: &UdpFlow) {
        self.mappings.disconnected(flow);
        if let Some(mapping) = flow.mapping() {
            self.mappings.leave(mapping, flow.to());
        }
    }

    /// Takes back what a flow would have had that could not begin.
    pub(crate) fn unused(&mut self, flow: &UdpFlow) {
        if let Some(mapping) = flow.mapping() {
            self.mappings.close_unused(mapping);
        }
    }

    /// When a flow that begins now ends, if nothing comes back.
    pub(crate) fn first_timeout(&self, now: Instant) -> Instant {
        now + self.timeouts.single
    }
}

impl UdpFlow {
    /// What came in through a socket that others use as well, from `remote`.
    pub(crate) fn through(shared: Shared, remote: Endpoint, station: Station, now: Instant) -> Self {
        Self { is_inbound: true, ..Self::new(Sockets::Shared(shared), remote, station, now) }
    }

    fn new(sockets: Sockets, remote: Endpoint, station: Station, now: Instant) -> Self {
        Self {
            sockets,
            last_heard: None,
            remote,
            permits: Permits::Host,
            marks: Marks::USUAL,
            told: DontFragment::default(),
            is_inbound: false,
            cuts: Cuts::default(),
            joined: false,
            seen: [0; 2],
            last: now,
            account: Account::new(now),
            futile: Futile::default(),
            station,
        }
    }

    /// What came through a mapping from `remote`, which nobody sent to.
    pub(crate) fn unasked(shared: Shared, remote: Endpoint, station: Station, now: Instant) -> Self {
        Self { permits: Permits::Nobody, ..Self::through(shared, remote, station, now) }
    }

    /// Whether the guest has yet to send to a peer that came by itself.
    pub(crate) fn is_unasked(&self) -> bool {
        self.permits == Permits::Nobody
    }

    /// Peer on the host's side.
    pub(crate) fn remote(&self) -> Endpoint {
        self.remote
    }

    /// Whether it came in over the link.
    pub(crate) fn is_inbound(&self) -> bool {
        self.is_inbound
    }

    /// The last frame is one of the flow's.
    #[inline]
    pub(crate) fn heard(&mut self, guest: &Known) {
        self.station.heard(guest);
    }

    /// The marks of what it sends.
    pub(crate) fn marks(&self) -> Marks {
        self.marks
    }

    /// Has what it sends marked like this from now on.
    pub(crate) fn set_marks(&mut self, marks: Marks) {
        self.marks = marks;
    }

    /// Sends what waits of the guest's.
    pub(crate) fn end_batch<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &mut Udp,
        handle: Handle,
        key: &Key,
    ) -> Verdict {
        if self.hears_nothing(ctx.core.now) {
            self.disconnect(&mut udp.mappings);
        }
        let before = self.seen;
        let verdict = self.send(ctx, udp, key);
        self.note(&mut ctx.ports, handle, key, before);
        verdict
    }

    /// Has the shares of flows from outside follow what was seen since `before`. The guest answers
    /// what comes over the link, and the peer what goes past it.
    fn note(&self, ports: &mut Ports, handle: Handle, key: &Key, before: [u8; 2]) {
        let answers = usize::from(key.via != Via::Link);
        if before[answers] == 0 && self.seen[answers] != 0 {
            ports.inbound.answered(handle.index);
        }
        if before != LASTING && self.seen == LASTING {
            ports.inbound.lasts(handle.index);
        }
    }

    /// Sends the batch. What cannot be sent is reported to the guest.
    fn send<L: Link>(&mut self, ctx: &mut Context<L>, udp: &Udp, key: &Key) -> Verdict {
        let Context { core, ports } = ctx;
        let tally = udp.batch.iter().fold((0, 0), |all, item| item.add_to(all));
        self.used(Direction::Out, tally, core.now);
        let mut at = Position::default();
        loop {
            let ways = Ways { listeners: &ports.listeners, mappings: &udp.mappings };
            let Some(way) = self.way(ways) else {
                let lost = udp.batch.iter().map(Item::datagrams).sum();
                core.dropped_all(DropReason::Socket, lost);
                return Verdict::Remove;
            };
            let dont_fragment = self.marks.dont_fragment;
            let told = way.shared.map_or(&self.told, |(_, told)| told);
            told.set(way.fd, !way.v4, dont_fragment);
            let mut cuts = self.cuts;
            let loss = way.deliver(core, &udp.batch, &mut at, &mut cuts);
            let through = way.shared.map(|(socket, _)| socket);
            self.cuts = cuts;
            let Some(loss) = loss else { return Verdict::Keep };
            if loss.error == Errno::MSGSIZE {
                udp.refused.set(through.map(|socket| (socket, self.remote)));
            }
            let path = self.path_from_guest(core, key);
            errors::lost(core, key, &path, &loss);
        }
    }

    /// Notes use by the guest, on the bypass the client, or by its peer: datagrams, and their
    /// bytes. A peer that came by itself does not keep the flow alive (RFC 4787, section 4.3).
    fn used(&mut self, way: Direction, tally: Tally, now: Instant) {
        if self.is_unasked() {
            let mut last = self.last;
            return used((&mut last, &mut self.seen, &mut self.account), way, tally, now);
        }
        used((&mut self.last, &mut self.seen, &mut self.account), way, tally, now);
    }

    pub(crate) fn timeout<L>(&self, core: &mut Core<L>, udp: &Udp, handle: Handle) -> Verdict {
        let Timeouts { single, stream } = udp.timeouts;
        let due = self.last + if self.seen == LASTING { stream } else { single };
        super::expire(core, handle, due)
    }
}

fn used(
    (last, seen, account): (&mut Instant, &mut [u8; 2], &mut Account),
    way: Direction,
    (datagrams, bytes): Tally,
    now: Instant,
) {
    *last = now;
    let seen = &mut seen[way as usize];
    *seen = seen.saturating_add(1).min(2);
    account.carried(way, datagrams, bytes, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_host() {
        for (text, time) in [("120\n", 120), ("1", 1), ("0\n", 30), ("", 30), ("-5", 30), ("many", 30)] {
            assert_eq!(seconds(text, 30), Duration::from_secs(time), "{text:?}");
        }
    }
}
