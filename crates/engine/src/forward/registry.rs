//! The sockets that listen, as the process has them: which there are, and the numbers by which
//! workers know them.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use passt_sys::dgram;
use rustix::io::Errno;
use rustix::net::sockopt;

use super::listener::Listener;
use super::table::{Entry, Place, RuleId};

/// Sockets of ours that are bound to a port and not connected, in use or not yet. The kernel tells by
/// inodes what listens, and none of ours is a service to be followed. Those of ports that the guest
/// sends from make room for a listening socket at the same port. Locked for moments, where such
/// sockets are opened and closed, and once a second where services are looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ours(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    inodes: HashSet<u64>,
    /// Whether somebody may ask what listens.
    may_follow: bool,
    /// Those that share, by their ports on the host.
    sharing: BTreeMap<u16, Vec<Sharing>>,
}

#[derive(Clone, Debug)]
struct Sharing {
    socket: Weak<Socket>,
    v6: bool,
}

/// A socket that is noted, such as a listening one, which rules can have one after the other.
#[derive(Debug)]
pub(crate) struct Socket {
    // Closed before it is forgotten: fields go in this order.
    fd: OwnedFd,
    _note: Note,
}

/// That a socket is noted.
#[derive(Debug)]
struct Note {
    inode: Option<u64>,
    /// The port that it shares.
    port: Option<u16>,
    ours: Ours,
}

impl Ours {
    /// Notes a socket, before it listens.
    pub(super) fn note(&self, fd: OwnedFd) -> io::Result<Socket> {
        let inode = self.note_inode(&fd)?;
        Ok(Socket { fd, _note: Note { inode: Some(inode), port: None, ours: self.clone() } })
    }

    fn note_inode(&self, fd: &OwnedFd) -> io::Result<u64> {
        let inode = rustix::fs::fstat(fd)?.st_ino;
        self.all().inodes.insert(inode);
        Ok(inode)
    }

    /// From now on somebody may ask what listens, where there is a namespace.
    pub(super) fn may_follow(&self) {
        self.all().may_follow = true;
    }

    /// Notes a socket, of IPv6 or IPv4, that is bound to this port of the host, and shares it.
    pub(crate) fn note_sharing(&self, fd: OwnedFd, port: u16, v6: bool) -> io::Result<Arc<Socket>> {
        let may_follow = self.all().may_follow;
        let inode = if may_follow { Some(self.note_inode(&fd)?) } else { None };
        let socket = Arc::new(Socket { fd, _note: Note { inode, port: Some(port), ours: self.clone() } });
        let sharing = Sharing { socket: Arc::downgrade(&socket), v6 };
        self.all().sharing.entry(port).or_default().push(sharing);
        Ok(socket)
    }

    /// Whether the socket with this inode is one of these.
    pub(super) fn is_ours(&self, inode: u64) -> bool {
        self.all().inodes.contains(&inode)
    }

    /// Binds `socket` to `at`, together with those of ours that share this port. Others can't have
    /// it: the kernel lets sockets of one user have the same port while all of them agree
    /// (`SO_REUSEPORT` of socket(7)), and ours do so for this moment alone.
    pub(super) fn bind(&self, socket: &Socket, at: &SocketAddr) -> io::Result<()> {
        let taken = match rustix::net::bind(socket, at) {
            Err(error @ Errno::ADDRINUSE) => error,
            bound => return Ok(bound?),
        };
        let sharing = self.all().sharing.get(&at.port()).cloned().unwrap_or_default();
        let sharing: Vec<_> =
            sharing.iter().filter_map(|other| Some((other.socket.upgrade()?, other.v6))).collect();
        if sharing.is_empty() {
            return Err(taken.into());
        }
        let all = || sharing.iter().map(|(other, _)| &**other).chain([socket]);
        let agree = |agree| all().try_for_each(|one| sockopt::set_socket_reuseport(one, agree));
        let bound = agree(true).and_then(|()| rustix::net::bind(socket, at));
        agree(false)?;
        bound?;
        // What comes to the others is passed on by where it was sent to.
        for (other, v6) in &sharing {
            dgram::want_destination(other.as_fd(), *v6)?;
        }
        Ok(())
    }

    fn all(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let mut all = self.ours.all();
        if let Some(inode) = self.inode {
            all.inodes.remove(&inode);
        }
        if let Some(port) = self.port
            && let Some(sharing) = all.sharing.get_mut(&port)
        {
            sharing.retain(|other| other.socket.strong_count() > 0);
            if sharing.is_empty() {
                all.sharing.remove(&port);
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The sockets that listen now. Each has a number, which no other has later but one that stands for
/// it: what is left of a closed one, an event or a flow, reaches no stranger.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    open: BTreeMap<u32, Arc<Listener>>,
    pub(super) ours: Ours,
    next: u32,
}

impl Registry {
    /// Adds a socket and gives it a number.
    pub(crate) fn insert(&mut self, listener: Listener) -> (u32, Arc<Listener>) {
        let number = self.next;
        self.next = number.wrapping_add(1);
        let listener = Arc::new(listener);
        self.open.insert(number, Arc::clone(&listener));
        (number, listener)
    }

    /// A socket by its number, unless it was taken out.
    pub(super) fn get(&self, number: u32) -> Option<&Listener> {
        self.open.get(&number).map(|listener| &**listener)
    }

    /// Takes a socket out. It is closed when no worker has it.
    pub(crate) fn remove(&mut self, number: u32) -> Option<Arc<Listener>> {
        self.open.remove(&number)
    }

    /// Has a socket listen for another rule. It has another number then, if flows through it would
    /// go elsewhere.
    pub(super) fn hand_over(
        &mut self,
        number: u32,
        place: Place,
        entry: &Entry,
    ) -> Option<(u32, Arc<Listener>)> {
        let former = self.remove(number)?;
        let listener = former.for_rule(place, entry);
        if !listener.leads_elsewhere(&former) {
            return Some((number, self.insert_as(number, listener)));
        }
        Some(self.insert(listener))
    }

    /// Adds a socket under a number that one had which is gone, and for which it stands.
    pub(super) fn insert_as(&mut self, number: u32, listener: Listener) -> Arc<Listener> {
        let listener = Arc::new(listener);
        self.open.insert(number, Arc::clone(&listener));
        listener
    }

    /// How many listen for each rule.
    pub(super) fn by_rule(&self) -> BTreeMap<RuleId, usize> {
        let mut counts = BTreeMap::new();
        for listener in self.open.values() {
            *counts.entry(listener.place.rule).or_default() += 1;
        }
        counts
    }

    /// The number that the next one gets.
    pub(super) fn next_number(&self) -> u32 {
        self.next
    }

    /// All of them with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Listener)> {
        self.open.iter().map(|(&number, listener)| (number, &**listener))
    }
}
