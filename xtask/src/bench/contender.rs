//! Who is measured, and how each gives a guest its network.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use passt_tests::{
    FAR4, FAR6, GATEWAY4, GATEWAY6, Guest, Launch, Machine, Net, Newest, Ns, Place, Process, User,
    eventually, find_program, program_path, uml,
};
use serde::{Deserialize, Serialize};

use super::scenario::{Family, Kind, Path, Scenario, Section};
use super::translator::family;

/// Has passt share a virtual machine's memory.
const VHOST_USER: &str = "--vhost-user";

/// One of those compared.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The program; None if the kernel does it alone.
    pub(crate) program: Option<Program>,
    /// Whether its passt can share a virtual machine's memory.
    has_vhost_user: bool,
}

/// A build of pasta and passt, or another translator.
#[derive(Clone)]
pub(crate) enum Program {
    /// By its path, that of pasta; passt lies beside it.
    File(PathBuf),
    /// Of a package that is not installed.
    Newest(Newest),
}

impl Program {
    /// The command line of pasta, or of another translator, as far as the options.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Newest(newest) => format!("{} {}", newest.loader("pasta"), newest.program().display()),
        }
    }

    /// Whether it has a build for virtual machines.
    fn has_passt(&self) -> bool {
        match self {
            Self::File(path) => path.with_file_name("passt").is_file(),
            Self::Newest(_) => true,
        }
    }

    /// Has `launch` start it as `pasta` or `passt`.
    fn launch<'n>(&self, launch: Launch<'n>, name: &str) -> Launch<'n> {
        match self {
            Self::File(path) if name == "pasta" => launch.program(path),
            Self::File(path) => launch.program(&path.with_file_name(name)),
            Self::Newest(newest) => launch.through(&newest.loader(name)).program(&newest.program()),
        }
    }
}

/// What its figures stand for in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// This program.
    Ours,
    /// The newest C program, or any build with its command line.
    C,
    /// The C program that this machine's distribution has.
    Installed,
    /// Another translator.
    Slirp,
    /// This program by the other's name.
    Replaced,
    /// The least that a program between two sockets can do.
    Bare,
    /// The kernel alone, over a veth.
    Veth,
    /// The kernel alone, within the host.
    Loopback,
}

impl Role {
    /// Whether no translator can be expected to be faster.
    pub(crate) fn is_kernel(self) -> bool {
        matches!(self, Self::Veth | Self::Loopback)
    }
}

/// Ours, the newest C program, those named, those found, and the kernel alone.
pub(crate) fn find(net: &Net, named: &[Contender]) -> Vec<Contender> {
    let new = Contender::new;
    let found = |program| find_program(program).map(Program::File);
    let mut all = vec![new("ours", Role::Ours, Some(Program::File(net.dir().join("pasta"))))];
    match Newest::install(net.dir()) {
        Ok(newest) => all.push(new("C", Role::C, Some(Program::Newest(newest)))),
        Err(error) => eprintln!("Without the newest C program: {error:#}"),
    }
    all.extend(named.iter().map(|peer| new(&peer.name, Role::C, peer.program.clone())));
    all.extend(found("pasta").map(|program| new("C installed", Role::Installed, Some(program))));
    all.extend(found("slirp4netns").map(|program| new("slirp4netns", Role::Slirp, Some(program))));
    let replaced = Program::File(program_path("slirp4netns"));
    all.push(new("ours for it", Role::Replaced, Some(replaced)));
    let without_program = [("bare proxy", Role::Bare), ("veth", Role::Veth), ("loopback", Role::Loopback)];
    all.extend(without_program.map(|(name, role)| new(name, role, None)));
    all
}

impl Contender {
    fn new(name: &str, role: Role, program: Option<Program>) -> Self {
        Self { name: name.to_owned(), role, program, has_vhost_user: false }
    }

    /// Starts its passt with vhost-user to see whether it has that; says so if it has not.
    pub(crate) fn try_vhost_user(&mut self, net: &Net) {
        if matches!(self.role, Role::Slirp | Role::Replaced) {
            return;
        }
        let Some(program) = self.program.as_ref().filter(|program| program.has_passt()) else { return };
        match program.launch(net.passt(User::Normal), "passt").with(VHOST_USER).try_listen("socket") {
            Ok(_passt) => self.has_vhost_user = true,
            Err(said) => {
                let reason = said.lines().next().unwrap_or_default();
                eprintln!("{} is left out where a machine's memory is shared: {reason}", self.name);
            }
        }
    }

