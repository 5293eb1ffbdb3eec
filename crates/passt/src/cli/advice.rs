//! What to do about a mistake on the command line.
//!
//! Programs that start us compare how messages begin, so their words stay, and advice follows on the
//! same line, behind a semicolon. What to do about the host is told by `app::advice`.

use std::borrow::Cow;
use std::ffi::OsString;
use std::net::IpAddr;

use passt_engine::forward::rule::Families;

use super::options::MIN_LOG_SIZE;
use super::ports::{self, PortContext, PortError, Ports};
use super::values;

/// Where all options are listed, behind what is wrong with one.
pub(super) fn see_help(message: &str, program: &str) -> String {
    let joint = if message.ends_with('?') { " Try" } else { "; try" };
    format!("{message}{joint} '{program} --help' for a list of options")
}

/// A name that may have been meant, behind the message that there is none like it.
pub(super) fn meant(name: Option<&str>) -> String {
    name.map(|name| format!("; did you mean '--{name}'?")).unwrap_or_default()
}

/// Where a word with one dash is a long option.
pub(super) fn two_dashes(name: &str) -> String {
    format!("-{name} is several options of one letter: the long one is --{name}, with two dashes")
}

/// Where a word with one dash is the beginning of a long option, such as this.
pub(super) fn begun_with_one_dash(name: &str, long: &str) -> String {
    format!("-{name} is several options of one letter: long ones have two dashes, as in --{long}")
}

/// The same where there are no options of one letter.
pub(super) fn needs_two_dashes(name: &str, long: &str) -> String {
    format!("unrecognized option '-{name}': options have two dashes, as in --{long}")
}

/// What a value should have been, behind the message that says `what` it was for.
pub(super) fn expected(what: &str) -> String {
    let text = match what {
        "MTU" => "it is a number of bytes up to 65520, or 0 for none",
        "--log-size" => return format!("; it is a number of bytes, {MIN_LOG_SIZE} or more"),
        "--stats interval" => "it is a number of seconds, 1 or more",
        "netmask" => "write a number of bits or a mask, as in 24 or 255.255.255.0",
        "MAC address" => {
            "write six pairs of hexadecimal digits, not all 0, and the first one even, for odd ones are \
             groups, as in 02:00:00:00:00:01"
        }
        "guest address" => "write the address of one host, as in 192.0.2.2/24 or 2001:db8::2",
        "gateway address" | "outbound address" | "time server" => {
            "write the address of one host, as in 192.0.2.1 or 2001:db8::1"
        }
        "DNS forwarding address" => {
            "write an address that the guest doesn't need otherwise, as in 169.254.1.1"
        }
        "DNS host address" => "write the address of a resolver, as in 127.0.0.53",
        "address to map to the host's loopback" | "address to map to the guest's address" => {
            "write an address that the guest doesn't need otherwise, as in 169.254.1.2, or none"
        }
        "subnet" => {
            "write a network of 128 addresses or more, of IPv4, by the first of them, neither loopback \
             nor groups, as in 10.0.2.0/24"
        }
        "hostname" | "FQDN" | "domain name" => {
            "names have up to 253 characters, no blanks, and 1 to 63 between two dots"
        }
        "framing" => "it is qemu, bess, vfkit, hyperkit or stdio",
        "--runas option" => "write USER or USER:GROUP, names or numbers",
        "--fd" => "it is the number of an open descriptor of a connected UNIX socket",
        "PID" => "it is the number of a process, 1 or more; './NAME' runs a program of that name",
        "socket path" | "configuration socket path" | "--repair-path" => "it has 1 to 107 bytes",
        "log file path" | "PID file" | "capture file" | "network namespace" | "user namespace path" => {
            "it has 1 to 4095 bytes"
        }
        _ => announced(what),
    };
    if text.is_empty() { String::new() } else { format!("; {text}") }
}

