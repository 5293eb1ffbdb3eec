#compdef passt

autoload -U is-at-least

_passt() {
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
'*-s+[Wait for the virtual machine on socket PATH]: :_files' \
'*--socket=[Wait for the virtual machine on socket PATH]: :_files' \
'*--socket-path=[The same]: :_files' \
'*--framing=[How frames come and go\: qemu, bess, vfkit, hyperkit, or]: :' \
'*-F+[Use connected socket FD; implies --one-off]: :' \
'*--fd=[Use connected socket FD; implies --one-off]: :' \
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
'*-1[Quit when the first client is gone]' \
'*--one-off[Quit when the first client is gone]' \
'*--vhost-user[Speak the vhost-user protocol]' \
'*--print-capabilities[Print what vhost-user front ends ask for]' \
'*--migrate-exit[Does nothing, for compatibility]' \
'*--migrate-no-linger[Does nothing, for compatibility]' \
'*--no-map-gw[The gateway'\''s address doesn'\''t stand for the host]' \
'*--isolate-host[Leave nothing of the host'\''s loopback in the guest'\''s reach, and]' \
'*--no-dhcp-dns[Don'\''t announce name servers]' \
'*--no-dhcp-search[Don'\''t announce domains]' \
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
&& ret=0
}

(( $+functions[_passt_commands] )) ||
_passt_commands() {
    local commands; commands=()
    _describe -t commands 'passt commands' commands "$@"
}

if [ "$funcstack[1]" = "_passt" ]; then
    _passt "$@"
else
    compdef _passt passt
fi
