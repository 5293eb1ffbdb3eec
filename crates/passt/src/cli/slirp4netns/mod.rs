//! The command line of slirp4netns, which becomes a [`Config`] like that of passt and pasta.
//!
//! Programs that start slirp4netns compare its words: options may stand anywhere, errors are on
//! standard error and the usage on standard output behind them, and option names are looked for in
//! the help. What the options say beyond that are settings which others can make, too: an own
//! [`Subnet`], an existing namespace, a socket that takes forwarding rules.

mod options;
#[cfg(test)]
mod tests;
mod words;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use passt_engine::forward::rule::Families;
use passt_proto::addr::Mac;
use passt_proto::responder::custom::Lease;

use self::options::{OPTIONS, Opt, Take};
use super::config::{
    Addresses, Config, GuestSocket, Mode, PasstOptions, PastaOptions, PerFamily, RepairSocket, Splice,
    Starter, Target, Userns, Verbosity, Wire,
};
use super::getopt::{Getopt, Order, Word};
use super::subnet::{Subnet, SubnetV4, SubnetV6};
use super::{Described, Host, Outcome, Program, draft, printable, values};

/// The MTU unless one is given, and the largest.
const MTU: u16 = 1500;
const MAX_MTU: u16 = 65521;
/// How long DHCP clients may use their addresses, in seconds.
const LEASE: u32 = 86_400;
/// Bytes of an interface's name.
const MAX_NAME: usize = 15;
/// Bytes of a socket's path, without the one that ends it (`sun_path`, unix(7)).
const MAX_PATH: usize = 107;

/// Options read so far.
#[derive(Debug, Default)]
struct Draft {
    /// Lines for standard output.
    said: String,
    configure: bool,
    exit: Option<i32>,
    ready: Option<i32>,
    mtu: Option<u16>,
    v6: bool,
    api_socket: Option<PathBuf>,
    cidr: Option<String>,
    closed_host: bool,
    closed_dns: bool,
    netns_type: Option<String>,
    userns: Option<PathBuf>,
    seccomp: bool,
    outbound: PerFamily<Option<String>>,
    mac: Option<String>,
    target_type: Option<String>,
}

/// Why there is nothing to run: a line for standard error, and whether the usage follows.
struct Refusal {
    line: String,
    usage: bool,
}

impl Refusal {
    fn new(line: impl Into<String>) -> Self {
        Self { line: line.into(), usage: false }
    }

    fn with_usage(line: impl Into<String>) -> Self {
        Self { line: line.into(), usage: true }
    }
}

/// The options that the help shows.
pub(super) fn described() -> Vec<Described> {
    let options = OPTIONS.iter().filter(|option| !option.help.is_empty());
    options.map(|option| Described { names: option.names, help: option.help }).collect()
}

/// Turns the arguments, the program's name first, into what they ask for.
pub(super) fn parse(argv: Vec<OsString>, host: &dyn Host) -> Outcome {
    let name = argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut draft = Draft::default();
    match read(argv, &mut draft, host) {
        Ok(outcome) => outcome,
        Err(Refusal { line, usage }) => {
            let mut stdout = draft.said;
            if usage {
                stdout.push_str(&words::usage(&name));
            }
            Outcome::Refuse { stdout, stderr: line, status: 1 }
        }
    }
}

fn read(argv: Vec<OsString>, draft: &mut Draft, host: &dyn Host) -> Result<Outcome, Refusal> {
    let mut words = Getopt::new(argv, OPTIONS.iter(), Order::Any);
    let mut operands = Vec::new();
    let unclear = |message: String| Refusal::with_usage(printable(&message) + "\n");
    while let Some(word) = words.next().map_err(unclear)? {
        let (option, value): (&Opt, _) = match word {
            Word::Option(option, _, value) => (option, value.unwrap_or_default()),
            Word::Operand(word) => {
                operands.push(word);
                continue;
            }
            Word::Operands(mut rest) => {
                operands.append(&mut rest);
                continue;
            }
        };
        match option.take {
            Take::Flag(set) => set(draft),
            Take::Value(set) => {
                set(draft, &value).map_err(|line| unclear(line.to_string()))?;
            }
            Take::Print(text) => {
                return Ok(Outcome::Print(std::mem::take(&mut draft.said) + &text(words.name())));
            }
        }
    }
    draft.check()?;
    let target = draft.target(&operands, host)?;
    let config = draft.finish(target, host)?;
    Ok(Outcome::Run(Box::new(config)))
}

