//! Version 2 of the C program's protocol: forwarding tables, shown and replaced as a whole.
//!
//! All numbers are big-endian. The server begins: magic, version, sizes of names; then for each
//! interface that has a table its number, name, capabilities and rules; a zero ends the list. A
//! client that changes nothing closes the connection. Others send, for every interface, its number
//! and the rules that it is to have, and a zero. There is no answer. An interface that is left out
//! ends with no rules.
//!
//! A rule has 56 bytes: listening and target address as in IPv6 (IPv4 is mapped,
//! RFC 4291, section 2.5.5.2), interface, first and last port, first target port, protocol, flags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bitflags::bitflags;

use crate::rule::{Families, Protocol, Rule, Side};

/// First bytes of a greeting.
pub const MAGIC: [u8; 8] = *b"basil:s\0";
/// Version of the protocol.
pub const VERSION: u32 = 2;
/// Rules of a table at most.
pub const MAX_RULES: usize = 255;
/// Bytes of a table's name, padded with zeros.
const NAME: usize = 128;
/// Bytes of an interface's name with the zero that ends it (`include/uapi/linux/if.h`).
const IFNAMSIZ: usize = 16;
/// Both as a greeting tells them.
const SIZES: (u32, u32) = (128, 16);
const _: () = assert!(SIZES.0 as usize == NAME && SIZES.1 as usize == IFNAMSIZ);
/// Bytes of a rule.
const RULE: usize = 56;
/// Tables at most.
const MAX_TABLES: usize = 3;
/// Bytes of the longest list of tables that a client sends.
pub const MAX_TABLES_LEN: usize = MAX_TABLES * (5 + MAX_RULES * RULE) + 1;
/// Bytes of the longest greeting.
pub const MAX_GREETING: usize = 20 + MAX_TABLES * (1 + NAME + 8 + MAX_RULES * RULE) + 1;

/// Flag of a rule: all addresses of both families, `::` with a socket for both.
const DUAL_STACK_ANY: u8 = 1;
/// Flag of a rule: ports that can't be had are left out.
const WEAK: u8 = 2;
/// Flag of a rule: follows what listens.
const SCAN: u8 = 4;

bitflags! {
    /// What rules of a table may say.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Caps: u32 {
        /// IPv4 is on.
        const V4 = 1;
        /// IPv6 is on.
        const V6 = 1 << 1;
        /// TCP is on.
        const TCP = 1 << 2;
        /// UDP is on.
        const UDP = 1 << 3;
        /// Rules can follow what listens.
        const SCAN = 1 << 4;
        /// Rules can name an interface.
        const INTERFACE = 1 << 5;
        /// The server speaks in [frames](crate::frame), too. Other clients ignore this.
        const MESSAGES = 1 << 31;
        const _ = !0;
    }
}

/// The table of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where its rules listen.
    pub side: Side,
    /// The interface's name.
    pub name: String,
    /// What its rules may say.
    pub caps: Caps,
    /// Its rules; `None` if there are more than the protocol can tell.
    pub rules: Option<Vec<Rule>>,
}

/// What a server says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Its tables.
    pub tables: Vec<Table>,
}

/// Bytes that are not what the protocol says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a greeting.
    #[error("Not the control socket of passt or pasta")]
    Magic,
    /// A version that nobody promised to keep.
    #[error("Unsupported experimental server protocol")]
    Experimental,
    /// A later version.
    #[error("Unknown server protocol version {0}")]
    Version(u32),
    /// Names of other sizes.
    #[error("Unsupported sizes of names in the server's greeting")]
    Sizes,
    /// No interface has this number.
    #[error("Unknown interface {0}")]
    Interface(u8),
    /// One interface has two tables.
    #[error("Two tables for one interface")]
    Twice,
    /// A table of too many rules.
    #[error("{0} rules in a table, of at most {MAX_RULES}")]
    Rules(u32),
    /// A rule that can't be one.
    #[error("Invalid forwarding rule: {0}")]
    Rule(&'static str),
}