    /// A build of pasta, given as `NAME=PATH`.
    pub(crate) fn named(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("--peer takes NAME=PATH")?;
        let path = std::path::absolute(path)?;
        path.metadata().with_context(|| text.to_owned())?;
        Ok(Self::new(name, Role::C, Some(Program::File(path))))
    }

    /// Whether it can do this at all, with the setting that is made here.
    pub(crate) fn takes_part(&self, scenario: &Scenario) -> bool {
        let section = scenario.section();
        match self.role {
            Role::Ours | Role::C | Role::Installed => match section {
                Section::Stream => self.program.as_ref().is_some_and(Program::has_passt),
                _ => !section.is_vhost_user() || self.has_vhost_user,
            },
            Role::Slirp | Role::Replaced => match section {
                Section::Tcp | Section::Udp => scenario.family == Family::V4 && scenario.held == 0,
                Section::Cost => matches!(scenario.kind, Kind::IdleRss | Kind::IdlePss | Kind::IdleWakeups),
                Section::Bypass | Section::Stream | Section::VhostUser | Section::Driver => false,
            },
            Role::Veth => matches!(section, Section::Tcp | Section::Udp) && scenario.held == 0,
            Role::Bare | Role::Loopback => section == Section::Bypass,
        }
    }

    /// Connects a new guest and waits until its network is there. A server on
    /// a loopback interface will have this port.
    pub(crate) fn connect(&self, net: &Net, scenario: &Scenario, port: u16) -> Inside {
        match (&self.program, self.role) {
            (None, Role::Loopback) => Inside::Host,
            (None, Role::Bare) => Inside::bare(net, scenario, port),
            (None, _) => Inside::veth(net, scenario),
            (Some(program), Role::Slirp | Role::Replaced) => {
                Inside::slirp(net, &program.line(), scenario.mtu)
            }
            (Some(program), _) if scenario.path == Path::Machine => Inside::passt(net, program, scenario.mtu),
            (Some(program), _) if scenario.path == Path::SharedMemory => {
                Inside::vhost_user(net, program, scenario.mtu)
            }
            (Some(program), _) if scenario.path == Path::Driver => {
                Inside::Driver(Inside::passt_for_vhost_user(net, program, scenario.mtu))
            }
            (Some(program), _) => {
                let ports = match scenario.path {
                    Path::LoopbackOut => format!("-t none -T {port}"),
                    Path::LoopbackIn => format!("-t {port} -T none"),
                    Path::Far | Path::Local | Path::Machine | Path::SharedMemory | Path::Driver => {
                        "-t none -T none".to_owned()
                    }
                };
                let ports = match scenario.kind {
                    Kind::IdleDetecting => String::new(),
                    _ => format!("{ports} -u none -U none"),
                };
                let options = format!("--config-net --mtu {} {ports}", scenario.mtu);
                Inside::Pasta(program.launch(net.pasta(User::Normal), "pasta").with(&options).start())
            }
        }
    }
}

/// A guest with its network. Both end with it.
pub(crate) enum Inside {
    /// Namespace and network are the program's.
    Pasta(Guest),
    /// The program serves a stand-in for a virtual machine.
    Passt(Process, Machine),
    /// The program serves a virtual machine by vhost-user.
    VhostUser(Process, uml::Guest),
    /// The program serves a driver by vhost-user, which comes with the traffic.
    Driver(Process),
    /// The program runs for a namespace made before.
    Slirp(Process, Ns),
    /// The program only passes on what it reads.
    Bare(Process, Ns),
    /// One veth from the guest to where the server is.
    Veth(Ns),
    /// No guest: what it does is done on the host.
    Host,
}

/// The server's end of a veth, and the host as slirp4netns shows it.
const NEAR_END4: &str = "10.0.2.2";
/// The server's end of a veth.
const NEAR_END6: &str = "fd00::2";
/// The guest's address, but for pasta's guests.
const GUEST4: &str = "10.0.2.100";
/// The guest's address on a veth.
const GUEST6: &str = "fd00::100";

impl Inside {
    fn passt(net: &Net, program: &Program, mtu: u32) -> Self {
        let options = format!("--mtu {mtu} -t none -u none");
        let passt = program.launch(net.passt(User::Normal), "passt").with(&options).listen("socket");
        let machine = Machine::start(net, &net.dir().join("socket"), mtu);
        machine.configure();
        Self::Passt(passt, machine)
    }

