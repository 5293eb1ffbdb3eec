//! What a flow tells of itself.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use passt_proto::addr::Endpoint;
use passt_proto::tcp::Phase;
use passt_proto::time::Duration;
use passt_sys::socket::TcpWay;

use crate::flow::account::Account;

/// How far a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// TCP: the host's socket, or on the bypass the one across, is connecting.
    Connecting,
    /// TCP: the guest has not confirmed the connection.
    Opening,
    /// TCP: data flows both ways.
    Open,
    /// TCP: the guest sends no more.
    GuestFinished,
    /// TCP: the host's side sends no more.
    HostFinished,
    /// TCP: neither sends more; what is under way is delivered.
    BothFinished,
    /// TCP: the guest had finished and is gone; what it left is passed on.
    LeftBehind,
    /// TCP: over, but for telling both sides.
    Ended,
    /// Datagrams: nothing went one of the ways.
    Unanswered,
    /// Datagrams: some went both ways, but fewer than two batches one of them.
    Single,
    /// Datagrams: at least two batches went each way.
    Lasting,
}

/// What a flow tells of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) state: State,
    pub(crate) account: Account,
    /// Segments sent to the guest again.
    pub(crate) retransmitted: u32,
    /// What TCP knows of both ways, where it is ours that carries.
    pub(crate) ways: Option<Ways>,
    /// Where our own socket is that faces away from the guest, or from the client.
    pub(crate) local: Option<Endpoint>,
    /// Peer of its socket.
    pub(crate) remote: Option<Endpoint>,
}

/// What TCP knows of the ways of a connection that travels on the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// The host's connection.
    pub host: TcpWay,
    /// The guest's window in bytes.
    pub guest_window: u32,
    /// Smoothed round trip to the guest, if one was measured.
    pub guest_rtt: Option<Duration>,
}

impl State {
    /// One word, or two joined by a hyphen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::GuestFinished => "guest-finished",
            Self::HostFinished => "host-finished",
            Self::BothFinished => "both-finished",
            Self::LeftBehind => "left-behind",
            Self::Ended => "ended",
            Self::Unanswered => "unanswered",
            Self::Single => "single",
            Self::Lasting => "lasting",
        }
    }

    /// Of datagrams, of which so many went each way, or batches of them.
    pub(super) fn of_datagrams(ways: [u64; 2]) -> Self {
        match ways.into_iter().min() {
            None | Some(0) => Self::Unanswered,
            Some(1) => Self::Single,
            Some(_) => Self::Lasting,
        }
    }
}

impl From<Phase> for State {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Connecting => Self::Connecting,
            Phase::Opening => Self::Opening,
            Phase::Open => Self::Open,
            Phase::GuestFinished => Self::GuestFinished,
            Phase::HostFinished => Self::HostFinished,
            Phase::BothFinished => Self::BothFinished,
            Phase::LeftBehind => Self::LeftBehind,
            Phase::Ended => Self::Ended,
        }
    }
}

/// Where a socket is bound, if it is.
pub(crate) fn local(fd: impl AsFd) -> Option<Endpoint> {
    endpoint(rustix::net::getsockname(fd).ok()?)
}

/// Peer of a connected socket.
pub(super) fn peer(fd: impl AsFd) -> Option<Endpoint> {
    endpoint(rustix::net::getpeername(fd).ok()??)
}

fn endpoint(addr: rustix::net::SocketAddrAny) -> Option<Endpoint> {
    SocketAddr::try_from(addr).ok().map(Endpoint::from)
}
