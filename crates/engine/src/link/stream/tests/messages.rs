//! Sockets that keep frames apart.

use std::os::fd::{AsFd as _, OwnedFd};

use passt_sys::dgram;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, socketpair};

use super::*;

const KINDS: [SocketType; 2] = [SocketType::SEQPACKET, SocketType::DGRAM];

fn sockets(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

/// A link, and its client's end, which has room for as much as the system lets it.
fn pair(kind: SocketType) -> (StreamLink, OwnedFd) {
    let (ours, client) = sockets(kind);
    set_socket_send_buffer_size(&client, 1 << 20).unwrap();
    let mut link = StreamLink::new(Framing::Message);
    link.connect(ours);
    (link, client)
}

fn put(client: &OwnedFd, message: &[u8]) -> Result<(), Errno> {
    rustix::net::send(client, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        .map(|sent| assert_eq!(sent, message.len()))
}

/// All messages for the client.
fn taken(client: &OwnedFd) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; 70_000];
    std::iter::from_fn(|| match recv(client, &mut buffer[..], RecvFlags::DONTWAIT) {
        Ok((_, len)) => Some(buffer[..len].to_vec()),
        Err(Errno::AGAIN) => None,
        Err(error) => panic!("{error}"),
    })
    .collect()
}

/// Lengths of what one receive brings: none for what is malformed.
fn lengths(link: &mut StreamLink) -> Vec<Option<usize>> {
    let count = link.receive(0).unwrap();
    (0..count).map(|index| link.frame(index).map(|frame| frame.len)).collect()
}

#[test]
fn each_message_is_a_frame() {
    for kind in KINDS {
        let (mut link, client) = pair(kind);
        let frames: Vec<_> = (14..200_u8).map(|n| vec![n; n.into()]).collect();
        for frame in &frames {
            put(&client, frame).unwrap();
        }
        assert_eq!(received(&mut link), frames, "{kind:?}");
        assert!(!link.is_backlogged());
        assert_eq!(link.receive(0).unwrap(), 0);
        for frame in &frames {
            link.send(frame).unwrap();
        }
        assert!(link.flush().is_none());
        let padded: Vec<_> = frames
            .iter()
            .map(|frame| {
                let mut frame = frame.clone();
                frame.resize(frame.len().max(MIN_FRAME), 0);
                frame
            })
            .collect();
        assert_eq!(taken(&client), padded, "{kind:?}");
    }
}

/// By their number, or by their length, not all messages are one batch.
#[test]
fn more_than_a_batch() {
    for (kind, len, most) in KINDS.into_iter().flat_map(|kind| [(kind, 60, 256), (kind, MAX_FRAME, 6)]) {
        let (mut link, client) = pair(kind);
        let mut count = 0;
        while put(&client, &vec![7; len]).is_ok() {
            count += 1;
        }
        assert!(count > 0);
        let mut left = count;
        while left > 0 {
            let frames = received(&mut link);
            assert_eq!(frames.len(), left.min(most), "{kind:?}");
            assert_eq!(link.is_backlogged(), left >= most, "{kind:?}");
            assert!(frames.iter().all(|frame| *frame == vec![7; len]));
            left -= frames.len();
        }
    }
}

/// A message that is no frame is dropped alone, and counted.
#[test]
fn messages_that_are_no_frames() {
    for kind in KINDS {
        let (mut link, client) = pair(kind);
        for bad in [1, 13, MAX_FRAME + 1, MAX_FRAME + 2, 100_000] {
            for len in [14, 1514, MAX_FRAME] {
                put(&client, &vec![1; bad]).unwrap();
                put(&client, &vec![2; len]).unwrap();
                assert_eq!(lengths(&mut link), [None, Some(len)], "{kind:?} {bad}");
                let mut into = Gather::new();
                assert!(!link.payload(0, 0..0, &mut into) && link.payload(1, 0..len, &mut into));
                let mut bytes = vec![0; len];
                into.copy_out(0, &mut bytes);
                assert_eq!(bytes, vec![2; len], "{kind:?} {bad}");
            }
            assert!(link.is_connected());
        }
    }
}

