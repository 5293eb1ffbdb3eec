//! The control socket: rules of running programs are changed and shown, by this project's tools and
//! by the C program's, as Podman and `RootlessKit` do it; and what clients may do to the server.
#![expect(clippy::disallowed_methods, reason = "real programs live in real time")]

mod callers;
mod clients;
mod late;
mod looking;
mod model;

use std::path::{Path, PathBuf};

use passt_control::client::Client;
use passt_control::reply::{Answer, Changed};
use passt_control::request::{Change, Changes, Request};
use passt_control::{Protocol, Rule, Side};
use passt_tests::{Finished, Guest, Net, Place as _, Process, User};

/// A pasta with a control socket, and what is around it.
pub(crate) struct Served {
    pub(crate) guest: Guest,
    pub(crate) net: Net,
    pub(crate) socket: PathBuf,
}

/// Starts pasta with a control socket.
pub(crate) fn start(options: &str) -> Option<Served> {
    let net = Net::new()?;
    let socket = net.dir().join("pasta.sock");
    let launch = net.pasta(User::Normal).with("--config-net -c").with(&socket.display().to_string());
    let guest = launch.with(options).start();
    Some(Served { guest, net, socket })
}

/// No port is forwarded at first.
pub(crate) const QUIET: &str = "-t none -u none -T none -U none";

impl Served {
    /// Runs pesto as the user that pasta was started by, with the socket's path behind its options.
    pub(crate) fn pesto(&self, options: &str) -> Finished {
        self.start_tool("pesto", options).finish()
    }

    /// Runs it to its success, with nothing on standard error; returns its output.
    pub(crate) fn pesto_succeeds(&self, options: &str) -> String {
        let finished = self.pesto(options);
        assert!(finished.status.success() && finished.stderr.is_empty(), "{options}: {finished:?}");
        finished.stdout
    }

    /// Starts a tool.
    pub(crate) fn start_tool(&self, name: &str, options: &str) -> Process {
        let tool = self.net.tool(name);
        let id = User::NORMAL_ID;
        let line = format!(
            "setpriv --reuid={id} --regid={id} --clear-groups {} {options} {}",
            tool.display(),
            self.socket.display()
        );
        self.net.host.start(&line)
    }

    /// A client in this process.
    pub(crate) fn client(&self) -> Client {
        connect(&self.socket)
    }

    /// What happens when the host's namespace connects there.
    pub(crate) fn connect(&self, to: &str) -> String {
        self.net.host.peer(&format!("connect {to}"))
    }
}

/// A client of a server that speaks in messages.
pub(crate) fn connect(socket: &Path) -> Client {
    Client::connect(socket).expect("a server")
}

/// A rule for a port of the host, on any address.
pub(crate) fn port(protocol: Protocol, port: u16, to: u16) -> Rule {
    Rule {
        side: Side::Host,
        protocol,
        address: None,
        interface: None,
        first: port,
        last: Some(port),
        to: Some(to),
        target: None,
        weak: false,
        auto: false,
    }
}

/// Makes changes as one transaction.
pub(crate) fn change(client: &mut Client, changes: Vec<Change>, partial: bool) -> Changed {
    match client.ask(Request::Change(Changes { changes, more: false, partial })) {
        Ok(Answer::Changed(changed)) => changed,
        other => panic!("{other:?}"),
    }
}

/// All rules.
pub(crate) fn rules(client: &mut Client) -> Vec<Rule> {
    client.rules().expect("rules").into_iter().map(|now| now.rule).collect()
}

/// Numbers that look random, the same in each run (Marsaglia's xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % limit
    }
}
