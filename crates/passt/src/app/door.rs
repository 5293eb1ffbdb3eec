//! The listening socket, and who comes there: one client after the other, or, where they introduce
//! themselves first, also one that takes over from another.

use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use arrayvec::ArrayVec;
use passt_engine::core::Token;
use passt_engine::forward::Context;
use passt_engine::link::ClientLink;
use passt_proto::addr::Mac;
use passt_proto::time::Duration;
use passt_sys::iovec::Scatter;
use passt_sys::msg;
use rustix::event::epoll::EventFlags;

use crate::cli::Wire;
use crate::life::attendant::Attendant;
use crate::life::peers::Peers;
use crate::life::socket::{self, Spare};
use crate::life::vmnet::{self, Introduction, Step, Uuid, Wanted};

/// Number of the listening socket among what is outside of the engine.
pub(super) const LISTENER: u32 = 0;
/// Numbers of those who introduce themselves.
const NEWCOMERS: Range<u32> = 20..28;
/// Connections of the guest's that are kept though another one serves it now.
const PARKED: usize = 4;
/// Guests whose names are remembered.
const NAMES: usize = 64;

/// How long the next client waits if the one before did not speak what is spoken here.
const PAUSE: Duration = Duration::from_secs(1);

/// The listening socket, and what is needed to let in who comes there.
pub(super) struct Door {
    listener: UnixListener,
    peers: Peers,
    spare: Spare,
    /// The loop tells when somebody comes.
    watched: bool,
    wire: Wire,
    hall: Option<Hall>,
    /// Connects a socket of datagrams, which is listener and connection in one.
    introducer: Option<Attendant>,
}

impl Door {
    /// A socket that the loop watches, whose clients speak as `wire` says, and are told the `mtu` if
    /// they introduce themselves. Those that send datagrams are connected by the `introducer`.
    pub(super) fn new(
        listener: UnixListener,
        peers: Peers,
        (wire, mtu): (Wire, u16),
        introducer: Option<Attendant>,
    ) -> Self {
        let hall = (wire == Wire::Hyperkit).then(|| Hall::new(mtu));
        Self { listener, peers, spare: Spare::default(), watched: true, wire, hall, introducer }
    }

    /// The process that connects a socket of datagrams, where that is how clients come.
    pub(super) fn introducer(
        listener: Option<&UnixListener>,
        wire: Wire,
    ) -> std::io::Result<Option<Attendant>> {
        let listener = listener.filter(|_| wire == Wire::Vfkit);
        listener.map(|listener| Attendant::start(None, None, Some(listener.as_fd()))).transpose()
    }

    /// Has a descriptor ready for who comes while all others are in use.
    pub(super) fn prepare(&mut self) {
        self.spare.fill();
    }

    /// The client has left, or was seen off, as it did not speak as it should.
    pub(super) fn left<L: ClientLink>(&mut self, ctx: &mut Context<L>, seen_off: bool) {
        if let Some(hall) = &mut self.hall {
            hall.current = None;
        }
        if seen_off {
            self.pause(ctx);
        } else if !self.watched {
            // Who waits does so no longer, but one after the other.
            ctx.core.postpone_for(LISTENER, Duration::ZERO);
        }
    }

    /// The socket of datagrams, connected to whoever has sent one.
    fn introduce<L: ClientLink>(&mut self, ctx: &mut Context<L>) -> Option<OwnedFd> {
        let connected = self.introducer.as_ref()?.connect();
        let client = connected.then(|| socket::keep(self.listener.as_fd()).ok()).flatten();
        if client.is_some() {
            self.watched = ctx.core.unwatch(&self.listener).is_err();
        } else {
            // What came stays there, or more does.
            self.look_again(ctx);
        }
        client
    }

    /// Descriptor `number` is readable: who is the client from now on, if somebody else. The link was
    /// `taken` when the loop began.
    pub(super) fn ready<L: ClientLink>(
        &mut self,
        number: u32,
        ctx: &mut Context<L>,
        taken: bool,
    ) -> Option<OwnedFd> {
        if number != LISTENER {
            return self.hall.as_mut()?.ready(number, ctx);
        }
        if self.introducer.is_some() {
            return self.introduce(ctx);
        }
        let client = self.admit(ctx, taken && self.hall.is_none())?;
        let Some(hall) = &mut self.hall else { return Some(client) };
        hall.enter(client, ctx);
        None
    }

