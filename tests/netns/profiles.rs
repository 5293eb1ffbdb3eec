//! What security modules are told about the programs, `contrib/apparmor` and `contrib/selinux`:
//! their own compilers take it, and with each of them in force everything works that has to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use passt_tests::transfer::at;
use passt_tests::{
    Extras, FAR4, Net, Place as _, Process, Qemu, User, Vm, eventually, have, program_path, selinux, skip,
};

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("contrib").join(name)
}

/// A profile of a machine's monitor, which may do anything. It has to have one: what a program
/// without a profile gives away is not asked about.
const MONITOR: &str = "abi <abi/3.0>,
profile monitor /usr/bin/monitor flags=(attach_disconnected) {
  file,
  network,
  capability,
  signal,
}
";

/// Compiles a profile for the kernel.
fn compile(profile: &Path, to: &Path) {
    let folder = contrib("apparmor");
    let mut command = Command::new("apparmor_parser");
    command.args(["--skip-kernel-load", "--skip-cache", "--Werror=all"]);
    // The parser would say that this kernel's features are unknown, which is no matter.
    command.args(["--features-file", "/etc/apparmor.d/abi/3.0"]);
    command.arg("-I").arg(&folder).args(["-I", "/etc/apparmor.d", "-o"]).arg(to);
    Process::start(command.arg(profile)).succeed();
}

/// Debian's kernel with both profiles in force. Its root is an initial ramdisk, which can't be left
/// but by the fallback.
#[test]
fn confined_by_apparmor() {
    let Some(net) = Net::new() else { return };
    if !have(&["apparmor_parser"]) {
        return;
    }
    let monitor = net.dir().join("monitor.profile");
    fs::write(&monitor, MONITOR).expect("a profile");
    let profile = |name: &str| contrib("apparmor").join(format!("usr.bin.{name}"));
    let mut files = Vec::new();
    for (policy, path, program, profile) in [
        ("/policy/passt", "/usr/bin/passt", program_path("passt"), profile("passt")),
        ("/policy/pasta", "/usr/bin/pasta", program_path("pasta"), profile("pasta")),
        ("/policy/monitor", "/usr/bin/monitor", net.dir().join("peer"), monitor),
    ] {
        let compiled = net.dir().join(path.trim_start_matches("/usr/bin/")).with_extension("policy");
        compile(&profile, &compiled);
        files.extend([(path, program), (policy, compiled)]);
    }
    files.push(("/usr/bin/pesto", program_path("pesto")));
    let _server = net.peer.serve(&at(FAR4, 5001));
    let _passt = net.passt(User::Normal).listen("socket");
    let netdev = format!("stream,server=off,addr.type=unix,addr.path={}", net.dir().join("socket").display());
    let extras = Extras {
        append: "apparmor=1 security=apparmor hugepages=16 loglevel=6",
        files: &files,
        ..Extras::default()
    };
    let Some(qemu) = Qemu::installed() else { return };
    let Some(vm) = Vm::boot_with(&net, &qemu, "guest", &netdev, extras) else { return };
    vm.run("ip link set eth0 up");
    vm.run("udhcpc -i eth0 -f -q -n -t 5 -T 1 -s /etc/udhcpc");
    vm.run("mount -t securityfs none /sys/kernel/security");
    // As udev does.
    vm.run("chmod 666 /dev/net/tun");
    for name in ["passt", "pasta", "monitor"] {
        // The kernel wants it in one piece.
        vm.sh(&format!("dd if=/policy/{name} of=/sys/kernel/security/apparmor/.load bs=1M 2>&1"));
    }

    let confinement = |name: &str| {
        eventually(name, || {
            let line = format!("for pid in $(pidof {name}); do cat /proc/$pid/attr/current; done");
            let text = vm.sh(&line);
            text.contains(name).then_some(text)
        })
    };
    let options =
        "--config-net --chroot-fallback --log-file /tmp/log --pcap /tmp/frames -t none -c /tmp/pasta-control";
    let mut command = vm.start(&format!("/usr/bin/pasta {options} /bin/peer hold"));
    command.wait_for("READY");
    let pasta = confinement("pasta");
    assert!(pasta.lines().any(|line| line == "pasta (enforce)"), "{pasta}");
    is_controlled(&vm, "/usr/bin/pesto", "/tmp/pasta-control");
    command.finish();
    let seen =
        vm.run(&format!("/usr/bin/pasta --config-net --chroot-fallback /bin/peer who {}", at(FAR4, 5001)));
    assert!(!seen.trim().is_empty(), "no answer");

    vm.run("/usr/bin/passt --chroot-fallback --socket /tmp/socket --pid /tmp/pid -c /tmp/control -t 8000 -u 8000");
    let passt = confinement("passt");
    assert!(passt.lines().all(|line| line == "passt (enforce)"), "{passt}");
    assert!(vm.peer("connect 127.0.0.1:8000").starts_with("connected"));
    is_controlled(&vm, "/usr/bin/pesto", "/tmp/control");
    // What is forbidden is refused.
    let refused = vm.sh("/usr/bin/passt --foreground --socket /etc/socket 2>&1 || true");
    assert!(refused.contains("Permission denied"), "{refused}");
    shares_memory(&vm, "/usr/bin/passt --chroot-fallback");
}

