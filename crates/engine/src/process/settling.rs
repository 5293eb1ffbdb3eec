//! What a plan does to the sockets that listen when it takes effect, or is rolled back: a part in
//! each round, so that traffic goes on meanwhile.
//!
//! First comes what may fail: sockets that are in the way are closed and others opened in their
//! place, and new ones are watched. If something does fail, all of that is undone. Then others are
//! handed over, the rules are replaced, and sockets of rules that are gone are closed. Until its
//! turn comes, a socket serves whom it did before. Sockets that follow services wait for the end.
//!
//! Flows of datagrams through sockets that are gone end with the last part. If their clients are heard
//! before through what leads elsewhere now, they end at once (`dispatch::udp`).

use std::collections::{BTreeSet, VecDeque};
use std::io;

use passt_sys::alloc;

use super::{Process, Uncommitted};
use crate::forward::{Applied, Context, Extent, Former, Forward, HANDED_OVER, LATER, Place, Refusal, Stale};
use crate::link::Link;

/// Work of one part. On a machine of 2020 a unit takes some microseconds.
const PART: usize = 256;
/// What it takes of that to watch a socket, or to hand it over.
const WATCHED: usize = 1;
/// The same to close one.
const CLOSED: usize = 4;
/// The same to replace one by another.
const REPLACED: usize = 8;

/// A plan on its way into effect, or out of it.
pub(super) struct Settling {
    stage: Stage,
    applied: Applied,
    /// It takes effect as a whole, or not at all. Otherwise rules can be left out.
    is_whole: bool,
    /// A socket that is to take the place of others.
    late: Option<Place>,
    /// Sockets that are in the way of that.
    in_the_way: Vec<(u32, Former)>,
    /// Sockets closed because they were, as they are to be opened again on an error.
    replaced: VecDeque<(u32, Former)>,
    /// Rules, and ports that rules need not have, that can't be had.
    left_out: Vec<Refusal>,
    /// Numbers of new sockets.
    begun: Vec<u32>,
    /// Numbers of sockets whose rules are gone.
    close: Vec<u32>,
    /// Numbers of those that are not there any more.
    closed: BTreeSet<u32>,
}

/// What comes next.
enum Stage {
    /// It turns out whether it can take effect.
    Begin,
    /// Sockets take the place of others.
    Replace,
    /// New ones are watched.
    Watch,
    /// Others are handed over.
    HandOver,
    /// Those whose rules are gone are closed.
    Close,
    /// All becomes as it was, for this reason, if for any.
    Undo(Option<Uncommitted>),
    /// There is nothing left to do.
    Done(Result<(), Uncommitted>),
}

impl Settling {
    fn new(mut applied: Applied, is_whole: bool, stage: Stage) -> Self {
        // They are taken from the end.
        applied.open.reverse();
        applied.late.reverse();
        applied.takes.reverse();
        let (in_the_way, replaced, left_out) = (Vec::new(), VecDeque::new(), Vec::new());
        let (begun, close, closed) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { stage, applied, is_whole, late: None, in_the_way, replaced, left_out, begun, close, closed }
    }

    /// Whether the rule of this place need not have that port, and has another one, or may get one.
    fn has_others(&self, forward: &Forward, place: Place) -> bool {
        let Applied { open, takes, late, .. } = &self.applied;
        let is_of_rule = |other: &Place| other.rule == place.rule;
        !self.applied.is_strong(place)
            && (forward.sockets_of(place.rule) > 0
                || late.iter().any(is_of_rule)
                || takes.iter().any(|(_, taken)| is_of_rule(taken))
                || open.iter().any(|listener| is_of_rule(&listener.place)))
    }
}

/// What was done to sockets.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Why nothing has changed.
    pub(crate) result: Result<(), Uncommitted>,
    /// Numbers of those that are not there any more.
    pub(crate) closed: BTreeSet<u32>,
    /// Rules, and ports that rules need not have, that can't be had.
    pub(crate) left_out: Vec<Refusal>,
}

impl Default for Settled {
    fn default() -> Self {
        Self { result: Ok(()), closed: BTreeSet::new(), left_out: Vec::new() }
    }
}

impl Process {
    /// Begins to put a plan into effect whose sockets are open, as a `whole`, or as far as rules can
    /// be had.
    pub(crate) fn begin_commit(&mut self, applied: Applied, whole: bool) {
        self.settling = Some(Settling::new(applied, whole, Stage::Begin));
    }

    /// Begins to close what was opened for a plan.
    pub(crate) fn begin_roll_back(&mut self, applied: Applied) {
        self.settling = Some(Settling::new(applied, true, Stage::Undo(None)));
    }

    /// Does a part of what was begun; at the end, what was done. Nothing was begun: nothing was done.
    pub(crate) fn settle<L: Link>(&mut self, ctx: &mut Context<L>) -> Option<Settled> {
        let Some(mut settling) = self.settling.take() else { return Some(Settled::default()) };
        let mut work = 0;
        while work < PART {
            let (stage, done) = match std::mem::replace(&mut settling.stage, Stage::Close) {
                Stage::Begin => (self.begin_settling(&settling.applied), PART),
                Stage::Replace => self.replace_next(ctx, &mut settling),
                Stage::Watch => self.watch_next(ctx, &mut settling),
                Stage::HandOver => self.hand_over_next(ctx, &mut settling),
                Stage::Close => self.close_next(ctx, &mut settling),
                Stage::Undo(reason) => self.undo_next(ctx, &mut settling, reason),
                Stage::Done(result) => {
                    if std::mem::take(&mut self.missed) {
                        self.poll(ctx);
                    }
                    let Settling { closed, left_out, .. } = settling;
                    return Some(Settled { result, closed, left_out });
                }
            };
            settling.stage = stage;
            work += done;
        }
        self.settling = Some(settling);
        None
    }