    fn vhost_user(net: &Net, program: &Program, mtu: u32) -> Self {
        let passt = Self::passt_for_vhost_user(net, program, mtu);
        let guest = uml::boot(net, "guest", "socket").expect("user-mode Linux");
        guest.configure();
        Self::VhostUser(passt, guest)
    }

    fn passt_for_vhost_user(net: &Net, program: &Program, mtu: u32) -> Process {
        let options = format!("{VHOST_USER} --mtu {mtu} -t none -u none");
        program.launch(net.passt(User::Normal), "passt").with(&options).listen("socket")
    }

    fn slirp(net: &Net, program: &str, mtu: u32) -> Self {
        let guest = net.empty_guest();
        let path = format!("/run/netns/{}", guest.name());
        let line = format!("{program} --configure --mtu={mtu} --netns-type=path {path} tap0");
        let slirp = net.host.start(&line);
        eventually("slirp4netns configures the guest", || {
            guest.run("ip -4 -o addr").contains(GUEST4).then_some(())
        });
        Self::Slirp(slirp, guest)
    }

    fn bare(net: &Net, scenario: &Scenario, port: u16) -> Self {
        let guest = net.empty_guest();
        let is_out = scenario.path == Path::LoopbackOut;
        let (here, there) = if is_out { (&net.host, &guest) } else { (&guest, &net.host) };
        let address = match scenario.family {
            Family::V4 => format!("127.0.0.1:{port}"),
            Family::V6 => format!("[::1]:{port}"),
        };
        let means = if scenario.kind.is_bulk() { "splice" } else { "proxy" };
        let mut proxy = here.start_peer(&format!("{means} {} {address}", there.name()));
        proxy.wait_for("LISTENING");
        Self::Bare(proxy, guest)
    }

    fn veth(net: &Net, scenario: &Scenario) -> Self {
        let near = if scenario.path == Path::Far { &net.peer } else { &net.host };
        let (guest, mtu) = (net.empty_guest(), scenario.mtu);
        let peer = format!("peer name guest0 mtu {mtu} netns {}", near.name());
        guest.ip(&format!("link add eth0 mtu {mtu} type veth {peer}"));
        for (ns, link, v4, v6) in [(&guest, "eth0", GUEST4, GUEST6), (near, "guest0", NEAR_END4, NEAR_END6)] {
            ns.ip(&format!("addr add {v4}/24 dev {link}"));
            ns.ip(&format!("addr add {v6}/64 dev {link} nodad"));
            ns.ip(&format!("link set {link} up"));
        }
        Self::Veth(guest)
    }

    /// Where the guest's programs run.
    pub(crate) fn guest<'a>(&'a self, net: &'a Net) -> &'a dyn Place {
        match self {
            Self::Pasta(guest) => guest,
            Self::Passt(_, machine) => machine,
            Self::VhostUser(_, guest) => guest,
            Self::Slirp(_, guest) | Self::Bare(_, guest) | Self::Veth(guest) => guest,
            Self::Driver(_) | Self::Host => &net.host,
        }
    }

    /// The address at which the client finds the server.
    pub(crate) fn server_address(&self, path: Path, family: Family) -> &'static str {
        let [v4, v6] = match (self, path) {
            (_, Path::LoopbackOut | Path::LoopbackIn) => ["127.0.0.1", "::1"],
            (Self::Veth(_), _) | (Self::Slirp(..), Path::Local) => [NEAR_END4, NEAR_END6],
            (_, Path::Local) => [GATEWAY4, GATEWAY6],
            (_, Path::Far | Path::Machine | Path::SharedMemory | Path::Driver) => [FAR4, FAR6],
        };
        if family == Family::V4 { v4 } else { v6 }
    }

    /// The process that translates.
    pub(crate) fn translator(&self) -> Option<u32> {
        match self {
            Self::Pasta(guest) => Some(guest.pasta.pid()),
            Self::Passt(program, _)
            | Self::VhostUser(program, _)
            | Self::Driver(program)
            | Self::Slirp(program, _)
            | Self::Bare(program, _) => Some(program.pid()),
            Self::Veth(_) | Self::Host => None,
        }
    }

    /// The processes that are the guest's network device, or the whole guest.
    pub(crate) fn devices(&self) -> Vec<u32> {
        match self {
            Self::Passt(_, machine) => vec![machine.device.pid()],
            Self::VhostUser(_, guest) => family(guest.machine.pid()),
            _ => Vec::new(),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Self::Veth(guest) = self {
            // A namespace's end takes its links with it, but later.
            guest.ip("link del eth0");
        }
    }
}
