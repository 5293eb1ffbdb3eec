use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

use passt_proto::addr::{Addr, Mac};
use passt_proto::classify::{Class, classify};
use passt_proto::wire::build::{DEFAULT_TTL, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::stream::{MAX_FRAME, PREFIX};
use passt_proto::wire::tcp::{Flags, Segment};
use proptest::prelude::*;

use super::*;
use crate::link::MAX_HEADERS;

mod messages;
mod pipes;

/// How frames are told apart in a stream.
const STREAMS: [Framing; 2] = [Framing::Be32, Framing::Le16];

/// A link, and its client's end of the socket, which does not wait.
fn pair() -> (StreamLink, UnixStream) {
    pair_by(Framing::Be32)
}

fn pair_by(framing: Framing) -> (StreamLink, UnixStream) {
    let (ours, client) = UnixStream::pair().unwrap();
    client.set_nonblocking(true).unwrap();
    let mut link = StreamLink::new(framing);
    link.connect(ours.into());
    (link, client)
}

fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
    framed_by(Framing::Be32, frames)
}

fn framed_by(framing: Framing, frames: &[Vec<u8>]) -> Vec<u8> {
    let prefix = |len: usize| match framing {
        Framing::Be32 => u32::try_from(len).unwrap().to_be_bytes().to_vec(),
        Framing::Le16 => u16::try_from(len).unwrap().to_le_bytes().to_vec(),
        Framing::Message => Vec::new(),
    };
    frames.iter().flat_map(|frame| [&prefix(frame.len()), &frame[..]].concat()).collect()
}

/// What one receive brings, each frame whole.
fn received(link: &mut StreamLink) -> Vec<Vec<u8>> {
    let count = link.receive(0).unwrap();
    let frame = |index| {
        let frame = link.frame(index).unwrap();
        let mut data = Gather::new();
        assert!(link.payload(index, 0..frame.len, &mut data));
        let mut out = vec![0; frame.len];
        assert_eq!(data.copy_out(0, &mut out), frame.len);
        assert_eq!(frame.head, &out[..frame.len.min(HEAD_LEN)]);
        out
    };
    (0..count).map(frame).collect()
}

/// All that is there for the client, cut into frames; panics where they are not framed.
fn sent(client: &mut UnixStream) -> Vec<Vec<u8>> {
    sent_by(Framing::Be32, client)
}

fn sent_by(framing: Framing, client: &mut impl Read) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    let error = client.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    unframed(framing, &bytes)
}

fn unframed(framing: Framing, bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut frames, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let len = framing.frame_len(rest).unwrap().expect("whole frames");
        rest = &rest[framing.prefix_len()..];
        frames.push(rest[..len].to_vec());
        rest = &rest[len..];
    }
    frames
}

fn sample() -> Vec<Vec<u8>> {
    (0..5u8).map(|n| vec![n; 14 + usize::from(n) * 7]).collect()
}

#[test]
fn frames_split_at_every_byte() {
    let frames = sample();
    for framing in STREAMS {
        let bytes = framed_by(framing, &frames);
        for cut in 0..=bytes.len() {
            let (mut link, mut client) = pair_by(framing);
            let mut got = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                client.write_all(part).unwrap();
                got.extend(received(&mut link));
            }
            assert_eq!(got, frames, "{framing:?} cut at {cut}");
        }
    }
}

#[test]
fn one_receive_takes_many_frames() {
    let (mut link, mut client) = pair();
    let frames: Vec<_> = (0..200u8).map(|n| vec![n; 300]).collect();
    client.write_all(&framed(&frames)).unwrap();
    assert_eq!(received(&mut link), frames);
    assert_eq!(link.receive(0).unwrap(), 0);
}

#[test]
fn bad_lengths_end_the_client_only() {
    let be32 = [0, 1, 13, 65_550, 1 << 24, u32::MAX].map(|len| (Framing::Be32, len.to_be_bytes().to_vec()));
    let le16 = [0_u16, 1, 13].map(|len| (Framing::Le16, len.to_le_bytes().to_vec()));
    for (framing, prefix) in be32.into_iter().chain(le16) {
        let (mut link, mut client) = pair_by(framing);
        client.write_all(&framed_by(framing, &sample())).unwrap();
        client.write_all(&prefix).unwrap();
        assert_eq!(link.receive(0).unwrap_err().kind(), ErrorKind::InvalidData);
        assert!(!link.is_connected() && link.fd(0).is_none());
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the client is told");
        assert_eq!(link.receive(0).unwrap(), 0);
        assert_eq!(link.send(&[1; 60]), Err(DropReason::LinkWrite));
        assert!(link.is_congested() && link.flush().is_none());
    }
}

