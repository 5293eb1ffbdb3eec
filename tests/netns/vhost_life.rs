//! What a monitor does to a virtual machine while that runs, by vhost-user: its network device is
//! taken away and given back, its link goes down, it gets more memory, it is reset.

use passt_tests::transfer::{MIB, at, deadline, download, exchange, far_servers, upload};
use passt_tests::{
    Extras, FAR4, FAR6, GATEWAY4, HOST4, MAC, Net, Place as _, Process, Vm, eventually, eventually_within,
    stream, vhost,
};

/// Bytes of a transfer that something happens to.
const LENGTH: u64 = 64 * MIB;

/// A slot that a device can be taken out of.
const SLOT: Extras<'_> = Extras {
    device: "id=nic,bus=plug",
    append: "",
    files: &[],
    arguments: "-device pcie-root-port,id=plug,chassis=1",
};

/// Transfers each way, one of each family, that are under way.
fn transfers(net: &Net, vm: &Vm) -> [Process; 2] {
    let counters = || {
        ["tx_bytes", "rx_bytes"].map(|counter| {
            let bytes = net.host.run(&format!("cat /sys/class/net/eth0/statistics/{counter}"));
            bytes.trim().parse::<u64>().expect("a number")
        })
    };
    let [sent, received] = counters();
    let transfers = [
        vm.start_peer(&format!("up {} {LENGTH} 1", at(FAR4, 5001))),
        vm.start_peer(&format!("down {} {LENGTH} 1", at(FAR6, 5001))),
    ];
    eventually("4 MiB each way", || {
        let now = counters();
        (now[0] > sent + 4 * MIB && now[1] > received + 4 * MIB).then_some(())
    });
    transfers
}

/// These arrive as they were sent.
fn arrive(vm: &Vm, transfers: [Process; 2]) {
    for transfer in transfers {
        let summary = transfer.succeed_within(2 * deadline(vm, LENGTH));
        assert_eq!(summary.trim(), stream::expected(LENGTH, 1));
    }
}

/// Waits until the guest has its interface, or has it no more.
fn wait_for_interface(vm: &Vm, there: bool) {
    eventually("the interface", || (vm.sh("echo /sys/class/net/*").contains("eth0") == there).then_some(()));
}

/// Takes the device out; it is gone when the guest has let it go.
fn unplug(vm: &Vm) {
    vm.monitor_with("device_del", r#""id": "nic""#);
    wait_for_interface(vm, false);
    eventually("the device's end", || {
        let path = r#""path": "/machine/peripheral/nic""#;
        vm.ask_monitor("qom-list", path).err().filter(|error| error.contains("not found"))
    });
}

/// Puts it in, and has the guest configure it as before.
fn plug(vm: &Vm) {
    let device = format!(
        r#""driver": "virtio-net-pci", "id": "nic", "bus": "plug", "netdev": "n0", "romfile": "", "mac": "{MAC}""#
    );
    vm.monitor_with("device_add", &device);
    wait_for_interface(vm, true);
    let lease = vm.configure();
    assert!(lease.starts_with(&format!("LEASE {HOST4}/24 {GATEWAY4} ")), "{lease}");
}

/// The guest has its addresses again with each new device, and connections that were there go on.
#[test]
fn device_taken_out_and_put_in() {
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, mut passt)) = vhost::start(&net, "-t 5001", SLOT) else { return };
    let transfers = transfers(&net, &vm);
    for _ in 0..3 {
        unplug(&vm);
        plug(&vm);
        for address in [FAR4, FAR6] {
            exchange(&vm, &at(address, 5001));
        }
    }
    arrive(&vm, transfers);
    let _server = vm.serve("[::]:5001");
    exchange(&net.host, "127.0.0.1:5001");
    assert!(passt.try_wait().is_none(), "passt ended");
}

