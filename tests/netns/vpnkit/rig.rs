//! The program in a host's namespace.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use passt_tests::device::{Attached, Device};
use passt_tests::{DEADLINE, Net, Place as _, Process, eventually};

use crate::client::{Vif, introduce};

/// The gateway, which is the resolver too.
pub(crate) const GW: &str = "192.168.65.1";
/// The host's loopback.
pub(crate) const HOST: &str = "192.168.65.2";
/// The first guest.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 65, 3);

pub(crate) struct Rig {
    pub(crate) net: Net,
}

impl Rig {
    /// None if the test had to be skipped.
    pub(crate) fn new() -> Option<Self> {
        Some(Self { net: Net::new()? })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.net.dir().join("vpnkit-ethernet.sock")
    }

    /// Starts the program as RootlessKit does, with more options behind.
    pub(crate) fn start(&self, mtu: u16, more: &str) -> Process {
        let vpnkit = self.launch(&format!("--ethernet {} --mtu {mtu} {more}", self.path().display()));
        drop(self.connect());
        vpnkit
    }

    /// Starts the program with these arguments.
    pub(crate) fn launch(&self, arguments: &str) -> Process {
        // A socket that is there belongs to an earlier one.
        drop(fs::remove_file(self.path()));
        self.begin(arguments)
    }

    /// The same beside whatever file is there.
    pub(crate) fn begin(&self, arguments: &str) -> Process {
        let mut command = self.net.host.command("env");
        command.arg(self.net.tool("vpnkit")).args(arguments.split_whitespace());
        Process::start(command.current_dir(self.net.dir()))
    }

    /// Connects as soon as somebody listens.
    pub(crate) fn connect(&self) -> UnixStream {
        let path = self.path();
        let stream = eventually("a listening socket", || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream
    }

    /// A client of this name that may come in.
    pub(crate) fn vif(&self, uuid: &str) -> Vif {
        self.try_vif(uuid).unwrap_or_else(|reason| panic!("refused: {reason}"))
    }

    /// A client of this name, or why it may not come in.
    pub(crate) fn try_vif(&self, uuid: &str) -> Result<Vif, String> {
        introduce(self.connect(), 1, uuid, Ipv4Addr::UNSPECIFIED)
    }

    /// The same once whoever is served has left.
    pub(crate) fn vif_after(&self, uuid: &str) -> Vif {
        eventually("the client is served", || self.try_vif(uuid).ok())
    }

    /// A guest's device with the offered address that has `vif` as its connection.
    pub(crate) fn guest(&self, vif: &Vif, mtu: u16) -> (Device, Attached) {
        let address = vif.discover().address;
        let device = Device::new(&self.net, "guest", mtu);
        let attached = vif.attach(&device);
        device.configure(&format!("{address}/24"), GW);
        (device, attached)
    }
}
