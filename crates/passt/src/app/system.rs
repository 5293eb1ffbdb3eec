//! What command lines name that only this host knows.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use rustix::io::Errno;

use crate::cli::Host;
use crate::netconf::{Rtnl, host};

/// This host, as whoever started us sees it.
pub(super) struct System;

impl Host for System {
    fn exists(&self, path: &Path) -> io::Result<()> {
        // The kernel's words alone: callers compare them.
        fs::metadata(path).map(drop).map_err(|error| {
            let errno = Errno::from_io_error(&error);
            errno.map_or(error, |errno| io::Error::other(words(errno)))
        })
    }

    fn address_of(&self, interface: &str, v6: bool) -> Option<IpAddr> {
        host::first_address(&mut Rtnl::open().ok()?, interface, v6)
    }
}

/// What the C library calls an error.
fn words(errno: Errno) -> String {
    let text = errno.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
