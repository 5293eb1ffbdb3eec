//! What listens in a network namespace.
//!
//! The kernel is asked by `sock_diag(7)` for sockets in the states that matter, which costs the
//! same however many connections there are. Two requests, one for each protocol, with two system
//! calls each. Where it doesn't answer (before Linux 5.9, or a security module is in the way),
//! `/proc/net` has the same in text, and among all the connections. Sockets and files are opened
//! once, in the namespace that they are to tell of.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlasIterator};
use passt_proto::addr::Addr;
use passt_sys::dgram::Inbox;
use passt_sys::netlink::{NetlinkSocket, messages};
use passt_sys::sender;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::table::{Interest, Service};
use crate::flow::Protocol;

/// `TCPDIAG_GETSOCK` of `inet_diag.h`: the request for sockets of all families at once.
const GETSOCK: u16 = 18;
/// `INET_DIAG_REQ_PROTOCOL` and `INET_DIAG_SKV6ONLY`, attributes of request and answer.
const REQUEST_PROTOCOL: u16 = 3;
const V6_ONLY: u16 = 11;
/// Socket states of `tcp_states.h`. UDP sockets that are not connected are "closed".
const CLOSED: u8 = 7;
const LISTENING: u8 = 10;
/// `AF_INET` and `AF_INET6`.
const INET: u8 = 2;
const INET6: u8 = 10;

/// Source of what listens in a namespace.
#[derive(Debug)]
pub(super) enum Listing {
    Kernel(Diag),
    Files(Files),
}

impl Listing {
    /// Opens what tells of the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        match Diag::open() {
            Ok(diag) => Ok(Self::Kernel(diag)),
            Err(error) => {
                log::debug!("No sock_diag: {error}");
                Files::open().map(Self::Files)
            }
        }
    }

    /// Adds the services there are now, but for sockets that are `ours`.
    pub(super) fn read(
        &mut self,
        interest: Interest,
        inbox: &mut Inbox,
        ours: impl Fn(&Service, u64) -> bool,
        services: &mut Vec<Service>,
    ) -> io::Result<()> {
        let mut found = |service: Service, inode: u64| {
            // There is memory for so many.
            if service.port != 0 && !ours(&service, inode) && services.len() < services.capacity() {
                services.push(service);
            }
        };
        for (protocol, wanted) in [(Protocol::Tcp, interest.tcp), (Protocol::Udp, interest.udp)] {
            match self {
                _ if !wanted => {}
                Self::Kernel(diag) => diag.dump(protocol, inbox, &mut found)?,
                Self::Files(files) => files.read(protocol, &mut found)?,
            }
        }
        Ok(())
    }
}

/// `sock_diag`.
#[derive(Debug)]
pub(super) struct Diag {
    socket: NetlinkSocket,
    seq: u32,
}

/// A request: `struct nlmsghdr`, `struct inet_diag_req` without a socket, and an attribute that
/// says for which protocol.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct DumpRequest {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    port: u32,
    socket: [u8; 52],
    states: u32,
    cookie: u32,
    attribute_len: u16,
    attribute: u16,
    protocol: u32,
}

/// `struct inet_diag_msg`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct DumpAnswer {
    family: u8,
    state: u8,
    _timer: [u8; 2],
    port: U16,
    _peer_port: U16,
    addr: [u8; 16],
    _peer_addr: [u8; 16],
    _more: [u32; 7],
    inode: u32,
}

impl Diag {
    /// Opens the socket, and finds out whether it is told of a socket that it ought to know of.
    fn open() -> io::Result<Self> {
        let mut diag = Self { socket: NetlinkSocket::open_diag()?, seq: 0 };
        let mut inbox = Inbox::new();
        let known = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let (port, mut told) = (known.local_addr()?.port(), false);
        diag.dump(Protocol::Tcp, &mut inbox, &mut |_, _| {})?;
        diag.dump(Protocol::Udp, &mut inbox, &mut |service, _| told |= service.port == port)?;
        told.then_some(diag).ok_or_else(|| io::Error::other("UDP is left out"))
    }

