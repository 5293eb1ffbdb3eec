//! Queues by the features that were agreed on, and what a guest may write there.

use passt_proto::addr::Mac;
use passt_proto::wire::build::Path;
use passt_proto::wire::offload::Gso;
use passt_proto::wire::tcp::Segment;
use passt_sys::iovec::Scatter;
use proptest::prelude::*;

use super::*;
use crate::link::{HEAD_LEN, MAX_HEADERS};

fn path() -> Path {
    let addr = |a: [u8; 4]| std::net::IpAddr::from(a).into();
    Path {
        src_mac: Mac([2; 6]),
        dst_mac: Mac([4; 6]),
        src: addr([192, 0, 2, 1]),
        dst: addr([192, 0, 2, 2]),
        ttl: 64,
        traffic_class: 0,
    }
}

/// A TCP super-frame: header, metadata, payload.
fn super_frame(payload: usize, mss: u16) -> (Vec<u8>, Offload, Vec<u8>) {
    let mut header = [0; MAX_HEADERS];
    let segment = Segment::default();
    let (len, offload) = path().emit_tcp(&mut header, &segment, payload, mss).unwrap();
    (header[..len].to_vec(), offload, pattern(payload))
}

/// The same of datagrams.
fn joined(payload: usize, size: u16) -> (Vec<u8>, Offload, Vec<u8>) {
    let mut header = [0; MAX_HEADERS];
    let (len, offload) = path().emit_udp(&mut header, (1, 2), payload, size).unwrap();
    (header[..len].to_vec(), offload, pattern(payload))
}

/// Sends payload in room that was reserved.
fn send(link: &mut VhostUserLink, payload: usize, mss: u16) -> Result<(), DropReason> {
    let (header, offload, bytes) = super_frame(payload, mss);
    let mut room = Scatter::new();
    if !link.reserve(header.len(), payload, mss.into(), &mut room) {
        return Err(DropReason::LinkBusy);
    }
    assert_eq!((room.total(), room.copy_in(0, &bytes)), (payload, payload));
    link.commit(&header, &offload, payload)
}

/// Each feature of queues on and off: frames arrive both ways, many times around the ring.
#[test]
fn frames_with_each_feature() {
    let all = [Features::MRG_RXBUF, Features::INDIRECT_DESC, Features::EVENT_IDX, Features::IN_ORDER];
    let cuts: [&[usize]; 5] = [&[], &[12], &[1; 40], &[0, 0, 3, 0], &[12, 14, 20, 20, 300]];
    for bits in 0..1 << all.len() {
        let chosen = (0..all.len()).filter(|bit| bits & 1 << bit != 0).map(|bit| all[bit]);
        let features = chosen.fold(Features::empty(), Features::union);
        let (mut machine, mut link) = started(Shape { buffer: 2000, ..with(features) });
        machine.post();
        for round in 0..300 {
            let len = 60 + round % 1400;
            assert!(machine.send(&packet(len), cuts[round % cuts.len()]), "{features:?} {round}");
            let ready = kick(&link, TRANSMIT);
            assert_eq!(link.receive(ready).unwrap(), 1, "{features:?}");
            assert!(content(&link, 0) == pattern(len));
            assert_eq!(link.send(&pattern(len)), Ok(()));
            link.flush();
            assert!(machine.take() == [packet(len)], "{features:?}");
            machine.post();
        }
    }
}

