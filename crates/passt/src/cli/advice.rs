//! What to do about a mistake on the command line.
//!
//! Programs that start us compare how messages begin, so their words stay, and advice follows on the
//! same line, behind a semicolon. What to do about the host is told by `app::advice`.

use std::ffi::OsString;

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

/// What a value should have been, behind the message that says `what` it was for.
pub(super) fn expected(what: &str) -> String {
    let text = match what {
        "MTU" => "it is a number of bytes up to 65520, or 0 for none",
        "--log-size" => return format!("; the smallest is {MIN_LOG_SIZE} bytes"),
        "--stats interval" => "it is a number of seconds, 1 or more",
        "netmask" => "write a number of bits or a mask, as in 24 or 255.255.255.0",
        "MAC address" => "write six pairs of hexadecimal digits, as in 02:00:00:00:00:01",
        "guest address" => "write the address of one host, as in 192.0.2.2/24 or 2001:db8::2",
        "gateway address" | "outbound address" => {
            "write the address of one host, as in 192.0.2.1 or 2001:db8::1"
        }
        "DNS forwarding address" => {
            "write an address that the guest doesn't need otherwise, as in 169.254.1.1"
        }
        "DNS host address" => "write the address of a resolver, as in 127.0.0.53",
        "address to map to the host's loopback" | "address to map to the guest's address" => {
            "write an address that the guest doesn't need otherwise, as in 169.254.1.2, or none"
        }
        "subnet" => "write a network of 128 addresses or more, as in 10.0.2.0/24",
        "hostname" | "FQDN" => "names have up to 253 characters, with 1 to 63 between two dots",
        "framing" => "it is qemu, bess, vfkit, hyperkit or stdio",
        "--runas option" => "write USER or USER:GROUP, names or numbers",
        "--fd" => "it is the number of an open descriptor of a connected UNIX socket",
        "PID" => "it is the number of a process, 1 or more; './NAME' runs a program of that name",
        "socket path" | "configuration socket path" | "--repair-path" => "it has 1 to 107 bytes",
        "log file path" | "PID file" | "capture file" | "network namespace" | "user namespace path" => {
            "it has 1 to 4095 bytes"
        }
        _ => return String::new(),
    };
    format!("; {text}")
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
    list: &'a str,
    udp: Option<bool>,
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
        Self { addr, list, udp }
    }

    /// The same as we have it, for an option that takes that, or why none does.
    fn ours(&self, context: PortContext) -> Option<String> {
        let (ours, without) = match self.addr {
            Some(_) if context.outbound => (self.list.to_owned(), true),
            Some(addr) => (format!("{addr}/{}", self.list), false),
            None => (self.list.to_owned(), false),
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
        let why = if without { ", for the address is always that of the loopback" } else { "" };
        Some(format!("write {option}{ours}{why}"))
    }

    /// What is wrong with it.
    fn mistake(&self, context: PortContext) -> String {
        let Self { addr, list, .. } = *self;
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
    use super::*;

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
