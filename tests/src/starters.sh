# A root directory of its own for programs of packages: their /usr, and the rest in memory.
# Arguments: what was unpacked; the mount point; what is copied to /usr/local; the user's ID; what
# is there under its own name.
lower=$1 root=$2 installed=$3 id=$4
shift 4

mount -t tmpfs -o mode=755 none "$root"
cd "$root"
mkdir -p dev etc home/user old proc root run/user/"$id" sys tmp usr var/lib var/tmp
for link in bin lib lib64 sbin; do
	ln -s usr/$link $link
done
# /usr/local is no mount, as a program that has left its root directory is named from its mount on.
for entry in "$lower"/usr/*; do
	name=${entry##*/}
	mkdir "usr/$name"
	mount --bind "$entry" "usr/$name"
done
cp -r "$installed" usr/local
mount -t proc proc proc
mount --rbind /sys sys
mount -t cgroup2 none sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs none dev/shm
for directory; do
	mkdir -p "${directory#/}"
	mount --bind "$directory" "${directory#/}"
done

cp -r "$lower/etc/containers" etc
cp /etc/resolv.conf etc
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >etc/containers/policy.json
cat >etc/containers/storage.conf <<'END'
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
END
echo '127.0.0.1 localhost' >etc/hosts
printf 'root:x:0:0::/root:/bin/sh\nuser:x:%s:%s::/home/user:/bin/sh\n' "$id" "$id" >etc/passwd
printf 'root:x:0:\nuser:x:%s:\n' "$id" >etc/group
echo user:100000:65536 | tee etc/subuid >etc/subgid
chmod 1777 tmp var/tmp
chown "$id:$id" home/user run/user/"$id"
chmod 700 run/user/"$id"
