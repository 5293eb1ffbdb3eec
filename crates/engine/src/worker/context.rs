//! What a worker has besides its flows: link, clock, timers, counters, and what is
//! known about the guest. Handlers of all protocols get it next to their flow.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::{Addr, Mac};
use passt_proto::drop::DropReason;
use passt_proto::responder;
use passt_proto::rules::{AddressMap, HostSide};
use passt_proto::time::Instant;
use passt_proto::wire::build::{DEFAULT_TTL, Path};
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::Gather;
use passt_sys::namespace::Resident;
use rustix::event::epoll;

use crate::capture::Capture;
use crate::flow::inbound::Inbound;
use crate::flow::table::MAX_FLOWS;
use crate::flow::timer::Wheel;
use crate::flow::{Handle, Key};
use crate::forward::pressure::{LOOK_AGAIN, Pressure};
use crate::forward::{Forward, Listener, Listeners};
use crate::from_guest::REPLY_ROOM;
use crate::host::sockets::Sockets;
use crate::host::splice::Splice;
use crate::host::tcp::Tcp;
use crate::host::udp::Udp;
use crate::link::Link;
use crate::worker::counters::Counters;
use crate::worker::memory::Pools;
use crate::worker::queue::Queue;

/// What the engine has to know, from the command line and the host's configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the guest is told; also its MTU, our address and families that are on.
    pub services: responder::Config,
    /// Which addresses mean something else on the other side.
    pub map: AddressMap,
    /// Interfaces that IPv4 and IPv6 sockets are bound to (`--outbound-if4`, `-if6`).
    pub outbound_if: [Option<String>; 2],
    /// Protocols that are on.
    pub protocols: Protocols,
    /// Flows at most; fewer where memory is limited.
    pub max_flows: usize,
    /// Random keys for flow table and sequence numbers.
    pub secrets: [u64; 4],
}

/// Protocols that are on.
#[derive(Clone, Copy, Debug)]
pub struct Protocols {
    /// Not `--no-tcp`.
    pub tcp: bool,
    /// Not `--no-udp`.
    pub udp: bool,
    /// Not `--no-icmp`.
    pub icmp: bool,
}

/// Everything of a worker but its flows.
pub struct Context<L> {
    /// The link to the guest.
    pub link: L,
    /// When the current round of the loop began.
    pub now: Instant,
    /// What happened so far.
    pub counters: Counters,
    /// See [`Options::map`]; learns the guest's addresses.
    pub map: AddressMap,
    /// See [`Options::services`].
    pub services: responder::Config,
    /// Room for what responders answer.
    pub(crate) reply: Box<[u8]>,
    /// The guest's own link-layer address, once seen.
    pub guest_mac: Option<Mac>,
    /// See [`Options::outbound_if`].
    pub outbound_if: [Option<String>; 2],
    /// See [`Options::protocols`].
    pub protocols: Protocols,
    /// Where frames are recorded, if they are.
    pub capture: Option<Box<dyn Capture>>,
    /// What all TCP connections share.
    pub tcp: Tcp,
    /// What all connections share that bypass the link.
    pub(crate) splice: Splice,
    /// Sockets of the guest's namespace.
    pub(crate) sockets: Sockets,
    /// What all flows of datagrams share.
    pub udp: Udp,
    /// The host does not let us open ping sockets.
    pub(crate) echo_refused: bool,
    /// Forwarded ports, as numbered by [`Token::Listener`].
    pub listeners: Listeners,
    /// Rules of forwarded ports, and what they follow.
    pub forward: Forward,
    /// What keeps room for flows that exist, and for the guest's own.
    pub(crate) pressure: Pressure,
    /// Flows that came in through forwarded ports.
    pub(crate) inbound: Inbound,
    /// Opens sockets in the guest's namespace; `None` without one.
    pub(crate) inside: Option<Resident>,
    /// One timer for each flow, numbered as in the table.
    pub timers: Wheel,
    /// Flows that have more to do than fits one round.
    pub(super) ready: Queue,
    /// Flows that have something to send once the link is not congested.
    pub(super) waiting: Queue,
    /// The link is watched for room to send what it queued.
    backlog: bool,
    epoll: OwnedFd,
    /// An [external](Token::External) descriptor that is not watched, and when it is to be tried again.
    postponed: Option<(u32, Instant)>,
}

