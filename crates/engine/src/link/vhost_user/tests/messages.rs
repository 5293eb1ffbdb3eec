//! What a front end may say, in any order, and what it is told.

use std::os::fd::AsFd as _;

use passt_sys::iovec::Scatter;
use proptest::prelude::*;

use super::*;

/// Whether a message was obeyed.
fn tell(machine: &Machine, link: &mut VhostUserLink, request: u32, numbers: &[u64]) -> bool {
    let (answered, outcome) = ask(machine, link, request, &words(numbers), &[]).unwrap();
    assert_eq!(answered, request);
    assert!(outcome <= 1);
    outcome == 0
}

fn agreed() -> (Machine, VhostUserLink) {
    let (machine, mut link) = silent(everything());
    assert!(ask(&machine, &mut link, 1, &[], &[]).is_some());
    assert!(ask(&machine, &mut link, 16, &words(&[ProtocolFeatures::REPLY_ACK.bits()]), &[]).is_some());
    (machine, link)
}

#[test]
fn questions_are_answered_whatever_is_wanted() {
    let (machine, mut link) = silent(everything());
    let features = Features::OFFERED | Features::MTU | Features::LOG_ALL;
    let protocol = ProtocolFeatures::OFFERED | ProtocolFeatures::NET_MTU;
    for need_reply in [false, true] {
        for (request, expected) in
            [(1, features.bits()), (15, protocol.bits()), (17, 16), (36, 32), (40, 0), (42, 0x101), (43, 1)]
        {
            machine.request(request, need_reply, &[], &[]);
            listen(&mut link);
            assert_eq!(machine.number(), Some((request, expected)), "{request}");
        }
        for (request, payload, expected) in [
            (11, words(&[pair(1, 0)]), words(&[pair(1, 0)])),
            (11, words(&[pair(77, 0)]), words(&[pair(77, 0)])),
            (31, vec![], vec![0; 20]),
            (24, [3u32, 0, 0].map(u32::to_ne_bytes).concat(), [3u32, 0, 0].map(u32::to_ne_bytes).concat()),
        ] {
            machine.request(request, need_reply, &payload, &[]);
            listen(&mut link);
            assert_eq!(machine.answer(), Some((request, expected)), "{request}");
        }
        assert_eq!(machine.answer(), None);
    }
}

#[test]
fn orders_are_answered_if_that_was_agreed() {
    let (machine, mut link) = silent(everything());
    machine.numbers(3, true, &[]);
    listen(&mut link);
    assert_eq!(machine.answer(), None);
    let (machine, mut link) = agreed();
    for (request, numbers, obeyed) in [
        (3, vec![], true),
        (4, vec![], true),
        (2, vec![Features::OFFERED.bits()], true),
        (2, vec![Features::OFFERED.bits() | Features::MTU.bits()], true),
        (2, vec![1 << 26], true),
        (2, vec![1 << 27], false),
        (2, vec![1 << 34], false),
        (2, vec![1 << 63], false),
        // A log without its file, and who is told of it.
        (6, vec![4096, 0], false),
        (7, vec![], true),
        // Nothing that is under way, and no memory that comes later.
        (32, vec![0, 0, 0], false),
        (28, vec![], false),
        (29, vec![], false),
        (30, vec![], false),
        // Not offered, or known to nobody.
        (21, vec![], false),
        (22, vec![], false),
        (23, vec![], false),
        (25, vec![0, 0], false),
        (35, vec![0], false),
        (41, vec![], false),
        (44, vec![], false),
        (0, vec![], false),
        (1000, vec![], false),
        // Queues that there are not.
        (8, vec![pair(32, 256)], false),
        (9, vec![pair(32, 0), 0, 0, 0, 0], false),
        (10, vec![pair(32, 0)], false),
        (18, vec![pair(32, 1)], false),
        (18, vec![pair(u32::MAX, 0)], false),
        (12, vec![32 | 1 << 8], false),
        (13, vec![32 | 1 << 8], false),
        (14, vec![0xff | 1 << 8], false),
        // Queues that a front end may set up, and never use.
        (8, vec![pair(31, 256)], true),
        (18, vec![pair(31, 1)], true),
        (13, vec![31 | 1 << 8], true),
        // Sizes.
        (8, vec![0], false),
        (8, vec![pair(0, 3)], false),
        (8, vec![pair(0, 65_536)], false),
        (8, vec![pair(0, 32_768)], true),
        (8, vec![pair(0, 1)], true),
        (10, vec![pair(0, 65_536)], false),
        (10, vec![pair(0, 65_535)], true),
        // Without the descriptor that it says is there; and without one.
        (12, vec![0], false),
        (13, vec![0], false),
        (14, vec![0], false),
        (12, vec![1 << 8], false),
        (13, vec![1 << 8], true),
        (14, vec![1 << 8], true),
        (18, vec![pair(0, 1)], true),
        (18, vec![0], true),
        (19, vec![0], true),
        (20, vec![1499], false),
        (20, vec![1500], true),
        (39, vec![15], true),
        (34, vec![], true),
        // Too short.
        (2, vec![], false),
        (6, vec![8], false),
        (8, vec![], false),
        (9, vec![0, 0], false),
    ] {
        assert_eq!(tell(&machine, &mut link, request, &numbers), obeyed, "{request} {numbers:x?}");
    }
    assert_eq!(machine.answer(), None);
    assert!(link.is_connected());
}

