//! One row: its namespaces, its traffic without the program under test, and what a guest has.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use passt_tests::{Guest, Net, Place as _, Process, User, eventually_within};

use crate::End;
use crate::look;
use crate::row::{Base, Family, HOST_V4, HOST_V6, LINK, PRELUDE, Row};
use crate::traffic::{Outcome, Protocol, Server, at};

/// The port that is forwarded to the guest.
const INSIDE: u16 = 7001;
/// The peer's port.
const OUTSIDE: u16 = 5001;
/// The port of the host, with which the guest's is compared.
const COMPARED: u16 = 7002;
/// A port of the host's loopback.
const LOOPBACK: u16 = 7003;

/// How long host and peer may take to reach each other.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tries a row.
pub(crate) fn row(row: &Row) -> End {
    if let Some(kind) = row.needs.iter().find(|kind| !knows(kind)) {
        return End::Skipped(format!("the kernel has no links of type {kind}"));
    }
    let Some(net) = Net::isolated() else { return End::Skipped("no namespaces".into()) };
    set_up(&net, row);
    let rig = Rig::new(&net, row);
    let (there, here) = rig.without_guest();
    let options = format!("--debug --config-net -t {INSIDE} -u {INSIDE} -T none -U none {}", row.options);
    let guest = net.pasta(User::Normal).with(&options).start();
    let mut faults = look::configuration(&guest, &net.host, row.tap, "-4", row.v4.as_ref());
    faults.extend(look::configuration(&guest, &net.host, row.tap, "-6", row.v6.as_ref()));
    faults.extend(mtu(&guest, row));
    rig.with_guest(&guest, &there, &here, &mut faults);
    if faults.is_empty() { End::Good } else { End::Bad(faults) }
}

/// Whether the kernel can make links of a kind, tried in a namespace that ends with the command.
fn knows(kind: &str) -> bool {
    let link = match kind {
        "vlan" => "link parent name x type vlan id 9",
        "macvlan" => "link parent name x type macvlan",
        kind => &format!("name x type {kind}"),
    };
    let make = format!("ip link add parent type veth && ip link add {link}");
    let mut command = Command::new("unshare");
    Process::start(command.args(["--net", "sh", "-c", &make])).finish().status.success()
}

fn set_up(net: &Net, row: &Row) {
    let base: &[&str] = match row.base {
        Base::Nothing => &[],
        Base::Link => &[LINK],
        Base::V4 => &[LINK, HOST_V4],
        Base::V6 => &[LINK, HOST_V6],
        Base::Both => &[LINK, HOST_V4, HOST_V6],
    };
    let script = format!("set -e\n{PRELUDE}{}{}\nsettle", base.concat(), row.setup);
    let mut command = net.host.command("env");
    command.arg(format!("PEER={}", net.peer.name())).args(["sh", "-c", &script]);
    let finished = Process::start(&mut command).finish();
    assert!(finished.status.success(), "setup: {}", finished.stderr);
}

/// The guest's MTU is the largest whatever the host's is.
fn mtu(guest: &Guest, row: &Row) -> Option<String> {
    let link = guest.run(&format!("ip -o link show dev {}", row.tap));
    (!link.contains(" mtu 65520 ")).then(|| format!("link: {link}"))
}

/// What is tried between the namespaces of a row.
struct Rig<'r> {
    host: PathBuf,
    peer: PathBuf,
    /// Pairs of an address of the peer and a server at it.
    servers: Vec<(&'static str, Server)>,
    near: Vec<&'static str>,
    own: Vec<&'static str>,
    loopback: Vec<&'static str>,
    /// Addresses that stand for the host's loopback.
    gateways: Vec<&'static str>,
    row: &'r Row,
}

/// Whom servers saw, in the order of the addresses of a [`Rig`].
type Seen = Vec<IpAddr>;