/// What a guest does not take is cut and completed.
#[test]
fn super_frames_with_each_feature() {
    let tso = Features::GUEST_CSUM | Features::GUEST_TSO4 | Features::GUEST_TSO6;
    for (features, buffer, frames, needs_csum) in [
        (Features::empty(), 1600, 9, false),
        (Features::MRG_RXBUF, 500, 9, false),
        (Features::GUEST_CSUM | Features::MRG_RXBUF, 500, 9, false),
        (Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::MRG_RXBUF, 500, 9, false),
        (Features::GUEST_CSUM | Features::GUEST_TSO4 | Features::MRG_RXBUF, 500, 9, false),
        (tso | Features::MRG_RXBUF, 500, 1, true),
        (tso, 70_000, 1, true),
    ] {
        let (mut machine, mut link) = started(Shape { buffer, ..with(features) });
        machine.post();
        for _ in 0..20 {
            let (header, offload, payload) = super_frame(9000, 1000);
            assert_eq!(send(&mut link, 9000, 1000), Ok(()), "{features:?}");
            let taken = machine.take();
            assert_eq!(taken.len(), frames, "{features:?}");
            assert!(taken.iter().all(|frame| frame.offload.needs_csum == needs_csum));
            let whole: Vec<u8> =
                taken.iter().flat_map(|frame| frame.bytes[header.len()..].to_vec()).collect();
            assert!(whole == payload);
            assert!(frames > 1 || taken[0].offload == offload);
            machine.post();
        }
    }
}

/// A guest that takes begun checksums gets frames that need no cutting as they are.
#[test]
fn checksums_alone() {
    let (mut machine, mut link) = started(with(Features::GUEST_CSUM | Features::MRG_RXBUF));
    machine.post();
    assert_eq!(send(&mut link, 900, 1000), Ok(()));
    assert!(machine.take()[0].offload.needs_csum);
}

/// Joined datagrams for a guest that takes TCP super-frames only.
#[test]
fn datagrams_that_are_still_joined() {
    let tso = Features::GUEST_CSUM | Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::MRG_RXBUF;
    let (mut machine, mut link) = started(with(tso));
    machine.post();
    let (header, offload, bytes) = joined(4500, 1000);
    let mut room = Scatter::new();
    assert!(link.reserve(header.len(), 4500, 1000, &mut room));
    room.copy_in(0, &bytes);
    assert_eq!((offload.gso, link.commit(&header, &offload, 4500)), (Gso::Udp, Ok(())));
    let taken = machine.take();
    assert_eq!(taken.len(), 5);
    let whole: Vec<u8> = taken.iter().flat_map(|frame| frame.bytes[header.len()..].to_vec()).collect();
    assert!(whole == bytes);
}

/// Without `VIRTIO_NET_F_MRG_RXBUF` a frame has one chain, or none.
#[test]
fn frames_that_fit_no_buffer() {
    let (mut machine, mut link) = started(Shape { buffer: 700, ..with(Features::empty()) });
    machine.post();
    assert_eq!(link.send(&pattern(688)), Ok(()));
    assert_eq!(link.send(&pattern(689)), Err(DropReason::LinkBusy));
    let room = link.lendable(54, 1000);
    assert_eq!(room, 700 - 12 - 54);
    assert_eq!(send(&mut link, room, 1000), Ok(()));
    let lens: Vec<_> = machine.take().iter().map(|frame| frame.bytes.len()).collect();
    assert_eq!(lens, [688, 688]);
}

/// The guest gets its buffers back, and is told.
#[test]
fn frames_of_the_guest_are_given_back() {
    let (mut machine, mut link) = started(everything());
    machine.is_interrupted(TRANSMIT);
    assert!(machine.send(&packet(60), &[]));
    let ready = kick(&link, TRANSMIT);
    assert_eq!(link.receive(ready).unwrap(), 1);
    link.flush();
    assert!(machine.is_interrupted(TRANSMIT));
    assert_eq!(machine.region().load(machine.transmit().used_index()), Some(1u16.to_le()));
    assert!(link.frame(0).is_none());
}

