//! What it says: help, version, errors of the command line, warnings, and what it tells of the
//! network at its start.

use passt_tests::Finished;

use crate::rig::{Rig, before_tapfd, run};

/// No process has this number, as it is the most that the kernel can be told to stay under.
const NOBODY: &str = "4194304";

/// What callers look for in the help before they use it.
const OPTIONS: [&str; 22] = [
    "-c, --configure",
    "-e, --exit-fd=FD",
    "-r, --ready-fd=FD",
    "-m, --mtu=MTU",
    "-6, --enable-ipv6",
    "-a, --api-socket=PATH",
    "--cidr=CIDR",
    "--disable-host-loopback",
    "--netns-type=TYPE",
    "--userns-path=PATH",
    "--enable-sandbox",
    "--enable-seccomp",
    "--outbound-addr=IPv4",
    "--outbound-addr6=IPv6",
    "--disable-dns",
    "--macaddress=MAC",
    "--target-type=TYPE",
    "-h, --help",
    "-v, --version",
    "(default=1500, max=65521)",
    "(default=10.0.2.0/24)",
    "[netns|bess]",
];

/// The program's name stands there as it was called.
fn is_usage(text: &str) -> bool {
    let called = text.starts_with("Usage: ") && text.contains("slirp4netns [OPTION]... PID|PATH");
    called && OPTIONS.iter().all(|part| text.contains(part))
}

#[test]
fn help() {
    // Others than the first are errors or ignored behind it.
    for arguments in ["--help", "-h", "--hel", "-h -v", "1 tap0 -h", "-ch", "--help --bogus"] {
        let Finished { status, stdout, stderr } = run(arguments);
        assert!(status.success() && is_usage(&stdout) && stderr.is_empty(), "{arguments}: {stdout}{stderr}");
    }
}

#[test]
fn version() {
    for arguments in ["--version", "-v", "--vers", "1 tap0 -v"] {
        let Finished { status, stdout, stderr } = run(arguments);
        assert!(status.success() && stderr.is_empty(), "{arguments}: {stderr}");
        let keys = ["slirp4netns version ", "commit: ", "libslirp: ", "SLIRP_CONFIG_VERSION_MAX: "];
        for (line, key) in stdout.lines().zip(keys) {
            assert!(line.strip_prefix(key).is_some_and(|value| !value.is_empty()), "{key:?}: {stdout}");
        }
        // What callers take from it: that there are --outbound-addr and --disable-dns.
        let number = stdout.lines().nth(3).and_then(|line| line.strip_prefix(keys[3])).expect("four lines");
        assert!(number.parse::<u32>().expect("a number") >= 3, "{stdout}");
        if let Some(line) = stdout.lines().nth(4) {
            assert!(line.starts_with("libseccomp: "), "{stdout}");
        }
    }
}