/// The same for what guests are told by DHCP, DHCPv6 and router advertisements.
fn announced(what: &str) -> &'static str {
    match what {
        "--dhcp-opt, not CODE=VALUE" => "the code is a number or a name, as in 42=192.0.2.1",
        "--dhcpv6-opt, not CODE=VALUE" => "the code is a number or a name, as in 31=2001:db8::1",
        "--dhcp-lease" => {
            "write seconds or infinite, as in 3600 or 3600,1800,3150, where 0 < T1 <= T2 <= TIME, and T1 \
             is half of TIME by default"
        }
        "--dhcpv6-lease" => {
            "write seconds or infinite, as in 7200 or 7200,3600,1800,2880, where \
             0 < T1 <= T2 <= PREFERRED <= VALID, and T1 is half of PREFERRED by default"
        }
        "--dhcp-boot" => {
            "FILE has 1 to 255 bytes, SERVER is an IPv4 address, as in pxelinux.0,192.0.2.1,tftp.example"
        }
        "captive portal URI" => {
            "write a whole URI of up to 255 bytes, without blanks, as in https://portal.example/api"
        }
        "--ra-lifetime" => "it is a number of seconds from 4 to 65535, or 0",
        "--ra-preference" => "it is high, medium or low",
        "--ra-dns-lifetime" => "it is a number of seconds up to 4294967295, or infinite",
        "--ra-route" => {
            "write a prefix with 0 in all bits beyond its length, and perhaps high, medium or low, and \
             seconds, as in 2001:db8::/32,high,600"
        }
        "--ra-pref64" => {
            "write a prefix with a length of 32, 40, 48, 56, 64 or 96, and 0 in all bits beyond, and \
             perhaps seconds up to 65528, as in 64:ff9b::/96,1800"
        }
        _ => "",
    }
}

/// What else has to be done where options exclude or lack each other.
pub(super) fn together(text: &str) -> &'static str {
    match text {
        "Redundant prefix length specification" => {
            "; --netmask and the length behind the address of --address say the same: leave one out"
        }
        "Can't display statistics if not running in foreground" => "; put --foreground before --stats",
        "Both --netns and PID or command given" => {
            "; leave one out, and use 'nsenter' to run a command in a namespace that exists"
        }
        _ => "",
    }
}

/// How to write ports that don't follow the grammar.
pub(super) fn ports(spec: &str, context: PortContext) -> String {
    let parts = Parts::of(spec);
    let text = parts.ours(context).unwrap_or_else(|| parts.mistake(context));
    format!("; {text}")
}

/// Ports as they were written, by us or by Docker: `[ADDRESS/]LIST` or
/// `[ADDRESS:][PORT:]PORT[/PROTOCOL]`.
struct Parts<'a> {
    addr: Option<&'a str>,
    list: Cow<'a, str>,
    udp: Option<bool>,
    /// They were to lead to `localhost`, which is left out.
    to_localhost: bool,
}

impl<'a> Parts<'a> {
    fn of(spec: &'a str) -> Self {
        let (given, udp) = match spec.rsplit_once('/') {
            Some((given, protocol @ ("tcp" | "udp"))) => (given, Some(protocol == "udp")),
            _ => (spec, None),
        };
        // An address of IPv6 has colons, too, and is in brackets or before a slash.
        let ends = [Some(given.len()), given.find('/'), given.find("]:").map(|at| at + 1), given.find(':')];
        let split = ends.into_iter().flatten().find_map(|end| {
            let addr = given.get(..end).filter(|addr| ports::bracketed(addr).is_some())?;
            Some((Some(addr), given.get(end + 1..).unwrap_or_default()))
        });
        let (addr, list) = split.unwrap_or((None, given));
        let guest = [":localhost:", ":localhost/"].iter().find(|name| list.contains(**name));
        let (list, to_localhost) = match (guest, list.strip_suffix(":localhost")) {
            (Some(name), _) => (list.replace(name, ":").into(), true),
            (None, Some(rest)) => (rest.into(), true),
            (None, None) => match with_target(list) {
                Some((from, target, to)) if target.is_loopback() => (format!("{from}:{to}").into(), true),
                Some((from, IpAddr::V4(target), to)) => (format!("{from}:{target}/{to}").into(), false),
                Some((from, IpAddr::V6(target), to)) => (format!("{from}:[{target}]/{to}").into(), false),
                None => (list.into(), false),
            },
        };
        Self { addr, list, udp, to_localhost }
    }