/// An interface's number in the protocol.
fn number(side: Side) -> u8 {
    match side {
        Side::Host => 1,
        Side::Namespace => 3,
    }
}

fn side(number: u8) -> Result<Side, Error> {
    match number {
        1 => Ok(Side::Host),
        3 => Ok(Side::Namespace),
        other => Err(Error::Interface(other)),
    }
}

impl Caps {
    /// The families that are on.
    pub fn families(self) -> Families {
        Families { v4: self.contains(Self::V4), v6: self.contains(Self::V6) }
    }
}

impl Greeting {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for word in [VERSION, SIZES.0, SIZES.1] {
            bytes.extend(word.to_be_bytes());
        }
        for table in &self.tables {
            bytes.push(number(table.side));
            bytes.extend(padded::<NAME>(&table.name));
            bytes.extend(table.caps.bits().to_be_bytes());
            // Other clients refuse a table that is too long before they read its rules.
            let rules = table.rules.as_deref();
            let count = rules.map_or(u32::MAX, |rules| u32::try_from(rules.len()).unwrap_or(u32::MAX));
            bytes.extend(count.to_be_bytes());
            for rule in rules.into_iter().flatten() {
                bytes.extend(encode_rule(rule, table.caps.families()));
            }
        }
        bytes.push(0);
        bytes
    }

    /// Reads a greeting from the start of `bytes`; with it comes its length. `None` if more is to
    /// come.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        let mut reader = Reader { bytes, at: 0 };
        match reader.tables_with_names() {
            Ok(tables) => Ok(Some((Self { tables }, reader.at))),
            Err(Stop::Short) => Ok(None),
            Err(Stop::Wrong(error)) => Err(error),
        }
    }

    /// The table of a side.
    pub fn table(&self, side: Side) -> Option<&Table> {
        self.tables.iter().find(|table| table.side == side)
    }

    /// Whether the server speaks in [frames](crate::frame), too.
    pub fn has_messages(&self) -> bool {
        self.tables.iter().any(|table| table.caps.contains(Caps::MESSAGES))
    }
}

/// The tables of a client as it sends them, each with the families that are on.
pub fn encode_tables<'a>(tables: impl IntoIterator<Item = (Side, Families, &'a [Rule])>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (side, families, rules) in tables {
        bytes.push(number(side));
        bytes.extend(u32::try_from(rules.len()).unwrap_or(u32::MAX).to_be_bytes());
        for rule in rules {
            bytes.extend(encode_rule(rule, families));
        }
    }
    bytes.push(0);
    bytes
}

/// Reads a client's tables from the start of `bytes`; with them comes their length. `None` if more
/// is to come.
pub fn decode_tables(bytes: &[u8]) -> Result<Option<(Vec<Rule>, usize)>, Error> {
    let mut reader = Reader { bytes, at: 0 };
    match reader.tables() {
        Ok(rules) => Ok(Some((rules, reader.at))),
        Err(Stop::Short) => Ok(None),
        Err(Stop::Wrong(error)) => Err(error),
    }
}

/// Text with zeros behind it, of which there is at least one.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, byte) in bytes.iter_mut().zip(text.bytes()).take(N - 1) {
        *to = byte;
    }
    bytes
}

