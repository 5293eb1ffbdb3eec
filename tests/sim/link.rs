//! Links that misbehave: a chain of nodes, each of which delays, drops, repeats or reorders frames.

use std::collections::BTreeMap;

use passt_proto::time::{Duration, Instant};

/// A small generator of numbers that follow from a seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// True in `per_mille` of a thousand cases.
    pub(crate) fn chance(&mut self, per_mille: u16) -> bool {
        self.below(1000) < per_mille.into()
    }
}

/// What happens to frames at one place. Chances are in thousandths.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Delay(Duration),
    /// One after the other, each byte taking a time; ends when the last byte has passed.
    Rate {
        per_byte: Duration,
        free: Instant,
    },
    Loss(u16),
    Duplicate(u16),
    /// Some frames take longer, and others overtake them.
    Reorder(u16, Duration),
    /// Longer packets are dropped.
    Mtu(usize),
    /// No more than this many frames under way, as in a device's queue.
    Queue(usize),
    /// Drops the frames with these numbers, counted from 0.
    Drop(Vec<usize>),
}

/// A chain of nodes, and the frames on it.
#[derive(Debug, Default)]
pub(crate) struct Path {
    pub(crate) nodes: Vec<Node>,
    under_way: BTreeMap<(Instant, usize), Vec<u8>>,
    sent: usize,
    copies: usize,
}

impl Path {
    pub(crate) fn new(nodes: Vec<Node>) -> Self {
        Self { nodes, ..Self::default() }
    }

    pub(crate) fn send(&mut self, now: Instant, frame: &[u8], rng: &mut Rng) {
        let number = self.sent;
        self.sent += 1;
        let mut times = vec![now];
        for node in &mut self.nodes {
            times = times
                .into_iter()
                .flat_map(|at| node.pass(at, frame, number, self.under_way.len(), rng))
                .collect();
        }
        for at in times {
            self.copies += 1;
            self.under_way.insert((at, self.copies), frame.to_vec());
        }
    }

    /// When the next frame arrives.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.under_way.keys().next().map(|(at, _)| *at)
    }

    /// The next frame that has arrived.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<Vec<u8>> {
        let entry = self.under_way.first_entry().filter(|e| e.key().0 <= now)?;
        Some(entry.remove())
    }
}

impl Node {
    /// A byte each `nanos` nanoseconds.
    pub(crate) fn rate(nanos: u64) -> Self {
        Self::Rate { per_byte: Duration::from_nanos(nanos), free: Instant::ZERO }
    }

    /// When copies of a frame leave that came at `at`.
    fn pass(
        &mut self,
        at: Instant,
        frame: &[u8],
        number: usize,
        queued: usize,
        rng: &mut Rng,
    ) -> Vec<Instant> {
        let kept = |keep| if keep { vec![at] } else { vec![] };
        match self {
            Self::Delay(delay) => vec![at + *delay],
            Self::Rate { per_byte, free } => {
                let bytes = u32::try_from(frame.len()).expect("a frame");
                *free = at.max(*free) + *per_byte * bytes;
                vec![*free]
            }
            Self::Loss(chance) => kept(!rng.chance(*chance)),
            Self::Duplicate(chance) => vec![at; if rng.chance(*chance) { 2 } else { 1 }],
            Self::Reorder(chance, delay) => vec![if rng.chance(*chance) { at + *delay } else { at }],
            Self::Mtu(mtu) => kept(frame.len() <= *mtu),
            Self::Queue(limit) => kept(queued < *limit),
            Self::Drop(numbers) => kept(!numbers.contains(&number)),
        }
    }
}
