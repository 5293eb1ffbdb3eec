//! pasta: a network namespace behind a tap device.

use anyhow::Context;
use passt_proto::addr::Mac;
use passt_sys::tun::Tap;
use rustix::event::epoll::EventFlags;

use super::{Prepared, engine_options, ready};
use crate::cli::{Config, PastaOptions};
use crate::life::namespace::{self, Entered};
use crate::life::start::Inherited;
use crate::life::watch::Watch;
use crate::link::tap::TapLink;
use crate::netconf::Rtnl;
use crate::netconf::guest::{self, TapConfig};
use crate::setup::TapSetup;
use crate::worker::{Exit, Token, Worker, clock};

/// MTU of a tap device that nobody has set another for.
const DEFAULT_MTU: usize = 1500;

/// Runs until the command, the namespace or a signal ends the process; the exit status.
pub(super) fn run(config: &Config, pasta: &PastaOptions, inherited: Inherited) -> anyhow::Result<u8> {
    // What needs the rights and the view of whoever started us comes before the change of identity.
    let Prepared { pid_file, capture, setup, listeners } = Prepared::new(config)?;
    let Entered { netns, mut watch } = namespace::enter(config, pasta, inherited)?;
    let default = TapSetup { name: "tap0".into(), config: TapConfig::default() };
    let wanted = setup.tap.as_ref().unwrap_or(&default);
    let (tap, mac) = netns.run(|| create_tap(wanted))??;
    let mtu = config.mtu.map_or(DEFAULT_MTU, usize::from);
    let options = engine_options(config, setup)?;
    let mut worker = Worker::new(TapLink::new(tap, mtu), &options, clock()).context("Couldn't set up")?;
    worker.context().guest_mac = mac;
    worker.context().capture = capture;
    worker.listen(listeners).context("Couldn't watch ports")?;

    ready(config, pid_file)?;
    if let Some(fd) = watch.fd() {
        worker.context().watch(fd, Token::External(0), EventFlags::IN)?;
    }
    watch.release()?;
    work(&mut worker, &watch)
}

/// Runs the engine until the end; the exit status.
fn work(worker: &mut Worker<TapLink>, watch: &Watch) -> anyhow::Result<u8> {
    let mut end = Ok(None);
    let exit = worker.run(|_, _| {
        end = watch.check();
        !matches!(end, Ok(None))
    });
    match exit {
        Exit::Link(error) => Err(error).context("Tap device"),
        Exit::External(_) => Ok(end?.unwrap_or_default()),
    }
}

/// Creates the tap device in this thread's network namespace and configures it; with it comes its address.
fn create_tap(wanted: &TapSetup) -> anyhow::Result<(Tap, Option<Mac>)> {
    let TapSetup { name, config } = wanted;
    let mut netlink = Rtnl::open()?;
    if let Err(error) = guest::loopback_up(&mut netlink) {
        log::warn!("{error}");
    }
    let tap = Tap::open(name, false).with_context(|| format!("Couldn't create tap device {name}"))?;
    let link = guest::configure(&mut netlink, name, config)?;
    Ok((tap, link.mac))
}