impl<'r> Rig<'r> {
    fn new(net: &Net, row: &'r Row) -> Self {
        let path = |name: &str| Path::new("/run/netns").join(name);
        let (host, peer) = (path(net.host.name()), path(net.peer.name()));
        let families = || row.v4.iter().chain(&row.v6);
        let all = |list: fn(&Family) -> &'static [&'static str]| families().flat_map(list).copied();
        let servers = all(|f| f.far).map(|far| (far, Server::new(&peer, far, OUTSIDE))).collect();
        let (near, own) = (all(|f| f.near).collect(), all(|f| f.own).collect());
        let ends = [("127.0.0.1", &row.v4), ("::1", &row.v6)];
        let has = |family: &Option<Family>| family.is_some_and(|family| family.loopback);
        let loopback = ends.into_iter().filter(|(_, family)| has(family)).map(|(end, _)| end).collect();
        let gateways = families().map(|f| f.host).filter(|host| !host.is_empty()).collect();
        Self { host, peer, servers, near, own, loopback, gateways, row }
    }

    /// Whom the peer sees where the host is the client, and whom the host sees as server. It is
    /// tried for a while: the first packets after a link came up may be lost.
    fn without_guest(&self) -> (Seen, Seen) {
        let try_on = |what: String, server: &Server, ns: &Path, to: SocketAddr| {
            eventually_within(PATIENCE, &what, || server.exchange(Protocol::Tcp, ns, to).ok())
        };
        let there = self.servers.iter().map(|(far, server)| {
            try_on(format!("the host reaches {far}"), server, &self.host, at(far, OUTSIDE))
        });
        let there = there.collect();
        let server = Server::new(&self.host, "::", COMPARED);
        let here = self
            .near
            .iter()
            .map(|near| try_on(format!("the peer reaches {near}"), &server, &self.peer, at(near, COMPARED)));
        (there, here.collect())
    }

    /// The same with a guest in the host's place, and what only a guest has.
    fn with_guest(&self, guest: &Guest, there: &[IpAddr], here: &[IpAddr], faults: &mut Vec<String>) {
        let inside = PathBuf::from(format!("/proc/{}/ns/net", guest.holder()));
        let server = |address: &str| Server::new(&inside, address, INSIDE);
        for protocol in Protocol::BOTH {
            let mut expect = |what: String, got: Outcome, wanted: &dyn Fn(IpAddr) -> bool| match got {
                Ok(seen) if wanted(seen) => {}
                got => faults.push(format!("{protocol:?} {what}: {got:?}")),
            };
            for ((far, server), seen) in self.servers.iter().zip(there) {
                let got = server.exchange(protocol, &inside, at(far, OUTSIDE));
                expect(format!("guest to {far}, seen as {seen}"), got, &|by| by == *seen);
            }
            for (near, seen) in self.near.iter().zip(here) {
                // By an address that the guest has a client gets through to that one.
                let bound = if self.guest_has(near) { near } else { "::" };
                let got = server(bound).exchange(protocol, &self.peer, at(near, INSIDE));
                expect(format!("peer to {near}, seen as {seen}"), got, &|by| by == *seen);
            }
            for address in self.near.iter().chain(&self.own).chain(&self.loopback) {
                let got = server("::").exchange(protocol, &self.host, at(address, INSIDE));
                expect(format!("host to {address}"), got, &|by| !by.is_loopback());
            }
        }
        self.to_the_host(&inside, faults);
    }

    /// Whether the guest is to have an address.
    fn guest_has(&self, address: &str) -> bool {
        let mut all = self.row.v4.iter().chain(&self.row.v6).flat_map(|family| family.addresses);
        all.any(|own| own.split(['/', ' ']).next() == Some(address))
    }

    /// The gateway's address stands for the host's loopback.
    fn to_the_host(&self, inside: &Path, faults: &mut Vec<String>) {
        for gateway in &self.gateways {
            let address = if gateway.contains(':') { "::1" } else { "127.0.0.1" };
            if !self.loopback.contains(&address) {
                continue;
            }
            let server = Server::new(&self.host, address, LOOPBACK);
            for protocol in Protocol::BOTH {
                let got = server.exchange(protocol, inside, at(gateway, LOOPBACK));
                if got.as_ref().ok().is_none_or(|by| !by.is_loopback()) {
                    faults.push(format!("{protocol:?} guest to the host by {gateway}: {got:?}"));
                }
            }
        }
    }
}
