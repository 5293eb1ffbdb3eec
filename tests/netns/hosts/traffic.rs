//! Exchanges between two namespaces, by sockets of this process: a thread enters a namespace,
//! opens a socket, and ends.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use passt_tests::eventually;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// How long anything within an exchange may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes that go each way: more than a packet on a usual link, fewer than a socket's buffer takes.
const SIZE: usize = 6000;
/// Bytes of a datagram, which fit any link.
const DATAGRAM: usize = 1000;

/// How an exchange ended: who the server saw, or what failed.
pub(crate) type Outcome = Result<IpAddr, String>;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// Runs `work` in the network namespace at `path`.
pub(crate) fn inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        let ns = File::open(path).expect("the namespace");
        setns(ns, CloneFlags::CLONE_NEWNET).expect("root may enter");
        work()
    };
    let joined = std::thread::scope(|scope| scope.spawn(enter).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Both protocols at one port of a namespace.
pub(crate) struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    /// A server in the namespace at `ns`. An unspecified address stands for both families.
    pub(crate) fn new(ns: &Path, address: &str, port: u16) -> Self {
        let at = SocketAddr::new(address.parse().expect("an address"), port);
        // A program that another thread is just starting may still have sockets of the last server.
        let tcp = || eventually(&format!("bind TCP to {at}"), || TcpListener::bind(at).ok());
        let udp = || eventually(&format!("bind UDP to {at}"), || UdpSocket::bind(at).ok());
        let (tcp, udp) = inside(ns, || (tcp(), udp()));
        set_socket_timeout(&tcp, Timeout::Recv, Some(PATIENCE)).expect("a socket");
        udp.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { tcp, udp }
    }

    /// Has a client in the namespace at `ns` exchange something with this server by address `to`.
    pub(crate) fn exchange(&self, protocol: Protocol, ns: &Path, to: SocketAddr) -> Outcome {
        let seen = match protocol {
            Protocol::Tcp => self.tcp(ns, to),
            Protocol::Udp => self.udp(ns, to),
        };
        seen.map(|seen| seen.ip().to_canonical()).map_err(|error| error.to_string())
    }

    fn tcp(&self, ns: &Path, to: SocketAddr) -> std::io::Result<SocketAddr> {
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let mut client = inside(ns, connect).map_err(step("connect"))?;
        let (mut server, seen) = self.tcp.accept().map_err(step("accept"))?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        pass(&mut client, &mut server, b'q').map_err(step("question"))?;
        pass(&mut server, &mut client, b'a').map_err(step("answer"))?;
        drop(client);
        match server.read(&mut [0]).map_err(step("end"))? {
            0 => Ok(seen),
            _ => Err(other("end: more data")),
        }
    }

    fn udp(&self, ns: &Path, to: SocketAddr) -> std::io::Result<SocketAddr> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = inside(ns, || UdpSocket::bind(any).and_then(|s| s.connect(to).map(|()| s)));
        let client = client.map_err(step("connect"))?;
        client.set_read_timeout(Some(PATIENCE))?;
        let question = [b'q'; DATAGRAM];
        let mut buffer = [0; 2 * DATAGRAM];
        client.send(&question).map_err(step("send"))?;
        let (count, seen) = self.udp.recv_from(&mut buffer).map_err(step("question"))?;
        let whole = buffer[..count] == question;
        self.udp.send_to(&[b'a'; DATAGRAM], seen).map_err(step("reply"))?;
        let count = client.recv(&mut buffer).map_err(step("answer"))?;
        let whole = whole && buffer[..count] == [b'a'; DATAGRAM];
        whole.then_some(seen).ok_or_else(|| other("another datagram"))
    }
}

/// Names the step of an exchange that failed.
fn step(name: &str) -> impl Fn(Error) -> Error {
    move |error| Error::new(error.kind(), format!("{name}: {error}"))
}

/// What came is not what was sent.
fn other(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

/// Moves bytes of one value from one end of a connection to the other.
fn pass(from: &mut TcpStream, to: &mut TcpStream, value: u8) -> std::io::Result<()> {
    let mut buffer = [0; SIZE];
    from.write_all(&[value; SIZE])?;
    to.read_exact(&mut buffer)?;
    let same = buffer == [value; SIZE];
    same.then_some(()).ok_or_else(|| other("other bytes"))
}

/// An address with a port. Link-local ones are on the first interface after the loopback.
pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    match address.parse().expect("an address") {
        IpAddr::V4(address) => (address, port).into(),
        IpAddr::V6(address) => {
            let scope = if address.is_unicast_link_local() { 2 } else { 0 };
            SocketAddrV6::new(address, port, 0, scope).into()
        }
    }
}
