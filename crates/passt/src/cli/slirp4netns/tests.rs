//! Command lines of slirp4netns, and what is said to them.

use std::io;

use super::*;

/// A host with one file and one interface.
struct OneHost;

impl Host for OneHost {
    fn exists(&self, path: &Path) -> io::Result<()> {
        let is_there = path == Path::new("/run/ns");
        if is_there { Ok(()) } else { Err(io::Error::other("No such file or directory")) }
    }

    fn address_of(&self, interface: &str, v6: bool) -> Option<IpAddr> {
        let addr = if v6 { "2001:db8::7" } else { "192.0.2.7" };
        (interface == "eth0").then(|| addr.parse().expect("an address"))
    }
}

fn outcome(line: &str) -> Outcome {
    let words = ["slirp4netns"].into_iter().chain(line.split_whitespace());
    parse(words.map(OsString::from).collect(), &OneHost)
}

fn config(line: &str) -> Config {
    match outcome(line) {
        Outcome::Run(config) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn pasta(line: &str) -> PastaOptions {
    config(line).pasta().expect("a namespace").clone()
}

/// What is refused: the line on standard error, whether the usage is on standard output.
#[test]
fn mistakes() {
    let long = "a".repeat(108);
    let bess = format!("--target-type=bess /{long}");
    let api = format!("--api-socket=/{long} 1 tap0");
    let cases = [
        ("", "", true),
        ("1", "", true),
        ("--foo 1 tap0", "slirp4netns: unrecognized option '--foo'\n", true),
        ("--f\u{1b}[31m 1 tap0", "slirp4netns: unrecognized option '--f\\u{1b}[31m'\n", true),
        ("--f\u{9b}\u{202e}m 1 tap0", "slirp4netns: unrecognized option '--f\\u{9b}\\u{202e}m'\n", true),
        ("--outbound 1 tap0", "ambiguous; possibilities: '--outbound-addr' '--outbound-addr6'\n", true),
        ("-c -z", "slirp4netns: invalid option -- 'z'\n", true),
        ("1 tap0 -m", "slirp4netns: option requires an argument -- 'm'\n", true),
        ("-e -1 1 tap0", "exit-fd must be a non-negative integer\n", true),
        ("--ready-fd=x 1 tap0", "ready-fd must be a non-negative integer\n", true),
        ("-m 0 1 tap0", "MTU must be a positive integer (< 65522)\n", true),
        ("-m 65522 1 tap0", "MTU must be a positive integer (< 65522)\n", true),
        ("--cidr 24 1 tap0", "invalid CIDR: 24\n", false),
        ("--cidr foo/24 1 tap0", "invalid CIDR: foo/24\n", false),
        ("--cidr 10.0.2.0 1 tap0", "invalid CIDR: 10.0.2.0\n", false),
        ("--cidr 10.0.2.0/+24 1 tap0", "invalid CIDR: 10.0.2.0/+24\n", false),
        ("--cidr 10.0.2.0/024 1 tap0", "invalid CIDR: 10.0.2.0/024\n", false),
        ("--cidr 10.0.2.0/26 1 tap0", "prefix length needs to be 1-25\n", false),
        ("--cidr 10.0.2.0/0 1 tap0", "prefix length needs to be 1-25\n", false),
        (
            "--cidr 10.0.2.100/24 1 tap0",
            "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24\n",
            false,
        ),
        ("abc", "PID must be a positive integer\n", true),
        ("abc tap0", "PID must be a positive integer\n", true),
        ("0 tap0", "PID must be a positive integer\n", true),
        ("--netns-type tapfd x", "TAPFD must a file descriptor\n", true),
        (
            "--netns-type=whatever /no tap0",
            "existing path expected when --netns-type=path: No such file or directory\n",
            true,
        ),
        ("--userns-path=/no 1 tap0", "userns path doesn't exist: /no\n", true),
        ("--macaddress=02:00:00:00:00:01 1 tap0", "--macaddr cannot be specified", true),
        ("-c --macaddress=:::::2 1 tap0", "\":::::2\" is an invalid MAC address.", false),
        ("-c --macaddress=x 1 tap0", "\"x\" is an invalid MAC address.\nmacaddress has to be", false),
        ("--outbound-addr x 1 tap0", "outbound-addr has to be valid ipv4 address or interface name.", false),
        ("--outbound-addr ::1 1 tap0", "outbound-addr has to be valid ipv4", false),
        (
            "--outbound-addr6 127.0.0.1 1 tap0",
            "outbound-addr has to be valid ipv4 address or iterface",
            false,
        ),
        ("--target-type=x 1 tap0", "--target-type must be either \"netns\" or \"bess\"\n", true),
        ("--target-type=bess -c /x", "--configure conflicts with --target-type=bess\n", true),
        ("--target-type=bess --netns-type=pid /x", "--netns-type conflicts", true),
        ("--target-type=bess --userns-path=/x /x", "--userns-path conflicts", true),
        ("--target-type=bess /x y", "too many arguments\n", true),
        (&bess, "the specified BESS socket path is too long (>= 108)\n", false),
        (&api, "the specified API socket path is too long (>= 108)\n", false),
        ("1 a/b", "TAPNAME must be a name that an interface can have\n", false),
    ];
    for (line, expected, usage) in cases {
        let Outcome::Refuse { stdout, stderr, status } = outcome(line) else { panic!("{line}") };
        assert!(stderr.contains(expected) && (expected.is_empty() == stderr.is_empty()), "{line}: {stderr}");
        assert_eq!((stdout.contains("Usage: slirp4netns"), status), (usage, 1), "{line}: {stdout}");
    }
}

/// Options stand anywhere, and their names may be cut short.
#[test]
fn options_stand_anywhere() {
    let expected = pasta("-c --mtu=9000 7 tap9");
    for line in ["7 tap9 -c --mtu=9000", "7 -c tap9 --mt 9000", "--conf -m9000 -- 7 tap9"] {
        assert_eq!(pasta(line), expected, "{line}");
        assert_eq!(config(line).mtu, Some(9000));
    }
    assert_eq!((expected.target, expected.interface.as_deref()), (Target::Pid(7), Some("tap9")));
    assert!(expected.config_net && expected.loopback && !pasta("7 tap9").loopback);
}

#[test]
fn namespaces() {
    let own = |path: &str| Userns::JoinOrCurrent(path.into());
    let path = Target::Netns("/run/ns".into());
    let cases = [
        ("7 tap0", Target::Pid(7), own("/proc/7/ns/user")),
        ("--netns-type=pid 7 tap0", Target::Pid(7), own("/proc/7/ns/user")),
        ("--userns-path=/run/ns 7 tap0", Target::Pid(7), own("/run/ns")),
        ("--netns-type=path /run/ns tap0", path.clone(), Userns::Current),
        ("--netns-type=x --userns-path=/run/ns /run/ns tap0", path, own("/run/ns")),
    ];
    for (line, target, userns) in cases {
        let pasta = pasta(line);
        assert_eq!((pasta.target, pasta.userns), (target, userns), "{line}");
    }
    for line in
        ["-c --macaddress=2:50:0:0:0:1 7 tap0", "-c --macaddress=02:50:00:00:00:01 --api-socket= 7 tap0"]
    {
        assert_eq!(pasta(line).mac, Some(Mac([2, 0x50, 0, 0, 0, 1])), "{line}");
        assert_eq!(config(line).api_socket.as_deref(), None, "{line}");
    }
    for (line, socket) in [
        ("--netns-type=tapfd 5", GuestSocket::Tap(5)),
        ("--netns-type=tapfd 5 tap0", GuestSocket::Tap(5)),
        ("--target-type=bess /tmp/x", GuestSocket::Path("/tmp/x".into())),
    ] {
        let Mode::Passt(passt) = config(line).mode else { panic!("{line}") };
        assert_eq!((passt.socket, passt.one_off), (socket, true), "{line}");
    }
}

#[test]
fn what_is_said() {
    let line = "-c -6 --enable-sandbox --enable-seccomp --macaddress=02:11:22:33:44:55 --outbound-addr=eth0 \
                --outbound-addr6=::1 -a /tmp/x.sock --cidr=10.9.0.0/24 -m 9000 7 tap0 extra";
    let config = config(line);
    let expected = "WARNING: Support for IPv6 is experimental
WARNING: Support for seccomp is experimental
WARNING: Support for --outbound-addr is experimental
WARNING: Support for --outbound-addr6 is experimental
WARNING: too many arguments
Starting slirp
* MTU:             9000
* Network:         10.9.0.0
* Netmask:         255.255.255.0
* Gateway:         10.9.0.2
* DNS:             10.9.0.3
* DHCP begin:      10.9.0.15
* DHCP end:        10.9.0.30
* Recommended IP:  10.9.0.100
* API Socket:      /tmp/x.sock
* Outbound IPv4:    192.0.2.7
* Outbound IPv6:    ::1
* MAC address:     02:11:22:33:44:55
WARNING: 127.0.0.1:* on the host is accessible as 10.9.0.2 (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)
";
    let said = config.starter.warnings + &config.starter.banner;
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(config.api_socket.as_deref(), Some(Path::new("/tmp/x.sock")));
    let Outcome::Print(help) = outcome("1 --help") else { panic!("no help") };
    for name in [
        "--netns-type",
        "--enable-ipv6",
        "--cidr",
        "--disable-host-loopback",
        "--api-socket",
        "--enable-sandbox",
        "--enable-seccomp",
        "--mtu",
        "--outbound-addr",
    ] {
        assert!(help.contains(name), "{name}: {help}");
    }
    let Outcome::Print(version) = outcome("-v nonsense") else { panic!("no version") };
    assert!(
        version.starts_with("slirp4netns version ") && version.contains("\nSLIRP_CONFIG_VERSION_MAX: 6\n")
    );
}