fn encode_rule(rule: &Rule, families: Families) -> [u8; RULE] {
    let mapped = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped(),
        IpAddr::V6(addr) => addr,
    };
    // Any address of all families that are on.
    let (address, any) = match (rule.address, families) {
        (Some(address), _) => (mapped(address), 0),
        (None, Families { v4: true, v6: false }) => (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 0),
        (None, Families { v4: false, .. }) => (Ipv6Addr::UNSPECIFIED, 0),
        (None, _) => (Ipv6Addr::UNSPECIFIED, DUAL_STACK_ANY),
    };
    let target = rule.target.map_or(Ipv6Addr::UNSPECIFIED, mapped);
    let interface = match (&rule.interface, rule.side) {
        (Some(name), _) => name,
        (None, Side::Namespace) if is_loopback(rule.address) => "lo",
        (None, _) => "",
    };
    let kinds = [(true, any), (rule.weak, WEAK), (rule.auto, SCAN)];
    let flags = kinds.into_iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag);
    let mut bytes = [0; RULE];
    bytes[..16].copy_from_slice(&address.octets());
    bytes[16..32].copy_from_slice(&target.octets());
    bytes[32..48].copy_from_slice(&padded::<IFNAMSIZ>(interface));
    bytes[48..50].copy_from_slice(&rule.first.to_be_bytes());
    bytes[50..52].copy_from_slice(&rule.last().to_be_bytes());
    bytes[52..54].copy_from_slice(&rule.to().to_be_bytes());
    bytes[54] = match rule.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    bytes[55] = flags;
    bytes
}

/// A table's rule from its bytes.
fn decode_rule(reader: &mut Reader<'_>, side: Side) -> Result<Rule, Stop> {
    let invalid = |reason| Stop::Wrong(Error::Rule(reason));
    let [address, target] = [Ipv6Addr::from(reader.take::<16>()?), Ipv6Addr::from(reader.take::<16>()?)];
    let interface = name(&reader.take::<IFNAMSIZ>()?).ok_or_else(|| invalid("interface name"))?;
    let [first, last, to] = [reader.port()?, reader.port()?, reader.port()?];
    let [protocol, flags] = reader.take()?;
    let protocol = match protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return Err(invalid("unknown protocol")),
    };
    if flags & !(DUAL_STACK_ANY | WEAK | SCAN) != 0 {
        return Err(invalid("unknown flags"));
    }
    if first == 0 || first > last || to == 0 || to.checked_add(last - first).is_none() {
        return Err(invalid("ports out of range"));
    }
    let is_any = flags & DUAL_STACK_ANY != 0;
    if is_any && !address.is_unspecified() {
        return Err(invalid("an address where all are meant"));
    }
    let plain = |addr: Ipv6Addr| addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4);
    let address = (!is_any).then(|| plain(address));
    // In the namespace we listen on loopback, however that is told.
    let is_usual =
        side == Side::Namespace && (interface.is_empty() || interface == "lo") && is_loopback(address);
    let (address, interface) =
        if is_usual { (None, None) } else { (address, Some(interface).filter(|name| !name.is_empty())) };
    Ok(Rule {
        side,
        protocol,
        address,
        interface,
        first,
        last: Some(last),
        to: Some(to),
        target: (!target.is_unspecified()).then(|| plain(target)),
        weak: flags & WEAK != 0,
        auto: flags & SCAN != 0,
    })
}

/// Text up to the first zero, which must be there.
fn name(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    let text = str::from_utf8(bytes.get(..end)?).ok()?;
    let is_plain = text.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '/');
    is_plain.then(|| text.to_owned())
}

