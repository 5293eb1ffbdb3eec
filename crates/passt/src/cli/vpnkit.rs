//! The command line of VPNKit, as far as programs on Linux start it: RootlessKit, and through it
//! Docker's and nerdctl's rootless modes.
//!
//! It becomes a [`Config`] with an own [`Subnet`]. Options for Docker Desktop are known by name, so
//! that one line can say that they are not here.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use passt_engine::forward::rule::Families;
use passt_proto::addr::Mac;

use super::config::{
    Config, GuestSocket, Mode, PasstOptions, RepairSocket, Source, Starter, Verbosity, Wire,
};
use super::getopt::{Getopt, Order, Spec, Word};
use super::subnet::{Subnet, SubnetV4};
use super::{Described, MAX_MTU, Outcome, Program, advice, draft, values};

/// What a command line that makes no sense ends with, as cmdliner has it.
const MISUSE: u8 = 124;
/// The MAC address of the virtual switch.
const MAC: Mac = Mac([0xf6, 0x16, 0x36, 0xbc, 0xf9, 0xc6]);
const MTU: u16 = 1500;
const PREFIX_LEN: u8 = 24;
/// Smallest MTU of IPv4 (RFC 791, section 3.2).
const MIN_MTU: u16 = 68;

/// Options read so far.
#[derive(Debug)]
struct Draft {
    ethernet: Option<OsString>,
    mtu: u16,
    host: Ipv4Addr,
    gateway: Ipv4Addr,
    lowest: Ipv4Addr,
    highest: Ipv4Addr,
    domain: Option<String>,
    mac: Mac,
    pcap: Option<PathBuf>,
    debug: bool,
}

impl Default for Draft {
    fn default() -> Self {
        let at = |last| Ipv4Addr::new(192, 168, 65, last);
        Self {
            ethernet: None,
            mtu: MTU,
            host: at(2),
            gateway: at(1),
            lowest: at(3),
            highest: at(254),
            domain: None,
            mac: MAC,
            pcap: None,
            debug: false,
        }
    }
}

/// An option.
struct Opt {
    names: &'static str,
    help: &'static str,
    take: Take,
}

/// What an option does.
enum Take {
    Flag(fn(&mut Draft)),
    /// Takes an argument, which may be none that it can have.
    Value(fn(&mut Draft, &str) -> Option<()>),
    /// Takes an argument that means nothing here.
    Ignored,
    /// Is for what is not here.
    Refused,
    Print(fn(&str) -> String),
}

impl Spec for Opt {
    fn names(&self) -> &'static str {
        self.names
    }

    fn takes_argument(&self) -> bool {
        matches!(self.take, Take::Value(_) | Take::Ignored | Take::Refused)
    }

    fn prints(&self) -> bool {
        matches!(self.take, Take::Print(_))
    }
}

const fn value(names: &'static str, help: &'static str, set: fn(&mut Draft, &str) -> Option<()>) -> Opt {
    Opt { names, help, take: Take::Value(set) }
}

const fn refused(names: &'static str) -> Opt {
    Opt { names, help: "", take: Take::Refused }
}

const fn ignored(names: &'static str, help: &'static str) -> Opt {
    Opt { names, help, take: Take::Ignored }
}

static OPTIONS: &[Opt] = &[
    value("--ethernet=SOCKET", "listen for guests at this path, or on descriptor N by fd:N", |d, text| {
        d.ethernet = Some(text.into());
        Some(())
    }),
    value("--mtu=MTU", "MTU of the network (default=1500)", |d, text| {
        d.mtu = text.parse().ok().filter(|mtu| (MIN_MTU..=MAX_MTU).contains(mtu))?;
        Some(())
    }),
    value(
        "--host-ip=IP",
        "address of the host's loopback; 0.0.0.0: none (default=192.168.65.2)",
        |d, text| {
            d.host = text.parse().ok()?;
            Some(())
        },
    ),
    value("--gateway-ip=IP", "address of the gateway and resolver (default=192.168.65.1)", |d, text| {
        d.gateway = text.parse().ok()?;
        Some(())
    }),
    value("--lowest-ip=IP", "first address for guests (default=192.168.65.3)", |d, text| {
        d.lowest = text.parse().ok()?;
        Some(())
    }),
    value("--highest-ip=IP", "last address for guests (default=192.168.65.254)", |d, text| {
        d.highest = text.parse().ok()?;
        Some(())
    }),
    value("--domain=NAME", "domain that guests search", |d, text| {
        d.domain = Some(values::domain(text)?);
        Some(())
    }),
    value("--server-macaddr=MAC", "MAC address of the gateway", |d, text| {
        d.mac = values::mac(text)?;
        Some(())
    }),
    value("--pcap=FILE", "record frames in FILE", |d, text| {
        d.pcap = Some(text.into());
        Some(())
    }),
    Opt { names: "--debug", help: "say more on standard error", take: Take::Flag(|d| d.debug = true) },
    ignored("--pcap-snaplen=N", "no effect: frames are recorded as they are"),
    ignored("--listen-backlog=N", "no effect"),
    ignored("--max-connections=N", "no effect"),
    ignored("--port-max-idle-time=N", "no effect"),
    ignored("--gc-compact-interval=N", "no effect"),
    refused("--port=URL"),
    refused("--port-forwards=FILE"),
    refused("--introspection=URL"),
    refused("--diagnostics=URL"),
    refused("--vsock-path=PATH"),
    refused("--http=FILE"),
    refused("--http-api-path=PATH"),
    refused("--gateway-forwards=FILE"),
    refused("--forwards=FILE"),
    refused("--tcpv4-forwards=LIST"),
    refused("--udpv4-forwards=LIST"),
    refused("--allowed-bind-addresses=LIST"),
    refused("--dhcp-path=FILE"),
    refused("--dns=FILE"),
    refused("--hosts=FILE"),
    refused("--host-names=LIST"),
    refused("--gateway-names=LIST"),
    refused("--vm-names=LIST"),
    refused("--database=PATH"),
    Opt { names: "--help", help: "show this help and exit", take: Take::Print(usage) },
    Opt { names: "--version", help: "show the version and exit", take: Take::Print(version) },
];

