//! One run of one scenario with one contender.

use std::collections::HashMap;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};

use passt_tests::{Net, Place, Process};
use serde_json::Value;

use super::contender::{Contender, Inside};
use super::report::{Outcome, Sample};
use super::scenario::{Kind, Scenario, Server};

/// Beyond its proper time, how long a run may take to begin and end, in seconds.
const PATIENCE: u32 = 6;
/// Ticks of a second in /proc: the same on all but Alpha.
const USER_HZ: f64 = 100.0;
/// `timeout`'s exit code for a command that it ended.
const TIMED_OUT: i32 = 124;

/// Connects a guest, moves data for `seconds`, and says how that went. Panics
/// if the guest can't be connected or the server not started.
pub(crate) fn measure(net: &Net, scenario: &Scenario, contender: &Contender, seconds: u32) -> Outcome {
    let inside = contender.connect(net, scenario);
    let places: [&dyn Place; 3] = [inside.place(), &net.host, &net.peer];
    for place in places {
        place.sysctl(&format!("net.ipv4.tcp_congestion_control={}", scenario.control));
        // Enough for all connections of a run, and none where servers listen.
        place.sysctl("net.ipv4.ip_local_port_range=10000 65535");
    }
    let translator = Translator::of(&inside);
    let server = if scenario.server == Server::Far { places[2] } else { places[1] };
    let to = inside.address_of(scenario.server);

    let before = (translator.cpu_seconds(), places.map(counters));
    let moved = if scenario.kind.is_bulk() {
        stream(places[0], server, to, scenario.kind == Kind::StreamIn, seconds)
    } else {
        translator.pin(&last_cpu());
        transactions(places[0], server, to, scenario.kind.name(), seconds)
    };
    let Moved { rate, amount } = match moved {
        Ok(moved) => moved,
        Err(failure) => return Outcome::Failed(failure),
    };
    let cpu = translator.cpu_seconds() - before.0;
    let changes: Vec<_> =
        before.1.iter().zip(places).map(|(before, place)| change(before, &counters(place))).collect();
    Outcome::Done(Sample {
        rate,
        cpu: (!translator.0.is_empty()).then_some(cpu / amount),
        resent: changes.iter().map(|change| share(change, "RetransSegs")).fold(0.0, f64::max),
        disordered: share(&changes[0], "TCPOFOQueue"),
    })
}

/// What went through: in Gbit/s and GB, or in transactions/s and millions of them.
struct Moved {
    rate: f64,
    amount: f64,
}

/// One iperf3 stream.
fn stream(
    guest: &dyn Place,
    server: &dyn Place,
    to: &str,
    to_guest: bool,
    seconds: u32,
) -> Result<Moved, String> {
    let port = new_port();
    let mut server = server.start(&format!("iperf3 -s -1 -p {port} --forceflush"));
    server.wait_for("Server listening");
    let mut client = within(guest, seconds, "iperf3");
    client.args(["-J", "-c", to, "-p", &port.to_string(), "-t", &seconds.to_string()]);
    let output = finish(client.args(to_guest.then_some("-R")))?;
    let result: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let received = &result["end"]["sum_received"];
    match (received["bits_per_second"].as_f64(), received["bytes"].as_f64()) {
        (Some(rate), Some(bytes)) if bytes > 0.0 => Ok(Moved { rate: rate / 1e9, amount: bytes / 1e9 }),
        _ => Err(result["error"].as_str().unwrap_or("moved nothing").to_owned()),
    }
}

/// The transfer helper's requests and responses, its two ends on one CPU: on
/// two, what is measured is how the scheduler places them.
fn transactions(
    guest: &dyn Place,
    server: &dyn Place,
    to: &str,
    kind: &str,
    seconds: u32,
) -> Result<Moved, String> {
    let (cpu, peer, port) = (last_cpu(), guest.peer_path(), new_port());
    let mut server: Process =
        server.start(&format!("taskset -c {cpu} {} rr-serve 0.0.0.0:{port}", peer.display()));
    server.wait_for("LISTENING");
    let mut client = within(guest, seconds, "taskset");
    client.args(["-c", &cpu]).arg(peer);
    client.args([kind.trim_start_matches("tcp-"), &format!("{to}:{port}"), &seconds.to_string()]);
    let output = finish(&mut client)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().flat_map(str::parse).collect();
    match numbers.as_slice() {
        [count, elapsed] if *count > 0.0 => Ok(Moved { rate: count / elapsed, amount: count / 1e6 }),
        _ => Err("no transaction".to_owned()),
    }
}

/// A port for each run: thousands of closed connections still wait on the last.
fn new_port() -> u16 {
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
        Some(TIMED_OUT) => Err("stalled".to_owned()),
        _ => {
            let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().last().unwrap_or("failed");
            Err(result["error"].as_str().unwrap_or(last).to_owned())
        }
    }
}

/// The processes of a translator.
struct Translator(Vec<u32>);

impl Translator {
    /// The process started, and all that it started.
    fn of(inside: &Inside) -> Self {
        let mut tree: Vec<u32> = inside.translator().into_iter().collect();
        let all: Vec<u32> = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let mut known = 0;
        while known < tree.len() {
            let parent = tree[known];
            tree.extend(all.iter().filter(|pid| stat(**pid).is_some_and(|stat| stat.parent == parent)));
            known += 1;
        }
        Self(tree)
    }

    /// What all their threads used so far, in user space and in the kernel.
    fn cpu_seconds(&self) -> f64 {
        let ticks: f64 = self.0.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.ticks).sum();
        ticks / USER_HZ
    }

    fn pin(&self, cpu: &str) {
        for pid in &self.0 {
            let pin = Command::new("taskset").args(["-a", "-p", "-c", cpu, &pid.to_string()]).output();
            drop(pin);
        }
    }
}

struct Stat {
    parent: u32,
    ticks: f64,
}

/// The fields of /proc/PID/stat that matter, proc(5).
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u32>().ok();
    Some(Stat { parent: field(4)?, ticks: f64::from(field(14)?) + f64::from(field(15)?) })
}

fn last_cpu() -> String {
    (std::thread::available_parallelism().map_or(1, usize::from) - 1).to_string()
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

/// A counter's part of the segments that the namespace sent or received,
/// whichever are more.
fn share(change: &Counters, name: &str) -> f64 {
    let count = |name| change.get(name).copied().unwrap_or(0.0);
    count(name) / count("OutSegs").max(count("InSegs")).max(1.0)
}
