//! Frames at a socket instead of a device, for a virtual machine: each a packet of its own.

use std::path::Path;

use passt_tests::eventually;
use passt_tests::frame::{MacBytes, UDP, arp, dhcp, ethernet, ip4, udp};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, connect, recv, send, socket,
};

use crate::rig::{Rig, udp_server};

const MAC: MacBytes = [2, 0, 0, 0, 0, 1];

/// The machine's end.
struct Machine(OwnedFd);

impl Machine {
    fn connect(path: &Path) -> Self {
        let address = SocketAddrUnix::new(path).expect("a short path");
        let fd = eventually("a listening socket", || {
            let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
            connect(&fd, &address).ok().map(|()| fd)
        });
        Self(fd)
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(send(&self.0, frame, SendFlags::empty()), Ok(frame.len()));
    }

    /// The next frame that `is` what is looked for.
    fn find(&self, what: &str, is: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut frame = vec![0; 65_536];
        eventually(what, || {
            let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
            let soon = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if poll(&mut ready, Some(&soon)) != Ok(1) {
                return None;
            }
            let (count, _) = recv(&self.0, &mut frame[..], RecvFlags::empty()).expect("a frame");
            assert!(count > 0, "closed before {what}");
            is(&frame[..count]).then(|| frame[..count].to_vec())
        })
    }
}

#[test]
fn frames_at_a_socket() {
    let Some(rig) = Rig::new() else { return };
    let path = rig.net.dir().join("bess");
    std::fs::write(&path, "in the way").expect("a file");
    let mut slirp = rig.begin("", &format!("--target-type=bess {}", path.display()));
    slirp.process.wait_for(&format!("Waiting for connection to {}", path.display()));
    let machine = Machine::connect(&path);
    assert_eq!(slirp.wait_until_ready(), b"1");
    machine.send(&ethernet(MAC, 0x0806, &arp(MAC, "10.0.2.15", "10.0.2.2")));
    let reply = machine.find("an ARP reply", |frame| frame[12..14] == [8, 6] && frame[20..22] == [0, 2]);
    assert_eq!(reply[22..28], [0x52, 0x55, 10, 0, 2, 2]);
    let discover = ip4("0.0.0.0", "255.255.255.255", UDP, &udp(68, 67, &dhcp(MAC, 1)));
    machine.send(&ethernet(MAC, 0x0800, &discover));
    let offer = machine.find("an offer", |frame| frame.len() > 282 && frame[34..38] == [0, 67, 0, 68]);
    assert_eq!(offer[58..62], [10, 0, 2, 15]);
    // A service of the host answers a datagram.
    let _server = udp_server(&rig.net.host, "127.0.0.1:6001");
    machine.send(&ethernet(MAC, 0x0800, &ip4("10.0.2.15", "10.0.2.2", UDP, &udp(999, 6001, b"hello"))));
    // Newer ones fill up what is short.
    machine.find("an echo", |frame| frame.len() >= 47 && frame[42..47] == *b"hello");
    let ended = slirp.stop();
    assert!(ended.stdout.contains("WARNING: BESS mode is experimental"), "{ended:?}");
}