/// Why reading ends.
enum Stop {
    /// More is to come.
    Short,
    Wrong(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Wrong(error)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk());
        self.at += N;
        taken.copied().ok_or(Stop::Short)
    }

    fn word(&mut self) -> Result<u32, Stop> {
        self.take().map(u32::from_be_bytes)
    }

    fn port(&mut self) -> Result<u16, Stop> {
        self.take().map(u16::from_be_bytes)
    }

    /// The side of the next table; `None` behind the last.
    fn side(&mut self, seen: &mut Vec<Side>) -> Result<Option<Side>, Stop> {
        let [number] = self.take()?;
        if number == 0 {
            return Ok(None);
        }
        let side = side(number)?;
        if seen.contains(&side) {
            return Err(Error::Twice.into());
        }
        seen.push(side);
        Ok(Some(side))
    }

    fn rules(&mut self, side: Side, count: u32, rules: &mut Vec<Rule>) -> Result<(), Stop> {
        let count =
            usize::try_from(count).ok().filter(|count| *count <= MAX_RULES).ok_or(Error::Rules(count))?;
        for _ in 0..count {
            rules.push(decode_rule(self, side)?);
        }
        Ok(())
    }

    fn tables(&mut self) -> Result<Vec<Rule>, Stop> {
        let (mut rules, mut seen) = (Vec::new(), Vec::new());
        while let Some(side) = self.side(&mut seen)? {
            let count = self.word()?;
            self.rules(side, count, &mut rules)?;
        }
        Ok(rules)
    }

    fn tables_with_names(&mut self) -> Result<Vec<Table>, Stop> {
        if self.take()? != MAGIC {
            return Err(Error::Magic.into());
        }
        match self.word()? {
            0 => return Err(Error::Experimental.into()),
            version if version > VERSION => return Err(Error::Version(version).into()),
            _ => {}
        }
        if [self.word()?, self.word()?] != [SIZES.0, SIZES.1] {
            return Err(Error::Sizes.into());
        }
        let (mut tables, mut seen) = (Vec::new(), Vec::new());
        while let Some(side) = self.side(&mut seen)? {
            // It is shown as it is. Interfaces of the kernel may have names in any script, but not these.
            let name = name(&self.take::<NAME>()?).filter(|name| name.bytes().all(|c| c.is_ascii_graphic()));
            let name = name.ok_or(Error::Rule("name of an interface"))?;
            let caps = Caps::from_bits_retain(self.word()?);
            let count = self.word()?;
            let mut rules = Some(Vec::new());
            if count == u32::MAX && caps.contains(Caps::MESSAGES) {
                rules = None;
            }
            if let Some(rules) = &mut rules {
                self.rules(side, count, rules)?;
            }
            tables.push(Table { side, name, caps, rules });
        }
        Ok(tables)
    }
}

