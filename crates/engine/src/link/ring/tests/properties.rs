//! Anything that a guest may do, in any order.

use proptest::prelude::*;

use super::*;

/// What a hostile guest, and an engine that minds its own business, may do.
#[derive(Clone, Debug)]
enum Operation {
    /// Writes to the rings, whose parts are at so many different places.
    Write(usize, Vec<u8>),
    /// Moves an index.
    Index(bool, u16),
    Post(usize),
    Send(usize, Vec<usize>),
    Switch(bool),
    Receive(u32),
    Transmit(usize, usize),
    Bare(usize),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        3 => (0usize..4096, prop::collection::vec(prop_oneof![Just(0), Just(1), Just(2), any::<u8>()], 1..32))
            .prop_map(|(at, bytes)| Operation::Write(at, bytes)),
        1 => (any::<bool>(), prop_oneof![0u16..40, any::<u16>()]).prop_map(|(queue, to)| Operation::Index(queue, to)),
        2 => (0usize..20).prop_map(Operation::Post),
        2 => (0usize..9000, prop::collection::vec(0usize..3000, 0..6)).prop_map(|(len, cuts)| Operation::Send(len, cuts)),
        1 => any::<bool>().prop_map(Operation::Switch),
        4 => (0u32..3).prop_map(Operation::Receive),
        2 => (1usize..70_000, 0usize..70_000).prop_map(|(room, filled)| Operation::Transmit(room, filled)),
        1 => (0usize..2000).prop_map(Operation::Bare),
    ];
    prop::collection::vec(one, 1..60)
}

fn perform(guest: &mut Guest, link: &mut RingLink, operation: Operation, spoilt: &mut bool) {
    match operation {
        Operation::Write(at, bytes) => {
            *spoilt = true;
            assert!(guest.region().copy_in(at, &bytes));
        }
        Operation::Index(queue, to) => {
            *spoilt = true;
            let layout = if queue { guest.transmit() } else { guest.receive() };
            assert!(guest.region().store(layout.available_index(), to));
        }
        Operation::Post(count) => guest.post_some(count),
        // The guest's own half would not understand its rings any more.
        Operation::Send(len, cuts) => {
            let _ = !*spoilt && guest.send(&packet(len), &cuts);
        }
        Operation::Switch(on) => guest.switch(if on { Caps::ALL } else { Caps::PLAIN }),
        Operation::Receive(ready) => {
            let count = link.receive(ready).unwrap();
            for index in 0..count {
                let Some(frame) = link.frame(index) else { continue };
                assert_eq!(frame.head.len(), frame.len.min(HEAD_LEN));
                let len = frame.len;
                assert!(frame.len <= MAX_FRAME && bytes(link, index, 0..len).starts_with(frame.head));
            }
        }
        Operation::Transmit(room, filled) => {
            let (header, offload, payload) = super_frame(filled.min(room).min(MAX_PAYLOAD));
            let lendable = link.lendable(header.len(), 1000);
            let mut into = Scatter::new();
            if link.reserve(header.len(), room.min(lendable), 1000, &mut into) && lendable > 0 {
                let len = into.copy_in(0, &payload);
                let _ = link.commit(&header, &offload, len);
            } else {
                assert!(lendable == 0, "{lendable}");
            }
        }
        Operation::Bare(len) => {
            let _ = link.send(&pattern(len));
        }
    }
}

proptest! {
    #[test]
    fn nothing_that_a_guest_writes_does_harm(operations in operations()) {
        let (mut guest, mut link) = Guest::pair(Shape { transmit: 16, receive: 16, buffer: 700 }, Caps::ALL).unwrap();
        let mut spoilt = false;
        for operation in operations {
            perform(&mut guest, &mut link, operation, &mut spoilt);
        }
    }

    /// Between well-behaved ends every frame arrives as it is, in order.
    #[test]
    fn frames_arrive(
        frames in prop::collection::vec((0usize..9000, prop::collection::vec(0usize..3000, 0..6)), 1..40),
        buffer in 20usize..3000,
    ) {
        let (mut guest, mut link) = pair(128, buffer, Caps::ALL);
        for (len, cuts) in frames {
            prop_assert!(guest.send(&packet(len), &cuts));
            prop_assert_eq!(link.receive(KICK).unwrap(), 1);
            prop_assert_eq!(link.frame(0).unwrap().len, len);
            prop_assert!(bytes(&link, 0, 0..len) == pattern(len));
            guest.post();
            let sent = link.send(&pattern(len));
            let fits = (MERGEABLE_LEN + len).div_ceil(buffer) <= 128;
            prop_assert_eq!(sent.is_ok(), fits);
            prop_assert!(guest.take().iter().all(|frame| *frame == packet(len)));
        }
    }
}
