//! The filter for system calls has what is needed and nothing else. Strace sees what is made; what
//! is not allowed ends the process, here and in all other tests.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use passt::cli::{self, Outcome};
use passt::isolate::filter;
use passt::life::{command, peers, watch};
use passt_sys::seccomp::{Call, Choice};
use passt_sys::socket::option;
use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{FAR4, FAR6, GATEWAY4, Machine, Net, Place, Process, User, Vm, eventually, have};
use rustix::process::Pid;

/// The most for each mode, with everything that adds calls.
const MOST_PASST: usize = 23;
const MOST_PASST_SHARING: usize = 29;
const MOST_PASTA: usize = 34;

/// Names of system calls.
type Names = BTreeSet<String>;

/// Calls and their arguments, as far as strace shows them as numbers.
type Made = BTreeSet<(String, Vec<u32>)>;

/// Calls of which the filter looks at arguments, and those are the same in each run.
const LIMITED: [&str; 6] = ["socket", "setsockopt", "getsockopt", "ioctl", "fcntl", "pipe2"];

/// What the filter of a process with this command line allows, which also makes calls of its `own`.
fn declared(line: &str, own: &[Call]) -> Vec<Call> {
    let argv: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    let Outcome::Run(config) = cli::parse(argv) else { panic!("{line}") };
    filter::calls(&config, own)
}

fn names(calls: &[Call]) -> Names {
    calls.iter().map(|call| call.name().to_owned()).collect()
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
        let raw = LIMITED.join(",");
        let mut strace = net.host.start(&format!("strace -f -e raw={raw} -o {} -p {pid}", file.display()));
        strace.wait_for("attached");
        Self { strace, file }
    }

    /// What the process did, which has ended.
    fn calls(self) -> Made {
        self.strace.finish();
        let text = std::fs::read_to_string(self.file).expect("a trace");
        let call = |line: &str| {
            let (_pid, call) = line.split_once(' ')?;
            let call = call.trim_start();
            let name = call.strip_prefix("<... ").unwrap_or(call).split(['(', ' ']).next()?;
            let limited = LIMITED.contains(&name) && !call.starts_with('<');
            let words = call.split(['(', ')']).nth(1).filter(|_| limited).unwrap_or_default();
            // The second part of a call that was interrupted by another thread's has none.
            let numbers = words.split(", ").filter(|_| limited).map(number).collect();
            (!name.starts_with(['+', '-'])).then(|| (name.to_owned(), numbers))
        };
        text.lines().filter_map(call).collect()
    }
}

/// An argument as strace shows it, of which the filter compares 32 bits.
fn number(text: &str) -> u32 {
    let text = text.split(' ').next().unwrap_or_default();
    let value = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    u32::try_from(value.unwrap_or_else(|_| panic!("no number: {text}")) & u64::from(u32::MAX))
        .expect("masked")
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
    let _udp = net.peer.listening(&format!("udp-serve {}", at(FAR4, 6009)));
    upload(guest, &at(FAR4, 5009), 64 * MIB);
    download(guest, &at(FAR4, 5009), 64 * MIB);
    guest.peer(&format!("udp-ask {} hello", at(FAR4, 6009)));
    guest.peer(&format!("udp-ask {} hello", at(FAR4, 6010)));
    guest.peer(&format!("connect {}", at(FAR4, 5010)));
    guest.peer(&format!("connect {}", at(GATEWAY4, 5010)));
    guest.run(&format!("ping -c 1 -W 3 {FAR4}"));
    guest.peer(&format!("connect {}", at(FAR6, 5010)));
    // With marks of its own, and keep-alives.
    let mut kept = guest.start_peer(&format!("keep {} 16 1 1 9", at(FAR4, 5009)));
    kept.wait_for("CONNECTED");
    guest.peer(&format!("keep {} 16 1 1 0", at(FAR6, 5010)));
    guest.peer(&format!("udp-ask {} hello", at(FAR6, 6010)));
    // Groups of both families, which the host's network is heard in.
    for at in ["224.0.0.251:5353", "[ff02::fb]:5353"] {
        let member = guest.listening(&format!("group {at} eth0"));
        eventually("a member", || {
            net.peer.peer(&format!("group-say {at} eth0 5353 255 hello"));
            member.stdout().contains("hello from").then_some(())
        });
    }
    // A connection that the server resets is reset for the guest, too, and the other way.
    guest.peer(&format!("reset {}", at(FAR4, 5009)));
    guest.peer(&format!("abort {}", at(FAR4, 5009)));
    for address in [FAR4, FAR6] {
        guest.run(&format!("ping -c 1 -W 3 -t 9 {address}"));
    }
    eventually("the guest's keep-alives are the host's", || {
        let sockets = net.host.run("ss -Htno state established");
        // Of what the guest doesn't ask for the kernel has hours.
        let is_guests = |line: &str| line.contains("timer:(keepalive,") && !line.contains("min,");
        sockets.lines().any(is_guests).then_some(())
    });
}

