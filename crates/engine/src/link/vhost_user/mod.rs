//! The vhost-user link: a virtual machine whose memory this process has mapped, set up by a *front
//! end*, the machine monitor, over a UNIX socket (QEMU, docs/interop/vhost-user.rst).
//!
//! Frames travel as for every device of that kind (`link::virtio`): payload is received
//! in the guest's memory and sent from there. The front end is trusted no more than the guest. What
//! it says is checked before anything is changed (`backend`), and it is not waited for
//! (`front`).
//!
//! Descriptors are the socket and the kicks of queues in use, which come and go. A front end that
//! leaves takes its memory with it; flows stay, and the next one finds them.
//!
//! A front end that makes a memory file shorter has this process fault. That costs it the
//! connection ([`passt_sys::shared::survive_faults`]), as soon as the loop comes by.
//!
//! A guest can move to another machine, where another back end serves it: pages that are written
//! meanwhile are noted in a log that the front end brings, and nothing is written where a log is
//! wanted and there is none. One that is too short, or becomes so, costs it the connection as well.
//!
//! Left out: the device's state (flows do not move with the guest), which is refused so that a front
//! end goes on without it; packed rings.

mod backend;
mod config;
mod features;
mod front;
mod message;
pub mod mock;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use passt_sys::event::Event;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::shared::Loss;

use self::backend::Backend;
pub use self::config::Config;
pub use self::features::{Features, ProtocolFeatures};
use self::front::Front;
use super::virtio::{Device, Kicked};
use super::{Caps, ClientLink, Link, Notifications};

/// System calls made here once the process runs, beside those for messages, memory and events.
pub const CALLS: &[Call] = &[Call::any(Sysno::shutdown)];

/// Pairs of queues.
const PAIRS: usize = 8;
/// Messages that are dealt with before frames get their turn.
const MESSAGES: usize = 64;
/// Number of the socket among the descriptors.
const CONTROL: u32 = 0;

/// A front end, and the device that it has set up, as a link.
pub struct VhostUserLink {
    front: Option<Front>,
    backend: Backend,
    device: Device,
    /// Descriptors that are watched. They are open for as long as that.
    watched: Vec<Watched>,
    /// Others are to be watched.
    changed: bool,
}

/// A descriptor that is watched.
enum Watched {
    Socket(Arc<OwnedFd>),
    Kick(Kicked, Arc<Event>),
}

impl VhostUserLink {
    /// Features that are offered by any device.
    pub const FEATURES: Features = Features::OFFERED;

    /// A link without a front end.
    pub fn new(config: Config) -> Self {
        Self {
            front: None,
            backend: Backend::new(config, PAIRS),
            device: Device::new(PAIRS),
            watched: Vec::with_capacity(1 + 2 * PAIRS),
            changed: false,
        }
    }

    /// Forgets the front end.
    fn leave(&mut self) {
        if self.front.is_some() {
            let Notifications { kicks, interrupts } = self.device.notifications();
            log::debug!("The guest kicked {kicks} times so far, and was interrupted {interrupts} times");
        }
        self.device.pause();
        self.backend.leave(&mut self.device);
        self.front = None;
        self.changed = true;
    }

    /// Does what the front end says, as far as it has said it.
    fn obey(&mut self) -> io::Result<()> {
        for _ in 0..MESSAGES {
            let Some(front) = &mut self.front else { return Ok(()) };
            let Some((header, payload, descriptors)) = front.next()? else { return Ok(()) };
            self.device.pause();
            let reply = self.backend.handle(&mut self.device, header, payload, descriptors);
            if let Some(reply) = reply {
                front.reply(&reply)?;
            }
        }
        Ok(())
    }

    /// Kicks of all queues that have one.
    fn kicks(&self) -> impl Iterator<Item = (Kicked, &Arc<Event>)> {
        self.device.pairs.iter().enumerate().flat_map(|(number, pair)| {
            let receive = pair.receive.queue.kick.as_ref().map(|kick| (Kicked::Receive(number), kick));
            let transmit = pair.transmit.kick.as_ref().map(|kick| (Kicked::Transmit(number), kick));
            [receive, transmit].into_iter().flatten()
        })
    }

    /// Whether the kicks that are watched are those of the queues.
    fn watches_all(&self) -> bool {
        let watched = self.watched.iter().filter_map(|watched| match watched {
            Watched::Socket(_) => None,
            Watched::Kick(which, kick) => Some((*which, Arc::as_ptr(kick))),
        });
        watched.eq(self.kicks().map(|(which, kick)| (which, Arc::as_ptr(kick))))
    }

    /// A front end whose memory is gone has to go, and so has one whose guest would be moved without
    /// all of what was written.
    fn check_memory(&self) -> io::Result<()> {
        let reason = match self.device.memory.loss() {
            None => return Ok(()),
            Some(Loss::Region) => "its memory has become shorter",
            Some(Loss::Log) => "its log of written pages has become shorter",
            Some(Loss::Bit) => "its log of written pages is too short",
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }

    fn kicked(&self, ready: u32) -> Kicked {
        let watched = usize::try_from(ready).ok().and_then(|ready| self.watched.get(ready));
        match watched {
            Some(Watched::Kick(which, _)) => *which,
            _ => Kicked::None,
        }
    }
}

impl ClientLink for VhostUserLink {
    fn connect(&mut self, client: OwnedFd) {
        self.leave();
        self.front = Some(Front::new(client));
        // Where nothing is watched nobody has to be told, as before the loop begins.
        if self.watched.is_empty() {
            self.renew_fds();
        }
    }

    fn is_connected(&self) -> bool {
        self.front.is_some()
    }
}

impl Link for VhostUserLink {
    fn caps(&self) -> Caps {
        self.device.caps
    }

    fn fd(&self, number: u32) -> Option<BorrowedFd<'_>> {
        Some(match self.watched.get(usize::try_from(number).ok()?)? {
            Watched::Socket(socket) => socket.as_fd(),
            Watched::Kick(_, kick) => kick.as_fd(),
        })
    }

    fn has_new_fds(&self) -> bool {
        self.changed
    }

    fn renew_fds(&mut self) {
        self.changed = false;
        let mut watched = std::mem::take(&mut self.watched);
        watched.clear();
        watched.extend(self.front.iter().map(|front| Watched::Socket(Arc::clone(front.socket()))));
        watched.extend(self.kicks().map(|(which, kick)| Watched::Kick(which, Arc::clone(kick))));
        self.watched = watched;
    }

    fn receive(&mut self, ready: u32) -> io::Result<usize> {
        let obeyed = if ready == CONTROL { self.obey() } else { Ok(()) };
        self.changed |= !self.watches_all();
        let kicked = self.kicked(ready);
        let count = self.device.receive(kicked);
        let outcome = obeyed.and_then(|()| self.check_memory());
        if outcome.is_err() {
            self.leave();
        }
        outcome.map(|()| count)
    }

    super::virtio::methods_of_device!();

    fn flush(&mut self) -> Option<u32> {
        self.device.flush();
        if let Some(front) = &self.front
            && self.device.memory.loss().is_some()
        {
            front.shut();
        }
        None
    }
}
