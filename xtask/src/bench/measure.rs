//! One run of one scenario with one contender: traffic, and what it costs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};

use passt_tests::transfer::at;
use passt_tests::{Net, Place, Process};
use serde_json::Value;

use super::contender::{Contender, Inside};
use super::cost;
use super::report::{Outcome, Sample};
use super::scenario::{Family, Kind, Load, Path, Scenario};
use super::translator::{Translator, machine_cpu_seconds};

/// Beyond its proper time, how long a run may take to begin and end, in seconds.
const PATIENCE: u32 = 6;
/// Seconds for which system calls are counted, apart from what is timed.
const TRACED: u32 = 1;
/// `timeout`'s exit code for a command that it ended; busybox has that of the signal.
const TIMED_OUT: [i32; 2] = [124, 128 + 15];

/// One contender's turn.
pub(crate) struct Turn<'a> {
    pub(crate) net: &'a Net,
    pub(crate) scenario: &'a Scenario,
    pub(crate) contender: &'a Contender,
    /// How long to measure.
    pub(crate) seconds: u32,
    /// Which one it is of this scenario's with this contender, from 0.
    pub(crate) round: usize,
}

impl Turn<'_> {
    /// Connects a guest, measures, and says how that went. Panics if the guest
    /// can't be connected or the server not started.
    pub(crate) fn measure(&self) -> Outcome {
        let result = match self.scenario.kind {
            Kind::StartCommand => cost::start_command(self),
            Kind::StartBackground => cost::start_background(self),
            Kind::IdleRss | Kind::IdlePss | Kind::IdleWakeups | Kind::IdleDetecting => cost::idle(self),
            Kind::Flows => cost::flows(self),
            _ => traffic(self),
        };
        result.map_or_else(Outcome::Failed, Outcome::Done)
    }
}

fn traffic(turn: &Turn<'_>) -> Result<Sample, String> {
    let Turn { net, scenario, .. } = *turn;
    let port = new_port();
    let inside = turn.contender.connect(net, scenario, port);
    let places: [&dyn Place; 3] = [inside.guest(net), &net.host, &net.peer];
    for place in places {
        place.sysctl(&format!("net.ipv4.tcp_congestion_control={}", scenario.control));
    }
    let ends = Ends::new(net, &inside, scenario, port);
    let translator = Translator::of(&inside);
    if scenario.kind.is_rr() {
        translator.iter().flat_map(Translator::processes).for_each(|pid| pin(*pid, &net.host));
    }
    if scenario.path == Path::Driver {
        // A driver has the last CPU, and all else the others: where the scheduler places them decides
        // otherwise.
        let others = others(&net.host);
        translator.iter().flat_map(Translator::processes).for_each(|pid| pin_to(*pid, &others));
    }
    if scenario.kind.is_rr() || scenario.path == Path::SharedMemory {
        // A machine has one CPU. Its kernel and its programs are processes that wait for each other:
        // between two CPUs that takes longer than all else.
        inside.devices().into_iter().for_each(|pid| pin(pid, &net.host));
    }
    let crowd = ends.crowd(scenario.held)?;
    // Several streams share their time with one. The second to go may find warmer memory: they take
    // turns.
    let shared = scenario.streams > 1;
    let seconds = if shared { (turn.seconds / 2).max(1) } else { turn.seconds };
    let one = || shared.then(|| ends.streams(scenario, 1, seconds)).transpose();
    let is_first = turn.round.is_multiple_of(2);
    let mut alone = if is_first { one()? } else { None };

    let cpu = || translator.as_ref().map(Translator::cpu_seconds);
    let before = (cpu(), places.map(counters), machine_cpu_seconds());
    let moved = ends.transfer(scenario, seconds)?;
    let used = cpu().zip(before.0).map(|(after, before)| after - before);
    let spent = machine_cpu_seconds() - before.2;
    let after = places.map(counters);
    let [guest, host, peer] = &std::array::from_fn(|i| change(&before.1[i], &after[i]));
    if !is_first {
        alone = one()?;
    }
    let traced =
        translator.filter(|_| turn.round == 0).map(|it| it.system_calls(|| ends.transfer(scenario, TRACED)));
    drop(crowd);

    let unit = if scenario.kind.is_bulk() { 1e3 } else { 1e6 };
    let is_tcp = !scenario.kind.is_udp();
    Ok(Sample {
        value: moved.rate,
        cpu: used.map(|used| used / moved.amount),
        part: used.map(|used| used / spent),
        of_one: alone.map(|one| moved.rate / one.rate),
        system_calls: traced.and_then(|(calls, moved)| Some(calls / moved.ok()?.amount / unit)),
        resent: is_tcp.then(|| share(guest, &["RetransSegs", "TCPOFOQueue", "TCPDSACKOldSent"])),
        resent_beyond: is_tcp.then(|| share(host, &["RetransSegs"]).max(share(peer, &["RetransSegs"]))),
        lost: moved.lost,
    })
}

/// What went through.
struct Moved {
    /// In the scenario's unit.
    rate: f64,
    /// In GB, or in millions of transactions or datagrams.
    amount: f64,
    /// The share of datagrams that did not arrive.
    lost: Option<f64>,
}

