//! The filter for system calls, from what the modules declare that a mode uses.

use std::io;

use passt_engine::link::{stream, vhost_user};
use passt_engine::{forward, protocols, worker};
use passt_sys::seccomp::{self, Call, Sysno};
use passt_sys::{dgram, event, groups, msg, namespace, netlink, sender, shared, socket, tun};

use crate::cli::{Config, GuestSocket, Mode, PasstOptions, Wire};
use crate::life::attendant;
use crate::life::socket as client;
use crate::netconf::neighbours;
use crate::{control, log, outlet, pcap};

/// The engine's and the log's, whatever the link is.
const COMMON: &[&[Call]] = &[
    dgram::CALLS,
    sender::CALLS,
    protocols::CALLS,
    protocols::echo::CALLS,
    protocols::tcp::CALLS,
    protocols::udp::CALLS,
    log::CALLS,
    msg::CALLS,
    neighbours::CALLS,
    outlet::CALLS,
    socket::CALLS,
    worker::CALLS,
];

/// What a network namespace needs: a tap device, the bypass, and what listens.
const PASTA: &[&[Call]] = &[
    dgram::DESTINATIONS,
    dgram::JOINED,
    forward::CALLS,
    protocols::splice::CALLS,
    namespace::CALLS,
    netlink::CALLS,
    tun::CALLS,
];

/// Multicast groups, whose sockets come and go.
const GROUPS: &[&[Call]] = &[groups::CALLS, protocols::groups::CALLS];

/// The control socket: who comes there may change rules, and record frames.
const CONTROL: &[&[Call]] = &[
    control::CALLS,
    passt_engine::control::CALLS,
    dgram::DESTINATIONS,
    dgram::JOINED,
    forward::CALLS,
    outlet::CALLS,
    &[Call::any(Sysno::ftruncate)],
];

/// Clients; the link is made of messages on sockets.
const PASST: &[&[Call]] = &[client::CALLS, stream::CALLS];

/// A tap device that was handed over.
const DEVICE: &[&[Call]] = &[client::CALLS, tun::CALLS];

/// Clients that share memory with us.
const VHOST_USER: &[&[Call]] =
    &[client::CALLS, dgram::JOINED, event::CALLS, shared::CALLS, vhost_user::CALLS];

/// The system calls of a process with this configuration, some more than once; `own` are those that
/// name what it has open.
pub fn calls(config: &Config, own: &[Call]) -> Vec<Call> {
    let mode = match &config.mode {
        Mode::Pasta(_) => PASTA,
        Mode::Passt(passt) if passt.vhost_user => VHOST_USER,
        Mode::Passt(PasstOptions { socket: GuestSocket::Tap(_), .. }) => DEVICE,
        Mode::Passt(_) => PASST,
    };
    let wire = match &config.mode {
        Mode::Passt(PasstOptions { wire: Wire::Hyperkit, .. }) => client::KEEP_CALLS,
        Mode::Passt(PasstOptions { wire: Wire::Bess | Wire::Vfkit, .. }) => stream::MESSAGE_CALLS,
        Mode::Passt(PasstOptions { wire: Wire::Stdio, .. }) => stream::PIPE_CALLS,
        _ => &[],
    };
    let file = config.log.file.as_ref().map(|_| log::FILE_CALLS);
    let capture = config.pcap.as_ref().map_or(&[][..], |_| pcap::CALLS);
    let control = if config.has_control() { CONTROL } else { &[] };
    let is_vfkit = matches!(&config.mode, Mode::Passt(passt) if passt.wire == Wire::Vfkit);
    let has_attendant = config.dns.follow || config.api_socket.is_some() || is_vfkit;
    let attendant = if has_attendant { attendant::CALLS } else { &[] };
    let keep = if is_vfkit { client::KEEP_CALLS } else { &[] };
    let groups = if config.services.multicast && config.services.udp { GROUPS } else { &[] };
    [COMMON, mode, groups, capture, control, &[attendant, wire, keep]]
        .concat()
        .into_iter()
        .chain(file)
        .chain([own])
        .flatten()
        .copied()
        .collect()
}

/// Has the kernel refuse all others, for good.
pub(super) fn install(config: &Config, own: &[Call]) -> io::Result<()> {
    let mut calls = calls(config, own);
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

    use rustix::process::Pid;
    use syscall_numbers::aarch64;

    use super::calls;
    use crate::cli::{Outcome, parse};
    use crate::life::{command, peers, watch};

    /// What is declared is named as every architecture names it: `AArch64` lacks older calls.
    #[test]
    fn calls_of_another_architecture() {
        for line in ["pasta --log-file log", "passt --log-file log", "passt --vhost-user"] {
            let Outcome::Run(config) = parse(line.split(' ').map(OsString::from).collect()) else {
                panic!("{line}")
            };
            let own = [watch::missing_calls(0), command::calls(Pid::INIT, Some(0)), peers::calls(0).to_vec()];
            for call in calls(&config, &own.concat()) {
                let named = |number| aarch64::sys_call_name(number) == Some(call.name());
                assert!((0..1024).any(named), "{line}: AArch64 has no {}", call.name());
            }
        }
    }
}
