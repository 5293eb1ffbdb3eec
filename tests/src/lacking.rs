//! A kernel, or a sandbox, that lacks things, as far as a program can tell.

use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use passt_sys::lacking::{Exception, Refusal, Test, attempt, refuse};
use passt_sys::seccomp::Sysno;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, netlink};

/// Version of Linux.
type Version = (u32, u32);

/// What a kernel may lack.
#[derive(Clone, Debug)]
pub struct Feature {
    /// Its name in the list that [`lack`] takes.
    pub name: String,
    /// The first version that has it.
    since: Version,
    refusal: Refusal,
}

impl Feature {
    fn new(name: &str, since: Version, refusal: Refusal) -> Self {
        Self { name: name.to_owned(), since, refusal }
    }

    /// An option for sockets.
    fn option(name: &str, since: Version, call: Sysno, option: [i32; 2], errno: Errno) -> Self {
        let [level, option] = option.map(i32::cast_unsigned);
        Self::new(name, since, refusal(one(call), &[(1, Test::Is(level)), (2, Test::Is(option))], errno))
    }

    fn unless(mut self, exception: Exception) -> Self {
        self.refusal.unless = exception;
        self
    }

    /// Whether it is system calls that the kernel has no number for.
    pub fn is_unknown_call(&self) -> bool {
        self.refusal.errno == Errno::NOSYS.raw_os_error()
    }
}

fn refusal(calls: RangeInclusive<u32>, arguments: &[(u8, Test)], errno: Errno) -> Refusal {
    let (arguments, unless) = (arguments.to_vec(), Exception::Never);
    Refusal { calls, arguments, unless, errno: errno.raw_os_error() }
}

fn one(call: Sysno) -> RangeInclusive<u32> {
    let number = call.number().and_then(|number| u32::try_from(number).ok()).unwrap_or(u32::MAX);
    number..=number
}

/// System calls since Linux 5.0, which have the same numbers on all architectures; those up to 423
/// are for times of 64 bits where others have 32. The last is all others.
const CALLS: [(Version, &str, RangeInclusive<u32>); 22] = [
    ((5, 1), "time64", 403..=423),
    ((5, 1), "pidfd_send_signal", 424..=424),
    ((5, 1), "io_uring", 425..=427),
    ((5, 2), "mount_api", 428..=433),
    ((5, 3), "pidfd_open", 434..=434),
    ((5, 3), "clone3", 435..=435),
    ((5, 6), "openat2", 437..=437),
    ((5, 6), "pidfd_getfd", 438..=438),
    ((5, 8), "faccessat2", 439..=439),
    ((5, 9), "close_range", 436..=436),
    ((5, 10), "process_madvise", 440..=440),
    ((5, 11), "epoll_pwait2", 441..=441),
    ((5, 12), "mount_setattr", 442..=442),
    ((5, 13), "landlock", 444..=446),
    ((5, 14), "quotactl_fd", 443..=443),
    ((5, 14), "memfd_secret", 447..=447),
    ((5, 15), "process_mrelease", 448..=448),
    ((5, 16), "futex_waitv", 449..=449),
    ((5, 17), "numa", 450..=450),
    ((6, 5), "cachestat", 451..=451),
    ((6, 6), "fchmodat2", 452..=452),
    ((6, 6), "after_6.6", 453..=4095),
];

