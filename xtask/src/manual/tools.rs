//! What the short manual pages say besides the options: those of the tools, and of passt under other
//! programs' names.

/// Sections of a page: before the options, and behind them.
pub(super) type Sections = (&'static [&'static str], &'static [&'static str]);

pub(super) const PESTO: Sections = (
    &[
        "\
NAME
pesto - change and show what a running passt or pasta does",
        "\
SYNOPSIS
*pesto* [OPTION]... PATH",
        "\
DESCRIPTION
*pesto* talks to the *passt* or *pasta* that was started with *--conf-path* PATH. Without options it lists the forwarded
ports. With specifiers it changes them: all changes of one call take effect together, or none. For each port that can't be had
there is a line, which names who has it where the user may see that. Adding what is there and deleting what is not
is no error. Connections that were accepted stay.

A specifier before any *--add* or *--delete* replaces all rules of its interface, which is HOST for *-t* and *-u*, and
SPLICE for *-T* and *-U*.

A server of the C program is understood as well. It answers nothing: what could not be had is in its log.",
    ],
    &[
        "\
EXAMPLES
Publish a port of a running container, and take it away:

<!-- not run: docs/walkthrough.md has these -->
    pesto --add -t 127.0.0.1/8080:80 pasta.sock
    pesto --delete -t 127.0.0.1/8080:80 pasta.sock

Look at frames from now on:

<!-- not run: it ends with the instance -->
    pesto --capture - pasta.sock | tcpdump -nr -",
        "\
EXIT STATUS
0 if all was done, 1 if not.",
        "\
SEE ALSO
*passt*(1), *pasta*(1), *passtop*(1)",
    ],
);

pub(super) const PASSTOP: Sections = (
    &[
        "\
NAME
passtop - a live view of a running passt or pasta",
        "\
SYNOPSIS
*passtop* [OPTION]... [PATH]",
        "\
DESCRIPTION
*passtop* shows what a *passt* or *pasta* does that was started with *--conf-path* PATH. It shows rates of traffic, flows with
their addresses, state, round-trip time and segments sent again, forwarded ports and who uses them, what is dropped
and why, and how full everything is. It needs no right but to connect to that socket.

Without PATH it takes the only socket that it finds with pasta, passt, pesto, ctl, control or conf in its name.",
    ],
    &[
        "\
KEYS
Tab, 1 to 4 ::
Another page: flows, ports, drops, state.

s, r ::
Another order of flows; the other way round.

/ ::
Show only lines that have some text; Enter ends it, Esc clears it.

p ::
Pause, and go on.

Up, Down, Page Up, Page Down, Home ::
Scroll.

q ::
Quit.",
        "\
EXIT STATUS
0 if the user quits, 1 if the instance is gone or was not found.",
        "\
SEE ALSO
*passt*(1), *pasta*(1), *pesto*(1)",
    ],
);

pub(super) const QRAP: Sections = (
    &[
        "\
NAME
qrap - start a qemu that can't connect to passt by itself",
        "\
SYNOPSIS
*qrap* FDNUM COMMAND [ARG]...

*qrap* QEMU_ARG...",
        "\
DESCRIPTION
*qrap* connects to a *passt* that has no client, and becomes COMMAND, with the connection as descriptor FDNUM, which the
command's arguments refer to themselves. Without a number it becomes qemu, with arguments for a network device that uses
the connection: for programs that start qemu and can be given another name for it. A qemu from 7.2 on needs none of this.

The socket is looked for at the default names of *passt*, or at PASST_SOCKET, for 2.5 seconds.",
    ],
    &[
        "\
ENVIRONMENT
PASST_SOCKET ::
Path of the socket.",
        "\
EXAMPLES
A qemu that is given the descriptor:

<!-- not run: needs a disk -->
    passt
    qrap 5 qemu-system-x86_64 -m 1G -drive file=disk.qcow2 -device virtio-net-pci,netdev=n0 -netdev socket,id=n0,fd=5",
        "\
EXIT STATUS
That of the command; 1 if there is none.",
        "\
SEE ALSO
*passt*(1), *qemu*(1)",
    ],
);

pub(super) const SLIRP4NETNS: Sections = (
    &[
        "\
NAME
slirp4netns - network for a namespace, with the options of slirp4netns",
        "\
SYNOPSIS
*slirp4netns* [OPTION]... PID|PATH TAPNAME

*slirp4netns* [OPTION]... FD|SOCKET",
        "\
DESCRIPTION
*slirp4netns* is *pasta* for programs that start the one of this name: it has its options and messages, and the network
of its own that these expect. The operand names a process or a file whose namespace is connected, and TAPNAME the tap
device in it. With *--netns-type=tapfd* it is a descriptor, with *--target-type=bess* a socket; there is no TAPNAME then.",
    ],
    &[
        "\
EXIT STATUS
0 if its exit descriptor or the end of the namespace ended it, 1 if it could not do what it was asked for. A signal ends
it as it ends any program.",
        "\
SEE ALSO
*pasta*(1), *vpnkit*(1), *network_namespaces*(7)",
    ],
);

pub(super) const VPNKIT: Sections = (
    &[
        "\
NAME
vpnkit - network for a namespace, with the options of VPNKit",
        "\
SYNOPSIS
*vpnkit* [OPTION]... *--ethernet*=SOCKET",
        "\
DESCRIPTION
*vpnkit* is *passt* for RootlessKit and what starts it, which expect VPNKit at a socket. Options of VPNKit that are for
Docker Desktop are refused.",
    ],
    &[
        "\
EXIT STATUS
1 if it could not do what it was asked for, 124 for an option that there is not or a value that can't be one. A signal
ends it as it ends any program.",
        "\
SEE ALSO
*passt*(1), *slirp4netns*(1)",
    ],
);
