# A host with a network of both families.
echo 'nobody:x:65534:65534::/:/bin/false' >/etc/passwd
echo 'nameserver 192.0.2.53' >/etc/resolv.conf
ip link add eth0 type veth peer name eth1
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
ip addr add 192.0.2.2/24 dev eth0
ip addr add 2001:db8::2/64 dev eth0
ip link set eth0 up
ip link set eth1 up
ip route add default via 192.0.2.1
ip route add default via 2001:db8::1
