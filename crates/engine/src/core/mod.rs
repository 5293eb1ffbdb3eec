//! Floor `core`: what every part of the engine stands on: the link, the time, counters, timers and
//! the kernel's event queue.
//!
//! It knows flows by their handles alone, and no protocol.

pub mod capture;
mod clock;
mod counters;
mod dont_fragment;
mod guest;
pub(crate) mod icmp;
mod neighbours;
mod paths;
pub mod payload;
pub(crate) mod pool;
mod postponed;
mod queue;
pub(crate) mod readiness;
mod timer;
pub mod token;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use passt_proto::addr::{Addr, Endpoint, Mac};
use passt_proto::drop::DropReason;
use passt_proto::guest::Configured;
use passt_proto::reassembly::PACKETS;
use passt_proto::responder::dhcp::leases::Leases;
use passt_proto::responder::{self, Holder};
use passt_proto::rules::{HostSide, Protocol};
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::{DEFAULT_TTL, Path};
use passt_proto::wire::offload::Offload;
use passt_sys::dgram::Inbox;
use passt_sys::iovec::Gather;
use rustix::event::epoll::{self, EventFlags};

pub use self::capture::Capture;
pub use self::clock::clock;
pub use self::counters::{Counters, Traffic};
pub(crate) use self::dont_fragment::DontFragment;
pub use self::guest::Known;
pub(crate) use self::guest::Station;
use self::icmp::Limit;
pub(crate) use self::neighbours::Neighbours;
pub(crate) use self::paths::Paths;
pub use self::payload::{Payload, Storage};
pub(crate) use self::pool::Pool;
use self::postponed::Postponed;
pub(crate) use self::queue::SlotQueue;
pub use self::timer::Wheel;
pub use self::token::{Handle, Token};
use crate::link::{Caps, Link};

/// Pause before what failed for want of descriptors, or for another reason that may pass, is tried
/// again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Blocks of the pool for payload that is kept: one for each packet in fragments, and some.
const BLOCKS: u16 = 80;
const _: () = assert!(BLOCKS as usize >= PACKETS + 16);
/// Bytes of the longest frame that announces a link-layer address.
const ANNOUNCEMENT: usize = 128;
/// The MTU of a guest that is told none: that of Ethernet.
const DEFAULT_MTU: usize = 1500;

/// Link, time, counters, timers and events of a worker.
pub struct Core<L> {
    /// The link to the guest.
    pub link: L,
    /// What the link did by itself when that was last asked: when a batch was read, or a client
    /// came. Whoever keeps something that depends on it is told when it changes, by `dispatch`.
    pub(crate) caps: Caps,
    /// When the current round of the loop began.
    pub now: Instant,
    /// What happened so far.
    pub counters: Counters,
    /// Where frames are recorded, if they are.
    pub capture: Option<Arc<dyn Capture>>,
    /// What the guest is told; also its MTU, our address and families that are on.
    pub services: Box<responder::Config>,
    /// Addresses for DHCP clients, where there is more than one.
    pub(crate) leases: Option<Box<Leases>>,
    /// What is known about the guest.
    pub guest: Known,
    /// Neighbours of the host.
    pub(crate) neighbours: Neighbours,
    /// Paths to the guest that take less than its link does.
    pub(crate) paths: Paths,
    /// ICMP errors of the guest that are looked at.
    pub(crate) complaints: Limit,
    /// Interfaces that IPv4 and IPv6 sockets are bound to.
    pub outbound: [Option<Outbound>; 2],
    /// Where datagrams from the host's side are received.
    pub(crate) inbox: Inbox,
    /// Where payload is kept that is in no frame, and in no message.
    pub(crate) pool: Pool,
    /// One timer for each flow, numbered as in the table.
    pub timers: Wheel,
    /// Flows that have more to do than fits one round.
    pub(crate) ready: SlotQueue,
    /// Flows that have something to send once the link is not congested.
    pub(crate) waiting: SlotQueue,
    /// The link's descriptor that is watched for room to send what it queued.
    backlog: Option<u32>,
    epoll: OwnedFd,
    /// An [external](Token::External) descriptor that is not watched, and when it is to be tried
    /// again.
    postponed: Postponed,
}

/// An interface that sockets towards the network are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Its name.
    pub interface: String,
    /// A socket that can't be bound to it is not used.
    pub strict: bool,
}

/// Reserved memory of all flows that the core needs.
pub(crate) struct Pools {
    pub(crate) timers: Wheel,
    pub(crate) ready: SlotQueue,
    pub(crate) waiting: SlotQueue,
}

impl Pools {
    /// For flows numbered below `flows`.
    pub(crate) fn new(flows: usize, now: Instant) -> io::Result<Self> {
        Ok(Self {
            timers: Wheel::new(flows, now)?,
            ready: SlotQueue::new(flows)?,
            waiting: SlotQueue::new(flows)?,
        })
    }
}