/// What was added since Linux 4.18 that the programs, their libraries or commands ask for, or might;
/// and what some sandboxes lack.
pub fn features() -> Vec<Feature> {
    // include/uapi/asm-generic/socket.h, in6.h, netlink.h, udp.h, if_tun.h and fs.h.
    const SO_PEERPIDFD: i32 = 77;
    const IPV6_MULTICAST_ALL: i32 = 29;
    const NETLINK_GET_STRICT_CHK: i32 = 12;
    const UDP_GRO: i32 = 104;
    const TUNSETOFFLOAD: u32 = 0x4004_54d0;
    const TUN_F_USO: u32 = 0x60;
    const RWF_NOWAIT: u32 = 8;
    let (set, get) = (Sysno::setsockopt, Sysno::getsockopt);
    let socket = |option| [nix::libc::SOL_SOCKET, option];
    let (peek, device) = (socket(nix::libc::SO_PEEK_OFF), socket(nix::libc::SO_BINDTODEVICE));
    let family = u32::from(AddressFamily::NETLINK.as_raw());
    let diag = [(0, Test::Is(family)), (2, Test::Is(netlink::SOCK_DIAG.as_raw().get()))];
    let uso = [(1, Test::Is(TUNSETOFFLOAD)), (2, Test::Has(TUN_F_USO))];
    let no_wait = [(5, Test::Has(RWF_NOWAIT))];
    let calls = CALLS
        .into_iter()
        .map(|(since, name, calls)| Feature::new(name, since, refusal(calls, &[], Errno::NOSYS)));
    let unknown = Errno::NOPROTOOPT;
    let others = [
        Feature::option("so_peek_off", (6, 9), set, peek, Errno::OPNOTSUPP),
        Feature::option("so_peek_off_v6", (6, 11), set, peek, Errno::OPNOTSUPP)
            .unless(Exception::OtherThanIpv6),
        Feature::option("so_peerpidfd", (6, 5), get, socket(SO_PEERPIDFD), unknown),
        Feature::new("uso", (6, 2), refusal(one(Sysno::ioctl), &uso, Errno::INVAL)),
        // Before, it tells of one protocol and family at a time; this is as if it told nothing.
        Feature::new("sock_diag", (5, 9), refusal(one(Sysno::socket), &diag, Errno::PROTONOSUPPORT)),
        Feature::new("eventfd_nowait", (5, 8), refusal(one(Sysno::preadv2), &no_wait, Errno::OPNOTSUPP)),
        Feature::option("bindtodevice", (5, 7), set, device, Errno::PERM).unless(Exception::Privileged),
        Feature::option("udp_gro", (5, 0), set, [nix::libc::SOL_UDP, UDP_GRO], unknown),
        Feature::option(
            "strict_dumps",
            (4, 20),
            set,
            [nix::libc::SOL_NETLINK, NETLINK_GET_STRICT_CHK],
            unknown,
        ),
        Feature::option(
            "ipv6_multicast_all",
            (4, 20),
            set,
            [nix::libc::SOL_IPV6, IPV6_MULTICAST_ALL],
            unknown,
        ),
        // Every kernel that we run on has it, but not every sandbox.
        Feature::new("statx", (4, 11), refusal(one(Sysno::statx), &[], Errno::NOSYS)),
    ];
    calls.chain(others).collect()
}

/// Has this process, which must have a single thread, and all that it starts do without `what`: a
/// list of [`features`] by name, or the version of a kernel, which lacks all that came later.
/// System calls that a kernel has no number for fail with `ENOSYS`; with `EPERM` in front of the
/// list they fail with that, as in containers whose engine does not know them.
pub fn lack(what: &str) -> Result<()> {
    let (what, unknown) = match what.strip_prefix("EPERM,") {
        Some(what) => (what, Errno::PERM),
        None => (what, Errno::NOSYS),
    };
    let mut refusals = Vec::new();
    for name in what.split(',') {
        let version = version(name);
        let is_lacking = |f: &Feature| f.name == name || version.is_some_and(|version| f.since > version);
        let before = refusals.len();
        for feature in features().into_iter().filter(is_lacking) {
            let errno =
                if feature.is_unknown_call() { unknown.raw_os_error() } else { feature.refusal.errno };
            refusals.push(Refusal { errno, ..feature.refusal });
        }
        ensure!(refusals.len() > before, "nothing is called {name}");
    }
    refuse(&refusals).context("filter for system calls")
}

/// Requires of this process that it lacks one of [`features`], by name; `EPERM,` as for [`lack`].
pub fn require_lacking(what: &str) -> Result<()> {
    let name = what.trim_start_matches("EPERM,");
    let feature = features().into_iter().find(|feature| feature.name == name).context("a feature")?;
    let errno = if name == what { feature.refusal.errno } else { Errno::PERM.raw_os_error() };
    let socket = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None)?;
    for error in attempt(&feature.refusal, socket.as_fd()) {
        ensure!(error == Some(errno), "{what}: {error:?}");
    }
    Ok(())
}

fn version(text: &str) -> Option<Version> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
