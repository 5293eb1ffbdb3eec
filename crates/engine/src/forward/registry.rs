//! The sockets that listen, as the process has them: which there are, and the numbers by which
//! workers know them.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;
use passt_sys::socket::{self, Kind};
use passt_sys::{alloc, dgram};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::listener::Listener;
use super::table::{Entry, Place, RuleId};
use crate::flow::Side;

/// Sockets of ours that are bound to a port and not connected, in use or not yet. None of ours is a
/// service to be followed: listening ones are known by their inodes, as the kernel tells these, and
/// those of datagrams that only some peer may answer by their ports. Those of ports that the guest
/// sends from make room for a listening socket at the same port. Locked for moments, where such
/// sockets are opened and closed, and once a second where services are looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ours(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    inodes: HashSet<u64>,
    senders: Senders,
    /// On the host and in the namespace.
    bound: [Bound; 2],
}

/// How many sockets have each port, in IPv4 and IPv6.
#[derive(Debug, Default)]
struct Bound([Vec<u8>; 2]);

/// A port of UDP that a socket of ours is bound to.
#[derive(Clone, Copy, Debug)]
struct Port {
    side: Side,
    v6: bool,
    number: u16,
}

/// That a port is noted.
#[derive(Debug)]
pub(crate) struct PortNote {
    port: Port,
    ours: Ours,
}

/// Sockets of ports that the guest sends from. They come and go with traffic, which allocates
/// nothing: places are reserved, and memory of closed ones is used again.
#[derive(Debug, Default)]
struct Senders {
    places: Vec<Option<Sharing>>,
    free: Vec<u32>,
    spare: Vec<Arc<SenderSocket>>,
    /// How many are of groups.
    groups: usize,
}

#[derive(Debug)]
struct Sharing {
    socket: Arc<SenderSocket>,
    port: u16,
    v6: bool,
    purpose: Purpose,
}

/// Sockets that share a port at most: those of the guest's port, with those beside them, or of groups.
const MOST_SHARING: usize = 256;

/// What a socket is for that shares its port with others of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What the guest sends from a port.
    Sending,
    /// A port of a group, whose address it is bound to.
    Group,
}

/// Memory of a socket, which has one while it is in use.
#[derive(Debug, Default)]
struct SenderSocket(Option<OwnedFd>);

/// A socket that shares its port.
#[derive(Debug)]
pub(crate) struct Sender {
    socket: Option<Arc<SenderSocket>>,
    place: u32,
    ours: Ours,
    /// Where it is bound to all of the host's addresses.
    _note: Option<PortNote>,
}

/// A listening socket itself, which rules can have one after the other.
#[derive(Debug)]
pub(crate) struct Socket {
    // Closed before it is forgotten: fields go in this order.
    fd: OwnedFd,
    _note: Note,
}

/// That a socket is noted.
#[derive(Debug)]
struct Note {
    inode: u64,
    ours: Ours,
}

impl Ours {
    /// Reserves memory for so many ports that the guest sends from.
    pub(crate) fn reserve(&self, senders: usize) -> io::Result<()> {
        let (senders, bound) = (Senders::new(senders)?, [Bound::new()?, Bound::new()?]);
        let mut all = self.all();
        (all.senders, all.bound) = (senders, bound);
        Ok(())
    }

    /// Takes over what was reserved for `others`, of which there is none yet.
    pub(super) fn take_over(&self, others: &Self) {
        let Noted { senders, bound, .. } = std::mem::take(&mut *others.all());
        let mut all = self.all();
        (all.senders, all.bound) = (senders, bound);
    }

    /// Notes a socket, before it listens.
    pub(super) fn note(&self, fd: OwnedFd) -> io::Result<Socket> {
        let inode = rustix::fs::fstat(&fd)?.st_ino;
        self.all().inodes.insert(inode);
        Ok(Socket { fd, _note: Note { inode, ours: self.clone() } })
    }

    /// Notes a socket, of IPv6 or IPv4, that is bound to this port of the host and shares it. An
    /// error (`ENOBUFS`) where there are too many.
    pub(crate) fn note_sender(
        &self,
        fd: OwnedFd,
        port: u16,
        v6: bool,
        purpose: Purpose,
    ) -> io::Result<Sender> {
        let note = (purpose == Purpose::Sending).then(|| self.note_port(Side::Host, port, v6));
        let (place, socket) = self.all().senders.add(fd, port, v6, purpose).ok_or(Errno::NOBUFS)?;
        Ok(Sender { socket: Some(socket), place, ours: self.clone(), _note: note })
    }

