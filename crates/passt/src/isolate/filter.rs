//! The filter for system calls, from what the modules declare that a mode uses.

use passt_sys::seccomp::{self, Call, Error, Sysno};
use passt_sys::{dgram, msg, namespace, netlink, socket, tun};

use crate::cli::{Config, Mode};
use crate::life::{socket as client, watch};
use crate::{forward, host, log, worker};

/// The engine's and the log's, whatever the link is.
const COMMON: &[&[Call]] = &[dgram::CALLS, host::CALLS, log::CALLS, msg::CALLS, socket::CALLS, worker::CALLS];

/// What a network namespace needs: a tap device, the bypass, what listens, and the end of it all.
const PASTA: &[&[Call]] =
    &[forward::CALLS, host::splice::CALLS, namespace::CALLS, netlink::CALLS, tun::CALLS, watch::CALLS];

/// Clients; the link is made of messages on sockets.
const PASST: &[&[Call]] = &[client::CALLS];

/// The system calls of a process with this configuration, some more than once.
pub fn calls(config: &Config) -> Vec<Call> {
    let mode = match config.mode {
        Mode::Pasta(_) => PASTA,
        Mode::Passt(_) => PASST,
    };
    let file = config.log.file.as_ref().map(|_| log::FILE_CALLS);
    [COMMON, mode].concat().into_iter().chain(file).flatten().copied().collect()
}

/// Has the kernel refuse all others, for good.
pub(super) fn install(config: &Config) -> Result<(), Error> {
    let mut calls = calls(config);
    if cfg!(debug_assertions) {
        // The standard library asks whether a descriptor is open before it closes it: F_GETFD
        // (`include/uapi/asm-generic/fcntl.h`).
        calls.push(Call::only(Sysno::fcntl, &[&[(1, 1)]]));
    }
    seccomp::install(&calls, |name| {
        log::last_words(format_args!("System call {name} is not allowed, exiting"));
    })
}
