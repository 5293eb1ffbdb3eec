//! What the manual pages say besides the options.

/// When something in here last changed.
pub(super) const DATE: &str = "2026-11-28";

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
        vec![PORTS, ADDRESSES, LIFE_PASTA, ISOLATION, EXAMPLES_PASTA, STATUS_PASTA, SEE_PASTA]
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

With a COMMAND, or else with the user's shell, it runs that in new network, mount, IPC, UTS, PID and user namespaces and ends
with it. With a PID, or with *--netns*, it serves a namespace that is there, goes to the background when all is
ready, and ends with the namespace.

Connections between the loopback interfaces of the namespace and of the host bypass the tap device.

With *--config-net* the interface is configured. Without it, it stays down, and is for a DHCP client or
router advertisements to be configured.";

const DESCRIPTION_PASST: &str = "\
DESCRIPTION
*passt* connects a virtual machine to the world by sockets of the host. It listens at a UNIX socket for a program that has
the machine's frames, as qemu with *-netdev stream*, and goes to the background. What the
machine sends is translated to ordinary TCP, UDP and ping sockets, and the other way round. There is no bridge, no tap device and no
address translation, and neither root nor any capability is needed.

The machine gets the addresses, routes and name servers of the host by DHCP, DHCPv6 and router advertisements.";

const PORTS: &str = "\
PORT FORWARDING
An argument of *-t* and *-u* is *none*, or a list with commas. In front of the list there may be an address, an interface after
*%*, or both, and a slash: where to listen. Without that, ports are bound for every address, IPv4 and IPv6. An item is one of

PORT or FIRST-LAST ::
forwarded to the same port of the guest. If one of them can't be bound, the program ends and says which.

PORT:TO or FIRST-LAST:FIRST-LAST ::
forwarded to other ports; ranges must have the same length. *:ADDRESS/TO* is another address of the guest.

~PORT or ~FIRST-LAST ::
left out of what the other items say. A list that only leaves out is about all other ports.

all ::
all ports but ephemeral ones, as far as they can be bound, and while they take no more than three of four
descriptors that the process may have.

auto ::
pasta only, and its default: what listens on the other side, found once a second. With ranges in the list, only those.

*-T* and *-U* of pasta are for ports from the namespace's loopback to the host's, without address and interface.";

const ADDRESSES: &str = "\
ADDRESSES
The guest has the host's addresses, which therefore lead to the guest itself as long as it uses them. The address of the gateway stands for
the host's loopback, unless *--no-map-gw* is given or *--map-host-loopback* names another; *--map-guest-addr* names one that
stands for the host's own address. At the address of *--dns-forward* there is the host's resolver.

What listens on the host's loopback alone is out of the guest's reach with *--no-map-gw*, and for pasta *-T none* and *-U none* beside it, without
the other options named here. What listens on all addresses of the host is reached at any of them that the guest does
not use, as from other machines.

Connections that the host makes to a forwarded port by its own loopback arrive from the gateway's address, or for pasta, where they bypass
the tap device, from the namespace's own address. All others arrive from where they come from.";

const LIFE_PASTA: &str = "\
LIFE
In the background the process that was started ends with status 0 when the namespace has its network, ports are bound, and the
PID file is complete. If anything fails before, it writes one line to standard error and ends with status 1.

A command makes *--foreground* and *--quiet* the default. It is the first process of a PID namespace, with a */proc* of its own, and
everything in there ends with it. It is let go when its network is ready. With *--no-pidns*, for where a */proc* can't be mounted, it is
a process like any other, and what it has started goes on when it ends.

SIGTERM and SIGQUIT end the program. It also ends when the namespace is gone, unless *--no-netns-quit* is given.";

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

*--netns-only* keeps the user namespace as well: what may be done to the namespace is then decided by the rights of whoever starts the program.
Who has no right to enter the namespace of a *PID* from there joins its user namespace all the same.

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

    pasta --config-net

A server, reached at port 8080 of the host, and nothing else forwarded:

    pasta --config-net -t 8080:80 -u none -T none -U none ./server

A program that is to find nothing of what listens on the host's loopback:

    pasta --config-net --no-map-gw -t none -u none -T none -U none ./untrusted

The namespace of a process:

    pasta --config-net 4242

A resolver at an address of its own:

    pasta --config-net --dns-forward 169.254.1.1 dig @169.254.1.1 example.org

Record everything:

    pasta --config-net --pcap frames.pcap curl http://example.org/";

const EXAMPLES_PASST: &str = "\
EXAMPLES
A machine whose port 22 is the host's port 2222:

    passt --socket vm.socket -t 2222:22
    qemu-system-x86_64 ... -device virtio-net-pci,netdev=n0 -netdev stream,id=n0,server=off,addr.type=unix,addr.path=vm.socket

A machine that boots from the network, by TFTP from another host:

    passt --socket vm.socket --dhcp-boot pxelinux.0,192.0.2.9

With a qemu older than 7.2:

    passt
    qrap 5 qemu-system-x86_64 ... -device virtio-net-pci,netdev=n0 -netdev socket,id=n0,fd=5";

const STATUS_PASTA: &str = "\
EXIT STATUS
That of the command, or 128 and the number of the signal that ended it. Without a command, 0. 1 if the program could not do what it was asked
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
