//! Connected sockets for flows that hear much.
//!
//! What comes to a connected socket costs less: the kernel finds it, and the way of the datagram, at
//! once (`udp_v4_early_demux()` of Linux), and need not say where it was sent to, which is one
//! address. So a flow that uses a mapping gets a socket beside that one, at the same port, when
//! [`MANY`] messages come in a second. There are [`MOST`] at each port: descriptors are for many
//! ports, not for many peers of one. It gives the socket back when the guest sends after nothing has
//! come for a while: the host may have another address now, which the mapping follows.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};

use passt_proto::time::{Duration, Instant};
use passt_sys::{dgram, sender};
use rustix::io::Errno;
use rustix::net::SocketType;

use super::UdpFlow;
use super::mapping::{Mapping, Mappings, Permits};
use super::way::{Shared, Sockets, Which};
use crate::core::readiness::DATAGRAMS;
use crate::core::{Core, DontFragment, Token};
use crate::flow::Handle;
use crate::flow::account::Direction;
use crate::forward::{Ports, Purpose, Sender};
use crate::link::Link;
use crate::protocols::socket::{equip, socket};

/// Messages of the kernel within [`PERIOD`] that are worth a socket.
const MANY: u32 = 256;
const PERIOD: Duration = Duration::from_secs(1);
/// Sockets at a port beside the mapping's.
const MOST: u8 = 4;
/// How long one is kept that hears nothing while the guest sends.
const SILENCE: Duration = Duration::from_secs(2);
/// How long none is tried at a port after one could not be had.
const PAUSE: Duration = Duration::from_secs(10);

/// A socket of a flow that uses a mapping, connected to its remote.
pub(super) struct Connected {
    sender: Sender,
    /// The mapping's.
    pub(super) beside: Shared,
    heard: Instant,
}

/// What comes to a mapping, to tell whether that is much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy {
    since: Instant,
    messages: u32,
    /// Sockets beside the mapping's.
    connected: u8,
    /// The last one could not be had: none is tried before.
    not_before: Option<Instant>,
}

impl Busy {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, messages: 0, connected: 0, not_before: None }
    }

    /// Notes what came. Whether one more socket would be of use.
    pub(super) fn came(&mut self, messages: usize, now: Instant) -> bool {
        if self.since + PERIOD <= now {
            (self.since, self.messages) = (now, 0);
        }
        self.messages = self.messages.saturating_add(u32::try_from(messages).unwrap_or(u32::MAX));
        let may_try = self.not_before.is_none_or(|time| time <= now);
        let is_much = self.messages >= MANY && self.connected < MOST && may_try;
        if is_much {
            self.messages = 0;
        }
        is_much
    }
}

impl Connected {
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.sender.fd()
    }

    /// Opens one for the flow `handle` at the port of `mapping`, connected to `to`. From the moment
    /// it is bound the kernel gives it what comes: all that can fail comes before, as far as it can.
    fn open<L: Link>(
        core: &Core<L>,
        ports: &Ports,
        (handle, mapping): (Handle, &Mapping),
        to: SocketAddr,
    ) -> io::Result<Sender> {
        let at = mapping.fd().map(rustix::net::getsockname).transpose()?;
        let at = at.and_then(|at| SocketAddr::try_from(at).ok()).ok_or(Errno::NOTSOCK)?;
        let remote = to.ip().into();
        let fd = socket(core, SocketType::DGRAM, None, remote, None)?;
        if ports.pressure.keeps(&fd) {
            // The last descriptors are not for what goes without.
            return Err(Errno::MFILE.into());
        }
        let v6 = at.is_ipv6();
        equip(&fd, v6, core.caps.udp_segmentation)?;
        sender::mark(fd.as_fd(), v6)?;
        core.watch(&fd, Token::Flow(handle), DATAGRAMS)?;
        let sender = ports.ours.note_sender(fd, at.port(), v6, Purpose::Sending)?;
        let fd = sender.fd().ok_or(Errno::BADF)?;
        ports.ours.bind_beside(fd, &at)?;
        rustix::net::connect(fd, &to)?;
        Ok(sender)
    }
}

impl Mappings {
    /// Takes note of messages that came to a mapping; the flow that a socket of its own is of use to.
    pub(crate) fn came(&mut self, mapping: Handle, messages: usize, now: Instant) -> Option<Handle> {
        let mapping = self.get_mut(mapping)?;
        if mapping.busy.came(messages, now) { mapping.latest } else { None }
    }

    /// Takes back what a flow's socket beside a mapping had.
    pub(super) fn disconnected(&mut self, flow: &UdpFlow) {
        if let (Some(mapping), Sockets::Connected(_)) = (flow.mapping(), &flow.sockets)
            && let Some(mapping) = self.get_mut(mapping)
        {
            mapping.busy.connected = mapping.busy.connected.saturating_sub(1);
        }
    }
}

impl UdpFlow {
    /// Gives a flow that uses a mapping a socket beside that one. Whether it has it now.
    pub(crate) fn connect<L: Link>(
        &mut self,
        core: &Core<L>,
        ports: &Ports,
        mappings: &mut Mappings,
        handle: Handle,
    ) -> bool {
        let Sockets::Shared(beside @ Shared { socket: Which::Mapping(mapping), .. }) = self.sockets else {
            return false;
        };
        // The flow that had the last of many messages may be none that had many, ever.
        let is_busy = self.account.of(Direction::In).units >= u64::from(MANY);
        if !is_busy || self.permits != Permits::Host || self.last_heard.is_some() {
            return false;
        }
        let Some(mapping) = mappings.get_mut(mapping) else { return false };
        let Ok(sender) = Connected::open(core, ports, (handle, mapping), beside.to) else {
            mapping.busy.not_before = Some(core.now + PAUSE);
            return false;
        };
        mapping.busy.connected = mapping.busy.connected.saturating_add(1);
        self.sockets = Sockets::Connected(Connected { sender, beside, heard: core.now });
        // What the socket joins is known once the first has come.
        self.joined = false;
        self.told = DontFragment::default();
        true
    }

    /// Gives back the socket beside the mapping.
    pub(crate) fn disconnect(&mut self, mappings: &mut Mappings) {
        mappings.disconnected(self);
        if let Sockets::Connected(Connected { beside, .. }) = self.sockets {
            self.sockets = Sockets::Shared(beside);
        }
    }

    /// Something came to a socket that is connected.
    pub(super) fn heard_connected(&mut self, now: Instant) {
        if let Sockets::Connected(connected) = &mut self.sockets {
            connected.heard = now;
        }
    }

    /// Whether the guest sends through a socket beside a mapping that has heard nothing for long.
    pub(super) fn hears_nothing(&self, now: Instant) -> bool {
        let Sockets::Connected(connected) = &self.sockets else { return false };
        // The process may have been stopped, and something waits there.
        let is_empty = || connected.fd().is_none_or(|fd| dgram::peek(fd).is_err());
        connected.heard + SILENCE <= now && is_empty()
    }
}
