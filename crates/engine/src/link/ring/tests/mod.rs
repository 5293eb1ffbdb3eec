mod properties;

use std::ops::Range;

use passt_proto::addr::Mac;
use passt_proto::drop::DropReason;
use passt_proto::wire::build::Path;
use passt_proto::wire::offload::Offload;
use passt_proto::wire::offload::{Gso, MERGEABLE_LEN};
use passt_proto::wire::stream::MAX_FRAME;
use passt_sys::iovec::{Gather, Scatter};

use super::*;
use crate::link::channel::Packet;
use crate::link::virtio::MAX_PARTS;
use crate::link::virtio::queue::{NEXT, WRITE};
use crate::link::{HEAD_LEN, MAX_HEADERS, MAX_PAYLOAD};

/// Descriptors of the queue of frames from the guest.
const TRANSMIT: u16 = 128;
/// `VIRTQ_DESC_F_INDIRECT`.
const INDIRECT: u16 = 4;

fn pair(receive: u16, buffer: usize, caps: Caps) -> (Guest, RingLink) {
    Guest::pair(Shape { transmit: TRANSMIT, receive, buffer }, caps).unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

fn packet(len: usize) -> Packet {
    pattern(len).into()
}

/// A super-frame: header, metadata, payload.
fn super_frame(payload: usize) -> (Vec<u8>, Offload, Vec<u8>) {
    let (src, dst) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let addr = |a: [u8; 4]| std::net::IpAddr::from(a).into();
    let path = Path {
        src_mac: Mac([2; 6]),
        dst_mac: Mac([4; 6]),
        src: addr(src),
        dst: addr(dst),
        ttl: 64,
        traffic_class: 0,
    };
    let mut header = [0; MAX_HEADERS];
    let (len, offload) = path.emit_udp(&mut header, (1, 2), payload, 1000).unwrap();
    (header[..len].to_vec(), offload, pattern(payload))
}

/// All bytes of a frame received, as a socket would get them.
fn bytes(link: &RingLink, index: usize, range: Range<usize>) -> Vec<u8> {
    let mut data = Gather::new();
    assert!(link.payload(index, range.clone(), &mut data));
    let mut out = vec![0; range.len()];
    assert_eq!((data.total(), data.copy_out(0, &mut out)), (range.len(), range.len()));
    out
}

/// Sends payload in room that was reserved; `None` if there is none.
fn send(link: &mut RingLink, payload: usize, filled: usize) -> Option<Result<(), DropReason>> {
    let (header, offload, bytes) = super_frame(filled);
    let mut room = Scatter::new();
    if !link.reserve(header.len(), payload, 1000, &mut room) {
        return None;
    }
    assert_eq!((room.total(), room.copy_in(0, &bytes)), (payload, filled));
    let mut again = vec![0; filled];
    let mut data = Gather::new();
    link.reserved(filled, &mut data);
    assert_eq!(data.copy_out(0, &mut again), filled);
    assert!(again == bytes);
    Some(link.commit(&header, &offload, filled))
}

#[test]
fn frames_of_the_guest_in_pieces() {
    let (mut guest, mut link) = pair(4, 1000, Caps::ALL);
    let cuts: [&[usize]; 6] =
        [&[], &[12], &[1; 40], &[0, 0, 3], &[12, 14, 20, 20, 5000], &[6000, 6000, 0, 6000]];
    // Several times around the ring.
    for round in 0..50 {
        for cut in cuts {
            let (header, offload, payload) = super_frame(20_000 + round);
            let frame = Packet { bytes: [header, payload].concat(), offload };
            assert!(guest.send(&frame, cut) && guest.send(&packet(60), cut));
            assert_eq!(link.receive(KICK).unwrap(), 2);
            let first = link.frame(0).unwrap();
            assert_eq!((first.len, first.offload, first.head.len()), (frame.bytes.len(), offload, HEAD_LEN));
            assert!(frame.bytes.starts_with(first.head));
            for range in [0..first.len, 42..first.len, 3000..3001, HEAD_LEN - 1..HEAD_LEN + 1, 5..5] {
                assert!(bytes(&link, 0, range.clone()) == frame.bytes[range]);
            }
            assert!(!link.payload(0, 0..first.len + 1, &mut Gather::new()));
            let second = link.frame(1).unwrap();
            assert_eq!((second.head, second.len), (pattern(60).as_slice(), 60));
            assert!(link.frame(2).is_none());
        }
    }
}

#[test]
fn a_batch_has_an_end() {
    let (mut guest, mut link) =
        Guest::pair(Shape { transmit: 4096, receive: 4, buffer: 1000 }, Caps::ALL).unwrap();
    let fill = |guest: &mut Guest, len| (0..5000).take_while(|_| guest.send(&packet(len), &[])).count();
    for (len, most) in [(60, 1024), (60_000, 7)] {
        let mut left = fill(&mut guest, len);
        guest.kick();
        while left > 0 {
            let count = link.receive(KICK).unwrap();
            assert_eq!((count, link.is_backlogged()), (left.min(most), left >= most));
            left -= count;
            // The descriptor is readable until all is taken.
            assert_eq!(is_readable(&link), link.is_backlogged());
        }
        assert_eq!(link.receive(KICK).unwrap(), 0);
    }
}

fn is_readable(link: &RingLink) -> bool {
    let value = link.kick.clear();
    if value {
        link.kick.signal();
    }
    value
}

#[test]
fn frames_for_the_guest_in_as_many_buffers_as_they_need() {
    for (buffer, count) in [(64, 64), (200, 20), (1514, 3), (70_000, 1)] {
        let (mut guest, mut link) = pair(64, buffer, Caps::ALL);
        guest.post();
        let payload = 3000;
        let (header, offload, bytes) = super_frame(payload);
        for _ in 0..100 {
            // All of what was asked for, or less.
            let most = (MERGEABLE_LEN + header.len() + payload).div_ceil(buffer);
            assert!(most <= count);
            assert_eq!(send(&mut link, payload, payload), Some(Ok(())), "{buffer}");
            assert_eq!(link.send(&pattern(60)), Ok(()));
            let taken = guest.take();
            let whole = Packet { bytes: [header.as_slice(), &bytes].concat(), offload };
            assert!(taken == [whole, packet(60)], "{buffer}");
            guest.post();
            link.receive(KICK).unwrap();
        }
    }
}

/// A peek finds less than there was room for: what was not used is there for the next frame.
#[test]
fn room_that_is_not_used_comes_back() {
    let (mut guest, mut link) = pair(64, 1000, Caps::ALL);
    guest.post();
    for _ in 0..50 {
        assert!(link.reserve(42, 50_000, 1000, &mut Scatter::new()));
    }
    for _ in 0..57 {
        assert_eq!(send(&mut link, 3000, 10), Some(Ok(())));
    }
    assert_eq!(guest.take().len(), 57);
    // Only what is kept for others is left.
    assert_eq!(send(&mut link, 3000, 10), None);
    for _ in 0..7 {
        assert_eq!(link.send(&[1; 60]), Ok(()));
    }
    assert_eq!(link.send(&[1; 60]), Err(DropReason::LinkBusy));
}

#[test]
fn a_reservation_is_good_for_one_frame() {
    let (mut guest, mut link) = pair(64, 1000, Caps::ALL);
    guest.post();
    let (header, offload, _) = super_frame(3000);
    for caps in [Caps::ALL, Caps::PLAIN] {
        guest.switch(caps);
        link.receive(CONTROL).unwrap();
        assert!(link.reserve(header.len(), 3000, 1000, &mut Scatter::new()));
        link.send(&[1; 60]).unwrap();
        assert_eq!(link.commit(&header, &offload, 3000), Err(DropReason::Offload));
        assert_eq!(link.commit(&header, &offload, 3000), Err(DropReason::Offload));
    }
    guest.switch(Caps::ALL);
    link.receive(CONTROL).unwrap();
    for (shorter, more) in [(1, 0), (0, 1)] {
        assert!(link.reserve(header.len(), 3000, 1000, &mut Scatter::new()));
        let header = &header[shorter..];
        assert_eq!(link.commit(header, &offload, 3000 + more), Err(DropReason::Offload));
    }
}

#[test]
fn a_guest_that_takes_no_super_frames() {
    let (mut guest, mut link) = pair(64, 500, Caps::PLAIN);
    guest.post();
    for _ in 0..10 {
        assert_eq!(send(&mut link, 5000, 4500), Some(Ok(())));
        let taken = guest.take();
        let lens: Vec<_> = taken.iter().map(|frame| frame.bytes.len()).collect();
        assert_eq!(lens, [1042, 1042, 1042, 1042, 542]);
        assert!(taken.iter().all(|frame| frame.offload == Offload::default()));
        let payload: Vec<u8> = taken.iter().flat_map(|frame| frame.bytes[42..].to_vec()).collect();
        assert!(payload == pattern(4500));
        guest.post();
    }
}

/// Offloads change when the link has heard of it, and not before.
#[test]
fn offloads_are_switched() {
    let (mut guest, mut link) = pair(64, 500, Caps::PLAIN);
    guest.post();
    for (caps, frames) in [(Caps::ALL, 1), (Caps::PLAIN, 3), (Caps::ALL, 1)] {
        let before = link.caps();
        guest.switch(caps);
        link.receive(KICK).unwrap();
        assert_eq!(link.caps(), before);
        link.receive(CONTROL).unwrap();
        assert_eq!(link.caps(), caps);
        assert_eq!(send(&mut link, 3000, 3000), Some(Ok(())));
        let taken = guest.take();
        assert_eq!(taken.len(), frames);
        assert_eq!(taken[0].offload.gso == Gso::Udp, frames == 1);
        guest.post();
    }
}

/// What was lent for something else, and not used, changes nothing about a frame without payload.
#[test]
fn an_acknowledgement_is_what_the_guest_takes_now() {
    let (mut guest, mut link) = pair(64, 500, Caps::ALL);
    guest.post();
    let (header, offload, _) = super_frame(0);
    for caps in [Caps::ALL, Caps::PLAIN, Caps::ALL, Caps::PLAIN] {
        assert!(link.reserve(header.len(), 3000, 1000, &mut Scatter::new()));
        guest.switch(caps);
        link.receive(CONTROL).unwrap();
        assert_eq!(link.commit(&header, &offload, 0), Ok(()));
        assert_eq!(guest.take()[0].offload.needs_csum, caps == Caps::ALL);
        assert_eq!(link.commit(&header, &offload, 3000), Err(DropReason::Offload));
        guest.post();
    }
}

#[test]
fn without_buffers_the_link_is_congested() {
    for caps in [Caps::ALL, Caps::PLAIN] {
        let (mut guest, mut link) = pair(64, 1000, caps);
        assert!(!link.is_congested(), "nobody asked");
        assert_eq!(link.lendable(54, 1000), 0);
        assert!(link.is_congested());
        assert_eq!(send(&mut link, 1000, 1000), None);
        assert_eq!(link.send(&[1; 60]), Err(DropReason::LinkBusy));
        guest.post_some(1);
        assert!(!link.is_congested(), "there is something new");
        assert_eq!(link.lendable(54, 1000), 0, "that is kept for others");
        assert!(link.is_congested());
        assert_eq!(link.send(&[1; 60]), Ok(()));
        assert_eq!(link.send(&[1; 60]), Err(DropReason::LinkBusy));
        guest.post();
        assert!(!link.is_congested());
        let room = link.lendable(54, 1000);
        assert!(room >= 20_000 && room % 1000 == 0, "{room}");
        assert_eq!(send(&mut link, room, room), Some(Ok(())));
    }
}

/// A guest with room for less than a segment gets what fits.
#[test]
fn rings_that_are_too_small_for_a_segment() {
    for (caps, buffer) in
        [(Caps::ALL, 100), (Caps::PLAIN, 100), (Caps::ALL, 60), (Caps::PLAIN, 30), (Caps::ALL, 1)]
    {
        let (mut guest, mut link) = pair(16, buffer, caps);
        guest.post();
        let room = link.lendable(42, 9000);
        assert!(room <= 15 * buffer);
        if buffer == 1 {
            assert!(room == 0 && link.is_congested());
            continue;
        }
        assert!(link.reserve(42, room, 9000, &mut Scatter::new()), "{room} of {buffer}");
    }
}

#[test]
fn headers_that_change_after_they_were_looked_at() {
    let (mut guest, mut link) = pair(16, 1000, Caps::ALL);
    assert!(guest.send(&packet(5000), &[12, 14, 100]));
    assert_eq!(link.receive(KICK).unwrap(), 1);
    // Everything: descriptors, rings, data.
    let junk = vec![0xff; guest.region().size()];
    assert!(guest.region().copy_in(0, &junk));
    let frame = link.frame(0).unwrap();
    assert_eq!((frame.len, frame.offload), (5000, Offload::default()));
    assert!(frame.head == &pattern(5000)[..HEAD_LEN]);
    let payload = bytes(&link, 0, 0..5000);
    assert!(payload[..HEAD_LEN] == pattern(5000)[..HEAD_LEN], "as it was looked at");
    assert!(payload[HEAD_LEN..] == junk[..5000 - HEAD_LEN], "as it is");
    assert_eq!(link.receive(KICK).unwrap(), 2, "both rings are broken");
    assert!(link.frame(0).is_none() && link.frame(1).is_none());
    assert_eq!(link.receive(KICK).unwrap(), 0, "once");
}

/// Overwrites descriptor 0 of a queue.
fn describe(guest: &Guest, layout: Layout, start: u64, len: u32, flags: u16, next: u16) {
    let rest = [u64::from(len), u64::from(flags) << 32, u64::from(next) << 48];
    let rest = rest.into_iter().fold(0, |all, part| all | part);
    let bytes = [start.to_le_bytes(), rest.to_le_bytes()];
    assert!(guest.region().copy_in(layout.descriptor(0), bytes.as_flattened()));
}

/// Places and flags of descriptor 0 that nobody can make anything of, in a queue of so many whose
/// buffers are `good`.
fn bad(guest: &Guest, size: u16, good: u16) -> Vec<(u64, u32, u16, u16)> {
    let end = guest.region().size() as u64;
    vec![
        (end, 1, good, 0),
        (end - 10, 11, good, 0),
        (u64::MAX, 1, good, 0),
        (u64::MAX - 5, 100, good, 0),
        (0, u32::MAX, good, 0),
        (0, 100, good ^ WRITE, 0),
        (0, 100, good | INDIRECT, 0),
        // Behind it comes itself, or none that there is.
        (0, 100, good | NEXT, 0),
        (0, 0, good | NEXT, 0),
        (0, 100, good | NEXT, size),
        (0, 100, good | NEXT, u16::MAX),
    ]
}

/// They cost it the queue: what comes behind is not looked at, and nothing is given back.
#[test]
fn chains_from_the_guest_that_make_no_sense() {
    for (start, len, flags, next) in bad(&pair(4, 1000, Caps::ALL).0, TRANSMIT, 0) {
        let (mut guest, mut link) = pair(4, 1000, Caps::ALL);
        assert!(guest.send(&packet(100), &[]) && guest.send(&packet(60), &[]));
        describe(&guest, guest.transmit(), start, len, flags, next);
        assert_eq!(link.receive(KICK).unwrap(), 1, "it is counted");
        assert!(link.frame(0).is_none(), "{len} at {start}, {flags:x}, {next}");
        assert!(!link.payload(0, 0..1, &mut Gather::new()));
        assert_eq!(link.receive(KICK).unwrap(), 0, "once");
        assert_eq!(guest.region().load(guest.transmit().used_index()), Some(0));
        // The other queue goes on.
        guest.post();
        assert_eq!(link.send(&[1; 60]), Ok(()));
    }
}

#[test]
fn lengths_that_no_frame_has() {
    let longest = u32::try_from(MERGEABLE_LEN + MAX_FRAME + 1).unwrap();
    for len in [0, 11, longest] {
        let (mut guest, mut link) = pair(4, 1000, Caps::ALL);
        assert!(guest.send(&packet(100), &[]) && guest.send(&packet(60), &[]));
        describe(&guest, guest.transmit(), 0, len, 0, 0);
        assert_eq!(link.receive(KICK).unwrap(), 2);
        assert!(link.frame(0).is_none(), "{len}");
        assert!(!link.payload(0, 0..1, &mut Gather::new()));
        assert_eq!(link.frame(1).unwrap().len, 60, "the next is as good as ever");
        // It gets both back.
        link.receive(KICK).unwrap();
        let all = usize::from(TRANSMIT);
        assert_eq!((0..=all).take_while(|_| guest.send(&packet(60), &[])).count(), all);
    }
}

#[test]
fn metadata_that_make_no_sense() {
    for (at, byte) in [(1, 2), (1, 0x7f), (1, 1)] {
        let (mut guest, mut link) = pair(4, 1000, Caps::ALL);
        assert!(guest.send(&packet(100), &[]));
        let mut descriptor = [0; 8];
        assert!(guest.region().copy_out(guest.transmit().descriptor(0), &mut descriptor));
        let start = usize::try_from(u64::from_le_bytes(descriptor)).unwrap();
        assert!(guest.region().copy_in(start + at, &[byte]));
        assert_eq!(link.receive(KICK).unwrap(), 1);
        assert!(link.frame(0).is_none());
    }
}

#[test]
fn heads_and_indices_that_make_no_sense() {
    for head in [TRANSMIT, u16::MAX] {
        let (mut guest, mut link) = pair(4, 1000, Caps::ALL);
        assert!(
            guest.send(&packet(100), &[]) && guest.region().store(guest.transmit().available_entry(0), head)
        );
        assert_eq!((link.receive(KICK).unwrap(), link.frame(0).is_none()), (1, true));
    }
    for index in [TRANSMIT + 1, 1000, u16::MAX] {
        let (guest, mut link) = pair(4, 1000, Caps::ALL);
        assert!(guest.region().store(guest.transmit().available_index(), index));
        assert_eq!((link.receive(KICK).unwrap(), link.frame(0).is_none()), (1, true));
        assert_eq!(link.receive(KICK).unwrap(), 0);
        assert!(guest.region().store(guest.receive().available_index(), index));
        assert_eq!(link.send(&[1; 60]), Err(DropReason::LinkWrite));
        assert_eq!((link.receive(KICK).unwrap(), link.frame(0).is_none()), (1, true), "it is counted");
        assert_eq!(link.receive(KICK).unwrap(), 0);
    }
}

#[test]
fn buffers_for_frames_that_make_no_sense() {
    for (start, len, flags, next) in bad(&pair(64, 1000, Caps::ALL).0, 64, WRITE) {
        let (mut guest, mut link) = pair(64, 1000, Caps::ALL);
        describe(&guest, guest.receive(), start, len, flags, next);
        guest.post_some(1);
        assert_eq!(link.send(&[1; 60]), Err(DropReason::LinkWrite), "{len} at {start}, {flags:x}, {next}");
        assert_eq!((link.receive(KICK).unwrap(), link.frame(0).is_none()), (1, true));
        guest.post_some(1);
        assert_eq!(link.send(&[1; 60]), Err(DropReason::LinkWrite), "it is not used any more");
        assert!(link.is_congested() && link.lendable(54, 1000) == 0);
        // The other queue goes on.
        assert!(guest.send(&packet(60), &[]));
        assert_eq!((link.receive(KICK).unwrap(), link.frame(0).unwrap().len), (1, 60));
    }
}

/// No chain is so long that its frame would not fit a list.
#[test]
fn the_longest_chain() {
    let (mut guest, mut link) =
        Guest::pair(Shape { transmit: 256, receive: 4, buffer: 1000 }, Caps::ALL).unwrap();
    assert!(guest.send(&packet(5000), &[1; MAX_PARTS - 1]));
    assert_eq!(link.receive(KICK).unwrap(), 1);
    assert!(bytes(&link, 0, 0..5000) == pattern(5000));
    // A list that is nearly full takes all of it, or nothing.
    let mut data = Gather::new();
    while data.len() < passt_sys::iovec::MAX - 1 {
        data.push(&[0]);
    }
    assert!(!link.payload(0, 0..5000, &mut data));
    assert_eq!(data.len(), passt_sys::iovec::MAX - 1);
    assert!(link.payload(0, 0..100, &mut data));
}
