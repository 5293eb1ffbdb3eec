//! Makes a machine able to run the tests: programs, tap device, kernel settings.
//!
//! Nothing here is fatal. What can't be had makes tests skip, and they say why.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use passt_tests::boot::Arch;

/// A program the tests run, or another file that they need, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("/usr/share/selinux/devel/Makefile", "selinux-policy-dev"),
    ("apparmor_parser", "apparmor"),
    ("busybox", "busybox"),
    ("codespell", "codespell"),
    ("curl", "curl"),
    ("dhclient", "isc-dhcp-client"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("g++", "g++"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("lintian", "lintian"),
    ("lowdown", "lowdown"),
    ("mandoc", "mandoc"),
    ("mtr", "mtr-tiny"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("nsenter", "util-linux"),
    ("pasta", "passt"),
    ("ping", "iputils-ping"),
    ("python3", "python3"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("redis-benchmark", "redis-tools"),
    ("redis-server", "redis-server"),
    ("rpmbuild", "rpm"),
    ("rpmlint", "rpmlint"),
    ("semodule", "policycoreutils"),
    ("slirp4netns", "slirp4netns"),
    ("socat", "socat"),
    ("ssh", "openssh-client"),
    ("sshd", "openssh-server"),
    ("strace", "strace"),
    ("sysctl", "procps"),
    ("tcpdump", "tcpdump"),
    ("tmux", "tmux"),
    ("tracepath", "iputils-tracepath"),
    ("traceroute", "traceroute"),
    ("udhcpc", "udhcpc"),
    ("valgrind", "valgrind"),
    ("wg", "wireguard-tools"),
    ("wireguard-go", "wireguard-go"),
    ("wrk", "wrk"),
    ("xz", "xz-utils"),
];

/// Does what can be done as this user; says in one line what can't.
pub(crate) fn prepare() {
    install_programs();
    if is_root() {
        make_tap_device();
        allow_congestion_controls();
    }
}

/// Has a machine's emulator be there, which only some tests need.
pub(crate) fn need_emulator(arch: &Arch) -> Result<()> {
    let (program, package) = (arch.emulator(), arch.emulator_package);
    if !installed(&program) {
        install(&[package]);
    }
    ensure!(installed(&program), "{program} is not installed: the package is {package}");
    Ok(())
}

fn install_programs() {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !installed(program)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        install(&missing);
    }
}

fn install(missing: &[&str]) {
    let install = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !is_root() || !installed("apt-get") {
        println!("For all tests, install as root: {install}");
        return;
    }
    println!("Installing: {}", missing.join(" "));
    let services = KeepServicesOff::new();
    if !shell("apt-get update -q") || !shell(&install) {
        println!("Not everything could be installed; tests that need it will be skipped");
    }
    drop(services);
}

/// Whether a program is in PATH or the administrator's directories.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').any(|dir| Path::new(dir).join(program).is_file())
}

fn shell(line: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// While it lives, packages do not start the daemons they bring: the tests
/// start their own, in namespaces.
struct KeepServicesOff(bool);

impl KeepServicesOff {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Self {
        if Path::new(Self::POLICY).exists() {
            return Self(false);
        }
        let written = fs::write(Self::POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755)));
        Self(written.is_ok())
    }
}

impl Drop for KeepServicesOff {
    fn drop(&mut self) {
        if self.0 {
            drop(fs::remove_file(Self::POLICY));
        }
    }
}

/// The device node as udev would have it: some containers and minimal
/// machines lack it, or keep it from users.
fn make_tap_device() {
    let node = "/dev/net/tun";
    if !Path::new(node).exists() && !shell("mkdir -p /dev/net && mknod /dev/net/tun c 10 200") {
        println!("{node} could not be made");
    }
    if let Err(error) = fs::set_permissions(node, fs::Permissions::from_mode(0o666)) {
        println!("{node}: {error}");
    }
}

/// Lets namespaces choose any congestion control the kernel has; without it
/// they are bound to the machine's default.
fn allow_congestion_controls() {
    let all = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    let written = all.and_then(|all| fs::write("/proc/sys/net/ipv4/tcp_allowed_congestion_control", all));
    if let Err(error) = written {
        println!("congestion control: {error}");
    }
}
