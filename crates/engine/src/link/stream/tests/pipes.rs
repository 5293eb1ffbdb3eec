//! Two descriptors, one each way.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, pipe};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::*;

/// A link, and the ends of its pipes: what the client reads, without waiting, and what it writes.
fn pair(framing: Framing) -> (StreamLink, PipeReader, PipeWriter) {
    let ((input, writer), (reader, output)) = (pipe().unwrap(), pipe().unwrap());
    fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
    let mut link = StreamLink::new(framing);
    link.connect_pair(input.into(), output.into()).unwrap();
    (link, reader, writer)
}

#[test]
fn frames_go_both_ways() {
    for framing in STREAMS {
        let (mut link, mut reader, mut writer) = pair(framing);
        assert!(link.is_connected());
        assert!(link.fd(0).is_some() && link.fd(1).is_some() && link.fd(2).is_none());
        for number in [0, 1] {
            assert!(fcntl_getfl(link.fd(number).unwrap()).unwrap().contains(OFlags::NONBLOCK));
        }
        assert_eq!(link.receive(0).unwrap(), 0, "nothing yet");
        let bytes = framed_by(framing, &sample());
        let (a, b) = bytes.split_at(40);
        writer.write_all(a).unwrap();
        let mut got = received(&mut link);
        writer.write_all(b).unwrap();
        got.extend(received(&mut link));
        assert_eq!(got, sample(), "{framing:?}");

        let bytes = mixed();
        assert_eq!(send(&mut link, &bytes[..20_000], 20_000, 1460), Some(Ok(())));
        assert!(link.flush().is_none());
        assert_eq!(payload(&sent_by(framing, &mut reader)), &bytes[..20_000]);
    }
}

/// What a full pipe does not take waits, and the descriptor that it waits for is the output.
#[test]
fn a_client_that_stops_reading() {
    for framing in STREAMS {
        let (mut link, mut reader, _writer) = pair(framing);
        let mut frames = Vec::new();
        for byte in 0..250 {
            let frame = vec![byte; 1500];
            link.send(&frame).unwrap();
            frames.push(frame);
        }
        assert_eq!(link.flush(), Some(1), "something waits");
        let (mut got, mut buffer) = (Vec::new(), [0; 1777]);
        while link.flush().is_some() {
            let len = reader.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..len]);
        }
        assert_eq!(reader.read_to_end(&mut got).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(unframed(framing, &got), frames, "{framing:?}");
    }
}

