//! What the kernel keeps for each descriptor that is watched, and gives back with its events.

/// Most flows of a table: their numbers have so much room in a [`Token`].
pub const MAX_FLOWS: usize = 1 << 24;

/// Names a flow for as long as it lives; of no effect afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// The slot's number in the table of flows.
    pub index: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

/// Receiver of an event of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A descriptor of the link, by its number ([`Link::fd`](crate::link::Link::fd)).
    Link(u32),
    /// A flow's socket; the client's, where a flow has two.
    Flow(Handle),
    /// The second socket of a flow that bypasses the link.
    Second(Handle),
    /// A listening socket, by its number.
    Listener(u32),
    /// The socket that a UDP port of the guest has on the host.
    Mapping(Handle),
    /// A socket of a multicast group, by its number.
    Group(u32),
    /// The thread in the guest's namespace has done something.
    Inside,
    /// Something outside of the engine, by its number.
    External(u32),
}

impl Token {
    /// The 64 bits that the kernel keeps for a descriptor: kind, then the slot's number in as many
    /// bits as [`MAX_FLOWS`] needs, then all of its generation. So no event is ever taken for an
    /// older one's, and none is without a flow for as long as the flow lives.
    pub(super) fn encode(self) -> u64 {
        let (tag, high, low) = match self {
            Self::Link(number) => (0u64, 0, number),
            Self::Flow(handle) => (1, handle.index, handle.generation),
            Self::Second(handle) => (2, handle.index, handle.generation),
            Self::Listener(number) => (3, 0, number),
            Self::Inside => (5, 0, 0),
            Self::Mapping(handle) => (6, handle.index, handle.generation),
            Self::Group(number) => (7, 0, number),
            Self::External(number) => (4, 0, number),
        };
        tag << Self::TAG | u64::from(high) << Self::INDEX | u64::from(low)
    }

    /// Where the kind and the slot's number begin.
    const TAG: u32 = 56;
    const INDEX: u32 = 32;
    const _ROOM: () = assert!(MAX_FLOWS <= 1 << (Self::TAG - Self::INDEX));

    #[expect(clippy::cast_possible_truncation, reason = "the parts are taken apart")]
    pub(crate) fn decode(value: u64) -> Self {
        let low = value as u32;
        let index = (value >> Self::INDEX) as u32 & ((1 << (Self::TAG - Self::INDEX)) - 1);
        let handle = Handle { index, generation: low };
        match value >> Self::TAG {
            0 => Self::Link(low),
            1 => Self::Flow(handle),
            2 => Self::Second(handle),
            3 => Self::Listener(low),
            5 => Self::Inside,
            6 => Self::Mapping(handle),
            7 => Self::Group(low),
            _ => Self::External(low),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive() {
        let links = [Token::Link(0), Token::Link(1), Token::Link(u32::MAX)];
        let others =
            [Token::Listener(7), Token::Listener(u32::MAX), Token::Inside, Token::External(u32::MAX)];
        let others = others.into_iter().chain([Token::Group(3)]);
        for token in links.into_iter().chain(others) {
            assert_eq!(Token::decode(token.encode()), token);
        }
        let last = u32::try_from(MAX_FLOWS - 1).expect("a number");
        for index in [0, 1, last] {
            // The first use of a slot, some around each power of two, and the last.
            let around = (0..32).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
            for generation in around.chain([u32::MAX - 1, u32::MAX]) {
                let handle = Handle { index, generation };
                for token in [Token::Flow(handle), Token::Second(handle), Token::Mapping(handle)] {
                    assert_eq!(Token::decode(token.encode()), token);
                }
            }
        }
    }
}
