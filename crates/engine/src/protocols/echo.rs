//! Echo flows: the guest's pings leave from a ping socket of the host (icmp(7)), which
//! needs no privilege but a group in `net.ipv4.ping_group_range`. The kernel
//! puts the socket's port in place of the identifier; the guest gets its own back.

use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ip::{Marks, protocol};
use passt_proto::wire::offload::Offload;
use passt_proto::wire::report::Quoted;
use passt_proto::wire::{ethernet, icmp};
use passt_sys::dgram::{self, Outgoing};
use passt_sys::iovec::Gather;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::ipproto;
use zerocopy::{FromBytes, IntoBytes};

use super::facts::{self, Facts, State};
use super::put::{put, put_fragments};
use super::quote::Quote;
use super::socket::{datagram_socket, socket_error};
use super::{Verdict, marks, path_from_guest, path_to_guest};
use crate::core::payload::own;
use crate::core::readiness::{Futile, has_taken};
use crate::core::{Core, DontFragment, Payload, Station, Storage};
use crate::flow::account::{Account, Direction};
use crate::flow::{Handle, Key};
use crate::link::Link;

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::only(Sysno::socket, socket::PING_SOCKETS)];

/// How long an unused flow lives.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Entries of an error queue that are dealt with at once.
const BURST: usize = 16;

/// An identifier of the guest's, used with one destination.
pub struct EchoFlow {
    fd: OwnedFd,
    /// Destination on the host's side.
    remote: Addr,
    marks: Marks,
    told: DontFragment,
    last: Instant,
    account: Account,
    futile: Futile,
    station: Station,
}

/// What all echo flows share.
#[derive(Debug)]
pub(crate) struct Echo {
    /// Tells fragmented replies from each other.
    next_id: u32,
    /// The host does not let us open ping sockets.
    refused: bool,
}

impl Echo {
    pub(crate) fn new(first_id: u32) -> Self {
        Self { next_id: first_id, refused: false }
    }

    /// A flow for the guest's first ping of a destination.
    pub(crate) fn open<L: Link>(&mut self, core: &mut Core<L>, key: &Key) -> Result<EchoFlow, DropReason> {
        let side = core.host_side(key.protocol, key.guest.addr, key.remote)?;
        let remote = side.remote.addr;
        let protocol = if remote.is_v4() { ipproto::ICMP } else { ipproto::ICMPV6 };
        let (fd, _) = datagram_socket(core, Some(protocol), &side, key.guest.port).map_err(|error| {
            let error = Errno::from_io_error(&error);
            if matches!(error, Some(Errno::PERM | Errno::ACCESS))
                && !std::mem::replace(&mut self.refused, true)
            {
                log::warn!(
                    "Can't open ping sockets: the group is not in net.ipv4.ping_group_range, \
                     the guest's pings will not be answered"
                );
            }
            DropReason::Socket
        })?;
        let (last, account) = (core.now, Account::new(core.now));
        let station = Station::of(&core.guest.learnt, key.guest.addr);
        let (told, futile) = (DontFragment::default(), Futile::default());
        Ok(EchoFlow { fd, remote, marks: Marks::USUAL, told, last, account, futile, station })
    }
}

impl Echo {
    /// Answers a request of the guest in the name of `remote`, which is one of ours: what comes back
    /// differs in its type alone (RFC 792; RFC 4443, section 4.2).
    pub(crate) fn answer<L: Link>(
        &mut self,
        core: &mut Core<L>,
        (guest, remote): (Addr, Addr),
        request: &Payload,
    ) -> Result<(), DropReason> {
        core.guest.used(guest);
        let (message, block) = core.keep(request).ok_or(DropReason::NoRoom)?;
        let header = header(core, &message).and_then(|bytes| icmp::Header::read_from_bytes(&bytes).ok());
        if let Some(mut header) = header {
            header.kind = if remote.is_v4() { icmp::ECHO_REPLY_V4 } else { icmp::ECHO_REPLY_V6 };
            let path = core.path(remote, guest, core.guest.speaker());
            self.emit(core, &path, header, message.part(icmp::LEN..message.len()));
        }
        if let Some(block) = block {
            core.pool.give_back(block);
        }
        header.map(drop).ok_or(DropReason::Truncated)
    }

    /// Sends the guest a reply that lies in memory of our own.
    fn emit<L: Link>(&mut self, core: &mut Core<L>, path: &Path, mut header: icmp::Header, payload: Payload) {
        let (sum, len) = {
            let body = own(&core.inbox, &core.pool, &payload).unwrap_or_default();
            (Sum::new().bytes(body), body.len())
        };
        if path.header_len() - ethernet::LEN + icmp::LEN + len > core.mtu_to(path.dst) {
            path.complete_icmp(&mut header, sum, len);
            self.next_id = self.next_id.wrapping_add(1);
            let kind = (path.icmp(), self.next_id);
            return put_fragments(core, path, kind, header.as_bytes(), &payload);
        }
        let mut headers = [0; MAX_HEADERS];
        match path.emit_icmp(&mut headers, header, sum, len) {
            Some(end) => {
                put(core, &headers[..end], &Offload::default(), [payload]);
            }
            None => core.dropped(DropReason::Unmapped),
        }
    }
}

