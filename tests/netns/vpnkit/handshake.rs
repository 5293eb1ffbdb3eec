//! How clients introduce themselves, and those who do it badly.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

use passt_tests::FAR4;
use passt_tests::transfer::{at, exchange};

use crate::client::{Vif, command, discover, framed, init, introduce, read, rest, uuid, write};
use crate::rig::{FIRST, Rig};
use passt_tests::Place as _;

const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[test]
fn every_byte() {
    let Some(rig) = Rig::new() else { return };
    for (mtu, most) in [(1500_u16, 1550_u16), (65_520, 65_535), (1280, 1330)] {
        let _vpnkit = rig.start(mtu, "");
        let stream = rig.connect();
        write(&stream, &init(22));
        let greeting = read(&stream, 49);
        assert_eq!(greeting[..9], *b"VMN3T\x16\0\0\0");
        assert!(greeting[9..].iter().all(u8::is_ascii_hexdigit), "{greeting:?}");
        write(&stream, &command(1, &uuid(1), NONE));
        let vif = Vif::accept(stream).expect("served");
        let [mtu, most] = [mtu, most].map(u16::to_le_bytes);
        let expected = [&[1][..], &mtu, &most, &[2, 0x50, 0, 0, 0, 1], &[0; 247]].concat();
        assert_eq!(vif.answer, expected);
        // Behind it are frames.
        assert_eq!(vif.discover().address, FIRST);
    }
}

#[test]
fn another_version() {
    let Some(rig) = Rig::new() else { return };
    let _vpnkit = rig.start(1500, "");
    for version in [0, 1, 21, 23, u32::MAX] {
        let stream = rig.connect();
        write(&stream, &init(version));
        let answer = rest(&stream);
        assert_eq!((answer.len(), &answer[..9]), (49, &b"VMN3T\x16\0\0\0"[..]), "{version}");
    }
    assert_eq!(rig.vif(&uuid(1)).discover().address, FIRST);
}

#[test]
fn unknown_commands() {
    let Some(rig) = Rig::new() else { return };
    let _vpnkit = rig.start(1500, "");
    // The sixth is for ports, which belong to another socket.
    for kind in [0, 2, 6, 7, 9, 255] {
        let stream = rig.connect();
        write(&stream, &init(22));
        read(&stream, 49);
        write(&stream, &command(kind, &uuid(1), NONE));
        let answer = rest(&stream);
        assert!(answer.is_empty() || (answer.len() == 258 && answer[0] == 2), "{kind}: {answer:?}");
    }
    assert_eq!(rig.vif(&uuid(1)).discover().address, FIRST);
}

#[test]
fn garbage() {
    let Some(rig) = Rig::new() else { return };
    let _vpnkit = rig.start(1500, "");
    let noise = passt_tests::stream::Stream::new(7).next_chunk()[..4096].to_vec();
    for bytes in
        [&noise[..], &[0; 49], b"VMN3U", &[&b"GET / HTTP/1.1\r\nHost: vpnkit\r\n"[..], &[b'x'; 60]].concat()]
    {
        let stream = rig.connect();
        write(&stream, bytes);
        if bytes.len() >= 49 {
            assert_eq!(rest(&stream), b"");
        }
    }
    assert_eq!(rig.vif(&uuid(1)).discover().address, FIRST);
}

#[test]
fn an_address_of_ones_choice() {
    let Some(rig) = Rig::new() else { return };
    let _vpnkit = rig.start(1500, "");
    let wanted = Ipv4Addr::new(192, 168, 65, 99);
    let vif = introduce(rig.connect(), 8, &uuid(1), wanted).expect("granted");
    assert_eq!(vif.discover().address, wanted);
    drop(vif);
    // It is known by its name.
    assert_eq!(rig.vif_after(&uuid(1)).discover().address, wanted);
    for number in
        [[192, 168, 65, 1], [192, 168, 65, 2], [192, 168, 65, 255], [192, 168, 66, 9], [10, 0, 0, 1]]
    {
        let outcome = introduce(rig.connect(), 8, &uuid(1), number.into());
        let reason = outcome.err().unwrap_or_else(|| panic!("{number:?} was granted"));
        assert!(!reason.is_empty());
    }
    // None at all is no choice.
    let vif = introduce(rig.connect(), 8, &uuid(1), NONE).expect("served");
    assert_eq!(vif.discover().address, wanted);
}

