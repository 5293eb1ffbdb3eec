#!/bin/sh
# Demonstration of pasta and passt together, without root: pasta makes a network namespace, passt in
# it connects a virtual machine, and ssh goes into the machine by a port that passt forwards.
#
#     contrib/demo.sh [COMMAND [ARGUMENT]...]
#
# runs a command in the machine, or without one a shell; --prepare only makes the machine. PASTA and
# PASST name other programs than those on PATH. The machine is made of Debian's packages, which apt
# downloads once to the directory PASST_DEMO (~/.cache/passt-demo); it stays there. Needed besides:
# qemu-system-x86_64 (7.2 or newer), ssh, dpkg-deb, xz.
set -eu

dir=${PASST_DEMO:-${XDG_CACHE_HOME:-$HOME/.cache}/passt-demo}
pasta=${PASTA:-pasta}
passt=${PASST:-passt}
case $passt in */*) passt=$(cd "$(dirname "$passt")" && pwd)/${passt##*/} ;; esac
script=$(cd "$(dirname "$0")" && pwd)/${0##*/}
port=2222

say() { echo "demo: $*" >&2; }

# Packages with all that they need, and nothing that is only recommended.
download() {
	say "downloading a kernel, busybox and an ssh server to $dir/packages"
	for program in apt-get apt-cache; do
		command -v $program >/dev/null || { say "needs $program, or packages in $dir/packages"; exit 1; }
	done
	new=$dir/new.$$
	mkdir -p "$new"
	kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9]\)/\1/p' | head -n 1)
	needed=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
		--no-replaces --no-enhances dropbear-bin | grep '^[a-z]' | sort -u)
	# shellcheck disable=SC2086 # Names of packages, one word each.
	(cd "$new" && apt-get -q download "$kernel" busybox-static $needed)
	mv "$new" "$dir/packages"
}

# The machine's first and only file system, in memory.
make_machine() {
	say "making the machine"
	rm -rf "$dir/unpacked" "$dir/root"
	mkdir -p "$dir/unpacked" "$dir/root/root/.ssh" "$dir/root/etc/dropbear"
	for package in "$dir"/packages/*.deb; do
		dpkg-deb -x "$package" "$dir/unpacked"
	done
	busybox=$(find "$dir/unpacked" -path '*bin/busybox' | head -n 1)
	cp "$dir"/unpacked/boot/vmlinuz-* "$dir/vmlinuz"
	# Modules of the network device, and what they need themselves.
	modules=$(find "$dir/unpacked" -path '*lib/modules/*' -prune -name '[0-9]*' | head -n 1)
	find "$modules" -name '*.ko.xz' -exec xz -d {} +
	version=${modules##*/}
	(cd "$modules" && "$busybox" depmod -b "${modules%/lib/modules/*}" "$version" 2>/dev/null)
	to=$dir/root/lib/modules/$version
	mkdir -p "$to"
	cp "$modules/modules.dep" "$to/"
	for module in virtio_pci virtio_net af_packet; do
		grep "/$module.ko:" "$modules/modules.dep" | tr -d : | tr ' ' '\n' | while read -r file; do
			mkdir -p "$to/${file%/*}"
			cp "$modules/$file" "$to/$file"
		done
	done
	rm -rf "$dir"/unpacked/boot "$modules" "$dir"/unpacked/usr/share
	cp -a "$dir/unpacked/." "$dir/root/"
	mkdir -p "$dir/root/bin" "$dir/root/proc" "$dir/root/sys" "$dir/root/dev" "$dir/root/tmp" "$dir/root/run"
	cp "$busybox" "$dir/root/bin/busybox" 2>/dev/null || true
	[ -f "$dir/key" ] || ssh-keygen -q -t ed25519 -N '' -C demo -f "$dir/key"
	cp "$dir/key.pub" "$dir/root/root/.ssh/authorized_keys"
	chmod 700 "$dir/root/root" "$dir/root/root/.ssh"
	echo 'root::0:0:root:/root:/bin/sh' >"$dir/root/etc/passwd"
	echo 'root:x:0:' >"$dir/root/etc/group"
	echo /bin/sh >"$dir/root/etc/shells"
	cat >"$dir/root/etc/udhcpc" <<'SCRIPT'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
