//! Listening sockets as a worker has them: watched by its loop, each with what it has to know of
//! those who come in there.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::guest::Bypass;
use passt_proto::time::Instant;

use super::bounds::Arrival;
use super::listener::Listener;
use super::pressure::Opening;
use crate::core::DontFragment;
use crate::core::readiness::Futile;
use crate::flow::{Key, Protocol, Side, Via};

/// A listening socket of a worker.
#[derive(Debug)]
pub struct Watched {
    listener: Arc<Listener>,
    /// Its connections that are being established.
    pub(crate) opening: Opening,
    /// The round in which it accepted last.
    pub(crate) accepted: Cell<u64>,
    /// `accept` failed for a reason of its own: not tried again before.
    pub(crate) paused: Cell<Option<Instant>>,
    /// None of its connections that are being established could be given up: not looked at again
    /// before.
    pub(crate) searched: Cell<Option<Instant>>,
    /// Events of late that led to nothing.
    pub(crate) futile: Futile,
    /// Whether routers may cut what it sends.
    pub(crate) dont_fragment: DontFragment,
}

impl Watched {
    fn new(listener: Arc<Listener>) -> Self {
        Self {
            listener,
            opening: Opening::default(),
            accepted: Cell::new(0),
            paused: Cell::new(None),
            searched: Cell::new(None),
            futile: Futile::default(),
            dont_fragment: DontFragment::default(),
        }
    }
}

impl Deref for Watched {
    type Target = Listener;

    fn deref(&self) -> &Listener {
        &self.listener
    }
}

/// The sockets that a worker watches, by the numbers that the process gave them.
#[derive(Debug, Default)]
pub struct Listeners {
    open: BTreeMap<u32, Watched>,
    /// By side, protocol and port, and by those and the other side's port.
    by_port: BTreeSet<Indexed>,
    by_target: BTreeSet<Indexed>,
}

/// A side, a protocol, a port, and a socket's number.
type Indexed = (Side, Protocol, u16, u32);

impl Listeners {
    /// Adds a socket.
    pub(super) fn insert(&mut self, number: u32, listener: Arc<Listener>) {
        self.by_port.insert(indexed(&listener, listener.place.port, number));
        self.by_target.insert(indexed(&listener, listener.target_port, number));
        self.open.insert(number, Watched::new(listener));
    }

    /// A socket by its number, unless it was closed.
    pub fn get(&self, number: u32) -> Option<&Watched> {
        self.open.get(&number)
    }

    /// Has a socket be another listener's; connections of it that are being established go on.
    pub(super) fn replace(&mut self, number: u32, listener: Arc<Listener>) {
        let Some(watched) = self.open.get_mut(&number) else { return };
        self.by_target.remove(&indexed(&watched.listener, watched.listener.target_port, number));
        self.by_target.insert(indexed(&listener, listener.target_port, number));
        watched.listener = listener;
        watched.dont_fragment = DontFragment::default();
    }

    /// Takes a socket out.
    pub fn remove(&mut self, number: u32) -> Option<Arc<Listener>> {
        let Watched { listener, .. } = self.open.remove(&number)?;
        self.by_port.remove(&indexed(&listener, listener.place.port, number));
        self.by_target.remove(&indexed(&listener, listener.target_port, number));
        Some(listener)
    }

    /// All of them with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Watched)> {
        self.open.iter().map(|(&number, listener)| (number, listener))
    }

    /// Whether what a flow on the bypass sends to `target` would come back to us, again and again:
    /// where both loopbacks stand for each other, and the port is forwarded both ways.
    pub(crate) fn circular(&self, bypass: Bypass, key: &Key, target: Endpoint) -> bool {
        let Via::Bypass(from) = key.via else { return false };
        bypass == Bypass::Loopback
            && self
                .at(&self.by_port, from.other(), key.protocol, target.port)
                .any(|(_, l)| l.by_loopback && l.bounds.takes(target.addr))
    }

    /// The sockets that an index has at a port.
    fn at<'a>(
        &'a self,
        index: &'a BTreeSet<Indexed>,
        side: Side,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = (u32, &'a Watched)> + Clone {
        let numbers = index.range((side, protocol, port, 0)..=(side, protocol, port, u32::MAX));
        numbers.filter_map(|&(.., number)| Some((number, self.open.get(&number)?)))
    }

    /// The port of a UDP socket on the host, by its number; zero if it is on the other side.
    pub(crate) fn host_port(&self, number: u32) -> u16 {
        self.get(number).filter(|l| l.side == Side::Host).map_or(0, |l| l.port())
    }

    /// The UDP sockets on the host at this port.
    pub(crate) fn udp_at(&self, port: u16) -> impl Iterator<Item = &Watched> + Clone {
        self.at(&self.by_port, Side::Host, Protocol::Udp, port).map(|(_, listener)| listener)
    }

    /// The UDP socket on the host at this port that is for what `source` sent, which came there.
    pub(crate) fn at_port(&self, port: u16, source: Addr, at: &Arrival) -> Option<u32> {
        let mut all = self.at(&self.by_port, Side::Host, Protocol::Udp, port);
        all.find(|(_, l)| l.bounds.takes_arrival(source, at)).map(|(number, _)| number)
    }

    /// Whether a UDP socket on the host may send from there.
    pub(crate) fn sends_from(&self, source: Endpoint) -> bool {
        let mut all = self.at(&self.by_port, Side::Host, Protocol::Udp, source.port);
        all.any(|(_, l)| l.bounds.takes(source.addr))
    }

    /// The socket that forwards to the guest's UDP `port` and can reach `remote`: what
    /// the guest sends from there looks, to the outside, as if it came from the forwarded port. It
    /// leaves by the `outbound` interface, if that is what it is to leave by.
    pub(crate) fn answering(
        &self,
        port: u16,
        remote: Addr,
        outbound: Option<&str>,
    ) -> Option<(u32, &Watched)> {
        self.at(&self.by_target, Side::Host, Protocol::Udp, port)
            .find(|(_, l)| l.bounds.addr.is_unspecified() && l.bounds.takes(remote) && l.leaves_by(outbound))
    }
}

