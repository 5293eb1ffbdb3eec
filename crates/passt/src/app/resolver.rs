//! The host's resolver, when its `/etc/resolv.conf` says something else than at the start.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use passt_engine::core::Core;
use passt_engine::link::Link;

use crate::cli::Config;
use crate::life::attendant::Attendant;
use crate::netconf::host::HostNetwork;
use crate::netconf::resolv::Resolv;
use crate::setup;

/// Where the host names its resolvers.
pub(super) const RESOLV: &str = "/etc/resolv.conf";

/// The process outside, and what its news are read with.
pub(super) struct Outsider {
    attendant: Attendant,
    config: Config,
    host: HostNetwork,
}

impl Outsider {
    /// Starts the process outside, if there is anything for it to do.
    pub(super) fn start(config: &Config) -> anyhow::Result<Option<Attendant>> {
        let follows = config.dns.follow && !config.dns.closed;
        let file = follows.then_some(Path::new(RESOLV));
        if file.is_none() && config.api_socket.is_none() {
            return Ok(None);
        }
        let attendant = Attendant::start(file, config.api_socket.as_deref(), None);
        Ok(Some(anyhow::Context::context(attendant, "Couldn't start a process")?))
    }

    pub(super) fn new(attendant: Attendant, config: &Config, host: HostNetwork) -> Self {
        Self { attendant, config: config.clone(), host }
    }

    /// Has queries go to the resolver that the host has now. False if no more will be heard.
    pub(super) fn ready<L: Link>(&mut self, core: &mut Core<L>) -> bool {
        let content = match self.attendant.read() {
            Ok(Some(content)) => content,
            Ok(None) => return true,
            Err(error) => {
                log::warn!("Changes of {RESOLV} are no longer followed: {error}");
                return false;
            }
        };
        let resolv = Resolv::parse(content);
        let (config, host) = (&self.config, &self.host);
        core.guest.change(|guest| setup::follow(config, host, &resolv, &mut guest.configured));
        log::debug!("{RESOLV} has changed: queries go to {:?}", core.guest.configured.v4.dns_host);
        true
    }

    /// Has files removed that whoever started us no longer needs.
    pub(super) fn dismiss(&self) {
        self.attendant.dismiss();
    }
}

impl AsFd for Outsider {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.attendant.as_fd()
    }
}
