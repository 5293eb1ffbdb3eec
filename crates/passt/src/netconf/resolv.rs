//! The host's resolver configuration (resolv.conf(5)).
//!
//! Only `nameserver`, `search` and `domain` matter. Nothing in the file can make
//! reading it fail: what makes no sense is passed over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::files;

/// How much of the file is read, in bytes.
const MAX_SIZE: u64 = 64 * 1024;

/// Name servers and search list of the host, in the file's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    /// Name servers, those on loopback included; of a file that names none the one on the host
    /// itself.
    pub servers: Vec<Server>,
    /// Domains to be searched: those of the last `search` or `domain` line.
    pub search: Vec<String>,
    /// Other lines that say how to resolve: `options`, `sortlist`, and the last `search` or `domain`
    /// as it is.
    pub others: Vec<String>,
}

/// A name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its address; loopback where the file has the unspecified one, which means the same.
    pub addr: IpAddr,
    /// The interface on which that means something, as the file names it (`fe80::1%eth0`).
    pub zone: Option<String>,
}

impl Server {
    fn parse(word: &str) -> Option<Self> {
        let (addr, zone) = word.split_once('%').map_or((word, None), |(addr, zone)| (addr, Some(zone)));
        let addr: IpAddr = addr.parse().ok()?;
        let needs_zone = matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
        let zone = zone.map(str::to_owned);
        (zone.is_none() || needs_zone).then(|| Self { addr: on_host(addr), zone })
    }
}

impl From<IpAddr> for Server {
    fn from(addr: IpAddr) -> Self {
        Self { addr, zone: None }
    }
}

/// What a host reaches by an address: the unspecified one means itself, as a mapped one, too.
fn on_host(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

impl Resolv {
    /// Reads a file. One that is missing or unreadable is as good as an empty one.
    pub fn read(path: &Path) -> Self {
        let content = files::read(path, MAX_SIZE);
        if let Err(error) = &content {
            log::debug!("{}: {error}", path.display());
        }
        Self::parse(&content.unwrap_or_default())
    }

    /// Takes what makes sense from a file's content. Resolvers ask the host itself where it names
    /// no server (resolv.conf(5)).
    pub fn parse(content: &[u8]) -> Self {
        let mut resolv = Self::default();
        for line in content.split(|&b| b == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else {
                continue;
            };
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolv.servers.extend(words.next().and_then(Server::parse));
                }
                Some("search") => resolv.search = domains(words),
                Some("domain") => resolv.search = domains(words.take(1)),
                _ => {}
            }
            resolv.note(line.trim());
        }
        if resolv.servers.is_empty() {
            resolv.servers.push(IpAddr::from(Ipv4Addr::LOCALHOST).into());
        }
        resolv
    }
}

impl Resolv {
    /// Keeps a line that is worth it.
    fn note(&mut self, line: &str) {
        let is_list = |line: &str| matches!(line.split_ascii_whitespace().next(), Some("search" | "domain"));
        let is_other = matches!(line.split_ascii_whitespace().next(), Some("options" | "sortlist"));
        let is_control = |c: char| c.is_control() && c != '\t';
        if is_list(line) {
            self.others.retain(|other| !is_list(other));
        }
        if (is_list(line) || is_other) && !line.contains(is_control) {
            self.others.push(line.to_owned());
        }
    }
}

/// The words that are domain names, without the dot at their end.
fn domains<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    words.map(|w| w.strip_suffix('.').unwrap_or(w)).filter(|w| is_domain(w)).map(str::to_owned).collect()
}

/// Whether a name can be put into DHCP and NDP options: labels of 1 to 63
/// bytes, 253 in all (RFC 1035, section 2.3.4), nothing but letters, digits, `-` and `_`.
pub fn is_domain(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use super::{Resolv, Server};

    fn parsed(content: &[u8]) -> (Vec<String>, Vec<String>) {
        let resolv = Resolv::parse(content);
        let shown = |s: &Server| match &s.zone {
            Some(zone) => format!("{}%{zone}", s.addr),
            None => s.addr.to_string(),
        };
        let servers = resolv.servers.iter().map(shown).collect();
        (servers, resolv.search)
    }

    #[test]
    fn files() {
        let cases: &[(&[u8], &[&str], &[&str])] = &[
            (b"", &["127.0.0.1"], &[]),
            (b"nameserver 192.0.2.1", &["192.0.2.1"], &[]),
            (
                b"nameserver\t2001:db8::1 trailing\nnameserver 127.0.0.53\n",
                &["2001:db8::1", "127.0.0.53"],
                &[],
            ),
            (b"nameserver fe80::1%eth0\nnameserver fe80::2\n", &["fe80::1%eth0", "fe80::2"], &[]),
            (b"nameserver 0.0.0.0\nnameserver ::\n", &["127.0.0.1", "::1"], &[]),
            (b"nameserver 192.0.2.1%eth0\nnameserver 192.0.2.2\n", &["192.0.2.2"], &[]),
            (b"#nameserver 192.0.2.1\n;nameserver 192.0.2.1\nnameservers 192.0.2.1\n", &["127.0.0.1"], &[]),
            (b"nameserver\nnameserver 192.0.2\nnameserver dns.example\n", &["127.0.0.1"], &[]),
            (b"search a.example b.example.\r\n", &["127.0.0.1"], &["a.example", "b.example"]),
            (b"search a.example\ndomain b.example c.example\n", &["127.0.0.1"], &["b.example"]),
            (b"domain b.example\nsearch . a..b _tcp.example\n", &["127.0.0.1"], &["_tcp.example"]),
            (b"nameserver 192.0.2.1\0\nnameserver 192.0.2.2\n\xff\xfe\nsearch a\0b\n", &["192.0.2.2"], &[]),
        ];
        for (content, servers, search) in cases {
            let got = parsed(content);
            assert_eq!(got.0, *servers, "{}", content.escape_ascii());
            assert_eq!(got.1, *search, "{}", content.escape_ascii());
        }
    }

    #[test]
    fn how_to_resolve() {
        for (content, others) in [
            ("nameserver 192.0.2.1\n# search a\n", &[][..]),
            (
                "search a\noptions edns0 trust-ad\nsortlist 192.0.2.0\ndomain b\n",
                &["options edns0 trust-ad", "sortlist 192.0.2.0", "domain b"],
            ),
            ("search . \n\toptions\tndots:2\noptions \0\n", &["search .", "options\tndots:2"]),
        ] {
            assert_eq!(Resolv::parse(content.as_bytes()).others, others, "{content}");
        }
    }

    #[test]
    fn long_names_are_left_out() {
        let label = "a".repeat(63);
        let long = format!("search {label} {label}a {label}.{label}.{label}.{label}");
        assert_eq!(parsed(long.as_bytes()).1, [label]);
    }

    #[test]
    fn megabytes_are_not_read() {
        let path = std::env::temp_dir().join(format!("resolv-{}", std::process::id()));
        let mut content = String::from("nameserver 192.0.2.1\n");
        while content.len() < 1 << 20 {
            writeln!(content, "nameserver 192.0.2.2").unwrap();
        }
        std::fs::write(&path, content).unwrap();
        let resolv = Resolv::read(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(resolv.servers.len() <= 64 * 1024 / 21);
        assert_eq!(Resolv::read(Path::new("/nonexistent")), Resolv::parse(b""));
    }
}
