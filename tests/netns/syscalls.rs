//! The filter for system calls has what is needed and nothing else. Strace sees what is made; what is
//! not allowed ends the process, here and in all other tests.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use passt::cli::{self, Outcome};
use passt::isolate::filter;
use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{FAR4, GATEWAY4, Machine, Net, Place, Process, User, eventually, have};

/// The most for each mode, with everything that adds calls.
const MOST_PASST: usize = 22;
const MOST_PASTA: usize = 34;

type Calls = BTreeSet<String>;

/// What the filter of a process with this command line allows.
fn declared(line: &str) -> Calls {
    let argv: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    let Outcome::Run(config) = cli::parse(argv) else { panic!("{line}") };
    filter::calls(&config).into_iter().map(|call| call.name().to_owned()).collect()
}

/// Watches a process.
struct Trace {
    strace: Process,
    file: PathBuf,
}

impl Trace {
    /// Begins with a sealed process.
    fn attach(net: &Net, pid: u32) -> Self {
        eventually("a filter", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.contains("Seccomp:\t2").then_some(())
        });
        let file = net.dir().join(format!("trace-{pid}"));
        let mut strace = net.host.start(&format!("strace -f -o {} -p {pid}", file.display()));
        strace.wait_for("attached");
        Self { strace, file }
    }

    /// What the process did, which has ended.
    fn calls(self) -> Calls {
        self.strace.finish();
        let text = std::fs::read_to_string(self.file).expect("a trace");
        let name = |line: &str| {
            let (_pid, call) = line.split_once(' ')?;
            let call = call.trim_start();
            let name = call.strip_prefix("<... ").unwrap_or(call).split(['(', ' ']).next()?;
            (!name.starts_with(['+', '-'])).then(|| name.to_owned())
        };
        text.lines().filter_map(name).collect()
    }
}

/// A log in a file that is soon full, in memory.
struct Log(PathBuf);

impl Log {
    fn new() -> Self {
        Self(format!("/dev/shm/passt-log-{}-{:?}", std::process::id(), std::thread::current().id()).into())
    }

    /// Options for the records that a process leaves.
    fn records(&self, net: &Net) -> String {
        let (log, pcap) = (self.0.display(), net.dir().join("pcap"));
        format!("--foreground --trace --stats 1 --log-file {log} --log-size 40960 --pcap {}", pcap.display())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// What both modes do for a guest: TCP, UDP and echo, to a server, to the host, and to nobody.
fn use_network(guest: &impl Place, net: &Net) {
    let _server = net.peer.serve(&at(FAR4, 5009));
    let mut udp = net.peer.start_peer(&format!("udp-serve {}", at(FAR4, 6009)));
    udp.wait_for("LISTENING");
    upload(guest, &at(FAR4, 5009), 64 * MIB);
    download(guest, &at(FAR4, 5009), 64 * MIB);
    guest.peer(&format!("udp-ask {} hello", at(FAR4, 6009)));
    guest.peer(&format!("udp-ask {} hello", at(FAR4, 6010)));
    guest.peer(&format!("connect {}", at(FAR4, 5010)));
    guest.peer(&format!("connect {}", at(GATEWAY4, 5010)));
    guest.run(&format!("ping -c 1 -W 3 {FAR4}"));
}

#[test]
fn pasta() {
    let Some(net) = Net::new() else { return };
    if !have(&["strace", "ping"]) {
        return;
    }
    net.host.sysctl("net.ipv4.ping_group_range=0 2147483647");
    let log = Log::new();
    let options = format!("--config-net {}", log.records(&net));
    let guest = net.pasta(User::Normal).with(&options).start();
    let trace = Trace::attach(&net, guest.pasta.pid());
    use_network(&guest, &net);
    // What listens is found, and local connections go past the link.
    let ways: [(&dyn Place, &dyn Place, u16); 2] = [(&guest, &net.host, 5001), (&net.host, &guest, 5002)];
    for (server, client, port) in ways {
        let (tcp, udp) = (at("127.0.0.1", port), at("127.0.0.1", port + 1000));
        let _server = server.serve(&format!("[::]:{port}"));
        let mut udp_server = server.start_peer(&format!("udp-serve [::]:{}", port + 1000));
        udp_server.wait_for("LISTENING");
        eventually("a forwarded port", || {
            let outcome = client.peer(&format!("udp-ask {udp} hello"));
            (outcome.trim() == "hello").then_some(())
        });
        exchange(client, &tcp);
        upload(client, &tcp, 64 * MIB);
        client.peer(&format!("up-slow {tcp} {MIB} 1"));
    }
    // The command's end is ours.
    guest.pasta.signal("INT");
    guest.stop();
    let mut made = trace.calls();

    let guest = net.pasta(User::Normal).with("--config-net").start();
    let trace = Trace::attach(&net, guest.pasta.pid());
    guest.stop();
    made.append(&mut trace.calls());

    // A namespace that only looking for shows the end of.
    let empty = net.empty_guest();
    let holder = empty.start_peer("hold");
    let path = format!("/proc/{0}/task/{0}/ns/net", holder.pid());
    let line = format!("--foreground --config-net --netns {path} --netns-only");
    let pasta = Process::start(&mut net.pasta(User::Root).with(&line).command(""));
    let trace = Trace::attach(&net, pasta.pid());
    drop(holder);
    assert!(pasta.finish().status.success());
    made.append(&mut trace.calls());
    compare(&made, &declared(&format!("pasta {options}")), MOST_PASTA);
}

#[test]
fn passt() {
    let Some(net) = Net::new() else { return };
    if !have(&["strace", "ping"]) {
        return;
    }
    net.host.sysctl("net.ipv4.ping_group_range=0 2147483647");
    let log = Log::new();
    let options = format!("--one-off -t 5001 -u 6001 {}", log.records(&net));
    let passt = net.passt(User::Normal).with(&options).listen("socket");
    let trace = Trace::attach(&net, passt.pid());
    let machine = Machine::start(&net, &net.dir().join("socket"), 65_520);
    machine.configure();
    use_network(&machine, &net);
    let _server = machine.serve("[::]:5001");
    let mut udp = machine.start_peer("udp-serve [::]:6001");
    udp.wait_for("LISTENING");
    exchange(&net.host, "127.0.0.1:5001");
    net.host.peer("udp-ask 127.0.0.1:6001 hello");
    // One too many.
    drop(std::os::unix::net::UnixStream::connect(net.dir().join("socket")));
    drop(machine);
    passt.finish();
    compare(&trace.calls(), &declared(&format!("passt {options}")), MOST_PASST);
    // In the background more is needed to name who comes, as a test of its log shows.
    let [foreground, background] = ["passt --log-file log -f", "passt --log-file log"].map(declared);
    assert!(background.difference(&foreground).eq(["dup3"]), "{background:?}");
    assert!(background.len() <= MOST_PASST, "{background:?}");
}

/// `SIOCOUTQ` is for a peer that is slow to acknowledge, which not every run has. The clock is mostly read without a call, and by one in an
/// emulated machine, of which `profiles` has one.
const SOMETIMES: [&str; 2] = ["clock_gettime", "ioctl"];

fn compare(made: &Calls, declared: &Calls, most: usize) {
    let idle: Vec<_> = declared.difference(made).filter(|name| !SOMETIMES.contains(&name.as_str())).collect();
    let more: Vec<_> = made.difference(declared).collect();
    assert!(idle.is_empty() && more.is_empty(), "never made: {idle:?}; not allowed: {more:?}");
    assert!(declared.len() <= most, "{} are {}", declared.len(), most);
    println!("{}: {declared:?}", declared.len());
}
