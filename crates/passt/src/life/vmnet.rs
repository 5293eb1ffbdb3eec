//! How a client of VPNKit introduces itself on the socket for Ethernet, before frames come and go
//! there.
//!
//! | From | Bytes |
//! |---|---|
//! | client | 49: `VMN3T`, version 22 in 4 bytes, 40 of a commit |
//! | server | 49: the same |
//! | client | 41: command, 36 of a UUID, 4 of an IPv4 address |
//! | server | 258: 1, MTU and largest packet in 2 bytes each, MAC address; or 2, length and text |
//!
//! Numbers are little-endian. Command 1 connects, 8 does so with the address that the client would
//! like to have. Whoever comes has to finish before it becomes the guest: here is only what is said,
//! a part at a time, and no socket. What comes behind the last message is not touched. Left out:
//! commands for ports, which have a socket of their own.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use passt_proto::addr::Mac;

/// Bytes of the first message, and of the second.
const INIT: usize = 49;
const COMMAND: usize = 41;
/// Bytes of the last answer.
const ANSWER: usize = 258;
/// Bytes of an Ethernet header, a VLAN tag and more, by which the largest packet exceeds the MTU.
const OVERHEAD: u16 = 50;

const MAGIC: &[u8; 5] = b"VMN3T";
const VERSION: u32 = 22;
/// What stands for a commit.
const COMMIT: &[u8; 40] = b"0000000000000000000000000000000000000000";

/// How a client names itself: 36 characters, or zeros.
pub type Uuid = [u8; 36];

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub uuid: Uuid,
    /// The address that it would like to have.
    pub addr: Option<Ipv4Addr>,
}

/// How far a client is.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    input: ArrayVec<u8, INIT>,
    greeted: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many more bytes at most belong to the introduction.
    Read(usize),
    /// This is to be sent, and then more read.
    Send([u8; INIT]),
    /// The same, and then nothing is to be expected.
    SendAndClose([u8; INIT]),
    /// The client has introduced itself, and gets [`accepted`] or [`refused`].
    Wants(Wanted),
    /// It speaks something else.
    Close,
}

impl Introduction {
    /// Takes some bytes, not more than were asked for.
    pub fn take(&mut self, bytes: &[u8]) -> Step {
        // Those that are too many were not asked for.
        self.input.extend(bytes.iter().copied().take(self.input.remaining_capacity()));
        match (self.greeted, self.missing()) {
            (_, 1..) => Step::Read(self.missing()),
            (false, 0) => self.greet(),
            (true, 0) => self.obey(),
        }
    }

    fn missing(&self) -> usize {
        let whole = if self.greeted { COMMAND } else { INIT };
        whole.saturating_sub(self.input.len())
    }

    fn greet(&mut self) -> Step {
        let version =
            self.input.get(5..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_le_bytes(*bytes));
        if !self.input.starts_with(MAGIC) {
            return Step::Close;
        }
        self.input.clear();
        self.greeted = true;
        let mut greeting = [0; INIT];
        greeting[..5].copy_from_slice(MAGIC);
        greeting[5..9].copy_from_slice(&VERSION.to_le_bytes());
        greeting[9..].copy_from_slice(COMMIT);
        if version == Some(VERSION) { Step::Send(greeting) } else { Step::SendAndClose(greeting) }
    }

    fn obey(&mut self) -> Step {
        let Some((&command, rest)) = self.input.split_first() else { return Step::Close };
        let Some((uuid, rest)) = rest.split_first_chunk::<36>() else { return Step::Close };
        let number = rest.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let addr = Some(Ipv4Addr::from_bits(number)).filter(|addr| command == 8 && !addr.is_unspecified());
        match command {
            1 | 8 => Step::Wants(Wanted { uuid: *uuid, addr }),
            _ => Step::Close,
        }
    }
}

/// The answer to a client whose frames are taken from now on, and whose MAC address is `mac`.
pub fn accepted(mtu: u16, mac: Mac) -> [u8; ANSWER] {
    let mut answer = [0; ANSWER];
    answer[0] = 1;
    answer[1..3].copy_from_slice(&mtu.to_le_bytes());
    answer[3..5].copy_from_slice(&mtu.saturating_add(OVERHEAD).to_le_bytes());
    answer[5..11].copy_from_slice(&mac.0);
    answer
}

