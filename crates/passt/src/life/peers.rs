//! The PID of the process at the other end of a connection, in the PID namespace of whoever started
//! this process.
//!
//! `SO_PEERCRED` gives the PID in the caller's PID namespace. A process in the background has a PID
//! namespace of its own, in which clients have no PID: it gets 0. (It gets no user ID either: its
//! user namespace maps none.) `/proc/self/fdinfo/N` of a pidfd has the PID in the PID namespace
//! that this instance of procfs was mounted for (`proc(5)`, `pidfd_open(2)`). So that file is
//! opened for a fixed number N before procfs is out of reach. To look up a client its pidfd, from
//! `SO_PEERPIDFD` (socket(7), Linux 6.5), is duplicated to number N, and the file is read.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;

use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::{self, option};
use rustix::io::{DupFlags, dup3};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// System calls made here once a process in the background runs: number `fd` is what it replaces.
pub fn calls(fd: RawFd) -> [Call; 3] {
    [
        Call::with(Sysno::dup3, [(1, fd.into()), (2, DupFlags::CLOEXEC.bits().into())]),
        Call::only(Sysno::getsockopt, &[option::SO_PEERPIDFD]),
        Call::any(Sysno::pread64),
    ]
}

/// Names processes.
#[derive(Debug, Default)]
pub struct Peers(Option<Slot>);

/// A descriptor that is replaced, and what `/proc` says of its number.
#[derive(Debug)]
struct Slot {
    fd: OwnedFd,
    info: File,
}

impl Peers {
    /// For a process in a PID namespace of its own, which still sees the `/proc` of the one before.
    /// Others need no more than the default.
    pub fn outside() -> Self {
        Self(Slot::open())
    }

    /// System calls made here once the process runs.
    pub fn calls(&self) -> Vec<Call> {
        self.0.as_ref().map(|slot| calls(slot.fd.as_raw_fd())).into_iter().flatten().collect()
    }

    /// The PID of the process that made a connection; 0 if it can't be had, as before Linux 6.5
    /// in the background.
    pub fn pid(&mut self, client: &OwnedFd) -> i32 {
        match socket::peer_pid(client) {
            Ok(pid) if pid != 0 => pid,
            _ => self.0.as_mut().and_then(|slot| slot.pid(client)).unwrap_or(0),
        }
    }
}

impl Slot {
    fn open() -> Option<Self> {
        let fd = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
        let info = File::open(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
        Some(Self { fd, info })
    }

    fn pid(&mut self, client: &OwnedFd) -> Option<i32> {
        dup3(socket::peer_process(client).ok()?, &mut self.fd, DupFlags::CLOEXEC).ok()?;
        let mut text = [0; 512];
        let len = self.info.read_at(&mut text, 0).ok()?;
        let mut lines = str::from_utf8(text.get(..len)?).ok()?.lines();
        // proc(5): -1 for one that has ended.
        let pid = lines.find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        pid.filter(|pid| *pid > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn both_ways_lead_to_the_same_process() {
        let ours = OwnedFd::from(UnixStream::pair().unwrap().0);
        let own = getpid().as_raw_nonzero().get();
        assert_eq!(Peers::default().pid(&ours), own);
        match socket::peer_process(&ours) {
            Ok(_) => assert_eq!(Slot::open().unwrap().pid(&ours), Some(own)),
            Err(error) => passt_testing::skip(&format!("before Linux 6.5: {error}")),
        }
    }
}
