//! A configuration while its options are being read, and what follows from all of them together.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use passt_engine::forward::rule::Families;
use passt_proto::responder::custom::Custom;

use super::announce::Announce;
use super::config::{
    Config, DEFAULT_MAC, DnsOptions, GuestOptions, GuestSocket, HostOptions, LogOptions, MAX_MTU, MapOptions,
    Mode, PasstOptions, PastaOptions, PerFamily, PortOptions, RepairSocket, ResolvConf, Services, Source,
    Splice, Starter, Target, Userns, Verbosity, Wire,
};
use super::ports::{PortContext, Ports};
use super::subnet::{Subnet, SubnetV4, SubnetV6};
use super::vain::Given;
use super::values;
use super::{Error, Program};

/// Smallest MTUs that the protocols allow (RFC 791, section 3.2; RFC 8200, section 5).
const MIN_MTU_V4: u16 = 68;
const MIN_MTU_V6: u16 = 1280;

/// What somebody who is new to it meets first.
const UNCONFIGURED: &str = "The network interface in the new namespace is down until something there configures \
                            it: --config-net does";

/// Options read so far. What is complete by itself is in `config`, `passt` and `pasta` already;
/// the rest waits for [`Draft::finish`].
pub(super) struct Draft {
    program: Program,
    pub(super) given: Given,
    pub(super) config: Config,
    pub(super) passt: PasstOptions,
    pub(super) pasta: PastaOptions,
    pub(super) socket: Option<PathBuf>,
    pub(super) fd: Option<i32>,
    pub(super) netns: Option<PathBuf>,
    pub(super) userns: Option<Userns>,
    pub(super) no_copy_routes: bool,
    pub(super) no_copy_addrs: bool,
    pub(super) no_splice: bool,
    pub(super) splice_only: bool,
    pub(super) isolate_host: bool,
    /// The host's name servers are not to be announced, whatever others are.
    pub(super) no_dns: bool,
    pub(super) addr_prefix_len: Option<u8>,
    pub(super) netmask: Option<u8>,
    pub(super) subnet: Option<(Ipv4Addr, u8)>,
    pub(super) announce: Announce,
    pub(super) tcp_in: Vec<OsString>,
    pub(super) udp_in: Vec<OsString>,
    pub(super) tcp_out: Vec<OsString>,
    pub(super) udp_out: Vec<OsString>,
}

/// In what an option and `--isolate-host` exclude each other.
const NOTHING_IN_REACH: &str = "that leaves nothing of the host's loopback in reach";
const GUEST_WOULD_CHOOSE: &str = "the guest would choose which ports of the host are open; name them";

impl Draft {
    /// The defaults of a program.
    pub(super) fn new(program: Program) -> Self {
        let passt = PasstOptions {
            socket: GuestSocket::FirstFree,
            vhost_user: program == Program::VhostUser,
            wire: Wire::Qemu,
            replace: false,
            one_off: false,
            repair: if program == Program::VhostUser { RepairSocket::Default } else { RepairSocket::None },
        };
        Self {
            program,
            given: Given::default(),
            config: default_config(program, Mode::Passt(passt.clone())),
            passt,
            pasta: PastaOptions {
                netns_quit: true,
                loopback: true,
                pid_namespace: true,
                ..PastaOptions::default()
            },
            socket: None,
            fd: None,
            netns: None,
            userns: None,
            no_copy_routes: false,
            no_copy_addrs: false,
            no_splice: false,
            splice_only: false,
            isolate_host: false,
            no_dns: false,
            addr_prefix_len: None,
            netmask: None,
            subnet: None,
            announce: Announce::default(),
            tcp_in: Vec::new(),
            udp_in: Vec::new(),
            tcp_out: Vec::new(),
            udp_out: Vec::new(),
        }
    }