/// Column in which descriptions begin.
const COLUMN: usize = 25;

fn usage(name: &str) -> String {
    use std::fmt::Write as _;
    let mut text = format!("Usage: {name} [OPTION]... --ethernet=SOCKET\n\n");
    for option in OPTIONS.iter().filter(|option| !option.help.is_empty()) {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{:COLUMN$}{}", option.names, option.help);
    }
    text
}

fn version(_: &str) -> String {
    format!("passt.{}\n", crate::VERSION)
}

/// The options that the help shows.
pub(super) fn described() -> Vec<Described> {
    let options = OPTIONS.iter().filter(|option| !option.help.is_empty());
    options.map(|option| Described { names: option.names, help: option.help }).collect()
}

/// Turns the arguments, the program's name first, into what they ask for.
pub(super) fn parse(argv: Vec<OsString>) -> Outcome {
    match read(argv) {
        Ok(outcome) => outcome,
        Err((line, status)) => {
            Outcome::Refuse { stdout: String::new(), stderr: super::printable(&line) + "\n", status }
        }
    }
}

fn read(argv: Vec<OsString>) -> Result<Outcome, (String, u8)> {
    let misuse = |line: String| (line, MISUSE);
    let mut words = Getopt::new(argv, OPTIONS.iter(), Order::Any);
    let mut draft = Draft::default();
    let unclear = |message: String| misuse(advice::see_help(&message, "vpnkit"));
    while let Some(word) = words.next().map_err(unclear)? {
        let (option, shown, value): (&Opt, _, _) = match word {
            Word::Option(option, shown, value) => (option, shown, value.unwrap_or_default()),
            Word::Operand(word) => {
                return Err(misuse(format!(
                    "vpnkit: too many arguments, don't know what to do with {}",
                    word.display()
                )));
            }
            Word::Operands(_) => continue,
        };
        let text = value.to_string_lossy();
        match option.take {
            Take::Flag(set) => set(&mut draft),
            Take::Value(set) => {
                let invalid = || misuse(format!("vpnkit: option {shown}: invalid value {text}"));
                set(&mut draft, &text).ok_or_else(invalid)?;
            }
            Take::Ignored => {}
            Take::Refused => {
                return Err((format!("vpnkit: option {shown} is for Docker Desktop, and not supported"), 1));
            }
            Take::Print(text) => return Ok(Outcome::Print(text(words.name()))),
        }
    }
    let config = draft.finish().map_err(|line| (line, 1))?;
    Ok(Outcome::Run(Box::new(config)))
}

impl Draft {
    fn finish(self) -> Result<Config, String> {
        let socket = self.socket()?;
        let v4 = self.subnet()?;
        let mode = Mode::Passt(PasstOptions {
            socket,
            vhost_user: false,
            wire: Wire::Hyperkit,
            replace: true,
            one_off: false,
            repair: RepairSocket::None,
        });
        let mut config = draft::default_config(Program::Passt, mode);
        config.name = "vpnkit";
        config.log.verbosity = if self.debug { Verbosity::Debug } else { Verbosity::Quiet };
        config.foreground = true;
        config.families = Families::V4Only;
        config.mtu = Some(self.mtu);
        config.mac = self.mac;
        config.pcap = self.pcap;
        config.starter = Starter { default_signals: true, ..Starter::default() };
        Subnet { v4: Some(v4), v6: None }.apply(&mut config);
        config.dns.search = self.domain.map_or(Source::Host, |domain| Source::Given(vec![domain]));
        Ok(config)
    }

    fn socket(&self) -> Result<GuestSocket, String> {
        let ethernet = self.ethernet.as_ref().ok_or("Please provide an --ethernet argument")?;
        match ethernet.to_str().and_then(|text| text.strip_prefix("fd:")) {
            None => Ok(GuestSocket::Path(ethernet.into())),
            Some(number) => match number.parse() {
                Ok(fd @ 0..) => Ok(GuestSocket::Listening(fd)),
                _ => Err(format!("vpnkit: not a descriptor: fd:{number}")),
            },
        }
    }

