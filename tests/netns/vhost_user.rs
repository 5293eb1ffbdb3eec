//! passt's guests by vhost-user: virtual machines in qemu, whose memory passt has.

use std::fs::{File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use passt_engine::link::vhost_user::ProtocolFeatures;
use passt_engine::link::vhost_user::mock::{Machine, Shape, TRANSMIT, words};
use passt_tests::frame;
use passt_tests::stream;
use passt_tests::transfer::{MIB, at, deadline, download, exchange, far_servers, upload};
use passt_tests::vhost::{netdev, netdev_at, passt, qemu};
use passt_tests::{
    DEADLINE, Extras, FAR4, FAR6, GATEWAY4, GATEWAY6, HOST4, Net, Place as _, Process, User, Vm, eventually,
    eventually_within, have, vhost,
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// A machine that has its addresses, and the passt that gave it them.
fn start(net: &Net, options: &str) -> Option<(Vm, Process)> {
    vhost::start(net, options, Extras::default())
}

/// Features of the device as the guest's driver has them: a bit for each.
fn features(vm: &Vm) -> String {
    vm.sh("cat /sys/bus/virtio/drivers/virtio_net/virtio*/features").trim().to_owned()
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

/// QEMU doesn't tell of memory that is not shared, and the guest hears nothing: passt's log tells. The
/// driver is that of the ROM that a machine without a disk boots by.
#[test]
fn memory_that_is_not_shared() {
    let Some(net) = Net::new() else { return };
    if !have(&["qemu-system-x86_64"]) {
        return;
    }
    let mut passt = passt(&net, "");
    // Without `vectors=0` qemu 7.2 ends with a fault of its own.
    let _qemu = net.host.start(&format!(
        "qemu-system-x86_64 -accel tcg -m 128 -display none -nodefaults -chardev socket,id=c,path={} \
         -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n,vectors=0",
        net.dir().join("socket").display()
    ));
    let line = passt.wait_for("memory is not shared");
    assert!(line.contains("-object memory-backend-memfd"), "{line}");
    assert!(passt.try_wait().is_none());
}

/// What is offered arrives at the guest's driver, as far as this qemu passes it on.
#[test]
fn features_arrive() {
    let Some(net) = Net::new() else { return };
    let Some((vm, _passt)) = start(&net, "") else { return };
    let features = features(&vm);
    // CSUM, GUEST_CSUM, TSO each way, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, VERSION_1.
    for bit in [0, 1, 7, 8, 11, 12, 15, 28, 29, 32] {
        assert_eq!(features.as_bytes().get(bit), Some(&b'1'), "{bit} of {features}");
    }
}

/// With each offload off.
#[test]
fn transfers_without_offloads() {
    let (Some(net), Some(qemu)) = (Net::new(), qemu()) else { return };
    let _servers = far_servers(&net);
    let passt = passt(&net, "");
    let off = "csum=off,guest_csum=off,guest_tso4=off,guest_tso6=off,host_tso4=off,host_tso6=off,\
               mrg_rxbuf=off,indirect_desc=off,event_idx=off";
    let off = Extras { device: off, ..Extras::default() };
    let Some(vm) = Vm::boot_with(&net, &qemu, "guest", &netdev(&net, 1), off) else { return };
    vm.configure();
    let features = features(&vm);
    for bit in [0, 1, 7, 8, 11, 12, 15, 28, 29] {
        assert_eq!(features.as_bytes().get(bit), Some(&b'0'), "{bit} of {features}");
    }
    vm.run("ip link set eth0 mtu 1500");
    for address in [FAR4, FAR6] {
        upload(&vm, &at(address, 5001), 32 * MIB);
        download(&vm, &at(address, 5001), 32 * MIB);
    }
    drop(passt);
}

/// The guest uses a pair of queues for each of its processors, and says so.
#[test]
fn several_queues() {
    let (Some(net), Some(qemu)) = (Net::new(), qemu()) else { return };
    let _servers = far_servers(&net);
    let _passt = passt(&net, "-t 5001");
    for queues in [2, 8] {
        let several = Extras { device: "mq=on", ..Extras::default() };
        let netdev = netdev(&net, queues);
        let Some(vm) = Vm::boot_with(&net, &qemu, "guest", &netdev, several) else { return };
        vm.configure();
        assert_eq!(vm.sh("ls -d /sys/class/net/eth0/queues/rx-*").lines().count(), 2);
        let transfers = [FAR4, FAR6].map(|address| {
            (0..2)
                .map(|_| vm.start_peer(&format!("down {} {} 1", at(address, 5001), 8 * MIB)))
                .collect::<Vec<_>>()
        });
        for transfer in transfers.into_iter().flatten() {
            let summary = transfer.succeed_within(deadline(&vm, 64 * MIB));
            assert_eq!(summary.trim(), stream::expected(8 * MIB, 1));
        }
        upload(&vm, &at(FAR4, 5001), 64 * MIB);
        let _server = vm.serve("[::]:5001");
        exchange(&net.host, "127.0.0.1:5001");
    }
}

#[test]
fn serves_a_port() {
    let Some(net) = Net::new() else { return };
    let Some((vm, _passt)) = start(&net, "-t 5001 -u 6001") else { return };
    let _server = vm.serve("[::]:5001");
    let _udp_server = vm.listening("udp-serve [::]:6001");
    for address in ["127.0.0.1", "::1"] {
        exchange(&net.host, &at(address, 5001));
        assert_eq!(net.host.peer(&format!("udp-ask {} hello", at(address, 6001))).trim(), "hello");
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

/// Each reaches a port of the other by way of the host.
#[test]
fn two_guests() {
    let (Some(net), Some(qemu)) = (Net::new(), qemu()) else { return };
    let passt = |port| net.passt(User::Normal).with("--vhost-user -t").with(port).listen(port);
    let _passts = ["5001", "5002"].map(passt);
    let boot = |name, port| {
        let vm = Vm::boot_with(&net, &qemu, name, &netdev_at(&net, 1, port), Extras::default());
        vm.inspect(|vm| drop(vm.configure()))
    };
    let (Some(first), Some(second)) = (boot("first", "5001"), boot("second", "5002")) else { return };
    let _servers = [first.serve("[::]:5001"), second.serve("[::]:5002")];
    for gateway in [GATEWAY4, GATEWAY6] {
        exchange(&first, &at(gateway, 5002));
        exchange(&second, &at(gateway, 5001));
    }
}

/// Another machine comes to the same passt.
#[test]
fn qemu_restarts() {
    let (Some(net), Some(qemu)) = (Net::new(), qemu()) else { return };
    let _servers = far_servers(&net);
    let mut passt = passt(&net, "");
    for _ in 0..2 {
        let Some(vm) = Vm::boot_in(&net, &qemu, "guest", &netdev(&net, 1)) else { return };
        let lease = vm.configure();
        assert!(lease.starts_with(&format!("LEASE {HOST4}/24 {GATEWAY4} ")), "{lease}");
        for address in [FAR4, FAR6] {
            exchange(&vm, &at(address, 5001));
        }
        assert!(passt.try_wait().is_none(), "passt ended");
    }
}

/// As a reboot has it: the device is reset, and set up by another driver.
#[test]
fn the_driver_comes_again() {
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, _passt)) = start(&net, "") else { return };
    for _ in 0..3 {
        vm.sh("rmmod virtio_net && insmod /modules/*virtio_net.ko*");
        eventually("the interface", || vm.sh("echo /sys/class/net/*").contains("eth0").then_some(()));
        vm.configure();
        for address in [FAR4, FAR6] {
            exchange(&vm, &at(address, 5001));
        }
    }
}

/// qemu connects again to a passt that was started again; nothing inside has to know.
#[test]
fn passt_restarts() {
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, first)) = start(&net, "") else { return };
    drop(first);
    let _second = passt(&net, "");
    eventually("the link", || vm.sh("cat /sys/class/net/eth0/carrier").trim().eq("1").then_some(()));
    for address in [FAR4, FAR6] {
        exchange(&vm, &at(address, 5001));
        upload(&vm, &at(address, 5001), 16 * MIB);
        download(&vm, &at(address, 5001), 16 * MIB);
    }
}

/// A passt for one machine ends with it.
#[test]
fn one_off() {
    let Some(net) = Net::new() else { return };
    let Some((vm, passt)) = start(&net, "--one-off") else { return };
    drop(vm);
    assert!(passt.finish().status.success());
}

/// A machine that stands still finds its transfers unharmed.
#[test]
fn paused_in_mid_transfer() {
    const LENGTH: u64 = 64 * MIB;
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, _passt)) = start(&net, "") else { return };
    let transfers = [
        vm.start_peer(&format!("up {} {LENGTH} 1", at(FAR4, 5001))),
        vm.start_peer(&format!("down {} {LENGTH} 1", at(FAR6, 5001))),
    ];
    eventually("4 MiB", || {
        let bytes = net.host.run("cat /sys/class/net/eth0/statistics/rx_bytes");
        bytes.trim().parse().is_ok_and(|bytes: u64| bytes > 4 * MIB).then_some(())
    });
    vm.monitor("stop");
    std::thread::sleep(std::time::Duration::from_secs(3));
    vm.monitor("cont");
    for transfer in transfers {
        let summary = transfer.succeed_within(deadline(&vm, LENGTH));
        assert_eq!(summary.trim(), stream::expected(LENGTH, 1));
    }
}