#[test]
fn pasta() {
    let Some(net) = Net::new() else { return };
    if !have(&["strace", "ping"]) {
        return;
    }
    net.host.sysctl("net.ipv4.ping_group_range=0 2147483647");
    let log = Log::new();
    let options = format!("--config-net --freebind {OUTBOUND} {}", log.records(&net));
    let guest = net.pasta(User::Normal).with(&options).start();
    let trace = Trace::attach(&net, guest.pasta.pid());
    use_network(&guest, &net);
    // What listens is found, and local connections go past the link.
    let ways: [(&dyn Place, &dyn Place, u16); 2] = [(&guest, &net.host, 5001), (&net.host, &guest, 5002)];
    for (server, client, port) in ways {
        let (tcp, udp) = (at("127.0.0.1", port), at("127.0.0.1", port + 1000));
        let _server = server.serve(&format!("[::]:{port}"));
        let _udp_server = server.listening(&format!("udp-serve [::]:{}", port + 1000));
        eventually("a forwarded port", || {
            let outcome = client.peer(&format!("udp-ask {udp} hello"));
            (outcome.trim() == "hello").then_some(())
        });
        exchange(client, &tcp);
        upload(client, &tcp, 64 * MIB);
        client.peer(&format!("up-slow {tcp} {MIB} 1"));
        client.peer(&format!("abort {tcp}"));
    }
    // One that serves IPv4 alone is listened for there alone.
    let _v4_server = guest.listening("udp-serve 0.0.0.0:6003");
    eventually("a forwarded port of IPv4", || {
        let outcome = net.host.peer(&format!("udp-ask {} hello", at("127.0.0.1", 6003)));
        (outcome.trim() == "hello").then_some(())
    });
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
    let own = [command::calls(Pid::INIT, Some(0)), watch::missing_calls(0)].concat();
    let declared = declared(&format!("pasta {options}"), &own);
    compare(&made, &declared, MOST_PASTA);
    assert_documented(&format!(" {} system calls for pasta with everything on,", names(&declared).len()));
}

#[test]
fn passt() {
    let Some(net) = Net::new() else { return };
    if !have(&["strace", "ping"]) {
        return;
    }
    net.host.sysctl("net.ipv4.ping_group_range=0 2147483647");
    let log = Log::new();
    let options = format!("--one-off -t 5001 -u 6001 {OUTBOUND} {}", log.records(&net));
    let passt = net.passt(User::Normal).with(&options).listen("socket");
    let trace = Trace::attach(&net, passt.pid());
    let machine = Machine::start(&net, &net.dir().join("socket"), 65_520);
    machine.configure();
    use_network(&machine, &net);
    let _server = machine.serve("[::]:5001");
    let _udp = machine.listening("udp-serve [::]:6001");
    exchange(&net.host, "127.0.0.1:5001");
    net.host.peer("udp-ask 127.0.0.1:6001 hello");
    // One too many.
    drop(std::os::unix::net::UnixStream::connect(net.dir().join("socket")));
    drop(machine);
    passt.finish();
    compare(&trace.calls(), &declared(&format!("passt {options}"), &[]), MOST_PASST);
    // In the background more is needed to name who comes, as a test of its log shows.
    let foreground = names(&declared("passt --log-file log", &[]));
    let background = names(&declared("passt --log-file log", &peers::calls(0)));
    assert!(background.difference(&foreground).eq(["dup3"]), "{background:?}");
    assert!(background.len() <= MOST_PASST, "{background:?}");
    assert_documented(&format!(" {} for passt in the background ", background.len()));
}

/// Who shares a machine's memory needs more, to map it and to tell it of frames.
#[test]
fn passt_by_vhost_user() {
    let Some(net) = Net::new() else { return };
    if !have(&["strace", "ping"]) {
        return;
    }
    net.host.sysctl("net.ipv4.ping_group_range=0 2147483647");
    let log = Log::new();
    let options = format!("--vhost-user --one-off -t 5001 -u 6001 {OUTBOUND} {}", log.records(&net));
    let passt = net.passt(User::Normal).with(&options).listen("socket");
    let trace = Trace::attach(&net, passt.pid());
    let device = format!("vhost-user/1,path={}", net.dir().join("socket").display());
    let Some(qemu) = Vm::qemu_since("an emulated machine with vhost-user", (9, 2)) else { return };
    let Some(vm) = Vm::boot_in(&net, &qemu, "guest", &device) else { return };
    vm.configure();
    use_network(&vm, &net);
    let _server = vm.serve("[::]:5001");
    let _udp = vm.listening("udp-serve [::]:6001");
    exchange(&net.host, "127.0.0.1:5001");
    net.host.peer("udp-ask 127.0.0.1:6001 hello");
    // One too many.
    drop(std::os::unix::net::UnixStream::connect(net.dir().join("socket")));
    drop(vm);
    passt.finish();
    let mut made = trace.calls();
    // Only a monitor that makes its memory shorter has it made.
    made.insert(("rt_sigreturn".to_owned(), Vec::new()));
    compare(&made, &declared(&format!("passt {options}"), &[]), MOST_PASST_SHARING);
    let background = names(&declared("passt --vhost-user --log-file log", &peers::calls(0)));
    assert_documented(&format!(" {} with `--vhost-user` ", background.len()));
}