/// A port comes and goes by the control socket.
fn is_controlled(vm: &Vm, pesto: &str, socket: &str) {
    for (option, outcome) in [("-A", "connected"), ("-D", "ConnectionRefused")] {
        vm.run(&format!("{pesto} {option} -t 8001 {socket}"));
        let seen = vm.peer("connect 127.0.0.1:8001");
        assert!(seen.starts_with(outcome), "{socket} {option}: {seen}");
    }
}

/// Machines have their memory in files of several kinds, where monitors put them. One that is
/// elsewhere is refused.
fn shares_memory(vm: &Vm, passt: &str) {
    vm.sh("mkdir -p /dev/shm /dev/hugepages /var/lib/libvirt/qemu/ram/1-guest");
    vm.sh("mount -t tmpfs none /dev/shm; mount -t hugetlbfs none /dev/hugepages");
    let files =
        ["memfd", "huge", "/dev/shm/guest", "/dev/hugepages/guest", "/var/lib/libvirt/qemu/ram/1-guest/node"];
    for (memory, outcome) in files.map(|file| (file, "ANSWER")).into_iter().chain([("/etc/memory", "gone")]) {
        let options = "--foreground --one-off --vhost-user --socket /tmp/machine";
        let mut passt = vm.start(&format!("{passt} {options}"));
        passt.wait_for("bound at /tmp/machine");
        let answer = vm.sh(&format!("/usr/bin/monitor front-end /tmp/machine {memory} 2>&1 || true"));
        assert!(answer.contains(outcome), "{memory}: {answer}\n{}", passt.stderr());
        let passt = passt.finish();
        assert!(passt.status.success(), "{passt:?}");
        assert_eq!(passt.stderr.contains("no right to them"), outcome == "gone", "{passt:?}");
    }
}

/// What makes packages of modules for the reference policy.
const MAKEFILE: &str = "/usr/share/selinux/devel/Makefile";

