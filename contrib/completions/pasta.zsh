#compdef pasta

autoload -U is-at-least

_pasta() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'*-P+[Write the PID to FILE]: :_files' \
'*--pid=[Write the PID to FILE]: :_files' \
'*--runas=[Names or numbers to run as, if started as root]: :' \
'*-c+[Accept changes of the configuration on socket PATH]: :_files' \
'*--conf-path=[Accept changes of the configuration on socket PATH]: :_files' \
'*--repair-path=[Socket for passt-repair, with --vhost-user, or none]: :_files' \
'*-l+[Log to PATH rather than to the system'\''s log]: :_files' \
'*--log-file=[Log to PATH rather than to the system'\''s log]: :_files' \
'*--log-size=[Size to keep the log file below]: :' \
'*--stats=[Print statistics in this interval, with --foreground]: :' \
'*-p+[Record all frames in FILE]: :_files' \
'*--pcap=[Record all frames in FILE]: :_files' \
'*--netns=[Network namespace to connect; NAME is in /run/netns]: :_files' \
'*--userns=[User namespace to join; cancels --netns-only]: :_files' \
'*-I+[Name of the interface in the namespace]: :' \
'*--ns-ifname=[Name of the interface in the namespace]: :' \
'*--ns-mac-addr=[MAC address of that interface]: :' \
'*-m+[MTU to assign, 0 for none]: :' \
'*--mtu=[MTU to assign, 0 for none]: :' \
'*-a+[Address to assign, once for IPv4 and once for IPv6]: :' \
'*--address=[Address to assign, once for IPv4 and once for IPv6]: :' \
'*-n+[IPv4 mask to assign, dotted or as number of bits]: :' \
'*--netmask=[IPv4 mask to assign, dotted or as number of bits]: :' \
'*--subnet=[Give the guest a network of its own, like none of the host'\''s\:]: :' \
'*-g+[Default gateway, once for IPv4 and once for IPv6]: :' \
'*--gateway=[Default gateway, once for IPv4 and once for IPv6]: :' \
'*-M+[MAC address that stands for gateway and host]: :' \
'*--mac-addr=[MAC address that stands for gateway and host]: :' \
'*-H+[Host name to assign]: :' \
'*--hostname=[Host name to assign]: :' \
'*--fqdn=[Fully qualified domain name to assign]: :' \
'*-i+[Interface to take addresses and routes from]: :' \
'*--interface=[Interface to take addresses and routes from]: :' \
'*-o+[Source of outgoing connections, one for IPv4, one for IPv6]: :' \
'*--outbound=[Source of outgoing connections, one for IPv4, one for IPv6]: :' \
'*--outbound-if4=[Interface that outgoing IPv4 connections are bound to]: :' \
'*--outbound-if6=[Interface that outgoing IPv6 connections are bound to]: :' \
'*--map-host-loopback=[Address that stands for the host'\''s loopback, for each of]: :' \
'*--map-guest-addr=[Address that stands for the host where host and guest have]: :' \
'*-D+[Name server to announce, may be repeated; or none]: :' \
'*--dns=[Name server to announce, may be repeated; or none]: :' \
'*--dns-forward=[Address at which the guest reaches the host'\''s resolver,]: :' \
'*--dns-host=[That resolver, once for IPv4 and once for IPv6]: :' \
'*-S+[Domain to search, may be repeated; or none]: :' \
'*--search=[Domain to search, may be repeated; or none]: :' \
'*--dhcp-opt=[Send DHCP option CODE, a number or name, rather than what]: :' \
'*--dhcpv6-opt=[Send DHCPv6 option CODE, likewise]: :' \
'*--dhcp-lease=[Seconds of an IPv4 lease, until renewal, until rebinding]: :' \
'*--dhcpv6-lease=[Lifetimes of an IPv6 lease and those times, in seconds]: :' \
'*--dhcp-boot=[File to boot from by IPv4, address and name of its server]: :' \
'*--domain=[Domain name to assign by DHCP]: :' \
'*--ntp=[Time server to announce by DHCP or DHCPv6, may be repeated]: :' \
'*--captive-portal=[URI of a captive portal'\''s API to announce]: :' \
'*--ra-lifetime=[Time to use us as IPv6 router for, 0 for none]: :' \
'*--ra-preference=[Preference as IPv6 router\: high, medium or low]: :' \
'*--ra-dns-lifetime=[Time to use announced name servers and domains for]: :' \
'*--ra-route=[IPv6 route to announce, may be repeated]: :' \
'*--ra-pref64=[Prefix of NAT64 to announce, may be repeated]: :' \
'*-t+[TCP ports to forward to the guest, may be repeated\:]: :' \
'*--tcp-ports=[TCP ports to forward to the guest, may be repeated\:]: :' \
'*-u+[UDP ports to forward to the guest, likewise]: :' \
'*--udp-ports=[UDP ports to forward to the guest, likewise]: :' \
'*-T+[TCP ports to forward from the namespace'\''s loopback to the]: :' \
'*--tcp-ns=[TCP ports to forward from the namespace'\''s loopback to the]: :' \
'*-U+[UDP ports, likewise]: :' \
'*--udp-ns=[UDP ports, likewise]: :' \
'*-h[Print this text]' \
'*--help[Print this text]' \
'*--version[Print name and version]' \
'*-f[Don'\''t run in the background]' \
'*--foreground[Don'\''t run in the background]' \
'*--chroot-fallback[Isolate with chroot() where pivot_root() fails]' \
'*-d[Say more; cancels --quiet]' \
'*--debug[Say more; cancels --quiet]' \
'*--trace[Say everything; implies --debug]' \
'*-q[Say only what is wrong; cancels --debug]' \
'*--quiet[Say only what is wrong; cancels --debug]' \
'*-e[Does nothing, for compatibility]' \
'*--stderr[Does nothing, for compatibility]' \
'*--netns-only[Neither join nor create a user namespace]' \
'*--no-pidns[Start COMMAND or shell in our PID namespace, with our]' \
'*--no-netns-quit[Keep running when the namespace is gone]' \
'*--config-net[Configure that interface, rather than let DHCP or NDP do it]' \
'*--no-copy-routes[Don'\''t copy the host'\''s routes; will be dropped]' \
'*--no-copy-addrs[Don'\''t copy the host'\''s addresses; will be dropped]' \
'*--host-lo-to-ns-lo[Connect the host'\''s loopback to the namespace'\''s]' \
'*--no-splice[Send what comes from the host'\''s loopback through that]' \
'*--splice-only[Connect loopbacks alone, leave that interface unused]' \
'*--no-map-gw[The gateway'\''s address doesn'\''t stand for the host]' \
'*--isolate-host[Leave nothing of the host'\''s loopback in the guest'\''s reach, and]' \
'*--resolv-conf[Give COMMAND or shell a resolv.conf of its own, with servers that]' \
'*--keep-resolv-conf[Leave COMMAND or shell the host'\''s resolv.conf]' \
'*--dhcp-dns[Announce name servers]' \
'*--dhcp-search[Announce domains]' \
'*-4[Use IPv4 alone]' \
'*--ipv4-only[Use IPv4 alone]' \
'*-6[Use IPv6 alone]' \
'*--ipv6-only[Use IPv6 alone]' \
'*--no-tcp[No TCP]' \
'*--no-udp[No UDP]' \
'*--no-icmp[No ICMP; implies --no-ndp]' \
'*--no-dhcp[No DHCP server]' \
'*--no-ndp[No answers to NDP]' \
'*--no-dhcpv6[No DHCPv6 server]' \
'*--no-ra[No router advertisements]' \
'*--no-multicast[No multicast to groups that the guest joins]' \
'*--freebind[Forward from addresses that the host doesn'\''t have]' \
'::operand:_cmdstring' \
&& ret=0
}

(( $+functions[_pasta_commands] )) ||
_pasta_commands() {
    local commands; commands=()
    _describe -t commands 'pasta commands' commands "$@"
}

if [ "$funcstack[1]" = "_pasta" ]; then
    _pasta "$@"
else
    compdef _pasta pasta
fi
