#!/bin/busybox sh
# The first process in the ramdisk: mounts the root directory with a layer in memory above it, and
# goes on there with root.sh.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in /modules/*; do
	insmod "$module"
done
share=trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144
mount -t 9p -o $share root /below
mount -t tmpfs -o size=80% above /above
mkdir /above/upper /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/upper,workdir=/above/work overlay /new
cd /new
mkdir -p proc sys dev run tmp lib/modules
mount -t 9p -o $share modules lib/modules
while read -r tag place; do
	mkdir -p "/new$place"
	mount -t 9p -o $share "$tag" "/new$place"
done </mounts
mount -t tmpfs run run
mkdir run/boot
cp /bin/busybox /root.sh /command run/boot
ln -s busybox run/boot/modprobe
mount --move /proc proc
mount --move /sys sys
mount --move /dev dev
exec switch_root /new /run/boot/busybox sh /run/boot/root.sh
