//! What a client of the stream link can send, in pieces: frames are those of the stream, however
//! it was cut, and nothing is read after a length that no frame has. Of messages each is a frame, or
//! is malformed.
//!
//! The first byte says how frames are told apart, the second in pieces of which size the rest
//! arrives.
#![no_main]

use std::os::fd::OwnedFd;

use libfuzzer_sys::fuzz_target;
use passt_engine::link::stream::{Framing, StreamLink};
use passt_engine::link::{ClientLink as _, Link as _};
use passt_sys::iovec::Gather;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

fuzz_target!(|data: &[u8]| {
    let [how, size, stream @ ..] = data else { return };
    let (framing, kind) = match how % 4 {
        0 => (Framing::Be32, SocketType::STREAM),
        1 => (Framing::Le16, SocketType::STREAM),
        2 => (Framing::Message, SocketType::SEQPACKET),
        _ => (Framing::Message, SocketType::DGRAM),
    };
    let (ours, client) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("sockets");
    let mut link = StreamLink::new(framing);
    link.connect(ours);
    let size = usize::from(*size).max(1);
    match framing {
        Framing::Message => messages(&mut link, &client, stream, size),
        Framing::Be32 | Framing::Le16 => bytes(&mut link, &client, stream, size, framing),
    }
});

/// A stream, whose frames do not depend on where it is cut.
fn bytes(link: &mut StreamLink, client: &OwnedFd, stream: &[u8], size: usize, framing: Framing) {
    let mut got = Vec::new();
    for mut piece in stream.chunks(size) {
        // It fails once the link has had enough.
        while let Ok(sent @ 1..) = send(client, piece, SendFlags::NOSIGNAL) {
            piece = &piece[sent..];
        }
        let count = link.receive(0).unwrap_or(0);
        got.extend((0..count).map(|index| whole(link, index).expect("a frame")));
    }
    let (mut rest, mut valid) = (stream, 0);
    let sound = loop {
        match framing.frame_len(rest) {
            Ok(Some(len)) => {
                let (frame, others) = rest[framing.prefix_len()..].split_at(len);
                // What came in one piece with a bad length may be lost with it.
                assert!(got.get(valid).is_none_or(|got| got == frame));
                (rest, valid) = (others, valid + 1);
            }
            end => break end.is_ok(),
        }
    };
    assert!(got.len() <= valid && (got.len() == valid || !sound));
    assert_eq!(link.is_connected(), sound);
}

/// Messages, some of which are received together.
fn messages(link: &mut StreamLink, client: &OwnedFd, stream: &[u8], size: usize) {
    let messages: Vec<_> = stream.chunks(size).collect();
    for batch in messages.chunks(7) {
        for message in batch {
            assert_eq!(send(client, message, SendFlags::NOSIGNAL), Ok(message.len()));
        }
        assert_eq!(link.receive(0).expect("a client"), batch.len());
        for (index, &message) in batch.iter().enumerate() {
            let expected = (message.len() >= 14).then_some(message);
            assert_eq!(whole(link, index).as_deref(), expected);
        }
    }
    assert!(link.is_connected());
}

/// All of a frame received; none if it was malformed.
fn whole(link: &StreamLink, index: usize) -> Option<Vec<u8>> {
    let frame = link.frame(index)?;
    let mut data = Gather::new();
    assert!(link.payload(index, 0..frame.len, &mut data));
    let mut out = vec![0; frame.len];
    assert_eq!(data.copy_out(0, &mut out), frame.len);
    assert!(out.starts_with(frame.head));
    Some(out)
}
