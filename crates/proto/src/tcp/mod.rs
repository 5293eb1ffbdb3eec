//! The TCP translation: one connection of the guest, one of the host's kernel.
//!
//! This is no TCP stack. The guest's kernel and the host's kernel each run a
//! full TCP; a [`Connection`] makes the guest believe that it talks to the
//! host's peer. Data waits in the host's socket: towards the guest it is peeked
//! at and stays in the receive queue until the guest acknowledges it; from the
//! guest it is acknowledged when the host's kernel, or its peer, has it.
//!
//! The machine does no I/O. Feed it segments ([`Connection::segment`]) and
//! events ([`Connection::handle`]), then pull [`Connection::next_action`] until
//! there is none, then wait for [`Connection::next_timeout`] or the next event.
//! Actions are derived from state, so there is no queue; payload never enters.
//!
//! Left out: reassembly of what arrives out of order (links do not reorder, and
//! what is not kept need not be selectively acknowledged), congestion control
//! towards the guest (the link has no congestion; after a timeout the window is
//! opened gradually), urgent data (passed on inline), fast open, ECN.

mod challenge;
mod isn;
mod open;
mod opening;
mod receive;
mod rtt;
#[cfg(test)]
mod tests;
mod transmit;

pub use isn::IsnSecret;
pub use receive::Push;

use crate::drop::DropReason;
use crate::seq::Seq;
use crate::time::{Duration, Instant};
use crate::wire::tcp::{Flags, Options, Segment};
use open::Open;
use opening::{Opening, Step};
use transmit::Unresponsive;

/// What every connection of a worker has in common.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// MSS announced to the guest, in bytes: its MTU less the fixed headers.
    pub mss: u16,
    /// Bytes that the engine can take: the window promised to the guest. See
    /// [`Connection::set_room`].
    pub room: u32,
    /// Most bytes in one [`Action::Peek`].
    pub max_peek: u32,
    /// Whether to negotiate selective acknowledgements (RFC 2018).
    pub sack: bool,
}

/// The window scale that we announce (RFC 7323, section 2.2): windows up to 16 MiB.
const WINDOW_SCALE: u8 = 8;
/// What a peer that announces no MSS can take over IPv4 (RFC 9293, section 3.7.1).
const DEFAULT_MSS: u16 = 536;

/// What happened on the host's side, or to what an action asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The host's connect succeeded.
    Connected {
        /// Round trip to the host's peer where acknowledgements are to be that
        /// peer's; `None` to acknowledge what the host's kernel has taken.
        far: Option<Duration>,
    },
    /// The host's socket may have data, or an end, that the last peek did not see.
    Readable,
    /// What was pushed since the last such event is dealt with.
    Queued {
        /// Bytes queued; less than what was pushed only if there was no room at all.
        taken: u32,
        /// Bytes that the engine holds because the host's kernel did not take them yet.
        held: u32,
    },
    /// The host's kernel has taken some of what the engine held.
    Flushed {
        /// Bytes that the engine still holds.
        held: u32,
    },
    /// More of the guest's frames wait on the link: what is to be acknowledged may wait for
    /// [`Event::Quiet`] where the guest has enough under way to go on.
    Busy,
    /// Nothing waits on the link any more, or did so for long enough.
    Quiet,
    /// Answer to [`Action::AskUnacknowledged`].
    Unacknowledged {
        /// Bytes (and FIN) that the host's kernel has, but not its peer (`SIOCOUTQ`).
        bytes: u32,
    },
    /// After [`Action::KeepAlive`]: the host's peer is there, as far as is known.
    Alive,
    /// The host's connection was refused, reset or failed.
    Failed,
    /// The time of [`Connection::next_timeout`] may have come.
    Timeout,
}

