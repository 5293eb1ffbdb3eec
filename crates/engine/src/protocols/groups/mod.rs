//! Multicast groups of the guest: the host is a member of those that the guest's stations report,
//! and what others send there is passed on.
//!
//! Reports tell groups and no ports, and without privilege a group is heard by its ports alone. So
//! there are two kinds of sockets, both members on the interface that the guest's network is like:
//! one for each group, which receives nothing, but has listening sockets of forwarded ports hear
//! the group; and one for each port of a group that is [well known](passt_proto::groups::well_known)
//! or that the guest sends to, bound to the group's own address. Such a socket takes nothing
//! from others of the host, and shares its port with all that allow it, as programs for groups do.
//!
//! What the guest sends from a group's port leaves through that socket as well, since it is the
//! port that counts: an answer of multicast DNS from another one is ignored (RFC 6762, section 6).

mod recent;
mod socket;

use arrayvec::ArrayVec;
use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::groups::{self, Filter, Membership};
use passt_proto::guest::Configured;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::membership::Report;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;

pub(crate) use self::recent::Recent;
use self::socket::Member;
pub(crate) use self::socket::{GroupSocket, at};
use crate::core::{Core, Payload};
use crate::forward::Context;
use crate::link::{HEAD_LEN, Link};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::only(Sysno::setsockopt, &[option::SO_REUSEADDR, option::SO_REUSEPORT])];

/// Sockets at most, of both kinds each, and the part of all descriptors that both have.
const MOST: usize = 80;
const SHARE: usize = 8;
/// How many of each kind are for groups that [have a place of their own](groups::has_own_place),
/// and their well-known ports, whatever else the guest joins and sends to: both families have fewer.
/// The same goes for half of the descriptors.
const KEPT: usize = 40;
/// Ports of one group that the guest sends to, at most.
const PORTS: usize = 8;
/// Ports from here on are given out by the guest's kernel: nobody is expected to send to one.
const EPHEMERAL: u16 = 32_768;
/// What was sent to groups before they were joined is kept in mind of so many.
const EARLY: usize = 8;
/// When a port that others have for themselves is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What there is of groups.
pub struct Groups {
    /// Those of the guest, in IPv4 and IPv6.
    memberships: [Box<Membership>; 2],
    /// Those that the host is a member of.
    members: Vec<Member>,
    sockets: Box<[Option<GroupSocket>]>,
    /// What was sent to groups a moment ago.
    pub(crate) recent: Recent,
    /// What was sent to groups that the guest has not reported yet: from which port, whereto, when.
    early: ArrayVec<(u16, Endpoint, Instant), EARLY>,
    /// When one of the memberships has something to do.
    due: Option<Instant>,
}

impl Groups {
    pub(crate) fn new(guest: &Configured, secrets: [u64; 4], now: Instant) -> Self {
        let mut groups = Self {
            memberships: [Box::default(), Box::default()],
            members: Vec::with_capacity(MOST),
            sockets: (0..MOST).map(|_| None).collect(),
            recent: Recent::new(secrets),
            early: ArrayVec::new(),
            due: None,
        };
        groups.greet(guest, now);
        groups
    }

    /// Has the guest asked at once, as at the start.
    pub(crate) fn greet(&mut self, guest: &Configured, now: Instant) {
        for (family, membership) in [&guest.v4, &guest.v6].into_iter().zip(&mut self.memberships) {
            if family.groups.is_some() {
                membership.greet(now);
            }
        }
        self.look_ahead();
    }

    fn look_ahead(&mut self) {
        self.due = self.memberships.iter().filter_map(|membership| membership.due()).min();
    }

    /// Whether the host is a member of any group.
    #[inline]
    pub(crate) fn has_any(&self) -> bool {
        !self.members.is_empty()
    }

    /// When there is something to do.
    #[inline]
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Does what is due.
    #[inline]
    pub(crate) fn run<L: Link>(&mut self, ctx: &mut Context<L>) {
        if self.due.is_some_and(|due| due <= ctx.core.now) {
            self.go_on(ctx);
        }
    }

    #[cold]
    fn go_on<L: Link>(&mut self, ctx: &mut Context<L>) {
        let now = ctx.core.now;
        for v4 in [true, false] {
            if self.membership_mut(v4).expire(now) {
                self.follow(ctx, v4);
            }
            self.ask(&mut ctx.core, v4);
        }
        self.look_ahead();
    }