/// Empty messages are no frames, and no end, but for very many where the end can't be told from them.
#[test]
fn empty_messages() {
    for kind in KINDS {
        let (mut link, client) = pair(kind);
        for message in [&[][..], &[1; 60], &[], &[]] {
            put(&client, message).unwrap();
        }
        assert_eq!(lengths(&mut link), [None, Some(60), None, None], "{kind:?}");
        assert!(link.is_connected());
    }

    // One less than are taken for the end.
    let (mut link, client) = pair(SocketType::SEQPACKET);
    for _ in 0..63 {
        put(&client, &[]).unwrap();
    }
    put(&client, &[1; 60]).unwrap();
    let got = lengths(&mut link);
    assert_eq!((got.len(), got.last()), (64, Some(&Some(60))));
    assert!(link.is_connected());

    let (mut link, client) = pair(SocketType::SEQPACKET);
    put(&client, &[1; 60]).unwrap();
    rustix::net::shutdown(&client, rustix::net::Shutdown::Write).unwrap();
    assert_eq!(lengths(&mut link), [Some(60)], "what came before");
    assert_eq!(link.receive(0).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert!(!link.is_connected());
}

#[test]
fn each_segment_is_a_message() {
    let bytes = mixed();
    for (len, mss) in [(65_000, 1460), (65_000, 65_480), (1, 1460), (1461, 1460), (10_000, 88)] {
        for kind in KINDS {
            let (mut link, client) = pair(kind);
            assert_eq!(send(&mut link, &bytes[..len], len, mss), Some(Ok(())));
            let mut frames = Vec::new();
            while link.flush().is_some() {
                frames.extend(taken(&client));
            }
            frames.extend(taken(&client));
            assert_eq!(frames.len(), len.div_ceil(mss.into()));
            assert_eq!(payload(&frames), &bytes[..len], "{kind:?}");
        }
    }
    let (mut link, _client) = pair(SocketType::DGRAM);
    assert_eq!(link.send(&vec![2; MAX_FRAME + 1]), Err(DropReason::LinkWrite));
}

/// A client that stops to read has all once it goes on, in order, each frame a message.
#[test]
fn a_client_that_stops_reading() {
    for kind in KINDS {
        let (mut link, client) = pair(kind);
        let mut expected = 0_u32;
        while !link.is_congested() {
            let bytes: Vec<u8> = (0..20).flat_map(|n| numbered(expected + n)).collect();
            assert_eq!(send(&mut link, &bytes, bytes.len(), 1000), Some(Ok(())));
            expected += 20;
        }
        assert_eq!(link.flush(), Some(0), "something waits");
        let mut bare = 0;
        while link.send(&[3; 54]).is_ok() {
            bare += 1;
        }
        assert_eq!(link.send(&[3; 54]), Err(DropReason::LinkBusy));
        let mut frames = Vec::new();
        while link.flush().is_some() {
            // The kernel takes more as soon as there is some room.
            let mut buffer = [0; 2000];
            let (_, len) = recv(&client, &mut buffer, RecvFlags::DONTWAIT).unwrap();
            frames.push(buffer[..len].to_vec());
        }
        assert!(!link.is_congested());
        frames.extend(taken(&client));
        let mut number = 0;
        for frame in frames.iter().filter(|frame| frame.len() == 1054) {
            assert_eq!(frame[54..], numbered(number), "{kind:?}");
            number += 1;
        }
        assert_eq!((number, frames.len()), (expected, usize::try_from(expected).unwrap() + bare));
    }
}

/// A segment of 1000 bytes.
fn numbered(number: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[9; 996]].concat()
}

