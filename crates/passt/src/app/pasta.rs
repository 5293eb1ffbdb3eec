//! pasta: a network namespace behind a tap device.

use anyhow::Context;
use passt_engine::clock;
use passt_engine::control::Control;
use passt_engine::core::Token;
use passt_engine::flow::Side;
use passt_engine::link::Link;
use passt_engine::link::none::NoLink;
use passt_engine::link::tap::TapLink;
use passt_engine::worker::{Exit, Worker};
use passt_proto::addr::Mac;
use passt_proto::guest::Evidence;
use passt_sys::namespace::{Netns, Resident};
use passt_sys::tun::Tap;
use rustix::event::epoll::EventFlags;

use super::outside::{self, Outside};
use super::passt::DEFAULT_MTU;
use super::{Prepared, end, engine_options, hand_over, listen, settle};
use crate::cli::{Config, PastaOptions};
use crate::isolate;
use crate::life::leftovers::Leftovers;
use crate::life::namespace::{self, Entered};
use crate::life::start::Inherited;
use crate::life::starter::Starter;
use crate::life::watch::Watch;
use crate::netconf::Rtnl;
use crate::netconf::guest;
use crate::setup::TapSetup;

/// There is no tap device.
#[derive(Debug, thiserror::Error)]
#[error("Couldn't create tap device {name}")]
pub(super) struct TapError {
    name: String,
    /// Why.
    pub(super) source: std::io::Error,
}

/// Runs until the command, the namespace or a signal ends the process; the exit status.
pub(super) fn run(
    config: &Config,
    pasta: &PastaOptions,
    starter: Starter,
    inherited: Inherited,
) -> anyhow::Result<u8> {
    namespace::look(pasta)?;
    // What needs the rights and the view of whoever started us comes before the change of identity.
    let mut prepared = Prepared::new(config, Leftovers::default())?;
    let resolv_conf = prepared.setup.resolv_conf.as_deref();
    let entered = namespace::enter(config, pasta, resolv_conf, inherited, |identity| {
        hand_over(&prepared.listeners, identity);
    })?;
    let Some(wanted) = prepared.setup.tap.take() else {
        let mut netlink = inside(&entered.netns, || Ok(Rtnl::open()?))?;
        if pasta.loopback {
            loopback_up(&mut netlink);
        }
        return serve(config, prepared, (starter, entered), NoLink, None);
    };
    let (tap, mac) = inside(&entered.netns, || create_tap(&wanted, pasta.loopback))?;
    let mtu = config.mtu.map_or(DEFAULT_MTU, usize::from);
    serve(config, prepared, (starter, entered), TapLink::new(tap, mtu), mac)
}

/// Runs on a link to a guest whose address there is `mac`.
fn serve<L: Link>(
    config: &Config,
    prepared: Prepared,
    (mut starter, entered): (Starter, Entered),
    link: L,
    mac: Option<Mac>,
) -> anyhow::Result<u8> {
    let Prepared {
        mut leftovers,
        pid_file,
        capture,
        mut stats,
        setup,
        outbound,
        mut neighbours,
        mut outsider,
        mut forward,
        listeners,
        mut server,
    } = prepared;
    starter.announce();
    let Entered { netns, mut watch } = entered;
    let listeners_inside = inside(&netns, || listen(config, Side::Namespace, &mut forward))?;
    let options = engine_options(config, setup, outbound)?;
    let mut worker = Worker::new(link, &options, clock()).context("Couldn't set up")?;
    if let Some(mac) = mac {
        worker.context().core.guest.change(|guest| guest.learnt.hear(mac, None, Evidence::Claimed));
    }
    if config.pasta().is_some_and(|pasta| pasta.config_net) {
        worker.context().core.guest.change(passt_proto::guest::Guest::is_configured);
    }
    worker.context().core.capture = capture;
    outside::watch(&mut worker, neighbours.as_ref())?;
    outside::watch_exit(&mut worker, &starter)?;
    outside::watch_outsider(&mut worker, outsider.as_ref())?;
    worker.forward(forward);
    worker.listen(listeners).context("Couldn't watch ports")?;
    worker.listen(listeners_inside).context("Couldn't watch the namespace's ports")?;

    let stay = || Resident::start(&netns).context("Couldn't stay in the network namespace");
    let open = || {
        worker.enter(Some(stay()?)).context("Couldn't watch the namespace's thread")?;
        worker.follow();
        if let Some(server) = &mut server {
            server.begin(&mut worker)?;
        }
        // The one that stays sees no more than the process will.
        worker.enter(None)?;
        Ok(())
    };
    let (place, resident) = settle(config, &mut leftovers, pid_file, open, || stay().map(Some))?;
    worker.enter(resident).context("Couldn't watch the namespace's thread")?;
    drop(netns);
    if let Some(fd) = watch.fd() {
        let watched = worker.context().core.watch(fd, Token::External(0), EventFlags::IN);
        watched.context("Couldn't watch the namespace or command")?;
    }
    place.ready(&mut leftovers)?;
    isolate::seal(config, &watch.calls())?;
    watch.release().context("Couldn't let the command run")?;
    starter.tell();
    let outside = Outside {
        stats: stats.as_mut(),
        neighbours: neighbours.as_mut(),
        outsider: outsider.as_mut(),
        server: server.as_mut(),
        ready: (),
    };
    let result = work(&mut worker, &watch, outside);
    if let Some(outsider) = &outsider {
        outsider.dismiss();
    }
    end(&mut worker, server.as_mut(), result)
}

/// Runs the engine until the end; the exit status.
fn work<L: Link>(worker: &mut Worker<L>, watch: &Watch, mut outside: Outside<'_, ()>) -> anyhow::Result<u8> {
    let mut end = Ok(None);
    let ready = |_, _: &mut Control<'_, L>| {
        end = watch.check();
        !matches!(end, Ok(None))
    };
    let exit = worker.run(&mut outside.with(ready));
    match exit {
        Exit::Link(error) => Err(error).context("Tap device"),
        Exit::External(_) => Ok(end?.unwrap_or_default()),
    }
}

/// Does `work` in the network namespace.
fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    netns.run(work).context("Couldn't work in the network namespace")?
}

/// Creates the tap device in this thread's network namespace and configures it; with it comes its
/// address.
fn create_tap(wanted: &TapSetup, loopback: bool) -> anyhow::Result<(Tap, Option<Mac>)> {
    let TapSetup { name, config } = wanted;
    let mut netlink = Rtnl::open()?;
    if loopback {
        loopback_up(&mut netlink);
    }
    let tap = Tap::open(name, false).map_err(|source| TapError { name: name.clone(), source })?;
    let link = guest::configure(&mut netlink, tap.name(), config)?;
    Ok((tap, link.mac))
}

fn loopback_up(netlink: &mut Rtnl) {
    if let Err(error) = guest::loopback_up(netlink) {
        log::warn!("{error}");
    }
}