/// Who has a control socket may listen where others come, and cut a recording.
#[test]
fn control() {
    let log = "--log-file log --log-size 40960 --pcap frames";
    let pasta = [command::calls(Pid::INIT, Some(0)), watch::missing_calls(0)].concat();
    let added =
        [("pasta", &pasta[..]), ("passt", &peers::calls(0)), ("passt --vhost-user", &peers::calls(0))].map(
            |(program, own)| {
                let without = names(&declared(&format!("{program} {log}"), own));
                let with = names(&declared(&format!("{program} {log} -c control"), own));
                (with.len(), with.difference(&without).cloned().collect::<Vec<_>>().join(" "))
            },
        );
    let expected = [
        (34, "getpeername".to_owned()),
        (27, "fcntl fstat getpeername listen".to_owned()),
        (31, "getpeername listen".to_owned()),
    ];
    assert_eq!(added, expected);
    assert_documented(
        " With a control socket 34 for pasta, 27 for passt in the background and 31 with `--vhost-user`",
    );
}

/// Interfaces for what leaves the host, which are options of sockets.
const OUTBOUND: &str = "--outbound-if4 eth0 --outbound-if6 eth0";

/// The clock is mostly read without a call, and by one in an emulated machine, of which `profiles`
/// has one. `SIOCOUTQ` is for a peer that is slow to acknowledge, which not every run has.
const SOMETIMES: [&str; 2] = ["clock_gettime", "ioctl"];

/// What only other machines ask for: `SO_PEEK_OFF` is for kernels that have it for TCP, a change of
/// congestion control for one that paces, `F_GETPIPE_SZ` for a user that has many pipes,
/// `SO_REUSEPORT` for a rule that comes to a port which the guest sends from, a time to live for
/// connections that have another than usual (`icmp_errors` has some).
const OTHER_MACHINES: [Choice; 7] = [
    option::SO_PEEK_OFF,
    option::TCP_CONGESTION,
    &[(1, 1032)],
    option::SO_REUSEPORT,
    option::IP_TTL,
    option::IPV6_UNICAST_HOPS,
    option::UDP_GRO,
];

/// What the C library makes of a call where rustix leaves it to that.
const BY_C_LIBRARY: [(&str, &str); 1] = [("epoll_wait", "epoll_pwait")];

fn compare(made: &Made, declared: &[Call], most: usize) {
    let listed = |name: &str| {
        let is_other = cfg!(any(target_arch = "powerpc64", target_arch = "s390x"));
        let same = BY_C_LIBRARY.iter().find(|(other, _)| is_other && *other == name);
        same.map_or(name, |(_, listed)| listed).to_owned()
    };
    let (called, allowed) = (made.iter().map(|(name, _)| listed(name)).collect::<Names>(), names(declared));
    let idle: Vec<_> =
        allowed.difference(&called).filter(|name| !SOMETIMES.contains(&name.as_str())).collect();
    let more: Vec<_> = called.difference(&allowed).collect();
    assert!(idle.is_empty() && more.is_empty(), "never made: {idle:?}; not allowed: {more:?}");
    assert!(allowed.len() <= most, "{} are {}", allowed.len(), most);
    println!("{}: {allowed:?}", allowed.len());
    let idle: Vec<_> = choices(declared).filter(|(name, choice)| !has_made(made, name, choice)).collect();
    assert!(idle.is_empty(), "never made: {idle:?}");
}

fn assert_documented(words: &str) {
    let page: Vec<_> = include_str!("../../docs/security.md").split_whitespace().collect();
    assert!(page.join(" ").contains(words), "docs/security.md doesn't say: {words}");
}

/// What is allowed of the arguments of [`LIMITED`] calls and of none of the exceptions.
fn choices(declared: &[Call]) -> impl Iterator<Item = (&'static str, &[(u8, i64)])> {
    let limited = declared.iter().filter(|call| LIMITED.contains(&call.name()));
    let choices = limited.flat_map(|call| call.choices().map(|choice| (call.name(), choice)));
    choices.filter(|(name, choice)| !SOMETIMES.contains(name) && !OTHER_MACHINES.contains(choice))
}

fn has_made(made: &Made, name: &str, choice: &[(u8, i64)]) -> bool {
    made.iter().filter(|(made, _)| made == name).any(|(_, arguments)| {
        choice.iter().all(|&(index, value)| {
            arguments.get(usize::from(index)).is_some_and(|&made| i64::from(made) == value & 0xffff_ffff)
        })
    })
}
