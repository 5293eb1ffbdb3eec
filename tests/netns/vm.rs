//! passt's guests: virtual machines in qemu, with a kernel and programs of their own; for
//! vhost-user, user-mode Linux.

use std::path::{Path, PathBuf};
use std::time::Duration;

use passt_tests::dhcp::wait_for_address;
use passt_tests::packages::{cached, output, short_hash};
use passt_tests::transfer::{MIB, at, deadline, download, exchange, far_servers, upload};
use passt_tests::{
    FAR4, FAR6, GATEWAY4, GATEWAY6, HOST4, HOST6, Launch, Net, Newest, Ns, Place as _, Process, User, Vm,
    eventually, find_program, have, program_path, skip, stream, uml,
};

/// The machine's own qemu.
const QEMU: &str = "qemu-system-x86_64";

/// qemu's side of a socket in the test's directory that passt listens at.
fn netdev(net: &Net, socket: &str) -> String {
    format!("stream,server=off,addr.type=unix,addr.path={}", net.dir().join(socket).display())
}

/// A machine that has its addresses, and the passt that gave it them.
fn start(net: &Net, options: &str) -> Option<(Vm, Process)> {
    let passt = net.passt(User::Normal).with(options).listen("socket");
    let vm = Vm::boot(net, "guest", &netdev(net, "socket"))?;
    vm.configure();
    Some((vm, passt))
}

#[test]
fn configures_itself_and_resolves() {
    let Some(net) = Net::new() else { return };
    if !have(&["dnsmasq", "dhclient"]) {
        return;
    }
    net.host.resolv_conf(&format!("nameserver {FAR4}\nnameserver {FAR6}\n"));
    let mut resolver = net.peer.start(&format!(
        "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --no-resolv --no-hosts --user=root \
         --pid-file= --bind-interfaces --listen-address={FAR4},{FAR6} \
         --address=/example.test/203.0.113.7 --address=/example.test/2001:db8::7"
    ));
    resolver.wait_for("started");
    let _passt = net.passt(User::Normal).listen("socket");
    let Some(vm) = Vm::boot(&net, "guest", &netdev(&net, "socket")) else { return };

    assert_eq!(vm.configure(), format!("LEASE {HOST4}/24 {GATEWAY4} {FAR4} 65520"));
    let slaac = wait_for_address(&vm, "scope global");
    assert!(slaac.contains("inet6 2001:db8::5054:ff:fe12:3456/64"), "{slaac}");
    let lease = vm.run("dhclient -6 -1 -sf /etc/dhclient -cf /dev/null eth0");
    assert_eq!(lease.trim(), format!("LEASE {HOST6} {FAR6}"));
    wait_for_address(&vm, &format!("inet6 {HOST6}/"));

    for address in [GATEWAY4, FAR4, GATEWAY6, FAR6] {
        vm.run(&format!("ping -c 1 -W 3 {address}"));
    }
    for resolver in [FAR4, FAR6] {
        let found = vm.run(&format!("nslookup example.test {resolver}"));
        assert!(found.contains("203.0.113.7") && found.contains("2001:db8::7"), "{found}");
    }
}

#[test]
fn transfers_by_ipv4() {
    transfers(FAR4, 1500);
}

#[test]
fn transfers_by_ipv6() {
    transfers(FAR6, 65_520);
}

fn transfers(address: &str, mtu: u32) {
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, _passt)) = start(&net, "") else { return };
    vm.run(&format!("ip link set eth0 mtu {mtu}"));
    upload(&vm, &at(address, 5001), 256 * MIB);
    download(&vm, &at(address, 5001), 256 * MIB);
}