    /// Keeps a line for the log.
    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.config.warnings.push(text.into());
    }

    /// The same for a person at a terminal, unless that wants to be told little.
    pub(super) fn hint(&mut self, text: impl Into<String>) {
        self.config.hints.push(text.into());
    }

    /// Warns of an option that is there for compatibility alone.
    pub(super) fn will_go(&mut self, option: &str) {
        self.warn(format!("{option} will be dropped soon"));
    }

    /// Checks what no option can by itself, and draws the conclusions.
    pub(super) fn finish(mut self, operands: Vec<OsString>) -> Result<Config, Error> {
        if self.netmask.is_some() && self.addr_prefix_len.is_some() {
            return Err(Error::Conflict("Redundant prefix length specification"));
        }
        self.config.guest.prefix_len = self.netmask.or(self.addr_prefix_len);
        if self.config.log.verbosity <= Verbosity::Quiet {
            self.config.hints.clear();
        }
        self.forget_what_is_off();
        self.apply_isolation()?;
        self.apply_subnet()?;
        self.warn_of_small_mtu();
        self.config.ports = self.ports()?;
        self.warn_of_loopback_targets();
        self.config.mode = match self.program {
            Program::Passt | Program::VhostUser => Mode::Passt(self.finish_passt(&operands)?),
            Program::Pasta => Mode::Pasta(self.finish_pasta(operands)?),
        };
        self.warn_of_control_in_reach();
        self.warn_of_vain_options();
        let unasked = self.config.custom.ra.unasked;
        self.config.custom = std::mem::take(&mut self.announce).finish()?;
        self.config.custom.ra.unasked = unasked;
        Ok(self.config)
    }

    /// Name servers of a family that is off are none, and don't replace the host's; names for these of
    /// that family don't open a way to them.
    fn forget_what_is_off(&mut self) {
        let (families, dns) = (self.config.families, &mut self.config.dns);
        dns.forward.v4 = dns.forward.v4.filter(|_| families.v4());
        dns.forward.v6 = dns.forward.v6.filter(|_| families.v6());
        let servers = &mut dns.servers;
        if let Source::Given(given) = servers {
            given.retain(|server| families.has(*server));
            if given.is_empty() {
                *servers = if self.no_dns { Source::None } else { Source::Host };
            }
        }
    }

    /// Closes all ways to the host's loopback, if they are to be.
    fn apply_isolation(&mut self) -> Result<(), Error> {
        if !self.isolate_host {
            return Ok(());
        }
        let is_auto = |spec: &str| spec.split([',', '/']).any(|item| item == "auto");
        let opens = |spec: &str, outbound| if outbound { spec != "none" } else { is_auto(spec) };
        for (option, specs, outbound) in [
            ("-t", &mut self.tcp_in, false),
            ("-u", &mut self.udp_in, false),
            ("-T", &mut self.tcp_out, true),
            ("-U", &mut self.udp_out, true),
        ] {
            let shown = specs.iter().map(|spec| spec.to_string_lossy());
            if let Some(spec) = shown.into_iter().find(|spec| opens(spec, outbound)) {
                let reason = if outbound { NOTHING_IN_REACH } else { GUEST_WOULD_CHOOSE };
                return Err(Error::Isolated(format!("{option} {spec}"), reason));
            }
            if specs.is_empty() {
                specs.push("none".into());
            }
        }
        let mapping = &mut self.config.mapping;
        let mapped = mapping.host_loopback;
        if let Some(addr) = mapped.v4.map(IpAddr::V4).or(mapped.v6.map(IpAddr::V6)) {
            return Err(Error::Isolated(format!("--map-host-loopback {addr}"), NOTHING_IN_REACH));
        }
        mapping.gateway = false;
        self.config.host.closed = true;
        let dns = &mut self.config.dns;
        let is_asked = [&dns.forward, &dns.host].iter().any(|addrs| addrs.v4.is_some() || addrs.v6.is_some());
        dns.spare_loopback = !is_asked && self.pasta.resolv_conf != ResolvConf::Always;
        Ok(())
    }

    /// Who is isolated may forward ports to itself by a socket that it reaches: the command is this
    /// user's, and has this user's files.
    fn warn_of_control_in_reach(&mut self) {
        let starts_command = self.config.pasta().is_some_and(|pasta| pasta.target.is_command());
        if self.isolate_host && starts_command && self.config.has_control() {
            self.warn(
                "The command reaches the control socket, too, and may add ports by it, in spite of \
                 --isolate-host",
            );
        }
    }

    /// Has the guest's network be its own, if it is to be.
    fn apply_subnet(&mut self) -> Result<(), Error> {
        let Some((network, len)) = self.subnet else { return Ok(()) };
        if self.splice_only {
            return Err(Error::Conflict("--subnet and --splice-only exclude each other"));
        }
        let families = self.config.families;
        let v4 = families.v4().then(|| SubnetV4::like_libslirp(network, len));
        let v6 = families.v6().then(SubnetV6::like_libslirp);
        Subnet { v4, v6 }.apply(&mut self.config);
        Ok(())
    }

    fn warn_of_small_mtu(&mut self) {
        let families = self.config.families;
        let Some(mtu) = self.config.mtu else {
            return;
        };
        let v4 = (families.v4() && mtu < MIN_MTU_V4).then(|| format!("IPv4 (min {MIN_MTU_V4})"));
        let v6 = (families.v6() && mtu < MIN_MTU_V6).then(|| format!("IPv6 (min {MIN_MTU_V6})"));
        let families: Vec<_> = v4.into_iter().chain(v6).collect();
        if !families.is_empty() {
            self.warn(format!("MTU {mtu} is too small for {}", families.join(" and ")));
        }
    }

    /// What is sent to the guest's loopback from outside is dropped there (RFC 1122, section 3.2.1.3).
    fn warn_of_loopback_targets(&mut self) {
        let PortOptions { tcp_in, udp_in, .. } = &self.config.ports;
        let found = [tcp_in, udp_in].into_iter().flat_map(Ports::loopback_targets);
        let lines: Vec<_> = found
            .map(|(given, target)| {
                format!("{given}: nothing arrives at {target} of the guest; without an address it does")
            })
            .collect();
        self.config.warnings.extend(lines);
    }

    fn ports(&self) -> Result<PortOptions, Error> {
        let parse = |specs: &[OsString], option, outbound| {
            let context = PortContext {
                option,
                outbound,
                pasta: self.program == Program::Pasta,
                families: self.config.families,
            };
            Ports::parse(specs, context)
        };
        Ok(PortOptions {
            tcp_in: parse(&self.tcp_in, "-t", false)?,
            udp_in: parse(&self.udp_in, "-u", false)?,
            tcp_out: parse(&self.tcp_out, "-T", true)?,
            udp_out: parse(&self.udp_out, "-U", true)?,
        })
    }

    fn finish_passt(&mut self, operands: &[OsString]) -> Result<PasstOptions, Error> {
        if let Some(first) = operands.first() {
            return Err(Error::Operand(first.to_string_lossy().into_owned()));
        }
        let mut passt = self.passt.clone();
        // One socket is listener and connection, and is shut down when the client has left.
        passt.one_off |= passt.wire == Wire::Vfkit;
        let has_socket = self.fd.is_some() || self.socket.is_some();
        if passt.vhost_user && passt.wire != Wire::Qemu {
            return Err(Error::Conflict("--framing and --vhost-user exclude each other"));
        }
        if passt.wire == Wire::Stdio {
            if has_socket {
                return Err(Error::Conflict("--framing stdio is for no socket"));
            }
            if self.config.stats.is_some() {
                return Err(Error::Conflict("--framing stdio leaves standard output to frames: no --stats"));
            }
            (passt.socket, passt.one_off) = (GuestSocket::Stdio, true);
            self.config.foreground = true;
        } else if passt.wire == Wire::Hyperkit && self.fd.is_some() {
            return Err(Error::Conflict("--framing hyperkit is for a socket to which clients connect"));
        } else if let Some(fd) = self.fd {
            passt.socket = GuestSocket::Fd(fd);
            passt.one_off = true;
        } else if let Some(path) = self.socket.take() {
            passt.socket = GuestSocket::Path(path);
        }
        Ok(passt)
    }

    fn finish_pasta(&mut self, operands: Vec<OsString>) -> Result<PastaOptions, Error> {
        let mut pasta = self.pasta.clone();
        self.check_pasta()?;
        pasta.target = self.target(operands)?;
        if pasta.mac == Some(self.config.mac) {
            return Err(Error::Conflict("--ns-mac-addr is the address of the host's side (--mac-addr)"));
        }
        if !pasta.pid_namespace && !pasta.target.spawns() {
            return Err(Error::Conflict("--no-pidns is incompatible with PID or --netns"));
        }
        if pasta.resolv_conf == ResolvConf::Always && !pasta.target.spawns() {
            return Err(Error::Conflict("--resolv-conf is for a command or shell that pasta starts"));
        }
        let own = match &pasta.target {
            Target::Command(_) | Target::Shell => Userns::New,
            Target::Pid(pid) => Userns::Join(format!("/proc/{pid}/ns/user").into()),
            Target::Netns(_) => Userns::Current,
        };
        pasta.userns = self.userns.take().unwrap_or(own);
        if pasta.target.spawns() {
            self.config.foreground = true;
            if self.config.log.verbosity > Verbosity::Quiet && !pasta.config_net && !self.splice_only {
                self.hint(UNCONFIGURED);
            }
            let verbosity = &mut self.config.log.verbosity;
            if *verbosity < Verbosity::Debug {
                *verbosity = Verbosity::Quiet;
            }
        }
        let guest = &self.config.guest;
        pasta.copy_routes = PerFamily {
            v4: !self.no_copy_routes && guest.gateway.v4.is_none(),
            v6: !self.no_copy_routes && guest.gateway.v6.is_none(),
        };
        pasta.copy_addrs = PerFamily {
            v4: !self.no_copy_addrs && guest.addr.v4.is_none(),
            v6: !self.no_copy_addrs && guest.addr.v6.is_none(),
        };
        if pasta.config_net && !self.config.host.apart {
            self.config.services.ra = false;
        }
        if self.no_splice {
            pasta.splice = Splice::Never;
        }
        if self.splice_only {
            pasta.splice = Splice::Only;
            pasta.host_lo_to_ns_lo = true;
            self.without_tap();
        }
        Ok(pasta)
    }

    fn check_pasta(&self) -> Result<(), Error> {
        let wants_file = self.pasta.resolv_conf == ResolvConf::Always;
        let conflicts = [
            (self.no_splice && self.splice_only, "--no-splice and --splice-only exclude each other"),
            (
                self.no_splice && self.pasta.host_lo_to_ns_lo,
                "--no-splice and --host-lo-to-ns-lo exclude each other",
            ),
            (self.no_copy_routes && !self.pasta.config_net, "--no-copy-routes needs --config-net"),
            (self.no_copy_addrs && !self.pasta.config_net, "--no-copy-addrs needs --config-net"),
            (wants_file && self.splice_only, "--resolv-conf and --splice-only exclude each other"),
            (
                wants_file && matches!(self.config.dns.servers, Source::None),
                "--resolv-conf and --dns none exclude each other",
            ),
        ];
        match conflicts.iter().find(|(exists, _)| *exists) {
            Some((_, text)) => Err(Error::Conflict(text)),
            None => Ok(()),
        }
    }

    /// One number is a PID, other operands are a command.
    fn target(&mut self, operands: Vec<OsString>) -> Result<Target, Error> {
        if let Some(path) = self.netns.take() {
            return if operands.is_empty() {
                Ok(Target::Netns(path))
            } else {
                Err(Error::Conflict("Both --netns and PID or command given"))
            };
        }
        let number = match operands.as_slice() {
            [] => return Ok(Target::Shell),
            [only] => only.to_str().and_then(values::digits),
            _ => None,
        };
        match number.map(|text| text.parse().ok().filter(|&pid: &i32| pid > 0).ok_or(text)) {
            None => Ok(Target::Command(operands)),
            Some(Ok(pid)) => Ok(Target::Pid(pid)),
            Some(Err(text)) => Err(Error::Invalid { what: "PID", value: text.to_owned() }),
        }
    }

    /// Nothing goes through the tap device, so nothing is offered there.
    fn without_tap(&mut self) {
        let Services { tcp, udp, .. } = self.config.services;
        self.config.services = Services {
            tcp,
            udp,
            icmp: false,
            dhcp: false,
            ndp: false,
            dhcpv6: false,
            ra: false,
            multicast: false,
        };
        let dns = &mut self.config.dns;
        dns.servers = Source::None;
        dns.search = Source::None;
        dns.forward = PerFamily::default();
    }
}

