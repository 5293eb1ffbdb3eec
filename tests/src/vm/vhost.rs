//! Machines whose memory passt has: by vhost-user.
//!
//! Emulated machines of qemu 7.2 end with a fault of their own once the guest's driver starts such
//! a device with MSI-X, whatever the back end; so it is a newer one.

use super::{Extras, Qemu, Vm};
use crate::{Net, Process, User};

/// A qemu that such machines run in. None if the test had to be skipped.
pub fn qemu() -> Option<Qemu> {
    Qemu::since("an emulated machine with vhost-user", (9, 2))
}

/// qemu's side of a socket in the test's directory that passt listens at, with so many pairs of
/// queues. It connects again.
pub fn netdev(net: &Net, queues: u32) -> String {
    netdev_at(net, queues, "socket")
}

/// The same at a socket of this name.
pub fn netdev_at(net: &Net, queues: u32, socket: &str) -> String {
    format!("vhost-user/{queues},path={},reconnect-ms=100", net.dir().join(socket).display())
}

/// A passt that speaks vhost-user.
pub fn passt(net: &Net, options: &str) -> Process {
    net.passt(User::Normal).with(&format!("--vhost-user {options}")).listen("socket")
}

/// A machine that has its addresses, and the passt that gave it them. None if the test had to be
/// skipped.
pub fn start(net: &Net, options: &str, extras: Extras<'_>) -> Option<(Vm, Process)> {
    let passt = passt(net, options);
    let vm = Vm::boot_with(net, &qemu()?, "guest", &netdev(net, 1), extras)?;
    vm.configure();
    Some((vm, passt))
}