/// Some front ends complain where the back end has configuration, others depend on it.
#[test]
fn configuration_is_for_those_that_need_it() {
    for (orders, expected) in [(&[3, 15][..], true), (&[15], false), (&[1, 3, 15], false)] {
        let (machine, mut link) = silent(everything());
        for &request in orders {
            machine.numbers(request, false, &[]);
        }
        listen(&mut link);
        let (_, offered) = std::iter::from_fn(|| machine.number()).last().unwrap();
        let has_config = ProtocolFeatures::from_bits_retain(offered).contains(ProtocolFeatures::CONFIG);
        assert_eq!(has_config, expected);
    }
    let (machine, mut link) = silent(everything());
    let range = |offset: u32, size: u32| [offset, size, 0].map(u32::to_ne_bytes).concat();
    for (offset, size, expected) in
        [(6, 6, &[1, 0, 8, 0, 220, 5][..]), (250, 6, &[0; 6]), (250, 7, &[]), (u32::MAX, 2, &[])]
    {
        machine.request(24, false, &range(offset, size), &[]);
        listen(&mut link);
        let (_, content) = machine.answer().unwrap();
        let len = u32::try_from(expected.len()).unwrap();
        assert_eq!(content, [range(offset, len).as_slice(), expected].concat(), "{size} at {offset}");
    }
}

/// A driver refuses a device that has several queues, or announces its guest, and has no control
/// queue: that is the front end's, and some have none.
#[test]
fn what_needs_a_control_queue_is_for_those_that_have_one() {
    let controlled = Features::MQ | Features::GUEST_ANNOUNCE;
    for (orders, expected) in [(&[3, 1][..], Features::empty()), (&[1], controlled), (&[1, 3, 1], controlled)]
    {
        let (machine, mut link) = silent(everything());
        for &request in orders {
            machine.numbers(request, false, &[]);
        }
        listen(&mut link);
        let (_, offered) = std::iter::from_fn(|| machine.number()).last().unwrap();
        assert_eq!(Features::from_bits_retain(offered) & controlled, expected, "{orders:?}");
    }
}

#[test]
fn status_is_kept() {
    let (machine, mut link) = agreed();
    assert!(tell(&machine, &mut link, 39, &[11]));
    assert_eq!(ask(&machine, &mut link, 40, &[], &[]), Some((40, 11)));
    assert!(tell(&machine, &mut link, 39, &[0]));
    assert_eq!(ask(&machine, &mut link, 40, &[], &[]), Some((40, 0)));
}

