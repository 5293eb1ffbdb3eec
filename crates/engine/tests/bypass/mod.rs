//! The engine without a link, between two sides which are both the namespace of the test: clients
//! and servers are sockets on its loopback interface, where what is sent has arrived when the call
//! returns.
#![allow(dead_code, reason = "each test uses a part")]

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use passt_engine::flow::{Protocol, Side};
use passt_engine::link::none::NoLink;
use passt_engine::worker::Worker;
use passt_proto::guest::{Bypass, Configured, FamilyConfig};
use passt_proto::time::Instant;
use passt_sys::namespace::Resident;

use crate::common::{free_port, ip, open, options, rule};

pub(crate) const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];

/// With a clock that the test sets.
pub(crate) struct Engine {
    pub(crate) worker: Worker<NoLink>,
    pub(crate) now: Instant,
}

impl Engine {
    pub(crate) fn new(bypass: Bypass) -> Self {
        Self::with_room(bypass, 256)
    }

    pub(crate) fn with_room(bypass: Bypass, max_flows: usize) -> Self {
        // An address of ours that is not the one that clients talk to.
        let v4 = FamilyConfig {
            assigned: [ip("127.0.0.2").into()].into_iter().collect(),
            ..FamilyConfig::default()
        };
        let options = options(0, &Configured { bypass, v4, ..Configured::default() }, max_flows);
        let now = Instant::from_millis(1000);
        let mut worker = Worker::new(NoLink, &options, now).unwrap();
        worker.enter(Some(Resident::here().unwrap())).unwrap();
        Self { worker, now }
    }

    /// Forwards `port` of one side to `to` of the other, for datagrams.
    pub(crate) fn forward(&mut self, side: Side, address: &str, port: u16, to: u16) {
        self.forward_any(Protocol::Udp, side, address, port, to);
    }

    /// A client that is connected to a port that stands for a server on the other side.
    pub(crate) fn client_of_stream(&mut self, side: Side, address: &str, server: &TcpListener) -> TcpStream {
        let port = free_port();
        self.forward_any(Protocol::Tcp, side, address, port, server.local_addr().unwrap().port());
        TcpStream::connect((address, port)).unwrap()
    }

    /// Such a client, and the server's end of the connection.
    pub(crate) fn connection(&mut self, side: Side, address: &str, server: &TcpListener) -> [TcpStream; 2] {
        let client = self.client_of_stream(side, address, server);
        self.turn();
        [client, server.accept().unwrap().0]
    }

    pub(crate) fn forward_any(&mut self, protocol: Protocol, side: Side, address: &str, port: u16, to: u16) {
        let rule = rule(Some(address), port, to);
        // Opened as for the host: sockets of the namespace would listen on one interface.
        let mut listeners = open(protocol, vec![rule]).unwrap();
        for listener in &mut listeners {
            listener.side = side;
        }
        self.worker.listen(listeners).unwrap();
    }

    /// A client's socket, connected to a port that stands for `server` on the other side.
    pub(crate) fn client_of(&mut self, side: Side, server: &UdpSocket, address: &str) -> UdpSocket {
        let port = free_port();
        self.forward(side, address, port, server.local_addr().unwrap().port());
        client(address, port)
    }

    /// A round, and as many more as the thread that makes sockets takes.
    pub(crate) fn turn(&mut self) {
        let mut waits = true;
        while waits {
            waits = self.worker.awaits_namespace();
            self.worker.turn(self.now).unwrap();
            waits |= self.worker.awaits_namespace();
            std::thread::yield_now();
        }
    }

    pub(crate) fn sleep_until_flows_end(&mut self) -> Duration {
        let begun = self.now;
        while self.worker.flow_count() > 0 {
            self.now = self.worker.next_timeout().unwrap();
            self.turn();
        }
        self.now.since(begun)
    }
}

pub(crate) fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

pub(crate) fn client(address: &str, port: u16) -> UdpSocket {
    let client = socket(if address.contains(':') { "::1" } else { "127.0.0.1" });
    client.connect((address, port)).unwrap();
    client
}
