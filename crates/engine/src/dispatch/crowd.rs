//! Who goes when a listening socket has as many connections under way as it may have: those that
//! nobody will miss, and those of a source that has more than others.
//!
//! A client that has finished, with or without data, is served as long as there are places. It goes
//! once its source has been without an answer for a second; so a guest that answers, if late, loses
//! none. Clients that still wait go only if their source is a crowd: more than its share of them
//! have waited for some seconds.
//!
//! In either case the newest goes that the guest has had time to answer, or where none had, the one
//! that had most. As long as the older ones wait, they show that their source is not answered. So
//! the crowd's clients in the backlog pass without a wait of their own, which whoever is behind
//! them would have to share. As they may leave, the last source of which one had to go is kept in
//! mind for some seconds, or until the guest answers it. A guest that answers again, having been
//! paused, serves those that come then, unless they are more at once than there are places. Where
//! many sources have a share each, and nobody more, one goes that has waited for some seconds, of
//! the source with most of those.

use arrayvec::ArrayVec;
use passt_proto::time::{Duration, Instant};

use super::{Engine, Flow};
use crate::flow::Via;
use crate::flow::inbound::InboundClass;
use crate::forward::Context;
use crate::forward::pressure::{Client, OPENING, Ticket};
use crate::link::Link;

/// Connections under way of one source that are left alone.
const SHARE: usize = OPENING as usize / 16;
/// Those that are always left alone, even where many sources have no more than their share.
const FEW: usize = 4;
/// A connection that has waited for so long is not answered: the first SYN went unheard, and for
/// those of a crowd the second.
const UNANSWERED: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// One that is younger may be answered yet, whatever others were.
const YOUNG: Duration = Duration::from_millis(200);

/// A connection that is being established.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    /// Address or network that counts as one client.
    source: Client,
    since: Instant,
    slot: u32,
    /// The client has sent all it wanted to.
    finished: bool,
    /// Its source was not answered when it was tried before.
    unheard: bool,
    /// It comes from another place than this machine.
    remote: bool,
}

impl<L: Link> Engine<L> {
    /// The slot of the connection that `number` has under way and that goes for another one, if
    /// there is one.
    pub(super) fn first_to_go(&mut self, number: u32) -> Option<u32> {
        let Self { ctx: Context { core, ports }, flows, .. } = self;
        let listener = ports.listeners.get(number)?;
        if listener.searched.get().is_some_and(|until| until > core.now) {
            return None;
        }
        let mut waiting = ArrayVec::<Waiting, { OPENING as usize }>::new();
        for (slot, since) in ports.inbound.unanswered(InboundClass::connections(listener.side), number) {
            let Some((key, flow)) = flows.at(slot).and_then(|handle| flows.get(handle)) else { continue };
            if let Some((ticket, finished)) = flow.opening()
                && listener.opening.issued(ticket)
            {
                let (source, remote) = (Client::from(key.remote.addr), key.via == Via::Link);
                let unheard = listener.opening.is_unheard(source, core.now);
                let _full = waiting.try_push(Waiting { source, since, slot, finished, unheard, remote });
            }
        }
        let chosen = choose(&mut waiting, core.now);
        match chosen {
            // Kept in mind: those that showed it may go away.
            Some(one) => listener.opening.unheard(one.source, core.now),
            None => listener.searched.set(Some(ports.pressure.pause(core.now))),
        }
        chosen.map(|one| one.slot)
    }
}

impl Flow {
    fn opening(&self) -> Option<(&Ticket, bool)> {
        match self {
            Self::Tcp(flow) => flow.opening(),
            Self::Splice(flow) => flow.opening(),
            Self::Udp(_) | Self::Echo(_) => None,
        }
    }
}

/// The connection that goes first, if one may go.
fn choose(waiting: &mut [Waiting], now: Instant) -> Option<Waiting> {
    waiting.sort_unstable();
    let had_time = |one: &&Waiting| one.since + YOUNG <= now;
    let newest = |those: &[Waiting], may: &dyn Fn(&&Waiting) -> bool| {
        those.iter().filter(may).rfind(had_time).copied()
    };
    // Where none had time, the one that had most: a flood has no more than the guest could have
    // answered meanwhile, and nobody behind it waits.
    let oldest = |those: &[Waiting], may: &dyn Fn(&&Waiting) -> bool| those.iter().find(may).copied();
    let next = finished(waiting, now, &newest).or_else(|| crowding(waiting, now, &newest));
    let next = next.or_else(|| finished(waiting, now, &oldest)).or_else(|| crowding(waiting, now, &oldest));
    next.or_else(|| many(waiting, now))
}

/// How one of those that may go is found.
type Search<'a> = &'a dyn Fn(&[Waiting], &dyn Fn(&&Waiting) -> bool) -> Option<Waiting>;

/// One that has finished, of a source that is not answered.
fn finished(waiting: &[Waiting], now: Instant, search: Search<'_>) -> Option<Waiting> {
    let [time, _] = UNANSWERED;
    by_source(waiting)
        .filter(|of| is_unanswered(of.first(), time, now) || of.iter().any(|one| one.unheard))
        .find_map(|of| search(of, &|one| one.finished))
}