/// Arguments and what standard error says; standard output is the usage.
const WITH_USAGE: [(&str, &str); 48] = [
    ("", ""),
    ("-c", ""),
    ("4194304", ""),
    ("-c 4194304", ""),
    ("0 tap0", "PID must be a positive integer"),
    ("12x tap0", "PID must be a positive integer"),
    ("-- -5 tap0", "PID must be a positive integer"),
    ("99999999999999999999 tap0", "PID must be a positive integer"),
    ("--netns-type=pid x tap0", "PID must be a positive integer"),
    ("--exit-fd=x 4194304 tap0", "exit-fd must be a non-negative integer"),
    ("-e -1 4194304 tap0", "exit-fd must be a non-negative integer"),
    ("-e 3x 4194304 tap0", "exit-fd must be a non-negative integer"),
    ("--ready-fd=x 4194304 tap0", "ready-fd must be a non-negative integer"),
    ("-r -1 4194304 tap0", "ready-fd must be a non-negative integer"),
    ("-r 3x 4194304 tap0", "ready-fd must be a non-negative integer"),
    ("-m 0 4194304 tap0", "MTU must be a positive integer (< 65522)"),
    ("-m x 4194304 tap0", "MTU must be a positive integer (< 65522)"),
    ("-m 65522 4194304 tap0", "MTU must be a positive integer (< 65522)"),
    ("--mtu=-5 4194304 tap0", "MTU must be a positive integer (< 65522)"),
    ("--mtu 15y 4194304 tap0", "MTU must be a positive integer (< 65522)"),
    ("4194304 tap0 --mtu=0", "MTU must be a positive integer (< 65522)"),
    (
        "--netns-type=path /nope tap0",
        "existing path expected when --netns-type=path: No such file or directory",
    ),
    (
        "--netns-type=odd /nope tap0",
        "existing path expected when --netns-type=path: No such file or directory",
    ),
    ("--netns-type= /nope tap0", "existing path expected when --netns-type=path: No such file or directory"),
    ("--userns-path=/nope 4194304 tap0", "userns path doesn't exist: /nope"),
    (
        "--macaddress=0a:00:00:00:00:01 4194304 tap0",
        "--macaddr cannot be specified when --configure or -c is not specified",
    ),
    ("--target-type=foo 4194304 tap0", "--target-type must be either \"netns\" or \"bess\""),
    ("--target-type= 4194304 tap0", "--target-type must be either \"netns\" or \"bess\""),
    ("-c --target-type=bess /tmp/nope", "--configure conflicts with --target-type=bess"),
    ("--target-type=bess --netns-type=path /tmp/nope", "--netns-type conflicts with --target-type=bess"),
    ("--target-type=bess --netns-type=pid /tmp/nope", "--netns-type conflicts with --target-type=bess"),
    (
        "--target-type=bess --userns-path=/proc/self/ns/user /tmp/nope",
        "--userns-path conflicts with --target-type=bess",
    ),
    ("--target-type=bess /tmp/nope tap0", "too many arguments"),
    ("--target-type=bess", ""),
    ("--bogus", "slirp4netns: unrecognized option '--bogus'"),
    ("--bogus -h", "slirp4netns: unrecognized option '--bogus'"),
    ("-Z", "slirp4netns: invalid option -- 'Z'"),
    ("-cZ 4194304 tap0", "slirp4netns: invalid option -- 'Z'"),
    ("-1 tap0", "slirp4netns: invalid option -- '1'"),
    ("-e", "slirp4netns: option requires an argument -- 'e'"),
    ("--mtu", "slirp4netns: option '--mtu' requires an argument"),
    ("--net", "slirp4netns: option '--netns-type' requires an argument"),
    ("--help=3", "slirp4netns: option '--help' doesn't allow an argument"),
    ("--conf=3", "slirp4netns: option '--configure' doesn't allow an argument"),
    (
        "--e 3 4194304 tap0",
        "slirp4netns: option '--e' is ambiguous; possibilities: '--exit-fd' '--enable-ipv6' '--enable-sandbox' '--enable-seccomp'",
    ),
    (
        "--enable-s 4194304 tap0",
        "slirp4netns: option '--enable-s' is ambiguous; possibilities: '--enable-sandbox' '--enable-seccomp'",
    ),
    (
        "--dis 4194304 tap0",
        "slirp4netns: option '--dis' is ambiguous; possibilities: '--disable-host-loopback' '--disable-dns'",
    ),
    ("--netns-type=tapfd", ""),
];

#[test]
fn errors_with_usage() {
    for (arguments, text) in WITH_USAGE {
        fails(arguments, text, true);
    }
    // The older one has no such type, and wants the device's name first.
    if !before_tapfd() {
        fails("x", "PID must be a positive integer", true);
        fails("--netns-type=tapfd x", "TAPFD must a file descriptor", true);
        fails("--netns-type=tapfd -- -5", "TAPFD must a file descriptor", true);
    }
}