    /// Whether a plan can take effect.
    fn begin_settling(&self, applied: &Applied) -> Stage {
        let opened = (applied.open.len() + 2 * applied.late.len()) * LATER;
        if !self.forward.is_current(applied) {
            return Stage::Undo(Some(Uncommitted::Stale(Stale)));
        }
        if !alloc::has_room_for(opened + applied.takes.len() * HANDED_OVER) {
            return Stage::Undo(Some(Uncommitted::Memory));
        }
        Stage::Replace
    }

    /// Closes a socket that is in the way of another, or opens that one if none is any more.
    fn replace_next<L: Link>(&mut self, ctx: &mut Context<L>, settling: &mut Settling) -> (Stage, usize) {
        if let Some((number, former)) = settling.in_the_way.pop() {
            if self.forward.is_open(number) {
                self.close(ctx, &[number]);
                settling.replaced.push_back((number, former));
            }
            return (Stage::Replace, CLOSED);
        }
        if let Some(place) = settling.late.take() {
            return (self.open_late(ctx, settling, place), REPLACED);
        }
        settling.late = settling.applied.late.pop();
        let Some(place) = settling.late else { return (Stage::Watch, 0) };
        if settling.applied.rules.get(place.rule).is_none() {
            settling.late = None;
            return (Stage::Replace, WATCHED);
        }
        settling.in_the_way = self.forward.in_the_way(&settling.applied, place);
        (Stage::Replace, 0)
    }

    /// Opens a socket that nothing of ours is in the way of any more.
    fn open_late<L: Link>(&mut self, ctx: &mut Context<L>, settling: &mut Settling, place: Place) -> Stage {
        let opened = self.forward.open(&settling.applied, place);
        let error = match opened.and_then(|listeners| self.listen_to_all(ctx, listeners)) {
            Ok(numbers) => {
                settling.begun.extend(numbers);
                return Stage::Replace;
            }
            Err(error) => error,
        };
        let is_left_out = is_in_use(&error) && settling.has_others(&self.forward, place);
        let Some(refusal) = settling.applied.refusal(place, error) else { return Stage::Replace };
        if is_left_out {
            settling.left_out.push(Refusal { extent: Extent::Part, ..refusal });
        } else if settling.is_whole {
            return Stage::Undo(Some(Uncommitted::Port(Box::new(refusal))));
        } else {
            // Whatever it has already goes with what is deleted.
            settling.applied.rules.remove(place.rule);
            settling.applied.delete.insert(place.rule);
            settling.left_out.push(refusal);
        }
        Stage::Replace
    }

    /// Watches a socket that was opened.
    fn watch_next<L: Link>(&mut self, ctx: &mut Context<L>, settling: &mut Settling) -> (Stage, usize) {
        let Some(listener) = settling.applied.open.pop() else { return (Stage::HandOver, 0) };
        if settling.applied.rules.get(listener.place.rule).is_none() {
            return (Stage::Watch, CLOSED);
        }
        match self.listen(ctx, listener) {
            Ok(number) => {
                settling.begun.push(number);
                (Stage::Watch, WATCHED)
            }
            Err(error) => (Stage::Undo(Some(Uncommitted::Watch(error))), WATCHED),
        }
    }

    /// Hands a socket over to the rule that it is for from now on.
    fn hand_over_next<L: Link>(&mut self, ctx: &mut Context<L>, settling: &mut Settling) -> (Stage, usize) {
        let Some(take) = settling.applied.takes.pop() else {
            let Applied { rules, delete, .. } = &mut settling.applied;
            settling.close = self.forward.take_effect(rules, delete);
            settling.closed.extend(settling.replaced.iter().map(|(number, _)| number));
            return (Stage::Close, PART);
        };
        if let Some((number, listener)) = self.forward.hand_over(&settling.applied, take) {
            ctx.hand_over(take.0, number, listener);
            if number != take.0 {
                settling.closed.insert(take.0);
            }
        }
        (Stage::HandOver, WATCHED)
    }

    /// Closes a socket whose rule is gone.
    fn close_next<L: Link>(&mut self, ctx: &mut Context<L>, settling: &mut Settling) -> (Stage, usize) {
        let Some(number) = settling.close.pop() else { return (Stage::Done(Ok(())), 0) };
        self.close(ctx, &[number]);
        settling.closed.insert(number);
        (Stage::Close, CLOSED)
    }

    /// Takes one thing back that was done.
    fn undo_next<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        settling: &mut Settling,
        reason: Option<Uncommitted>,
    ) -> (Stage, usize) {
        if let Some(number) = settling.begun.pop() {
            self.close(ctx, &[number]);
            settling.closed.insert(number);
            return (Stage::Undo(reason), CLOSED);
        }
        if settling.applied.open.pop().is_some() {
            return (Stage::Undo(reason), CLOSED);
        }
        if let Some((number, former)) = settling.replaced.pop_front() {
            self.restore(ctx, number, former);
            return (Stage::Undo(reason), REPLACED);
        }
        (Stage::Done(reason.map_or(Ok(()), Err)), 0)
    }

    /// Opens again what was closed, under the number that flows know it by.
    fn restore<L: Link>(&mut self, ctx: &mut Context<L>, number: u32, former: Former) {
        let mut listen = || {
            for listener in self.forward.reopen(former)? {
                let listener = self.forward.begun_again(number, listener);
                ctx.listen(number, listener)?;
            }
            io::Result::Ok(())
        };
        if let Err(error) = listen() {
            self.forward.ended(number);
            log::error!("Port {} is not forwarded any more: {error}", former.place.port);
        }
    }
}

/// Whether it is for somebody else that a port can't be had.
fn is_in_use(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}
