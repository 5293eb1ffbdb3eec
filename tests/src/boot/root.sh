# The first process in the root directory: what udev and init scripts would do, then the command.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
in_box() {
	/run/boot/busybox "$@"
}
in_box mkdir -p /dev/pts /dev/shm /run/lock
in_box mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
in_box mount -t tmpfs -o mode=1777 shm /dev/shm
in_box mount -t cgroup2 cgroup2 /sys/fs/cgroup
in_box mount -t securityfs securityfs /sys/kernel/security
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
	[ -e /dev/${link%%:*} ] || in_box ln -s ${link#*:} /dev/${link%%:*}
done
in_box ifconfig lo up
# Modules are loaded as they are asked for; these have no name to be asked for by.
echo /run/boot/modprobe >/proc/sys/kernel/modprobe
for module in tun tcp_bbr; do
	in_box modprobe $module
done
in_box chmod 666 /dev/net/tun
control=/proc/sys/net/ipv4
[ ! -e $control/tcp_available_congestion_control ] ||
	in_box cat $control/tcp_available_congestion_control >$control/tcp_allowed_congestion_control
# Who has started the machine reads the port.
set -- /dev/vport*
exec 3>"$1"
echo "BOOTED $(in_box uname -r)" >&3
/bin/sh /run/boot/command </dev/null >&3 2>&3 3>&-
echo "ENDED $?" >&3
exec 3>&-
in_box poweroff -f