/// A table that can't be had leaves the one that there is.
#[test]
fn tables_of_memory_that_make_no_sense() {
    let (mut machine, mut link) = started(everything());
    let file = machine.memory();
    let [first, second] = machine.regions();
    let table = |regions: &[[u64; 4]]| {
        words(&[&[pair(u32::try_from(regions.len()).unwrap(), 0)], regions.as_flattened()].concat())
    };
    let with = |at: usize, value| {
        let mut region = first;
        region[at] = value;
        region
    };
    let pipe = rustix::pipe::pipe().unwrap().0;
    let bad: Vec<(Vec<u8>, Vec<BorrowedFd<'_>>)> = vec![
        (table(&[first, second]), vec![file]),
        (table(&[first]), vec![file, file]),
        (table(&[first]), vec![]),
        (table(&[first, first]), vec![file, file]),
        (table(&[with(1, 0)]), vec![file]),
        (table(&[with(1, u64::MAX)]), vec![file]),
        (table(&[with(0, u64::MAX)]), vec![file]),
        (table(&[with(2, u64::MAX)]), vec![file]),
        (table(&[with(3, u64::MAX)]), vec![file]),
        (table(&[with(3, first[1] + 4096)]), vec![file]),
        (table(&[first]), vec![pipe.as_fd()]),
        (words(&[pair(33, 0)]), vec![]),
        (words(&[pair(2, 0), 0]), vec![]),
    ];
    for (payload, files) in bad {
        assert_eq!(ask(&machine, &mut link, 5, &payload, &files), Some((5, 1)));
        assert_eq!(link.device.memory.regions(), 2);
    }
    machine.post();
    assert_eq!(link.send(&pattern(60)), Ok(()));
    assert_eq!(machine.take().len(), 1);
}

/// Regions come and go one by one, and queues wait while they are nowhere.
#[test]
fn regions_one_by_one() {
    let (mut machine, mut link) = started(everything());
    machine.post();
    assert_eq!(link.send(&pattern(60)), Ok(()));
    let [first, second] = machine.regions();
    let message = |region: [u64; 4]| words(&[&[0], region.as_slice()].concat());
    let file = machine.memory().try_clone_to_owned().unwrap();
    for round in 0..3 {
        assert_eq!(ask(&machine, &mut link, 38, &message(first), &[file.as_fd()]), Some((38, 0)));
        assert_eq!(ask(&machine, &mut link, 38, &message(first), &[]), Some((38, 1)));
        assert_eq!(link.send(&pattern(60)), Err(DropReason::LinkWrite));
        assert!(machine.send(&packet(60), &[]) && link.receive(CONTROL).unwrap() == 0);
        assert_eq!(ask(&machine, &mut link, 37, &message(first), &[]), Some((37, 1)), "no descriptor");
        let added = ask(&machine, &mut link, 37, &message(first), &[file.as_fd()]);
        assert_eq!(added, Some((37, 0)));
        assert_eq!(ask(&machine, &mut link, 37, &message(first), &[file.as_fd()]), Some((37, 1)), "twice");
        assert_eq!(link.device.frame(0).map(|frame| frame.len), None, "a batch that has ended");
        assert_eq!(link.send(&pattern(61)), Ok(()));
        assert_eq!(machine.take().len(), if round == 0 { 2 } else { 1 });
        machine.post();
    }
    assert_eq!(ask(&machine, &mut link, 38, &message(second), &[]), Some((38, 0)));
}

/// The order is the front end's: each of these sets up a device that works.
#[test]
fn any_order() {
    let steps: [&dyn Fn(&Machine); 6] = [
        &|machine| machine.features(),
        &|machine| machine.table(),
        &|machine| machine.queue(RECEIVE, 0),
        &|machine| machine.queue(TRANSMIT, 0),
        &|machine| machine.numbers(18, false, &[pair(RECEIVE, 1)]),
        &|machine| machine.numbers(18, false, &[pair(TRANSMIT, 1)]),
    ];
    for rotation in 0..steps.len() {
        for reverse in [false, true] {
            let (mut machine, mut link) = silent(everything());
            let mut order = steps;
            order.rotate_left(rotation);
            if reverse {
                order.reverse();
            }
            for step in order {
                step(&machine);
            }
            listen(&mut link);
            machine.post();
            assert!(machine.send(&packet(60), &[]));
            assert_eq!(listen(&mut link), 1, "{rotation} {reverse}");
            assert_eq!(link.send(&pattern(60)), Ok(()), "{rotation} {reverse}");
            assert_eq!(machine.take().len(), 1);
        }
    }
}

