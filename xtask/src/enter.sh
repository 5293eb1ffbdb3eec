# Arguments: a root directory, directories of this machine that are to be in its copy, --, a command.
root=$1
shift
mount --make-rprivate /
# Nobody else sees what is mounted here.
layer=/mnt
mount -t tmpfs layer "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/new"
mount -t overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" overlay "$layer/new"
while [ "$1" != -- ]; do
	mkdir -p "$layer/new$1"
	mount --rbind "$1" "$layer/new$1"
	shift
done
shift
# Cargo fetches what it lacks.
for file in etc/resolv.conf etc/ssl/certs/ca-certificates.crt; do
	[ ! -e "/$file" ] || cp -L --parents "/$file" "$layer/new"
done
mount -t proc proc "$layer/new/proc"
mount --rbind /dev "$layer/new/dev"
mount --rbind /sys "$layer/new/sys"
exec chroot "$layer/new" "$@"
