complete -c pasta -s P -l pid -d 'Write the PID to FILE' -r -F
complete -c pasta -l runas -d 'Names or numbers to run as, if started as root' -r -f
complete -c pasta -s c -l conf-path -d 'Accept changes of the configuration on socket PATH' -r -F
complete -c pasta -l repair-path -d 'Socket for passt-repair, with --vhost-user, or none' -r -F
complete -c pasta -s l -l log-file -d 'Log to PATH rather than to the system\'s log' -r -F
complete -c pasta -l log-size -d 'Size to keep the log file below' -r -f
complete -c pasta -l stats -d 'Print statistics in this interval, with --foreground' -r -f
complete -c pasta -s p -l pcap -d 'Record all frames in FILE' -r -F
complete -c pasta -l netns -d 'Network namespace to connect; NAME is in /run/netns' -r -F
complete -c pasta -l userns -d 'User namespace to join; cancels --netns-only' -r -F
complete -c pasta -s I -l ns-ifname -d 'Name of the interface in the namespace' -r -f
complete -c pasta -l ns-mac-addr -d 'MAC address of that interface' -r -f
complete -c pasta -s m -l mtu -d 'MTU to assign, 0 for none' -r -f
complete -c pasta -s a -l address -d 'Address to assign, once for IPv4 and once for IPv6' -r -f
complete -c pasta -s n -l netmask -d 'IPv4 mask to assign, dotted or as number of bits' -r -f
complete -c pasta -l subnet -d 'Give the guest a network of its own, like none of the host\'s:' -r -f
complete -c pasta -s g -l gateway -d 'Default gateway, once for IPv4 and once for IPv6' -r -f
complete -c pasta -s M -l mac-addr -d 'MAC address that stands for gateway and host' -r -f
complete -c pasta -s H -l hostname -d 'Host name to assign' -r -f
complete -c pasta -l fqdn -d 'Fully qualified domain name to assign' -r -f
complete -c pasta -s i -l interface -d 'Interface to take addresses and routes from' -r -f
complete -c pasta -s o -l outbound -d 'Source of outgoing connections, one for IPv4, one for IPv6' -r -f
complete -c pasta -l outbound-if4 -d 'Interface that outgoing IPv4 connections are bound to' -r -f
complete -c pasta -l outbound-if6 -d 'Interface that outgoing IPv6 connections are bound to' -r -f
complete -c pasta -l map-host-loopback -d 'Address that stands for the host\'s loopback, for each of' -r -f
complete -c pasta -l map-guest-addr -d 'Address that stands for the host where host and guest have' -r -f
complete -c pasta -s D -l dns -d 'Name server to announce, may be repeated; or none' -r -f
complete -c pasta -l dns-forward -d 'Address at which the guest reaches the host\'s resolver,' -r -f
complete -c pasta -l dns-host -d 'That resolver, once for IPv4 and once for IPv6' -r -f
complete -c pasta -s S -l search -d 'Domain to search, may be repeated; or none' -r -f
complete -c pasta -l dhcp-opt -d 'Send DHCP option CODE, a number or name, rather than what' -r -f
complete -c pasta -l dhcpv6-opt -d 'Send DHCPv6 option CODE, likewise' -r -f
complete -c pasta -l dhcp-lease -d 'Seconds of an IPv4 lease, until renewal, until rebinding' -r -f
complete -c pasta -l dhcpv6-lease -d 'Lifetimes of an IPv6 lease and those times, in seconds' -r -f
complete -c pasta -l dhcp-boot -d 'File to boot from by IPv4, address and name of its server' -r -f
complete -c pasta -l domain -d 'Domain name to assign by DHCP' -r -f
complete -c pasta -l ntp -d 'Time server to announce by DHCP or DHCPv6, may be repeated' -r -f
complete -c pasta -l captive-portal -d 'URI of a captive portal\'s API to announce' -r -f
complete -c pasta -l ra-lifetime -d 'Time to use us as IPv6 router for, 0 for none' -r -f
complete -c pasta -l ra-preference -d 'Preference as IPv6 router: high, medium or low' -r -f
complete -c pasta -l ra-dns-lifetime -d 'Time to use announced name servers and domains for' -r -f
complete -c pasta -l ra-route -d 'IPv6 route to announce, may be repeated' -r -f
complete -c pasta -l ra-pref64 -d 'Prefix of NAT64 to announce, may be repeated' -r -f
complete -c pasta -s t -l tcp-ports -d 'TCP ports to forward to the guest, may be repeated:' -r -f
complete -c pasta -s u -l udp-ports -d 'UDP ports to forward to the guest, likewise' -r -f
complete -c pasta -s T -l tcp-ns -d 'TCP ports to forward from the namespace\'s loopback to the' -r -f
complete -c pasta -s U -l udp-ns -d 'UDP ports, likewise' -r -f
complete -c pasta -s h -l help -d 'Print this text'
complete -c pasta -l version -d 'Print name and version'
complete -c pasta -s f -l foreground -d 'Don\'t run in the background'
complete -c pasta -l chroot-fallback -d 'Isolate with chroot() where pivot_root() fails'
complete -c pasta -s d -l debug -d 'Say more; cancels --quiet'
complete -c pasta -l trace -d 'Say everything; implies --debug'
complete -c pasta -s q -l quiet -d 'Say only what is wrong; cancels --debug'
complete -c pasta -s e -l stderr -d 'Does nothing, for compatibility'
complete -c pasta -l netns-only -d 'Neither join nor create a user namespace'
complete -c pasta -l no-pidns -d 'Start COMMAND or shell in our PID namespace, with our'
complete -c pasta -l no-netns-quit -d 'Keep running when the namespace is gone'
complete -c pasta -l config-net -d 'Configure that interface, rather than let DHCP or NDP do it'
complete -c pasta -l no-copy-routes -d 'Don\'t copy the host\'s routes; will be dropped'
complete -c pasta -l no-copy-addrs -d 'Don\'t copy the host\'s addresses; will be dropped'
complete -c pasta -l host-lo-to-ns-lo -d 'Connect the host\'s loopback to the namespace\'s'
complete -c pasta -l no-splice -d 'Send what comes from the host\'s loopback through that'
complete -c pasta -l splice-only -d 'Connect loopbacks alone, leave that interface unused'
complete -c pasta -l no-map-gw -d 'The gateway\'s address doesn\'t stand for the host'
complete -c pasta -l isolate-host -d 'Leave nothing of the host\'s loopback in the guest\'s reach, and'
complete -c pasta -l resolv-conf -d 'Give COMMAND or shell a resolv.conf of its own, with servers that'
complete -c pasta -l keep-resolv-conf -d 'Leave COMMAND or shell the host\'s resolv.conf'
complete -c pasta -l dhcp-dns -d 'Announce name servers'
complete -c pasta -l dhcp-search -d 'Announce domains'
complete -c pasta -s 4 -l ipv4-only -d 'Use IPv4 alone'
complete -c pasta -s 6 -l ipv6-only -d 'Use IPv6 alone'
complete -c pasta -l no-tcp -d 'No TCP'
complete -c pasta -l no-udp -d 'No UDP'
complete -c pasta -l no-icmp -d 'No ICMP; implies --no-ndp'
complete -c pasta -l no-dhcp -d 'No DHCP server'
complete -c pasta -l no-ndp -d 'No answers to NDP'
complete -c pasta -l no-dhcpv6 -d 'No DHCPv6 server'
complete -c pasta -l no-ra -d 'No router advertisements'
complete -c pasta -l no-multicast -d 'No multicast to groups that the guest joins'
complete -c pasta -l freebind -d 'Forward from addresses that the host doesn\'t have'