    /// Lets in who is there, unless the link is `taken`. Where that fails it is tried again after a
    /// pause: who comes stays there, and would keep the loop busy.
    fn admit<L: ClientLink>(&mut self, ctx: &mut Context<L>, taken: bool) -> Option<OwnedFd> {
        // One that left is seen off before the next is let in.
        if taken && ctx.core.link.fd(0).is_none_or(|client| socket::has_left(client, self.wire)) {
            self.watch(ctx);
            return None;
        }
        match socket::admit(&self.listener, &mut self.spare, &mut self.peers, taken) {
            Ok(client) => {
                if self.watched || client.is_none() {
                    self.watch(ctx);
                } else {
                    // Others may have come meanwhile, and this one may have to be seen off, too: they
                    // wait a moment, in which that is known.
                    self.look_again(ctx);
                }
                client
            }
            Err(error) => {
                log::warn!("Couldn't accept a connection: {error}");
                self.look_again(ctx);
                None
            }
        }
    }

    fn watch<L: ClientLink>(&mut self, ctx: &mut Context<L>) {
        if !self.watched {
            self.watched = ctx.core.watch(&self.listener, Token::External(LISTENER), EventFlags::IN).is_ok();
        }
        if !self.watched {
            ctx.core.postpone(LISTENER);
        }
    }

    fn unwatch<L: ClientLink>(&mut self, ctx: &mut Context<L>) {
        self.watched = self.watched && ctx.core.unwatch(&self.listener).is_err();
    }

    /// Lets nobody in for a while, and sends nobody away. QEMU comes again at once, and says the same
    /// each time.
    fn pause<L: ClientLink>(&mut self, ctx: &mut Context<L>) {
        self.unwatch(ctx);
        ctx.core.postpone_for(LISTENER, PAUSE);
    }

    fn look_again<L: ClientLink>(&mut self, ctx: &mut Context<L>) {
        self.unwatch(ctx);
        ctx.core.postpone(LISTENER);
    }
}

/// Where clients of VPNKit introduce themselves. Each may have several connections, of which the
/// newest serves it: RootlessKit's first one stays open beside the one that carries frames.
struct Hall {
    mtu: u16,
    newcomers: [Option<Newcomer>; NEWCOMERS.end as usize - NEWCOMERS.start as usize],
    /// Who came last.
    last: usize,
    /// The name of the one that is served, and its connection, which is kept when another one
    /// serves it.
    current: Option<(Uuid, OwnedFd)>,
    parked: ArrayVec<OwnedFd, PARKED>,
    /// Names in the order in which they came: each has a MAC address of its own.
    names: ArrayVec<Uuid, NAMES>,
}

/// What a newcomer has come to.
enum Heard {
    /// More has to come.
    Some,
    /// All, and it can be served.
    All(Wanted),
    /// It is none that can be.
    Nonsense,
}

/// Somebody who has not finished yet.
struct Newcomer {
    socket: OwnedFd,
    introduction: Introduction,
}

impl Hall {
    /// An empty one; clients are told the MTU.
    fn new(mtu: u16) -> Self {
        Self {
            mtu,
            newcomers: Default::default(),
            last: 0,
            current: None,
            parked: ArrayVec::new(),
            names: ArrayVec::new(),
        }
    }

    /// Somebody has come; if there are many the first of them has to go.
    fn enter<L: ClientLink>(&mut self, socket: OwnedFd, ctx: &mut Context<L>) {
        let free = self.newcomers.iter().position(Option::is_none);
        let slot = free.unwrap_or((self.last + 1) % self.newcomers.len());
        let number = NEWCOMERS.start + u32::try_from(slot).unwrap_or(0);
        self.last = slot;
        if ctx.core.watch(&socket, Token::External(number), EventFlags::IN).is_ok()
            && let Some(place) = self.newcomers.get_mut(slot)
        {
            *place = Some(Newcomer { socket, introduction: Introduction::default() });
        }
    }

