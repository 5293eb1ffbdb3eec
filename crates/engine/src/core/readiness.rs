//! Whether a socket that is reported ready has anything to tell.

use std::cell::Cell;
use std::io;

use rustix::event::epoll::EventFlags;

/// Events of one socket that led to nothing, one after the other. A socket that is watched
/// level-triggered and always ready, for a call that always fails, would keep the loop busy: a
/// socket that somebody shut down, or that a security module took away.
#[derive(Debug, Default)]
pub(crate) struct Futile(Cell<u8>);

impl Futile {
    /// More than happen by chance: what an event was about may have been dealt with before.
    const MOST: u8 = 16;

    /// Takes note of an event, and whether anything was `taken` from the socket; returns whether to
    /// give up.
    pub(crate) fn note(&self, taken: bool) -> bool {
        self.0.set(if taken { 0 } else { self.0.get().saturating_add(1) });
        self.0.get() > Self::MOST
    }
}

/// What sockets of datagrams are watched for, level-triggered. Not for room to send: nothing waits
/// for that.
pub(crate) const DATAGRAMS: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);

/// Whether a call after `events` took something from a socket of datagrams. If nothing was there
/// something had been, such as a datagram with a wrong checksum, unless the socket is shut down,
/// which it stays.
pub(crate) fn has_taken<T>(result: &io::Result<T>, events: EventFlags) -> bool {
    let is_shut = events.intersects(EventFlags::RDHUP | EventFlags::HUP);
    result.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock && !is_shut, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_lead_to_nothing() {
        let futile = Futile::default();
        for _ in 0..3 {
            assert!(!(0..Futile::MOST).any(|_| futile.note(false)));
            assert!(!futile.note(true));
        }
        assert!(!(0..Futile::MOST).any(|_| futile.note(false)));
        assert!(futile.note(false));
        for _ in 0..500 {
            assert!(futile.note(false));
        }

        let nothing = || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
        let failure = || Err::<(), _>(io::Error::from(io::ErrorKind::NotConnected));
        for (result, events, taken) in [
            (Ok(()), EventFlags::IN, true),
            (Ok(()), EventFlags::IN | EventFlags::HUP, true),
            (nothing(), EventFlags::IN, true),
            (nothing(), EventFlags::IN | EventFlags::HUP, false),
            (nothing(), EventFlags::IN | EventFlags::RDHUP, false),
            (failure(), EventFlags::IN, false),
        ] {
            assert_eq!(has_taken(&result, events), taken, "{result:?} {events:?}");
        }
    }
}