/// A guest moves to another qemu, and another passt, while it receives: it has all that it got
/// before, and goes on with new connections, from and to it.
#[test]
fn moved_while_it_receives() {
    /// Connections, and what each brings, that the guest's kernel takes before anybody reads it.
    const HELD: (u64, u64) = (40, 48_000);
    let (Some(net), Some(qemu)) = (Net::new(), qemu()) else { return };
    let _servers = far_servers(&net);
    let Some((vm, _passt)) = start(&net, "--debug") else { return };
    let _other_passt = net.passt(User::Normal).with("--vhost-user --debug -t 5002:5001").listen("other");
    let netdev = format!("vhost-user/1,path={},reconnect-ms=100", net.dir().join("other").display());
    let Some(target) = Vm::wait_in(&net, &qemu, "target", &netdev) else { return };
    let behind = |line: &str| vm.sh(&format!("setsid {line} </dev/null >/tmp/out 2>&1 &"));
    let sum = vm.sh("dd if=/dev/urandom of=/tmp/noise bs=1M count=24 2>/dev/null; sha256sum /tmp/noise");
    // So much changes all the time that the guest does not move before it may.
    behind("sh -c 'until [ -e /tmp/enough ]; do cp /tmp/noise /tmp/copy; done'");
    vm.migrate_to(&target, 16 * MIB);
    // All of its memory is at the other end, as it was.
    let passes = |migration: String| {
        let number = migration.split("\"dirty-sync-count\": ").nth(1)?.split([',', '}']).next()?;
        number.parse().is_ok_and(|number: u32| number > 2).then_some(())
    };
    eventually_within(DEADLINE * 4, "a pass over all memory", || passes(vm.migration()));
    // What comes now is written by passt alone.
    let (count, length) = HELD;
    vm.sh(&format!(
        "setsid peer held {} {length} {count} /tmp/go </dev/null >/tmp/held 2>&1 &",
        at(FAR4, 5001)
    ));
    eventually_within(DEADLINE * 2, "data", || vm.sh("cat /tmp/held").contains("HELD").then_some(()));
    // A transfer that does not survive, and is under way until the end.
    behind(&format!("peer down {} {} 1", at(FAR6, 5001), 1_u64 << 40));
    assert!(vm.migration().contains("\"active\""), "{}", vm.migration());
    vm.sh("touch /tmp/enough");
    vm.set_migration_rate(1 << 30);
    eventually_within(DEADLINE * 4, "a guest that moved", || {
        vm.migration().contains("\"completed\"").then_some(())
    });
    drop(vm);
    eventually("a guest that runs", || target.monitor("query-status").contains("\"running\"").then_some(()));
    target.sh("touch /tmp/go");
    let expected: Vec<String> = (1..=count).map(|seed| stream::expected(length, seed)).collect();
    let expected = format!("HELD\n{}", expected.join("\n"));
    eventually_within(DEADLINE * 2, "all that was held", || {
        let said = target.sh("cat /tmp/held");
        (said.lines().count() > usize::try_from(count).expect("a number")).then_some(())
    });
    assert_eq!(target.sh("cat /tmp/held").trim(), expected);
    assert_eq!(target.sh("sha256sum /tmp/noise"), sum);
    for address in [FAR4, FAR6] {
        exchange(&target, &at(address, 5001));
    }
    upload(&target, &at(FAR4, 5001), 16 * MIB);
    download(&target, &at(FAR6, 5001), 16 * MIB);
    let _server = target.serve("[::]:5001");
    exchange(&net.host, "127.0.0.1:5002");
}