/// What the engine has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this segment to the guest; it has no payload.
    Emit(Segment),
    /// Look at the host's receive queue, then call [`Connection::transmit`] or
    /// [`Connection::drained`].
    Peek {
        /// Bytes to skip from the queue's head.
        offset: u32,
        /// Most bytes to send.
        len: u32,
    },
    /// Remove this many bytes from the head of the host's receive queue.
    Discard(u32),
    /// Shut down the sending direction of the host's socket.
    Shutdown,
    /// Ask the host's kernel how much is unacknowledged: [`Event::Unacknowledged`].
    AskUnacknowledged,
    /// The guest asks whether its peer still is there, and does so about this often: have the
    /// host's kernel ask as well. [`Event::Alive`] answers; without it the guest gets no answer,
    /// and decides by itself how long it waits for one.
    KeepAlive(Duration),
    /// Abort the host's connection with RST and forget this one.
    Abort,
    /// Close the host's socket and forget this connection.
    Close,
}

/// What the host's receive queue has behind the bytes that were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// There may be more: as many were found as were asked for.
    More,
    /// Nothing now.
    Nothing,
    /// The end of the stream.
    End,
}

/// How far a connection is, for whoever asks. Neither side's states of RFC 9293: we know what was
/// said, not what the two kernels make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The host's connect is under way.
    Connecting,
    /// The guest has not confirmed the connection.
    Opening,
    /// Data can flow both ways.
    Open,
    /// The guest has finished.
    GuestFinished,
    /// The host's peer has finished.
    HostFinished,
    /// Both have; what is under way is delivered.
    BothFinished,
    /// The guest had finished and its socket is gone; what it left is passed on.
    LeftBehind,
    /// Over, but for telling the two sides.
    Ended,
}

/// One translated connection.
#[derive(Clone, Debug)]
pub struct Connection {
    config: Config,
    ports: PortPair,
    state: State,
}

/// Ports of every segment sent to the guest.
#[derive(Clone, Copy, Debug)]
struct PortPair {
    src: u16,
    dst: u16,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all connections are open, and none may allocate")]
enum State {
    /// The guest's SYN was seen, the host's connect is under way.
    Connecting { irs: Seq, offer: Offer, iss: Seq },
    /// Our SYN or SYN-ACK waits for the guest's acknowledgement.
    Opening(Opening),
    /// Data can flow, at least in one direction.
    Open(Open),
    /// Over, but for telling the two sides.
    Ended { guest: Option<Segment>, abort: bool },
}

/// What the guest's SYN offered.
#[derive(Clone, Copy, Debug)]
struct Offer {
    mss: u16,
    window_scale: Option<u8>,
    sack: bool,
    window: u16,
}

impl Connection {
    /// A connection that the guest opens with `syn`. The engine starts the host's connect.
    pub fn from_guest(config: Config, syn: &Segment, iss: Seq) -> Self {
        let ports = PortPair { src: syn.dst_port, dst: syn.src_port };
        Self { config, ports, state: State::Connecting { irs: syn.seq, offer: Offer::new(syn), iss } }
    }

    /// A connection that the host accepted, to be opened towards the guest from
    /// port `src` to port `dst`. `far` as in [`Event::Connected`].
    pub fn from_host(
        config: Config,
        src: u16,
        dst: u16,
        iss: Seq,
        far: Option<Duration>,
        now: Instant,
    ) -> Self {
        let opening = Opening::new(iss, None, far, now);
        Self { config, ports: PortPair { src, dst }, state: State::Opening(opening) }
    }

    /// Bytes that the engine can take beyond what is queued, once it holds none: what is promised
    /// to the guest from now on. A smaller one leaves older promises as they are.
    #[inline]
    pub fn set_room(&mut self, room: u32) {
        if room == self.config.room {
            return;
        }
        self.config.room = room;
        if let State::Open(open) = &mut self.state {
            open.set_room(room);
        }
    }