#[test]
fn another_client_starts_afresh() {
    let (mut link, mut client) = pair();
    let bytes = framed(&sample());
    client.write_all(&bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(received(&mut link).len(), sample().len() - 1);
    link.send(&[1; 60]).unwrap();
    drop(client);
    assert_eq!(link.receive(0).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let (ours, mut client) = UnixStream::pair().unwrap();
    client.set_nonblocking(true).unwrap();
    link.connect(ours.into());
    assert!(link.is_connected() && !link.is_congested());
    client.write_all(&bytes).unwrap();
    assert_eq!(received(&mut link), sample());
    link.send(&[2; 60]).unwrap();
    link.flush();
    assert_eq!(sent(&mut client), [vec![2; 60]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_split_gives_the_same_frames(
        framing in prop::sample::select(STREAMS.to_vec()),
        frames in prop::collection::vec((14usize..3000, any::<u8>()), 1..40),
        long in any::<bool>(),
        cuts in prop::collection::vec(1usize..20_000, 1..20),
    ) {
        let mut frames: Vec<_> = frames.into_iter().map(|(len, byte)| vec![byte; len]).collect();
        let longest = if framing == Framing::Le16 { 65_535 } else { MAX_FRAME };
        frames.extend(long.then(|| vec![7; longest]));
        let (mut link, mut client) = pair_by(framing);
        let bytes = framed_by(framing, &frames);
        let (mut rest, mut got) = (bytes.as_slice(), Vec::new());
        for cut in cuts.iter().cycle() {
            let (part, others) = rest.split_at(rest.len().min(*cut));
            client.write_all(part).unwrap();
            got.extend(received(&mut link));
            rest = others;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn whatever_comes_never_panics(
        framing in prop::sample::select(STREAMS.to_vec()),
        bytes: Vec<u8>,
        cut: prop::sample::Index,
    ) {
        let (mut link, mut client) = pair_by(framing);
        let (a, b) = bytes.split_at(if bytes.is_empty() { 0 } else { cut.index(bytes.len()) });
        for part in [a, b] {
            let _ = client.write_all(part);
            let _ = link.receive(0);
        }
    }
}

fn path() -> Path {
    let (src, dst) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let (src_mac, dst_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    Path { src_mac, dst_mac, src: src.into(), dst: dst.into(), ttl: DEFAULT_TTL, traffic_class: 0 }
}

/// Sends `payload` as `recvmsg` would have put it, with an MSS; what the link said.
fn send(link: &mut StreamLink, payload: &[u8], asked: usize, mss: u16) -> Option<Result<(), DropReason>> {
    {
        let mut room = Scatter::new();
        if !link.reserve(54, asked, mss.into(), &mut room) {
            return None;
        }
        assert_eq!(room.total(), asked);
        assert_eq!(room.copy_in(0, payload), payload.len());
    }
    let mut whole = Gather::new();
    link.reserved(payload.len(), &mut whole);
    let mut copy = vec![0; payload.len()];
    whole.copy_out(0, &mut copy);
    assert_eq!((whole.total(), copy.as_slice()), (payload.len(), payload));
    let segment = Segment { src_port: 1, dst_port: 2, flags: Flags::ACK, ..Segment::default() };
    let mut header = [0; MAX_HEADERS];
    let (len, offload) = path().emit_tcp(&mut header, &segment, payload.len(), mss).unwrap();
    Some(link.commit(&header[..len], &offload, payload.len()))
}

/// The payload of segments, whose checksums have to be right.
fn payload(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        let class = classify(frame, frame.len()).unwrap();
        let Class::Tcp { src, dst, segment, payload, .. } = class else { panic!("{class:?}") };
        let at = usize::try_from(segment.seq.0).unwrap();
        assert_eq!(at, out.len());
        let tcp = &frame[34..payload.end];
        let (src, dst): (Addr, Addr) = (src, dst);
        assert_eq!(Sum::pseudo(src, dst, protocol::TCP, tcp.len()).bytes(tcp).finish(), 0);
        assert!(frame.len() >= MIN_FRAME && frame[payload.end..].iter().all(|&b| b == 0));
        out.extend(&frame[payload]);
    }
    out
}

/// Bytes that repeat at no distance.
fn mixed() -> Vec<u8> {
    (0..65_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

#[test]
fn super_frames_are_cut_where_they_lie() {
    let bytes = mixed();
    let cases = [
        (65_000, 65_000, 1460),
        (65_000, 65_000, 65_480),
        (1, 65_000, 1460),
        (1460, 65_000, 1460),
        (1461, 2920, 1460),
        (7, 7, 3),
        (10_000, 10_000, 88),
        (5000, 5001, 1),
    ];
    for ((len, asked, mss), framing) in cases.into_iter().flat_map(|case| STREAMS.map(|by| (case, by))) {
        let (mut link, mut client) = pair_by(framing);
        let said = send(&mut link, &bytes[..len], asked, mss);
        if asked.div_ceil(mss.into()) > MAX_PIECES {
            assert_eq!(said, None);
            continue;
        }
        assert_eq!(said, Some(Ok(())));
        assert!(link.flush().is_none());
        let frames = sent_by(framing, &mut client);
        assert_eq!(frames.len(), len.div_ceil(mss.into()));
        assert_eq!(payload(&frames), &bytes[..len]);
    }
}

/// What 16 bits can't announce is refused as a whole, and nothing of it is sent.
#[test]
fn frames_too_long_for_their_prefix() {
    let (mut link, mut client) = pair_by(Framing::Le16);
    link.send(&[1; 60]).unwrap();
    assert_eq!(link.send(&vec![2; 65_536]), Err(DropReason::LinkWrite));
    assert_eq!(link.send(&vec![2; MAX_FRAME]), Err(DropReason::LinkWrite));
    let most = vec![3; MAX_PAYLOAD];
    assert_eq!(send(&mut link, &most, most.len(), 0), Some(Err(DropReason::LinkWrite)));
    link.send(&vec![4; 65_535]).unwrap();
    link.send(&[5; 60]).unwrap();
    assert!(link.flush().is_none());
    let expected: Vec<_> = [(1, 60), (4, 65_535), (5, 60)].map(|(byte, len)| vec![byte; len]).into();
    assert_eq!(sent_by(Framing::Le16, &mut client), expected);

    let (mut link, mut client) = pair();
    assert_eq!(link.send(&vec![2; MAX_FRAME + 1]), Err(DropReason::LinkWrite));
    link.send(&vec![2; MAX_FRAME]).unwrap();
    assert!(link.flush().is_none());
    assert_eq!(sent(&mut client), [vec![2; MAX_FRAME]]);
}

#[test]
fn what_is_not_committed_is_not_sent() {
    let (mut link, mut client) = pair();
    assert!(link.reserve(54, 3000, 1460, &mut Scatter::new()));
    link.send(&[1; 60]).unwrap();
    // The room is gone with the frame that came between.
    assert_eq!(link.commit(&[0; 54], &Offload::default(), 100), Err(DropReason::Offload));
    assert!(link.reserve(54, 3000, 1460, &mut Scatter::new()));
    assert_eq!(link.commit(&[0; 53], &Offload::default(), 100), Err(DropReason::Offload));
    assert!(link.reserve(54, 3000, 1460, &mut Scatter::new()));
    // Cut elsewhere than the gaps are.
    assert_eq!(link.commit(&[0; 54], &Offload::default(), 2000), Err(DropReason::Offload));
    link.flush();
    assert_eq!(sent(&mut client), [vec![1; 60]]);
}

#[test]
fn short_frames_are_padded() {
    let (mut link, mut client) = pair();
    link.send(&[9; 42]).unwrap();
    link.flush();
    assert_eq!(sent(&mut client), [[vec![9; 42], vec![0; 18]].concat()]);
}

/// A client that does not read: nothing is lost but what is refused, acknowledgements find room
/// long after payload is refused, and all goes on once it reads.
#[test]
fn a_client_that_stops_reading() {
    let (mut link, mut client) = pair();
    let bytes = vec![5; 29_200];
    let mut taken = 0;
    while !link.is_congested() {
        assert_eq!(send(&mut link, &bytes, bytes.len(), 1460), Some(Ok(())));
        taken += 20;
    }
    assert_eq!(link.flush(), Some(0), "something waits");
    assert!(link.is_congested());
    // Datagrams may go on for a while.
    while let Some(said) = send(&mut link, &bytes, bytes.len(), 1460) {
        assert_eq!(said, Ok(()));
        taken += 20;
    }
    let mut bare = 0;
    while link.send(&[3; 54]).is_ok() {
        bare += 1;
    }
    assert!(bare >= SPARE / (PREFIX + MIN_FRAME), "room for {bare} acknowledgements");
    assert_eq!(link.send(&[3; 54]), Err(DropReason::LinkBusy));
    let mut bytes = Vec::new();
    while link.flush().is_some() {
        let error = client.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    assert!(!link.is_congested());
    assert!(client.read_to_end(&mut bytes).is_err());
    let (mut rest, mut long, mut short) = (bytes.as_slice(), 0, 0);
    while let Some(len) = Framing::Be32.frame_len(rest).unwrap() {
        *(if len == 1514 { &mut long } else { &mut short }) += 1;
        rest = &rest[PREFIX + len..];
    }
    assert_eq!((rest.len(), long, short), (0, taken, bare));
}

#[test]
fn a_client_that_reads_slowly() {
    STREAMS.into_iter().for_each(read_slowly);
}

fn read_slowly(framing: Framing) {
    let (mut link, mut client) = pair_by(framing);
    let len = framing.prefix_len() + 54 + 1000;
    let (mut pending, mut got) = (400u32, Vec::new());
    let mut buffer = [0; 1777];
    let mut next = 0u32;
    while got.len() < 400 * len {
        while pending > 0 && !link.is_congested() {
            let bytes = [next.to_be_bytes().as_slice(), &[0; 996]].concat();
            assert_eq!(send(&mut link, &bytes, bytes.len(), 1460), Some(Ok(())));
            (pending, next) = (pending - 1, next + 1);
        }
        link.flush();
        let n = client.read(&mut buffer).unwrap();
        got.extend_from_slice(&buffer[..n]);
    }
    let frames = unframed(framing, &got);
    assert_eq!(frames.len(), 400);
    for (number, frame) in frames.iter().enumerate() {
        assert_eq!((frame.len(), &frame[54..58]), (1054, &u32::try_from(number).unwrap().to_be_bytes()[..]));
    }
}
