//! A client of the protocol, byte by byte what the Go package of VPNKit sends, which RootlessKit
//! has: no checksums of IP and UDP, and an offer is taken as the lease.

use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

use passt_proto::wire::stream::Framing;
use passt_tests::DEADLINE;
use passt_tests::device::{Attached, Device, both};
use passt_tests::frame::MacBytes;

/// The first message: protocol, version, commit.
pub(crate) fn init(version: u32) -> Vec<u8> {
    [&b"VMN3T"[..], &version.to_le_bytes(), "0123456789".repeat(4).as_bytes()].concat()
}

/// The second message. The address is a number with its least significant byte first.
pub(crate) fn command(kind: u8, uuid: &str, addr: Ipv4Addr) -> Vec<u8> {
    assert_eq!(uuid.len(), 36);
    [&[kind][..], uuid.as_bytes(), &addr.to_bits().to_le_bytes()].concat()
}

/// A name that differs by `number`.
pub(crate) fn uuid(number: u8) -> String {
    format!("1b4e28ba-2fa1-11d2-883f-0016d3cca4{number:02x}")
}

/// What asks for an address, as long as it has to be and no longer.
pub(crate) fn discover(mac: MacBytes) -> Vec<u8> {
    let fixed = [&[1, 1, 6, 0, 1, 0, 0, 0, 0, 0, 0x80, 0][..], &[0; 16], &mac, &[0; 10], &[0; 192]].concat();
    let bootp = [&fixed[..], &[99, 130, 83, 99, 53, 1, 1, 255]].concat();
    let length = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
    let udp = [&[0, 68, 0, 67][..], &length(8 + bootp.len()), &[0, 0], &bootp].concat();
    let ip = [&[0x45, 0][..], &length(20 + udp.len()), &[0x7f, 0x61, 0, 0, 64, 17, 0, 0], &[0; 4]].concat();
    [&[0xff; 6][..], &mac, &[8, 0], &ip, &[0xff; 4], &udp].concat()
}

/// A frame behind its length.
pub(crate) fn framed(frame: &[u8]) -> Vec<u8> {
    [&u16::try_from(frame.len()).expect("a frame").to_le_bytes()[..], frame].concat()
}

/// Exactly so many bytes.
pub(crate) fn read(mut stream: &UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{count} bytes: {error}"));
    bytes
}

pub(crate) fn write(mut stream: &UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("the server reads");
}

/// Waits until the other side closes; what came before.
pub(crate) fn rest(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Err(error) = stream.read_to_end(&mut bytes) else { return bytes };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "no end: {error}");
    bytes
}

/// Introduces the client by name.
pub(crate) fn introduce(stream: UnixStream, kind: u8, uuid: &str, addr: Ipv4Addr) -> Result<Vif, String> {
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    write(&stream, &init(22));
    let greeting = read(&stream, 49);
    assert_eq!((&greeting[..5], &greeting[5..9]), (&b"VMN3T"[..], &22_u32.to_le_bytes()[..]));
    write(&stream, &command(kind, uuid, addr));
    Vif::accept(stream)
}

/// A connection that carries frames, and what the client was told.
pub(crate) struct Vif {
    pub(crate) stream: UnixStream,
    pub(crate) mac: MacBytes,
    pub(crate) answer: Vec<u8>,
}

/// What the client takes from an offer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) address: Ipv4Addr,
    options: Vec<(u8, Vec<u8>)>,
}

impl Offer {
    /// An option's value.
    pub(crate) fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.iter().find(|(known, _)| *known == code).map(|(_, value)| &value[..])
    }
}

impl Vif {
    /// Reads the last answer: refused clients get the reason.
    pub(crate) fn accept(stream: UnixStream) -> Result<Self, String> {
        let answer = read(&stream, 258);
        match answer[0] {
            1 => Ok(Self { stream, mac: answer[5..11].try_into().expect("six bytes"), answer }),
            2 => {
                let end = 2 + usize::from(answer[1]);
                assert!(answer[end..].iter().all(|byte| *byte == 0), "{answer:?}");
                assert_eq!(rest(&stream), b"", "closed behind the reason");
                Err(String::from_utf8(answer[2..end].to_vec()).expect("text"))
            }
            other => panic!("answer {other}"),
        }
    }

    /// The next frame.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let length = read(&self.stream, 2);
        read(&self.stream, u16::from_le_bytes([length[0], length[1]]).into())
    }

    /// Asks for an address until there is an offer that the Go client would take.
    pub(crate) fn discover(&self) -> Offer {
        write(&self.stream, &framed(&discover(self.mac)));
        self.offer()
    }

    /// The next offer.
    pub(crate) fn offer(&self) -> Offer {
        let frame = loop {
            let frame = self.receive();
            let is_ours = frame[..6] == [0xff; 6] || frame[..6] == self.mac;
            let is_dhcp = frame[12..14] == [8, 0] && frame[23] == 17 && frame[34..38] == [0, 67, 0, 68];
            if is_ours
                && is_dhcp
                && frame.len() >= 42 + 243
                && frame[42] == 2
                && frame[46..50] == [1, 0, 0, 0]
            {
                break frame;
            }
        };
        let address: [u8; 4] = frame[58..62].try_into().expect("four bytes");
        let mut options = Vec::new();
        let mut rest = &frame[282..];
        while let [code @ 0..=254, len, tail @ ..] = rest {
            let (value, next) = tail.split_at(usize::from(*len));
            options.push((*code, value.to_vec()));
            rest = next;
        }
        Offer { address: address.into(), options }
    }

    /// Has a device's frames travel here; the connection stays open with the value.
    pub(crate) fn attach(&self, device: &Device) -> Attached {
        device.set_mac(self.mac);
        let (input, output) = both(self.stream.try_clone().expect("a descriptor"));
        device.attach(input, output, Framing::Le16)
    }
}
