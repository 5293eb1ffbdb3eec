# Publishes a service of this host, and tells whom else it finds, until it is killed.
# Arguments: a directory of programs, and the host's name.
set -e
parts=$1 name=$2
run() {
    program=$1
    shift
    "$parts/lib/ld-linux-x86-64.so.2" --library-path "$parts/lib" "$parts/bin/$program" "$@"
}
mount -t tmpfs none /run
mkdir /run/dbus
# The user of each daemon has to be one that this user namespace has.
printf '%s:x:0:0::/:/bin/sh\n' root avahi messagebus > /run/passwd
printf '%s:x:0:\n' root avahi netdev > /run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
cat > /run/bus.conf <<X
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>
X
cat > /run/avahi.conf <<X
[server]
host-name=$name
use-ipv6=no
deny-interfaces=lo
X
run dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.1; done
run avahi-daemon --no-drop-root --no-chroot --no-rlimits -f /run/avahi.conf &
# It can be asked by D-Bus some time after it runs.
until run avahi-browse -at > /dev/null 2>&1; do sleep 0.1; done
run avahi-publish -s "$name" _http._tcp 8080 &
exec "$parts/lib/ld-linux-x86-64.so.2" --library-path "$parts/lib" "$parts/bin/avahi-browse" -pr _http._tcp