    /// Takes a segment of `len` payload bytes from the guest. What is returned of
    /// its payload is to be queued to the host's socket and confirmed with
    /// one [`Event::Queued`] for all segments since the last; more of them may come before it.
    pub fn segment(&mut self, now: Instant, segment: &Segment, len: u32) -> Push {
        match &mut self.state {
            State::Connecting { irs, .. } => {
                // Nothing was answered yet, so another SYN is a new connection, as in LISTEN.
                let over = if segment.flags.contains(Flags::RST) {
                    segment.seq == *irs + 1
                } else {
                    segment.flags.contains(Flags::SYN) && segment.seq != *irs
                };
                if over {
                    self.end(None, true);
                }
                Push::NONE
            }
            State::Opening(opening) => match opening.segment(now, segment, len, &self.config) {
                Step::Wait => Push::NONE,
                Step::End => {
                    self.end(None, true);
                    Push::NONE
                }
                Step::Open(mut open) => {
                    let push = if open.begun_by_guest() {
                        open.segment(now, segment, len)
                    } else {
                        open.acknowledge_now();
                        Push::NONE
                    };
                    self.state = State::Open(open);
                    push
                }
            },
            State::Open(open) => {
                let push = open.segment(now, segment, len);
                if open.is_reset() {
                    self.end(None, true);
                }
                push
            }
            State::Ended { .. } => Push::NONE,
        }
    }

    /// The guest's side says that the segment with the number `seq` did not arrive, and will not. A
    /// connection that is being opened towards the guest ends (RFC 1122, section 4.2.3.9); one that
    /// is open goes on, as routes change and filters are loaded anew.
    pub fn undelivered(&mut self, seq: Seq) -> Result<(), DropReason> {
        match &self.state {
            State::Opening(opening) if opening.has_sent(seq) => {
                self.end(None, true);
                Ok(())
            }
            State::Open(open) if open.has_sent(seq) => Err(DropReason::IcmpIgnored),
            _ => Err(DropReason::IcmpInvalid),
        }
    }

    /// The segment with the number `seq` was too large for the path to the guest: there are at most
    /// `mss` bytes in each from now on, and what is under way is sent again (RFC 1191, section 6.4;
    /// RFC 8201, section 5.4).
    pub fn shrink(&mut self, now: Instant, seq: Seq, mss: u32) -> Result<(), DropReason> {
        match &mut self.state {
            State::Open(open) => open.shrink(now, seq, mss),
            _ => Err(DropReason::IcmpInvalid),
        }
    }

    /// Takes an event of the host's side.
    pub fn handle(&mut self, now: Instant, event: Event) {
        match (&mut self.state, event) {
            (State::Connecting { irs, offer, iss }, Event::Connected { far }) => {
                self.state = State::Opening(Opening::new(*iss, Some((*irs, *offer)), far, now));
            }
            (State::Connecting { irs, .. }, Event::Failed) => {
                let reset =
                    Segment { ack: *irs + 1, flags: Flags::RST | Flags::ACK, ..self.ports.segment(Seq(0)) };
                self.end(Some(reset), false);
            }
            (State::Opening(opening), Event::Timeout) => {
                let Err(Unresponsive) = opening.timeout(now) else { return };
                let reset = opening.reset(self.ports);
                self.end(Some(reset), true);
            }
            (State::Opening(opening), Event::Failed) => {
                let reset = opening.reset(self.ports);
                self.end(Some(reset), false);
            }
            (State::Open(open), Event::Failed) => {
                let reset = open.reset_segment(self.ports);
                self.end(Some(reset), false);
            }
            (State::Open(open), event) => {
                let Err(Unresponsive) = open.handle(now, event) else { return };
                let reset = open.reset_segment(self.ports);
                self.end(Some(reset), true);
            }
            _ => {}
        }
    }

    /// What to do next; call until it returns `None`, and after every event and batch of segments.
    pub fn next_action(&mut self, now: Instant) -> Option<Action> {
        self.next(now, true)
    }

    /// As [`Connection::next_action`], but for [`Action::Peek`]: for a link that has no room for
    /// payload now. What the guest has sent is acknowledged nevertheless.
    pub fn next_action_without_data(&mut self, now: Instant) -> Option<Action> {
        self.next(now, false)
    }