/// A guest that was to move, and stays: its device goes on all the time, also where the driver starts
/// it while pages are noted.
#[test]
fn moving_is_given_up() {
    let (Some(net), Some(qemu)) = (Net::new(), qemu()) else { return };
    let _servers = far_servers(&net);
    let _passt = passt(&net, "");
    let several = Extras { device: "mq=on", ..Extras::default() };
    let Some(vm) = Vm::boot_with(&net, &qemu, "guest", &netdev(&net, 2), several) else { return };
    vm.configure();
    let transfers = || {
        for address in [FAR4, FAR6] {
            upload(&vm, &at(address, 5001), 8 * MIB);
            download(&vm, &at(address, 5001), 8 * MIB);
        }
    };
    for starts_again in [false, true] {
        vm.migrate("exec:cat >/dev/null", MIB);
        eventually("a guest on the move", || vm.migration().contains("\"active\"").then_some(()));
        transfers();
        if starts_again {
            vm.sh("rmmod virtio_net && insmod /modules/*virtio_net.ko*");
            eventually("the interface", || vm.sh("echo /sys/class/net/*").contains("eth0").then_some(()));
            vm.configure();
            transfers();
        }
        assert!(vm.migration().contains("\"active\""), "{}", vm.migration());
        vm.monitor("migrate_cancel");
        let is_over = || vm.monitor("query-migrate").contains("\"cancelled\"");
        eventually("a guest that stays", || is_over().then_some(()));
        transfers();
    }
}

