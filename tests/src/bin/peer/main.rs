//! What runs inside the tests' namespaces: servers, clients that check what
//! they get, a source of hostile frames. Each prints one line with the outcome.

mod bare;
mod driver;
mod flood;
mod freeze;
mod front;
mod groups;
mod held;
mod icmp;
mod keep;
mod machine;
mod mangle;
mod rr;
mod seen;
mod serial;
mod stall;
mod tcp;
mod udp;
mod vm;

use std::io::{Read as _, Write as _};
#[cfg(feature = "provoke")]
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use flood::Load;

fn main() -> Result<()> {
    raise_descriptor_limit();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["hold"] => hold(),
        ["freeze", pid, thread] => freeze::thread(pid.parse()?, thread),
        ["listen", first, last, announced] => tcp::listen(first.parse()?, last.parse()?, announced),
        ["serve", address] => tcp::serve(address),
        ["serve-late", address] => tcp::serve_late(address),
        ["serve-one", address] => tcp::serve_one(address),
        ["gone", from, to, count] => tcp::gone(from, to, count.parse()?),
        ["begin", to, count] => tcp::begin(to, count.parse()?),
        ["up", to, length, seed] => say(&tcp::up(to, length.parse()?, seed.parse()?)?),
        ["up-slow", to, length, seconds] => say(&tcp::up_slow(to, length.parse()?, seconds.parse()?)?),
        ["down", from, length, seed] => say(&tcp::down(from, length.parse()?, seed.parse()?, 0)?),
        ["down-slow", from, length, seconds] => say(&tcp::down(from, length.parse()?, 1, seconds.parse()?)?),
        ["held", from, length, count, until] => {
            held::held(from, length.parse()?, count.parse()?, Path::new(until))
        }
        ["late", to, first, second] => say(&tcp::late(to, first.parse()?, second.parse()?)?),
        ["connect", to] => say(&tcp::connect(to)),
        ["reset", to] => say(&tcp::reset_by_server(to)?),
        ["abort", to] => tcp::abort(to),
        ["reset-within", by, role, to] => say(&stall::reset_within(by, role, to)?),
        ["stalled", to, count] => stall::crowd(to, count.parse()?),
        ["later", to, length, pause] => stall::later(to, length.parse()?, pause.parse()?),
        ["seen", from, to] => say(&seen::seen(from, to)?),
        ["keep", to, tos, idle, pause, count] => keep::keep(to, tos, [idle, pause, count]),
        ["who", to] => say(&tcp::who(to)?),
        ["many", to, count] => say(&tcp::many(to, count.parse()?)?),
        ["churn", to, count] => tcp::churn(to, count.parse()?),
        ["idle", to, seconds] => tcp::idle(to, seconds.parse()?),
        ["steady", to] => tcp::steady(to),
        ["pump", direction, to, seconds] => say(&tcp::pump(direction, to, seconds.parse()?)?),
        ["proxy", netns, address] => bare::proxy(netns, address),
        ["splice", netns, address] => bare::splice(netns, address),
        ["rr-serve", address] => rr::serve(address),
        ["rr", to, seconds] => say(&rr::request_response(to, seconds.parse()?)?),
        ["rr-longest", to, seconds] => say(&rr::longest(to, seconds.parse()?)?),
        ["crr", to, seconds] => say(&rr::connect_request_response(to, seconds.parse()?)?),
        ["crowd-serve", address] => rr::never_accept(address),
        ["crowd", to, count] => rr::crowd(to, count.parse()?),
        ["time", count, program, arguments @ ..] => say(&time(count.parse()?, program, arguments)?),
        ["udp-serve", address] => udp::serve(address),
        ["udp-rr", to, seconds] => say(&udp::request_response(to, seconds.parse()?)?),
        ["udp-sink", address] => say(&flood::sink(address)?),
        ["udp-source", address, seconds, segments, rate] => {
            say(&flood::source(address, Load::parse(seconds, segments, rate)?)?)
        }
        ["udp-send", to, seconds, segments, rate] => {
            say(&flood::send(to, Load::parse(seconds, segments, rate)?)?)
        }
        ["udp-fetch", from] => say(&flood::fetch(from)?),
        ["udp-sweep", to, largest] => say(&udp::sweep(to, largest.parse()?)?),
        ["udp-many", to, count] => udp::many(to, count.parse()?),
        ["udp-spray", to, count] => udp::spray(to, count.parse()?),
        ["udp-scatter", first, count, port, from] => {
            udp::scatter(first, count.parse()?, port.parse()?, from.parse()?)
        }
        ["udp-gather", address, count] => say(&udp::gather(address, count.parse()?)?),
        ["udp-ask", to, text] => say(&udp::ask(to, text)?),
        ["group", at, interface] => groups::listen(at, interface),
        ["group-say", to, interface, from, ttl, text] => {
            say(&groups::say_to(to, interface, from.parse()?, ttl.parse()?, text)?)
        }
        #[cfg(feature = "provoke")]
        ["lacking", what, program, arguments @ ..] => {
            passt_tests::lacking::lack(what)?;
            Err(Command::new(program).args(arguments).exec().into())
        }
        #[cfg(feature = "provoke")]
        ["lacks", what] => passt_tests::lacking::require_lacking(what),
        ["icmp-forge", family, kinds @ ..] => icmp::forge(family, kinds),
        ["icmp-watch", family, last] => icmp::watch(family, last.parse()?),
        ["front-end", socket, memory] => front::ask(socket, memory),
        ["driver", socket, direction, to, mtu, seconds] => {
            say(&driver::run(socket, direction, to, mtu.parse()?, seconds.parse()?)?)
        }
        ["spoil", socket, seconds, seed] => say(&front::spoil(socket, seconds.parse()?, seed.parse()?)?),
        ["machine", interface, socket] => machine::run(interface, socket),
        ["mangle", interface, count, seed] => say(&mangle::flood(interface, count.parse()?, seed.parse()?)?),
        ["agent", ports @ ..] => vm::agent(ports),
        ["serial", dir, count, program, arguments @ ..] => {
            std::process::exit(serial::run(Path::new(dir), count.parse()?, program, arguments)?)
        }
        ["in-vm", dir, words @ ..] => std::process::exit(vm::in_vm(Path::new(dir), words)?),
        other => bail!("unknown command: {other:?}"),
    }
}

/// Keeps a namespace: says which, and ends with its standard input.
fn hold() -> Result<()> {
    let ns = std::fs::read_link("/proc/self/ns/net").context("own namespace")?;
    say(&format!("READY {}", ns.display()))?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Runs a program to its end `count` times, one after the other; returns the
/// mean of the seconds that one took.
fn time(count: u32, program: &str, arguments: &[&str]) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "a program runs in real time")]
    let start = std::time::Instant::now();
    for _ in 0..count {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.status().with_context(|| program.to_owned())?;
        ensure!(status.success(), "{program}: {status}");
    }
    Ok((start.elapsed().as_secs_f64() / f64::from(count)).to_string())
}

/// Prints a line at once.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// A server with a thousand connections needs more than the usual limit.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("descriptor limit: {error}");
    }
}