/// The same without the usage.
const WITHOUT_USAGE: [(&str, &str); 14] = [
    ("--cidr=24 4194304 tap0", "invalid CIDR: 24"),
    ("--cidr=foo 4194304 tap0", "invalid CIDR: foo"),
    ("--cidr=10.0.2.0 4194304 tap0", "invalid CIDR: 10.0.2.0"),
    ("--cidr= 4194304 tap0", "invalid CIDR: "),
    ("--cidr=10.0.2.0/x 4194304 tap0", "invalid CIDR: 10.0.2.0/x"),
    ("--cidr=10.0.2.0/24x 4194304 tap0", "invalid CIDR: 10.0.2.0/24x"),
    ("--cidr=fd00::/64 4194304 tap0", "invalid CIDR: fd00::/64"),
    (
        "--cidr=10.0.2.100/24 4194304 tap0",
        "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
    ),
    ("--cidr=10.0.2.0/26 4194304 tap0", "prefix length needs to be 1-25"),
    ("--cidr 10.0.2.0/0 4194304 tap0", "prefix length needs to be 1-25"),
    ("--outbound-addr=nope 4194304 tap0", "outbound-addr has to be valid ipv4 address or interface name."),
    ("--outbound-addr=::1 4194304 tap0", "outbound-addr has to be valid ipv4 address or interface name."),
    // Spelt like this by the original.
    ("--outbound-addr6=nope 4194304 tap0", "outbound-addr has to be valid ipv4 address or iterface name."),
    (
        "-c --macaddress=zz:00:00:00:00:00 4194304 tap0",
        "\"zz:00:00:00:00:00\" is an invalid MAC address.\n\
         macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':').",
    ),
];

#[test]
fn errors_without_usage() {
    for (arguments, text) in WITHOUT_USAGE {
        fails(arguments, text, false);
    }
}

/// Requires that these arguments are an error with this text. The program's name before it is how
/// it was called.
fn fails(arguments: &str, text: &str, usage: bool) {
    let Finished { status, stdout, stderr } = run(arguments);
    assert_eq!(status.code(), Some(1), "{arguments}");
    assert_eq!(is_usage(&stdout), usage, "{arguments}: {stdout}");
    let (stderr, text) = (stderr.trim_end_matches('\n'), text.trim_end_matches('\n'));
    let same = if text.starts_with("slirp4netns: ") { stderr.ends_with(text) } else { stderr == text };
    assert!(same, "{arguments}: {stderr:?} instead of {text:?}");
}

/// Arguments that are right, and the warning on standard output. That there is no such process ends
/// them all.
const ACCEPTED: [(&str, &str); 24] = [
    ("4194304 tap0", ""),
    ("4194304 --configure tap0", ""),
    ("4194304 tap0 -c", ""),
    ("-c -m 1500 -- 4194304 tap0", ""),
    ("--conf --mt=1500 --cid 10.0.2.0/24 4194304 tap0", ""),
    ("-cm1500 4194304 tap0", ""),
    ("-m 65521 4194304 tap0", ""),
    ("-m 1 4194304 tap0", ""),
    ("--cidr=10.0.2.0/25 4194304 tap0", ""),
    ("--cidr=128.0.0.0/1 4194304 tap0", ""),
    ("--disable-dns --disable-host-loopback 4194304 tap0", ""),
    ("--netns-type=pid 4194304 tap0", ""),
    ("--target-type=netns 4194304 tap0", ""),
    ("-c --macaddress=0a:00:00:00:00:01 4194304 tap0", ""),
    ("4194304 tap0 more words", "WARNING: too many arguments"),
    ("-6 4194304 tap0", "WARNING: Support for IPv6 is experimental"),
    ("--enable-ipv6 4194304 tap0", "WARNING: Support for IPv6 is experimental"),
    ("--enable-seccomp 4194304 tap0", "WARNING: Support for seccomp is experimental"),
    ("--enable-sandbox 4194304 tap0", ""),
    ("--outbound-addr=192.0.2.2 4194304 tap0", "WARNING: Support for --outbound-addr is experimental"),
    ("--outbound-addr=lo 4194304 tap0", "WARNING: Support for --outbound-addr is experimental"),
    ("--outbound-addr6=2001:db8::2 4194304 tap0", "WARNING: Support for --outbound-addr6 is experimental"),
    (
        "--no-host-loopback 4194304 tap0",
        "WARNING: --no-host-loopback is deprecated and will be removed in future releases, please use --disable-host-loopback instead.",
    ),
    (
        "--create-sandbox 4194304 tap0",
        "WARNING: --create-sandbox is deprecated and will be removed in future releases, please use --enable-sandbox instead.",
    ),
];

