//! A stand-in for a virtual machine: a namespace whose network device is
//! connected to passt's socket, as qemu would do it.

use std::path::Path;
use std::process::Command;

use crate::{Net, Ns, Place, Process};

/// The namespace, with the device `eth0`, which is up and not configured.
pub struct Machine {
    /// Moves frames between device and socket; reconnects as often as is needed.
    pub device: Process,
    ns: Ns,
}

impl Machine {
    /// Makes a machine and waits until passt at `socket` has it as client.
    pub fn start(net: &Net, socket: &Path, mtu: u32) -> Self {
        let ns = net.empty_guest();
        let mut device = ns.start_peer(&format!("machine eth0 {}", socket.display()));
        device.wait_for("CONNECTED");
        // Room enough that the device itself loses nothing, as one of qemu.
        ns.ip(&format!("link set eth0 mtu {mtu} txqueuelen 10000 up"));
        Self { device, ns }
    }

    /// Configures the device by hand: address and default route of each family, no others.
    pub fn configure(&self) {
        // Down and up again, so that nothing is left of router advertisements.
        self.ns.ip("link set eth0 down");
        self.ns.sysctl("net.ipv6.conf.eth0.accept_ra=0");
        self.ns.ip("link set eth0 up");
        let (gateway4, gateway6) = (crate::GATEWAY4, crate::GATEWAY6);
        self.ns.ip(&format!("addr add {}/24 dev eth0", crate::HOST4));
        self.ns.ip(&format!("addr add {}/64 dev eth0 nodad", crate::HOST6));
        self.ns.ip(&format!("route add default via {gateway4}"));
        self.ns.ip(&format!("route add default via {gateway6} dev eth0"));
    }
}

impl Place for Machine {
    fn command(&self, program: &str) -> Command {
        self.ns.command(program)
    }

    fn peer_path(&self) -> std::path::PathBuf {
        self.ns.peer_path()
    }
}
