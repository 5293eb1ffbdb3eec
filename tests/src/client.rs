//! What a virtual machine's program does at passt's socket, frame by frame.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::frame::{MacBytes, arp, dhcp, ethernet, ip4, udp};
use crate::{DEADLINE, GATEWAY4, HOST4, eventually};

/// The guest's MAC address.
pub const MAC: MacBytes = [2, 0, 0, 0, 0, 1];

/// A connection to passt.
pub struct Client(UnixStream);

impl Client {
    /// Connects to the socket at `path`, which must be live.
    pub fn connect(path: &Path) -> Self {
        UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
    }

    /// Connects as soon as something listens at `path`.
    pub fn wait_for(path: &Path) -> Self {
        let what = format!("a socket at {}", path.display());
        eventually(&what, || UnixStream::connect(path).ok()).into()
    }

    /// Sends any bytes.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("passt reads");
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &[u8]) {
        let len = u32::try_from(frame.len()).expect("a frame").to_be_bytes();
        self.send_raw(&[&len, frame].concat());
    }

    /// Waits until passt has read all that was sent: what comes to it later comes after that.
    pub fn wait_until_read(&self) {
        eventually("frames are read", || {
            (passt_sys::socket::unacknowledged(self.0.as_fd()).ok()? == 0).then_some(())
        });
    }

    /// The next frame, `None` at the connection's end.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut len = [0; 4];
        if let Err(error) = self.0.read_exact(&mut len) {
            let closed = [std::io::ErrorKind::UnexpectedEof, std::io::ErrorKind::ConnectionReset];
            assert!(closed.contains(&error.kind()), "no frame: {error}");
            return None;
        }
        let mut frame = vec![0; u32::from_be_bytes(len).try_into().expect("a length")];
        self.0.read_exact(&mut frame).expect("a whole frame");
        Some(frame)
    }

    /// The first of the frames to come that `is` what is looked for.
    pub fn find(&mut self, what: &str, is: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let frame = self.receive().unwrap_or_else(|| panic!("closed before {what}"));
            if is(&frame) {
                return frame;
            }
        }
    }

    /// Takes nothing more from passt, which can tell.
    pub fn stop_reading(&mut self) {
        self.0.shutdown(Shutdown::Read).expect("a connection");
    }

    /// Waits until the other side closes.
    pub fn wait_for_end(&mut self) {
        while self.receive().is_some() {}
    }

    /// Has the gateway's MAC address told: whether we are served at all.
    pub fn ask_for_gateway(&mut self) -> MacBytes {
        self.send(&ethernet(MAC, 0x0806, &arp(MAC, HOST4, GATEWAY4)));
        let reply = self.find("an ARP reply", |frame| frame[12..14] == [8, 6] && frame[20..22] == [0, 2]);
        reply[22..28].try_into().expect("a MAC address")
    }

    /// Has a DHCP server answer, from Ethernet header to the options' end.
    pub fn discover(&mut self) -> Vec<u8> {
        let packet = ip4("0.0.0.0", "255.255.255.255", crate::frame::UDP, &udp(68, 67, &dhcp(MAC, 1)));
        self.send(&ethernet(MAC, 0x0800, &packet));
        self.find("a DHCP offer", |frame| frame.len() > 282 && frame[34..38] == [0, 67, 0, 68])
    }
}

impl From<UnixStream> for Client {
    fn from(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        Self(stream)
    }
}
