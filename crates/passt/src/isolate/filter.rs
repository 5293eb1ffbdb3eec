//! The filter for system calls, from what the modules declare that a mode uses.

use passt_sys::seccomp::{self, Call, Error, Sysno};
use passt_sys::{dgram, msg, namespace, netlink, socket, tun};

use crate::cli::{Config, Mode};
use crate::life::{peers, socket as client, watch};
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
    let (mode, peers) = match config.mode {
        Mode::Pasta(_) => (PASTA, None),
        // In the foreground it has no PID namespace of its own.
        Mode::Passt(_) => (PASST, (!config.foreground).then_some(peers::CALLS)),
    };
    let file = config.log.file.as_ref().map(|_| log::FILE_CALLS);
    [COMMON, mode].concat().into_iter().chain(peers).chain(file).flatten().copied().collect()
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::calls;
    use crate::cli::{Outcome, parse};

    /// What is declared is named as every architecture names it: `AArch64` lacks older calls.
    #[test]
    fn calls_of_another_architecture() {
        for line in ["pasta --log-file log", "passt --log-file log"] {
            let Outcome::Run(config) = parse(line.split(' ').map(OsString::from).collect()) else {
                panic!("{line}")
            };
            for call in calls(&config) {
                let number = call.name().parse::<syscalls::aarch64::Sysno>();
                assert!(number.is_ok(), "{line}: AArch64 has no {}", call.name());
            }
        }
    }
}
