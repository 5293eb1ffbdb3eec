//! Entering the user namespace, and finding or making the network namespace.
//!
//! pasta itself works in the user namespace that owns the network namespace, because only there is
//! it allowed to create a device in it; its own network namespace stays the host's, for sockets on
//! the host. Whatever belongs inside is opened with [`Netns::run`].
//!
//! Everything that has a path is opened as whoever started us, and the change
//! of identity comes after: namespaces of another user's processes can be
//! opened by root but not by `nobody`. The capabilities for joining survive this change. A user
//! namespace, joined or new, replaces them by its own; only without one
//! are they still needed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use passt_sys::namespace::{self, Netns};
use passt_sys::process::NewNamespaces;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::command::{self, Command, Room};
use super::identity::{self, Identity};
use super::start::Inherited;
use super::watch::{self, Watch};
use crate::cli::{Config, PastaOptions, ResolvConf, Target, Userns};

/// What of root's capabilities outlives the change of identity, until a user namespace replaces it:
/// for joining and making namespaces, for devices and low ports in one that has no user
/// namespace of its own, for mapping root to root, and for giving up the rest.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP);

/// Why there is no namespace to work for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See there.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// A path refers to no namespace that we may open.
    #[error("Couldn't open {kind} namespace {}", path.display())]
    Open {
        /// `user` or `network`.
        kind: &'static str,
        /// What was to be opened.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The namespace is there but closed to us.
    #[error("Couldn't enter {kind} namespace {}", path.display())]
    Enter {
        /// `user` or `network`.
        kind: &'static str,
        /// What was to be entered.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A new namespace is reached by a path there.
    #[error("No file system of type proc at /proc, which new namespaces need")]
    NoProc,
    /// The kernel or a security module doesn't let us have one.
    #[error("Couldn't create user namespace")]
    Detach(#[source] io::Error),
    /// The program of the new namespace couldn't be started.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// The end of the namespace can't be watched.
    #[error(transparent)]
    Watch(#[from] watch::Error),
}

/// The namespace that we work for.
#[derive(Debug)]
pub struct Entered {
    /// The network namespace.
    pub netns: Netns,
    /// What ends when it does.
    pub watch: Watch,
}

/// Whether there is anything at the path of the namespace, before much else is done for it.
pub fn look(pasta: &PastaOptions) -> Result<(), Error> {
    let Some(path) = pasta.target.netns_path() else { return Ok(()) };
    if is_missing(&path) && Netns::open(&path).is_err() {
        let source = io::Error::from(Errno::NOENT);
        return Err(Error::Open { kind: "network", path, source });
    }
    Ok(())
}

/// No user namespace has this path either.
fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Changes identity, after what `before` does as who started us, enters the user namespace, and
/// finds or makes the network namespace, with the command waiting in it to be
/// [released](Watch::release), where it has this resolv.conf instead of the host's.
///
/// The process must have a single thread. User and group IDs 0 of a new user namespace are
/// the caller's.
pub fn enter(
    config: &Config,
    pasta: &PastaOptions,
    resolv_conf: Option<&str>,
    inherited: Inherited,
    before: impl FnOnce(Identity),
) -> Result<Entered, Error> {
    let wanted = Identity::wanted(config.run_as.as_ref())?;
    if let Some(identity) = wanted {
        before(identity);
    }
    if let Some(path) = pasta.target.netns_path() {
        return join(path.as_ref(), pasta, wanted);
    }
    let mut namespaces = NewNamespaces::all();
    namespaces.set(NewNamespaces::PID, pasta.pid_namespace);
    let asked = pasta.resolv_conf == ResolvConf::Always;
    let room = Room {
        namespaces,
        hostname: config.guest.hostname.as_deref(),
        resolv_conf,
        without_it: if asked { log::Level::Warn } else { log::Level::Debug },
    };
    create(pasta, room, wanted, inherited)
}

fn join(path: &Path, pasta: &PastaOptions, wanted: Option<Identity>) -> Result<Entered, Error> {
    let open = || {
        // The watch first, so that no end is missed.
        let watch = if pasta.netns_quit { Watch::netns(path)? } else { Watch::Nothing };
        let netns =
            Netns::open(path).map_err(|source| Error::Open { kind: "network", path: path.into(), source })?;
        Ok(Entered { netns, watch })
    };
    let early = open();
    if early.is_err() && is_missing(path) {
        let source = io::Error::from(Errno::NOENT);
        return Err(Error::Open { kind: "network", path: path.into(), source });
    }
    enter_user(&userns_for(pasta), wanted)?;
    // Some paths can only be reached with the user namespace's privileges.
    let entered = early.or_else(|_: Error| open())?;
    let enter = |source| Error::Enter { kind: "network", path: path.into(), source };
    Ok(Entered { netns: entered.netns.detached().map_err(enter)?, ..entered })
}

/// The user namespace from which the network namespace is entered. Without the right to do so from
/// ours (`setns(2)`), `--netns-only` can't be meant for a process: there is only its own.
fn userns_for(pasta: &PastaOptions) -> Userns {
    match (&pasta.userns, &pasta.target) {
        (Userns::Current, Target::Pid(pid)) if !may_enter() => {
            Userns::Join(format!("/proc/{pid}/ns/user").into())
        }
        (userns, _) => userns.clone(),
    }
}

/// Whether this process has the right to make and enter namespaces in its user namespace.
pub fn may_enter() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn create(
    pasta: &PastaOptions,
    room: Room<'_>,
    wanted: Option<Identity>,
    inherited: Inherited,
) -> Result<Entered, Error> {
    if !Path::new("/proc/self/uid_map").exists() {
        return Err(Error::NoProc);
    }
    enter_user(&pasta.userns, wanted)?;
    let argv = match &pasta.target {
        Target::Command(argv) => argv.as_slice(),
        _ => &[],
    };
    let command = Command::start(argv, room, inherited)?;
    let path = command.netns_path();
    let netns = Netns::open(&path).map_err(|source| Error::Open { kind: "network", path, source })?;
    Ok(Entered { netns, watch: Watch::Command(command) })
}

fn enter_user(userns: &Userns, wanted: Option<Identity>) -> Result<(), Error> {
    let joined = match userns {
        Userns::Join(path) | Userns::JoinOrCurrent(path) => {
            let opened = namespace::Userns::open(path).map_err(|source| Error::Open {
                kind: "user",
                path: path.clone(),
                source,
            })?;
            Some((opened, path))
        }
        Userns::New | Userns::Current => None,
    };
    if let Some(identity) = wanted {
        identity.assume(KEPT)?;
    }
    if let Some((opened, path)) = joined {
        match opened.join() {
            Err(error) if matches!(userns, Userns::JoinOrCurrent(_)) => {
                log::debug!("User namespace {} is not joined: {error}", path.display());
            }
            joined => joined.map_err(|source| Error::Enter { kind: "user", path: path.clone(), source })?,
        }
    }
    if *userns == Userns::New {
        detach_user()?;
    }
    Ok(())
}

fn detach_user() -> Result<(), Error> {
    let Identity { uid, gid } = Identity::current();
    namespace::detach_user().map_err(Error::Detach)?;
    if let Err(error) = namespace::map_root(uid, gid) {
        log::warn!("Couldn't configure user mappings: {error}");
    }
    Ok(())
}
