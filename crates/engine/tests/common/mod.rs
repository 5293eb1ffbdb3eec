//! What tests of the whole engine begin with: an engine's options, rules of forwarded ports, and
//! payload.
#![allow(dead_code, reason = "each test uses a part")]

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use passt_engine::dispatch::Protocols;
use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::rule::{Listen, PortRange, Rule};
use passt_engine::forward::{Change, Entry, Extent, Forward, Listener, Reason};
use passt_engine::worker::EngineOptions;
use passt_proto::addr::{Addr, Mac};
use passt_proto::guest::Configured;
use passt_proto::responder;
use passt_sys::dgram::{self, Envelope, Outgoing};
use passt_sys::iovec::Gather;
use passt_sys::netlink::{NetlinkSocket, messages};
use rustix::net::{AddressFamily, SocketType, ipproto};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Link-layer address of the engine.
pub(crate) const ENGINE: Mac = Mac([2; 6]);

/// The first of the ports that the kernel gives nobody by itself (`ip_local_port_range`), and that
/// tests ask for.
const FIRST_PORT: u16 = 20_000;

/// Where this process begins, as others may run beside it.
fn start() -> u16 {
    u16::try_from(std::process::id() % 10_000).unwrap()
}

/// A port of both protocols and families that nobody has, and that no other test of this process
/// gets: the kernel's own choice may be another's by the time it is used.
pub(crate) fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(FIRST_PORT + start()));
    let is_free = |port: &u16| {
        ["127.0.0.1", "::1"].into_iter().all(|address| {
            UdpSocket::bind((address, *port)).is_ok() && TcpListener::bind((address, *port)).is_ok()
        })
    };
    (0..1000).map(|_| NEXT.fetch_add(1, Ordering::Relaxed)).find(is_free).expect("a free port")
}

/// A UDP port of the guest that no other test has: the host's socket gets the same one, and what a
/// peer sends there once it is closed must not reach another test.
pub(crate) fn guest_port() -> u16 {
    thread_local! {
        static PORT: u16 = free_port();
    }
    PORT.with(|port| *port)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn addr(text: &str) -> Addr {
    ip(text).into()
}

/// All protocols, and no responder.
pub(crate) fn options(mtu: u16, guest: &Configured, max_flows: usize) -> EngineOptions {
    EngineOptions {
        services: responder::Config {
            our_mac: ENGINE,
            mtu,
            v4: None,
            v6: None,
            search: arrayvec::ArrayVec::new(),
            hostname: None,
            fqdn: None,
            services: responder::Services::empty(),
            custom: responder::custom::Custom::default(),
        },
        guest: guest.clone(),
        outbound: [None, None],
        protocols: Protocols { tcp: true, udp: true, icmp: true },
        leases: None,
        max_flows,
        secrets: [1, 2, 3, 4],
    }
}

/// Forwards `port` of an address, or of all, to port `to`.
pub(crate) fn rule(address: Option<&str>, port: u16, to: u16) -> Rule {
    let listen = Listen { addr: address.map(ip), interface: None };
    let ports = PortRange::new(port, port).unwrap();
    Rule { listen, ports, to, target: None, weak: false, scan: false }
}

/// Adds rules and opens their sockets, as at the start: all of them, or an error.
pub(crate) fn open_in(
    forward: &mut Forward,
    side: Side,
    protocol: Protocol,
    rules: Vec<Rule>,
) -> Result<Vec<Listener>, Reason> {
    let add = rules.into_iter().map(|rule| Change::Add(Entry { side, protocol, rule }));
    let applied = forward.apply_here(forward.plan(add));
    if applied.lacks_rules() {
        let refused = applied.roll_back().into_iter().find(|refusal| refusal.extent == Extent::Whole);
        return Err(refused.unwrap().reason);
    }
    Ok(forward.commit(applied).unwrap().open)
}

/// The same on the host, with no other rules.
pub(crate) fn open(protocol: Protocol, rules: Vec<Rule>) -> Result<Vec<Listener>, Reason> {
    open_in(&mut Forward::default(), Side::Host, protocol, rules)
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

/// Takes the calling thread to a network that has nothing but a loopback interface. Needs root.
pub(crate) fn own_network() -> io::Result<()> {
    // SAFETY: descriptors stay shared; nothing of the thread depends on the network that it leaves.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    // Ports that tests name are not those that the kernel gives to sockets that name none.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 60999")?;
    loopback_up()
}

/// Opens a ping socket; where that is not allowed, in a network of the thread's own.
pub(crate) fn may_ping() -> io::Result<()> {
    let socket = || rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP));
    if socket().is_ok() {
        return Ok(());
    }
    own_network()?;
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
    Ok(socket().map(drop)?)
}

