//! What is done by the clock rather than for a flow: making ourselves known to the guest, router
//! advertisements.

use passt_proto::drop::DropReason;
use passt_proto::responder::{self, Services, arp, ndp};
use passt_proto::time::{Duration, Instant};

use crate::core::Core;
use crate::link::Link;

/// Time between two questions for the guest's addresses at least.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Chores {
    /// The guest is to be asked for its addresses.
    solicit: Option<Instant>,
    /// When it was asked last.
    asked: Option<Instant>,
    advertise: Option<Instant>,
    random: u64,
}

impl Chores {
    pub(super) fn new(services: &responder::Config, random: u64, now: Instant) -> Self {
        let advertises = services.services.contains(Services::NDP | Services::RA) && services.v6.is_some();
        let mut chores =
            Self { solicit: Some(now), asked: None, advertise: advertises.then_some(now), random };
        let ra = &services.custom.ra;
        if !ra.unasked {
            let later = now + chores.interval(ra.interval());
            chores.advertise = chores.advertise.and(Some(later));
        }
        chores
    }

    /// Has the guest asked and told at once, as at the start.
    pub(super) fn greet(&mut self, now: Instant) {
        self.solicit = Some(now);
        self.advertise = self.advertise.and(Some(now));
    }

    /// Has the guest asked for its addresses, at most once a second.
    pub(super) fn ask(&mut self, now: Instant) {
        let at = self.asked.map_or(now, |asked| now.max(asked + AGAIN));
        self.solicit = Some(self.solicit.map_or(at, |due| due.min(at)));
    }

    /// When there is something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.solicit, self.advertise].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) fn run<L: Link>(&mut self, core: &mut Core<L>) {
        let now = core.now;
        if self.solicit.take_if(|due| *due <= now).is_some() {
            self.asked = Some(now);
            send(core, arp::request);
            send(core, ndp::solicit);
        }
        if self.advertise.is_some_and(|due| due <= now) {
            send(core, ndp::unsolicited_ra);
            self.advertise = Some(now + self.interval(core.services.custom.ra.interval()));
        }
    }

    /// A random interval, so that advertisements of many instances do not come together. Bounds are
    /// in seconds.
    fn interval(&mut self, (min, max): (u64, u64)) -> Duration {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Duration::from_secs(min + (self.random >> 33) % max.saturating_sub(min).max(1))
    }
}

/// Sends a frame of a responder's own accord, if its service is on.
fn send<L: Link>(
    core: &mut Core<L>,
    write: fn(&passt_proto::responder::Config, &mut [u8]) -> Result<usize, DropReason>,
) {
    let mut frame = [0; 1514];
    if let Ok(len) = write(&core.services, &mut frame) {
        core.send(&frame[..len]);
    }
}