    /// Notes a port of UDP, of IPv6 or IPv4, which a socket is bound to that is not connected and
    /// serves nobody.
    pub(crate) fn note_port(&self, side: Side, number: u16, v6: bool) -> PortNote {
        let port = Port { side, v6, number };
        self.all().change(port, |count| count.saturating_add(1));
        PortNote { port, ours: self.clone() }
    }

    /// Whether the socket with this inode is one of these, which is bound to this port of UDP on
    /// one side, or not one of datagrams.
    pub(super) fn is_ours(&self, inode: u64, side: Side, udp: Option<(u16, bool)>) -> bool {
        let all = self.all();
        let is_noted = |(number, v6)| all.has(Port { side, v6, number });
        all.inodes.contains(&inode) || udp.is_some_and(is_noted)
    }

    /// Binds a listening socket to `at`, together with those of ports that the guest sends from.
    pub(super) fn bind(&self, socket: &Socket, at: &SocketAddr) -> io::Result<()> {
        if !self.bind_with(Purpose::Sending, socket.as_fd(), at, &[])? {
            return Ok(());
        }
        // What comes to one of them is passed on by where it was sent to.
        let all = self.all();
        all.senders
            .at(at.port(), Purpose::Sending)
            .try_for_each(|(fd, v6)| dgram::want_destination(fd, v6))?;
        dgram::want_destination(socket.as_fd(), at.is_ipv6())
    }

    /// Binds the socket of a port that the guest sends from, together with those that listen at the
    /// port and all addresses, and those of groups: these have theirs. Nobody else has the port
    /// then, though these share it with others on this host.
    pub(crate) fn bind_sender(
        &self,
        socket: BorrowedFd<'_>,
        at: &SocketAddr,
        listening: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.bind_with(Purpose::Group, socket, at, listening).map(drop)
    }

    /// Binds the socket of a group's port, or one that is to be connected, together with those of
    /// the port if the guest sends from it.
    pub(crate) fn bind_beside(&self, socket: BorrowedFd<'_>, at: &SocketAddr) -> io::Result<()> {
        self.bind_with(Purpose::Sending, socket, at, &[]).map(drop)
    }

