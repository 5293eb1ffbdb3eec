//! The table of options: names, arguments, help and effect, each defined once.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::Error;
use super::config::{Families, MAX_MTU, PerFamily, RepairSocket, Source, Userns, Verbosity};
use super::draft::Draft;
use super::help;
use super::option::{Arg, Opt, Scope, flag, print, value};
use super::values;

/// The long name of the option that is a mode of its own.
pub(super) const VHOST_USER: &str = "vhost-user";

/// Longest path of a UNIX socket, without the byte that ends it.
const MAX_SOCKET_PATH: usize = 107;
/// Longest path of a file, likewise.
const MAX_PATH: usize = 4095;
/// A log file must hold a few lines, however long.
const MIN_LOG_SIZE: u64 = 5 * 8192;
/// Servers for each family, and domains, that fit what we announce.
const MAX_DNS: usize = 3;
const MAX_SEARCH: usize = 6;

/// Options that a long name, perhaps abbreviated, can mean: one if it is clear. Aliases, side by
/// side in the table, are one option by different names.
pub(super) fn by_prefix(name: &str) -> Vec<&'static Opt> {
    let all = || GROUPS.iter().flat_map(|(_, group)| group.iter());
    if let Some(exact) = all().find(|option| option.long == name) {
        return vec![exact];
    }
    let mut found: Vec<&Opt> = all().filter(|o| o.long.starts_with(name)).collect();
    found.dedup_by(|a, b| a.short.is_some() && a.short == b.short);
    found
}

/// The option of a letter.
pub(super) fn by_letter(letter: char) -> Option<&'static Opt> {
    let mut all = GROUPS.iter().flat_map(|(_, group)| group.iter());
    all.find(|option| option.short == Some(letter))
}

/// Every option, in the order and under the titles of the help.
pub(super) static GROUPS: &[(&str, &[Opt])] = &[
    ("General", GENERAL),
    ("Messages", MESSAGES),
    ("Virtual machine", MACHINE),
    ("Namespace", NAMESPACE),
    ("Guest", GUEST),
    ("Host", HOST),
    ("Names", NAMES),
    ("Protocols and services", SERVICES),
    ("Port forwarding", PORTS),
];

const GENERAL: &[Opt] = &[
    print("help", "Print this text", help::usage).short('h'),
    print("version", "Print name and version", help::version),
    flag("foreground", "Don't run in the background", |d| {
        d.config.foreground = true;
    })
    .short('f'),
    value("pid", "FILE", "Write the PID to FILE", |d, arg| {
        d.config.pid_file = Some(arg.path("PID file", MAX_PATH)?);
        Ok(())
    })
    .short('P'),
    value(
        "runas",
        "USER[:GROUP]",
        "Names or numbers to run as, if started as root\ndefault: nobody",
        |d, arg| {
            d.config.run_as = Some(arg.parse("--runas option", values::run_as)?);
            Ok(())
        },
    ),
    value("conf-path", "PATH", "Accept changes of the configuration on socket PATH", |d, arg| {
        let path = arg.path("configuration socket path", MAX_SOCKET_PATH)?;
        d.config.control_socket = Some(path);
        Ok(())
    })
    .short('c'),
    flag("chroot-fallback", "Isolate with chroot() where pivot_root() fails", |d| {
        d.config.chroot_fallback = true;
    }),
    value(
        "repair-path",
        "PATH",
        "Socket for passt-repair, with --vhost-user, or none\ndefault: socket's path with .repair",
        |d, arg| {
            d.passt.repair = if arg.is("none") {
                RepairSocket::None
            } else if d.passt.vhost_user {
                RepairSocket::Path(arg.path("--repair-path", MAX_SOCKET_PATH)?)
            } else {
                return Err(Error::Scope { shown: arg.shown.to_owned(), mode: "vhost-user" });
            };
            Ok(())
        },
    ),
];

