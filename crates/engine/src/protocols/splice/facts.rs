//! What a connection that bypasses the link tells of itself.

use super::{Peer, SpliceFlow};
use crate::flow::Side;
use crate::flow::account::Account;
use crate::protocols::facts::{self, Facts, State};

impl SpliceFlow {
    /// What it tells of itself; its sockets' addresses are asked of the kernel. Bytes are counted
    /// as they are read, and what they come in is not known.
    pub(crate) fn facts(&self, from: Side) -> Facts {
        let finished = |end: Peer| {
            self.ends[end].finished
                || matches!(self.ways[end].state, super::State::Ending | super::State::Ended)
        };
        let [host, guest] =
            if from == Side::Host { [Peer::Client, Peer::Target] } else { [Peer::Target, Peer::Client] };
        let state = match (finished(guest), finished(host)) {
            _ if self.connecting.is_some() => State::Connecting,
            (false, false) => State::Open,
            (true, false) => State::GuestFinished,
            (false, true) => State::HostFinished,
            (true, true) => State::BothFinished,
        };
        let target = &self.ends[Peer::Target].fd;
        let (local, remote) = (facts::local(target), facts::peer(target));
        Facts { state, account: self.account, retransmitted: 0, ways: None, local, remote }
    }

    /// What it has carried.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }
}
