complete -c passt -s P -l pid -d 'Write the PID to FILE' -r -F
complete -c passt -l runas -d 'Names or numbers to run as, if started as root' -r -f
complete -c passt -s c -l conf-path -d 'Accept changes of the configuration on socket PATH' -r -F
complete -c passt -l repair-path -d 'Socket for passt-repair, with --vhost-user, or none' -r -F
complete -c passt -s l -l log-file -d 'Log to PATH rather than to the system\'s log' -r -F
complete -c passt -l log-size -d 'Size to keep the log file below' -r -f
complete -c passt -l stats -d 'Print statistics in this interval, with --foreground' -r -f
complete -c passt -s p -l pcap -d 'Record all frames in FILE' -r -F
complete -c passt -s s -l socket -d 'Wait for the virtual machine on socket PATH' -r -F
complete -c passt -l socket-path -d 'The same' -r -F
complete -c passt -l framing -d 'How frames come and go: qemu, bess, vfkit, hyperkit, or' -r -f
complete -c passt -s F -l fd -d 'Use connected socket FD; implies --one-off' -r -f
complete -c passt -s m -l mtu -d 'MTU to assign, 0 for none' -r -f
complete -c passt -s a -l address -d 'Address to assign, once for IPv4 and once for IPv6' -r -f
complete -c passt -s n -l netmask -d 'IPv4 mask to assign, dotted or as number of bits' -r -f
complete -c passt -l subnet -d 'Give the guest a network of its own, like none of the host\'s:' -r -f
complete -c passt -s g -l gateway -d 'Default gateway, once for IPv4 and once for IPv6' -r -f
complete -c passt -s M -l mac-addr -d 'MAC address that stands for gateway and host' -r -f
complete -c passt -s H -l hostname -d 'Host name to assign' -r -f
complete -c passt -l fqdn -d 'Fully qualified domain name to assign' -r -f
complete -c passt -s i -l interface -d 'Interface to take addresses and routes from' -r -f
complete -c passt -s o -l outbound -d 'Source of outgoing connections, one for IPv4, one for IPv6' -r -f
complete -c passt -l outbound-if4 -d 'Interface that outgoing IPv4 connections are bound to' -r -f
complete -c passt -l outbound-if6 -d 'Interface that outgoing IPv6 connections are bound to' -r -f
complete -c passt -l map-host-loopback -d 'Address that stands for the host\'s loopback, for each of' -r -f
complete -c passt -l map-guest-addr -d 'Address that stands for the host where host and guest have' -r -f
complete -c passt -s D -l dns -d 'Name server to announce, may be repeated; or none' -r -f
complete -c passt -l dns-forward -d 'Address at which the guest reaches the host\'s resolver,' -r -f
complete -c passt -l dns-host -d 'That resolver, once for IPv4 and once for IPv6' -r -f
complete -c passt -s S -l search -d 'Domain to search, may be repeated; or none' -r -f
complete -c passt -l dhcp-opt -d 'Send DHCP option CODE, a number or name, rather than what' -r -f
complete -c passt -l dhcpv6-opt -d 'Send DHCPv6 option CODE, likewise' -r -f
complete -c passt -l dhcp-lease -d 'Seconds of an IPv4 lease, until renewal, until rebinding' -r -f
complete -c passt -l dhcpv6-lease -d 'Lifetimes of an IPv6 lease and those times, in seconds' -r -f
complete -c passt -l dhcp-boot -d 'File to boot from by IPv4, address and name of its server' -r -f
complete -c passt -l domain -d 'Domain name to assign by DHCP' -r -f
complete -c passt -l ntp -d 'Time server to announce by DHCP or DHCPv6, may be repeated' -r -f
complete -c passt -l captive-portal -d 'URI of a captive portal\'s API to announce' -r -f
complete -c passt -l ra-lifetime -d 'Time to use us as IPv6 router for, 0 for none' -r -f
complete -c passt -l ra-preference -d 'Preference as IPv6 router: high, medium or low' -r -f
complete -c passt -l ra-dns-lifetime -d 'Time to use announced name servers and domains for' -r -f
complete -c passt -l ra-route -d 'IPv6 route to announce, may be repeated' -r -f
complete -c passt -l ra-pref64 -d 'Prefix of NAT64 to announce, may be repeated' -r -f
complete -c passt -s t -l tcp-ports -d 'TCP ports to forward to the guest, may be repeated:' -r -f
complete -c passt -s u -l udp-ports -d 'UDP ports to forward to the guest, likewise' -r -f
complete -c passt -s h -l help -d 'Print this text'
complete -c passt -l version -d 'Print name and version'
complete -c passt -s f -l foreground -d 'Don\'t run in the background'
complete -c passt -l chroot-fallback -d 'Isolate with chroot() where pivot_root() fails'
complete -c passt -s d -l debug -d 'Say more; cancels --quiet'
complete -c passt -l trace -d 'Say everything; implies --debug'
complete -c passt -s q -l quiet -d 'Say only what is wrong; cancels --debug'
complete -c passt -s e -l stderr -d 'Does nothing, for compatibility'
complete -c passt -s 1 -l one-off -d 'Quit when the first client is gone'
complete -c passt -l vhost-user -d 'Speak the vhost-user protocol'
complete -c passt -l print-capabilities -d 'Print what vhost-user front ends ask for'
complete -c passt -l migrate-exit -d 'Does nothing, for compatibility'
complete -c passt -l migrate-no-linger -d 'Does nothing, for compatibility'
complete -c passt -l no-map-gw -d 'The gateway\'s address doesn\'t stand for the host'
complete -c passt -l isolate-host -d 'Leave nothing of the host\'s loopback in the guest\'s reach, and'
complete -c passt -l no-dhcp-dns -d 'Don\'t announce name servers'
complete -c passt -l no-dhcp-search -d 'Don\'t announce domains'
complete -c passt -s 4 -l ipv4-only -d 'Use IPv4 alone'
complete -c passt -s 6 -l ipv6-only -d 'Use IPv6 alone'
complete -c passt -l no-tcp -d 'No TCP'
complete -c passt -l no-udp -d 'No UDP'
complete -c passt -l no-icmp -d 'No ICMP; implies --no-ndp'
complete -c passt -l no-dhcp -d 'No DHCP server'
complete -c passt -l no-ndp -d 'No answers to NDP'
complete -c passt -l no-dhcpv6 -d 'No DHCPv6 server'
complete -c passt -l no-ra -d 'No router advertisements'
complete -c passt -l no-multicast -d 'No multicast to groups that the guest joins'
complete -c passt -l freebind -d 'Forward from addresses that the host doesn\'t have'