    /// Asks the guest what is due.
    fn ask<L: Link>(&mut self, core: &mut Core<L>, v4: bool) {
        let services = &core.services;
        let (our_v4, our_v6) = (services.v4.as_ref(), services.v6.as_ref());
        let ours: Option<Addr> =
            if v4 { our_v4.map(|v4| v4.our_addr.into()) } else { our_v6.map(|v6| v6.our_ll.into()) };
        let mac = services.our_mac;
        let mut frame = [0; HEAD_LEN];
        while let Some(question) = self.membership_mut(v4).question(core.now) {
            if let Some(ours) = ours
                && let Ok(len) = question.query().emit(mac, ours, &mut frame)
            {
                log::debug!("Groups: asked {question:?}");
                core.send(&frame[..len]);
            }
        }
    }

    fn membership(&self, v4: bool) -> &Membership {
        let [of_v4, of_v6] = &self.memberships;
        if v4 { of_v4 } else { of_v6 }
    }

    fn membership_mut(&mut self, v4: bool) -> &mut Membership {
        let [of_v4, of_v6] = &mut self.memberships;
        if v4 { of_v4 } else { of_v6 }
    }

    /// Takes note of a message about groups that came from the guest: source, destination, time to
    /// live, and where it is.
    pub(crate) fn report<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        (src, dst, ttl): (Addr, Addr, u8),
        message: &Payload,
    ) -> Result<(), DropReason> {
        let core = &ctx.core;
        if core.guest.family(dst).groups.is_none() {
            return Err(DropReason::Disabled);
        }
        let bytes = core.start(message, message.len()).ok_or(DropReason::Truncated)?;
        let report = Report::parse(bytes, src, dst, ttl)?;
        let over = self.membership_mut(dst.is_v4()).report(report, core.now);
        ctx.core.dropped_all(DropReason::GroupLimit, over);
        self.follow(ctx, dst.is_v4());
        self.go_on(ctx);
        Ok(())
    }

    /// Has the host's membership follow the guest's.
    fn follow<L: Link>(&mut self, ctx: &mut Context<L>, v4: bool) {
        let Self { memberships, members, sockets, .. } = self;
        let [of_v4, of_v6] = &*memberships;
        let membership = if v4 { of_v4 } else { of_v6 };
        let stays = |group: Addr| group.is_v4() != v4 || membership.filter(group).is_some();
        members.retain(|member| {
            let stays = stays(member.group);
            if !stays {
                log::debug!("Group {}: left", member.group);
            }
            stays
        });
        for socket in sockets.iter_mut() {
            drop(socket.take_if(|socket| !stays(socket.group)));
        }
        let wanted: ArrayVec<Addr, { groups::MAX_GROUPS }> = membership.groups().collect();
        for group in wanted {
            if let Err(reason) = self.follow_group(ctx, group) {
                ctx.core.dropped(reason);
            }
        }
    }

    /// The same of one group, which the guest has members of.
    fn follow_group<L: Link>(&mut self, ctx: &mut Context<L>, group: Addr) -> Result<(), DropReason> {
        let filter = self.membership(group.is_v4()).filter(group).ok_or(DropReason::GroupUnwanted)?;
        let interface = ctx.core.guest.family(group).groups.ok_or(DropReason::Disabled)?;
        if !self.members.iter().any(|member| member.group == group) {
            self.has_room(ctx, self.members.len(), groups::has_own_place(group))?;
            let member = Member::open(&ctx.core, group, interface).map_err(|error| {
                log::debug!("Group {group}: not joined: {error}");
                DropReason::GroupLimit
            })?;
            if ctx.ports.pressure.keeps(&member.fd) {
                return Err(DropReason::GroupLimit);
            }
            log::debug!("Group {group}: joined");
            self.members.push(member);
            self.note_early(group, ctx.core.now);
        }
        let Some(member) = self.members.iter_mut().find(|member| member.group == group) else {
            return Ok(());
        };
        if member.filter != filter {
            member.set_filter(filter.clone(), interface);
            for socket in self.sockets.iter().flatten().filter(|socket| socket.group == group) {
                socket.set_filter(&filter, interface);
            }
        }
        self.open_ports(ctx, group, &filter, interface)
    }

    /// Opens sockets for the ports of a group that have none.
    fn open_ports<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        group: Addr,
        filter: &Filter,
        interface: u32,
    ) -> Result<(), DropReason> {
        let now = ctx.core.now;
        let Some(member) = self.members.iter_mut().find(|member| member.group == group) else {
            return Ok(());
        };
        if member.again.is_some_and(|again| again > now) {
            return Ok(());
        }
        let well_known = groups::well_known(group);
        let mut wanted = member.ports.clone();
        wanted.retain(|port| !well_known.contains(port));
        for &port in well_known.iter().chain(&wanted) {
            let at = Endpoint::new(group, port);
            if self.number_of(at).is_some() {
                continue;
            }
            let free = self.sockets.iter().position(Option::is_none).ok_or(DropReason::GroupLimit)?;
            let is_own = groups::has_own_place(group) && well_known.contains(&port);
            self.has_room(ctx, self.sockets.iter().flatten().count(), is_own)?;
            match GroupSocket::open(&ctx.core, &ctx.ports.ours, at, (interface, free)) {
                Ok(socket) if socket.fd().is_none_or(|fd| ctx.ports.pressure.keeps(fd)) => {
                    return Err(DropReason::GroupLimit);
                }
                Ok(socket) => {
                    socket.set_filter(filter, interface);
                    self.sockets[free] = Some(socket);
                }
                // A forwarded port's, most likely: that hears the group by itself.
                Err(error) => {
                    log::debug!("Group {at}: {error}");
                    if let Some(member) = self.members.iter_mut().find(|member| member.group == group) {
                        member.again = Some(now + RETRY);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether there may be more than `count` sockets of a kind, for something that has a place of
    /// its own or not.
    fn has_room<L>(&self, ctx: &Context<L>, count: usize, is_own: bool) -> Result<(), DropReason> {
        let all = self.members.len() + self.sockets.iter().flatten().count();
        let (most, share) = if is_own { (MOST, SHARE) } else { (MOST - KEPT, 2 * SHARE) };
        let fits = count < most && all < ctx.ports.pressure.descriptors() / share;
        fits.then_some(()).ok_or(DropReason::GroupLimit)
    }

    /// The guest sends a datagram from `port` to a group. That others send there, too, is to be
    /// expected.
    pub(crate) fn sends<L: Link>(&mut self, ctx: &mut Context<L>, port: u16, to: Endpoint) {
        let Some(member) = self.members.iter_mut().find(|member| member.group == to.addr) else {
            return self.sends_early(port, to, ctx.core.now);
        };
        if member.note_ports(port, to.port) {
            member.again = None;
            if let Err(reason) = self.follow_group(ctx, to.addr) {
                ctx.core.dropped(reason);
            }
        }
    }

    /// The guest sends to a group that it has not reported: whoever joins a group and sends at once
    /// may do so before the report.
    fn sends_early(&mut self, port: u16, to: Endpoint, now: Instant) {
        self.early.retain(|(_, known, _)| *known != to);
        if self.early.is_full() {
            self.early.remove(0);
        }
        self.early.push((port, to, now));
    }

    /// Takes over what was sent to a group before it was joined.
    fn note_early(&mut self, group: Addr, now: Instant) {
        let Some(member) = self.members.iter_mut().find(|member| member.group == group) else { return };
        for &(port, to, sent) in &self.early {
            if to.addr == group && now.since(sent) < RETRY {
                member.note_ports(port, to.port);
            }
        }
        self.early.retain(|(_, to, _)| to.addr != group);
    }

    /// The number of the socket for a port of a group.
    pub(crate) fn number_of(&self, at: Endpoint) -> Option<usize> {
        let is_it = |socket: &GroupSocket| socket.group == at.addr && socket.port == at.port;
        self.sockets.iter().position(|socket| socket.as_ref().is_some_and(is_it))
    }

    /// The number of the socket that has a port of the guest's, where somebody was heard a moment
    /// ago whom the guest knows as `remote`.
    pub(crate) fn number_heard(&self, port: u16, remote: Endpoint, now: Instant) -> Option<usize> {
        let is_it = |socket: &GroupSocket| socket.port == port && socket.asker(remote, now).is_some();
        self.sockets.iter().position(|socket| socket.as_ref().is_some_and(is_it))
    }

    /// A socket by its number.
    pub(crate) fn socket(&mut self, number: usize) -> Option<&mut GroupSocket> {
        self.sockets.get_mut(number)?.as_mut()
    }

    /// Closes a socket that is of no use.
    pub(crate) fn close(&mut self, number: usize) {
        drop(self.sockets.get_mut(number).and_then(Option::take));
    }

    /// Whether the guest wants what `source` sends to a group. Those that everybody is in nobody
    /// reports.
    pub(crate) fn wants(&self, group: Addr, source: Addr) -> bool {
        !groups::is_kept(group) || self.membership(group.is_v4()).wants(group, source)
    }

    /// The host's address that what is sent to a group comes from, if the host is a member.
    pub(crate) fn own_address(&self, group: Addr) -> Option<Addr> {
        self.members.iter().find(|member| member.group == group)?.own
    }
}
