//! What a UDP flow tells of itself.

use passt_proto::addr::{Addr, Endpoint};

use super::{Shared, Sockets, UdpFlow};
use crate::forward::Listeners;
use crate::protocols::facts::{self, Facts, State};

impl UdpFlow {
    /// What it tells of itself.
    pub(crate) fn facts(&self, listeners: &Listeners) -> Facts {
        let local = match &self.sockets {
            Sockets::Own(fd, _) | Sockets::Both(fd, _) => facts::local(fd),
            Sockets::Shared(shared) => shared.local(listeners),
        };
        let state = State::of_datagrams(self.seen.map(u64::from));
        Facts { state, account: self.account, retransmitted: 0, local, remote: Some(self.remote) }
    }

    /// The number of the listening socket that it travels through, if it does.
    pub(crate) fn listener(&self) -> Option<u32> {
        match &self.sockets {
            Sockets::Own(..) => None,
            Sockets::Shared(shared) | Sockets::Both(_, shared) => Some(shared.number),
        }
    }
}

impl Shared {
    /// Where datagrams come from that it sends.
    fn local(&self, listeners: &Listeners) -> Option<Endpoint> {
        let bound = facts::local(&listeners.get(self.number)?.fd)?;
        Some(Endpoint { addr: self.from.map_or(bound.addr, Addr::from), ..bound })
    }
}
