//! What the manual pages say besides the options.

/// When something in here last changed.
pub(super) const DATE: &str = "2026-11-29";

/// Sections before the options.
pub(super) fn before(pasta: bool) -> [&'static str; 3] {
    if pasta {
        [NAME_PASTA, SYNOPSIS_PASTA, DESCRIPTION_PASTA]
    } else {
        [NAME_PASST, SYNOPSIS_PASST, DESCRIPTION_PASST]
    }
}

/// Sections behind the options.
pub(super) fn after(pasta: bool) -> Vec<&'static str> {
    if pasta {
        vec![KNOW_PASTA, PORTS, ADDRESSES, LIFE_PASTA, ISOLATION, EXAMPLES_PASTA, STATUS_PASTA, SEE_PASTA]
    } else {
        vec![PORTS, ADDRESSES, LIFE_PASST, ISOLATION, FILES_PASST, EXAMPLES_PASST, STATUS_PASST, SEE_PASST]
    }
}

const NAME_PASTA: &str = "\
NAME
pasta - network for a namespace, without privilege";

const NAME_PASST: &str = "\
NAME
passt - network for a virtual machine, without privilege";

const SYNOPSIS_PASTA: &str = "\
SYNOPSIS
*pasta* [OPTION]... [COMMAND [ARG]...]

*pasta* [OPTION]... PID

*pasta* [OPTION]... *--netns* PATH|NAME";

const SYNOPSIS_PASST: &str = "\
SYNOPSIS
*passt* [OPTION]...";

const DESCRIPTION_PASTA: &str = "\
DESCRIPTION
*pasta* connects a network namespace to the world by sockets of the host. Inside there is a tap device, usually with
the addresses, routes and name servers of the host. What the namespace sends is translated to ordinary TCP, UDP and
ping sockets, and the other way round. There is no bridge and no address translation, and neither root nor any
capability is needed.

It runs COMMAND, or without one the user's shell, in new network, mount, IPC, UTS, PID and user namespaces, and ends
with it. With a PID, or with *--netns*, it serves a namespace that is there already: it goes to the background when all
is ready, and ends with the namespace.

Connections between the loopback interfaces of the namespace and of the host bypass the tap device.

With *--config-net* the interface is configured. Without it, it stays down until a DHCP client or router
advertisements configure it.";

const DESCRIPTION_PASST: &str = "\
DESCRIPTION
*passt* connects a virtual machine to the world by sockets of the host. It listens at a UNIX socket for a program that has
the machine's frames, as qemu with *-netdev stream*, and goes to the background. What the
machine sends is translated to ordinary TCP, UDP and ping sockets, and the other way round. There is no bridge, no tap device and no
address translation, and neither root nor any capability is needed.

The machine gets the addresses, routes and name servers of the host by DHCP, DHCPv6 and router advertisements.";

const KNOW_PASTA: &str = "\
GOOD TO KNOW
The command is root *inside* only, of one user and one group, so it can't become another user. Files are the host's own: what it deletes is gone.

Started as root, pasta and its command become *nobody*, who may read and write little: not even the start-up files of root's shell. *--runas* names another user.

The namespace ends with the command, and so does all that the command has started, unless *--no-pidns* is given. A command that goes to
the background by itself ends at once: tell it to stay in the foreground. The command is process 1 of its PID namespace, which signals
from outside that it doesn't handle don't end: end *pasta* instead.

The host's name inside is *pasta-* and the host's name, unless *--hostname* gives another.

Each of *-t*, *-u*, *-T* and *-U* that is not given is *auto*. Ports of *-t* and *-u*, automatic ones too, are bound for all addresses of
the host unless one is named: *-t 127.0.0.1/8080* is for this host alone.

The gateway's address stands for the host's loopback: what listens there is reached by the command, unless *--no-map-gw* is given.
*--isolate-host* is that, and no ports either way but those given to *-t* and *-u*.

The command sees the host's */etc/resolv.conf*. Where all name servers in it are on the host's loopback, it sees one that names the gateway
instead, which stands for the host. With *--isolate-host* or *--no-map-gw* that takes *--resolv-conf*.

*/sys* is the host's, too, so what it says of interfaces is not true inside. *ip*(8) says what is.";

const PORTS: &str = "\
PORT FORWARDING
An argument of *-t* and *-u* is *none*, or a list with commas. In front of the list there may be an address, an interface after
*%*, or both, and a slash: where to listen. Without that, ports are bound for every address, IPv4 and IPv6. An item is one of

PORT or FIRST-LAST ::
forwarded to the same port of the guest. If one of them can't be bound, the program ends and says which.

PORT:TO or FIRST-LAST:FIRST-LAST ::
forwarded to other ports; ranges must have the same length. *:ADDRESS/TO* is another address of the guest; the list
needs an address of the same family in front then, as in *0.0.0.0/8080:10.0.2.101/80*.

~PORT or ~FIRST-LAST ::
left out of what the other items say. A list that only leaves out is about all other ports.

all ::
all ports but ephemeral ones that can be bound. Each takes a descriptor, and together they take at most three quarters of
those that the process may have (*ulimit -Hn*). Lines name the ports at which these ended; the rest is not forwarded.

auto ::
pasta only, and its default: what listens on the other side, found once a second, at other than ephemeral ports. With
ranges in the list, only those.

*-T* and *-U* of pasta are for ports from the namespace's loopback to the host's, without address and interface.";

const ADDRESSES: &str = "\
ADDRESSES
The guest has the host's addresses, so these lead to the guest itself as long as it uses them. The address of the gateway stands for
the host's loopback, unless *--no-map-gw* is given or *--map-host-loopback* names another. The address of *--map-guest-addr*
stands for the host's own address, and that of *--dns-forward* for the host's resolver.