    /// The same as we have it, for an option that takes that, or why none does.
    fn ours(&self, context: PortContext) -> Option<String> {
        let (ours, without) = match self.addr {
            Some(_) if context.outbound => (self.list.to_string(), true),
            Some(addr) => (format!("{addr}/{}", self.list), false),
            None => (self.any(context).unwrap_or_default().to_owned() + &self.list, false),
        };
        // It may be copied to a shell.
        if !ours.bytes().all(|b| b.is_ascii_alphanumeric() || b".:,-/[]".contains(&b)) {
            return None;
        }
        match Ports::parse(&[OsString::from(&ours)], context) {
            Ok(_) => {}
            Err(PortError::Addresses { reason, .. }) => return Some(reason),
            Err(_) => return None,
        }
        let option = match (self.udp, context.outbound) {
            (None, _) => "",
            (Some(false), false) => "-t ",
            (Some(false), true) => "-T ",
            (Some(true), false) => "-u ",
            (Some(true), true) => "-U ",
        };
        let why = match (without, self.to_localhost) {
            (true, _) => ", for the address is always that of the loopback",
            (false, true) if context.outbound => ", for ports lead to the host's localhost",
            (false, true) => ", for ports lead to the guest unless another address is given",
            (false, false) => "",
        };
        let own = ours.strip_prefix("0.0.0.0/").map(|rest| format!("127.0.0.1/{rest}"));
        let own = own.or_else(|| ours.strip_prefix("[::]/").map(|rest| format!("[::1]/{rest}")));
        // As ssh(1) has it, the address would be that of the loopback.
        let narrow =
            own.filter(|_| self.addr.is_none()).map(|own| format!(", or {option}{own} for the host alone"));
        Some(format!("write {option}{ours}{why}{}", narrow.unwrap_or_default()))
    }

    /// The listening address that a target needs where none was given.
    fn any(&self, context: PortContext) -> Option<&'static str> {
        let (_, target) = self.list.split_once(':')?;
        let (target, _) = target.rsplit_once('/')?;
        let target =
            ports::bracketed(target).filter(|_| context.families == Families::Both && !context.outbound)?;
        Some(if target.is_ipv4() { "0.0.0.0/" } else { "[::]/" })
    }

    /// What is wrong with it.
    fn mistake(&self, context: PortContext) -> String {
        let (addr, list) = (self.addr, self.list.as_ref());
        let is_listed = list.bytes().all(|b| b.is_ascii_digit() || b":-,~".contains(&b));
        let mut numbers = list.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        let is_local = list.contains("localhost");
        if addr.is_none() && list.is_empty() && self.udp.is_none() {
            "write none for no ports".into()
        } else if context.outbound && (is_local || addr.is_some() && list.is_empty()) {
            format!("{} goes from loopback to loopback: write ports alone, as in 8080:80", context.option)
        } else if addr.is_some() && list.is_empty() {
            let v6 = addr.and_then(ports::bracketed).is_some_and(|addr| addr.is_ipv6());
            format!("an address needs ports behind it, as in {}/8080", loopback(context, v6))
        } else if list.split(',').any(|item| item == "none") {
            "none stands alone, for no ports".into()
        } else if !list.is_empty() && list.split(',').any(str::is_empty) {
            let place = if list.contains(",,") { "between commas" } else { "beside a comma" };
            format!("a port is missing {place}")
        } else if is_listed && numbers.any(|word| !word.parse().is_ok_and(|port: u16| port > 0)) {
            "ports are 1 to 65535".into()
        } else if is_local {
            let addr = match context.families {
                Families::Both => "127.0.0.1 or ::1",
                Families::V4Only => "127.0.0.1",
                Families::V6Only => "::1",
            };
            format!("write {addr} for localhost, as in {}/8080:80", loopback(context, false))
        } else if list.split([',', ':', '~', '/']).filter_map(range).any(|(first, last)| first > last) {
            "the first port of a range is the lower one".into()
        } else if list.split(',').any(lengths_differ) {
            "a range is forwarded to one of the same length, as in 8000-8010:9000-9010".into()
        } else if context.outbound {
            "write PORT, FIRST-LAST or PORT:PORT, as in 8080:80".into()
        } else {
            let addr = loopback(context, false);
            format!("write PORT, FIRST-LAST, PORT:PORT or ADDRESS/PORT:PORT, as in {addr}/8080:80")
        }
    }
}