/// One of the greediest source that is a crowd.
fn crowding(waiting: &[Waiting], now: Instant, search: Search<'_>) -> Option<Waiting> {
    let [_, time] = UNANSWERED;
    let of = by_source(waiting)
        .filter(|of| of.first().is_some_and(|first| first.remote))
        .filter(|of| of.get(SHARE).is_some_and(|one| one.unheard) || is_unanswered(of.get(SHARE), time, now))
        .max_by_key(|of| of.len())?;
    // Without so many that have waited there would be no crowd for the next client.
    let (crowd, others) = of.split_at(SHARE + 1);
    search(if others.is_empty() { &crowd[SHARE..] } else { others }, &|_| true)
}

/// Where no source has more than its share, and yet there is no room: the newest that has waited
/// for long, of the source that has most. One that has a few connections is no part of this.
fn many(waiting: &[Waiting], now: Instant) -> Option<Waiting> {
    let [_, time] = UNANSWERED;
    let of = by_source(waiting)
        .filter(|of| of.len() > FEW && of.first().is_some_and(|first| first.remote))
        .max_by_key(|of| of.iter().filter(|one| is_unanswered(Some(one), time, now)).count())?;
    of.iter().rfind(|one| is_unanswered(Some(one), time, now)).copied()
}

fn by_source(waiting: &[Waiting]) -> impl Iterator<Item = &[Waiting]> {
    waiting.chunk_by(|a, b| a.source == b.source)
}

fn is_unanswered(one: Option<&Waiting>, time: Duration, now: Instant) -> bool {
    one.is_some_and(|one| one.since + time <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections of a source, each as `(seconds since it began, finished)`.
    fn of(source: u8, connections: &[(u64, bool)]) -> Vec<Waiting> {
        let one = |(&(age, finished), slot): (&(u64, bool), u32)| Waiting {
            source: Client(source.into()),
            since: Instant::from_millis((100 - age) * 1000),
            slot: u32::from(source) * 1000 + slot,
            finished,
            unheard: false,
            remote: true,
        };
        connections.iter().zip(0..).map(one).collect()
    }

    fn go(sources: &[Vec<Waiting>]) -> Option<u32> {
        choose(&mut sources.concat(), Instant::from_millis(100_000)).map(|one| one.slot)
    }

    #[test]
    fn those_whom_nobody_will_miss_go_first() {
        assert_eq!(go(&[]), None);
        assert_eq!(go(&[of(1, &[(0, true); 200])]), None, "the guest may be about to answer");
        let young = of(1, &[(2, true), (1, true), (1, false), (0, true)]);
        assert_eq!(go(&[young]), Some(1001), "the newest that finished and may have been answered");
        assert_eq!(go(&[of(1, &[(2, false), (1, true)]), of(2, &[(0, true)])]), Some(1001));
        assert_eq!(go(&[of(1, &[(60, false); FEW]), of(2, &[(60, false); FEW])]), None, "few are left alone");
        let shares =
            [of(1, &[(60, false); SHARE - 1]), of(2, &[(60, false); SHARE]), of(3, &[(60, false); FEW])];
        assert_eq!(go(&shares), Some(2015), "where there is no crowd, of those that have most");
        assert_eq!(go(&[of(1, &[(2, false); SHARE])]), None);
        let many = [of(1, &[(3, false); SHARE + 1]), of(2, &[(5, false); SHARE + 9]), of(3, &[(60, false)])];
        assert_eq!(go(&many), Some(2000 + 24), "the newest of the greediest");
        assert_eq!(go(&[of(1, &[(2, false); 200])]), None);
        let late = [vec![(9, false); SHARE], vec![(2, false); 200]].concat();
        assert_eq!(go(&[of(1, &late)]), Some(1015), "no crowd yet, but some have waited");
        let crowd = [vec![(9, false); SHARE + 1], vec![(1, false); 9], vec![(0, false); 200]].concat();
        assert_eq!(go(&[of(1, &crowd)]), Some(1025), "without another wait, but for the time to answer");
        let mut unheard = of(1, &[(0, true), (0, true)]);
        unheard[0].unheard = true;
        assert_eq!(go(&[unheard.clone()]), Some(1000), "others of its source were not answered");
        unheard[1].since = Instant::from_millis(100_000 - 200);
        unheard[0].since = Instant::from_millis(100_000 - 300);
        assert_eq!(go(&[unheard]), Some(1001), "both may have been");
        let mut seen = of(1, &[(2, false); SHARE + 9]);
        for one in &mut seen {
            one.unheard = true;
        }
        assert_eq!(go(&[seen]), Some(1024), "it was a crowd before");
        let flood = [vec![(9, false); SHARE + 1], vec![(0, false); 200]].concat();
        assert_eq!(go(&[of(1, &flood)]), Some(1017), "nobody waits for it");
        let local = of(1, &[(60, false); 200]).into_iter().map(|one| Waiting { remote: false, ..one });
        assert_eq!(go(&[local.collect()]), None, "what comes from loopback is of one source");
    }
}