const MESSAGES: &[Opt] = &[
    flag("debug", "Say more; cancels --quiet", |d| {
        d.config.log.verbosity = d.config.log.verbosity.max(Verbosity::Debug);
    })
    .short('d'),
    flag("trace", "Say everything; implies --debug", |d| {
        d.config.log.verbosity = Verbosity::Trace;
    }),
    flag("quiet", "Say only what is wrong; cancels --debug", |d| {
        d.config.log.verbosity = Verbosity::Quiet;
    })
    .short('q'),
    flag("stderr", "Does nothing, for compatibility", |d| {
        d.warn("--stderr will be dropped soon");
    })
    .short('e'),
    value("log-file", "PATH", "Log to PATH rather than to the system's log", |d, arg| {
        d.config.log.file = Some(arg.path("log file path", MAX_PATH)?);
        Ok(())
    })
    .short('l'),
    value("log-size", "BYTES", "Size to keep the log file below\ndefault: 1048576", |d, arg| {
        let size = |text: &str| values::number(text).filter(|&size| size >= MIN_LOG_SIZE);
        d.config.log.size = arg.parse("--log-size", size)?;
        Ok(())
    }),
    value("stats", "SECONDS", "Print statistics in this interval, with --foreground", |d, arg| {
        if !d.config.foreground {
            return Err(Error::Conflict("Can't display statistics if not running in foreground"));
        }
        let seconds = |text: &str| values::number(text).filter(|&s| s > 0);
        let seconds = arg.parse("--stats interval", seconds)?;
        d.config.stats = Some(Duration::from_secs(seconds));
        Ok(())
    }),
    value("pcap", "FILE", "Record all frames in FILE", |d, arg| {
        d.config.pcap = Some(arg.path("capture file", MAX_PATH)?);
        Ok(())
    })
    .short('p'),
];

const MACHINE: &[Opt] = &[
    value(
        "socket",
        "PATH",
        "Wait for the virtual machine on socket PATH\ndefault: first free /tmp/passt_N.socket, N from 1",
        socket_path,
    )
    .short('s')
    .only(Scope::Passt),
    value("socket-path", "PATH", "The same", socket_path).short('s').only(Scope::Passt),
    value("fd", "FD", "Use connected socket FD; implies --one-off", |d, arg| {
        let fd = |text: &str| i32::try_from(values::number(text)?).ok();
        d.fd = Some(arg.parse("--fd", fd)?);
        Ok(())
    })
    .short('F')
    .only(Scope::Passt),
    flag("one-off", "Quit when the first client is gone", |d| {
        d.passt.one_off = true;
    })
    .short('1')
    .only(Scope::Passt),
    flag(VHOST_USER, "Speak the vhost-user protocol", |_| {}).only(Scope::Passt),
    print("print-capabilities", "Print what vhost-user front ends ask for", help::capabilities)
        .only(Scope::Passt),
    flag("migrate-exit", "Does nothing, for compatibility", |d| {
        d.warn("--migrate-exit will be dropped soon");
    })
    .only(Scope::VhostUser),
    flag("migrate-no-linger", "Does nothing, for compatibility", |d| {
        d.warn("--migrate-no-linger will be dropped soon");
    })
    .only(Scope::VhostUser),
];

