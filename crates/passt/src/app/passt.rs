//! passt: a virtual machine behind a socket.
//!
//! There is one client at a time. When it is gone the next can come, and finds
//! everything as it was: flows go on until their timeouts, and the addresses that the
//! guest used are known.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use anyhow::Context as _;
use passt_engine::clock;
use passt_engine::control::Control;
use passt_engine::core::Token;
use passt_engine::forward::Context;
use passt_engine::link::ClientLink;
use passt_engine::link::stream::{Framing, StreamLink};
use passt_engine::link::vhost_user::{self, VhostUserLink};
use passt_engine::worker::{Exit, Worker};
use passt_sys::shared;
use rustix::event::epoll::EventFlags;

use super::outside::{self, Outside};
use super::{Prepared, end, engine_options, hand_over, settle};
use crate::cli::{Config, MAX_MTU, PasstOptions};
use crate::isolate;
use crate::life::identity::Identity;
use crate::life::leftovers::Leftovers;
use crate::life::peers::Peers;
use crate::life::socket::{self, Spare};

/// Number of the listening socket among what is outside of the engine.
const LISTENER: u32 = 0;

/// Runs until the virtual machine or a signal ends the process; the exit status. `client` is the
/// connection that was inherited, if one was.
pub(super) fn run(config: &Config, passt: &PasstOptions, client: Option<OwnedFd>) -> anyhow::Result<u8> {
    if !passt.vhost_user {
        return run_on(StreamLink::new(Framing::Be32), config, passt, client);
    }
    // Who shares memory with us may take it away.
    shared::survive_faults().context("Couldn't set up signals")?;
    // What is told there is not less than Ethernet's least (virtio 1.2, section 5.1.4.1).
    let mtu = config.mtu.filter(|mtu| *mtu >= 68);
    let is_chosen = config.mtu != Some(MAX_MTU);
    run_on(VhostUserLink::new(vhost_user::Config { mtu, is_chosen }), config, passt, client)
}

/// The same with a link that has no client yet.
fn run_on<L: ClientLink>(
    mut link: L,
    config: &Config,
    passt: &PasstOptions,
    client: Option<OwnedFd>,
) -> anyhow::Result<u8> {
    // What needs the rights and the view of whoever started us comes before the change of identity.
    // The socket is first: if another process has it, its files are not to be touched.
    let mut leftovers = Leftovers::default();
    let listener = socket::listen(&passt.socket, &mut leftovers)?;
    let Prepared {
        mut leftovers,
        pid_file,
        capture,
        mut stats,
        setup,
        outbound,
        mut neighbours,
        forward,
        listeners,
        mut server,
    } = Prepared::new(config, leftovers)?;
    if let Some(identity) = Identity::wanted(config.run_as.as_ref())? {
        hand_over(&listeners, identity);
        identity.assume(isolate::KEPT)?;
    }
    isolate::user(config)?;
    if let Some(client) = client {
        link.connect(client);
    }
    let options = engine_options(config, setup, outbound)?;
    let mut worker = Worker::new(link, &options, clock()).context("Couldn't set up")?;
    worker.context().core.capture = capture;
    worker.forward(forward);
    worker.listen(listeners).context("Couldn't watch ports")?;
    if let Some(listener) = &listener {
        worker
            .context()
            .core
            .watch(listener, Token::External(LISTENER), EventFlags::IN)
            .context("Couldn't watch the socket")?;
    }
    outside::watch(&mut worker, neighbours.as_ref())?;
    if let Some(server) = &mut server {
        server.begin(&mut worker)?;
    }
    let mut peers = Peers::default();
    let open = || {
        if !config.foreground {
            peers = Peers::outside();
        }
        Ok(())
    };
    let (place, _) = settle(config, &mut leftovers, pid_file, open, || Ok(None))?;
    place.ready(&mut leftovers)?;
    isolate::seal(config, &peers.calls())?;
    let mut door = listener.map(|listener| Door { listener, peers, spare: Spare::default(), watched: true });
    let outside = Outside {
        stats: stats.as_mut(),
        neighbours: neighbours.as_mut(),
        server: server.as_mut(),
        ready: (),
    };
    let result = serve(&mut worker, door.as_mut(), outside, passt.one_off);
    end(&mut worker, server.as_mut(), result)
}

/// The listening socket, and what is needed to let in who comes there.
struct Door {
    listener: UnixListener,
    peers: Peers,
    spare: Spare,
    /// The loop tells when somebody comes.
    watched: bool,
}

impl Door {
    /// Lets in who is there, unless the link was `taken` when the loop began. Where that fails it
    /// is tried again after a pause: who comes stays there, and would keep the loop busy.
    fn admit<L: ClientLink>(&mut self, ctx: &mut Context<L>, taken: bool) -> Option<OwnedFd> {
        // One that left is seen off before the next is let in.
        if taken && ctx.core.link.fd(0).is_none_or(socket::has_left) {
            self.watch(ctx);
            return None;
        }
        match socket::admit(&self.listener, &mut self.spare, &mut self.peers, taken) {
            Ok(client) => {
                self.watch(ctx);
                client
            }
            Err(error) => {
                log::warn!("Couldn't accept a connection: {error}");
                self.look_again(ctx);
                None
            }
        }
    }

    fn watch<L: ClientLink>(&mut self, ctx: &mut Context<L>) {
        if !self.watched {
            self.watched = ctx.core.watch(&self.listener, Token::External(LISTENER), EventFlags::IN).is_ok();
        }
        if !self.watched {
            ctx.core.postpone(LISTENER);
        }
    }

    fn look_again<L: ClientLink>(&mut self, ctx: &mut Context<L>) {
        self.watched = self.watched && ctx.core.unwatch(&self.listener).is_err();
        ctx.core.postpone(LISTENER);
    }
}

/// Serves one client after the other, or only one; the exit status.
fn serve<L: ClientLink>(
    worker: &mut Worker<L>,
    mut door: Option<&mut Door>,
    mut outside: Outside<'_, ()>,
    one_off: bool,
) -> anyhow::Result<u8> {
    loop {
        if let Some(server) = &mut outside.server {
            let connected = worker.context().core.link.is_connected();
            server.guest_is(connected, &worker.control());
        }
        if let Some(door) = &mut door {
            door.spare.fill();
        }
        let mut client = None;
        let taken = worker.context().core.link.is_connected();
        let ready = |_, control: &mut Control<'_, L>| {
            client = door.as_mut().and_then(|door| door.admit(&mut control.engine.ctx, taken));
            client.is_some()
        };
        let exit = worker.run(&mut outside.with(ready));
        if let Exit::Link(error) = exit {
            // Whoever has not left by itself is told why, as far as anybody can read it.
            let seen_off = error.kind() == std::io::ErrorKind::InvalidData;
            let level = if seen_off { log::Level::Warn } else { log::Level::Debug };
            log::log!(level, "Client: {error}");
            if one_off {
                log::info!("Client connection closed, exiting");
                return Ok(0);
            }
            log::info!("Client connection closed");
        }
        if let Some(client) = client {
            worker.context().core.link.connect(client);
            worker.greet().context("Couldn't watch the client's connection")?;
        }
    }
}
