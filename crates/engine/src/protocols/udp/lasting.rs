//! Connected sockets for flows that hear much.
//!
//! What comes to a connected socket costs less: the kernel finds it, and the way of the datagram, at
//! once (`udp_v4_early_demux()` of Linux), and need not say where it was sent to, which is one
//! address. So a flow that uses a mapping gets a socket beside that one, at the same port, when
//! [`MANY`] messages come in a second. There are [`MOST`] at each port: descriptors are for many
//! ports, not for many peers of one. It gives the socket back when nothing has come for a while:
//! the host may have another address now, which the mapping follows.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};

use passt_proto::time::{Duration, Instant};
use passt_sys::sender;
use rustix::io::Errno;
use rustix::net::SocketType;

use super::UdpFlow;
use super::mapping::{Mapping, Mappings, Permits};
use super::way::{Shared, Sockets, Which};
use crate::core::{Core, DontFragment};
use crate::flow::Handle;
use crate::flow::account::Direction;
use crate::forward::{Ours, Purpose, Sender};
use crate::link::Link;
use crate::protocols::socket::{equip, socket};

/// Messages of the kernel within [`PERIOD`] that are worth a socket.
const MANY: u32 = 256;
const PERIOD: Duration = Duration::from_secs(1);
/// Sockets at a port beside the mapping's.
const MOST: u8 = 4;
/// How long one is kept that hears nothing while the guest sends.
const SILENCE: Duration = Duration::from_secs(2);

/// A socket of a flow that uses a mapping, connected to its remote.
pub(super) struct Connected {
    sender: Sender,
    /// What it stands for.
    pub(super) mapping: Shared,
    heard: Instant,
}

/// What comes to a mapping, to tell whether that is much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy {
    since: Instant,
    messages: u32,
    /// Sockets beside the mapping's.
    connected: u8,
}

impl Busy {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, messages: 0, connected: 0 }
    }

    /// Notes what came. Whether one more socket would be of use.
    pub(super) fn came(&mut self, messages: usize, now: Instant) -> bool {
        if self.since + PERIOD <= now {
            (self.since, self.messages) = (now, 0);
        }
        self.messages = self.messages.saturating_add(u32::try_from(messages).unwrap_or(u32::MAX));
        let is_much = self.messages >= MANY && self.connected < MOST;
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

    /// Opens one at the port of `mapping`, connected to `to`.
    fn open<L: Link>(core: &Core<L>, ours: &Ours, mapping: &Mapping, to: SocketAddr) -> io::Result<Sender> {
        let at = mapping.fd().map(rustix::net::getsockname).transpose()?;
        let at = at.and_then(|at| SocketAddr::try_from(at).ok()).ok_or(Errno::NOTSOCK)?;
        let remote = to.ip().into();
        let fd = socket(core, SocketType::DGRAM, None, remote, None)?;
        let v6 = at.is_ipv6();
        equip(&fd, v6, core.caps.udp_segmentation)?;
        sender::mark(fd.as_fd(), v6)?;
        ours.bind_beside(fd.as_fd(), &at)?;
        rustix::net::connect(&fd, &to)?;
        ours.note_sender(fd, at.port(), v6, Purpose::Sending)
    }
}

impl Mappings {
    /// Takes note of messages that came to a mapping; the flow that a socket of its own is of use to.
    pub(crate) fn came(&mut self, mapping: Handle, messages: usize, now: Instant) -> Option<Handle> {
        let mapping = self.get_mut(mapping)?;
        if mapping.busy.came(messages, now) { mapping.latest } else { None }
    }

    fn change_connected(&mut self, mapping: Handle, how: impl FnOnce(u8) -> u8) {
        if let Some(mapping) = self.get_mut(mapping) {
            mapping.busy.connected = how(mapping.busy.connected);
        }
    }

    /// Takes back what a flow's socket beside a mapping had.
    pub(super) fn disconnected(&mut self, flow: &UdpFlow) {
        if let (Some(mapping), Sockets::Connected(_)) = (flow.mapping(), &flow.sockets) {
            self.change_connected(mapping, |count| count.saturating_sub(1));
        }
    }
}

impl UdpFlow {
    /// Gives a flow that uses a mapping a socket beside that one. Whether it has it now.
    pub(crate) fn connect<L: Link>(&mut self, core: &Core<L>, ours: &Ours, mappings: &mut Mappings) -> bool {
        let Sockets::Shared(shared @ Shared { socket: Which::Mapping(handle), .. }) = &self.sockets else {
            return false;
        };
        // The flow that had the last of many messages may be none that has many.
        let is_busy = self.account.of(Direction::In).units >= u64::from(MANY);
        if !is_busy || self.permits != Permits::Host || self.last_heard.is_some() {
            return false;
        }
        let opened = mappings.get(*handle).map(|mapping| Connected::open(core, ours, mapping, shared.to));
        let Some(Ok(sender)) = opened else { return false };
        mappings.change_connected(*handle, |count| count.saturating_add(1));
        let mapping = Shared::new(shared.socket, shared.to, shared.from);
        self.sockets = Sockets::Connected(Connected { sender, mapping, heard: core.now });
        // What the socket joins is known once the first has come.
        self.joined = false;
        self.told = DontFragment::default();
        true
    }

    /// Gives back the socket beside the mapping.
    pub(crate) fn disconnect(&mut self, mappings: &mut Mappings) {
        mappings.disconnected(self);
        if let Sockets::Connected(Connected { mapping, .. }) = &self.sockets {
            self.sockets = Sockets::Shared(Shared::new(mapping.socket, mapping.to, mapping.from));
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
        matches!(&self.sockets, Sockets::Connected(connected) if connected.heard + SILENCE <= now)
    }
}