const NAMESPACE: &[Opt] = &[
    value("netns", "PATH|NAME", "Network namespace to connect; NAME is in /run/netns", |d, arg| {
        let path = arg.path("network namespace", MAX_PATH)?;
        let is_name = !arg.value.as_bytes().contains(&b'/');
        let dir = if is_name { "/run/netns" } else { "" };
        d.netns = Some(PathBuf::from(dir).join(path));
        Ok(())
    })
    .only(Scope::Pasta),
    value("userns", "PATH", "User namespace to join; cancels --netns-only", |d, arg| {
        d.userns = Some(Userns::Join(arg.path("user namespace path", MAX_PATH)?));
        Ok(())
    })
    .only(Scope::Pasta),
    flag("netns-only", "Neither join nor create a user namespace", |d| d.userns = Some(Userns::Current))
        .only(Scope::Pasta),
    flag("no-netns-quit", "Keep running when the namespace is gone", |d| d.pasta.netns_quit = false)
        .only(Scope::Pasta),
    value(
        "ns-ifname",
        "NAME",
        "Name of the interface in the namespace\ndefault: that of the host's interface, or tap0",
        |d, arg| {
            d.pasta.interface = Some(arg.interface()?);
            Ok(())
        },
    )
    .short('I')
    .only(Scope::Pasta),
    value("ns-mac-addr", "MAC", "MAC address of that interface", |d, arg| {
        d.pasta.mac = Some(arg.parse("MAC address", values::mac)?);
        Ok(())
    })
    .only(Scope::Pasta),
    flag("config-net", "Configure that interface, rather than let DHCP or NDP do it", |d| {
        d.pasta.config_net = true;
    })
    .only(Scope::Pasta),
    flag("no-copy-routes", "Don't copy the host's routes; will be dropped", |d| {
        d.no_copy_routes = true;
        d.warn("--no-copy-routes will be dropped soon");
    })
    .only(Scope::Pasta),
    flag("no-copy-addrs", "Don't copy the host's addresses; will be dropped", |d| {
        d.no_copy_addrs = true;
        d.warn("--no-copy-addrs will be dropped soon");
    })
    .only(Scope::Pasta),
    flag("host-lo-to-ns-lo", "Connect the host's loopback to the namespace's", |d| {
        d.pasta.host_lo_to_ns_lo = true;
    })
    .only(Scope::Pasta),
    flag("no-splice", "Send loopback traffic through that interface, too", |d| d.no_splice = true)
        .only(Scope::Pasta),
    flag("splice-only", "Connect loopbacks alone, leave that interface unused", |d| d.splice_only = true)
        .only(Scope::Pasta),
];

const GUEST: &[Opt] = &[
    value("mtu", "MTU", "MTU to assign, 0 for none\ndefault: 65520", |d, arg| {
        let mtu = arg.parse("MTU", values::number)?;
        let small = u16::try_from(mtu).ok().filter(|&mtu| mtu <= MAX_MTU);
        let mtu = small.ok_or(Error::Mtu(mtu))?;
        d.config.mtu = (mtu != 0).then_some(mtu);
        Ok(())
    })
    .short('m'),
    value(
        "address",
        "ADDR[/LEN]",
        "Address to assign, once for IPv4 and once for IPv6\ndefault: those of the host's interface",
        |d, arg| {
            let (addr, len) = arg.parse("guest address", values::remote_prefix)?;
            d.config.guest.addr.replace(addr);
            if addr.is_ipv4() {
                d.addr_prefix_len = len;
            }
            Ok(())
        },
    )
    .short('a'),
    value(
        "netmask",
        "MASK",
        "IPv4 mask to assign, dotted or as number of bits\ndefault: that of the host's interface",
        |d, arg| {
            d.netmask = Some(arg.parse("netmask", values::netmask)?);
            Ok(())
        },
    )
    .short('n'),
    value(
        "gateway",
        "ADDR",
        "Default gateway, once for IPv4 and once for IPv6\ndefault: that of the host",
        |d, arg| {
            let addr = arg.parse("gateway address", values::remote)?;
            d.config.guest.gateway.replace(addr);
            Ok(())
        },
    )
    .short('g'),
    value(
        "mac-addr",
        "MAC",
        "MAC address that stands for gateway and host\ndefault: 9a:55:9a:55:9a:55",
        |d, arg| {
            d.config.mac = arg.parse("MAC address", values::mac)?;
            Ok(())
        },
    )
    .short('M'),
    value("hostname", "NAME", "Host name to assign", |d, arg| {
        d.config.guest.hostname = Some(arg.parse("hostname", values::domain)?);
        Ok(())
    })
    .short('H'),
    value("fqdn", "NAME", "Fully qualified domain name to assign", |d, arg| {
        d.config.guest.fqdn = Some(arg.parse("FQDN", values::domain)?);
        Ok(())
    }),
];