impl EchoFlow {
    /// Sends a request: a message from its type on, with this time to live, which routers may cut
    /// or may not.
    pub(crate) fn send<L: Link>(
        &mut self,
        core: &mut Core<L>,
        key: &Key,
        marks: Marks,
        message: &Payload,
    ) -> Result<(), DropReason> {
        self.last = core.now;
        self.station.heard(&core.guest);
        self.account.carried(Direction::Out, 1, message.len(), core.now);
        self.marks = marks;
        self.told.set(self.fd.as_fd(), !self.remote.is_v4(), marks.dont_fragment);
        let sent = {
            let mut data = Gather::new();
            core.append(message, &mut data);
            let outgoing = [Outgoing { first: 0, buffers: data.len(), segment: 0 }];
            let envelope = marks::envelope(marks, self.remote);
            // An error that is pending from an earlier request is in the error queue too.
            let send = || dgram::send(self.fd.as_fd(), &data, &outgoing, &envelope, self.remote.is_v4());
            send().or_else(|_| send())
        };
        sent.map(drop).map_err(|error| {
            if Errno::from_io_error(&error) == Some(Errno::MSGSIZE) {
                self.failures(core, key, message);
            }
            DropReason::Socket
        })
    }

    /// What it tells of itself; the port of its socket is the identifier.
    pub(crate) fn facts(&self) -> Facts {
        let ways = [Direction::Out, Direction::In].map(|way| self.account.of(way).units);
        Facts {
            state: State::of_datagrams(ways),
            account: self.account,
            retransmitted: 0,
            ways: None,
            local: facts::local(&self.fd),
            remote: Some(Endpoint::new(self.remote, 0)),
        }
    }

    /// What it has carried.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// When it ends if nothing happens.
    pub(crate) fn due(&self) -> Instant {
        self.last + TIMEOUT
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(crate) fn event<L: Link>(
        &mut self,
        core: &mut Core<L>,
        echo: &mut Echo,
        key: &Key,
        events: EventFlags,
    ) -> Verdict {
        let mut taken = events.contains(EventFlags::ERR) && self.failures(core, key, &Payload::NONE);
        if events.contains(EventFlags::IN) {
            let received = core.inbox.receive(self.fd.as_fd());
            taken |= has_taken(&received, events);
            if received.is_ok() {
                self.last = core.now;
            }
            for index in 0..received.unwrap_or(0) {
                self.reply(core, echo, key, index);
            }
        }
        if self.futile.note(taken) {
            core.dropped(DropReason::Socket);
            return Verdict::Remove;
        }
        Verdict::Keep
    }

    /// Passes on what is in the inbox at `index`, if it is an answer from whom the guest asked.
    fn reply<L: Link>(&mut self, core: &mut Core<L>, echo: &mut Echo, key: &Key, index: usize) {
        let Some((received, message)) = core.inbox.message(index) else { return };
        let Ok((mut header, _)) = icmp::Header::read_from_prefix(message) else { return };
        let kind = if self.remote.is_v4() { icmp::ECHO_REPLY_V4 } else { icmp::ECHO_REPLY_V6 };
        let source = received.source.map(|a| Addr::from(a.ip()));
        if source != Some(self.remote) || (header.kind, header.code) != (kind, 0) {
            return core.dropped(DropReason::IcmpType);
        }
        header.id = key.guest.port.into();
        self.account.carried(Direction::In, 1, message.len(), core.now);
        core.link.steer(self.station.queue());
        let path = path_to_guest(core, key, &self.station).marked(marks::received(&received));
        let payload = Storage::Message(index).piece(icmp::LEN..message.len());
        echo.emit(core, &path, header, payload);
    }

    /// Passes on errors about the guest's requests; one that quotes nothing, as of a request that
    /// the kernel did not take, is about `refused`. Whether there were any.
    fn failures<L: Link>(&self, core: &mut Core<L>, key: &Key, refused: &Payload) -> bool {
        let quote = Quote::new(core);
        let mut taken = false;
        for _ in 0..BURST {
            let Some((failure, payload)) = quote.receive(core, self.fd.as_fd()) else { break };
            taken = true;
            // What comes back begins with the request's header.
            let payload = if payload.is_empty() { refused } else { &payload };
            let Some([kind, code, c0, c1, _, _, s0, s1]) = header(core, payload) else { continue };
            let [i0, i1] = key.guest.port.to_be_bytes();
            let path = path_from_guest(core, key, &self.station).marked(self.marks);
            let protocol = if key.guest.addr.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
            let transport = [kind, code, c0, c1, i0, i1, s0, s1];
            let quoted = Quoted { path, protocol, transport, len: payload.len() };
            core.report(&failure, &quoted, &payload.part(icmp::LEN..payload.len()));
        }
        quote.give_back(core);
        socket_error(&self.fd).is_some() || taken
    }

    pub(crate) fn timeout<L>(&self, core: &mut Core<L>, handle: Handle) -> Verdict {
        super::expire(core, handle, self.due())
    }
}

/// The header that a message begins with.
fn header<L: Link>(core: &Core<L>, message: &Payload) -> Option<[u8; icmp::LEN]> {
    let (mut header, mut data) = ([0; icmp::LEN], Gather::new());
    core.append(&message.part(0..icmp::LEN), &mut data);
    (data.copy_out(0, &mut header) == icmp::LEN).then_some(header)
}