/// The parts of `PORT:ADDRESS:PORT`, as ssh(1) has it.
fn with_target(list: &str) -> Option<(&str, IpAddr, &str)> {
    let (from, rest) = list.split_once(':')?;
    let (target, to) = rest.rsplit_once(':')?;
    let is_target = target.starts_with('[') || !target.contains(':');
    let target = ports::bracketed(target).filter(|_| is_target && !from.is_empty() && !to.is_empty())?;
    Some((from, target, to))
}

/// An address for examples, of a family that is on.
fn loopback(context: PortContext, v6: bool) -> &'static str {
    let v6 = if v6 { context.families != Families::V4Only } else { context.families == Families::V6Only };
    if v6 { "[::1]" } else { "127.0.0.1" }
}

/// The ends of a range, in whichever order they are.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    Some((values::digits(first)?.parse().ok()?, values::digits(last)?.parse().ok()?))
}

/// Whether ports are forwarded to more or fewer.
fn lengths_differ(item: &str) -> bool {
    let span = |text: &str| {
        let one = || values::digits(text)?.parse().ok().map(|port: u16| (port, port));
        let (first, last) = range(text).or_else(one)?;
        last.checked_sub(first)
    };
    let Some((from, to)) = item.split_once(':') else { return false };
    let to = to.rsplit('/').next().unwrap_or_default();
    span(from).zip(span(to)).is_some_and(|(from, to)| from != to)
}

/// A line for who gives ports to `--pcap`, as `-p` of other programs takes them.
pub(super) fn capture(file: &str) -> Option<String> {
    let context = PortContext { option: "-t", outbound: false, pasta: true, families: Families::Both };
    let parts = Parts::of(file);
    if !parts.list.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let ours = parts.ours(context)?;
    let ours = ours.strip_prefix("write ")?;
    let ours = if ours.starts_with('-') { ours.to_owned() } else { format!("-t {ours}") };
    Some(format!("-p is --pcap: frames are recorded in the file {file}; ports are forwarded with {ours}"))
}

#[cfg(test)]
mod tests {
    use super::super::getopt::Spec as _;
    use super::super::option::Action;
    use super::super::{Outcome, options, parse};
    use super::*;

