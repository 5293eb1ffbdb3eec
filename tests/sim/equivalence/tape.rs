//! What a run does: numbers from a seed, or bytes that a fuzzer wrote.

/// A source of choices.
pub(crate) enum Tape<'a> {
    /// Bytes, until they end.
    #[cfg_attr(test, expect(dead_code, reason = "a fuzzer's"))]
    Bytes(&'a [u8]),
    /// Numbers that follow from a state (splitmix64).
    #[cfg_attr(not(test), expect(dead_code, reason = "of the tests alone"))]
    Seed(u64),
}

impl Tape<'_> {
    /// Whether there is nothing left to choose from.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Bytes([]))
    }

    fn next(&mut self, bytes: usize) -> u64 {
        match self {
            Self::Bytes(all) => {
                let (head, rest) = all.split_at(bytes.min(all.len()));
                *all = rest;
                head.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
            }
            Self::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        }
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let bytes = if bound <= 256 { 1 } else { 4 };
        u32::try_from(self.next(bytes) % u64::from(bound.max(1))).expect("below it")
    }

    /// A place in a list of `len` things.
    pub(crate) fn pick(&mut self, len: usize) -> usize {
        self.below(u32::try_from(len).expect("a short list")) as usize
    }

    /// True in one of `n` cases.
    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// Any number.
    pub(crate) fn any(&mut self) -> u32 {
        u32::try_from(self.next(4) & 0xffff_ffff).expect("32 bits")
    }

    /// A length up to `most`: each order of magnitude is as likely as any other.
    pub(crate) fn len(&mut self, most: u32) -> u32 {
        if most == 0 {
            return 0;
        }
        let bits = self.below(u32::BITS - most.leading_zeros() + 1);
        let bound = most.min((1u64 << bits).try_into().unwrap_or(most));
        1 + self.below(bound)
    }
}