/// A monitor's end of a passt that has set up its device.
fn machine(net: &Net, protocol: ProtocolFeatures) -> Machine {
    let connect = || UnixStream::connect(net.dir().join("socket")).ok();
    let machine = Machine::new(Shape::usual(protocol), eventually("passt", connect)).expect("memory");
    machine.start();
    eventually("answers", || machine.answer().map(drop));
    machine
}

/// The guest asks for its gateway's hardware address.
fn ask(machine: &mut Machine) {
    let request = frame::arp([2, 0, 0, 0, 0, 1], HOST4, GATEWAY4);
    assert!(machine.send(&frame::ethernet([2, 0, 0, 0, 0, 1], 0x806, &request).into(), &[]));
}

/// A monitor that makes the log of pages shorter is seen off, and the next one is served.
#[test]
fn a_log_that_becomes_shorter() {
    let Some(net) = Net::new() else { return };
    let mut passt = passt(&net, "");
    for _ in 0..3 {
        let mut machine = machine(&net, ProtocolFeatures::REPLY_ACK | ProtocolFeatures::LOG_SHMFD);
        let file = memfd_create("log", MemfdFlags::CLOEXEC).expect("a file");
        ftruncate(&file, MIB).expect("a length");
        machine.log_base(file.as_fd(), MIB, 0);
        machine.log(true);
        eventually("a log", || machine.number().filter(|answer| *answer == (6, 0)).map(drop));
        machine.post();
        ask(&mut machine);
        eventually("an answer", || (!machine.take().is_empty()).then_some(()));
        let mut log = Vec::new();
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .and_then(|mut file| file.read_to_end(&mut log))
            .expect("the log");
        assert!(log.iter().any(|byte| *byte != 0), "pages that were written");
        ftruncate(&file, 0).expect("a length");
        ask(&mut machine);
        machine.kick(TRANSMIT);
        passt.wait_for("Client connection closed");
        assert!(passt.try_wait().is_none(), "passt ended");
    }
}