/// A message that is longer than the socket's buffer will never be taken: it alone is lost.
#[test]
fn messages_that_no_buffer_holds() {
    for kind in KINDS {
        let (mut link, client) = pair(kind);
        set_socket_send_buffer_size(link.fd(0).unwrap(), 16_000).unwrap();
        for (byte, len) in [(1, 60), (2, 60_000), (3, 100), (4, 60_000), (5, 60_000), (6, 60)] {
            link.send(&vec![byte; len]).unwrap();
        }
        assert!(link.flush().is_none());
        assert_eq!(taken(&client), [vec![1; 60], vec![3; 100], vec![6; 60]], "{kind:?}");
        assert!(link.is_connected() && link.receive(0).unwrap() == 0);
    }
}

#[test]
fn a_client_that_leaves() {
    for kind in KINDS {
        // With and without something that it has not read.
        for unread in [false, true] {
            let (mut link, client) = pair(kind);
            put(&client, &[1; 60]).unwrap();
            if unread {
                link.send(&[2; 60]).unwrap();
                link.flush();
            }
            drop(client);
            assert_eq!(received(&mut link), [[1; 60]], "{kind:?} {unread}");
            // Nobody else can tell that a datagram socket has lost its peer.
            if kind == SocketType::DGRAM {
                link.send(&[2; 60]).unwrap();
                assert!(link.flush().is_none());
            }
            assert_eq!(link.receive(0).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{kind:?} {unread}");
            assert!(!link.is_connected() && link.fd(0).is_none());
            assert_eq!(link.send(&[1; 60]), Err(DropReason::LinkWrite));
        }
    }
}

/// The last that a client sent before it left is received also if the link knows that it left. Of
/// datagrams the kernel itself forgets them (`unix_dgram_disconnected` of `net/unix/af_unix.c`).
#[test]
fn the_last_messages() {
    for kind in KINDS {
        let (mut link, client) = pair(kind);
        put(&client, &[1; 60]).unwrap();
        put(&client, &[2; 60]).unwrap();
        drop(client);
        link.send(&[3; 60]).unwrap();
        link.flush();
        if kind == SocketType::SEQPACKET {
            assert_eq!(received(&mut link), [[1; 60], [2; 60]]);
        }
        assert_eq!(link.receive(0).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        let (ours, client) = sockets(kind);
        link.connect(ours);
        link.send(&[4; 60]).unwrap();
        link.flush();
        assert_eq!(taken(&client), [[4; 60]], "the next one starts afresh");
    }
}

/// A message that comes with descriptors has a frame all the same, and they are closed.
#[test]
fn descriptors_are_not_taken() {
    for kind in KINDS {
        let (mut link, client) = pair(kind);
        let (reader, writer) = std::io::pipe().unwrap();
        passt_sys::msg::send_with(client.as_fd(), &[1; 60], &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(received(&mut link), [[1; 60]]);
        let mut reader = reader;
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "{kind:?}");
    }
}

#[test]
fn more_messages_than_one_call_takes() {
    for kind in KINDS {
        let (mut link, client) = pair(kind);
        let count = u8::try_from(dgram::BATCH * 3 + 1).unwrap();
        (0..count).for_each(|n| link.send(&[n; 60]).unwrap());
        assert!(link.flush().is_none());
        let expected: Vec<_> = (0..count).map(|n| vec![n; 60]).collect();
        assert_eq!(taken(&client), expected, "{kind:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_comes(
        kind in prop::sample::select(KINDS.to_vec()),
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 0..40),
    ) {
        let (mut link, client) = pair(kind);
        for message in &messages {
            put(&client, message).unwrap();
        }
        let expected: Vec<_> =
            messages.iter().map(|message| (message.len() >= 14).then_some(message.len())).collect();
        prop_assert_eq!(lengths(&mut link), expected);
        for (index, message) in messages.iter().enumerate().filter(|(_, message)| message.len() >= 14) {
            prop_assert_eq!(link.frame(index).unwrap().head, message);
        }
    }
}