/// Sends datagrams of so many bytes as one message, which the kernel cuts, or keeps joined for a
/// receiver that takes that.
pub(crate) fn send_joined(from: &UdpSocket, payload: &[u8], segment: u16, to: Option<SocketAddr>) {
    let mut data = Gather::new();
    data.push(payload);
    let message = [Outgoing { first: 0, buffers: 1, segment }];
    let envelope = Envelope { to, ..Envelope::default() };
    dgram::send(from.as_fd(), &data, &message, &envelope, true).unwrap();
}

/// Asks rtnetlink(7) to switch on the loopback interface.
fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const UP: u32 = 1;
    rtnetlink(RTM_NEWLINK, &[0, LOOPBACK, UP, UP].map(u32::to_le_bytes).concat())
}

/// Gives the loopback interface of a network of the thread's own another MTU.
pub(crate) fn loopback_mtu(mtu: u32) {
    const RTM_NEWLINK: u16 = 16;
    const ATTRIBUTE: u32 = 8 | 4 << 16;
    let body = [0, LOOPBACK, 0, 0, ATTRIBUTE, mtu].map(u32::to_le_bytes).concat();
    rtnetlink(RTM_NEWLINK, &body).unwrap();
}

/// The interface that every network has as its first.
const LOOPBACK: u32 = 1;

/// Asks rtnetlink(7) to do something. No program does that for us: before it runs it would have our
/// descriptors for a while, also those that another test closes.
fn rtnetlink(kind: u16, body: &[u8]) -> io::Result<()> {
    const REQUEST_AND_ACK: u16 = 5;
    let (socket, mut answer) = (NetlinkSocket::open()?, Vec::new());
    let len = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let mut message = len.to_le_bytes().to_vec();
    message.extend([kind, REQUEST_AND_ACK].map(u16::to_le_bytes).concat());
    message.extend([1_u32, 0].map(u32::to_le_bytes).concat());
    message.extend(body);
    socket.send(&message)?;
    socket.recv(&mut answer)?;
    let acknowledgement = messages(&answer).next().ok_or(io::ErrorKind::InvalidData)?;
    acknowledgement.result().map_err(io::Error::other)
}

static LIMITS: RwLock<()> = RwLock::new(());

/// Held by a test that opens descriptors, while another may change the process's limits.
pub(crate) fn usual_limits() -> RwLockReadGuard<'static, ()> {
    LIMITS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that changes the process's limits.
pub(crate) fn own_limits() -> RwLockWriteGuard<'static, ()> {
    LIMITS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the loopback interface of a network of the thread's own more addresses.
pub(crate) fn own_addresses(addresses: &[&str]) {
    const RTM_NEWADDR: u16 = 20;
    const NO_DUPLICATE_DETECTION: u8 = 2;
    const LOCAL: u16 = 2;
    for address in addresses {
        let (family, bytes) = match ip(address) {
            IpAddr::V4(address) => (2, address.octets().to_vec()),
            IpAddr::V6(address) => (10, address.octets().to_vec()),
        };
        let len = u8::try_from(bytes.len()).unwrap();
        let mut body = vec![family, len * 8, NO_DUPLICATE_DETECTION, 0];
        body.extend(LOOPBACK.to_le_bytes());
        body.extend([u16::from(len) + 4, LOCAL].map(u16::to_le_bytes).concat());
        body.extend(bytes);
        rtnetlink(RTM_NEWADDR, &body).unwrap();
        await_route(ip(address));
    }
}

/// Waits until what is sent to the address arrives: the kernel adds the local route of an IPv6
/// address later than the address, by a work queue (`addrconf_dad_work`).
fn await_route(address: IpAddr) {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let to = socket.local_addr().unwrap();
    let arrives = || socket.send_to(b"?", to).is_ok() && socket.recv(&mut [0; 1]).is_ok();
    assert!((0..5000).any(|_| arrives()), "{address}");
}

/// A second descriptor of a socket of this process, found by what it is and its own address.
pub(crate) fn own_socket(is_it: impl Fn(&OwnedFd, SocketAddr) -> bool) -> OwnedFd {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let dup = |fd| pidfd_getfd(&own, fd, PidfdGetfdFlags::empty()).ok();
    let at = |fd: &OwnedFd| rustix::net::getsockname(fd).ok().and_then(|at| SocketAddr::try_from(at).ok());
    (3..4000).filter_map(dup).find(|fd| at(fd).is_some_and(|at| is_it(fd, at))).unwrap()
}
