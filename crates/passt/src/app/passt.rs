//! passt: a virtual machine behind a socket.
//!
//! There is one client at a time. When it is gone the next can come, and finds
//! everything as it was: flows go on until their timeouts, and the addresses that the
//! guest used are known.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use passt_engine::clock;
use passt_engine::control::Control;
use passt_engine::core::Token;
use passt_engine::link::ClientLink;
use passt_engine::link::stream::{Framing, StreamLink};
use passt_engine::link::tap::TapLink;
use passt_engine::link::vhost_user::{self, VhostUserLink};
use passt_engine::worker::{Exit, Worker};
use passt_sys::shared;
use passt_sys::tun::Tap;
use rustix::event::epoll::EventFlags;

use super::door::{Door, LISTENER};
use super::outside::{self, Outside};
use super::{Prepared, end, engine_options, hand_over, settle};
use crate::cli::{Config, GuestSocket, MAX_MTU, PasstOptions, Wire};
use crate::isolate;
use crate::life::identity::Identity;
use crate::life::leftovers::Leftovers;
use crate::life::peers::Peers;
use crate::life::socket;
use crate::life::starter::Starter;

/// MTU of a tap device that nobody has set another for.
pub(super) const DEFAULT_MTU: usize = 1500;
/// How frames are told apart.
fn framing(wire: Wire) -> Framing {
    match wire {
        Wire::Qemu => Framing::Be32,
        Wire::Hyperkit | Wire::Stdio => Framing::Le16,
        Wire::Bess | Wire::Vfkit => Framing::Message,
    }
}

/// Runs until the virtual machine or a signal ends the process; the exit status. `client` is the
/// connection that was inherited, if one was.
pub(super) fn run(
    config: &Config,
    passt: &PasstOptions,
    starter: Starter,
    client: Option<OwnedFd>,
) -> anyhow::Result<u8> {
    if let GuestSocket::Tap(fd) = passt.socket
        && let Some(device) = client
    {
        let tap = Tap::adopt(device).with_context(|| format!("Descriptor {fd}"))?;
        let mtu = config.mtu.map_or(DEFAULT_MTU, usize::from);
        return run_on(TapLink::new(tap, mtu), config, passt, starter, None);
    }
    if !passt.vhost_user {
        let mut link = StreamLink::new(framing(passt.wire));
        if passt.socket == GuestSocket::Stdio {
            let [input, output] = [0, 1].map(socket::inherit_device);
            link.connect_pair(input?, output?).context("Standard input and output")?;
        }
        return run_on(link, config, passt, starter, client);
    }
    // Who shares memory with us may take it away.
    shared::survive_faults().context("Couldn't set up signals")?;
    // What is told there is not less than Ethernet's least (virtio 1.2, section 5.1.4.1).
    let mtu = config.mtu.filter(|mtu| *mtu >= 68);
    let is_chosen = config.mtu != Some(MAX_MTU);
    run_on(VhostUserLink::new(vhost_user::Config { mtu, is_chosen }), config, passt, starter, client)
}

/// The same with a link that has no client yet.
fn run_on<L: ClientLink>(
    mut link: L,
    config: &Config,
    passt: &PasstOptions,
    mut starter: Starter,
    client: Option<OwnedFd>,
) -> anyhow::Result<u8> {
    // What needs the rights and the view of whoever started us comes before the change of identity.
    // The socket is first: if another process has it, its files are not to be touched.
    let mut leftovers = Leftovers::default();
    let listener = socket::listen(passt, &mut leftovers)?;
    let introducer = Door::introducer(listener.as_ref(), passt.wire).context("Couldn't start a process")?;
    let Prepared {
        mut leftovers,
        pid_file,
        capture,
        mut stats,
        setup,
        outbound,
        mut neighbours,
        mut outsider,
        forward,
        listeners,
        mut server,
    } = Prepared::new(config, leftovers)?;
    starter.announce();
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
    outside::watch_exit(&mut worker, &starter)?;
    outside::watch_outsider(&mut worker, outsider.as_ref())?;
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
    starter.tell();
    let mtu = config.mtu.unwrap_or(MAX_MTU);
    let mut door = listener.map(|listener| Door::new(listener, peers, (passt.wire, mtu), introducer));
    let outside = Outside {
        stats: stats.as_mut(),
        neighbours: neighbours.as_mut(),
        outsider: outsider.as_mut(),
        server: server.as_mut(),
        ready: (),
    };
    let result = serve(&mut worker, door.as_mut(), outside, passt.one_off);
    if let Some(outsider) = &outsider {
        outsider.dismiss();
    }
    end(&mut worker, server.as_mut(), result)
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
            door.prepare();
        }
        let mut client = None;
        let taken = worker.context().core.link.is_connected();
        let ready = |number, control: &mut Control<'_, L>| {
            client = door.as_mut().and_then(|door| door.ready(number, &mut control.engine.ctx, taken));
            client.is_some()
        };
        let exit = worker.run(&mut outside.with(ready));
        if matches!(exit, Exit::External(number) if outside::is_exit(number)) {
            return Ok(0);
        }
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
            if let Some(door) = &mut door {
                door.left(worker.context(), seen_off);
            }
        }
        if let Some(client) = client {
            let core = &mut worker.context().core;
            if let Some(before) = core.link.fd(0) {
                // Its file stays open, and would be told of.
                let _ = core.unwatch(before);
            }
            core.link.connect(client);
            worker.greet().context("Couldn't watch the client's connection")?;
        }
    }
}