    /// The network around the gateway, in which all others must be, each at its own address.
    fn subnet(&self) -> Result<SubnetV4, String> {
        let &Self { host, gateway, lowest, highest, .. } = self;
        let network = |addr: Ipv4Addr| addr.to_bits() >> (32 - u32::from(PREFIX_LEN));
        let host = Some(host).filter(|host| !host.is_unspecified());
        let all = [Some(lowest), Some(highest), host];
        let is_outside = all.into_iter().flatten().any(|addr| network(addr) != network(gateway));
        let is_network = |addr: Ipv4Addr| matches!(addr.octets(), [.., 0 | 255]);
        let is_none = [lowest, highest, gateway].into_iter().chain(host).any(is_network);
        let is_taken = |addr: Ipv4Addr| (lowest..=highest).contains(&addr);
        if is_outside
            || is_none
            || lowest > highest
            || is_taken(gateway)
            || host.is_some_and(is_taken)
            || host == Some(gateway)
        {
            return Err(format!("vpnkit: no network has {lowest} to {highest} for guests beside {gateway}"));
        }
        let count = usize::try_from(highest.to_bits() - lowest.to_bits()).unwrap_or(0) + 1;
        Ok(SubnetV4 {
            prefix_len: PREFIX_LEN,
            guest: lowest,
            gateway,
            host,
            resolver: gateway,
            leases: (lowest, count),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(line: &str) -> Outcome {
        parse(["vpnkit"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect())
    }

    #[test]
    fn as_rootlesskit_has_it() {
        for (line, host, mtu) in [
            ("--ethernet /tmp/s --mtu 1500", Some(Ipv4Addr::new(192, 168, 65, 2)), 1500),
            ("--ethernet=/tmp/s --mtu=65520 --host-ip 0.0.0.0", None, 65520),
            (
                "--ether /tmp/s --host-ip 192.168.65.254 --highest-ip 192.168.65.9",
                Some(Ipv4Addr::new(192, 168, 65, 254)),
                1500,
            ),
        ] {
            let Outcome::Run(config) = outcome(line) else { panic!("{line}") };
            assert_eq!((config.mapping.host_loopback.v4, config.mtu), (host, Some(mtu)), "{line}");
            assert_eq!(config.dns.forward.v4, Some(Ipv4Addr::new(192, 168, 65, 1)));
            assert_eq!(config.guest.leases.map(|(first, _)| first), Some(Ipv4Addr::new(192, 168, 65, 3)));
            let Mode::Passt(passt) = config.mode else { panic!("{line}") };
            assert_eq!((passt.socket, passt.wire), (GuestSocket::Path("/tmp/s".into()), Wire::Hyperkit));
        }
        let Outcome::Run(config) = outcome("--ethernet fd:7") else { panic!("no descriptor") };
        assert!(matches!(config.mode, Mode::Passt(PasstOptions { socket: GuestSocket::Listening(7), .. })));
    }

    #[test]
    fn mistakes() {
        for (line, expected, code) in [
            ("", "Please provide an --ethernet argument\n", 1),
            (
                "--bogus",
                "vpnkit: unrecognized option '--bogus'; try 'vpnkit --help' for a list of options\n",
                124,
            ),
            ("--ethernet /s more", "vpnkit: too many arguments, don't know what to do with more\n", 124),
            ("--mtu x", "vpnkit: option --mtu: invalid value x\n", 124),
            ("--mtu 67", "vpnkit: option --mtu: invalid value 67\n", 124),
            ("--ethernet fd:x", "vpnkit: not a descriptor: fd:x\n", 1),
            (
                "--port /x --ethernet /s",
                "vpnkit: option --port is for Docker Desktop, and not supported\n",
                1,
            ),
            ("--vsock-path x", "vpnkit: option --vsock-path is for Docker Desktop, and not supported\n", 1),
            (
                "--ethernet /s --host-ip 10.0.0.1",
                "vpnkit: no network has 192.168.65.3 to 192.168.65.254 for guests beside 192.168.65.1\n",
                1,
            ),
            (
                "--ethernet /s --gateway-ip 192.168.65.3",
                "vpnkit: no network has 192.168.65.3 to 192.168.65.254 for guests beside 192.168.65.3\n",
                1,
            ),
        ] {
            let Outcome::Refuse { stdout, stderr, status } = outcome(line) else { panic!("{line}") };
            assert_eq!((stdout.as_str(), stderr.as_str(), status), ("", expected, code), "{line}");
        }
        let Outcome::Refuse { stderr, .. } = outcome("-help") else { panic!("-help is taken") };
        assert!(
            stderr.contains("unrecognized option '-help': options have two dashes, as in --help"),
            "{stderr}"
        );
        let Outcome::Refuse { stderr, .. } = outcome("--x\u{1b}[31m") else { panic!("it is taken") };
        assert!(!stderr.contains('\u{1b}'), "{stderr}");
        assert!(matches!(outcome("--help"), Outcome::Print(text) if text.contains("--ethernet=SOCKET")));
        assert!(matches!(outcome("--version"), Outcome::Print(_)));
    }
}