/// What is different on a test's machine: the kernel's own domain starts programs, whose libraries
/// are in an initial ramdisk. Nodes of devices have no types of their own. Machines run in the
/// domain that libvirt's have.
const ON_THE_RAMDISK: &str = "policy_module(ramdisk, 1.0)
gen_require(`
	type kernel_t, root_t, event_device_t, passt_t, pasta_t, svirt_t;
	role system_r;
')
passt_domtrans(kernel_t)
pasta_domtrans(kernel_t)
role system_r types { passt_t pasta_t svirt_t };
allow kernel_t svirt_t:process transition;
dontaudit kernel_t svirt_t:process { noatsecure siginh rlimitinh };
allow { passt_t pasta_t svirt_t } root_t:file { read_file_perms exec_file_perms map };
allow { passt_t pasta_t svirt_t } root_t:dir list_dir_perms;
allow { passt_t pasta_t svirt_t } event_device_t:chr_file rw_chr_file_perms;
allow svirt_t kernel_t:fifo_file rw_fifo_file_perms;
allow svirt_t kernel_t:fd use;
";

/// Makes packages of the module, and of one more for the test, in `dir`.
fn make_modules(dir: &Path) -> [PathBuf; 2] {
    fs::create_dir_all(dir).expect("a directory");
    for entry in fs::read_dir(contrib("selinux")).expect("the module") {
        let path = entry.expect("a file").path();
        fs::copy(&path, dir.join(path.file_name().expect("a name"))).expect("a copy");
    }
    fs::write(dir.join("ramdisk.te"), ON_THE_RAMDISK).expect("a module");
    let mut make = Command::new("make");
    let output =
        make.args(["-f", MAKEFILE, "passt.pp", "ramdisk.pp"]).current_dir(dir).output().expect("make");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("Warning"), "{text}");
    ["passt.pp", "ramdisk.pp"].map(|name| dir.join(name))
}

/// Has the kernel take the policy, puts programs where they have their types, and enforces it.
const ENFORCE: &str = "#!/bin/sh -e
    mount -t selinuxfs none /sys/fs/selinux
    dd if=/policy/policy of=/sys/fs/selinux/load bs=16M 2>&1
    for type in passt_exec_t pasta_exec_t qemu_exec_t; do
        mkdir -p /programs/$type
        mount -t tmpfs -o context=system_u:object_r:$type:s0 none /programs/$type
    done
    cp /policy/passt /programs/passt_exec_t
    cp /policy/passt /programs/pasta_exec_t/pasta
    chmod 666 /dev/net/tun
    cp /bin/peer /programs/qemu_exec_t
    mount -t tmpfs -o mode=1777,rootcontext=system_u:object_r:tmp_t:s0 none /tmp
    mkdir -p /run /dev/shm /dev/hugepages
    mount -t tmpfs -o rootcontext=system_u:object_r:var_run_t:s0 none /run
    mount -t tmpfs none /dev/shm
    mount -t hugetlbfs none /dev/hugepages
    # What is refused is a failing test's evidence, on the console.
    echo 0 >/proc/sys/kernel/printk_ratelimit
    echo 1 >/sys/fs/selinux/enforce
";

/// Debian's kernel with Debian's policy and the module in force: passt does its work, and shares
/// memory with a machine as libvirt starts one.
#[test]
fn confined_by_selinux() {
    let Some(net) = Net::new() else { return };
    if !have(&[MAKEFILE, "make", "semodule"]) {
        return;
    }
    let modules = make_modules(&net.dir().join("modules"));
    let policy = match selinux::policy_with(net.dir(), &modules) {
        Ok(policy) => policy,
        Err(error) => return skip(&format!("no policy: {error:#}")),
    };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let _passt = net.passt(User::Normal).listen("socket");
    let netdev = format!("stream,server=off,addr.type=unix,addr.path={}", net.dir().join("socket").display());
    let enforce = net.dir().join("enforce");
    fs::write(&enforce, ENFORCE).expect("a script");
    let files = [
        ("/policy/policy", policy),
        ("/policy/passt", program_path("passt")),
        ("/policy/pesto", program_path("pesto")),
        ("/policy/enforce", enforce),
    ];
    let extras =
        Extras { append: "security=selinux hugepages=16 loglevel=6", files: &files, ..Extras::default() };
    let Some(qemu) = Qemu::installed() else { return };
    let Some(vm) = Vm::boot_with(&net, &qemu, "guest", &netdev, extras) else { return };
    vm.run("ip link set eth0 up");
    vm.run("udhcpc -i eth0 -f -q -n -t 5 -T 1 -s /etc/udhcpc");
    vm.run("/policy/enforce");

    vm.run(
        "/programs/passt_exec_t/passt --chroot-fallback --socket /tmp/socket --pid /run/passt.pid \
         -c /tmp/control -t 8000",
    );
    let domain = vm.sh("cat /proc/$(pidof passt | cut -d' ' -f1)/attr/current");
    assert!(domain.contains("system_u:system_r:passt_t:s0"), "{domain}");
    assert!(vm.peer("connect 127.0.0.1:8000").starts_with("connected"));
    is_controlled(&vm, "/policy/pesto", "/tmp/control");
    let pasta = "/programs/pasta_exec_t/pasta --config-net --chroot-fallback";
    let seen = vm.run(&format!("{pasta} /bin/peer who {}", at(FAR4, 5001)));
    assert!(!seen.trim().is_empty(), "no answer");
    let refused = vm.sh("/programs/passt_exec_t/passt --foreground --socket /etc/socket 2>&1 || true");
    assert!(refused.contains("Permission denied"), "{refused}");
    for (memory, outcome) in [
        ("memfd", "ANSWER"),
        ("huge", "ANSWER"),
        ("/dev/shm/guest", "ANSWER"),
        ("/dev/hugepages/guest", "ANSWER"),
        ("/etc/memory", "gone"),
    ] {
        let options = "--chroot-fallback --foreground --one-off --vhost-user --socket /tmp/machine";
        let mut passt = vm.start(&format!("/programs/passt_exec_t/passt {options}"));
        passt.wait_for("bound at /tmp/machine");
        let answer = vm.sh(&format!(
            "echo system_u:system_r:svirt_t:s0:c1,c2 >/proc/self/attr/exec; \
             /programs/qemu_exec_t/peer front-end /tmp/machine {memory} 2>&1 || true"
        ));
        assert!(answer.contains(outcome), "{memory}: {answer}\n{}", passt.stderr());
        passt.succeed();
    }
}

/// The module is one that the reference policy's tools make a package of.
#[test]
fn selinux_module() {
    if !have(&[MAKEFILE, "make"]) {
        return;
    }
    let dir = std::env::temp_dir().join(format!("passt-selinux-{}", std::process::id()));
    make_modules(&dir);
    fs::remove_dir_all(&dir).expect("removed");
}