/// Whether an address of the namespace stands for its loopback.
fn is_loopback(address: Option<IpAddr>) -> bool {
    address.is_none_or(|addr| addr.is_loopback() || addr.is_unspecified())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rule::tests::rule;

    const BOTH: Families = Families { v4: true, v6: true };

    /// Rules of the C program as it sent them (version of October 2026), and what they mean.
    #[test]
    fn rules_of_the_c_program() {
        let zeros = |count: usize| "00".repeat(count);
        let lo = format!("6c6f{}", zeros(14));
        let host = Rule { to: Some(80), ..rule(18080, 18080) };
        let inside =
            Rule { side: Side::Namespace, protocol: Protocol::Udp, to: Some(91), ..rule(19091, 19091) };
        let loopback = Rule { address: "127.0.0.1".parse().ok(), ..rule(18081, 18081) };
        for (hex, rule) in [
            (format!("{}46a046a000500601", zeros(48)), host),
            (format!("{}{lo}4a934a93005b1101", zeros(32)), inside),
            (format!("{}ffff7f000001{}46a146a146a10600", zeros(10), zeros(32)), loopback),
        ] {
            let bytes: Vec<u8> =
                (0..RULE).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect();
            assert_eq!(encode_rule(&rule, BOTH)[..], bytes, "{rule}");
            let mut reader = Reader { bytes: &bytes, at: 0 };
            assert_eq!(decode_rule(&mut reader, rule.side).ok(), Some(rule));
        }
    }

    /// What is written is read as the same, but that the namespace's loopback is told in one way.
    #[test]
    fn addresses_and_interfaces() {
        for side in [Side::Host, Side::Namespace] {
            for address in ["127.0.0.1", "::1", "192.0.2.1", "2001:db8::1", "ff00::1"] {
                for interface in [None, Some("lo"), Some("eth0")] {
                    let address = address.parse().ok();
                    let rule = Rule { side, address, interface: interface.map(Into::into), ..rule(1, 1) };
                    let bytes = encode_rule(&rule, BOTH);
                    let read = decode_rule(&mut Reader { bytes: &bytes, at: 0 }, side).ok();
                    let is_usual =
                        side == Side::Namespace && interface != Some("eth0") && is_loopback(address);
                    let usual = Rule { address: None, interface: None, ..rule.clone() };
                    assert_eq!(read, Some(if is_usual { usual } else { rule }));
                }
            }
        }
    }

    #[test]
    fn a_greeting_in_parts() {
        let table = |side, count, name: &str| Table {
            side,
            name: name.to_owned(),
            caps: Caps::V4 | Caps::V6 | Caps::MESSAGES,
            rules: (count < 300).then(|| (1..=count).map(|port| rule(port, port)).collect()),
        };
        let inside = Table { rules: Some(Vec::new()), ..table(Side::Namespace, 0, "SPLICE") };
        for count in [0, 1, 255, 300] {
            let greeting = Greeting { tables: vec![table(Side::Host, count, "HOST"), inside.clone()] };
            let bytes = greeting.encode();
            assert!(bytes.len() <= MAX_GREETING);
            for end in (0..bytes.len()).step_by(7) {
                assert_eq!(Greeting::decode(&bytes[..end]), Ok(None), "{end}");
            }
            assert_eq!(Greeting::decode(&bytes), Ok(Some((greeting, bytes.len()))));
        }
    }

    #[test]
    fn what_is_no_greeting() {
        let good = Greeting { tables: Vec::new() }.encode();
        for (at, byte, expected) in [
            (0, b'x', Error::Magic),
            (11, 3, Error::Version(3)),
            (11, 0, Error::Experimental),
            (15, 127, Error::Sizes),
            (20, 2, Error::Interface(2)),
        ] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(Greeting::decode(&bytes), Err(expected));
        }
    }

    #[test]
    fn names_that_would_not_be_seen() {
        for name in ["HOST\u{202e}", "HO\u{200b}ST", "HO\u{1b}ST", "HO ST", "HÖST"] {
            let table = Table { side: Side::Host, name: name.into(), caps: Caps::V4, rules: None };
            let bytes = Greeting { tables: vec![table] }.encode();
            assert_eq!(Greeting::decode(&bytes), Err(Error::Rule("name of an interface")), "{name}");
        }
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let address = prop_oneof![
            Just(None),
            any::<[u8; 4]>().prop_map(|addr| Some(IpAddr::from(addr))),
            any::<[u8; 16]>().prop_map(|addr| Some(IpAddr::from(addr))),
        ];
        let target = address.clone().prop_filter("some host", |to| to.is_none_or(|to| !to.is_unspecified()));
        let ports = (1..=u16::MAX).prop_flat_map(|first| (Just(first), first..=u16::MAX));
        let rest = (any::<bool>(), any::<bool>(), any::<bool>(), "[a-z]{0,15}");
        (address, target, ports, rest).prop_map(
            |(address, target, (first, last), (udp, weak, auto, name))| Rule {
                address,
                target,
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                interface: Some(name).filter(|name| !name.is_empty()),
                weak,
                auto,
                ..rule(first, last)
            },
        )
    }

    proptest! {
        #[test]
        fn tables_are_read_as_they_were_written(rules in proptest::collection::vec(any_rule(), 0..20)) {
            // What is mapped is of the other family for the protocol.
            let is_mapped = |addr: Option<IpAddr>| {
                matches!(addr, Some(IpAddr::V6(addr)) if addr.to_ipv4_mapped().is_some())
            };
            let rules: Vec<_> = rules
                .into_iter()
                .filter(|rule| !is_mapped(rule.address) && !is_mapped(rule.target))
                .collect();
            let bytes = encode_tables([(Side::Host, BOTH, &rules[..])]);
            prop_assert!(bytes.len() <= MAX_TABLES_LEN);
            prop_assert_eq!(decode_tables(&bytes), Ok(Some((rules, bytes.len()))));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (decode_tables(&bytes), Greeting::decode(&bytes));
            let greeting = [&MAGIC[..], &[0, 0, 0, 2, 0, 0, 0, 128, 0, 0, 0, 16], &bytes].concat();
            let _ = Greeting::decode(&greeting);
        }
    }
}