What listens on the host's loopback alone is out of the guest's reach with *--no-map-gw*, for pasta together with *-T none* and *-U none*,
if none of the other options named here is given. What listens on all addresses of the host is reached at any of them that the
guest does not use, as from other machines.

Connections that the host makes to a forwarded port by its own loopback arrive from the gateway's address, or for pasta, where they bypass
the tap device, from the namespace's own address. Those that it makes to its own address arrive from the gateway's, as long as the guest has the same. All
others arrive from where they come from.";

const LIFE_PASTA: &str = "\
LIFE
In the background the process that was started ends with status 0 when the namespace has its network, ports are bound, and the
PID file is complete. If anything fails before, it writes one line to standard error and ends with status 1.

A command makes *--foreground* and *--quiet* the default. It is the first process of a PID namespace, with a */proc* of its own, and
everything in there ends with it. It is let go when its network is ready. With *--no-pidns*, for where a */proc* can't be mounted, it is
a process like any other, and what it has started goes on when it ends.

SIGTERM and SIGQUIT end the program. It also ends when the namespace is gone, unless *--no-netns-quit* is given.

*--netns-only* keeps the user namespace as well: what may be done to the namespace is then decided by the rights of whoever starts the program.
Who has no right to enter the namespace of a *PID* from there joins its user namespace all the same.";

const LIFE_PASST: &str = "\
LIFE
In the background the process that was started ends with status 0 when the socket listens, ports are bound, and the PID file is
complete. If anything fails before, it writes one line to standard error and ends with status 1.

One client is connected at a time; others are turned away. When it leaves, the next can come, or with *--one-off* the program ends. SIGTERM and
SIGQUIT end it, too. The socket and the PID file are left where they are.

The umask decides who may connect to the socket. Other files are made for their owner alone.";

const ISOLATION: &str = "\
ISOLATION
Once everything that it needs is open, the process leaves its user, mount, IPC, UTS and PID namespaces. It has an empty
root directory, no capability but *CAP_NET_BIND_SERVICE* (of its user namespace, or of the host's if it was granted), no way to get
others, no access to files by Landlock where the kernel has that, and can neither be traced nor leave a core dump. Then it allows itself a short list of
system calls. Another call ends it with status 159, and a line that names the call. It can't get more memory from the kernel.

A process can't change its own PID namespace, only its children's. So with *--foreground*, where there is no child, it stays in the PID namespace
that it was started in.

Started as root, it becomes *nobody*, or whom *--runas* says. With *--chroot-fallback* it also runs where *pivot_root*(2) is refused,
as in an initial ramdisk.";

const FILES_PASST: &str = "\
FILES
/tmp/passt_1.socket to /tmp/passt_63.socket ::
The first of these that nobody listens at is where passt listens, unless *--socket* says otherwise. A file that a
process left behind is replaced.";

const EXAMPLES_PASTA: &str = "\
EXAMPLES
A shell with a network:

<!-- run -->
    pasta --config-net

A web page:

<!-- run -->
    pasta --config-net curl -sS http://example.org/

A server, reached at port 8080 of the host, and nothing else forwarded:

<!-- run: serves 8080 -->
    pasta --config-net -t 8080:8000 -u none -T none -U none python3 -m http.server 8000

A program that is to find nothing of what listens on the host's loopback:

<!-- run -->
    pasta --config-net --isolate-host ./untrusted

The same with names, by the host's resolver alone:

<!-- run -->
    pasta --config-net --isolate-host --resolv-conf curl -sS http://example.org/

The namespace of a process:

<!-- not run: needs a namespace that exists -->
    pasta --config-net 4242

A resolver at an address of its own:

<!-- run -->
    pasta --config-net --dns-forward 169.254.1.1 dig @169.254.1.1 example.org

Record everything:

<!-- run -->
    pasta --config-net --pcap frames.pcap curl -sS http://example.org/";

const EXAMPLES_PASST: &str = "\
EXAMPLES
A machine whose port 22 is the host's port 2222:

<!-- run -->
    passt --socket vm.socket -t 2222:22

<!-- not run: needs a disk -->
    qemu-system-x86_64 -m 1G -drive file=disk.qcow2 -device virtio-net-pci,netdev=n0 -netdev stream,id=n0,server=off,addr.type=unix,addr.path=vm.socket

passt stays when the machine ends, for the next one; with *--one-off* it ends, too. Each machine takes a passt of its
own.

A machine that boots from the network, by TFTP from another host:

<!-- run -->
    passt --socket vm.socket --dhcp-boot pxelinux.0,192.0.2.9

With a qemu older than 7.2:

<!-- not run: needs a disk -->
    passt
    qrap 5 qemu-system-x86_64 -m 1G -drive file=disk.qcow2 -device virtio-net-pci,netdev=n0 -netdev socket,id=n0,fd=5";

const STATUS_PASTA: &str = "\
EXIT STATUS
That of the command, or 128 and the number of the signal that ended it. 0 without a command, and where the program
itself was ended by a signal. 1 if the program could not do what it was asked
for, 159 if it made a system call that is not allowed.";

const STATUS_PASST: &str = "\
EXIT STATUS
0 if it was ended by a signal or, with *--one-off*, its client left. 1 if it could not do what it was asked
for, 159 if it made a system call that is not allowed.";

const SEE_PASTA: &str = "\
SEE ALSO
*passt*(1), *pesto*(1), *passtop*(1), *network_namespaces*(7), *user_namespaces*(7), *nsenter*(1), *ip-netns*(8)";

const SEE_PASST: &str = "\
SEE ALSO
*pasta*(1), *pesto*(1), *passtop*(1), *qemu*(1)";