/// Two places and how one reaches the other.
pub(crate) struct Ends<'a> {
    client: &'a dyn Place,
    server: &'a dyn Place,
    /// The server's address as the client knows it.
    to: &'static str,
    /// Where the server listens.
    any: &'static str,
    port: u16,
    /// Where passt listens for a driver.
    socket: PathBuf,
}

impl<'a> Ends<'a> {
    /// The ends for a scenario, their kernels prepared for many connections.
    pub(crate) fn new(net: &'a Net, inside: &'a Inside, scenario: &Scenario, port: u16) -> Self {
        let guest = inside.guest(net);
        let (client, server): (&dyn Place, &dyn Place) = match scenario.path {
            Path::Far | Path::Machine | Path::SharedMemory | Path::Driver => (guest, &net.peer),
            Path::Local | Path::LoopbackOut => (guest, &net.host),
            Path::LoopbackIn => (&net.host, guest),
        };
        for place in [guest, &net.host, &net.peer] {
            // Enough for all connections of a run, and none where servers listen.
            place.sysctl("net.ipv4.ip_local_port_range=10000 65535");
        }
        server.sysctl("net.core.somaxconn=65535");
        let to = inside.server_address(scenario.path, scenario.family);
        let any = match scenario.family {
            // A reply has its socket's address if that is bound.
            _ if scenario.kind.is_udp() => to,
            Family::V4 => "0.0.0.0",
            Family::V6 => "::",
        };
        Self { client, server, to, any, port, socket: net.dir().join("socket") }
    }

    fn transfer(&self, scenario: &Scenario, seconds: u32) -> Result<Moved, String> {
        match scenario.kind {
            Kind::TcpRr => self.transactions("rr-serve", "rr", seconds),
            Kind::TcpCrr => self.transactions("rr-serve", "crr", seconds),
            Kind::UdpRr => self.transactions("udp-serve", "udp-rr", seconds),
            Kind::UdpOut => self.datagrams(false, scenario.load, seconds),
            Kind::UdpIn => self.datagrams(true, scenario.load, seconds),
            _ if scenario.path == Path::Driver => self.driver(scenario, seconds),
            _ => self.streams(scenario, scenario.streams, seconds),
        }
    }

    /// Streams of iperf3.
    fn streams(&self, scenario: &Scenario, count: u32, seconds: u32) -> Result<Moved, String> {
        // By the loopback both directions are from client to server.
        let to_client = scenario.kind == Kind::TcpIn && !scenario.path.is_loopback();
        let Self { to, port, .. } = self;
        let mut server = self.server.start(&format!("iperf3 -s -1 -p {port} --forceflush"));
        server.wait_for("Server listening");
        let mut client = within(self.client, seconds, "iperf3");
        client.args(format!("-J -c {to} -p {port} -t {seconds} -P {count}").split(' '));
        let output = finish(client.args(to_client.then_some("-R")))?;
        let result: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let received = &result["end"]["sum_received"];
        match (received["bits_per_second"].as_f64(), received["bytes"].as_f64()) {
            (Some(rate), Some(bytes)) if bytes > 0.0 => {
                Ok(Moved { rate: rate / 1e9, amount: bytes / 1e9, lost: None })
            }
            _ => Err(result["error"].as_str().unwrap_or("moved nothing").to_owned()),
        }
    }

    /// The transfer helper as a driver, which has a CPU of its own as a machine has.
    fn driver(&self, scenario: &Scenario, seconds: u32) -> Result<Moved, String> {
        let (at_server, server) = (at(self.any, self.port), self.server.peer_path());
        let pinned = format!("taskset -c {} {}", others(self.server), server.display());
        let mut server: Process = self.server.start(&format!("{pinned} serve {at_server}"));
        server.wait_for("LISTENING");
        let mut client = within(self.client, seconds, "taskset");
        client.env("RUST_BACKTRACE", "0");
        client.args(["-c", &self.client.last_cpu().to_string()]).arg(self.client.peer_path());
        let direction = if scenario.kind == Kind::TcpIn { "in" } else { "out" };
        client.arg("driver").arg(&self.socket).args([direction, &at(self.to, self.port)]);
        client.args([scenario.mtu.to_string(), seconds.to_string()]);
        let (bytes, elapsed) = numbers(&String::from_utf8_lossy(&finish(&mut client)?.stdout));
        if bytes == 0.0 {
            return Err("moved nothing".to_owned());
        }
        Ok(Moved { rate: bytes * 8.0 / elapsed / 1e9, amount: bytes / 1e9, lost: None })
    }

