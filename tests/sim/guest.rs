//! The guest: the TCP/IP stack of smoltcp, which shares no code with ours.

use std::collections::VecDeque;

use passt_proto::time::Instant;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use crate::{DOWN, UP, check, fill};

/// The guest's device: frames that arrived, and frames to be sent.
pub(crate) struct Device {
    pub(crate) received: VecDeque<Vec<u8>>,
    pub(crate) sent: Vec<Vec<u8>>,
    medium: Medium,
    mtu: usize,
}

/// A guest with its sockets.
pub(crate) struct Guest {
    pub(crate) device: Device,
    pub(crate) iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
}

/// A program in the guest that sends and receives on one connection.
pub(crate) struct App {
    pub(crate) socket: SocketHandle,
    /// Bytes to send before closing.
    pub(crate) to_send: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Whether it reads what arrives.
    pub(crate) reading: bool,
    /// Whether it closes its direction behind its last byte.
    pub(crate) closing: bool,
    /// It saw the end of the stream to it.
    pub(crate) eof: bool,
}

impl Guest {
    /// A guest on a link that carries frames, or bare packets.
    pub(crate) fn new(medium: Medium, mtu: usize, addrs: &[IpCidr]) -> Self {
        // What is called the MTU there has the Ethernet header in it.
        let mtu = if medium == Medium::Ethernet { mtu + 14 } else { mtu };
        let mut device = Device { received: VecDeque::new(), sent: Vec::new(), medium, mtu };
        let address = match medium {
            Medium::Ethernet => HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, 1])),
            Medium::Ip => HardwareAddress::Ip,
        };
        let mut iface = Interface::new(Config::new(address), &mut device, Time::ZERO);
        iface.update_ip_addrs(|list| list.extend(addrs.iter().copied()));
        Self { device, iface, sockets: SocketSet::new(Vec::new()) }
    }

    pub(crate) fn tcp(&mut self, buffer: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        // Offered as by most systems, and refused.
        socket.set_tsval_generator(Some(|| 1));
        self.sockets.add(socket)
    }

    /// Has the stack work off what arrived and what is due.
    pub(crate) fn poll(&mut self, now: Instant) {
        self.iface.poll(time(now), &mut self.device, &mut self.sockets);
    }

    pub(crate) fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        let at = self.iface.poll_at(time(now), &self.sockets)?;
        Some(Instant::from_nanos(u64::try_from(at.total_micros()).expect("after zero") * 1000))
    }
}

impl App {
    pub(crate) fn new(socket: SocketHandle, to_send: u64) -> Self {
        Self { socket, to_send, sent: 0, received: 0, reading: true, closing: true, eof: false }
    }

    /// Writes and reads what can be; true if that was anything.
    pub(crate) fn work(&mut self, guest: &mut Guest) -> bool {
        let socket = guest.sockets.get_mut::<tcp::Socket>(self.socket);
        let before = (self.sent, self.received, self.eof);
        let left = self.to_send - self.sent;
        if left > 0 && socket.can_send() {
            let sent = socket.send(|room| {
                let n = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                fill(UP, self.sent, &mut room[..n]);
                (n, n)
            });
            self.sent += sent.expect("can send") as u64;
        }
        if self.closing && self.sent == self.to_send && socket.may_send() {
            socket.close();
        }
        while self.reading && socket.can_recv() {
            let got = socket.recv(|bytes| {
                check(DOWN, self.received, bytes);
                (bytes.len(), bytes.len())
            });
            self.received += got.expect("can receive") as u64;
        }
        self.eof |= self.reading && socket.recv_slice(&mut [0; 1]) == Err(tcp::RecvError::Finished);
        before != (self.sent, self.received, self.eof)
    }

    pub(crate) fn state(&self, guest: &Guest) -> tcp::State {
        guest.sockets.get::<tcp::Socket>(self.socket).state()
    }
}

fn time(now: Instant) -> Time {
    Time::from_micros(i64::try_from(now.as_nanos() / 1000).expect("within a lifetime"))
}

pub(crate) struct Received(Vec<u8>);
pub(crate) struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl phy::Device for Device {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Time) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Time) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = self.medium;
        caps.max_transmission_unit = self.mtu;
        // Checksums of what arrives are verified: a wrong one is a lost frame.
        caps.checksum.ipv4 = Checksum::Both;
        caps.checksum.tcp = Checksum::Both;
        caps
    }
}