    /// Binds `socket` to `at`, together with those that listen there, and those of ours that share
    /// this port for a purpose; whether there was need to. Others can't have it: the kernel lets
    /// sockets of one user have the same port while all of them agree (`SO_REUSEPORT` of socket(7)),
    /// and ours do so for this moment alone.
    fn bind_with(
        &self,
        purpose: Purpose,
        socket: BorrowedFd<'_>,
        at: &SocketAddr,
        listening: &[BorrowedFd<'_>],
    ) -> io::Result<bool> {
        let taken = match rustix::net::bind(socket, at) {
            Err(error @ Errno::ADDRINUSE) => error,
            bound => return Ok(bound.map(|()| false)?),
        };
        let all = self.all();
        let mut sharing = ArrayVec::<_, MOST_SHARING>::new();
        sharing.extend(listening.iter().copied());
        if all.may_share(at.port(), purpose) {
            let room = sharing.remaining_capacity();
            sharing.extend(all.senders.at(at.port(), purpose).map(|(fd, _)| fd).take(room));
        }
        // What listens at all addresses leaves the port to no other program.
        let is_others = purpose == Purpose::Group && listening.is_empty() && !is_free(at);
        if sharing.is_empty() || is_others {
            return Err(taken.into());
        }
        let agree = |agree| {
            let mut all = sharing.iter().chain([&socket]);
            all.try_for_each(|one| sockopt::set_socket_reuseport(one, agree))
        };
        let bound = agree(true).and_then(|()| rustix::net::bind(socket, at));
        agree(false)?;
        bound?;
        Ok(true)
    }

    fn all(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody has the port at one of the host's own addresses.
fn is_free(at: &SocketAddr) -> bool {
    let (family, ip) = match at {
        SocketAddr::V4(_) => (AddressFamily::INET, IpAddr::from(Ipv4Addr::LOCALHOST)),
        SocketAddr::V6(_) => (AddressFamily::INET6, IpAddr::from(Ipv6Addr::LOCALHOST)),
    };
    let kind = Kind { kind: SocketType::DGRAM, family };
    let bound =
        socket::open(kind, None).and_then(|fd| Ok(rustix::net::bind(&fd, &SocketAddr::new(ip, at.port()))?));
    bound.is_ok()
}

impl Noted {
    fn change(&mut self, port: Port, how: impl FnOnce(u8) -> u8) {
        let Bound(counts) = &mut self.bound[port.side as usize];
        if let Some(count) = counts[usize::from(port.v6)].get_mut(usize::from(port.number)) {
            *count = how(*count);
        }
    }

    fn has(&self, port: Port) -> bool {
        let Bound(counts) = &self.bound[port.side as usize];
        counts[usize::from(port.v6)].get(usize::from(port.number)).is_some_and(|&count| count > 0)
    }

    /// Whether there may be something for a purpose at a port of the host.
    fn may_share(&self, number: u16, purpose: Purpose) -> bool {
        let has = |v6| self.has(Port { side: Side::Host, v6, number });
        match purpose {
            Purpose::Sending => has(false) || has(true),
            Purpose::Group => self.senders.groups > 0,
        }
    }
}

impl Bound {
    fn new() -> io::Result<Self> {
        let ports = || alloc::zeroed(usize::from(u16::MAX) + 1);
        Ok(Self([ports()?, ports()?]))
    }
}

impl Senders {
    /// Those that are there from the start.
    const SPARE: usize = 64;

    fn new(most: usize) -> io::Result<Self> {
        let mut spare: Vec<Arc<SenderSocket>> = alloc::reserved(most)?;
        spare.extend((0..Self::SPARE.min(most)).map(|_| Arc::default()));
        Ok(Self { places: alloc::reserved(most)?, free: alloc::reserved(most)?, spare, groups: 0 })
    }

    fn add(
        &mut self,
        fd: OwnedFd,
        port: u16,
        v6: bool,
        purpose: Purpose,
    ) -> Option<(u32, Arc<SenderSocket>)> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() < self.places.capacity() => {
                self.places.push(None);
                u32::try_from(self.places.len() - 1).ok()?
            }
            None => return None,
        };
        // More at once than ever before: memory that stays.
        let more = || alloc::has_room().then(Arc::default);
        let socket = self.spare.pop().or_else(more).and_then(|mut socket| {
            Arc::get_mut(&mut socket)?.0 = Some(fd);
            Some(socket)
        });
        let Some(socket) = socket else {
            self.free.push(place);
            return None;
        };
        self.groups += usize::from(purpose == Purpose::Group);
        let sharing = Sharing { socket: Arc::clone(&socket), port, v6, purpose };
        *self.places.get_mut(place as usize)? = Some(sharing);
        Some((place, socket))
    }

    fn remove(&mut self, place: u32, mut socket: Arc<SenderSocket>) {
        let Some(sharing) = self.places.get_mut(place as usize).and_then(Option::take) else { return };
        self.free.push(place);
        self.groups -= usize::from(sharing.purpose == Purpose::Group);
        drop(sharing);
        if let Some(memory) = Arc::get_mut(&mut socket) {
            memory.0 = None;
            self.spare.push(socket);
        }
    }

    /// Those that share a port for a purpose, and whether they are of IPv6.
    fn at(&self, port: u16, purpose: Purpose) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> + Clone {
        let is_it = move |sharing: &&Sharing| sharing.port == port && sharing.purpose == purpose;
        let all = self.places.iter().flatten().filter(is_it);
        all.filter_map(|sharing| Some((sharing.socket.0.as_ref()?.as_fd(), sharing.v6)))
    }
}

impl Sender {
    /// The socket; there is one as long as this is.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref()?.0.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.ours.all().senders.remove(self.place, socket);
        }
    }
}

impl Drop for PortNote {
    fn drop(&mut self) {
        self.ours.all().change(self.port, |count| count.saturating_sub(1));
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.ours.all().inodes.remove(&self.inode);
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
    /// How many listen for each rule.
    by_rule: BTreeMap<RuleId, usize>,
    pub(super) ours: Ours,
    next: u32,
}

impl Registry {
    /// Adds a socket and gives it a number.
    pub(crate) fn insert(&mut self, listener: Listener) -> (u32, Arc<Listener>) {
        let number = self.next;
        self.next = number.wrapping_add(1);
        (number, self.insert_as(number, listener))
    }

    /// A socket by its number, unless it was taken out.
    pub(super) fn get(&self, number: u32) -> Option<&Listener> {
        self.open.get(&number).map(|listener| &**listener)
    }

    /// Takes a socket out. It is closed when no worker has it.
    pub(crate) fn remove(&mut self, number: u32) -> Option<Arc<Listener>> {
        let listener = self.open.remove(&number)?;
        self.uncount(&listener);
        Some(listener)
    }

    fn uncount(&mut self, listener: &Listener) {
        let rule = listener.place.rule;
        if let Some(count) = self.by_rule.get_mut(&rule) {
            *count -= 1;
            if *count == 0 {
                self.by_rule.remove(&rule);
            }
        }
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
        *self.by_rule.entry(listener.place.rule).or_default() += 1;
        if let Some(former) = self.open.insert(number, Arc::clone(&listener)) {
            self.uncount(&former);
        }
        listener
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// How many listen for a rule.
    pub(super) fn count(&self, rule: RuleId) -> usize {
        self.by_rule.get(&rule).copied().unwrap_or_default()
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