/// The place of a socket in an index by this port.
fn indexed(listener: &Listener, port: u16, number: u32) -> Indexed {
    (listener.side, listener.protocol, port, number)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::forward::listener::tests::{listener, listener_on};
    use crate::forward::rule::{Families, Listen};

    /// What would come back is known by what the socket there takes, not by its port alone.
    #[test]
    fn circles() {
        use Families::{Both, V6Only};
        let cases = [
            ("", Both, true, "127.0.0.1", true),
            ("", Both, true, "::1", true),
            ("", Both, false, "127.0.0.1", false),
            ("", V6Only, true, "127.0.0.1", false),
            ("", V6Only, true, "::1", true),
            ("0.0.0.0", Both, true, "::1", false),
            ("127.0.0.1", Both, true, "127.0.0.1", true),
            ("127.0.0.1", Both, true, "127.0.0.2", false),
        ];
        for (listen, families, by_loopback, target, expected) in cases {
            let mut listeners = Listeners::default();
            let mut listener = listener(Side::Namespace, Protocol::Tcp, listen, families);
            listener.by_loopback = by_loopback;
            let port = listener.place.port;
            listeners.insert(7, Arc::new(listener));
            let target = Endpoint::new(Addr::from(target.parse::<IpAddr>().expect("an address")), port);
            let client = Endpoint::new(target.addr, 40_000);
            let key =
                |side| Key { via: Via::Bypass(side), protocol: Protocol::Tcp, guest: target, remote: client };
            let case = format!("{listen} {families:?} {by_loopback} {target}");
            let from_host = key(Side::Host);
            assert_eq!(listeners.circular(Bypass::Loopback, &from_host, target), expected, "{case}");
            assert!(!listeners.circular(Bypass::Public, &from_host, target), "{case}");
            assert!(!listeners.circular(Bypass::Loopback, &key(Side::Namespace), target), "{case}");
            let beside = Endpoint::new(target.addr, port - 1);
            assert!(!listeners.circular(Bypass::Loopback, &from_host, beside), "{case}");
            assert!(listeners.remove(7).is_some());
            assert!(!listeners.circular(Bypass::Loopback, &from_host, target), "{case}");
        }
    }

    #[test]
    fn answers_go_by_a_socket_that_can_send_them() {
        let mut listeners = Listeners::default();
        let any = listener(Side::Host, Protocol::Udp, "", Families::Both);
        let v6 = listener(Side::Host, Protocol::Udp, "", Families::V6Only);
        let one = listener(Side::Host, Protocol::Udp, "127.0.0.1", Families::Both);
        let ports = [&any, &v6, &one].map(|l| l.target_port);
        let numbers = [1, 2, 3];
        for (number, listener) in numbers.into_iter().zip([any, v6, one]) {
            listeners.insert(number, Arc::new(listener));
        }
        let answering = |port: u16, remote: &str| {
            let remote = Addr::from(remote.parse::<IpAddr>().expect("an address"));
            listeners.answering(port, remote, None).map(|(number, _)| number)
        };
        assert_eq!(answering(ports[0], "192.0.2.1"), Some(numbers[0]));
        assert_eq!(answering(ports[0], "2001:db8::1"), Some(numbers[0]));
        assert_eq!(answering(ports[1], "192.0.2.1"), None);
        assert_eq!(answering(ports[1], "2001:db8::1"), Some(numbers[1]));
        assert_eq!(answering(ports[2], "192.0.2.1"), None);
        // What leaves by an interface leaves by a socket that is bound to it, and nothing else does.
        for (bound, outbound, expected) in
            [("", None, true), ("", Some("lo"), false), ("lo", None, false), ("lo", Some("lo"), true)]
        {
            let interface = (!bound.is_empty()).then(|| bound.to_owned());
            let listener = listener_on(Listen { addr: None, interface });
            let port = listener.target_port;
            let mut listeners = Listeners::default();
            listeners.insert(1, Arc::new(listener));
            for remote in ["192.0.2.1", "2001:db8::1"] {
                let remote = remote.parse::<IpAddr>().expect("an address").into();
                let found = listeners.answering(port, remote, outbound);
                assert_eq!(found.is_some(), expected, "{bound:?} {outbound:?}");
            }
        }
    }
}
