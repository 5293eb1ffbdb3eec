//! What users add to what guests are told, as real clients see it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use passt_tests::dhcp::{dhclient_environment, udhcpc_environment, wait_for_address};
use passt_tests::{
    FAR4, GATEWAY4, Guest, HOST4, HOST6, Net, Place as _, Process, User, eventually, have, skip,
};

/// qemu's option ROM for network boot, which it takes by itself.
const ROM: &str = "/usr/lib/ipxe/qemu/efi-virtio.rom";

/// A guest whose interface is up, and nothing else.
fn unconfigured(net: &Net, options: &str) -> Guest {
    let guest = net.pasta(User::Normal).with(options).start();
    guest.run("ip link set eth0 up");
    guest
}

/// Asserts that a client told its script all this.
fn assert_told(environment: &str, expected: &[&str]) {
    for line in expected {
        assert!(environment.lines().any(|told| told == *line), "{line}: {environment}");
    }
}

#[test]
fn dhcp_options_reach_udhcpc() {
    let Some(net) = Net::new() else { return };
    if !have(&["udhcpc"]) {
        return;
    }
    let options = "--dhcp-lease 3600 --domain lan.test --ntp 192.0.2.123 --dhcp-boot pxe/linux.0,192.0.2.9,tftp \
                   --dhcp-opt time-offset=3600 --dhcp-opt wpad=http://wpad.test/ --dhcp-opt 224=0x010203 \
                   --dhcp-opt static-routes=198.51.100.0/24,192.0.2.254 --dhcp-opt hostname=other -H guest \
                   --captive-portal https://portal.test/api";
    let guest = unconfigured(&net, options);
    let told = udhcpc_environment(&net, &guest, "-O wpad -O 224 -O 114 -O staticroutes -O timezone -O tftp");
    let address = format!("ip={HOST4}");
    assert_told(
        &told,
        &[
            &address,
            "lease=3600",
            "domain=lan.test",
            "ntpsrv=192.0.2.123",
            "siaddr=192.0.2.9",
            "sname=tftp",
            "boot_file=pxe/linux.0",
            "bootfile=pxe/linux.0",
            "tftp=tftp",
            "timezone=3600",
            "wpad=http://wpad.test/",
            "opt224=010203",
            "staticroutes=198.51.100.0/24 192.0.2.254",
            "hostname=other",
            "opt114=68747470733a2f2f706f7274616c2e746573742f617069",
        ],
    );
}

/// What is set to nothing is not sent.
#[test]
fn an_option_is_removed() {
    let Some(net) = Net::new() else { return };
    if !have(&["udhcpc"]) {
        return;
    }
    for (option, has) in [("", true), ("--dhcp-opt router=", false)] {
        let told = udhcpc_environment(&net, &unconfigured(&net, option), "");
        assert_eq!(told.contains(&format!("router={GATEWAY4}")), has, "{told}");
    }
}

#[test]
fn dhcpv6_options_reach_dhclient() {
    let Some(net) = Net::new() else { return };
    if !have(&["dhclient"]) {
        return;
    }
    let options = "--ntp 2001:db8::123 --dhcpv6-lease 7200,3600 --dhcpv6-opt bootfile-url=tftp://[2001:db8::9]/x \
                   --dhcpv6-opt domain-search=one.test,two.test";
    let guest = unconfigured(&net, options);
    wait_for_address(&guest, "scope link");
    let request = "also request dhcp6.sntp-servers, dhcp6.bootfile-url, dhcp6.domain-search;\n";
    let told = dhclient_environment(&net, &guest, "-6", request);
    assert_told(
        &told,
        &[
            "new_dhcp6_sntp_servers=2001:db8::123",
            "new_dhcp6_bootfile_url=tftp://[2001:db8::9]/x",
            "new_dhcp6_domain_search=one.test. two.test.",
            "new_preferred_life=3600",
            "new_max_life=7200",
        ],
    );
}