const HOST: &[Opt] = &[
    value(
        "interface",
        "NAME",
        "Interface to take addresses and routes from\ndefault: that of the first default route",
        |d, arg| {
            d.config.host.interface = Some(arg.interface()?);
            Ok(())
        },
    )
    .short('i'),
    value("outbound", "ADDR", "Source of outgoing connections, one for IPv4, one for IPv6", |d, arg| {
        const WHAT: &str = "or redundant outbound address";
        let addr = arg.parse(WHAT, values::unicast)?;
        match d.config.host.outbound.replace(addr) {
            None => Ok(()),
            Some(_) => Err(arg.invalid(WHAT)),
        }
    })
    .short('o'),
    value("outbound-if4", "NAME", "Interface that outgoing IPv4 connections are bound to", |d, arg| {
        d.config.host.outbound_interface.v4 = Some(arg.interface()?);
        Ok(())
    }),
    value("outbound-if6", "NAME", "Interface that outgoing IPv6 connections are bound to", |d, arg| {
        d.config.host.outbound_interface.v6 = Some(arg.interface()?);
        Ok(())
    }),
    value(
        "map-host-loopback",
        "ADDR",
        "Address that stands for the host's loopback, for each of\nIPv4 and IPv6, or none\ndefault: the gateway's",
        |d, arg| {
            let map = &mut d.config.mapping;
            if arg.is("none") {
                map.host_loopback = PerFamily::default();
                map.gateway = false;
                return Ok(());
            }
            let what = "address to map to the host's loopback";
            map.host_loopback.replace(arg.parse(what, values::remote)?);
            Ok(())
        },
    ),
    flag("no-map-gw", "The gateway's address doesn't stand for the host", |d| {
        d.config.mapping.gateway = false;
    }),
    value(
        "map-guest-addr",
        "ADDR",
        "Address that stands for the host where host and guest have\nthe same, for each of IPv4 and IPv6, or none\ndefault: none",
        |d, arg| {
            let map = &mut d.config.mapping.guest_addr;
            if arg.is("none") {
                *map = PerFamily::default();
                return Ok(());
            }
            let what = "address to map to the guest's address";
            map.replace(arg.parse(what, values::remote)?);
            Ok(())
        },
    ),
];

const NAMES: &[Opt] = &[
    value(
        "dns",
        "ADDR",
        "Name server to announce, may be repeated; or none\ndefault: those of resolv.conf",
        |d, arg| {
            let servers = &mut d.config.dns.servers;
            if arg.is("none") {
                *servers = Source::None;
                return Ok(());
            }
            let addr = arg.value.to_str().and_then(values::unicast);
            let addr = addr.ok_or_else(|| Error::Dns { what: "address", value: arg.lossy() })?;
            let same_family = |list: &[std::net::IpAddr]| {
                list.iter().filter(|a| a.is_ipv4() == addr.is_ipv4()).count() < MAX_DNS
            };
            if !servers.add(addr, same_family) {
                d.warn(format!("Too many DNS servers, {addr} is ignored"));
            }
            Ok(())
        },
    )
    .short('D'),
    value(
        "dns-forward",
        "ADDR",
        "Address at which the guest reaches the host's resolver,\nonce for IPv4 and once for IPv6",
        |d, arg| {
            let addr = arg.parse("DNS forwarding address", values::remote)?;
            d.config.dns.forward.replace(addr);
            Ok(())
        },
    ),
    value(
        "dns-host",
        "ADDR",
        "That resolver, once for IPv4 and once for IPv6\ndefault: the first of resolv.conf",
        |d, arg| {
            let addr = arg.parse("DNS host address", values::unicast)?;
            d.config.dns.host.replace(addr);
            Ok(())
        },
    ),
    value(
        "search",
        "DOMAIN",
        "Domain to search, may be repeated; or none\ndefault: those of resolv.conf",
        search,
    )
    .short('S'),
    flag("no-dhcp-dns", "Don't announce name servers", |d| {
        d.config.dns.announce_servers = false;
    })
    .only(Scope::Passt),
    flag("no-dhcp-search", "Don't announce domains", |d| {
        d.config.dns.announce_search = false;
    })
    .only(Scope::Passt),
    flag("dhcp-dns", "Announce name servers", |d| {
        d.config.dns.announce_servers = true;
    })
    .only(Scope::Pasta),
    flag("dhcp-search", "Announce domains", |d| {
        d.config.dns.announce_search = true;
    })
    .only(Scope::Pasta),
];