ip link set "$interface" mtu "${mtu:-1500}"
for gateway in $router; do
	ip route add "$gateway" dev "$interface"
	ip route add default via "$gateway"
done
for resolver in $dns; do echo "nameserver $resolver"; done >/etc/resolv.conf
SCRIPT
	cat >"$dir/root/init" <<'SCRIPT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
# Files have the owner who made the machine.
chown -R 0:0 /root /etc
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts && mount -t devpts pts /dev/pts
modprobe -a virtio_pci virtio_net af_packet
hostname machine
ip link set lo up
ip link set eth0 up
udhcpc -q -f -i eth0 -s /etc/udhcpc
dropbear -F -E -R
poweroff -f
SCRIPT
	chmod 755 "$dir/root/init" "$dir/root/etc/udhcpc"
	(cd "$dir/root" && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$dir/initramfs.new"
	# What is there is whole.
	mv "$dir/initramfs.new" "$dir/initramfs"
	rm -rf "$dir/unpacked" "$dir/root"
}

# Words for ssh, of which the first may be further options.
login() {
	ssh -q -i "$dir/key" -p "$port" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
		-o IdentitiesOnly=yes -l root "$@"
}

# What happens in the namespace.
inside() {
	work=$(mktemp -d)
	qemu=
	trap '[ -z "$qemu" ] || kill "$qemu" 2>/dev/null; rm -rf "$work"' EXIT
	say "in the namespace: $(ip -brief -4 address show scope global | tr -s ' ')"
	cd "$work"
	"$passt" --quiet --one-off --socket "$work/socket" --tcp-ports "$port:22"
	accel=tcg
	[ -w /dev/kvm ] && accel=kvm
	qemu-system-x86_64 -accel "$accel" -m 256 -nodefaults -nographic -no-reboot \
		-kernel "$dir/vmlinuz" -initrd "$dir/initramfs" -append 'console=ttyS0 quiet' \
		-serial "file:$work/console" -device virtio-net-pci,netdev=n0 \
		-netdev "stream,id=n0,server=off,addr.type=unix,addr.path=socket" 2>>"$work/console" &
	qemu=$!
	say 'the machine boots'
	# passt takes the connection at once; the machine answers when it is up.
	tries=0
	until login -o ConnectTimeout=5 -o BatchMode=yes 127.0.0.1 true 2>/dev/null; do
		tries=$((tries + 1))
		if [ "$tries" -gt 60 ] || ! kill -0 "$qemu" 2>/dev/null; then
			say 'the machine does not answer; what its console shows:'
			tail -n 20 "$work/console" >&2
			exit 1
		fi
		sleep 1
	done
	say 'in the machine, by ssh through passt:'
	if [ -t 0 ]; then login -t 127.0.0.1 "$@"; else login 127.0.0.1 "$@"; fi
}

if [ "${PASST_DEMO_INSIDE:-}" ]; then
	inside "$@"
	exit
fi
# Started by root, pasta and the command become nobody, who can't read root's files.
if [ "${1:-}" != --prepare ] && [ "$(id -u)" = 0 ]; then
	say 'start it as an ordinary user, not as root'
	exit 1
fi
for program in "$pasta" "$passt" qemu-system-x86_64 ssh ssh-keygen dpkg-deb xz; do
	command -v "$program" >/dev/null || { say "needs $program"; exit 1; }
done
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if ! [ -f "$dir/initramfs" ]; then
	[ -d "$dir/packages" ] || download
	make_machine
fi
[ "${1:-}" != --prepare ] || exit 0
export PASST_DEMO="$dir" PASST="$passt" PASST_DEMO_INSIDE=1
# No port of the host leads in, and none of the host's loopback can be reached from inside.
exec "$pasta" --config-net --no-map-gw -t none -u none -T none -U none sh "$script" "$@"