/// What is on the other side of the tap device, or socket.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Guest {
    Namespace {
        target: Target,
        userns: Userns,
        tap: String,
    },
    /// A tap device that was opened already.
    Tap(i32),
    /// A socket of messages.
    Bess(PathBuf),
}

impl Draft {
    fn say(&mut self, line: &str) {
        self.said.push_str(line);
        self.said.push('\n');
    }

    fn is_bess(&self) -> bool {
        self.target_type.as_deref() == Some("bess")
    }

    /// What no option can say by itself.
    fn check(&mut self) -> Result<(), Refusal> {
        if !matches!(self.target_type.as_deref(), None | Some("netns" | "bess")) {
            return Err(Refusal::with_usage("--target-type must be either \"netns\" or \"bess\"\n"));
        }
        if self.is_bess() {
            let given = [
                ("--configure", self.configure),
                ("--netns-type", self.netns_type.is_some()),
                ("--userns-path", self.userns.is_some()),
            ];
            if let Some((option, _)) = given.iter().find(|(_, is_given)| *is_given) {
                let line = format!("{option} conflicts with --target-type=bess\n");
                return Err(Refusal::with_usage(line));
            }
        }
        if self.mac.is_some() && !self.configure {
            let line = "--macaddr cannot be specified when --configure or -c is not specified\n";
            return Err(Refusal::with_usage(line));
        }
        Ok(())
    }

    /// Whom the operands name.
    fn target(&mut self, operands: &[OsString], host: &dyn Host) -> Result<Guest, Refusal> {
        let Some(first) = operands.first() else { return Err(Refusal::with_usage("")) };
        let text = first.to_string_lossy();
        if self.is_bess() {
            if operands.len() > 1 {
                return Err(Refusal::with_usage("too many arguments\n"));
            }
            self.say("WARNING: BESS mode is experimental");
            if first.len() > MAX_PATH {
                return Err(Refusal::new("the specified BESS socket path is too long (>= 108)\n"));
            }
            return Ok(Guest::Bess(first.into()));
        }
        let kind = self.netns_type.clone();
        let number = |text: &str| text.parse::<i32>().ok();
        if kind.as_deref() == Some("tapfd") {
            self.warn_of_more(operands);
            let fd = number(&text).filter(|fd| *fd >= 0);
            return fd.map(Guest::Tap).ok_or(Refusal::with_usage("TAPFD must a file descriptor\n"));
        }
        let (target, own) = if matches!(kind.as_deref(), None | Some("pid")) {
            let pid = number(&text).filter(|pid| *pid > 0);
            let pid = pid.ok_or(Refusal::with_usage("PID must be a positive integer\n"))?;
            (Target::Pid(pid), Userns::JoinOrCurrent(format!("/proc/{pid}/ns/user").into()))
        } else {
            let exists = host.exists(Path::new(first));
            exists.map_err(|error| {
                let line = format!("existing path expected when --netns-type=path: {error}\n");
                Refusal::with_usage(line)
            })?;
            (Target::Netns(first.into()), Userns::Current)
        };
        let Some(tap) = operands.get(1) else { return Err(Refusal::with_usage("")) };
        self.warn_of_more(operands);
        let userns = match self.userns.take() {
            Some(path) if host.exists(&path).is_err() => {
                let line = format!("userns path doesn't exist: {}\n", path.display());
                return Err(Refusal::with_usage(line));
            }
            Some(path) => Userns::JoinOrCurrent(path),
            None => own,
        };
        // What is too long is cut.
        let tap = tap.to_str().and_then(|name| values::interface(name.get(..MAX_NAME).unwrap_or(name)));
        let tap = tap.ok_or(Refusal::new("TAPNAME must be a name that an interface can have\n"))?;
        Ok(Guest::Namespace { target, userns, tap })
    }

    fn warn_of_more(&mut self, operands: &[OsString]) {
        if operands.len() > 2 {
            self.say("WARNING: too many arguments");
        }
    }

    fn finish(&mut self, guest: Guest, host: &dyn Host) -> Result<Config, Refusal> {
        let outbound = self.outbound(host)?;
        let (network, prefix_len) = self.network()?;
        let v4 = SubnetV4::like_libslirp(network, prefix_len);
        if self.api_socket.as_ref().is_some_and(|path| path.as_os_str().as_bytes().len() > MAX_PATH) {
            return Err(Refusal::new("the specified API socket path is too long (>= 108)\n"));
        }
        let mtu = self.mtu.unwrap_or(MTU);
        let starter = self.starter(&guest, &words::Banner { draft: self, v4, network, mtu, outbound });
        let mut config = draft::default_config(Program::Passt, self.mode(guest)?);
        config.name = "slirp4netns";
        config.log.verbosity = Verbosity::Quiet;
        config.foreground = true;
        config.families = if self.v6 { Families::Both } else { Families::V4Only };
        config.mtu = Some(mtu);
        let [a, b, c, d] = v4.gateway.octets();
        config.mac = Mac([0x52, 0x55, a, b, c, d]);
        config.starter = starter;
        self.apply_network(v4, &mut config);
        config.custom.dhcp_lease = Lease { valid: LEASE, ..Lease::default() };
        config.host.outbound = outbound;
        config.host.outbound_to_loopback = true;
        config.api_socket = self.api_socket.take();
        Ok(config)
    }