/// The connection to passt goes with the device, and there is another for the next one.
#[test]
fn network_removed_and_added() {
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, mut passt)) = vhost::start(&net, "", SLOT) else { return };
    for _ in 0..2 {
        unplug(&vm);
        // The socket goes with it.
        vm.monitor_with("netdev_del", r#""id": "n0""#);
        passt.wait_for("Client connection closed");
        let socket = net.dir().join("socket");
        let address = format!(r#""addr": {{"type": "unix", "data": {{"path": "{}"}}}}"#, socket.display());
        let backend = format!(r#"{{"type": "socket", "data": {{{address}, "server": false}}}}"#);
        vm.monitor_with("chardev-add", &format!(r#""id": "net", "backend": {backend}"#));
        vm.monitor_with("netdev_add", r#""type": "vhost-user", "id": "n0", "chardev": "net""#);
        plug(&vm);
        for address in [FAR4, FAR6] {
            upload(&vm, &at(address, 5001), 16 * MIB);
            download(&vm, &at(address, 5001), 16 * MIB);
        }
    }
    assert!(passt.try_wait().is_none(), "passt ended");
}

/// Whoever pulls the plug and puts it in again finds transfers go on.
#[test]
fn link_down_and_up() {
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, mut passt)) = vhost::start(&net, "", Extras::default()) else { return };
    let transfers = transfers(&net, &vm);
    for _ in 0..3 {
        for (up, carrier) in [(false, "0"), (true, "1")] {
            vm.monitor_with("set_link", &format!(r#""name": "n0", "up": {up}"#));
            eventually("the link's state", || {
                vm.sh("cat /sys/class/net/eth0/carrier").trim().eq(carrier).then_some(())
            });
        }
        for address in [FAR4, FAR6] {
            exchange(&vm, &at(address, 5001));
        }
    }
    arrive(&vm, transfers);
    assert!(passt.try_wait().is_none(), "passt ended");
}

/// MiB of memory that the guest uses.
fn memory(vm: &Vm) -> u64 {
    let text = vm.sh("cat /proc/meminfo");
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"));
    total.and_then(|total| total.trim().parse::<u64>().ok()).expect("MemTotal") / 1024
}

/// What passt has of files of the guest's memory with so many KiB: of each, how many KiB it has
/// come by.
fn mapped(passt: &Process, size: u64) -> Vec<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps", passt.pid())).expect("its memory");
    let of = |key: &str| {
        let values = text.lines().filter_map(move |line| line.strip_prefix(key)?.strip_suffix("kB"));
        values.map(|value| value.trim().parse::<u64>().expect("a number")).collect::<Vec<_>>()
    };
    let all = of("Size:").into_iter().zip(of("Rss:"));
    all.filter(|(mapped, _)| *mapped == size).map(|(_, resident)| resident).collect()
}

/// Gives the machine a file of memory of so many MiB.
fn add_memory(vm: &Vm, name: &str, size: u64) {
    let file = format!(
        r#""qom-type": "memory-backend-memfd", "id": "file-{name}", "size": {}, "share": true"#,
        size * MIB
    );
    vm.monitor_with("object-add", &file);
    let device = format!(r#""driver": "pc-dimm", "id": "{name}", "memdev": "file-{name}""#);
    vm.monitor_with("device_add", &device);
}

/// The guest gets memory in the middle of transfers, in more parts than a table of memory has room
/// for, and has frames there. Then one part is taken away.
#[test]
fn memory_comes_and_goes() {
    const PARTS: u64 = 10;
    const PART: u64 = 128;
    const LAST: u64 = 256;
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let room = Extras { arguments: "-m 512,slots=16,maxmem=4G", ..Extras::default() };
    let Some((vm, mut passt)) = vhost::start(&net, "", room) else { return };
    let before = memory(&vm);
    let online = |how: &str| vm.sh(&format!("echo {how} >/sys/devices/system/memory/auto_online_blocks"));
    online("online");
    let transfers = transfers(&net, &vm);
    for number in 0..PARTS {
        add_memory(&vm, &format!("part{number}"), PART);
    }
    eventually("all of it", || (memory(&vm) >= before + PARTS * PART).then_some(()));
    arrive(&vm, transfers);
    for address in [FAR4, FAR6] {
        upload(&vm, &at(address, 5001), 32 * MIB);
        download(&vm, &at(address, 5001), 32 * MIB);
    }
    let parts = mapped(&passt, PART * 1024);
    assert_eq!(parts.len() as u64, PARTS, "{parts:?}");
    assert!(parts.iter().sum::<u64>() > 1024, "frames are elsewhere: {parts:?}");

    // What is to go again is for programs alone: a kernel's own can't be moved.
    online("online_movable");
    add_memory(&vm, "last", LAST);
    eventually("more", || (memory(&vm) >= before + PARTS * PART + LAST).then_some(()));
    assert_eq!(mapped(&passt, LAST * 1024).len(), 1);
    let transfers = self::transfers(&net, &vm);
    vm.monitor_with("device_del", r#""id": "last""#);
    eventually("less", || (memory(&vm) < before + PARTS * PART + LAST).then_some(()));
    eventually("the file's end", || vm.ask_monitor("object-del", r#""id": "file-last""#).ok());
    assert_eq!(mapped(&passt, LAST * 1024).len(), 0);
    arrive(&vm, transfers);
    assert!(passt.try_wait().is_none(), "passt ended");
}

/// Each time the guest starts anew it is served as the first time.
#[test]
fn machine_is_reset() {
    let Some(net) = Net::new() else { return };
    let _servers = far_servers(&net);
    let Some((vm, mut passt)) = vhost::start(&net, "", Extras::default()) else { return };
    vm.monitor_with("set-action", r#""reboot": "reset""#);
    for starts in 2..4 {
        // In the middle of what it does.
        let transfers = transfers(&net, &vm);
        vm.monitor("system_reset");
        eventually_within(passt_tests::DEADLINE * 3, "another start", || {
            (vm.qemu.stdout().matches("AGENT").count() == starts).then_some(())
        });
        drop(transfers);
        let lease = vm.configure();
        assert!(lease.starts_with(&format!("LEASE {HOST4}/24 {GATEWAY4} ")), "{lease}");
        for address in [FAR4, FAR6] {
            upload(&vm, &at(address, 5001), 16 * MIB);
            download(&vm, &at(address, 5001), 16 * MIB);
        }
    }
    assert!(passt.try_wait().is_none(), "passt ended");
}
