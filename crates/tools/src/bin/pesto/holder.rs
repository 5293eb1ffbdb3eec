//! Who has a port: the sealed server can't know, but whoever asks it may.

use std::fs;
use std::net::IpAddr;

use passt::cli::printable;
use passt_control::{Protocol, Rule, Side};

/// State of a listening TCP socket in `/proc/net/tcp` (proc(5)).
const LISTEN: &str = "0A";

/// Who has a port that a rule needs, as far as this process may see it.
pub(crate) fn of(rule: &Rule, port: u16) -> Option<String> {
    if rule.side != Side::Host {
        return None;
    }
    let name = if rule.protocol == Protocol::Tcp { "tcp" } else { "udp" };
    let inodes: Vec<String> =
        [name.to_owned(), format!("{name}6")].iter().flat_map(|name| sockets(name, rule, port)).collect();
    let holder = inodes.iter().find_map(|inode| process(inode));
    holder.or_else(|| (!inodes.is_empty()).then(|| "by a process of another user".to_owned()))
}

/// Inodes of the sockets that have the port, of `/proc/net/NAME`.
fn sockets(name: &str, rule: &Rule, port: u16) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    let has_port = |fields: &Vec<&str>| {
        let (addr, at) = fields.get(1).and_then(|local| local.split_once(':')).unwrap_or_default();
        let is_any = addr.bytes().all(|digit| digit == b'0');
        let is_in_way =
            is_any || rule.address.is_none_or(|wanted| wanted.is_unspecified() || is(addr, wanted));
        let is_open = rule.protocol == Protocol::Udp || fields.get(3) == Some(&LISTEN);
        u16::from_str_radix(at, 16) == Ok(port) && is_in_way && is_open
    };
    let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect());
    lines.filter(has_port).filter_map(|fields| fields.get(9).map(|inode| (*inode).to_owned())).collect()
}

/// Whether hexadecimal digits of `/proc/net`, words in the machine's byte order, are an address.
fn is(digits: &str, addr: IpAddr) -> bool {
    let words = |bytes: &[u8]| {
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_ne_bytes);
        bytes.chunks(4).map(|bytes| format!("{:08X}", word(bytes))).collect::<Vec<_>>().concat()
    };
    match addr {
        IpAddr::V4(addr) => {
            digits == words(&addr.octets()) || digits == words(&addr.to_ipv6_mapped().octets())
        }
        IpAddr::V6(addr) => digits == words(&addr.octets()),
    }
}

/// The process that has a socket open.
fn process(inode: &str) -> Option<String> {
    let target = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let Ok(mut open) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let has = open.any(|entry| {
            entry.is_ok_and(|entry| {
                fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == target.as_str())
            })
        });
        if has {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // Whoever has the process has chosen its name.
            return Some(format!("by {} (PID {pid})", printable(name.trim_end())));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let rule: Rule =
            serde_json::from_str(&format!(r#"{{"protocol":"tcp","address":"127.0.0.1","first":{port}}}"#))
                .expect("a rule");
        let holder = of(&rule, port).expect("somebody");
        assert!(holder.contains(&format!("PID {}", std::process::id())), "{holder}");
        let udp = Rule { protocol: Protocol::Udp, ..rule };
        assert_eq!(of(&udp, port), None);
    }
}