    /// Values that each option refuses, behind the program that has it.
    const WRONG: &[(&str, &str, &[&str])] = &[
        ("passt", "pid", &[""]),
        ("passt", "runas", &[":x", "x:"]),
        ("passt", "conf-path", &[""]),
        ("passt --vhost-user", "repair-path", &[""]),
        ("passt", "log-file", &[""]),
        ("passt", "log-size", &["x", "9"]),
        ("passt -f", "stats", &["x", "0"]),
        ("passt", "pcap", &[""]),
        ("passt", "socket", &[""]),
        ("passt", "socket-path", &[""]),
        ("passt", "framing", &["x"]),
        ("passt", "fd", &["x", "-1"]),
        ("pasta", "netns", &[""]),
        ("pasta", "userns", &[""]),
        ("pasta", "ns-mac-addr", &["x", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"]),
        ("passt", "mtu", &["x", "-1"]),
        ("passt", "address", &["x", "127.0.0.1", "10.0.0.1/33"]),
        ("passt", "netmask", &["x", "0", "255.0.255.0"]),
        ("pasta", "subnet", &["x", "10.0.2.1/24", "10.0.2.0/26", "127.0.0.0/8", "224.0.0.0/8", "fd00::/64"]),
        ("passt", "gateway", &["x", "224.0.0.1"]),
        ("passt", "mac-addr", &["x", "01:00:5e:00:00:01"]),
        ("passt", "hostname", &["a b", "a..b"]),
        ("passt", "fqdn", &["a b", "a..b"]),
        ("passt", "outbound", &["x", "::"]),
        ("passt", "map-host-loopback", &["x"]),
        ("passt", "map-guest-addr", &["x"]),
        ("passt", "dns", &["x", ""]),
        ("passt", "dns-forward", &["x", "::1"]),
        ("passt", "dns-host", &["x"]),
        ("passt", "search", &["a..b", ""]),
        ("passt", "dhcp-opt", &["42"]),
        ("passt", "dhcpv6-opt", &["31"]),
        ("passt", "dhcp-lease", &["x", "0", "60,61", "60,50,40"]),
        ("passt", "dhcpv6-lease", &["x", "0", "60,61"]),
        ("passt", "dhcp-boot", &["", "x,host", "x,::1"]),
        ("passt", "domain", &["", "a b"]),
        ("passt", "ntp", &["pool"]),
        ("passt", "captive-portal", &["portal", "http:a b"]),
        ("passt", "ra-lifetime", &["x", "3", "65536"]),
        ("passt", "ra-preference", &["x"]),
        ("passt", "ra-dns-lifetime", &["x", "-1"]),
        ("passt", "ra-route", &["x", "2001:db8::1/64", "::/0,x"]),
        ("passt", "ra-pref64", &["x", "64:ff9b::/95", "64:ff9b::/96,65535"]),
        ("passt", "tcp-ports", &["x", "0"]),
        ("passt", "udp-ports", &["x", "0"]),
        ("pasta", "tcp-ns", &["x", "0"]),
        ("pasta", "udp-ns", &["x", "0"]),
    ];

    /// Options that say what is wrong and no more.
    const WITHOUT: &[(&str, &str)] = &[
        ("ns-ifname", "the message itself says that it is no name of an interface"),
        ("interface", "likewise, and what names there are the host knows: app::advice"),
        ("outbound-if4", "likewise"),
        ("outbound-if6", "likewise"),
    ];

    #[test]
    fn who_gives_a_wrong_value_is_told_a_right_one() {
        for option in options::all().filter(|option| matches!(option.action, Action::Value(_))) {
            let name = option.long();
            let rows = WRONG.iter().filter(|(_, listed, _)| *listed == name).count();
            let reasons = WITHOUT.iter().filter(|(listed, _)| *listed == name).count();
            assert_eq!(rows + reasons, 1, "--{name} has to be in one of the tables, once");
        }
        for (program, name, values) in WRONG {
            for value in *values {
                let given = format!("--{name}={value}");
                let words = program.split(' ').map(OsString::from).chain([given.into()]);
                let Outcome::Fail(text) = parse(words.collect()) else { panic!("--{name}={value} is taken") };
                let advice = text.trim_end().split_once("; ").map(|(_, advice)| advice);
                assert!(advice.is_some_and(|advice| !advice.is_empty()), "--{name}={value}: {text}");
            }
        }
    }

    /// Values of the right form are told what else is wrong with them.
    #[test]
    fn advice_goes_beyond_the_form() {
        for (what, words) in [
            ("MAC address", &["even", "groups", "not all 0"][..]),
            ("subnet", &["IPv4", "first", "loopback", "groups", "128 addresses"]),
            ("domain name", &["no blanks"]),
            ("--dhcp-lease", &["0 < T1 <= T2 <= TIME"]),
            ("--ra-lifetime", &["from 4 to 65535"]),
        ] {
            let told = expected(what);
            for word in words {
                assert!(told.contains(word), "{what}: {told}");
            }
        }
    }

    /// Where an option of pasta's is, with these families.
    fn of(option: &'static str, families: Families) -> PortContext {
        PortContext { option, outbound: matches!(option, "-T" | "-U"), pasta: true, families }
    }

    #[test]
    fn ports_as_others_write_them() {
        use Families::{Both, V4Only, V6Only};
        for (option, families, spec, expected) in [
            ("-t", Both, "127.0.0.1:8080:80", "; write 127.0.0.1/8080:80"),
            ("-t", Both, "127.0.0.1:8080", "; write 127.0.0.1/8080"),
            ("-t", Both, "[::1]:8080:80", "; write [::1]/8080:80"),
            ("-t", Both, "0.0.0.0:8080-8090:80-90", "; write 0.0.0.0/8080-8090:80-90"),
            ("-t", Both, "8080:80/tcp", "; write -t 8080:80"),
            ("-t", Both, "53/udp", "; write -u 53"),
            ("-u", Both, "53/tcp", "; write -t 53"),
            ("-t", Both, "127.0.0.1:53:53/udp", "; write -u 127.0.0.1/53:53"),
            ("-t", Both, "127.0.0.1/53:53/tcp", "; write -t 127.0.0.1/53:53"),
            ("-T", Both, "8080:80/tcp", "; write -T 8080:80"),
            ("-U", Both, "8080:80/tcp", "; write -T 8080:80"),
            ("-T", Both, "53/udp", "; write -U 53"),
            (
                "-T",
                Both,
                "127.0.0.1:8080:80",
                "; write 8080:80, for the address is always that of the loopback",
            ),
            (
                "-U",
                Both,
                "[::1]:53:53/udp",
                "; write -U 53:53, for the address is always that of the loopback",
            ),
            (
                "-t",
                Both,
                "8080:localhost:80",
                "; write 8080:80, for ports lead to the guest unless another address is given",
            ),
            (
                "-u",
                Both,
                "127.0.0.1/53:localhost",
                "; write 127.0.0.1/53, for ports lead to the guest unless another address is given",
            ),
            (
                "-t",
                Both,
                "0.0.0.0:80-90:localhost/180-190/tcp",
                "; write -t 0.0.0.0/80-90:180-190, for ports lead to the guest unless another address is given",
            ),
            (
                "-t",
                Both,
                "8080:127.0.0.1:80",
                "; write 8080:80, for ports lead to the guest unless another address is given",
            ),
            (
                "-u",
                Both,
                "18080:10.0.0.2:80",
                "; write 0.0.0.0/18080:10.0.0.2/80, or 127.0.0.1/18080:10.0.0.2/80 for the host alone",
            ),
            (
                "-t",
                Both,
                "0.0.0.0:8080:127.0.0.1:80",
                "; write 0.0.0.0/8080:80, for ports lead to the guest unless another address is given",
            ),
            ("-t", Both, "127.0.0.1/8080:10.0.0.2:80/tcp", "; write -t 127.0.0.1/8080:10.0.0.2/80"),
            (
                "-t",
                Both,
                "8080:[fd00::2]:80",
                "; write [::]/8080:[fd00::2]/80, or [::1]/8080:[fd00::2]/80 for the host alone",
            ),
            ("-t", V4Only, "8080:10.0.0.2:80", "; write 8080:10.0.0.2/80"),
            ("-t", V6Only, "8080:10.0.0.2:80", "; 10.0.0.2 is of IPv4, which --ipv6-only switches off"),
            (
                "-T",
                Both,
                "8080:10.0.0.2:80",
                "; 10.0.0.2 needs -4, or clients of the other family could not be served",
            ),
            ("-T", Both, "8080:localhost:80", "; write 8080:80, for ports lead to the host's localhost"),
            (
                "-t",
                V6Only,
                "127.0.0.1/8080:localhost",
                "; 127.0.0.1 is of IPv4, which --ipv6-only switches off",
            ),
            ("-t", V4Only, "[::1]:80:80", "; ::1 is of IPv6, which --ipv4-only switches off"),
            ("-t", V6Only, "127.0.0.1:80/tcp", "; 127.0.0.1 is of IPv4, which --ipv6-only switches off"),
            ("-t", Both, "[fe80::1]:80", "; fe80::1 needs an interface, as in fe80::1%eth0/"),
        ] {
            assert_eq!(ports(spec, of(option, families)), expected, "{option} {spec}");
        }
    }

    #[test]
    fn ports_with_a_mistake() {
        use Families::{Both, V4Only, V6Only};
        let lower = "; the first port of a range is the lower one";
        let length = "; a range is forwarded to one of the same length, as in 8000-8010:9000-9010";
        let port = "; ports are 1 to 65535";
        let alone = "; -T goes from loopback to loopback: write ports alone, as in 8080:80";
        for (option, families, spec, expected) in [
            ("-t", Both, "", "; write none for no ports"),
            ("-t", Both, "0", port),
            ("-t", Both, "65536", port),
            ("-t", Both, "70000/tcp", port),
            ("-t", Both, "127.0.0.1/70000", port),
            ("-T", Both, "127.0.0.1:70000:80", port),
            ("-t", Both, "80-90:100", length),
            ("-t", Both, "22,80-90:100-111", length),
            ("-t", Both, "0.0.0.0:80-90:100/tcp", length),
            ("-t", Both, "0.0.0.0/80-90:10.0.0.2/80", length),
            ("-t", Both, "90-80", lower),
            ("-t", Both, "90-80:1-11", lower),
            ("-t", Both, "80-90:11-1", lower),
            ("-t", Both, "8080-80/tcp", lower),
            ("-t", Both, "22,~9-8", lower),
            ("-t", Both, "127.0.0.1:90-80", lower),
            ("-t", Both, "127.0.0.1", "; an address needs ports behind it, as in 127.0.0.1/8080"),
            ("-t", Both, "127.0.0.1/", "; an address needs ports behind it, as in 127.0.0.1/8080"),
            ("-t", Both, "10.0.0.1/tcp", "; an address needs ports behind it, as in 127.0.0.1/8080"),
            ("-t", Both, "::", "; an address needs ports behind it, as in [::1]/8080"),
            ("-t", Both, "[::1]:", "; an address needs ports behind it, as in [::1]/8080"),
            ("-t", V4Only, "::1", "; an address needs ports behind it, as in 127.0.0.1/8080"),
            ("-t", V6Only, "127.0.0.1", "; an address needs ports behind it, as in [::1]/8080"),
            ("-T", Both, "127.0.0.1", alone),
            ("-T", Both, "localhost:80", alone),
            ("-t", Both, "localhost:80", "; write 127.0.0.1 or ::1 for localhost, as in 127.0.0.1/8080:80"),
            ("-t", V6Only, "localhost/80", "; write ::1 for localhost, as in [::1]/8080:80"),
            ("-t", Both, "18080,none", "; none stands alone, for no ports"),
            ("-U", Both, "none,53", "; none stands alone, for no ports"),
            ("-t", Both, "127.0.0.1/none", "; none stands alone, for no ports"),
            ("-t", Both, "80,,", "; a port is missing between commas"),
            ("-t", Both, "80,,81/tcp", "; a port is missing between commas"),
            ("-t", Both, "127.0.0.1/80,", "; a port is missing beside a comma"),
        ] {
            assert_eq!(ports(spec, of(option, families)), expected, "{option} {spec}");
        }
        let others = ["http", "80:x", "1.2.3/22", "[::1/22", "]:", "[]:1", "\u{e9}:1", "/tcp", "80-90:x"];
        // No shell may make something else of what is told, and our parser has to take it.
        let more = ["%$(id)/80/tcp", "1:2:3:4/tcp", "127.0.0.1:1:2:3", "80,80/tcp", "http/udp"];
        for spec in others.into_iter().chain(more) {
            let told = ports(spec, of("-t", Both));
            assert!(told.starts_with("; write PORT, "), "{spec}: {told}");
            assert!(told.ends_with(", as in 127.0.0.1/8080:80"), "{spec}: {told}");
            let told = ports(spec, of("-U", Both));
            assert_eq!(told, "; write PORT, FIRST-LAST or PORT:PORT, as in 8080:80", "{spec}");
        }
        let passt = PortContext { pasta: false, ..of("-t", Both) };
        assert!(ports("auto/tcp", passt).starts_with("; write PORT, "));
    }

    #[test]
    fn captures_that_look_like_ports() {
        for (file, ours) in [
            ("8080:80", Some("-t 8080:80")),
            ("80", Some("-t 80")),
            ("127.0.0.1:8080:80", Some("-t 127.0.0.1/8080:80")),
            ("53:53/udp", Some("-u 53:53")),
            ("frames.pcap", None),
            ("/tmp/80", None),
            ("2024-01-01.pcap", None),
            ("2024.01", None),
            ("8080-80", None),
            ("127.0.0.1", None),
            ("all", None),
            ("80:10.0.0.2", None),
        ] {
            let told = capture(file);
            assert_eq!(told.as_deref().and_then(|line| line.split("with ").nth(1)), ours, "{file}");
        }
    }
}
