//! The table of options: names, arguments, help and effect, each defined once.

mod announce;

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use passt_engine::forward::rule::Families;

use super::Error;
use super::advice;
use super::config::{Addresses, MAX_MTU, RepairSocket, ResolvConf, Source, Userns, Verbosity, Wire};
use super::draft::Draft;
use super::help;
use super::option::{Arg, Family, Needs, Opt, Scope, all_only, flag, print, value};
use super::values;

/// Longest path of a UNIX socket, without the byte that ends it.
const MAX_SOCKET_PATH: usize = 107;
/// Longest path of a file, likewise.
const MAX_PATH: usize = 4095;
/// A log file must hold a few lines, however long.
pub(super) const MIN_LOG_SIZE: u64 = 5 * 8192;
/// Servers for each family, and domains, that fit what we announce.
const MAX_DNS: usize = 3;
const MAX_SEARCH: usize = 6;

/// Every option.
pub(super) fn all() -> impl Iterator<Item = &'static Opt> {
    GROUPS.iter().flat_map(|(_, group)| group.iter())
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
    ("DHCP and router advertisements", announce::ANNOUNCE),
    ("Protocols and services", SERVICES),
    ("Port forwarding", PORTS),
];

const GENERAL: &[Opt] = &[
    print("-h, --help", "Print this text", help::usage),
    print("--version", "Print name and version", help::version),
    flag("-f, --foreground", "Don't run in the background", |d| d.config.foreground = true),
    value("-P, --pid FILE", "Write the PID to FILE", |d, arg| {
        set(&mut d.config.pid_file, arg.path("PID file", MAX_PATH))
    }),
    value(
        "--runas USER[:GROUP]",
        "Names or numbers to run as, if started as root\ndefault: nobody",
        |d, arg| set(&mut d.config.run_as, arg.parse("--runas option", values::run_as)),
    ),
    value("-c, --conf-path PATH", "Accept changes of the configuration on socket PATH", |d, arg| {
        set(&mut d.config.control_socket, arg.path("configuration socket path", MAX_SOCKET_PATH))
    }),
    flag("--chroot-fallback", "Isolate with chroot() where pivot_root() fails", |d| {
        d.config.chroot_fallback = true;
    }),
    value(
        "--repair-path PATH",
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
    flag("-d, --debug", "Say more; cancels --quiet", |d| {
        d.config.log.verbosity = d.config.log.verbosity.max(Verbosity::Debug);
    }),
    flag("--trace", "Say everything; implies --debug", |d| d.config.log.verbosity = Verbosity::Trace),
    flag("-q, --quiet", "Say only what is wrong; cancels --debug", |d| {
        d.config.log.verbosity = Verbosity::Quiet;
    }),
    flag("-e, --stderr", "Does nothing, for compatibility", |d| d.will_go("--stderr")),
    value("-l, --log-file PATH", "Log to PATH rather than to the system's log", |d, arg| {
        set(&mut d.config.log.file, arg.path("log file path", MAX_PATH))
    }),
    value("--log-size BYTES", "Size to keep the log file below\ndefault: 1048576", |d, arg| {
        let size = |text: &str| values::number(text).filter(|&size| size >= MIN_LOG_SIZE);
        d.config.log.size = arg.parse("--log-size", size)?;
        Ok(())
    }),
    value("--stats SECONDS", "Print statistics in this interval, with --foreground", |d, arg| {
        if !d.config.foreground {
            return Err(Error::Conflict("Can't display statistics if not running in foreground"));
        }
        let interval = |text: &str| values::number(text).filter(|&s| s > 0).map(Duration::from_secs);
        set(&mut d.config.stats, arg.parse("--stats interval", interval))
    }),
    value("-p, --pcap FILE", "Record all frames in FILE", |d, arg| {
        if let Some(line) = advice::capture(&arg.lossy()) {
            d.warn(line);
        }
        set(&mut d.config.pcap, arg.path("capture file", MAX_PATH))
    }),
];

const MACHINE: &[Opt] = &all_only(
    Scope::Passt,
    [
        value(
            "-s, --socket PATH",
            "Wait for the virtual machine on socket PATH\ndefault: first free /tmp/passt_N.socket, N from 1",
            socket_path,
        ),
        value("-s, --socket-path PATH", "The same", socket_path),
        value(
            "--framing NAME",
            "How frames come and go: qemu, bess, vfkit, hyperkit, or\n\
             stdio for standard input and output; vfkit serves one client\ndefault: qemu",
            |d, arg| {
                d.passt.wire = arg.parse("framing", wire)?;
                Ok(())
            },
        ),
        value("-F, --fd FD", "Use connected socket FD; implies --one-off", |d, arg| {
            set(&mut d.fd, arg.parse("--fd", |text| i32::try_from(values::number(text)?).ok()))
        }),
        flag("-1, --one-off", "Quit when the first client is gone", |d| d.passt.one_off = true),
        flag("--vhost-user", "Speak the vhost-user protocol", |_| {}),
        print("--print-capabilities", "Print what vhost-user front ends ask for", help::capabilities),
        flag("--migrate-exit", "Does nothing, for compatibility", |d| d.will_go("--migrate-exit"))
            .only(Scope::VhostUser),
        flag("--migrate-no-linger", "Does nothing, for compatibility", |d| d.will_go("--migrate-no-linger"))
            .only(Scope::VhostUser),
    ],
);

const NAMESPACE: &[Opt] = &all_only(
    Scope::Pasta,
    [
        value("--netns PATH|NAME", "Network namespace to connect; NAME is in /run/netns", |d, arg| {
            let path = arg.path("network namespace", MAX_PATH)?;
            let is_name = !arg.value.as_bytes().contains(&b'/');
            let dir = if is_name { "/run/netns" } else { "" };
            d.netns = Some(PathBuf::from(dir).join(path));
            Ok(())
        }),
        value("--userns PATH", "User namespace to join; cancels --netns-only", |d, arg| {
            set(&mut d.userns, arg.path("user namespace path", MAX_PATH).map(Userns::Join))
        }),
        flag("--netns-only", "Neither join nor create a user namespace", |d| {
            d.userns = Some(Userns::Current);
        }),
        flag(
            "--no-pidns",
            "Start COMMAND or shell in our PID namespace, with our\n/proc; what it started outlives it",
            |d| d.pasta.pid_namespace = false,
        ),
        flag("--no-netns-quit", "Keep running when the namespace is gone", |d| d.pasta.netns_quit = false),
        value(
            "-I, --ns-ifname NAME",
            "Name of the interface in the namespace\ndefault: that of the host's interface, or tap0",
            |d, arg| set(&mut d.pasta.interface, arg.interface()),
        ),
        value("--ns-mac-addr MAC", "MAC address of that interface", |d, arg| {
            set(&mut d.pasta.mac, arg.parse("MAC address", values::mac))
        })
        .needing(Needs::Link),
        flag("--config-net", "Configure that interface, rather than let DHCP or NDP do it", |d| {
            d.pasta.config_net = true;
        }),
        flag("--no-copy-routes", "Don't copy the host's routes; will be dropped", |d| {
            d.no_copy_routes = true;
            d.will_go("--no-copy-routes");
        }),
        flag("--no-copy-addrs", "Don't copy the host's addresses; will be dropped", |d| {
            d.no_copy_addrs = true;
            d.will_go("--no-copy-addrs");
        }),
        flag("--host-lo-to-ns-lo", "Connect the host's loopback to the namespace's", |d| {
            d.pasta.host_lo_to_ns_lo = true;
        }),
        flag("--no-splice", "Send what comes from the host's loopback through that\ninterface, too", |d| {
            d.no_splice = true;
        })
        .only(Scope::PastaForAll),
        flag("--splice-only", "Connect loopbacks alone, leave that interface unused", |d| {
            d.splice_only = true;
        }),
    ],
);

const GUEST: &[Opt] = &[
    value("-m, --mtu MTU", "MTU to assign, 0 for none\ndefault: 65520", |d, arg| {
        let mtu = arg.parse("MTU", values::number)?;
        // One more is what a frame of 64 KiB could have, and other programs take; links carry whole
        // words.
        let small = u16::try_from(mtu).ok().filter(|&mtu| mtu <= MAX_MTU + 1);
        let mtu = small.ok_or(Error::Mtu(mtu))?.min(MAX_MTU);
        d.config.mtu = (mtu != 0).then_some(mtu);
        Ok(())
    })
    .needing(Needs::Link),
    value(
        "-a, --address ADDR[/LEN]",
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
    .of(Family::OfAddress)
    .needing(Needs::Link),
    value(
        "-n, --netmask MASK",
        "IPv4 mask to assign, dotted or as number of bits\ndefault: that of the host's interface",
        |d, arg| set(&mut d.netmask, arg.parse("netmask", values::netmask)),
    )
    .of(Family::V4)
    .needing(Needs::Link),
    value(
        "--subnet CIDR",
        "Give the guest a network of its own, like none of the host's:\n\
         .2 is the gateway and the host's loopback, .3 its resolver, the\n\
         guest .100, or .15 to .30 by DHCP; and fd00::/64 likewise, where\n\
         the guest makes its address itself",
        |d, arg| {
            let is_usable = |(addr, _): &(Ipv4Addr, u8)| {
                !(addr.is_loopback() || addr.is_multicast() || addr.is_unspecified())
            };
            let subnet = arg.parse("subnet", |text| values::network(text).ok().filter(is_usable))?;
            d.subnet = Some(subnet);
            Ok(())
        },
    ),
    value(
        "-g, --gateway ADDR",
        "Default gateway, once for IPv4 and once for IPv6\ndefault: that of the host",
        |d, arg| set_addr(&mut d.config.guest.gateway, arg.parse("gateway address", values::remote)),
    )
    .of(Family::OfAddress)
    .needing(Needs::Link),
    value(
        "-M, --mac-addr MAC",
        "MAC address that stands for gateway and host\ndefault: 9a:55:9a:55:9a:55",
        |d, arg| arg.parse("MAC address", values::mac).map(|mac| d.config.mac = mac),
    )
    .needing(Needs::Link),
    value("-H, --hostname NAME", "Host name to assign", |d, arg| {
        set_name(&mut d.config.guest.hostname, arg, "hostname")
    })
    .of(Family::V4)
    .needing(Needs::Lease),
    value("--fqdn NAME", "Fully qualified domain name to assign", |d, arg| {
        set_name(&mut d.config.guest.fqdn, arg, "FQDN")
    })
    .needing(Needs::Lease),
];

const HOST: &[Opt] = &[
    value(
        "-i, --interface NAME",
        "Interface to take addresses and routes from\ndefault: that of the first default route",
        |d, arg| set(&mut d.config.host.interface, arg.interface()),
    ),
    value("-o, --outbound ADDR", "Source of outgoing connections, one for IPv4, one for IPv6", |d, arg| {
        set_addr(&mut d.config.host.outbound, arg.parse("outbound address", values::unicast))
    }).of(Family::OfAddress),
    value("--outbound-if4 NAME", "Interface that outgoing IPv4 connections are bound to", |d, arg| {
        set(&mut d.config.host.outbound_interface.v4, arg.interface())
    }).of(Family::V4),
    value("--outbound-if6 NAME", "Interface that outgoing IPv6 connections are bound to", |d, arg| {
        set(&mut d.config.host.outbound_interface.v6, arg.interface())
    }).of(Family::V6),
    value(
        "--map-host-loopback ADDR",
        "Address that stands for the host's loopback, for each of\nIPv4 and IPv6, or none\ndefault: the gateway's",
        |d, arg| {
            let map = &mut d.config.mapping;
            map.gateway &= !arg.is("none");
            set_addr_or_none(&mut map.host_loopback, arg, "address to map to the host's loopback")
        },
    ).of(Family::OfAddress).needing(Needs::Link),
    flag("--no-map-gw", "The gateway's address doesn't stand for the host", |d| {
        d.config.mapping.gateway = false;
    }),
    flag(
        "--isolate-host",
        "Leave nothing of the host's loopback in the guest's reach, and\n\
         forward no port that is not given to -t or -u: --no-map-gw,\n\
         none for -t and -u, and for -T and -U of pasta",
        |d| d.isolate_host = true,
    ),
    value(
        "--map-guest-addr ADDR",
        "Address that stands for the host where host and guest have\nthe same, for each of IPv4 and IPv6, or none\ndefault: none",
        |d, arg| {
            let map = &mut d.config.mapping.guest_addr;
            set_addr_or_none(map, arg, "address to map to the guest's address")
        },
    ).of(Family::OfAddress).needing(Needs::Link),
];

const NAMES: &[Opt] = &[
    value(
        "-D, --dns ADDR",
        "Name server to announce, may be repeated; or none\ndefault: those of resolv.conf",
        name_server,
    )
    .of(Family::OfAddress)
    .needing(Needs::Link),
    value(
        "--dns-forward ADDR",
        "Address at which the guest reaches the host's resolver,\nonce for IPv4 and once for IPv6",
        |d, arg| set_addr(&mut d.config.dns.forward, arg.parse("DNS forwarding address", values::remote)),
    )
    .of(Family::OfAddress)
    .needing(Needs::Resolver),
    // For both families: the resolver may be of the one that is off.
    value(
        "--dns-host ADDR",
        "That resolver, once for IPv4 and once for IPv6\ndefault: the first of resolv.conf",
        |d, arg| set_addr(&mut d.config.dns.host, arg.parse("DNS host address", values::unicast)),
    )
    .needing(Needs::Resolver),
    value(
        "-S, --search DOMAIN",
        "Domain to search, may be repeated; or none\ndefault: those of resolv.conf",
        search,
    )
    .needing(Needs::Link),
    flag(
        "--resolv-conf",
        "Give COMMAND or shell a resolv.conf of its own, with servers that\n\
         it reaches; 169.254.1.1 stands for one on the host's loopback\n\
         where no other address does\n\
         default: only where it reaches none of those in the host's",
        |d| d.pasta.resolv_conf = ResolvConf::Always,
    )
    .only(Scope::Pasta)
    .needing(Needs::Resolver),
    flag("--keep-resolv-conf", "Leave COMMAND or shell the host's resolv.conf", |d| {
        d.pasta.resolv_conf = ResolvConf::Never;
    })
    .only(Scope::Pasta),
    flag("--no-dhcp-dns", "Don't announce name servers", |d| d.config.dns.announce_servers = false)
        .only(Scope::Passt),
    flag("--no-dhcp-search", "Don't announce domains", |d| d.config.dns.announce_search = false)
        .only(Scope::Passt),
    flag("--dhcp-dns", "Announce name servers", |d| d.config.dns.announce_servers = true).only(Scope::Pasta),
    flag("--dhcp-search", "Announce domains", |d| d.config.dns.announce_search = true).only(Scope::Pasta),
];

const SERVICES: &[Opt] = &[
    flag("-4, --ipv4-only", "Use IPv4 alone", |d| d.config.families = Families::V4Only),
    flag("-6, --ipv6-only", "Use IPv6 alone", |d| d.config.families = Families::V6Only),
    flag("--no-tcp", "No TCP", |d| d.config.services.tcp = false),
    flag("--no-udp", "No UDP", |d| d.config.services.udp = false),
    flag("--no-icmp", "No ICMP; implies --no-ndp", |d| {
        d.config.services.icmp = false;
        d.config.services.ndp = false;
    }),
    flag("--no-dhcp", "No DHCP server", |d| d.config.services.dhcp = false),
    flag("--no-ndp", "No answers to NDP", |d| d.config.services.ndp = false),
    flag("--no-dhcpv6", "No DHCPv6 server", |d| d.config.services.dhcpv6 = false),
    flag("--no-ra", "No router advertisements", |d| d.config.services.ra = false),
    flag("--no-multicast", "No multicast to groups that the guest joins", |d| {
        d.config.services.multicast = false;
    }),
    flag("--freebind", "Forward from addresses that the host doesn't have", |d| d.config.freebind = true),
];

const PORTS: &[Opt] = &[
    value(
        "-t, --tcp-ports SPEC",
        "TCP ports to forward to the guest, may be repeated:\n\
         none, or [ADDR][%NAME]/ and a list, with commas, of\n\
         PORT, FIRST-LAST, PORT:[ADDR/]PORT, all, ~EXCLUDED and,\n\
         for pasta, auto\n\
         default: none for passt, auto for pasta",
        |d, arg| arg.push_to(&mut d.tcp_in),
    )
    .needing(Needs::Tcp),
    value("-u, --udp-ports SPEC", "UDP ports to forward to the guest, likewise", |d, arg| {
        arg.push_to(&mut d.udp_in)
    })
    .needing(Needs::Udp),
    value(
        "-T, --tcp-ns SPEC",
        "TCP ports to forward from the namespace's loopback to the\nhost's, without ADDR and %NAME",
        |d, arg| arg.push_to(&mut d.tcp_out),
    )
    .only(Scope::Pasta)
    .needing(Needs::Tcp),
    value("-U, --udp-ns SPEC", "UDP ports, likewise", |d, arg| arg.push_to(&mut d.udp_out))
        .only(Scope::Pasta)
        .needing(Needs::Udp),
];

fn set<T>(to: &mut Option<T>, value: Result<T, Error>) -> Result<(), Error> {
    *to = Some(value?);
    Ok(())
}

/// Sets the address of its family.
fn set_addr(to: &mut Addresses, addr: Result<IpAddr, Error>) -> Result<(), Error> {
    to.replace(addr?);
    Ok(())
}

/// Sets a name, or with an empty one none.
fn set_name(to: &mut Option<String>, arg: &Arg<'_>, what: &'static str) -> Result<(), Error> {
    if arg.is("") {
        *to = None;
        return Ok(());
    }
    set(to, arg.parse(what, values::domain))
}

/// Sets the address of its family, or with `none` that of no family.
fn set_addr_or_none(to: &mut Addresses, arg: &Arg<'_>, what: &'static str) -> Result<(), Error> {
    if arg.is("none") {
        *to = Addresses::default();
        return Ok(());
    }
    set_addr(to, arg.parse(what, values::remote))
}

/// A framing by its name.
fn wire(text: &str) -> Option<Wire> {
    match text {
        "qemu" => Some(Wire::Qemu),
        "bess" => Some(Wire::Bess),
        "vfkit" => Some(Wire::Vfkit),
        "hyperkit" => Some(Wire::Hyperkit),
        "stdio" => Some(Wire::Stdio),
        _ => None,
    }
}

fn socket_path(d: &mut Draft, arg: &Arg<'_>) -> Result<(), Error> {
    set(&mut d.socket, arg.path("socket path", MAX_SOCKET_PATH))
}

fn name_server(d: &mut Draft, arg: &Arg<'_>) -> Result<(), Error> {
    let servers = &mut d.config.dns.servers;
    if arg.is("none") {
        (*servers, d.no_dns) = (Source::None, true);
        return Ok(());
    }
    let addr = arg.value.to_str().and_then(values::unicast);
    let addr = addr.ok_or_else(|| Error::Dns {
        what: "address",
        value: arg.lossy(),
        example: "the address of a resolver, as in 192.0.2.53",
    })?;
    let fits = |list: &[IpAddr]| list.iter().filter(|a| a.is_ipv4() == addr.is_ipv4()).count() < MAX_DNS;
    if !servers.add(addr, fits) {
        d.warn(format!("Too many DNS servers, {addr} is ignored"));
    }
    Ok(())
}

/// One domain, or several with blanks between them.
fn search(d: &mut Draft, arg: &Arg<'_>) -> Result<(), Error> {
    if arg.is("none") {
        d.config.dns.search = Source::None;
        return Ok(());
    }
    let refused =
        || Error::Dns { what: "search domain", value: arg.lossy(), example: "a domain, as in example.org" };
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