    fn dump(
        &mut self,
        protocol: Protocol,
        inbox: &mut Inbox,
        found: &mut impl FnMut(Service, u64),
    ) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        self.socket.send(DumpRequest::new(protocol, self.seq).as_bytes())?;
        loop {
            let count = inbox.receive(self.socket.as_fd())?;
            for (_, datagram) in (0..count).filter_map(|index| inbox.message(index)) {
                for message in messages(datagram).filter(|m| m.seq == self.seq) {
                    match message.kind {
                        NLMSG_DONE | NLMSG_ERROR => return message.result().map_err(io::Error::other),
                        _ => {
                            if let Some((service, inode)) = DumpAnswer::read(protocol, message.body) {
                                found(service, inode);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl DumpRequest {
    fn new(protocol: Protocol, seq: u32) -> Self {
        let (state, number) = match protocol {
            Protocol::Tcp => (LISTENING, 6),
            _ => (CLOSED, 17),
        };
        Self {
            len: 84,
            kind: GETSOCK,
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            seq,
            port: 0,
            socket: [0; 52],
            states: 1 << state,
            cookie: 0,
            attribute_len: 8,
            attribute: REQUEST_PROTOCOL,
            protocol: number,
        }
    }
}

impl DumpAnswer {
    /// The service and its inode, but of a socket that serves nobody.
    fn read(protocol: Protocol, body: &[u8]) -> Option<(Service, u64)> {
        let (answer, attributes) = Self::read_from_prefix(body).ok()?;
        let [a, b, c, d, ..] = answer.addr;
        let addr = match answer.family {
            INET => Ipv4Addr::new(a, b, c, d).into(),
            INET6 => Addr::from(Ipv6Addr::from(answer.addr)),
            _ => return None,
        };
        let state = if protocol == Protocol::Tcp { LISTENING } else { CLOSED };
        let has = |kind, is: fn(&[u8]) -> bool| {
            let mut attributes = NlasIterator::new(attributes).map_while(Result::ok);
            attributes.any(|a| a.kind() == kind && is(a.value()))
        };
        if protocol == Protocol::Udp && has(sender::ATTRIBUTE, sender::is_marked) {
            return None;
        }
        let only = has(V6_ONLY, |value| value == [1]);
        let both = !only && addr == Ipv6Addr::UNSPECIFIED.into();
        let service = Service { protocol, addr, port: answer.port.get(), both };
        (answer.state == state).then_some((service, answer.inode.into()))
    }
}

/// Bytes of a file that are looked at: some 300 000 sockets.
const TEXT: usize = 48 * 1024 * 1024;

/// Files of `/proc/net`, that of IPv4 and, where the kernel has it, that of IPv6.
#[derive(Debug)]
pub(super) struct Files {
    tcp: [Option<File>; 2],
    udp: [Option<File>; 2],
    text: Vec<u8>,
}

impl Files {
    fn open() -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/thread-self/net/{name}"));
        Ok(Self {
            tcp: [Some(open("tcp")?), open("tcp6").ok()],
            udp: [Some(open("udp")?), open("udp6").ok()],
            text: Vec::with_capacity(TEXT),
        })
    }

    fn read(&mut self, protocol: Protocol, found: &mut impl FnMut(Service, u64)) -> io::Result<()> {
        let files = if protocol == Protocol::Tcp { &self.tcp } else { &self.udp };
        for file in files.iter().flatten() {
            self.text.clear();
            read_again(file, &mut self.text)?;
            for line in self.text.split(|&byte| byte == b'\n') {
                if let Some((service, inode)) =
                    std::str::from_utf8(line).ok().and_then(|l| listed(protocol, l))
                {
                    found(service, inode);
                }
            }
        }
        Ok(())
    }
}

/// Bytes read at once.
const STEP: usize = 16 * 1024;

/// Appends all of a file, from its start.
fn read_again(file: &File, text: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let end = text.len();
        if end + STEP > TEXT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        text.resize(end + STEP, 0);
        let count = file.read_at(text.get_mut(end..).unwrap_or_default(), end as u64)?;
        text.truncate(end + count);
        if count == 0 {
            return Ok(());
        }
    }
}

/// The service and its inode of a line in `/proc/net/tcp` and the like (`proc_pid_net(5)`). What is
/// bound to `::` may take IPv4 or not: nothing there tells.
fn listed(protocol: Protocol, line: &str) -> Option<(Service, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (addr, port) = fields.nth(1)?.split_once(':')?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    let word = |at: usize| u32::from_str_radix(addr.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let addr = if addr.len() == 8 {
        Addr::from(Ipv4Addr::from(word(0)?))
    } else {
        let mut bytes = [0; 16];
        for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
            part.copy_from_slice(&word(index * 8)?);
        }
        Ipv6Addr::from(bytes).into()
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    let both = addr == Ipv6Addr::UNSPECIFIED.into();
    let wanted = if protocol == Protocol::Tcp { LISTENING } else { CLOSED };
    (state == wanted).then_some((Service { protocol, addr, port, both }, inode))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    const BOTH: Interest = Interest { tcp: true, udp: true };

    fn inode(socket: &impl AsFd) -> u64 {
        rustix::fs::fstat(socket).unwrap().st_ino
    }

    /// An answer of `sock_diag(7)`: family, state, port and address, and perhaps the attribute that
    /// tells of `IPV6_V6ONLY`.
    fn answer(family: u8, state: u8, port: u16, addr: &[u8], v6_only: Option<u8>) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<DumpAnswer>()];
        (bytes[0], bytes[1]) = (family, state);
        bytes[4..6].copy_from_slice(&port.to_be_bytes());
        bytes[8..8 + addr.len()].copy_from_slice(addr);
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&77_u32.to_ne_bytes());
        if let Some(value) = v6_only {
            bytes
                .extend(5_u16.to_ne_bytes().into_iter().chain(V6_ONLY.to_ne_bytes()).chain([value, 0, 0, 0]));
        }
        bytes
    }

    #[test]
    fn files_are_read_to_the_end_each_time() {
        let path = std::env::temp_dir().join(format!("passt-detect-{}", std::process::id()));
        for len in [0, 1, STEP - 1, STEP, STEP + 1, 5 * STEP + 7] {
            let content: Vec<u8> = (0..len).map(|i| i.to_le_bytes()[0]).collect();
            std::fs::write(&path, &content).unwrap();
            let (file, mut text) = (File::open(&path).unwrap(), Vec::new());
            for _ in 0..2 {
                text.clear();
                read_again(&file, &mut text).unwrap();
                assert!(text == content, "{len}: {}", text.len());
            }
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn answers() {
        let v6 = Ipv6Addr::LOCALHOST.octets();
        let table = [
            (
                Protocol::Tcp,
                answer(INET, LISTENING, 80, &[127, 0, 0, 1], None),
                Some(("127.0.0.1", 80, false)),
            ),
            (Protocol::Tcp, answer(INET, CLOSED, 80, &[127, 0, 0, 1], None), None),
            (Protocol::Udp, answer(INET, CLOSED, 53, &[0; 4], None), Some(("0.0.0.0", 53, false))),
            (Protocol::Udp, answer(INET, 1, 53, &[0; 4], None), None),
            (Protocol::Tcp, answer(INET6, LISTENING, 80, &v6, None), Some(("::1", 80, false))),
            (Protocol::Tcp, answer(INET6, LISTENING, 80, &[0; 16], None), Some(("::", 80, true))),
            (Protocol::Tcp, answer(INET6, LISTENING, 80, &[0; 16], Some(0)), Some(("::", 80, true))),
            (Protocol::Tcp, answer(INET6, LISTENING, 80, &[0; 16], Some(1)), Some(("::", 80, false))),
            (Protocol::Tcp, answer(1, LISTENING, 80, &[0; 16], None), None),
            (Protocol::Tcp, vec![INET; 20], None),
        ];
        for (protocol, bytes, expected) in table {
            let expected = expected.map(|(addr, port, both)| {
                let addr = addr.parse::<std::net::IpAddr>().unwrap().into();
                (Service { protocol, addr, port, both }, 77)
            });
            assert_eq!(DumpAnswer::read(protocol, &bytes), expected, "{bytes:?}");
        }
    }

    /// Both sources tell of the same sockets, and of no connections.
    #[test]
    fn sources_agree() {
        let listening: Vec<TcpListener> =
            ["0.0.0.0:0", "127.0.0.1:0", "[::]:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap()).into();
        let open = ["0.0.0.0:0", "127.0.0.9:0", "[::]:0"].map(|at| UdpSocket::bind(at).unwrap());
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(open[0].local_addr().unwrap()).unwrap();
        let client = TcpStream::connect(("127.0.0.1", listening[0].local_addr().unwrap().port())).unwrap();
        let server = listening[0].accept().unwrap().0;

        let mut inbox = Inbox::new();
        let mut sources = vec![Listing::Files(Files::open().unwrap())];
        match Diag::open() {
            Ok(diag) => sources.push(Listing::Kernel(diag)),
            Err(error) => passt_testing::skip(&format!("no sock_diag: {error}")),
        }
        for source in &mut sources {
            for _ in 0..2 {
                let mut services = Vec::with_capacity(1000);
                source.read(BOTH, &mut inbox, |_, _| false, &mut services).unwrap();
                let told = |protocol, at: SocketAddr| {
                    services.iter().any(|s| {
                        (s.protocol, s.addr, s.port) == (protocol, at.ip().into(), at.port())
                            && s.both == (at.ip() == Ipv6Addr::UNSPECIFIED)
                    })
                };
                for socket in &listening {
                    assert!(told(Protocol::Tcp, socket.local_addr().unwrap()), "{source:?} {socket:?}");
                }
                for socket in &open {
                    assert!(told(Protocol::Udp, socket.local_addr().unwrap()), "{source:?} {socket:?}");
                }
                assert!(!told(Protocol::Udp, connected.local_addr().unwrap()));
                assert!(!told(Protocol::Tcp, client.local_addr().unwrap()));
            }
        }
        drop(server);
    }

    /// A socket of our own is left out, another one on the same port is not.
    #[test]
    fn own_sockets_are_known_by_their_inode() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = ours.local_addr().unwrap().port();
        let theirs = TcpListener::bind(("127.0.0.7", port)).unwrap();
        let mut source = Listing::open().unwrap();
        let mut services = Vec::with_capacity(1000);
        let own = inode(&ours);
        source.read(BOTH, &mut Inbox::new(), |_, inode| inode == own, &mut services).unwrap();
        let at_port: Vec<Addr> = services.iter().filter(|s| s.port == port).map(|s| s.addr).collect();
        assert_eq!(at_port, [Ipv4Addr::new(127, 0, 0, 7).into()], "descriptor {}", theirs.as_raw_fd());
    }

    #[test]
    fn lines() {
        let tcp = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0";
        let v6 = "  12: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 4294967295 2 0 0";
        if cfg!(target_endian = "little") {
            let service = Service {
                protocol: Protocol::Tcp,
                addr: Ipv4Addr::LOCALHOST.into(),
                port: 8080,
                both: false,
            };
            assert_eq!(listed(Protocol::Tcp, tcp), Some((service, 4711)));
        }
        let service =
            Service { protocol: Protocol::Udp, addr: Ipv6Addr::UNSPECIFIED.into(), port: 53, both: true };
        assert_eq!(listed(Protocol::Udp, v6), Some((service, 4_294_967_295)));
        assert_eq!(listed(Protocol::Tcp, &tcp.replace(" 0A ", " 01 ")), None, "a connection");
        for cut in 0..tcp.len() {
            listed(Protocol::Tcp, &tcp[..cut]);
        }
        assert_eq!(listed(Protocol::Tcp, "  sl  local_address rem_address   st tx_queue rx_queue"), None);
    }
}