/// A server inside is reached from the host and from another machine, and is
/// told who it is that connects.
#[test]
fn serves_a_port() {
    let Some(net) = Net::new() else { return };
    let Some((vm, _passt)) = start(&net, "-t 5001 -u 6001") else { return };
    let _server = vm.serve("[::]:5001");
    let _udp_server = vm.listening("udp-serve [::]:6001");
    // The peer's first address is the gateway's, which stands for the host.
    net.peer.ip(&format!("route add {HOST4}/32 dev eth0 src {FAR4}"));
    net.peer.ip(&format!("route add {HOST6}/128 dev eth0 src {FAR6}"));
    let who = |place: &Ns, address: &str| {
        exchange(place, &at(address, 5001));
        assert_eq!(place.peer(&format!("udp-ask {} hello", at(address, 6001))).trim(), "hello");
        place.peer(&format!("who {}", at(address, 5001))).trim().to_owned()
    };
    assert_eq!(who(&net.host, "127.0.0.1"), GATEWAY4);
    assert_eq!(who(&net.host, "::1"), GATEWAY6);
    assert_eq!(who(&net.peer, HOST4), FAR4);
    assert_eq!(who(&net.peer, HOST6), FAR6);
}

/// A program that others made, which has its own connection for control.
#[test]
fn iperf3_both_ways() {
    if !have(&["iperf3"]) {
        return;
    }
    let Some(net) = Net::new() else { return };
    let Some((vm, _passt)) = start(&net, "") else { return };
    for (address, direction) in [(FAR4, ""), (FAR4, "-R"), (FAR6, ""), (FAR6, "-R")] {
        let mut server = net.peer.start("iperf3 -s -1 --forceflush");
        server.wait_for("Server listening");
        let report = vm.run(&format!("iperf3 -c {address} -t 1 -f m {direction}"));
        server.succeed();
        // As in: [  5]   0.00-1.00   sec  10.4 MBytes  87.2 Mbits/sec   receiver
        let received = report.lines().find(|line| line.ends_with("receiver")).unwrap_or_default();
        let amount = received.split_whitespace().skip_while(|word| *word != "sec").nth(1);
        let amount: Option<f64> = amount.and_then(|amount| amount.parse().ok());
        assert!(amount.is_some_and(|amount| amount > 0.0), "{address} {direction}: {report}");
    }
}

#[test]
fn five_hundred_connections_at_once() {
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, _passt)) = start(&net, "") else { return };
    for address in [FAR4, FAR6] {
        assert_eq!(vm.peer(&format!("many {} 500", at(address, 5001))).trim(), "500");
    }
}

#[test]
fn qemu_restarts() {
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let mut passt = net.passt(User::Normal).listen("socket");
    let mut leases = Vec::new();
    for _ in 0..2 {
        let Some(vm) = Vm::boot(&net, "guest", &netdev(&net, "socket")) else { return };
        leases.push(vm.configure());
        for address in [FAR4, FAR6] {
            exchange(&vm, &at(address, 5001));
        }
        assert!(passt.try_wait().is_none(), "passt ended");
    }
    assert_eq!(leases[0], leases[1]);
}

/// qemu connects again to a passt that was started again; nothing inside has to know.
#[test]
fn passt_restarts() {
    let Some(net) = Net::new() else { return };
    let Some(qemu) = Vm::qemu_since("-netdev stream,reconnect-ms", (9, 2)) else { return };
    let _servers = far_servers(&net);
    let first = net.passt(User::Normal).listen("socket");
    let device = netdev(&net, "socket") + ",reconnect-ms=100";
    let Some(vm) = Vm::boot_in(&net, &qemu, "guest", &device) else { return };
    vm.configure();
    drop(first);
    let _second = net.passt(User::Normal).listen("socket");
    for address in [FAR4, FAR6] {
        exchange(&vm, &at(address, 5001));
    }
}

/// qemu starts passt for itself, and is all that passt is there for.
#[test]
fn passt_started_by_qemu() {
    let Some(net) = Net::new() else { return };
    let Some(qemu) = Vm::qemu_since("-netdev passt", (10, 1)) else { return };
    let _servers = far_servers(&net);
    let passt = net.dir().join("passt");
    let device = format!("passt,path={}", passt.display());
    let Some(vm) = Vm::boot_in(&net, &qemu, "guest", &device) else { return };
    vm.configure();
    let started = processes(&passt);
    assert_eq!(started.len(), 1);
    for address in [FAR4, FAR6] {
        exchange(&vm, &at(address, 5001));
    }
    // qemu starts another when one ends, which would hide a crash.
    assert_eq!(processes(&passt), started);
    drop(vm);
    eventually("passt's end", || processes(&passt).is_empty().then_some(()));
}