const SERVICES: &[Opt] = &[
    flag("ipv4-only", "Use IPv4 alone", |d| {
        d.config.families = Families::V4Only;
    })
    .short('4'),
    flag("ipv6-only", "Use IPv6 alone", |d| {
        d.config.families = Families::V6Only;
    })
    .short('6'),
    flag("no-tcp", "No TCP", |d| d.config.services.tcp = false),
    flag("no-udp", "No UDP", |d| d.config.services.udp = false),
    flag("no-icmp", "No ICMP; implies --no-ndp", |d| {
        d.config.services.icmp = false;
        d.config.services.ndp = false;
    }),
    flag("no-dhcp", "No DHCP server", |d| d.config.services.dhcp = false),
    flag("no-ndp", "No answers to NDP", |d| d.config.services.ndp = false),
    flag("no-dhcpv6", "No DHCPv6 server", |d| {
        d.config.services.dhcpv6 = false;
    }),
    flag("no-ra", "No router advertisements", |d| {
        d.config.services.ra = false;
    }),
    flag("freebind", "Forward from addresses that the host doesn't have", |d| d.config.freebind = true),
];

const PORTS: &[Opt] = &[
    value(
        "tcp-ports",
        "SPEC",
        "TCP ports to forward to the guest, may be repeated:\n\
         none, or [ADDR][%NAME]/ and a list, with commas, of\n\
         PORT, FIRST-LAST, PORT:[ADDR/]PORT, all, ~EXCLUDED and,\n\
         for pasta, auto\n\
         default: none for passt, auto for pasta",
        |d, arg| {
            d.tcp_in.push(arg.value.to_owned());
            Ok(())
        },
    )
    .short('t'),
    value("udp-ports", "SPEC", "UDP ports to forward to the guest, likewise", |d, arg| {
        d.udp_in.push(arg.value.to_owned());
        Ok(())
    })
    .short('u'),
    value(
        "tcp-ns",
        "SPEC",
        "TCP ports to forward from the namespace's loopback to the\nhost's, without ADDR and %NAME",
        |d, arg| {
            d.tcp_out.push(arg.value.to_owned());
            Ok(())
        },
    )
    .short('T')
    .only(Scope::Pasta),
    value("udp-ns", "SPEC", "UDP ports, likewise", |d, arg| {
        d.udp_out.push(arg.value.to_owned());
        Ok(())
    })
    .short('U')
    .only(Scope::Pasta),
];

fn socket_path(d: &mut Draft, arg: &Arg<'_>) -> Result<(), Error> {
    d.socket = Some(arg.path("socket path", MAX_SOCKET_PATH)?);
    Ok(())
}

/// One domain, or several with blanks between them.
fn search(d: &mut Draft, arg: &Arg<'_>) -> Result<(), Error> {
    if arg.is("none") {
        d.config.dns.search = Source::None;
        return Ok(());
    }
    let refused = || Error::Dns { what: "search domain", value: arg.lossy() };
    let list = arg.value.to_str().ok_or_else(refused)?;
    if list.trim_ascii().is_empty() {
        return Err(refused());
    }
    for name in list.split_ascii_whitespace() {
        let domain = values::domain(name).ok_or_else(refused)?;
        if !d.config.dns.search.add(domain, |list| list.len() < MAX_SEARCH) {
            d.warn(format!("Too many DNS search domains, {name} is ignored"));
        }
    }
    Ok(())
}
