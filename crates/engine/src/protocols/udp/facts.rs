//! What a UDP flow tells of itself.

use passt_proto::addr::{Addr, Endpoint};

use super::UdpFlow;
use super::mapping::Mappings;
use super::way::{Shared, Sockets, Which};
use crate::flow::account::Account;
use crate::forward::Listeners;
use crate::protocols::facts::{self, Facts, State};

impl UdpFlow {
    /// What it tells of itself.
    pub(crate) fn facts(&self, listeners: &Listeners, mappings: &Mappings) -> Facts {
        let local = match &self.sockets {
            Sockets::Shared(shared) => shared.local(listeners, mappings),
            own => own.own().and_then(facts::local),
        };
        let state = State::of_datagrams(self.seen.map(u64::from));
        Facts { state, account: self.account, retransmitted: 0, ways: None, local, remote: Some(self.remote) }
    }

    /// What it has carried.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// The number of the listening socket that it travels through, if it does.
    pub(crate) fn listener(&self) -> Option<u32> {
        let shared = match &self.sockets {
            Sockets::Shared(shared) => Some(shared),
            Sockets::Across(across) => Some(across.listening()),
            Sockets::Own(_) | Sockets::Connected(_) => None,
        };
        match shared?.socket {
            Which::Listener(number) => Some(number),
            Which::Mapping(_) => None,
        }
    }
}

impl Shared {
    /// Where datagrams come from that it sends.
    fn local(&self, listeners: &Listeners, mappings: &Mappings) -> Option<Endpoint> {
        let bound = match self.socket {
            Which::Listener(number) => facts::local(&listeners.get(number)?.fd)?,
            Which::Mapping(mapping) => facts::local(mappings.get(mapping)?.fd()?)?,
        };
        Some(Endpoint { addr: self.from.map_or(bound.addr, Addr::from), ..bound })
    }
}