/// The address of one who was here before is not another's.
#[test]
fn an_address_that_is_taken() {
    let Some(rig) = Rig::new() else { return };
    let _vpnkit = rig.start(1500, "");
    assert_eq!(rig.vif(&uuid(1)).discover().address, FIRST);
    let second = rig.vif_after(&uuid(2));
    let address = second.discover().address;
    assert_ne!(address, FIRST);
    let outcome = introduce(rig.connect(), 8, &uuid(2), FIRST);
    assert!(outcome.is_err());
    assert_eq!(second.discover().address, address, "and nothing has changed for who is served");
}

/// Those who leave the name to the server are strangers to each other.
#[test]
fn clients_without_a_name() {
    let Some(rig) = Rig::new() else { return };
    let _vpnkit = rig.start(1500, "");
    let nameless = "\0".repeat(36);
    let first = rig.vif(&nameless);
    let address = first.discover().address;
    let second = rig.vif_after(&nameless);
    assert_ne!((second.mac, second.discover().address), (first.mac, address));
}

#[test]
fn byte_by_byte() {
    let Some(rig) = Rig::new() else { return };
    let _vpnkit = rig.start(1500, "");
    let stream = rig.connect();
    for bytes in [init(22), command(1, &uuid(1), NONE)] {
        for byte in &bytes {
            write(&stream, &[*byte]);
            wait_until_read(&stream);
        }
        if bytes.len() == 49 {
            read(&stream, 49);
        }
    }
    let vif = Vif::accept(stream).expect("served");
    assert_eq!(vif.discover().address, FIRST);
}

/// What comes with the introduction is not lost, wherever it is cut.
#[test]
fn frames_with_the_introduction() {
    let Some(rig) = Rig::new() else { return };
    let _vpnkit = rig.start(1500, "");
    let frame = framed(&discover([2, 0x50, 0, 0, 0, 1]));
    let all = [init(22), command(1, &uuid(1), NONE), frame.clone(), frame.clone()].concat();
    for cut in [0, 1, 48, 49, 50, 89, 90, 91, 92, 93, 300, all.len()] {
        let stream = rig.connect();
        write(&stream, &all[..cut]);
        wait_until_read_if_any(&stream, cut);
        write(&stream, &all[cut..]);
        read(&stream, 49);
        let vif = Vif::accept(stream).expect("served");
        for _ in 0..2 {
            assert_eq!(vif.offer().address, FIRST, "{cut}");
        }
    }
}

/// Whoever does not finish keeps nobody out, and does not disturb the guest.
#[test]
fn many_that_do_not_finish() {
    let Some(rig) = Rig::new() else { return };
    let mut vpnkit = rig.start(1500, "");
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let begun: Vec<UnixStream> = (0..20).map(|number| begin(&rig, number)).collect();
    let vif = rig.vif(&uuid(1));
    let (device, attached) = rig.guest(&vif, 1500);
    let more: Vec<UnixStream> = (0..20).map(|number| begin(&rig, number)).collect();
    exchange(&device, &at(FAR4, 5001));
    // Another one is told that there is a guest, and the guest may come again.
    assert!(rig.try_vif(&uuid(2)).is_err());
    let again = rig.vif(&uuid(1));
    assert_eq!((again.mac, again.discover().address), (vif.mac, FIRST));
    drop(attached);
    let attached = again.attach(&device);
    exchange(&device, &at(FAR4, 5001));
    drop((attached, vif, again));
    assert_ne!(rig.vif_after(&uuid(2)).discover().address, FIRST);
    drop((begun, more));
    assert!(vpnkit.try_wait().is_none());
}

/// A client that says a part of what it should.
fn begin(rig: &Rig, number: usize) -> UnixStream {
    let stream = rig.connect();
    let all = [init(22), command(1, &uuid(77), NONE)].concat();
    write(&stream, &all[..[0, 1, 20, 48, 49, 50, 89][number % 7]]);
    stream
}

fn wait_until_read_if_any(stream: &UnixStream, sent: usize) {
    if sent > 0 && sent <= 90 {
        wait_until_read(stream);
    }
}

/// Waits until the program has taken all that was sent.
fn wait_until_read(stream: &UnixStream) {
    use std::os::fd::AsFd as _;
    passt_tests::eventually("bytes are read", || {
        (passt_sys::socket::unacknowledged(stream.as_fd()).ok()? == 0).then_some(())
    });
}
