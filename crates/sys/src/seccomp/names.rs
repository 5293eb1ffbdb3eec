//! System calls by name, whatever the processor.
//!
//! Each processor's table has its own numbers, and for some names a newer or a wider call beside or
//! in place of the first: `mmap2` on 32-bit ones, `clock_gettime64` with 64 bits of time. Lists of
//! calls have the name that most 64-bit processors have; what a C library calls instead is added
//! here. All of this is looked up when a filter is made, and a name when a call is refused.

use syscall_numbers::native;

/// A system call, by its name in the tables of 64-bit processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysno(&'static str);

macro_rules! names {
    ($($name:ident)*) => {
        #[allow(non_upper_case_globals, missing_docs, reason = "the kernel's names, which say it all")]
        impl Sysno {
            $(pub const $name: Self = Self(stringify!($name));)*

            /// All that have a name here.
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

names! {
    accept4 bind brk clock_gettime clone3 close connect dup3 epoll_ctl epoll_pwait execve exit_group
    faccessat fcntl fstat ftruncate futex getpeername getsockname getsockopt inotify_add_watch
    inotify_rm_watch ioctl kill listen mmap mremap munmap newfstatat openat pidfd_open
    pidfd_send_signal pipe2 pread64 preadv2 ptrace pwrite64 read readlinkat readv recvfrom recvmmsg
    recvmsg rt_sigqueueinfo rt_sigreturn sendmmsg sendmsg setsockopt shutdown socket splice statx
    tgkill unlinkat wait4 write writev
}

/// What a processor's table may have in the place of a call, or beside it.
const RELATIVES: &[(&str, &[&str])] = &[
    ("clock_gettime", &["clock_gettime64"]),
    ("epoll_pwait", &["epoll_wait"]),
    ("fcntl", &["fcntl64"]),
    // Of 32-bit processors; the C library or the standard library takes the newest.
    ("fstat", &["fstat64", "statx"]),
    ("ftruncate", &["ftruncate64"]),
    ("futex", &["futex_time64"]),
    ("mmap", &["mmap2"]),
    ("newfstatat", &["fstatat64", "statx"]),
    ("recvfrom", &["recv"]),
    ("recvmmsg", &["recvmmsg_time64"]),
];

/// Calls of sockets that share one, `socketcall(2)`, with its first argument
/// (`include/uapi/linux/net.h`).
const MULTIPLEXED: &[(&str, u32)] = &[
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("getsockname", 6),
    ("getpeername", 7),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];
/// `SYS_RECV`, of which `recv(3)` makes use.
const RECV: u32 = 10;

/// Whether the C library makes all calls: rustix has no assembly for this processor.
const BY_C_LIBRARY: bool = cfg!(any(target_arch = "powerpc64", target_arch = "s390x"));

/// Whether calls of sockets may go through `socketcall(2)`: where kernels older than 4.3 have no
/// others, the C library and rustix still use it.
const IS_MULTIPLEXED: bool = cfg!(any(target_arch = "s390x", target_arch = "x86"));

/// A call's number on this processor, and its first argument where that is what tells it from others.
pub(super) type Number = (u32, Option<u32>);

impl Sysno {
    /// The call's name.
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// The call's number, or that of what this processor has instead; `None` where it has nothing
    /// like it.
    pub fn number(self) -> Option<libc::c_long> {
        let relatives = RELATIVES.iter().find(|(name, _)| *name == self.0).map_or(&[][..], |(_, all)| all);
        [self.0].iter().chain(relatives).find_map(|name| number(name))
    }

    /// Whether a filter sees the call's arguments, wherever they come from. Those of `mmap(2)` are
    /// behind a pointer on s390x, and so are those of a multiplexed call.
    pub(super) fn shows_arguments(self) -> bool {
        let is_behind_pointer = cfg!(target_arch = "s390x") && self.0 == "mmap";
        let is_multiplexed = IS_MULTIPLEXED && MULTIPLEXED.iter().any(|(name, _)| *name == self.0);
        !is_behind_pointer && !is_multiplexed
    }

    /// All numbers by which this call can be made.
    pub(super) fn numbers(self) -> impl Iterator<Item = Number> {
        let relatives = RELATIVES.iter().filter(move |(name, _)| *name == self.0).flat_map(|(_, all)| *all);
        // On 64-bit processors the first is the only one that is made.
        let wide = cfg!(target_pointer_width = "64") && number(self.0).is_some();
        let relatives = relatives.filter(move |name| match **name {
            "recv" => true,
            "epoll_wait" => BY_C_LIBRARY,
            _ => !wide,
        });
        let own = [self.0].into_iter().chain(relatives.copied());
        let own = own.filter_map(number).filter_map(|number| Some((u32::try_from(number).ok()?, None)));
        let one = MULTIPLEXED.iter().find(|(name, _)| *name == self.0).map(|(_, which)| *which);
        let which = one.into_iter().chain((self.0 == "recvfrom").then_some(RECV));
        let shared =
            IS_MULTIPLEXED.then(|| number("socketcall")).flatten().and_then(|n| u32::try_from(n).ok());
        own.chain(shared.into_iter().flat_map(move |shared| {
            which.clone().map(move |which| (shared, Some(which))).collect::<Vec<_>>()
        }))
    }
}

/// The name of a call's number on this processor.
pub(super) fn name(number: libc::c_long) -> Option<&'static str> {
    native::sys_call_name(number)
}

/// The number of a call on this processor.
fn number(name: &str) -> Option<libc::c_long> {
    // More than any table has.
    (0..1024).find(|number| native::sys_call_name(*number) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that the tables don't have would be refused when it is made.
    #[test]
    fn every_name_is_known() {
        for call in Sysno::ALL {
            assert!(call.number().is_some() && call.numbers().next().is_some(), "{call:?}");
        }
        for (_, relatives) in RELATIVES {
            for name in *relatives {
                let tables = [
                    syscall_numbers::x86::sys_call_name as fn(_) -> _,
                    syscall_numbers::arm::sys_call_name,
                    syscall_numbers::powerpc64::sys_call_name,
                ];
                let known = |table: &fn(_) -> _| (0..1024).any(|number| table(number) == Some(*name));
                assert!(tables.iter().any(known), "{name}");
            }
        }
    }

    /// The C library's constants for this processor are the same numbers.
    #[test]
    fn numbers_are_those_of_the_c_library() {
        let same = [
            (Sysno::read, libc::SYS_read),
            (Sysno::socket, libc::SYS_socket),
            (Sysno::splice, libc::SYS_splice),
            (Sysno::clone3, libc::SYS_clone3),
            (Sysno::exit_group, libc::SYS_exit_group),
        ];
        for (call, number) in same {
            assert_eq!((call.number(), name(number)), (Some(number), Some(call.name())));
        }
    }
}