/// A monitor that makes its memory shorter is seen off, and the next one is served.
#[test]
fn memory_that_becomes_shorter() {
    let Some(net) = Net::new() else { return };
    let mut passt = passt(&net, "");
    for _ in 0..3 {
        let mut machine = machine(&net, ProtocolFeatures::REPLY_ACK);
        machine.post();
        ask(&mut machine);
        eventually("an answer", || (!machine.take().is_empty()).then_some(()));
        let file = memfd_create("memory", MemfdFlags::CLOEXEC).expect("a file");
        let regions = machine.regions();
        let mut content = vec![0; machine.region().size()];
        assert!(machine.region().copy_out(0, &mut content));
        File::from(file.try_clone().expect("another")).write_all(&content).expect("written");
        let table = words(&[&[2], regions.as_flattened()].concat());
        machine.request(5, true, &table, &[file.as_fd(); 2]);
        eventually("another table", || machine.number().filter(|answer| *answer == (5, 0)).map(drop));
        ftruncate(&file, 0).expect("a length");
        machine.kick(TRANSMIT);
        passt.wait_for("Client connection closed");
        assert!(passt.try_wait().is_none(), "passt ended");
    }
}

/// Whether qemu still has the descriptor of the machine's memory. qemu 11 closes one twice when it has
/// started passt; if a thread opened another in between, and closes that in turn, it may be this
/// one, and passt is sent what has its number then.
fn has_memory(vm: &Vm) -> bool {
    let all = std::fs::read_dir(format!("/proc/{}/fd", vm.qemu.pid())).expect("qemu's descriptors");
    let mut links = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.any(|link| link.to_string_lossy().contains("memory-backend-memfd"))
}

/// A file that a failed test shows: what a process in the background has logged.
struct Shown(PathBuf);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("---- {}", std::fs::read_to_string(&self.0).unwrap_or_default());
        }
    }
}

/// qemu starts passt for itself.
#[test]
fn passt_started_by_qemu() {
    let Some(net) = Net::new() else { return };
    let Some(qemu) = Vm::qemu_since("-netdev passt", (10, 1)) else { return };
    let _servers = far_servers(&net);
    let log = Shown(net.dir().join("log"));
    let script = net.dir().join("logged");
    let passt = net.dir().join("passt");
    let text = format!("#!/bin/sh\nexec {} \"$@\" --debug --log-file {}\n", passt.display(), log.0.display());
    std::fs::write(&script, text).expect("a script");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("executable");
    let device = format!("passt,vhost-user=on,path={}", script.display());
    let boot = || Vm::boot_in(&net, &qemu, "guest", &device);
    let Some(mut vm) = boot() else { return };
    for _ in 0..4 {
        if has_memory(&vm) {
            break;
        }
        println!("qemu has closed its memory's descriptor; again");
        drop(vm);
        let Some(another) = boot() else { return };
        vm = another;
    }
    vm.configure();
    for address in [FAR4, FAR6] {
        exchange(&vm, &at(address, 5001));
    }
}