/// Clients that have a lease with an end come back, and keep their address.
#[test]
fn leases_are_renewed() {
    let Some(net) = Net::new() else { return };
    if !have(&["udhcpc", "dhclient"]) {
        return;
    }
    let guest = unconfigured(&net, "--dhcp-lease 16 --dhcpv6-lease 16");
    wait_for_address(&guest, "scope link");
    let script = net.dir().join("renewal");
    fs::write(&script, RENEWAL_SCRIPT).expect("script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("script");
    let (script, dir) = (script.display(), net.dir().display());
    let mut v4 = guest.start(&format!("udhcpc -i eth0 -f -s {script}"));
    let files = format!("-sf {script} -lf {dir}/leases -pf {dir}/dhclient.pid -cf /dev/null");
    let mut v6 = guest.start(&format!("dhclient -6 -d {files} eth0"));
    assert_eq!(v4.wait_for("RENEWED"), format!("RENEWED {HOST4}"));
    assert_eq!(v6.wait_for("RENEWED"), format!("RENEWED {HOST6}"));
}

/// Assigns the address, and says when that is renewed.
const RENEWAL_SCRIPT: &str = "#!/bin/sh\n\
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
    case $1$reason in\n\
    bound) ip addr add $ip/$mask dev $interface;;\n\
    BOUND6) ip -6 addr add $new_ip6_address/$new_ip6_prefixlen dev $interface;;\n\
    renew|RENEW6) echo RENEWED $ip$new_ip6_address;;\n\
    esac\nexit 0\n";

/// The kernel inside takes lifetime and preference of the default route, and the route.
#[test]
fn router_advertisements_reach_the_kernel() {
    let Some(net) = Net::new() else { return };
    let options = "--ra-lifetime 1800 --ra-preference low --ra-route 2001:db8:77::/48,high,600";
    let guest = net.pasta(User::Normal).with(options).start();
    guest.sysctl("net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=64");
    guest.run("ip link set eth0 up");
    wait_for_address(&guest, "scope global");
    let route = |to: &str, seconds: std::ops::RangeInclusive<u32>, preference: &str| {
        let shown = guest.run(&format!("ip -6 route show {to}"));
        let expires = shown.split_whitespace().skip_while(|word| *word != "expires").nth(1);
        let left = expires.and_then(|left| left.strip_suffix("sec")?.parse().ok());
        assert!(left.is_some_and(|left: u32| seconds.contains(&left)), "{shown}");
        assert!(shown.contains("proto ra") && shown.contains(&format!("pref {preference}")), "{shown}");
    };
    route("default", 1700..=1800, "low");
    route("2001:db8:77::/48", 500..=600, "high");
}

#[test]
fn no_default_router() {
    let Some(net) = Net::new() else { return };
    let guest = unconfigured(&net, "--ra-lifetime 0");
    wait_for_address(&guest, "scope global");
    assert_eq!(guest.run("ip -6 route show default"), "");
}

/// The firmware of a virtual machine finds its server and the file there, and runs what it says.
#[test]
fn a_machine_boots_from_the_network() {
    let Some(net) = Net::new() else { return };
    if !have(&["qemu-system-x86_64", "dnsmasq"]) {
        return;
    }
    if !Path::new(ROM).exists() {
        return skip("no option ROM for network boot: ipxe-qemu");
    }
    let root = net.dir().join("tftp");
    fs::create_dir(&root).expect("a directory");
    fs::write(root.join("first"), "#!ipxe\nchain tftp://${next-server}/second\n").expect("a file");
    fs::write(root.join("second"), "#!ipxe\nshell\n").expect("a file");
    let server = net.peer.start(&format!(
        "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --port=0 --user=root --pid-file= \
         --listen-address={FAR4} --enable-tftp --tftp-root={}",
        root.display()
    ));
    let _passt = net.passt(User::Normal).with(&format!("--dhcp-boot first,{FAR4}")).listen("socket");
    let socket = net.dir().join("socket");
    let qemu = format!(
        "qemu-system-x86_64 -accel tcg -machine pc,graphics=off -m 256 -nodefaults -no-user-config \
         -display none -serial stdio -boot n -netdev stream,id=n0,server=off,addr.type=unix,addr.path={} \
         -device virtio-net-pci,netdev=n0",
        socket.display()
    );
    let _qemu = Process::start(net.host.command("env").args(qemu.split_whitespace()));
    for file in ["first", "second"] {
        let sent = format!("sent {}", root.join(file).display());
        eventually(&sent, || [server.stdout(), server.stderr()].concat().contains(&sent).then_some(()));
    }
}
