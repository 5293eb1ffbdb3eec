#!/bin/busybox sh
# The first process of a test's virtual machine: what udev and init scripts
# would do, then the agent that runs commands.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
	insmod "$module"
done
ip link set lo up
exec peer agent /dev/vport*
