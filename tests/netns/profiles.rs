//! What security modules are told about the programs, `contrib/apparmor` and `contrib/selinux`:
//! their own compilers take it, and with `AppArmor` everything works that has to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use passt_tests::transfer::at;
use passt_tests::{FAR4, Net, Place as _, Process, User, Vm, eventually, have, program_path};

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("contrib").join(name)
}

/// Compiles the profile of a program for the kernel.
fn compile(program: &str, to: &Path) {
    let folder = contrib("apparmor");
    let mut command = Command::new("apparmor_parser");
    command.args(["--skip-kernel-load", "--skip-cache", "--Werror=all"]);
    // The parser would say that this kernel's features are unknown, which is no matter.
    command.args(["--features-file", "/etc/apparmor.d/abi/3.0"]);
    command.arg("-I").arg(&folder).args(["-I", "/etc/apparmor.d", "-o"]).arg(to);
    Process::start(command.arg(folder.join(format!("usr.bin.{program}")))).succeed();
}

/// Debian's kernel with both profiles in force. Its root is an initial ramdisk, which can't be left
/// but by the fallback.
#[test]
fn confined_by_apparmor() {
    let Some(net) = Net::new() else { return };
    if !have(&["apparmor_parser"]) {
        return;
    }
    let mut files = Vec::new();
    for (program, path, policy) in
        [("passt", "/usr/bin/passt", "/policy/passt"), ("pasta", "/usr/bin/pasta", "/policy/pasta")]
    {
        let compiled = net.dir().join(format!("{program}.policy"));
        compile(program, &compiled);
        files.extend([(path, program_path(program)), (policy, compiled)]);
    }
    let _server = net.peer.serve(&at(FAR4, 5001));
    let _passt = net.passt(User::Normal).listen("socket");
    let netdev = format!("stream,server=off,addr.type=unix,addr.path={}", net.dir().join("socket").display());
    let append = "apparmor=1 security=apparmor";
    let Some(vm) = Vm::boot_with(&net, "guest", &netdev, append, &files) else { return };
    vm.run("ip link set eth0 up");
    vm.run("udhcpc -i eth0 -f -q -n -t 5 -T 1 -s /etc/udhcpc");
    vm.run("mount -t securityfs none /sys/kernel/security");
    // As udev does.
    vm.run("chmod 666 /dev/net/tun");
    for name in ["passt", "pasta"] {
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
    let options = "--config-net --chroot-fallback --log-file /tmp/log --pcap /tmp/frames";
    let mut command = vm.start(&format!("/usr/bin/pasta {options} /bin/peer hold"));
    command.wait_for("READY");
    let pasta = confinement("pasta");
    assert!(pasta.lines().any(|line| line == "pasta (enforce)"), "{pasta}");
    command.finish();
    let seen =
        vm.run(&format!("/usr/bin/pasta --config-net --chroot-fallback /bin/peer who {}", at(FAR4, 5001)));
    assert!(!seen.trim().is_empty(), "no answer");

    vm.run("/usr/bin/passt --chroot-fallback --socket /tmp/socket --pid /tmp/pid -t 8000 -u 8000");
    let passt = confinement("passt");
    assert!(passt.lines().all(|line| line == "passt (enforce)"), "{passt}");
    assert!(vm.peer("connect 127.0.0.1:8000").starts_with("connected"));
    // What is forbidden is refused.
    let refused = vm.sh("/usr/bin/passt --foreground --socket /etc/socket 2>&1 || true");
    assert!(refused.contains("Permission denied"), "{refused}");
}

/// The module is one that the reference policy's tools make a package of.
#[test]
fn selinux_module() {
    const MAKEFILE: &str = "/usr/share/selinux/devel/Makefile";
    if !have(&[MAKEFILE, "make"]) {
        return;
    }
    let dir = std::env::temp_dir().join(format!("passt-selinux-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    for entry in fs::read_dir(contrib("selinux")).expect("the module") {
        let path = entry.expect("a file").path();
        fs::copy(&path, dir.join(path.file_name().expect("a name"))).expect("a copy");
    }
    let mut make = Command::new("make");
    let output = make.args(["-f", MAKEFILE, "passt.pp"]).current_dir(&dir).output().expect("make");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let made = dir.join("passt.pp").exists();
    fs::remove_dir_all(&dir).expect("removed");
    assert!(output.status.success() && made, "{text}");
    assert!(!text.contains("Warning"), "{text}");
}
