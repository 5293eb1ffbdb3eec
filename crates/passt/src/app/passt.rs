//! passt: a virtual machine behind a socket.
//!
//! There is one client at a time. When it is gone the next can come, and finds
//! everything as it was: flows go on until their timeouts, and the addresses that the
//! guest used are known.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use anyhow::Context;
use rustix::event::epoll::EventFlags;

use super::{Prepared, end, engine_options, settle};
use crate::cli::{Config, PasstOptions};
use crate::isolate;
use crate::life::identity::Identity;
use crate::life::leftovers::Leftovers;
use crate::life::peers::Peers;
use crate::life::socket;
use crate::link::Link;
use crate::link::stream::StreamLink;
use crate::worker::{Exit, Token, Worker, clock};

/// Number of the listening socket among what is outside of the engine.
const LISTENER: u32 = 0;

/// Runs until the virtual machine or a signal ends the process; the exit status. `client` is the
/// connection that was inherited, if one was.
pub(super) fn run(config: &Config, passt: &PasstOptions, client: Option<OwnedFd>) -> anyhow::Result<u8> {
    // What needs the rights and the view of whoever started us comes before the change of identity. The socket
    // is first: if another process has it, its files are not to be touched.
    let mut leftovers = Leftovers::default();
    let listener = socket::listen(&passt.socket, &mut leftovers)?;
    let Prepared { mut leftovers, pid_file, capture, setup, forward, listeners } =
        Prepared::new(config, leftovers)?;
    if let Some(identity) = Identity::wanted(config.run_as.as_ref())? {
        identity.assume(isolate::KEPT)?;
    }
    isolate::user()?;
    let mut link = StreamLink::new();
    if let Some(client) = client {
        link.connect(client);
    }
    let options = engine_options(config, setup)?;
    let mut worker = Worker::new(link, &options, clock()).context("Couldn't set up")?;
    worker.context().capture = capture;
    worker.context().forward = forward;
    worker.listen(listeners).context("Couldn't watch ports")?;
    if let Some(listener) = &listener {
        worker
            .context()
            .watch(listener, Token::External(LISTENER), EventFlags::IN)
            .context("Couldn't watch the socket")?;
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
    end(serve(&mut worker, listener.as_ref(), &mut peers, passt.one_off))
}

/// Serves one client after the other, or only one; the exit status.
fn serve(
    worker: &mut Worker<StreamLink>,
    listener: Option<&UnixListener>,
    peers: &mut Peers,
    one_off: bool,
) -> anyhow::Result<u8> {
    loop {
        let mut client = None;
        let taken = worker.context().link.is_connected();
        let exit = worker.run(|_, ctx| {
            // One that left is seen off before the next is let in.
            let leaves = taken && ctx.link.fd().is_none_or(socket::has_left);
            client = listener.filter(|_| !leaves).and_then(|listener| socket::admit(listener, peers, taken));
            client.is_some()
        });
        if let Exit::Link(error) = exit {
            log::debug!("Client: {error}");
            if one_off {
                log::info!("Client connection closed, exiting");
                return Ok(0);
            }
            log::info!("Client connection closed");
        }
        if let Some(client) = client {
            worker.context().link.connect(client);
            worker.greet().context("Couldn't watch the client's connection")?;
        }
    }
}