#[test]
fn a_client_that_closes_either_pipe() {
    let (mut link, _reader, mut writer) = pair(Framing::Le16);
    writer.write_all(&framed_by(Framing::Le16, &sample())).unwrap();
    drop(writer);
    assert_eq!(received(&mut link), sample(), "what came before");
    assert_eq!(link.receive(0).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert!(!link.is_connected() && link.fd(1).is_none());

    // The loop is told that nobody reads, whether something is sent or not.
    for sends in [false, true] {
        let (mut link, reader, _writer) = pair(Framing::Le16);
        drop(reader);
        if sends {
            link.send(&[1; 60]).unwrap();
            assert!(link.flush().is_none());
        }
        assert_eq!(link.receive(1).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert!(!link.is_connected() && link.fd(0).is_none());
    }
    let (mut link, reader, _writer) = pair(Framing::Le16);
    drop(reader);
    link.send(&[1; 60]).unwrap();
    link.flush();
    assert_eq!(link.receive(0).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn bad_lengths() {
    let (mut link, _reader, mut writer) = pair(Framing::Le16);
    writer.write_all(&[13, 0]).unwrap();
    assert_eq!(link.receive(0).unwrap_err().kind(), ErrorKind::InvalidData);
    assert!(!link.is_connected());
    assert!(writer.write_all(&[0]).is_err(), "the client is told");
}

#[test]
fn nothing_keeps_messages_apart_in_a_pipe() {
    let ((input, _writer), (_reader, output)) = (pipe().unwrap(), pipe().unwrap());
    let mut link = StreamLink::new(Framing::Message);
    let error = link.connect_pair(input.into(), output.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(!link.is_connected() && link.send(&[1; 60]).is_err());
}

/// Standard input and output may be one socket: it is watched once.
#[test]
fn the_same_socket_twice() {
    for (framing, kind) in [
        (Framing::Be32, SocketType::STREAM),
        (Framing::Le16, SocketType::STREAM),
        (Framing::Message, SocketType::SEQPACKET),
        (Framing::Message, SocketType::DGRAM),
    ] {
        let (ours, client) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let mut link = StreamLink::new(framing);
        link.connect_pair(ours.try_clone().unwrap(), ours).unwrap();
        assert!(link.fd(0).is_some() && link.fd(1).is_none());
        assert!(!fcntl_getfl(link.fd(0).unwrap()).unwrap().contains(OFlags::NONBLOCK), "as it was");
        let mut client = File::from(client);
        client.write_all(&framed_by(framing, &[vec![1; 60]])).unwrap();
        assert_eq!(received(&mut link), [[1; 60]]);
        while link.flush().is_none() {
            link.send(&[2; 1000]).unwrap();
        }
        assert_eq!(link.flush(), Some(0));
        let mut buffer = vec![0; framing.prefix_len() + 1000];
        client.read_exact(&mut buffer).unwrap();
        assert_eq!(buffer, framed_by(framing, &[vec![2; 1000]]));
    }
}

/// What somebody writes to a socket that is for output only is of no use, and is not left to wake
/// the loop for ever.
#[test]
fn two_sockets() {
    let ((input, mut writer), (output, mut reader)) =
        (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    reader.set_nonblocking(true).unwrap();
    let mut link = StreamLink::new(Framing::Le16);
    link.connect_pair(input.into(), output.into()).unwrap();
    let bytes = framed_by(Framing::Le16, &sample());
    let (a, b) = bytes.split_at(40);
    writer.write_all(a).unwrap();
    let mut got = received(&mut link);
    reader.write_all(&[0xff; 5000]).unwrap();
    for _ in 0..3 {
        assert_eq!(link.receive(1).unwrap(), 0);
    }
    let mut byte = [0];
    let mut into = Scatter::new();
    into.push(&mut byte);
    assert_eq!(msg::peek(link.fd(1).unwrap(), &into).unwrap_err().kind(), ErrorKind::WouldBlock);
    writer.write_all(b).unwrap();
    got.extend(received(&mut link));
    assert_eq!(got, sample(), "half a frame is not forgotten");
    link.send(&[3; 60]).unwrap();
    link.flush();
    assert_eq!(sent_by(Framing::Le16, &mut reader), [[3; 60]]);
    drop(reader);
    assert_eq!(link.receive(1).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert!(!link.is_connected());
}

/// A terminal's other end, and the terminal opened for input, and again for output.
fn terminal() -> (File, OwnedFd, OwnedFd) {
    let other = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&other).unwrap();
    unlockpt(&other).unwrap();
    let name = ptsname(&other, Vec::new()).unwrap();
    let open = |how| rustix::fs::open(&name, how | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let (input, output) = (open(OFlags::RDONLY), open(OFlags::WRONLY));
    let mut raw = rustix::termios::tcgetattr(&input).unwrap();
    raw.make_raw();
    rustix::termios::tcsetattr(&input, rustix::termios::OptionalActions::Now, &raw).unwrap();
    fcntl_setfl(&other, OFlags::RDWR | OFlags::NONBLOCK).unwrap();
    (File::from(other), input, output)
}

/// A serial line has one name for both ways. Either descriptor may be told that there is something
/// to read.
#[test]
fn a_terminal_opened_twice() {
    let (mut other, input, output) = terminal();
    let mut link = StreamLink::new(Framing::Le16);
    link.connect_pair(input, output).unwrap();
    assert!(link.fd(1).is_some());
    let mut got = Vec::new();
    for (number, frame) in [0, 1, 0].into_iter().zip(sample()) {
        other.write_all(&framed_by(Framing::Le16, std::slice::from_ref(&frame))).unwrap();
        while link.receive(number).unwrap() == 0 {}
        got.push(link.frame(0).unwrap().head.to_vec());
    }
    assert_eq!(got, sample()[..3]);
    link.send(&[3; 60]).unwrap();
    assert!(link.flush().is_none());
    let mut frame = [0; 62];
    while rustix::io::ioctl_fionread(&other).unwrap() < 62 {}
    other.read_exact(&mut frame).unwrap();
    assert_eq!(frame[..], framed_by(Framing::Le16, &[vec![3; 60]]));
    drop(other);
    assert_eq!(link.receive(0).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}
