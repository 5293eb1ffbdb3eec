//! The socket, and who may come in.
//!
//! Whoever started us, root, and who we are may come. The kernel sees to that where the socket's
//! mode lets nobody else write there, as with the usual umask. Where it lets others, they are told
//! apart by their user ID (`SO_PEERCRED`), which is as this process sees it: in a user namespace
//! that maps one user, all others look alike. These are sent away.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use passt_engine::core::{Core, Token};
use passt_engine::link::Link;
use passt_sys::socket;
use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::getuid;

use crate::life::leftovers::Leftovers;
use crate::life::socket as life;

/// User ID of those that a user namespace doesn't map (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65534;
/// Bytes of a path and a zero behind it (`sun_path`, unix(7)).
const MAX_PATH: usize = 108;
/// Somebody else may write.
const OTHERS: u32 = 0o022;

/// The listening socket.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    /// The file, whose mode may be changed.
    file: OwnedFd,
    path: PathBuf,
    /// Who we are, as this process sees it, unless others look the same.
    own: Option<u32>,
    watched: bool,
}

impl Door {
    /// Listens at a path, as whoever started us; with `replace` in the place of whatever file is there.
    pub(super) fn open(path: &Path, replace: bool, leftovers: &mut Leftovers) -> anyhow::Result<Self> {
        // Others find it by what the kernel says of it (`/proc/net/unix`).
        let whole = std::path::absolute(path).ok().filter(|whole| whole.as_os_str().len() < MAX_PATH);
        let path = whole.as_deref().unwrap_or(path);
        let listener =
            if replace { life::bind_replacing(path, leftovers)? } else { life::bind(path, leftovers)? };
        let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { listener, file, path: path.into(), own: None, watched: true })
    }

    /// Notes who we are now.
    pub(super) fn enter(&mut self) {
        self.own = Some(getuid().as_raw()).filter(|&uid| uid != OVERFLOW);
    }

    /// The next client, if there is one. Where accepting fails the loop calls for `number` again
    /// after a pause.
    pub(super) fn admit<L: Link>(&mut self, core: &mut Core<L>, number: u32) -> Option<OwnedFd> {
        let accepted = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        match accepted {
            Ok(client) => {
                self.watch(core, number);
                match self.refuses(&client) {
                    None => Some(client),
                    Some(uid) => {
                        log::warn!(
                            "Control socket {}: somebody with user ID {uid} was sent away",
                            self.path.display()
                        );
                        None
                    }
                }
            }
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => {
                self.watch(core, number);
                None
            }
            Err(error) => {
                log::warn!("Couldn't accept a client of the control socket: {error}");
                self.pause(core, number);
                None
            }
        }
    }

    /// Leaves who waits there for a while.
    pub(super) fn pause<L: Link>(&mut self, core: &mut Core<L>, number: u32) {
        self.watched = self.watched && core.unwatch(&self.listener).is_err();
        core.postpone(number);
    }

    /// Lets them in again.
    pub(super) fn resume<L: Link>(&mut self, core: &mut Core<L>, number: u32) {
        if !self.watched {
            self.watch(core, number);
        }
    }

    fn watch<L: Link>(&mut self, core: &mut Core<L>, number: u32) {
        if !self.watched {
            let watched = core.watch(&self.listener, Token::External(number), EventFlags::IN);
            self.watched = watched.is_ok();
        }
        if !self.watched {
            core.postpone(number);
        }
    }

    /// The user ID of who may not come in.
    fn refuses(&self, client: &OwnedFd) -> Option<u32> {
        let mode = || Ok::<_, io::Error>(fstat(&self.file)?.st_mode);
        if mode().is_ok_and(|mode| mode & OTHERS == 0) {
            return None;
        }
        let uid = socket::peer_user(client).unwrap_or(OVERFLOW);
        (uid != 0 && Some(uid) != self.own).then_some(uid)
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