/// The processes of a program, by their directories in /proc.
fn processes(program: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    all.filter(|process| std::fs::read_link(process.join("exe")).is_ok_and(|exe| exe == program)).collect()
}

/// Like versions of qemu before 7.2, which can't connect by themselves: with a
/// descriptor from qrap, and with a network that qrap has put in the place of
/// another or of none.
#[test]
fn qemu_through_qrap() {
    let Some(net) = Net::new() else { return };
    if !have(&[QEMU]) {
        return;
    }
    let qemu = find_program(QEMU).expect("installed");
    // qrap tries several names, and one that stands for another is the machine's business.
    let path = net.dir().join("programs");
    std::fs::create_dir(&path).expect("a directory");
    std::os::unix::fs::symlink(&qemu, path.join(QEMU)).expect("a link");
    let _servers = far_servers(&net);
    let _passt = net.passt(User::Normal).listen("socket");
    let qrap = [
        format!("PATH={}", path.display()),
        format!("PASST_SOCKET={}", net.dir().join("socket").display()),
        program_path("qrap").display().to_string(),
    ];
    for (command, netdev) in [(&["5", QEMU][..], "socket,fd=5"), (&[], "user"), (&[], "")] {
        let words = qrap.iter().map(String::as_str).chain(command.iter().copied());
        let Some(vm) = Vm::boot_in(&net, &Vm::qemu_through(words), "guest", netdev) else { return };
        // qemu's own network for users would give another.
        let lease = vm.configure();
        assert!(lease.starts_with(&format!("LEASE {HOST4}/24 {GATEWAY4} ")), "{netdev:?}: {lease}");
        for address in [FAR4, FAR6] {
            exchange(&vm, &at(address, 5001));
        }
    }
}

/// A machine that stands still for ten seconds finds its transfers unharmed.
#[test]
fn paused_in_mid_transfer() {
    const LENGTH: u64 = 64 * MIB;
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, _passt)) = start(&net, "") else { return };
    let mut transfers = [
        vm.start_peer(&format!("up {} {LENGTH} 1", at(FAR4, 5001))),
        vm.start_peer(&format!("down {} {LENGTH} 1", at(FAR6, 5001))),
    ];
    for counter in ["tx_bytes", "rx_bytes"] {
        eventually(&format!("4 MiB of {counter}"), || {
            let bytes = net.host.run(&format!("cat /sys/class/net/eth0/statistics/{counter}"));
            bytes.trim().parse().is_ok_and(|bytes: u64| bytes > 4 * MIB).then_some(())
        });
    }
    vm.monitor("stop");
    assert!(transfers.iter_mut().all(|transfer| transfer.try_wait().is_none()), "stopped too late");
    std::thread::sleep(Duration::from_secs(10));
    vm.monitor("cont");
    for transfer in transfers {
        let summary = transfer.succeed_within(deadline(&vm, LENGTH));
        assert_eq!(summary.trim(), stream::expected(LENGTH, 1));
    }
}

/// Each reaches a port of the other by way of the host.
#[test]
fn two_guests() {
    let Some(net) = Net::new() else { return };
    let _passts = ["5001", "5002"].map(|port| net.passt(User::Normal).with("-t").with(port).listen(port));
    let Some(first) = Vm::boot(&net, "first", &netdev(&net, "5001")) else { return };
    let Some(second) = Vm::boot(&net, "second", &netdev(&net, "5002")) else { return };
    first.configure();
    second.configure();
    let _servers = [first.serve("[::]:5001"), second.serve("[::]:5002")];
    for gateway in [GATEWAY4, GATEWAY6] {
        exchange(&first, &at(gateway, 5002));
        exchange(&second, &at(gateway, 5001));
    }
}

#[test]
fn vhost_user() {
    let Some(net) = Net::new() else { return };
    serves_vhost_user(&net, net.passt(User::Normal), 256 * MIB);
}

