//! Making processes, and changing who this one is.

use std::io;
use std::os::fd::RawFd;

use rustix::process::{DumpableBehavior, Gid, Pid, Resource, Rlimit, Uid};
use rustix::process::{getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

bitflags::bitflags! {
    /// Namespaces that a new process gets for itself (clone(2)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NewNamespaces: libc::c_int {
        /// System V IPC and message queues.
        const IPC = libc::CLONE_NEWIPC;
        /// Mounts.
        const MOUNT = libc::CLONE_NEWNS;
        /// Network.
        const NET = libc::CLONE_NEWNET;
        /// Process IDs: the new process is number 1.
        const PID = libc::CLONE_NEWPID;
        /// Host name.
        const UTS = libc::CLONE_NEWUTS;
    }
}

/// Forks into `namespaces` of the child's own. The parent gets the child's PID, the child `None`.
///
/// The process must have a single thread, as for every fork: the child has
/// a copy of its memory, locks included, with only the calling thread. The C
/// library doesn't notice, so the child should soon execute a program or end.
pub fn fork_into(namespaces: NewNamespaces) -> io::Result<Option<Pid>> {
    let flags = libc::c_long::from(namespaces.bits() | libc::SIGCHLD);
    // Flags and stack have each other's place on s390x (clone(2)).
    let (first, second) = if cfg!(target_arch = "s390x") { (0, flags) } else { (flags, 0) };
    // SAFETY: without CLONE_VM and with a null stack this is a fork: memory is
    // copied, and both sides go on here on their own copy of the stack. All
    // further arguments are unused with these flags.
    let pid = unsafe { libc::syscall(libc::SYS_clone, first, second, 0, 0, 0) };
    forked(pid).map_err(crate::namespace::refused)
}

/// Forks. The parent gets the child's PID, the child `None`.
///
/// The process must have a single thread.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: takes no pointers; the child has a copy of everything.
    let pid = unsafe { libc::fork() };
    forked(pid.into())
}

fn forked(result: libc::c_long) -> io::Result<Option<Pid>> {
    match i32::try_from(result) {
        Ok(0) => Ok(None),
        Ok(pid @ 1..) => Ok(Pid::from_raw(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the process without running destructors or exit handlers: what a forked copy wants.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(status.into()) }
}

/// Raises the soft limit of open descriptors to the hard limit; returns what it was.
pub fn raise_nofile() -> io::Result<Rlimit> {
    let inherited = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: inherited.maximum, ..inherited })?;
    Ok(inherited)
}

/// Has the kernel make room for so many open descriptors, as far as the limit goes. It makes more
/// when they are needed, but a process that has threads waits some 10 ms each time
/// (`expand_fdtable` of the kernel: a grace period of RCU).
pub fn reserve_descriptors(count: RawFd) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| RawFd::try_from(limit).ok());
    let last = limit.map_or(count, |limit| limit.min(count)) - 1;
    let any = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    rustix::io::fcntl_dupfd_cloexec(&any, last)?;
    Ok(())
}

/// What is no user and no group: to setresuid(2) it means that an ID stays as it is.
pub const NO_ID: u32 = u32::MAX;

/// Becomes `uid` and `gid` for good, without supplementary groups, keeping of the capabilities only
/// those of `keep` that it has. What the kernel says afterwards is compared with what was asked
/// for.
///
/// The process must have a single thread: credentials belong to threads. It
/// stays dumpable, so that `/proc/self` still belongs to it. Supplementary groups
/// that may not be dropped (no `CAP_SETGID`) stay only where nothing changes: they are
/// those of the user that the process was started by. Otherwise they are an error, as is [`NO_ID`].
pub fn become_user(uid: u32, gid: u32, keep: CapabilitySet) -> io::Result<()> {
    if uid == NO_ID || gid == NO_ID {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let wanted = Ids { users: [uid; 3], groups: [gid; 3] };
    let changes = Ids::current()? != wanted;
    change_user(uid, gid, keep)?;
    if Ids::current()? != wanted {
        return Err(io::Error::other("the kernel kept others"));
    }
    if changes && !rustix::process::getgroups()?.is_empty() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "supplementary groups can't be dropped"));
    }
    Ok(())
}