    fn next(&mut self, now: Instant, data: bool) -> Option<Action> {
        match &mut self.state {
            State::Connecting { .. } => None,
            State::Opening(opening) => opening.next_segment(now, &self.config, self.ports).map(Action::Emit),
            State::Open(open) if open.is_done() => {
                self.end(None, false);
                Some(Action::Close)
            }
            State::Open(open) => open.next_action(now, self.ports, data),
            State::Ended { guest, abort } => {
                let last = if *abort { Action::Abort } else { Action::Close };
                Some(guest.take().map_or(last, Action::Emit))
            }
        }
    }

    /// After [`Action::Peek`]: the header for `len` bytes that were found and are
    /// being sent.
    pub fn transmit(&mut self, now: Instant, len: u32, behind: Behind) -> Segment {
        match &mut self.state {
            State::Open(open) => open.transmit(now, self.ports, len, behind),
            _ => self.ports.segment(Seq(0)),
        }
    }

    /// After [`Action::Peek`]: no data was found.
    pub fn drained(&mut self, behind: Behind) {
        if let State::Open(open) = &mut self.state {
            open.drained(behind);
        }
    }

    /// When to pass [`Event::Timeout`], if nothing happens before.
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Opening(opening) => Some(opening.due()),
            State::Open(open) => open.next_timeout(),
            State::Connecting { .. } | State::Ended { .. } => None,
        }
    }

    /// Most payload bytes of one segment to the guest: for `gso_size`.
    pub fn mss(&self) -> u32 {
        match &self.state {
            State::Open(open) => open.mss(),
            _ => u32::from(self.config.mss),
        }
    }

    /// How far the connection is.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Connecting { .. } => Phase::Connecting,
            State::Opening(_) => Phase::Opening,
            State::Open(open) => open.phase(),
            State::Ended { .. } => Phase::Ended,
        }
    }

    /// Whether the host's connect is still under way.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting { .. })
    }

    /// Whether an acknowledgement waits for [`Event::Quiet`], or for data to travel with.
    pub fn awaits_quiet(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.awaits_quiet())
    }

    /// Whether nothing but [`Action::Abort`] or [`Action::Close`] is left to be done, behind a last
    /// segment.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// Whether the guest had finished and its socket is gone, and some of what it sent is left.
    pub fn is_orphaned(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.is_orphaned())
    }

    /// Whether the guest was told of more than the host's kernel has: ending the host's connection
    /// in order would deny that.
    pub fn owes(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.owes())
    }

    /// Whether the guest has all that the host's peer sent, which has finished. Only an
    /// acknowledgement of that may be missing.
    pub fn is_delivered(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.is_delivered())
    }

    /// Whether the guest has not confirmed yet that it opens the connection.
    pub fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening(_))
    }

    /// The guest's initial sequence number while the host's connect is under way, to quote its SYN.
    pub fn guest_isn(&self) -> Seq {
        if let State::Connecting { irs, .. } = self.state { irs } else { Seq(0) }
    }

    /// Segments sent to the guest again so far.
    pub fn retransmitted(&self) -> u32 {
        match &self.state {
            State::Open(open) => open.retransmitted(),
            _ => 0,
        }
    }

    /// The guest's window in bytes, and the smoothed round trip to it if one was measured.
    pub fn way(&self) -> (u32, Option<Duration>) {
        match &self.state {
            State::Open(open) => open.way(),
            _ => (0, None),
        }
    }

    fn end(&mut self, guest: Option<Segment>, abort: bool) {
        self.state = State::Ended { guest, abort };
    }
}

impl Offer {
    fn new(syn: &Segment) -> Self {
        let options = &syn.options;
        Self {
            mss: options.mss.unwrap_or(DEFAULT_MSS).max(64),
            window_scale: options.window_scale,
            sack: options.sack_permitted,
            window: syn.window,
        }
    }
}

impl PortPair {
    fn segment(self, seq: Seq) -> Segment {
        Segment {
            src_port: self.src,
            dst_port: self.dst,
            seq,
            ack: Seq(0),
            flags: Flags::empty(),
            window: 0,
            options: Options::default(),
        }
    }
}
