//! What sockets are bound to: of several that share a port, whose a datagram is.

use passt_proto::addr::Addr;
use passt_sys::dgram::Received;

/// Address and interface that a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The unspecified address of a family for all of it.
    pub(crate) addr: Addr,
    /// `::` stands for IPv4, too.
    pub(crate) both: bool,
    /// The interface's index; zero for all.
    pub(crate) interface: u32,
}

/// Where a datagram came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The address that it was sent to, if that is known.
    pub(crate) addr: Option<Addr>,
    /// The index of the interface that it came by; zero if that is not known.
    pub(crate) interface: u32,
}

impl Bounds {
    /// Whether these include what is sent to an address.
    pub(crate) fn takes(&self, addr: Addr) -> bool {
        self.addr == addr || self.addr.is_unspecified() && self.takes_family(addr)
    }

    /// Whether these include what `source` sent that came there. What is not known is in none but
    /// those that have all.
    pub(crate) fn takes_arrival(&self, source: Addr, at: &Arrival) -> bool {
        self.takes_family(source)
            && (self.addr.is_unspecified() || at.addr == Some(self.addr))
            && (self.interface == 0 || at.interface == self.interface)
    }

    /// Whether these are all addresses of the family of `like`, so that no other program has the
    /// port at one of them.
    pub(crate) fn has_all(&self, like: Addr) -> bool {
        self.addr.is_unspecified() && self.interface == 0 && self.takes_family(like)
    }

    /// Where a message came to that a socket with these bounds has.
    pub(crate) fn arrival(&self, message: &Received) -> Arrival {
        let known = (!self.addr.is_unspecified()).then_some(self.addr);
        let interface = if message.interface == 0 { self.interface } else { message.interface };
        Arrival { addr: message.destination.map(Addr::from).or(known), interface }
    }

    fn takes_family(&self, like: Addr) -> bool {
        self.addr.is_v4() == like.is_v4() || self.both && like.is_v4()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn what_a_socket_takes() {
        let (v4, v6) = ("192.0.2.9", "2001:db8::9");
        for (bound, both, interface, source, to, by, expected) in [
            ("0.0.0.0", false, 0, v4, None, 0, true),
            ("0.0.0.0", false, 0, v4, Some("192.0.2.1"), 7, true),
            ("0.0.0.0", false, 0, v6, Some("2001:db8::1"), 7, false),
            ("::", false, 0, v4, Some("192.0.2.1"), 7, false),
            ("::", true, 0, v4, Some("192.0.2.1"), 7, true),
            ("::", true, 0, v6, None, 0, true),
            ("192.0.2.1", false, 0, v4, Some("192.0.2.1"), 0, true),
            ("192.0.2.1", false, 0, v4, Some("192.0.2.2"), 0, false),
            ("192.0.2.1", false, 0, v4, None, 0, false),
            ("192.0.2.1", false, 0, v4, Some("192.0.2.255"), 7, false),
            ("::1", false, 0, v6, Some("::1"), 0, true),
            ("::1", false, 0, v6, Some("2001:db8::1"), 0, false),
            ("0.0.0.0", false, 7, v4, Some("192.0.2.1"), 7, true),
            ("0.0.0.0", false, 7, v4, Some("192.0.2.1"), 8, false),
            ("0.0.0.0", false, 7, v4, Some("192.0.2.1"), 0, false),
            ("::", true, 7, v4, Some("192.0.2.1"), 8, false),
            ("192.0.2.1", false, 7, v4, Some("192.0.2.1"), 7, true),
            ("192.0.2.1", false, 7, v4, Some("192.0.2.1"), 8, false),
        ] {
            let bounds = Bounds { addr: addr(bound), both, interface };
            let at = Arrival { addr: to.map(addr), interface: by };
            assert_eq!(bounds.takes_arrival(addr(source), &at), expected, "{bounds:?} {source} {at:?}");
        }
    }
}
