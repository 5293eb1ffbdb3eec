//! Flows as plain data, for whoever asks.

use passt_proto::addr::Endpoint;
use passt_proto::time::Duration;

use super::{Engine, Flow};
use crate::flow::account::{Carried, Direction};
use crate::flow::{Handle, Key, Protocol, Side, Via};
use crate::link::Link;
use crate::protocols::facts::{self, Facts, State, Ways};

/// A flow, as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its name, for as long as it lives.
    pub handle: Handle,
    /// TCP, UDP, or pings.
    pub protocol: Protocol,
    /// How it travels: in frames, or past the link from a client on one side.
    pub via: Via,
    /// The guest's own address and port as it sees them; past the link those that the client
    /// reached. The port of pings is their identifier.
    pub guest: Endpoint,
    /// The remote address and port as the guest sees them; past the link the client's own.
    pub remote: Endpoint,
    /// Peer of our socket on the other side: on the host, or past the link where the client
    /// is not.
    pub target: Option<Endpoint>,
    /// The address of that socket. A listening socket that is bound to all has no other.
    pub local: Option<Endpoint>,
    /// How far it is.
    pub state: State,
    /// Time since it began, to a sixteenth of a second.
    pub age: Duration,
    /// Time since it carried payload, to a sixteenth of a second.
    pub idle: Duration,
    /// Payload from the guest; past the link from the client. TCP: bytes that the host's side took.
    pub out: Carried,
    /// Payload to the guest; past the link to the client. TCP: bytes that the guest acknowledged,
    /// and frames as often as they were sent.
    pub inward: Carried,
    /// TCP segments sent to the guest again.
    pub retransmitted: u32,
    /// What TCP knows of both ways, on the link.
    pub ways: Option<Ways>,
}

impl Description {
    /// The side on which the other end of the flow is: of [`target`](Self::target).
    pub fn target_side(&self) -> Side {
        match self.via {
            Via::Link => Side::Host,
            Via::Bypass(from) => from.other(),
        }
    }
}

impl<L: Link> Engine<L> {
    /// A flow as it is now, unless it ended. Asks the kernel for the addresses of its sockets: two
    /// system calls at most, and for TCP another one for
    /// what it knows of the way.
    pub(crate) fn describe(&self, handle: Handle) -> Option<Description> {
        let (key, flow) = self.flows.get(handle)?;
        let now = self.ctx.core.now;
        let facts = self.facts(key, flow);
        let Key { via, protocol, guest, remote } = *key;
        Some(Description {
            handle,
            protocol,
            via,
            guest,
            remote,
            target: facts.remote,
            local: facts.local,
            state: facts.state,
            age: facts.account.age(now),
            idle: facts.account.idle(now),
            out: facts.account.of(Direction::Out),
            inward: facts.account.of(Direction::In),
            retransmitted: facts.retransmitted,
            ways: facts.ways,
        })
    }

    /// Bytes of payload that a flow has carried from the guest and to it, or past the link from the
    /// client and to it, and how long ago it carried some. Asks the kernel for nothing.
    pub(crate) fn carried(&self, handle: Handle) -> Option<([u64; 2], Duration)> {
        let (_, flow) = self.flows.get(handle)?;
        let account = match flow {
            Flow::Tcp(flow) => flow.account(),
            Flow::Splice(flow) => flow.account(),
            Flow::Udp(flow) => flow.account(),
            Flow::Echo(flow) => flow.account(),
        };
        let bytes = [Direction::Out, Direction::In].map(|way| account.of(way).bytes);
        Some((bytes, account.idle(self.ctx.core.now)))
    }

    /// Where the host's socket of a flow that travels on the link is bound.
    pub(super) fn local(&self, flow: &Flow) -> Option<Endpoint> {
        match flow {
            Flow::Tcp(flow) => facts::local(flow.socket()),
            Flow::Udp(flow) => flow.facts(&self.ctx.ports.listeners, &self.common.udp.mappings).local,
            Flow::Echo(flow) => facts::local(flow.fd()),
            Flow::Splice(_) => None,
        }
    }

    fn facts(&self, key: &Key, flow: &Flow) -> Facts {
        match (flow, key.via) {
            (Flow::Tcp(flow), _) => flow.facts(&self.ctx.core, key),
            (Flow::Splice(flow), Via::Bypass(from)) => flow.facts(from),
            (Flow::Splice(flow), Via::Link) => flow.facts(Side::Host),
            (Flow::Udp(flow), _) => flow.facts(&self.ctx.ports.listeners, &self.common.udp.mappings),
            (Flow::Echo(flow), _) => flow.facts(),
        }
    }
}
