//! Programs inside that configure a guest's interface, `eth0`, by DHCP or wait until
//! the kernel has done it by NDP.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::{Net, Place, eventually};

/// Has udhcpc configure the interface; what it said, with a line
/// `LEASE address/bits router dns mtu search` and one
/// `NAMES hostname fqdn`, the latter as the option's bytes in hexadecimal.
pub fn udhcpc(net: &Net, guest: &impl Place) -> String {
    let script = script(net, UDHCPC_SCRIPT);
    let options = "-i eth0 -f -q -n -t 5 -T 1 -O mtu -O search -O 81";
    guest.run(&format!("udhcpc {options} -s {}", script.display()))
}

/// What udhcpc calls.
pub(crate) const UDHCPC_SCRIPT: &str = "#!/bin/sh\n\
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
    [ \"$1\" = bound ] || exit 0\n\
    ip addr add $ip/$mask dev $interface\n\
    ip route add default via $router dev $interface\n\
    echo LEASE $ip/$mask $router $dns $mtu $search\n\
    echo NAMES $hostname $opt81\n";

/// What dhclient calls.
pub(crate) const DHCLIENT_SCRIPT: &str = "#!/bin/sh\n\
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
    case $reason in\n\
    BOUND)\n\
    ip addr add $new_ip_address/$new_subnet_mask dev $interface\n\
    ip route add default via $new_routers dev $interface\n\
    [ $NAMES ] && echo NAMES search=$new_domain_search host=$new_host_name fqdn=$new_fqdn_fqdn\n\
    echo LEASE $new_ip_address $new_subnet_mask $new_routers $new_domain_name_servers;;\n\
    BOUND6)\n\
    ip -6 addr add $new_ip6_address/$new_ip6_prefixlen dev $interface\n\
    [ $NAMES ] && echo NAMES search=$new_dhcp6_domain_search fqdn=$new_fqdn_fqdn\n\
    echo LEASE $new_ip6_address $new_dhcp6_name_servers;;\n\
    esac\nexit 0\n";

/// Runs dhclient, which asks for all that there is, until it has a lease; what the script said: a
/// line `LEASE …` and before it `NAMES …`.
pub fn dhclient(net: &Net, guest: &impl Place, family: &str) -> (String, String) {
    let script = script(net, DHCLIENT_SCRIPT);
    let dir = net.dir().display();
    let config = net.dir().join("dhclient.conf");
    std::fs::write(&config, DHCLIENT_CONFIG).expect("configuration");
    let files =
        format!("-sf {} -lf {dir}/leases -pf {dir}/dhclient.pid -cf {}", script.display(), config.display());
    let mut client = guest.start(&format!("dhclient {family} -e NAMES=yes -d {files} eth0"));
    let lease = client.wait_for("LEASE");
    (lease, client.wait_for("NAMES"))
}

/// What udhcpc, having asked for options by `-O`, tells its script by the environment: lines
/// `NAME=VALUE`.
pub fn udhcpc_environment(net: &Net, guest: &impl Place, options: &str) -> String {
    let script = script(net, ENVIRONMENT_SCRIPT);
    let udhcpc = format!("udhcpc -i eth0 -f -q -n -t 5 -T 1 {options} -s {}", script.display());
    // With nothing of the environment of tests.
    guest.run(&format!("env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin {udhcpc}"))
}

/// What dhclient, with `request` in its configuration, tells its script likewise.
pub fn dhclient_environment(net: &Net, guest: &impl Place, family: &str, request: &str) -> String {
    let script = script(net, ENVIRONMENT_SCRIPT);
    let (dir, config) = (net.dir().display(), net.dir().join("dhclient.conf"));
    std::fs::write(&config, request).expect("configuration");
    let files =
        format!("-sf {} -lf {dir}/leases -pf {dir}/dhclient.pid -cf {}", script.display(), config.display());
    let mut client = guest.start(&format!("dhclient {family} -d {files} eth0"));
    client.wait_for("END");
    client.stdout()
}

const ENVIRONMENT_SCRIPT: &str = "#!/bin/sh\n\
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
    case $1$reason in\n\
    bound|BOUND|BOUND6) env; echo END;;\n\
    esac\nexit 0\n";

/// What dhclient does not ask for by itself.
const DHCLIENT_CONFIG: &str = "also request domain-search, fqdn.fqdn, dhcp6.fqdn;\n";

/// An IPv6 address with this property that may be used already.
pub fn wait_for_address(guest: &impl Place, property: &str) -> String {
    eventually(property, || {
        let addresses = guest.run("ip -o -6 addr show dev eth0");
        let usable = |line: &&str| line.contains(property) && !line.contains("tentative");
        addresses.lines().find(usable).map(str::to_owned)
    })
}

/// A file with this script, which configures the interface and says `LEASE`.
fn script(net: &Net, text: &str) -> PathBuf {
    let path = net.dir().join("script");
    std::fs::write(&path, text).expect("script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("script");
    path
}
