//! Errors of the network, and of the host's kernel, as the guest is told of them.

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::rules::Protocol;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::MAX_HEADERS;
use passt_proto::wire::icmp;
use passt_proto::wire::report::Quoted;
use passt_sys::dgram::{Failure, Origin};
use passt_sys::iovec::Gather;
use rustix::io::Errno;

use super::{Core, Payload};
use crate::link::Link;

/// More of a packet than that is in no error: RFC 4443, section 2.4.
const ERROR_ROOM: usize = 1280;

/// Errors of the guest that are looked at in a second, and at once: more than a crowd of clients
/// brings about that are turned away, and little work.
const MOST: u32 = 1000;
const REFILL: Duration = Duration::from_secs(1);

/// Bounds how many errors of the guest are looked at.
#[derive(Debug)]
pub(crate) struct Limit {
    left: u32,
    /// When there is the full number again.
    due: Instant,
}

impl Limit {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: MOST, due: now }
    }

    /// Whether one more is; if so it counts.
    pub(crate) fn is_allowed(&mut self, now: Instant) -> bool {
        if self.due <= now {
            *self = Self { left: MOST, due: now + REFILL };
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

impl<L: Link> Core<L> {
    /// Tells the guest on behalf of `from` that its packet `quoted`, which carried at
    /// least `payload`, was not delivered.
    pub(crate) fn icmp_error(
        &mut self,
        from: Addr,
        header: icmp::Header,
        quoted: &Quoted,
        payload: &Payload,
    ) {
        // RFC 1122, section 3.2.2, and RFC 4443, section 2.4, which has one exception.
        let too_big = icmp::Error::TooBig { mtu: 0 }.header(false).kind;
        let is_exception = !quoted.path.dst.is_v4() && header.kind == too_big;
        if self.is_many(quoted.path.dst) && !is_exception {
            return;
        }
        let path = self.path(from, quoted.path.src, quoted.path.src_mac);
        let (mut headers, mut frame) = ([0; MAX_HEADERS], [0; MAX_HEADERS + ERROR_ROOM]);
        // Headers go in front of the payload once it is known how much of that there is.
        let body = {
            let mut data = Gather::new();
            self.append(payload, &mut data);
            let (_, body) = frame.split_at_mut(MAX_HEADERS);
            let copied = data.copy_out(0, body);
            &body[..copied]
        };
        let Some((len, rest)) = path.emit_error(&mut headers, header, quoted, body) else { return };
        let start = MAX_HEADERS - len;
        frame[start..MAX_HEADERS].copy_from_slice(&headers[..len]);
        self.send(&frame[start..MAX_HEADERS + rest]);
    }

    /// Tells the guest what happened to its packet `quoted`, which carried (at least) `payload`: on
    /// behalf of whoever said so, if the guest knows them, or else of the destination.
    pub(crate) fn report(&mut self, failure: &Failure, quoted: &Quoted, payload: &Payload) {
        let v4 = quoted.path.src.is_v4();
        let header = match header(failure, v4) {
            Ok(header) => header,
            Err(reason) => return self.dropped(reason),
        };
        let offender = failure.offender.map(|ip| Endpoint::new(ip, 0));
        let shown = offender.and_then(|at| self.guest.shown(Protocol::Echo, at));
        let from = shown.filter(|a| a.is_v4() == v4).unwrap_or(quoted.path.dst);
        self.icmp_error(from, header, quoted, payload);
    }
}

/// The header of the message that tells of `failure`: the network's own where it is for the guest,
/// or else what the kernel makes of it.
fn header(failure: &Failure, v4: bool) -> Result<icmp::Header, DropReason> {
    if matches!((failure.origin, v4), (Origin::Icmp, true) | (Origin::Icmpv6, false)) {
        let relayed = icmp::Header::relayed(v4, failure.kind, failure.code, failure.info);
        return relayed.ok_or(DropReason::IcmpForHost);
    }
    let error = match Errno::from_raw_os_error(failure.errno) {
        Errno::MSGSIZE => Some(icmp::Error::TooBig { mtu: failure.info }),
        errno => unreachable(errno),
    };
    error.map(|error| error.header(v4)).ok_or(DropReason::Socket)
}

/// What an error of the host's kernel is called in ICMP.
pub(crate) fn unreachable(error: Errno) -> Option<icmp::Error> {
    match error {
        Errno::CONNREFUSED => Some(icmp::Error::PortUnreachable),
        Errno::HOSTUNREACH | Errno::HOSTDOWN => Some(icmp::Error::HostUnreachable),
        // `EINVAL`: no way leads there from the source address that was chosen (net/ipv4/route.c).
        // `EADDRNOTAVAIL`: the host does not have that address.
        Errno::NETUNREACH | Errno::NETDOWN | Errno::INVAL | Errno::ADDRNOTAVAIL => {
            Some(icmp::Error::NetUnreachable)
        }
        Errno::ACCESS | Errno::PERM => Some(icmp::Error::Prohibited),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_in_a_second() {
        let mut now = Instant::from_millis(5);
        let mut limit = Limit::new(now);
        for _ in 0..3 {
            assert_eq!((0..5000).filter(|_| limit.is_allowed(now)).count(), 1000);
            now = now + Duration::from_millis(999);
            assert!(!limit.is_allowed(now));
            now = now + Duration::from_millis(1);
        }
    }

    #[test]
    fn errors_have_their_counterparts_in_icmp() {
        let table = [
            (Errno::CONNREFUSED, Some(icmp::Error::PortUnreachable)),
            (Errno::HOSTUNREACH, Some(icmp::Error::HostUnreachable)),
            (Errno::HOSTDOWN, Some(icmp::Error::HostUnreachable)),
            (Errno::NETUNREACH, Some(icmp::Error::NetUnreachable)),
            (Errno::NETDOWN, Some(icmp::Error::NetUnreachable)),
            (Errno::INVAL, Some(icmp::Error::NetUnreachable)),
            (Errno::ADDRNOTAVAIL, Some(icmp::Error::NetUnreachable)),
            (Errno::ACCESS, Some(icmp::Error::Prohibited)),
            (Errno::PERM, Some(icmp::Error::Prohibited)),
            (Errno::TIMEDOUT, None),
        ];
        for (errno, error) in table {
            assert_eq!(unreachable(errno), error, "{errno}");
        }
    }
}