    /// One of them has said something: its socket, if it is served from now on.
    fn ready<L: ClientLink>(&mut self, number: u32, ctx: &mut Context<L>) -> Option<OwnedFd> {
        let slot = usize::try_from(number.checked_sub(NEWCOMERS.start)?).ok()?;
        let newcomer = self.newcomers.get_mut(slot)?;
        let wanted = match newcomer.as_mut()?.hear() {
            Heard::Some => return None,
            Heard::All(wanted) => Some(wanted),
            Heard::Nonsense => None,
        };
        let Newcomer { socket, .. } = newcomer.take()?;
        let _ = ctx.core.unwatch(&socket);
        let wanted = wanted?;
        match self.receive(&wanted, &socket, ctx) {
            Ok(is_there) => is_there.then_some(socket),
            Err(reason) => {
                log::warn!("A client is sent away: {reason}");
                send(&socket, &vmnet::refused(reason));
                None
            }
        }
    }

    /// Has a client be served, unless another one is; whether it is there to be told.
    fn receive<L: ClientLink>(
        &mut self,
        wanted: &Wanted,
        socket: &OwnedFd,
        ctx: &mut Context<L>,
    ) -> Result<bool, &'static str> {
        let before = self.current.take().filter(|_| ctx.core.link.is_connected());
        if before.as_ref().is_some_and(|(uuid, _)| *uuid != wanted.uuid) {
            self.current = before;
            return Err("This network has a guest already");
        }
        let mac = self.mac_of(&wanted.uuid);
        if wanted.addr.is_some_and(|addr| !ctx.core.lease(mac, addr)) {
            self.current = before;
            return Err("The address is not free");
        }
        let kept = socket::keep(socket.as_fd()).map_err(|_| "Too many descriptors");
        if kept.is_err() || !send(socket, &vmnet::accepted(self.mtu, mac)) {
            self.current = before;
            return kept.map(|_| false);
        }
        self.parked.retain(|parked| !socket::has_left(parked.as_fd(), Wire::Hyperkit));
        if let Some((_, connection)) = before {
            if self.parked.is_full() {
                self.parked.remove(0);
            }
            self.parked.push(connection);
        }
        self.current = Some((wanted.uuid, kept?));
        Ok(true)
    }

    /// The MAC address of a client: the same whenever it comes, but for one without a name.
    fn mac_of(&mut self, uuid: &Uuid) -> Mac {
        let is_named = uuid.iter().any(|&byte| byte != 0);
        let known = self.names.iter().position(|name| name == uuid).filter(|_| is_named);
        let index = known.unwrap_or_else(|| {
            // The last of too many has that of the one before it.
            let _ = self.names.try_push(*uuid);
            self.names.len() - 1
        });
        Mac([0x02, 0x50, 0, 0, 0, u8::try_from(index + 1).unwrap_or(u8::MAX)])
    }
}

impl Newcomer {
    /// Takes what came.
    fn hear(&mut self) -> Heard {
        let mut bytes = [0; 64];
        let mut step = self.introduction.take(&[]);
        loop {
            step = match step {
                Step::Read(most) => {
                    let mut into = Scatter::new();
                    into.push(&mut bytes[..most.min(64)]);
                    match msg::receive(self.socket.as_fd(), &into) {
                        Ok(length @ 1..) => self.introduction.take(&bytes[..length.min(64)]),
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Heard::Some,
                        _ => return Heard::Nonsense,
                    }
                }
                Step::Send(greeting) if send(&self.socket, &greeting) => self.introduction.take(&[]),
                Step::SendAndClose(greeting) => {
                    log::warn!("A client speaks another version of VPNKit's protocol, and is sent away");
                    send(&self.socket, &greeting);
                    return Heard::Nonsense;
                }
                Step::Send(_) | Step::Close => return Heard::Nonsense,
                Step::Wants(wanted) => return Heard::All(wanted),
            };
        }
    }
}

/// Sends an answer, for which a new socket has room; whether it was taken as a whole.
fn send(socket: &OwnedFd, answer: &[u8]) -> bool {
    msg::send_slice(socket.as_fd(), answer).is_ok_and(|sent| sent == answer.len())
}