/// User and group IDs of a thread: real, effective, saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ids {
    users: [u32; 3],
    groups: [u32; 3],
}

impl Ids {
    fn current() -> io::Result<Self> {
        let mut ids = Self { users: [NO_ID; 3], groups: [NO_ID; 3] };
        let [real, effective, saved] = &mut ids.users;
        // SAFETY: the pointers are to three numbers of the type that is written.
        crate::result(unsafe { libc::getresuid(real, effective, saved) } as isize)?;
        let [real, effective, saved] = &mut ids.groups;
        // SAFETY: as above.
        crate::result(unsafe { libc::getresgid(real, effective, saved) } as isize)?;
        Ok(ids)
    }
}

fn change_user(uid: u32, gid: u32, keep: CapabilitySet) -> io::Result<()> {
    match rustix::thread::set_thread_groups(&[]) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)?;
    keep_capabilities(keep)?;
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    Ok(())
}

/// Leaves this thread no capabilities but those of `keep` that it has, and nothing in the bounding
/// set, which is about programs that are executed. Without `CAP_SETPCAP` that is unchanged, which
/// no new privileges make meaningless.
pub fn limit_capabilities(keep: CapabilitySet) -> io::Result<()> {
    // Kernels before 4.3 have no ambient set.
    let _old = rustix::thread::clear_ambient_capability_set();
    let all = (0..64).map(|number| CapabilitySet::from_bits_retain(1 << number));
    for capability in all {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the last one that the kernel knows, or not allowed.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    keep_capabilities(keep)
}

/// Does something without capabilities that this thread has, as it will have to later.
pub fn without<T>(capabilities: CapabilitySet, work: impl FnOnce() -> T) -> io::Result<T> {
    let all = rustix::thread::capabilities(None)?;
    let some = CapabilitySets { effective: all.effective - capabilities, ..all };
    rustix::thread::set_capabilities(None, some)?;
    let outcome = work();
    rustix::thread::set_capabilities(None, all)?;
    Ok(outcome)
}

/// Gives up all capabilities of this thread but those of `keep` that it has.
fn keep_capabilities(keep: CapabilitySet) -> io::Result<()> {
    let kept = rustix::thread::capabilities(None)?.permitted & keep;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a thread, since who a thread is ends with it; not where this user may not change it.
    fn as_root<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
        let is_root = rustix::process::geteuid().is_root();
        is_root.then(|| std::thread::scope(|scope| scope.spawn(work).join().expect("no panic")))
    }

    #[test]
    fn all_ids_change_and_no_group_stays() {
        let seen = as_root(|| {
            rustix::thread::set_thread_groups(&[Gid::from_raw(4)]).expect("root may");
            become_user(1234, 5678, CapabilitySet::empty()).expect("root may");
            (Ids::current().expect("own"), rustix::process::getgroups().expect("own"))
        });
        let Some((ids, groups)) = seen else { return };
        assert_eq!((ids, groups), (Ids { users: [1234; 3], groups: [5678; 3] }, Vec::new()));
    }

    #[test]
    fn minus_one_is_nobody() {
        for (uid, gid) in [(NO_ID, 5), (5, NO_ID), (NO_ID, NO_ID)] {
            let result = as_root(|| become_user(uid, gid, CapabilitySet::empty()).map_err(|e| e.kind()));
            assert!(result.is_none_or(|result| result == Err(io::ErrorKind::InvalidInput)), "{uid} {gid}");
        }
    }

    /// Without `CAP_SETGID` groups stay, which only those who stay who they are may have.
    #[test]
    fn groups_that_stay_are_an_error() {
        for (uid, refused) in [(0, false), (1234, true)] {
            let result = as_root(|| {
                rustix::thread::set_thread_groups(&[Gid::from_raw(4)]).expect("root may");
                keep_capabilities(CapabilitySet::SETUID).expect("less");
                become_user(uid, 0, CapabilitySet::empty()).is_err()
            });
            assert!(result.is_none_or(|result| result == refused), "{uid}");
        }
    }
}