#[test]
fn warnings() {
    for (arguments, warning) in ACCEPTED {
        let Finished { status, stdout, stderr } = run(arguments);
        let reason = format!("/proc/{NOBODY}/ns/net: No such file or directory");
        assert!(status.code() == Some(1) && stderr.contains(&reason), "{arguments}: {status} {stderr}");
        // The original says some of it twice, as both of its processes write what is buffered.
        let mut lines: Vec<&str> = stdout.lines().collect();
        lines.dedup();
        assert_eq!(lines.join("\n"), warning, "{arguments}");
    }
}

#[test]
fn a_bess_path_that_is_too_long() {
    let finished = run(&format!("--target-type=bess /tmp/{}", "a".repeat(108)));
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stderr.contains("the specified BESS socket path is too long (>= 108)"), "{finished:?}");
}

/// Numbers of lines, and what stands there instead.
type Changed = &'static [(usize, &'static str)];

/// Options, the lines that they change, and those that they add.
const BANNERS: [(&str, Changed, &[&str]); 7] = [
    ("", &[], &[]),
    ("--mtu=65520", &[(1, "* MTU:             65520")], &[]),
    (
        "--cidr=10.0.135.128/25",
        &[
            (2, "* Network:         10.0.135.128"),
            (3, "* Netmask:         255.255.255.128"),
            (4, "* Gateway:         10.0.135.130"),
            (5, "* DNS:             10.0.135.131"),
            (6, "* DHCP begin:      10.0.135.143"),
            (7, "* DHCP end:        10.0.135.158"),
            (8, "* Recommended IP:  10.0.135.228"),
        ],
        &[],
    ),
    ("--api-socket=api", &[], &["* API Socket:      api"]),
    ("--outbound-addr=192.0.2.2", &[], &["* Outbound IPv4:    192.0.2.2"]),
    ("--enable-ipv6 --outbound-addr6=2001:db8::2", &[], &["* Outbound IPv6:    2001:db8::2"]),
    (
        "--macaddress=0a:00:00:00:00:01 --api-socket=api --outbound-addr=eth0",
        &[],
        &["* API Socket:      api", "* Outbound IPv4:    192.0.2.2", "* MAC address:     0a:00:00:00:00:01"],
    ),
];

const BANNER: [&str; 9] = [
    "Starting slirp",
    "* MTU:             1500",
    "* Network:         10.0.2.0",
    "* Netmask:         255.255.255.0",
    "* Gateway:         10.0.2.2",
    "* DNS:             10.0.2.3",
    "* DHCP begin:      10.0.2.15",
    "* DHCP end:        10.0.2.30",
    "* Recommended IP:  10.0.2.100",
];

/// What it says of the network at its start; read after its end, as the original buffers.
#[test]
fn banner() {
    let Some(rig) = Rig::new() else { return };
    for (options, changed, added) in BANNERS {
        for loopback in ["", "--disable-host-loopback"] {
            let stdout = rig.start(&format!("{options} {loopback}")).stop().stdout;
            let mut lines: Vec<&str> = BANNER.to_vec();
            for (number, line) in changed {
                lines[*number] = line;
            }
            lines.extend(added);
            let gateway = lines[4].rsplit(' ').next().expect("an address");
            let warning = format!(
                "WARNING: 127.0.0.1:* on the host is accessible as {gateway} \
                 (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)"
            );
            lines.extend(loopback.is_empty().then_some(warning.as_str()));
            let text = stdout.find(BANNER[0]).map_or("", |start| &stdout[start..]);
            assert_eq!(text.lines().collect::<Vec<_>>(), lines, "{options} {loopback}: {stdout}");
        }
    }
}

/// What it says besides: which calls its filter stops, and where it got the device from.
#[test]
fn words_at_the_start() {
    let Some(rig) = Rig::new() else { return };
    let ended = rig.start("--enable-sandbox --enable-seccomp --enable-ipv6").stop();
    for warning in ["Support for IPv6 is experimental", "Support for seccomp is experimental"] {
        assert!(ended.stdout.contains(&format!("WARNING: {warning}")), "{ended:?}");
    }
}
