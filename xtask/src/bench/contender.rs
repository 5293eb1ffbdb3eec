//! Who is measured, and how each gives a guest its network.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use passt_tests::{FAR4, GATEWAY4, Guest, Net, Ns, Place, Process, User, eventually, find_program};
use serde::{Deserialize, Serialize};

use super::scenario::{Scenario, Server};

/// One of those compared.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The program; None if the kernel does it alone.
    pub(crate) program: Option<PathBuf>,
}

/// What its figures stand for in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// This program.
    Ours,
    /// A build of the C program, or any with its command line.
    C,
    /// Another translator.
    Slirp,
    /// The kernel alone.
    Ceiling,
}

/// Ours, those named, those found, and the kernel alone.
pub(crate) fn find(net: &Net, named: &[Contender]) -> Vec<Contender> {
    let new = |name: &str, role, program| Contender { name: name.to_owned(), role, program };
    let mut all = vec![new("ours", Role::Ours, Some(net.dir().join("pasta")))];
    all.extend(find_program("pasta").map(|path| new("C", Role::C, Some(path))));
    all.extend(named.iter().map(|peer| new(&peer.name, Role::C, peer.program.clone())));
    all.extend(find_program("slirp4netns").map(|path| new("slirp4netns", Role::Slirp, Some(path))));
    all.push(new("veth", Role::Ceiling, None));
    all
}

impl Contender {
    /// A build of pasta, given as `NAME=PATH`.
    pub(crate) fn named(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("--peer takes NAME=PATH")?;
        let path = std::path::absolute(path)?;
        path.metadata().with_context(|| text.to_owned())?;
        Ok(Self { name: name.to_owned(), role: Role::C, program: Some(path) })
    }

    /// Connects a new guest and waits until its network is there.
    pub(crate) fn connect(&self, net: &Net, scenario: &Scenario) -> Inside {
        let mtu = scenario.mtu;
        match (&self.program, self.role) {
            (None, _) => Inside::veth(net, mtu, scenario.server),
            (Some(program), Role::Slirp) => Inside::slirp(net, program, mtu),
            (Some(program), _) => {
                let options = format!("--config-net --mtu {mtu} -t none -u none -T none -U none");
                Inside::Pasta(net.pasta(User::Normal).program(program).with(&options).start())
            }
        }
    }
}

/// A guest with its network. Both end with it.
pub(crate) enum Inside {
    /// Namespace and network are the program's.
    Pasta(Guest),
    /// The program runs for a namespace made before.
    Slirp(Process, Ns),
    /// One veth from the guest to where the server is.
    Veth(Ns),
}

/// The server's end of a veth, and the host as slirp4netns shows it.
const NEAR_END: &str = "10.0.2.2";
/// The guest's address, but for pasta's guests.
const GUEST: &str = "10.0.2.100";

impl Inside {
    fn slirp(net: &Net, program: &Path, mtu: u32) -> Self {
        let guest = net.empty_guest();
        let path = format!("/run/netns/{}", guest.name());
        let program = program.display();
        let line = format!("{program} --configure --mtu={mtu} --netns-type=path {path} tap0");
        let slirp = net.host.start(&line);
        eventually("slirp4netns configures the guest", || {
            guest.run("ip -4 -o addr").contains(GUEST).then_some(())
        });
        Self::Slirp(slirp, guest)
    }

    fn veth(net: &Net, mtu: u32, server: Server) -> Self {
        let near = if server == Server::Far { &net.peer } else { &net.host };
        let guest = net.empty_guest();
        let peer = format!("peer name guest0 mtu {mtu} netns {}", near.name());
        guest.ip(&format!("link add eth0 mtu {mtu} type veth {peer}"));
        for (ns, link, address) in [(&guest, "eth0", GUEST), (near, "guest0", NEAR_END)] {
            ns.ip(&format!("addr add {address}/24 dev {link}"));
            ns.ip(&format!("link set {link} up"));
        }
        Self::Veth(guest)
    }

    /// Where the guest's programs run.
    pub(crate) fn place(&self) -> &dyn Place {
        match self {
            Self::Pasta(guest) => guest,
            Self::Slirp(_, guest) | Self::Veth(guest) => guest,
        }
    }

    /// The address at which the guest finds the server.
    pub(crate) fn address_of(&self, server: Server) -> &'static str {
        match (self, server) {
            (Self::Veth(_), _) | (Self::Slirp(..), Server::Local) => NEAR_END,
            (Self::Pasta(_), Server::Local) => GATEWAY4,
            (_, Server::Far) => FAR4,
        }
    }

    /// The process that translates.
    pub(crate) fn translator(&self) -> Option<u32> {
        match self {
            Self::Pasta(guest) => Some(guest.pasta.pid()),
            Self::Slirp(slirp, _) => Some(slirp.pid()),
            Self::Veth(_) => None,
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