    /// The transfer helper's requests and responses, its two ends on one CPU:
    /// on two, what is measured is how the scheduler places them.
    fn transactions(&self, serve: &str, ask: &str, seconds: u32) -> Result<Moved, String> {
        let (at_server, server) = (at(self.any, self.port), self.server.peer_path());
        let pinned = format!("taskset -c {} {}", self.server.last_cpu(), server.display());
        let mut server: Process = self.server.start(&format!("{pinned} {serve} {at_server}"));
        server.wait_for("LISTENING");
        let mut client = within(self.client, seconds, "taskset");
        client.args(["-c", &self.client.last_cpu().to_string()]).arg(self.client.peer_path());
        client.args([ask, &at(self.to, self.port), &seconds.to_string()]);
        let (count, elapsed) = numbers(&String::from_utf8_lossy(&finish(&mut client)?.stdout));
        if count == 0.0 {
            return Err("no transaction".to_owned());
        }
        Ok(Moved { rate: count / elapsed, amount: count / 1e6, lost: None })
    }

    /// The transfer helper's datagrams, counted where they arrive.
    fn datagrams(&self, to_client: bool, load: Load, seconds: u32) -> Result<Moved, String> {
        let at_server = at(self.any, self.port);
        let load = format!("{seconds} {} {}", load.segments(), load.rate());
        let (serve, ask) = if to_client {
            (format!("udp-source {at_server} {load}"), "udp-fetch")
        } else {
            (format!("udp-sink {at_server}"), "udp-send")
        };
        let mut server = self.server.start_peer(&serve);
        server.wait_for("LISTENING");
        let mut client = within(self.client, seconds, &self.client.peer_path().to_string_lossy());
        client.args([ask, &at(self.to, self.port)]);
        client.args(load.split(' ').filter(|_| !to_client));
        let at_client = String::from_utf8_lossy(&finish(&mut client)?.stdout).into_owned();
        let at_server = server.finish().stdout;
        let [(sent, _), (received, elapsed)] =
            if to_client { [&at_server, &at_client] } else { [&at_client, &at_server] }
                .map(|text| numbers(text));
        if received == 0.0 {
            return Err("no datagram".to_owned());
        }
        Ok(Moved { rate: received / elapsed, amount: received / 1e6, lost: Some(1.0 - received / sent) })
    }

    /// Idle connections, and who serves them. They end with the values. Fails
    /// if not all can be had.
    pub(crate) fn crowd(&self, count: u32) -> Result<[Process; 2], String> {
        let port = new_port();
        let mut server = self.server.start_peer(&format!("crowd-serve {}", at(self.any, port)));
        server.wait_for("LISTENING");
        let mut client = self.client.start_peer(&format!("crowd {} {count}", at(self.to, port)));
        let line = client.wait_for("CROWDED");
        match line.split_whitespace().nth(1).and_then(|opened| opened.parse::<u32>().ok()) {
            Some(opened) if opened == count => Ok([client, server]),
            opened => Err(format!("only {} connections", opened.unwrap_or(0))),
        }
    }
}

/// A port for each run: thousands of closed connections still wait on the last.
pub(crate) fn new_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(5201);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A command that is ended when it takes much longer than `seconds`.
fn within(place: &dyn Place, seconds: u32, program: &str) -> Command {
    let mut command = place.command("timeout");
    command.args(["-k", "1", &(seconds + PATIENCE).to_string(), program]);
    command
}

fn finish(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.code() {
        Some(0) => Ok(output),
        Some(code) if TIMED_OUT.contains(&code) => Err("stalled".to_owned()),
        _ => {
            let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().last().unwrap_or("failed");
            Err(result["error"].as_str().unwrap_or(last).to_owned())
        }
    }
}

/// A count and the seconds it took, as the transfer helper prints them.
fn numbers(text: &str) -> (f64, f64) {
    let mut numbers = text.split_whitespace().flat_map(str::parse);
    (numbers.next().unwrap_or(0.0), numbers.next().unwrap_or(1.0))
}

/// Has a process run on the CPU for transactions.
fn pin(pid: u32, place: &dyn Place) {
    pin_to(pid, &place.last_cpu().to_string());
}

/// Has a process run on some CPUs, as taskset(1) writes them.
fn pin_to(pid: u32, cpus: &str) {
    let mut pin = Command::new("taskset");
    drop(pin.args(["-a", "-p", "-c", cpus, &pid.to_string()]).output());
}

/// All CPUs but the last, if there are others.
fn others(place: &dyn Place) -> String {
    format!("0-{}", place.last_cpu().saturating_sub(1))
}

type Counters = HashMap<String, f64>;

/// The TCP counters of a namespace's kernel.
fn counters(place: &dyn Place) -> Counters {
    let text = place.run("cat /proc/net/snmp /proc/net/netstat");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Tcp")).collect();
    let pairs = lines.chunks(2).flat_map(|lines| {
        let [names, values] = [0, 1].map(|row| lines.get(row).map_or("", |line| line).split_whitespace());
        names.zip(values)
    });
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

fn change(before: &Counters, after: &Counters) -> Counters {
    after.iter().map(|(name, value)| (name.clone(), value - before.get(name).unwrap_or(&0.0))).collect()
}

/// What some counters count, as a part of the segments that the namespace sent or
/// received, whichever are more.
fn share(change: &Counters, names: &[&str]) -> f64 {
    let count = |name| change.get(name).copied().unwrap_or(0.0);
    names.iter().copied().map(count).sum::<f64>() / count("OutSegs").max(count("InSegs")).max(1.0)
}