impl<L> Core<L> {
    /// The interface that sockets towards `remote` are bound to, if they are.
    pub(crate) fn outbound_to(&self, remote: Addr) -> Option<&str> {
        let outbound = self.outbound[usize::from(!remote.is_v4())].as_ref();
        outbound.filter(|_| !remote.is_loopback()).map(|outbound| outbound.interface.as_str())
    }

    /// Whether what is sent there is for any number of hosts, each of which may answer.
    pub(crate) fn is_many(&self, addr: Addr) -> bool {
        addr.is_group() || self.services.v4.as_ref().is_some_and(|v4| v4.is_broadcast(addr))
    }
}

impl<L: Link> Core<L> {
    pub(crate) fn new(
        link: L,
        services: &responder::Config,
        configured: &Configured,
        outbound: &[Option<Outbound>; 2],
        now: Instant,
        pools: Pools,
    ) -> io::Result<Self> {
        let Pools { timers, ready, waiting } = pools;
        Ok(Self {
            caps: link.caps(),
            link,
            now,
            counters: Counters::default(),
            capture: None,
            services: Box::new(services.clone()),
            leases: None,
            guest: Known::new(configured),
            outbound: outbound.clone(),
            neighbours: Neighbours::new(),
            paths: Paths::default(),
            complaints: Limit::new(now),
            inbox: Inbox::new(),
            pool: Pool::new(BLOCKS)?,
            timers,
            ready,
            waiting,
            backlog: None,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            postponed: Postponed::default(),
        })
    }

    /// Watches the descriptors that the link has: for a new one, or a new client.
    pub fn watch_link(&mut self) -> io::Result<()> {
        self.backlog = None;
        for (number, fd) in self.link_fds() {
            let token = Token::Link(number);
            match self.watch(fd, token, EventFlags::IN) {
                // It was there before the client came.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.rewatch(fd, token, EventFlags::IN)?;
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Watches other descriptors where the link has others now.
    pub(crate) fn follow_link_fds(&mut self) -> io::Result<()> {
        if !self.link.has_new_fds() {
            return Ok(());
        }
        for (_, fd) in self.link_fds() {
            // One that was never watched is not watched afterwards either.
            let _ = self.unwatch(fd);
        }
        self.link.renew_fds();
        self.watch_link()
    }

    /// The link's descriptors with their numbers.
    fn link_fds(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        (0..).map_while(|number| Some((number, self.link.fd(number)?)))
    }

    /// Sends what the link queued, and has the loop told when the link takes the rest.
    pub(crate) fn flush_link(&mut self) -> io::Result<()> {
        let backlog = self.link.flush();
        if backlog == self.backlog {
            return Ok(());
        }
        for (number, events) in [(self.backlog, EventFlags::IN), (backlog, EventFlags::IN | EventFlags::OUT)]
        {
            if let Some(number) = number
                && let Some(fd) = self.link.fd(number)
            {
                self.rewatch(fd, Token::Link(number), events)?;
            }
        }
        self.backlog = backlog;
        Ok(())
    }

    /// Watches a flow's socket for everything, edge-triggered. [`PRI`](EventFlags::PRI) tells of
    /// urgent data in the receive queue: a read stops there, however much lies behind.
    pub fn watch_flow(&self, fd: impl AsFd, handle: Handle) -> io::Result<()> {
        self.watch(
            fd,
            Token::Flow(handle),
            EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET,
        )
    }

    /// Watches a descriptor.
    pub fn watch(&self, fd: impl AsFd, token: Token, events: EventFlags) -> io::Result<()> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.encode()), events)?;
        Ok(())
    }