    /// How whoever started us is spoken to.
    fn starter(&self, guest: &Guest, banner: &words::Banner<'_>) -> Starter {
        let notice = match guest {
            Guest::Bess(path) => format!("Waiting for connection to {}\n", path.display()),
            _ => String::new(),
        };
        Starter {
            banner: banner.to_string(),
            notice,
            warnings: self.said.clone(),
            ready: self.ready,
            exit: self.exit,
            default_signals: true,
        }
    }

    /// Has the guest's network be its own, without what was disabled.
    fn apply_network(&self, v4: SubnetV4, config: &mut Config) {
        let v6 = self.v6.then(SubnetV6::like_libslirp);
        config.mapping.gateway = !self.closed_host;
        Subnet { v4: Some(v4), v6 }.apply(config);
        if self.closed_host {
            config.mapping.closed_host = config.guest.gateway;
        }
        config.dns.closed = self.closed_dns;
        config.dns.announce_servers = !self.closed_dns;
    }

    fn mode(&self, guest: Guest) -> Result<Mode, Refusal> {
        let passt = |socket| PasstOptions {
            socket,
            vhost_user: false,
            wire: Wire::Bess,
            replace: true,
            one_off: true,
            repair: RepairSocket::None,
        };
        Ok(match guest {
            Guest::Namespace { target, userns, tap } => {
                let mac = self.mac.as_deref().map(|text| {
                    let line = format!(
                        "\"{text}\" is an invalid MAC address.\nmacaddress has to be a valid MAC address (hex \
                         string, 6 bytes, each byte separated by a ':')."
                    );
                    values::mac(&padded(text)).ok_or(Refusal::new(line))
                });
                Mode::Pasta(PastaOptions {
                    target,
                    userns,
                    interface: Some(tap),
                    mac: mac.transpose()?,
                    config_net: self.configure,
                    splice: Splice::Never,
                    netns_quit: true,
                    loopback: self.configure,
                    pid_namespace: true,
                    ..PastaOptions::default()
                })
            }
            Guest::Tap(fd) => Mode::Passt(passt(GuestSocket::Tap(fd))),
            Guest::Bess(path) => Mode::Passt(passt(GuestSocket::Path(path))),
        })
    }

    /// The network that the guest is to have, 10.0.2.0/24 unless there is another.
    fn network(&self) -> Result<(Ipv4Addr, u8), Refusal> {
        let Some(text) = &self.cidr else { return Ok((Ipv4Addr::new(10, 0, 2, 0), 24)) };
        values::network(text).map_err(|wrong| {
            Refusal::new(match wrong {
                values::NotNetwork::Text => format!("invalid CIDR: {text}\n"),
                values::NotNetwork::Length => "prefix length needs to be 1-25\n".to_owned(),
                values::NotNetwork::Host => {
                    "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24\n".to_owned()
                }
            })
        })
    }

    /// The source addresses of what leaves the host: those that were given, or the first of an
    /// interface.
    fn outbound(&self, host: &dyn Host) -> Result<Addresses, Refusal> {
        let mut addresses = Addresses::default();
        // Callers know the words of the second, too, as they are.
        for (v6, text, line) in [
            (false, &self.outbound.v4, "outbound-addr has to be valid ipv4 address or interface name."),
            (true, &self.outbound.v6, "outbound-addr has to be valid ipv4 address or iterface name."),
        ] {
            let Some(text) = text else { continue };
            let addr = text.parse::<IpAddr>().ok().or_else(|| host.address_of(text, v6));
            let addr = addr.filter(|addr| addr.is_ipv6() == v6).ok_or(Refusal::new(line))?;
            addresses.replace(addr);
        }
        Ok(addresses)
    }
}

/// A MAC address with two digits for each byte, where callers may leave out a zero.
fn padded(text: &str) -> String {
    let pad = |byte: &str| if byte.len() == 1 { format!("0{byte}") } else { byte.to_owned() };
    text.split(':').map(pad).collect::<Vec<_>>().join(":")
}