/// The same with the newest C program, which shows that the guest is one that it serves.
#[test]
fn vhost_user_of_the_c_program() {
    let Some(net) = Net::new() else { return };
    match Newest::install(net.dir()) {
        Ok(newest) => {
            let launch = net.passt(User::Normal).through(&newest.loader("passt"));
            // It stalls now and then: less than ours has to move.
            serves_vhost_user(&net, launch.program(&newest.program()), 32 * MIB);
        }
        Err(error) => skip(&format!("no C program: {error:#}")),
    }
}

/// A guest that speaks vhost-user by itself configures its device, moves data both ways by both
/// families with large frames and small ones, has many connections, and serves a port.
fn serves_vhost_user(net: &Net, launch: Launch<'_>, length: u64) {
    let _servers = far_servers(net);
    let _passt = launch.with("--vhost-user -t 5001").listen("socket");
    let Some(guest) = uml::boot(net, "guest", "socket") else { return };
    let lease = guest.configure();
    assert!(lease.starts_with(&format!("LEASE {HOST4}/24 {GATEWAY4} ")), "{lease}");
    wait_for_address(&guest, "scope global");
    let _udp = net.peer.listening(&format!("udp-serve {}", at(FAR4, 6009)));
    assert_eq!(guest.peer(&format!("udp-ask {} hello", at(FAR4, 6009))).trim(), "hello");
    for mtu in [65_520, 1500] {
        guest.run(&format!("ip link set eth0 mtu {mtu}"));
        for address in [FAR4, FAR6] {
            upload(&guest, &at(address, 5001), length);
            download(&guest, &at(address, 5001), length);
        }
    }
    assert_eq!(guest.peer(&format!("many {} 500", at(FAR4, 5001))).trim(), "500");
    let _server = guest.serve("[::]:5001");
    for address in ["127.0.0.1", "::1"] {
        exchange(&net.host, &at(address, 5001));
    }
}

/// The demonstration, as a user of a desktop would start it: a command in the machine, by ssh through
/// passt in pasta's namespace. Its status comes back, and nothing is left running.
#[test]
fn demonstration() {
    const NOBODY: &str = "65534";
    let Some(net) = Net::new() else { return };
    if !have(&[QEMU, "ssh", "ssh-keygen", "dpkg-deb", "xz"]) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/demo.sh");
    let text = std::fs::read_to_string(&script).expect("the script");
    let prepare = |work: &Path| {
        let (parts, script) = (work.join("parts"), script.to_string_lossy());
        let set = format!("PASST_DEMO={}", parts.display());
        output(work, "env", &[&set, "PASTA=sh", "PASST=sh", &script, "--prepare"]).map(drop)
    };
    let made = match cached(&format!("demo-{}", short_hash(&text)), prepare) {
        Ok(made) => made,
        Err(error) => return skip(&format!("no machine for the demonstration: {error:#}")),
    };
    let dir = net.dir().join("demo");
    std::fs::create_dir(&dir).expect("a directory");
    for name in ["vmlinuz", "initramfs", "key"] {
        std::fs::copy(made.join(name), dir.join(name)).expect("copied");
    }
    std::fs::copy(&script, dir.join("demo.sh")).expect("copied");
    output(&dir, "chown", &["-R", NOBODY, "."]).expect("chown");
    let command = |line: &str| {
        let mut command = net.host.command("setpriv");
        command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "env"]);
        for (name, path) in [("PASST_DEMO", "demo"), ("PASTA", "pasta"), ("PASST", "passt")] {
            command.arg(format!("{name}={}", net.dir().join(path).display()));
        }
        command.arg(dir.join("demo.sh")).arg(line);
        Process::start(&mut command).finish()
    };
    let done = command("hostname; ip address show eth0; exit 7");
    assert_eq!(done.status.code(), Some(7), "{done:?}");
    assert!(done.stdout.starts_with("machine\n") && done.stdout.contains(HOST4), "{done:?}");
    // All of it has a path in this directory on its command line.
    eventually("all has ended", || {
        let all = output(&dir, "ps", &["-eo", "args"]).expect("ps");
        (!all.contains(&*net.dir().to_string_lossy())).then_some(())
    });
}