/// The answer to a client that gets nothing, and why.
pub fn refused(reason: &str) -> [u8; ANSWER] {
    let mut answer = [0; ANSWER];
    answer[0] = 2;
    let length = reason.len().min(usize::from(u8::MAX));
    answer[1] = u8::try_from(length).unwrap_or(0);
    answer[2..2 + length].copy_from_slice(&reason.as_bytes()[..length]);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn init(version: u32) -> Vec<u8> {
        [&b"VMN3T"[..], &version.to_le_bytes(), "0123456789".repeat(4).as_bytes()].concat()
    }

    fn command(command: u8, addr: [u8; 4]) -> Vec<u8> {
        let mut little = addr;
        little.reverse();
        [&[command][..], b"1b4e28ba-2fa1-11d2-883f-0016d3cca427", &little].concat()
    }

    fn step(introduction: &mut Introduction, bytes: &[u8]) -> Step {
        introduction.take(bytes)
    }

    #[test]
    fn introductions() {
        let wants = |addr: Option<Ipv4Addr>| {
            Step::Wants(Wanted { uuid: *b"1b4e28ba-2fa1-11d2-883f-0016d3cca427", addr })
        };
        for (kind, addr, expected) in [
            (1, [0; 4], wants(None)),
            (1, [192, 168, 65, 9], wants(None)),
            (8, [192, 168, 65, 9], wants(Some(Ipv4Addr::new(192, 168, 65, 9)))),
            (8, [0; 4], wants(None)),
            (6, [0; 4], Step::Close),
        ] {
            let mut client = Introduction::default();
            assert_eq!(step(&mut client, &[]), Step::Read(49));
            assert_eq!(step(&mut client, &init(22)[..10]), Step::Read(39));
            let Step::Send(greeting) = step(&mut client, &init(22)[10..]) else { panic!("no greeting") };
            assert_eq!((&greeting[..5], &greeting[5..9]), (&b"VMN3T"[..], &22_u32.to_le_bytes()[..]));
            assert_eq!(step(&mut client, &[]), Step::Read(41));
            assert_eq!(step(&mut client, &command(kind, addr)), expected, "{kind}");
        }
        let mut other = Introduction::default();
        assert!(matches!(step(&mut other, &init(21)), Step::SendAndClose(_)));
        let mut other = Introduction::default();
        assert_eq!(step(&mut other, &[b'G'; 49]), Step::Close);
    }

    #[test]
    fn answers() {
        let answer = accepted(1500, Mac([2, 0x50, 0, 0, 0, 1]));
        assert_eq!(answer[..11], [1, 0xdc, 5, 0x0e, 6, 2, 0x50, 0, 0, 0, 1]);
        assert!(answer[11..].iter().all(|&byte| byte == 0));
        assert_eq!(accepted(65520, Mac::default())[3..5], [0xff, 0xff]);
        let answer = refused("no");
        assert_eq!(answer[..5], [2, 2, b'n', b'o', 0]);
        assert_eq!(refused(&"x".repeat(400))[1], 255);
    }

    proptest! {
        /// Never more is asked for than belongs to it, however it comes.
        #[test]
        fn in_any_parts(bytes in prop::collection::vec(any::<u8>(), 0..200), part in 1usize..60, valid: bool) {
            let bytes = if valid { [init(22), command(1, [0; 4]), bytes].concat() } else { bytes };
            let mut client = Introduction::default();
            let (mut at, mut step) = (0, client.take(&[]));
            loop {
                step = match step {
                    Step::Read(most) => {
                        let length = most.min(part).min(bytes.len() - at);
                        if length == 0 { break }
                        at += length;
                        client.take(&bytes[at - length..at])
                    }
                    Step::Send(_) => client.take(&[]),
                    _ => break,
                };
            }
            prop_assert!(at <= INIT + COMMAND);
            prop_assert!(!valid || (at == INIT + COMMAND && matches!(step, Step::Wants(_))));
        }
    }
}