impl<T> Source<T> {
    /// Adds to a list that may be a new one, if `fits` says so of what is there; else false.
    pub(super) fn add(&mut self, value: T, fits: impl Fn(&[T]) -> bool) -> bool {
        if let Self::Given(list) = self {
            let fits = fits(list);
            if fits {
                list.push(value);
            }
            return fits;
        }
        *self = Self::Given(vec![value]);
        true
    }
}

pub(super) fn default_config(program: Program, mode: Mode) -> Config {
    let announce = program != Program::Pasta;
    Config {
        name: if program == Program::Pasta { "pasta" } else { "passt" },
        mode,
        log: LogOptions { verbosity: Verbosity::Normal, file: None, size: 1 << 20 },
        foreground: false,
        stats: None,
        run_as: None,
        pid_file: None,
        pcap: None,
        control_socket: None,
        api_socket: None,
        chroot_fallback: false,
        families: Families::Both,
        mtu: Some(MAX_MTU),
        mac: DEFAULT_MAC,
        guest: GuestOptions::default(),
        host: HostOptions::default(),
        dns: DnsOptions {
            servers: Source::Host,
            search: Source::Host,
            forward: PerFamily::default(),
            host: PerFamily::default(),
            closed: false,
            spare_loopback: false,
            follow: false,
            announce_servers: announce,
            announce_search: announce,
        },
        services: Services {
            tcp: true,
            udp: true,
            icmp: true,
            dhcp: true,
            ndp: true,
            dhcpv6: true,
            ra: true,
            multicast: true,
        },
        mapping: MapOptions {
            host_loopback: PerFamily::default(),
            gateway: true,
            guest_addr: PerFamily::default(),
            closed_host: PerFamily::default(),
        },
        freebind: false,
        ports: PortOptions {
            tcp_in: Ports::None,
            udp_in: Ports::None,
            tcp_out: Ports::None,
            udp_out: Ports::None,
        },
        custom: Custom::default(),
        starter: Starter::default(),
        warnings: Vec::new(),
        hints: Vec::new(),
    }
}