    /// Has a descriptor that is watched already reported again if it is ready.
    pub fn rewatch(&self, fd: impl AsFd, token: Token, events: EventFlags) -> io::Result<()> {
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token.encode()), events)?;
        Ok(())
    }

    /// Stops watching a descriptor that is ready but of no use now. Without interest in any event
    /// it would still be reported for errors and hang-ups (`epoll_ctl(2)`), each time that the loop
    /// waits.
    pub fn unwatch(&self, fd: impl AsFd) -> io::Result<()> {
        epoll::delete(&self.epoll, fd)?;
        Ok(())
    }

    /// Has the loop call for external descriptor `number` after a pause: it is ready, but what it
    /// is ready for fails, and takes nothing from it. The caller has it [not
    /// watched](Self::unwatch) meanwhile.
    pub fn postpone(&mut self, number: u32) {
        self.postpone_for(number, LOOK_AGAIN);
    }

    /// The same after a `pause`; an earlier one for the same number is over.
    pub fn postpone_for(&mut self, number: u32, pause: Duration) {
        self.postponed.put(number, self.now + pause);
    }

    /// When the first of the postponed descriptors is due.
    pub(crate) fn postponed_until(&self) -> Option<Instant> {
        self.postponed.due()
    }

    /// A postponed descriptor that is due.
    pub(crate) fn take_postponed(&mut self) -> Option<u32> {
        self.postponed.take(self.now)
    }

    pub(crate) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Has a flow called again in the next round, before the loop sleeps.
    pub fn call_again(&mut self, handle: Handle) {
        self.ready.push(handle.index);
    }

    /// Has a flow called again once the link is not congested. A flow asks again only after that.
    pub fn await_link(&mut self, handle: Handle) {
        self.waiting.push(handle.index);
    }

    /// Who has an address that a station of the guest's, `asker`, asks for. What `asker` itself used
    /// before it may have given up.
    pub(crate) fn holder(&self, addr: Addr, asker: Mac) -> Holder {
        let neighbour = self.neighbours.mac_of(addr);
        // Our own address may be one that we have from a router of the host's link.
        let is_routers = neighbour.is_some() && self.guest.is_only_ours(addr);
        if self.guest.is_name(addr) && !is_routers {
            Holder::Known(self.services.our_mac)
        } else if self.guest.is_vacant(addr)
            || self.guest.family(addr).assigned.contains(&addr)
            || self.guest.learnt.is_taken_by(asker, addr)
        {
            Holder::Guest
        } else {
            neighbour.map_or(Holder::Unknown, Holder::Known)
        }
    }

    /// The host's neighbour at `addr` has a link-layer address, or is there no more. The guest is
    /// told if it may know another one.
    pub fn neighbour(&mut self, addr: Addr, mac: Option<Mac>) {
        let has_changed = self.neighbours.set(addr, mac);
        if !has_changed || self.holder(addr, Mac::default()) != mac.map_or(Holder::Unknown, Holder::Known) {
            return;
        }
        let mut frame = [0; ANNOUNCEMENT];
        if let Some(mac) = mac
            && let Ok(len) = responder::announce(&self.services, addr, mac, &mut frame)
        {
            self.send(&frame[..len]);
        }
    }

    /// The path of packets to the guest at `guest`, and at `station`, from a host that it knows as
    /// `remote`.
    pub(crate) fn path(&self, remote: Addr, guest: Addr, station: Mac) -> Path {
        let (src_mac, dst_mac) = (self.services.our_mac, station);
        Path { src_mac, dst_mac, src: remote, dst: guest, ttl: DEFAULT_TTL, traffic_class: 0 }
    }

    /// The host's side of a flow that the guest begins from `guest` to `remote`. The address that
    /// it uses there is noted; those that it answers from say nothing new, as it may have one that
    /// only some ports lead to.
    pub(crate) fn host_side(
        &mut self,
        protocol: Protocol,
        guest: Addr,
        remote: Endpoint,
    ) -> Result<HostSide, DropReason> {
        self.guest.used(guest);
        self.guest.from_guest(protocol, remote)
    }

    /// Has a station of the guest's be given an address by DHCP; whether it can have it.
    pub fn lease(&mut self, station: Mac, addr: Ipv4Addr) -> bool {
        self.leases.as_mut().is_some_and(|leases| leases.of(station, Some(addr)) == addr)
    }

    /// Counts something that was not served.
    pub fn dropped(&mut self, reason: DropReason) {
        self.counters.drop(reason);
    }

    /// Counts several of one kind that were not served.
    pub fn dropped_all(&mut self, reason: DropReason, count: usize) {
        (0..count).for_each(|_| self.dropped(reason));
    }

    /// Sends `payload` bytes of the room reserved last behind `header`.
    pub fn commit(&mut self, header: &[u8], offload: &Offload, payload: usize) {
        if let Some(capture) = &self.capture {
            let mut rest = Gather::new();
            self.link.reserved(payload, &mut rest);
            capture::record(capture.as_ref(), self.now, (header, &rest), offload);
        }
        log::trace!("to guest: {} bytes, {payload} of them payload", header.len() + payload);
        match self.link.commit(header, offload, payload) {
            Ok(()) => self.counters.sent(header.len() + payload),
            Err(reason) => self.dropped_all(reason, offload.pieces(payload).count()),
        }
    }

    /// Sends a complete frame.
    pub fn send(&mut self, frame: &[u8]) {
        if let Some(capture) = &self.capture {
            capture.record(self.now, frame, &Gather::new());
        }
        log::trace!("to guest: {} bytes, complete", frame.len());
        match self.link.send(frame) {
            Ok(()) => self.counters.sent(frame.len()),
            Err(reason) => self.dropped(reason),
        }
    }

    /// Bytes of the largest packet that the guest's link takes, whatever the link here does.
    pub(crate) fn mtu(&self) -> usize {
        match self.services.mtu {
            0 => DEFAULT_MTU,
            mtu => mtu.into(),
        }
    }

    /// Bytes of the largest packet that arrives at the guest's `addr` in one piece, as far as is
    /// known.
    #[inline]
    pub(crate) fn mtu_to(&self, addr: Addr) -> usize {
        let known = self.paths.mtu(addr, self.now).map_or(usize::MAX, usize::from);
        known.min(self.mtu()).min(self.caps.packet_limit.unwrap_or(usize::MAX))
    }
}
