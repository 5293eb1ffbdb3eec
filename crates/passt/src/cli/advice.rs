//! What to do about a mistake on the command line.
//!
//! Programs that start us compare how messages begin, so their words stay, and advice follows on the
//! same line, behind a semicolon. What to do about the host is told by `app::advice`.

use super::options::MIN_LOG_SIZE;
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
pub(super) fn ports(spec: &str) -> String {
    if let Some(ours) = docker(spec) {
        return format!("; write {ours}");
    }
    let numbers: Vec<_> = spec.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
    let is_out = |word: &&str| !word.parse().is_ok_and(|port: u16| port > 0);
    let is_range = |text: &str| {
        text.split_once('-').is_some_and(|(a, b)| [a, b].map(values::digits).iter().all(Option::is_some))
    };
    let lengths_differ = spec.split_once(':').is_some_and(|(from, to)| is_range(from) || is_range(to));
    let text = if spec.is_empty() {
        "write none for no ports"
    } else if spec.bytes().all(|b| b.is_ascii_digit() || b":-,~".contains(&b)) && numbers.iter().any(is_out) {
        "ports are 1 to 65535"
    } else if spec.contains("localhost") {
        "write 127.0.0.1 or ::1 for localhost, as in 127.0.0.1/8080:80"
    } else if numbers.len() == 2 && is_range(spec) {
        "the first port of a range is the lower one"
    } else if lengths_differ {
        "a range is forwarded to one of the same length, as in 8000-8010:9000-9010"
    } else {
        "write PORT, FIRST-LAST, PORT:PORT or ADDRESS/PORT:PORT, as in 127.0.0.1/8080:80"
    };
    format!("; {text}")
}

/// Ports as Docker has them, `[ADDRESS:][PORT:]PORT[/PROTOCOL]`, as we do.
fn docker(spec: &str) -> Option<String> {
    let (given, protocol) = match spec.rsplit_once('/') {
        Some((given, protocol @ ("tcp" | "udp"))) => (given, Some(protocol)),
        _ => (spec, None),
    };
    let is_ports = |text: &str| {
        let is_port = |word: &str| word.parse().is_ok_and(|port: u16| port > 0);
        !text.is_empty() && text.split(['-', ':']).all(is_port)
    };
    let ours = if protocol.is_some() && is_ports(given) {
        given.to_owned()
    } else {
        // The address of IPv6 has colons, too, and is in brackets then.
        let end = if given.starts_with('[') { given.find("]:")? + 1 } else { given.find(':')? };
        let (addr, ports) = (given.get(..end)?, given.get(end + 1..)?);
        values::addr(addr.trim_start_matches('[').trim_end_matches(']')).filter(|_| is_ports(ports))?;
        format!("{addr}/{ports}")
    };
    Some(match protocol {
        Some("udp") => format!("-u {ours}"),
        Some(_) => format!("-t {ours}"),
        None => ours,
    })
}

/// A line for who gives ports to `--pcap`, as `-p` of other programs takes them.
pub(super) fn capture(file: &str) -> Option<String> {
    let is_spec = !file.is_empty() && file.bytes().all(|b| b.is_ascii_digit() || b".:-".contains(&b));
    let ours = docker(file).or_else(|| is_spec.then(|| file.to_owned()))?;
    let ours = if ours.starts_with('-') { ours } else { format!("-t {ours}") };
    Some(format!("-p is --pcap: frames are recorded in the file {file}; ports are forwarded with {ours}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_others_write_them() {
        for (spec, expected) in [
            ("127.0.0.1:8080:80", "; write 127.0.0.1/8080:80"),
            ("127.0.0.1:8080", "; write 127.0.0.1/8080"),
            ("[::1]:8080:80", "; write [::1]/8080:80"),
            ("0.0.0.0:8080-8090:80-90", "; write 0.0.0.0/8080-8090:80-90"),
            ("8080:80/tcp", "; write -t 8080:80"),
            ("53/udp", "; write -u 53"),
            ("127.0.0.1:53:53/udp", "; write -u 127.0.0.1/53:53"),
            ("", "; write none for no ports"),
            ("0", "; ports are 1 to 65535"),
            ("65536", "; ports are 1 to 65535"),
            ("80-90:100", "; a range is forwarded to one of the same length, as in 8000-8010:9000-9010"),
        ] {
            assert_eq!(ports(spec), expected, "{spec}");
        }
        for spec in ["http", "80:x", "1.2.3/22", "[::1/22", "]:", "[]:1", "::", "\u{e9}:1"] {
            assert!(ports(spec).starts_with("; write PORT, "), "{spec}");
        }
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
        ] {
            let told = capture(file);
            assert_eq!(told.as_deref().and_then(|line| line.split("with ").nth(1)), ours, "{file}");
        }
    }
}