impl<L: Link> Context<L> {
    pub(super) fn new(link: L, options: &Options, now: Instant, pools: Pools) -> io::Result<Self> {
        let [_, _, a, b] = options.secrets;
        let pressure = Pressure::new();
        let Pools { timers, ready, waiting, slack } = pools;
        Ok(Self {
            tcp: Tcp::new(&link, options.services.mtu, (a, b), slack),
            splice: Splice::new(),
            udp: Udp::new(u32::try_from(b & 0xffff_ffff).unwrap_or(0)),
            echo_refused: false,
            listeners: Listeners::default(),
            forward: Forward::default(),
            sockets: Sockets::new(pressure.descriptors()),
            pressure,
            inbound: Inbound::new(options.max_flows),
            inside: None,
            link,
            now,
            counters: Counters::default(),
            map: options.map,
            services: options.services.clone(),
            reply: vec![0; REPLY_ROOM].into(),
            guest_mac: None,
            outbound_if: options.outbound_if.clone(),
            protocols: options.protocols,
            capture: None,
            timers,
            ready,
            waiting,
            backlog: false,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            postponed: None,
        })
    }

    /// Has sockets of the guest's namespace opened by this thread from now on, or none.
    pub fn enter(&mut self, inside: Option<Resident>) -> io::Result<()> {
        if let Some(inside) = &inside {
            self.watch(inside, Token::Inside, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        }
        self.inside = inside;
        Ok(())
    }

    /// Watches the link, if it has a descriptor: for a new one, or a new client.
    pub fn watch_link(&mut self) -> io::Result<()> {
        self.backlog = false;
        let Some(fd) = self.link.fd() else { return Ok(()) };
        self.watch(fd, Token::Link, epoll::EventFlags::IN)
    }

    /// Sends what the link queued, and has the loop told when the link takes the rest.
    pub(super) fn flush_link(&mut self) -> io::Result<()> {
        use epoll::EventFlags as E;
        let backlog = self.link.flush();
        let Some(fd) = self.link.fd() else { return Ok(()) };
        if backlog != self.backlog {
            self.rewatch(fd, Token::Link, if backlog { E::IN | E::OUT } else { E::IN })?;
            self.backlog = backlog;
        }
        Ok(())
    }

    /// Watches a flow's socket for everything, edge-triggered. [`PRI`](epoll::EventFlags::PRI) tells of urgent data in the
    /// receive queue: a read stops there, however much lies behind.
    pub fn watch_flow(&self, fd: impl AsFd, handle: Handle) -> io::Result<()> {
        use epoll::EventFlags as E;
        self.watch(fd, Token::Flow(handle), E::IN | E::OUT | E::PRI | E::RDHUP | E::ET)
    }

    /// Forwards what comes in through a socket from now on.
    pub fn listen(&mut self, listener: Listener) -> io::Result<()> {
        let number = self.listeners.insert(listener);
        let watched = self.listeners.get(number).map_or(Ok(()), |listener| listener.watch(self, number));
        if watched.is_err() {
            self.listeners.remove(number);
        }
        watched
    }

    /// Watches a descriptor.
    pub fn watch(&self, fd: impl AsFd, token: Token, events: epoll::EventFlags) -> io::Result<()> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.encode()), events)?;
        Ok(())
    }

    /// Has a descriptor that is watched already reported again if it is ready.
    pub fn rewatch(&self, fd: impl AsFd, token: Token, events: epoll::EventFlags) -> io::Result<()> {
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token.encode()), events)?;
        Ok(())
    }

    /// Stops watching a descriptor that is ready but of no use now. Without interest in any event it would still be
    /// reported for errors and hang-ups (`epoll_ctl(2)`), each time that the loop waits.
    pub fn unwatch(&self, fd: impl AsFd) -> io::Result<()> {
        epoll::delete(&self.epoll, fd)?;
        Ok(())
    }

    /// Has [`Worker::run`](super::Worker::run) call for external descriptor `number` after a pause: it is ready, but what
    /// it is ready for fails, and takes nothing from it. The caller has it [not watched](Self::unwatch) meanwhile.
    pub fn postpone(&mut self, number: u32) {
        self.postponed = Some((number, self.now + LOOK_AGAIN));
    }

    /// When the postponed descriptor is due.
    pub(super) fn postponed_until(&self) -> Option<Instant> {
        self.postponed.map(|(_, due)| due)
    }

    /// The postponed descriptor, if it is due.
    pub(super) fn take_postponed(&mut self) -> Option<u32> {
        self.postponed.take_if(|(_, due)| *due <= self.now).map(|(number, _)| number)
    }

    pub(super) fn epoll(&self) -> &OwnedFd {
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

    /// Where frames for the guest go: to everybody while its own link-layer address is unknown.
    pub fn guest_mac(&self) -> Mac {
        self.guest_mac.unwrap_or(Mac::BROADCAST)
    }

    /// The path of packets to the guest at `guest` from a host that it knows as `remote`.
    pub fn path(&self, remote: Addr, guest: Addr) -> Path {
        Path {
            src_mac: self.services.our_mac,
            dst_mac: self.guest_mac(),
            src: remote,
            dst: guest,
            ttl: DEFAULT_TTL,
        }
    }

    /// Whom the guest means by a flow that it begins. The address that it uses there is noted; those that it answers from
    /// say nothing new, as it may have one that only some ports lead to.
    pub fn from_guest(&mut self, key: &Key) -> Result<HostSide, DropReason> {
        self.map.learn(key.guest.addr);
        self.map.from_guest(key.protocol, key.remote)
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
        if let Some(capture) = &mut self.capture {
            let mut rest = Gather::new();
            self.link.reserved(payload, &mut rest);
            capture.record(self.now, header, &rest);
        }
        log::trace!("to guest: {} bytes, {payload} of them payload", header.len() + payload);
        match self.link.commit(header, offload, payload) {
            Ok(()) => self.counters.sent(header.len() + payload),
            Err(reason) => self.dropped_all(reason, offload.pieces(payload).count()),
        }
    }

    /// Sends a complete frame.
    pub fn send(&mut self, frame: &[u8]) {
        if let Some(capture) = &mut self.capture {
            capture.record(self.now, frame, &Gather::new());
        }
        log::trace!("to guest: {} bytes, complete", frame.len());
        match self.link.send(frame) {
            Ok(()) => self.counters.sent(frame.len()),
            Err(reason) => self.dropped(reason),
        }
    }
}

