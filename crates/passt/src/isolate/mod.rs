//! An empty room: what a guest finds that has found a bug in us.
//!
//! Everything is opened before. Then, each step as early as it can be taken: a user namespace for
//! passt (pasta has entered one for its network); a PID namespace, which only a child lands in, so
//! that a process in the foreground stays in its own; mount, IPC and UTS namespaces; an empty root;
//! no way to new privileges or to a core dump; Landlock; and no capability but to bind low ports.
//! Threads have credentials, roots and domains of their own: what a thread should not keep is given
//! up before it is started, and capabilities by each itself.
//!
//! The filter for system calls comes last: [`seal`].

pub mod filter;
mod landlock;
mod root;

use std::io;

use passt_sys::namespace::{self, Resident};
use passt_sys::seccomp::Call;
use passt_sys::{alloc, process};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{getgid, getuid};
use rustix::thread::{CapabilitySet, UnshareFlags, set_no_new_privs};

use crate::cli::Config;

/// What is left for life: ports below 1024 of the namespace that we serve, or of the host if we
/// were given the right.
pub const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// A step that the kernel or a security module refused.
#[derive(Debug, thiserror::Error)]
#[error("Couldn't isolate: {step}")]
pub struct Error {
    step: &'static str,
    source: io::Error,
}

impl Error {
    fn at(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { step, source }
    }
}

/// Moves to a user namespace of our own, in which nobody is anybody; but the user that we are has an
/// ID where clients of the control socket are to be known by theirs. The process must have a single
/// thread.
pub fn user(config: &Config) -> Result<(), Error> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    namespace::detach_user().map_err(Error::at("user namespace"))?;
    if config.has_control()
        && let Err(error) = namespace::map_root(uid, gid)
    {
        // Clients are known by the socket's mode alone.
        log::debug!("No map for the user namespace: {error}");
    }
    Ok(())
}

/// Has the next child begin a PID namespace.
pub fn processes() -> Result<(), Error> {
    namespace::detach(UnshareFlags::NEWPID).map_err(Error::at("PID namespace"))
}

/// Leaves everything behind that has a name. To be called by the final process while it has a
/// single thread; those that it starts later are as far away.
pub fn names(config: &Config) -> Result<(), Error> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    namespace::detach(flags).map_err(Error::at("mount, IPC and UTS namespaces"))?;
    root::leave(config.chroot_fallback).map_err(Error::at("empty root"))?;
    set_no_new_privs(true).map_err(io::Error::from).map_err(Error::at("no new privileges"))?;
    let signals = config.pasta().is_some_and(|pasta| pasta.target.is_command());
    if let Err(error) = landlock::restrict(signals) {
        log::debug!("No Landlock: {error}");
    }
    Ok(())
}

/// Gives up all capabilities that are not [`KEPT`], in this thread and in the one inside the
/// namespace, and what others of the same user could see of us.
pub fn privileges(inside: Option<&Resident>) -> Result<(), Error> {
    let give_up = || process::limit_capabilities(KEPT);
    give_up().map_err(Error::at("capabilities"))?;
    if let Some(inside) = inside {
        inside
            .run(give_up)
            .and_then(|given_up| given_up)
            .map_err(Error::at("capabilities in the namespace"))?;
    }
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    hidden.map_err(io::Error::from).map_err(Error::at("core dumps"))
}

/// Has the kernel refuse what life does not need, more memory included: of the calls that name
/// something open, `own` remain. Destructors are no longer to be run: what
/// they give back the kernel takes anyway.
pub fn seal(config: &Config, own: &[Call]) -> anyhow::Result<()> {
    #[cfg(feature = "provoke")]
    let provocation = passt_sys::provoke::Provocation::prepare();
    #[cfg(feature = "provoke")]
    let provoke = |early: bool| {
        let due = provocation.as_ref().filter(|provocation| provocation.is_early() == early);
        if let Some((name, result)) = due.map(passt_sys::provoke::Provocation::act) {
            log::error!("provoked {name}: {result:?}");
        }
    };
    #[cfg(feature = "provoke")]
    provoke(true);
    crate::log::limit();
    alloc::seal().map_err(Error::at("memory"))?;
    filter::install(config, own)?;
    alloc::count_anew();
    #[cfg(feature = "provoke")]
    provoke(false);
    Ok(())
}
