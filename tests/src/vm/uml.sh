#!/bin/busybox sh
# The first process of a test's user-mode Linux, as far as it is the same for all.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
	insmod "$module"
done
chmod 666 /dev/net/tun
chmod 1777 /tmp
ip link set lo up