/// Whom an event of the loop is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The link has frames.
    Link,
    /// A flow's socket; the client's, where a flow has two.
    Flow(Handle),
    /// The second socket of a flow that bypasses the link.
    Second(Handle),
    /// A listening socket, by its number.
    Listener(u32),
    /// The thread in the guest's namespace has done something.
    Inside,
    /// Something outside of the engine, by its number.
    External(u32),
}

impl Token {
    /// The 64 bits that the kernel keeps for a descriptor: kind, then the slot's number in as many bits as
    /// [`MAX_FLOWS`] needs, then all of its generation. So no event is ever taken for an older one's, and none is
    /// without a flow for as long as the flow lives.
    fn encode(self) -> u64 {
        let (tag, high, low) = match self {
            Self::Link => (0u64, 0, 0),
            Self::Flow(handle) => (1, handle.index, handle.generation),
            Self::Second(handle) => (2, handle.index, handle.generation),
            Self::Listener(number) => (3, 0, number),
            Self::Inside => (5, 0, 0),
            Self::External(number) => (4, 0, number),
        };
        tag << Self::TAG | u64::from(high) << Self::INDEX | u64::from(low)
    }

    /// Where the kind and the slot's number begin.
    const TAG: u32 = 56;
    const INDEX: u32 = 32;
    const _ROOM: () = assert!(MAX_FLOWS <= 1 << (Self::TAG - Self::INDEX));

    #[expect(clippy::cast_possible_truncation, reason = "the parts are taken apart")]
    pub(super) fn decode(value: u64) -> Self {
        let low = value as u32;
        let index = (value >> Self::INDEX) as u32 & ((1 << (Self::TAG - Self::INDEX)) - 1);
        let handle = Handle { index, generation: low };
        match value >> Self::TAG {
            0 => Self::Link,
            1 => Self::Flow(handle),
            2 => Self::Second(handle),
            3 => Self::Listener(low),
            5 => Self::Inside,
            _ => Self::External(low),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive() {
        let bare = [Token::Link, Token::Listener(7), Token::Listener(u32::MAX), Token::Inside];
        for token in bare.into_iter().chain([Token::External(u32::MAX)]) {
            assert_eq!(Token::decode(token.encode()), token);
        }
        let last = u32::try_from(MAX_FLOWS - 1).expect("a number");
        for index in [0, 1, last] {
            // The first use of a slot, some around each power of two, and the last.
            let around = (0..32).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
            for generation in around.chain([u32::MAX - 1, u32::MAX]) {
                let handle = Handle { index, generation };
                for token in [Token::Flow(handle), Token::Second(handle)] {
                    assert_eq!(Token::decode(token.encode()), token);
                }
            }
        }
    }
}