/// A front end that does not speak of features of the protocol has its queues enabled.
#[test]
fn without_features_of_the_protocol() {
    let shape = Shape { features: Features::VERSION_1 | Features::MRG_RXBUF, ..everything() };
    let (mut machine, mut link) = silent(shape);
    machine.features();
    machine.table();
    machine.queue(RECEIVE, 0);
    machine.queue(TRANSMIT, 0);
    listen(&mut link);
    machine.post();
    assert!(machine.send(&packet(60), &[]));
    assert_eq!((listen(&mut link), link.send(&pattern(60))), (1, Ok(())));
}

#[test]
fn drivers_of_before_virtio_1_are_not_served() {
    let shape = Shape { features: Features::PROTOCOL_FEATURES, ..everything() };
    let (mut machine, mut link) = started(shape);
    machine.post();
    assert_eq!(link.send(&pattern(60)), Err(DropReason::LinkWrite));
}

/// Messages arrive in pieces, and many at once.
#[test]
fn pieces_of_messages() {
    let (machine, mut link) = silent(everything());
    let socket = machine.hang_up();
    let header = |request: u32, size: u32| [request, 1, size].map(u32::to_ne_bytes).concat();
    let message = [header(16, 8), words(&[0])].concat();
    for byte in &message {
        assert!(link.is_connected());
        listen(&mut link);
        std::io::Write::write_all(&mut &socket, std::slice::from_ref(byte)).unwrap();
    }
    let many = [message.as_slice(), &header(1, 0)].concat().repeat(100);
    std::io::Write::write_all(&mut &socket, &many).unwrap();
    let mut answers = vec![0; 100 * 20];
    for _ in 0..4 {
        listen(&mut link);
    }
    std::io::Read::read_exact(&mut &socket, &mut answers).unwrap();
    let again = std::io::Read::read(&mut &socket, &mut answers);
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// What is no message of the protocol ends the connection, and so does its end.
#[test]
fn what_ends_a_connection() {
    let header = |request: u32, flags: u32, size: u32| [request, flags, size].map(u32::to_ne_bytes).concat();
    for (bytes, expected) in [
        (header(1, 0, 0), io::ErrorKind::InvalidData),
        (header(1, 2, 0), io::ErrorKind::InvalidData),
        (header(1, 5, 0), io::ErrorKind::InvalidData),
        (header(1, 1, 4097), io::ErrorKind::InvalidData),
        (header(2, 1, 8), io::ErrorKind::UnexpectedEof),
        (vec![], io::ErrorKind::UnexpectedEof),
    ] {
        let (machine, mut link) = started(everything());
        let socket = machine.hang_up();
        std::io::Write::write_all(&mut &socket, &bytes).unwrap();
        drop(socket);
        assert_eq!(link.receive(CONTROL).unwrap_err().kind(), expected);
        assert!(!link.is_connected() && link.device.memory.regions() == 0);
        assert!(link.has_new_fds() && link.fd(CONTROL).is_some(), "it is watched until the core has looked");
        link.renew_fds();
        assert!(link.fd(CONTROL).is_none());
        assert_eq!(link.receive(CONTROL).unwrap(), 0);
        assert_eq!(link.send(&pattern(60)), Err(DropReason::LinkWrite));
        assert!(link.is_congested());
        // The next one finds a device that nobody has used.
        let mut machine = next(&mut link);
        assert!(machine.send(&packet(60), &[]));
        assert_eq!((listen(&mut link), link.send(&pattern(60))), (1, Ok(())));
    }
}

/// More than any message has, and more than messages have in all: none is left open.
#[test]
fn descriptors_are_counted_and_closed() {
    let (machine, mut link) = silent(everything());
    let file = shared_file();
    let references = || {
        use std::os::unix::fs::MetadataExt as _;
        let inode = rustix::fs::fstat(&file).unwrap().st_ino;
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter(|entry| std::fs::metadata(entry.path()).is_ok_and(|file| file.ino() == inode)).count()
    };
    for request in [1, 3, 12, 13, 14, 38, 6, 7, 21, 1000] {
        machine.request(request, false, &words(&[0, 0, 0, 0, 0]), &[file.as_fd(); 32]);
        listen(&mut link);
        assert_eq!(references(), 1, "{request}");
    }
    machine.request(5, false, &words(&[0]), &[file.as_fd(); 33]);
    assert_eq!(link.receive(CONTROL).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(references(), 1);
}

fn shared_file() -> OwnedFd {
    passt_sys::shared::memory(4096).unwrap()
}

/// A front end that takes its memory away is seen off, and nobody else notices.
#[test]
fn memory_that_becomes_shorter() {
    passt_sys::shared::survive_faults().unwrap();
    let (machine, mut link) = started(everything());
    let file = rustix::fs::memfd_create("machine", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let half = machine.regions()[0][1];
    rustix::fs::ftruncate(&file, 2 * half).unwrap();
    let regions = machine.regions();
    let table = words(&[&[pair(2, 0)], regions.as_flattened()].concat());
    assert_eq!(ask(&machine, &mut link, 5, &table, &[file.as_fd(); 2]), Some((5, 0)));
    rustix::fs::ftruncate(&file, 0).unwrap();
    assert_eq!(link.send(&pattern(60)).ok(), None);
    link.flush();
    let error = link.receive(CONTROL).unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof));
    assert!(!link.is_connected());
}

#[derive(Clone, Debug)]
enum Step {
    Message(u32, Vec<u64>, usize, bool),
    Start,
    Queue(bool, u16),
    Kick(bool),
    Post,
    Answer,
    Transmit(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = prop_oneof![
        0u64..4,
        any::<u64>(),
        Just(GUEST),
        Just(USER[0]),
        (0u32..2, 0u32..300).prop_map(|(index, number)| pair(index, number)),
    ];
    let numbers = prop::collection::vec(number, 0..10);
    let message = (0u32..46, numbers, 0usize..3, any::<bool>());
    let one = prop_oneof![
        8 => message.prop_map(|(request, numbers, files, reply)| Step::Message(request, numbers, files, reply)),
        2 => Just(Step::Start),
        2 => (any::<bool>(), any::<u16>()).prop_map(|(which, base)| Step::Queue(which, base)),
        3 => any::<bool>().prop_map(Step::Kick),
        2 => Just(Step::Post),
        1 => Just(Step::Answer),
        3 => (0usize..3000).prop_map(Step::Transmit),
    ];
    prop::collection::vec(one, 1..60)
}

proptest! {
    /// Whatever is said, in whatever order: the process goes on.
    #[test]
    fn nothing_that_a_front_end_says_does_harm(steps in steps()) {
        let (mut machine, mut link) = silent(everything());
        for step in steps {
            match step {
                Step::Message(request, numbers, files, reply) => {
                    let file = machine.memory().try_clone_to_owned().unwrap();
                    machine.request(request, reply, &words(&numbers), &vec![file.as_fd(); files]);
                }
                Step::Start => machine.start(),
                Step::Queue(which, base) => machine.queue(if which { RECEIVE } else { TRANSMIT }, base),
                // The driver's own half may not understand its queues any more.
                Step::Kick(which) => machine.kick(if which { RECEIVE } else { TRANSMIT }),
                Step::Post => machine.post(),
                Step::Answer => while machine.answer().is_some() {},
                Step::Transmit(len) => {
                    let _ = link.send(&pattern(len));
                    let mut room = Scatter::new();
                    let lendable = link.lendable(54, 1460).min(len);
                    let _ = link.reserve(54, lendable, 1460, &mut room);
                    let _ = link.commit(&[0; 54], &Offload::default(), lendable);
                    link.flush();
                }
            }
            if link.receive(CONTROL).is_err() {
                break;
            }
            if link.has_new_fds() {
                link.renew_fds();
            }
        }
    }
}
