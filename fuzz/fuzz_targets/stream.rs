//! What a client of the stream link can send, in pieces: frames are those of the stream, however
//! it was cut, and nothing is read after a length that no frame has.
//!
//! The first byte says in pieces of which size the rest arrives.
#![no_main]

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use passt_engine::link::{ClientLink as _, Link as _};
use passt_engine::link::stream::StreamLink;
use passt_proto::wire::stream::{PREFIX, frame_len};
use passt_sys::iovec::Gather;

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else { return };
    let (ours, mut client) = UnixStream::pair().expect("sockets");
    let mut link = StreamLink::new();
    link.connect(ours.into());
    let mut got = Vec::new();
    for piece in stream.chunks(usize::from(size).max(1)) {
        // It fails once the link has had enough.
        if client.write_all(piece).is_err() {
            break;
        }
        let count = link.receive(0).unwrap_or(0);
        got.extend((0..count).map(|index| bytes(&link, index)));
    }
    let (mut rest, mut valid) = (stream, 0);
    let sound = loop {
        match frame_len(rest) {
            Ok(Some(len)) => {
                let (frame, others) = rest[PREFIX..].split_at(len);
                // What came in one piece with a bad length may be lost with it.
                assert!(got.get(valid).is_none_or(|got| got == frame));
                (rest, valid) = (others, valid + 1);
            }
            end => break end.is_ok(),
        }
    };
    assert!(got.len() <= valid && (got.len() == valid || !sound));
    assert_eq!(link.is_connected(), sound);
});

/// All of a frame received.
fn bytes(link: &StreamLink, index: usize) -> Vec<u8> {
    let frame = link.frame(index).expect("a frame");
    let mut data = Gather::new();
    assert!(link.payload(index, 0..frame.len, &mut data));
    let mut out = vec![0; frame.len];
    assert_eq!(data.copy_out(0, &mut out), frame.len);
    assert!(out.starts_with(frame.head));
    out
}