/// What no batch had room for is found without another kick.
#[test]
fn a_batch_that_is_full() {
    let (mut machine, mut link) = started(Shape { transmit: 4096, ..everything() });
    let frames = (0..4000).take_while(|_| machine.send(&packet(60), &[])).count();
    let ready = kick(&link, TRANSMIT);
    let readable = |link: &VhostUserLink| {
        let mut fds =
            [rustix::event::PollFd::from_borrowed_fd(link.fd(ready).unwrap(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    };
    let mut got = 0;
    while readable(&link) {
        got += link.receive(ready).unwrap();
        link.flush();
    }
    assert_eq!(got, frames);
}

/// A batch that is full to the brim leaves nothing, and what comes next is told.
#[test]
fn a_batch_that_is_just_full() {
    for (features, frames, len) in
        [(Features::EVENT_IDX, 1024, 60), (Features::empty(), 1024, 60), (Features::EVENT_IDX, 7, 60_000)]
    {
        let (mut machine, mut link) = started(Shape { transmit: 4096, ..with(features) });
        let ready = kick(&link, TRANSMIT);
        for _ in 0..3 {
            let before = machine.kicked();
            (0..frames).for_each(|_| assert!(machine.send(&packet(len), &[])));
            assert!(machine.kicked() > before, "{features:?}");
            assert_eq!(link.receive(ready).unwrap(), frames);
            link.flush();
        }
    }
}

/// What was taken and not used is there after a restart, and a broken queue works again.
#[test]
fn queues_are_stopped_and_started() {
    let (mut machine, mut link) = started(everything());
    machine.post();
    for round in 0..5_u16 {
        for _ in 0..3 {
            assert_eq!(link.send(&pattern(60)), Ok(()));
        }
        assert_eq!(machine.take().len(), 3);
        assert!(machine.send(&packet(60), &[]));
        assert_eq!(listen(&mut link), 1);
        if round == 3 {
            assert!(machine.region().store(machine.transmit().available_index(), 30_000_u16.to_le()));
            listen(&mut link);
            assert!(machine.is_broken(TRANSMIT));
            assert!(machine.region().store(machine.transmit().available_index(), (round + 1).to_le()));
        }
        let used = 3 * (round + 1);
        for (index, expected) in [(RECEIVE, used), (TRANSMIT, round + 1)] {
            machine.numbers(11, false, &[pair(index, 0)]);
            listen(&mut link);
            let state = pair(index, expected.into());
            assert_eq!(machine.number(), Some((11, state)), "round {round}");
            machine.numbers(11, false, &[pair(index, 0)]);
            listen(&mut link);
            assert_eq!(machine.number(), Some((11, state)), "asked again");
        }
        assert_eq!(link.send(&pattern(60)), Err(DropReason::LinkWrite), "a queue that is stopped");
        machine.queue(RECEIVE, used);
        machine.queue(TRANSMIT, round + 1);
        listen(&mut link);
    }
}

/// What the front end says counts, not what is in memory.
#[test]
fn a_queue_that_begins_in_the_middle() {
    let (mut machine, mut link) = silent(everything());
    machine.post();
    for _ in 0..4 {
        assert!(machine.send(&packet(60), &[]));
    }
    machine.greet();
    machine.features();
    machine.table();
    machine.queue(RECEIVE, 0);
    machine.queue(TRANSMIT, 3);
    assert_eq!(listen(&mut link), 1);
}

#[test]
fn a_queue_that_is_not_enabled() {
    let (mut machine, mut link) = started(everything());
    machine.post();
    let enable = |machine: &Machine, index: u32, on: u32| machine.numbers(18, false, &[pair(index, on)]);
    enable(&machine, RECEIVE, 0);
    enable(&machine, TRANSMIT, 0);
    listen(&mut link);
    assert_eq!(link.send(&pattern(60)), Err(DropReason::LinkWrite));
    assert!(machine.send(&packet(60), &[]));
    listen(&mut link);
    assert!(link.frame(0).is_none(), "it is thrown away");
    link.flush();
    assert_eq!(machine.region().load(machine.transmit().used_index()), Some(1u16.to_le()), "and given back");
    enable(&machine, RECEIVE, 1);
    enable(&machine, TRANSMIT, 1);
    assert!(machine.send(&packet(60), &[]));
    listen(&mut link);
    assert_eq!((link.frame(0).map(|frame| frame.len), link.send(&pattern(60))), (Some(60), Ok(())));
}

/// The table is replaced while queues are in use, and buffers are taken.
#[test]
fn memory_that_is_replaced_under_queues() {
    let (mut machine, mut link) = started(everything());
    machine.post();
    for _ in 0..30 {
        assert!(link.reserve(54, 5000, 1460, &mut Scatter::new()));
        machine.table();
        assert_eq!(listen(&mut link), 0);
        assert_eq!(link.commit(&[0; 54], &Offload::default(), 5000), Err(DropReason::Offload), "lent before");
        assert_eq!(link.send(&pattern(600)), Ok(()));
        assert!(machine.take() == [packet(600)]);
        machine.post();
    }
    // A table without the queues: they wait.
    let file = machine.memory().try_clone_to_owned().unwrap();
    let [_, second] = machine.regions();
    machine.request(5, false, &words(&[&[pair(1, 0)], second.as_slice()].concat()), &[file.as_fd()]);
    listen(&mut link);
    assert_eq!(link.send(&pattern(600)), Err(DropReason::LinkWrite));
    machine.table();
    listen(&mut link);
    assert_eq!(link.send(&pattern(600)), Ok(()));
}

#[test]
fn headers_that_change_after_they_were_looked_at() {
    let (mut machine, mut link) = started(everything());
    assert!(machine.send(&packet(5000), &[12, 14, 100]));
    assert_eq!(listen(&mut link), 1);
    let junk = vec![0xff; machine.region().size()];
    assert!(machine.region().copy_in(0, &junk));
    let frame = link.frame(0).unwrap();
    assert_eq!((frame.len, frame.offload), (5000, Offload::default()));
    let payload = content(&link, 0);
    assert!(payload[..HEAD_LEN] == pattern(5000)[..HEAD_LEN], "as it was looked at");
    assert!(payload[HEAD_LEN..] == junk[..5000 - HEAD_LEN], "as it is");
    assert_eq!(listen(&mut link), 2, "both queues are broken");
    assert!(machine.is_broken(RECEIVE) && machine.is_broken(TRANSMIT));
}

proptest! {
    /// Whatever is written to the queues.
    #[test]
    fn nothing_that_a_guest_writes_does_harm(
        writes in prop::collection::vec((0usize..4096, prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(4), Just(0x40), any::<u8>()], 1..32), 0usize..70_000), 1..60),
        bits in any::<u64>(),
    ) {
        let features = Features::from_bits_retain(bits) & Features::OFFERED;
        let shape = Shape { transmit: 16, receive: 16, buffer: 1600, ..with(features) };
        let (mut machine, mut link) = started(shape);
        for (at, bytes, len) in writes {
            machine.post();
            assert!(machine.region().copy_in(at, &bytes));
            for index in [RECEIVE, TRANSMIT] {
                machine.kick(index);
                let count = link.receive(kick(&link, index)).unwrap();
                for frame in 0..count {
                    if link.frame(frame).is_some() {
                        content(&link, frame);
                    }
                }
            }
            let _ = link.send(&pattern(len % 2000));
            let room = link.lendable(42, 1000).min(len);
            if room > 0 {
                let _ = send(&mut link, room, 1000);
            }
            link.flush();
        }
    }
}

/// A queue that lacked room, and has it again, says so once, and until those who wait have been
/// called: they may have gone to another queue, or ended, and nobody looks at this one then.
#[test]
fn news_that_nobody_waits_for() {
    let shape = Shape { pairs: 2, receive: 16, buffer: 2000, ..with(Features::MRG_RXBUF | Features::MQ) };
    let (mut machine, mut link) = started(shape);
    let header = super_frame(1000, 1000).0.len();
    let exhaust = |link: &mut VhostUserLink, pair: u8| {
        link.steer(pair);
        while link.lendable(header, 1000) > 0 {
            send(link, 1000, 1000).unwrap();
        }
        link.flush();
    };
    machine.post();
    exhaust(&mut link, 0);
    link.resumed();
    assert!(link.is_blocked());
    // More comes while the last of them is called: that is not missed.
    exhaust(&mut link, 0);
    machine.take();
    machine.post_by(0, usize::MAX);
    link.resumed();
    assert!(!link.is_blocked());
    // All that wait have gone to the other queue.
    exhaust(&mut link, 1);
    assert!(!link.is_blocked());
    link.resumed();
    assert!(link.is_blocked());
    machine.take();
    machine.post_by(1, usize::MAX);
    assert!(!link.is_blocked());
}
