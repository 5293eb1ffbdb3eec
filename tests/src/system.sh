# A root directory whose files are those of another; what changes is in memory.
# Arguments: the other, a mount point, what is at /mnt.
lower=$1 base=$2 given=$3

mount -t tmpfs -o mode=755 none "$base"
cd "$base"
mkdir upper work root
mount -t overlay -o "lowerdir=$lower,upperdir=upper,workdir=work" none root
cd root
mkdir old
mount -t proc proc proc
mount --rbind /sys sys
mount -t cgroup2 none sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs none dev/shm
mount -t tmpfs -o mode=755 none run
mount --bind "$given" mnt
