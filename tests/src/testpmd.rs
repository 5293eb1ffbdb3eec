//! DPDK's program for tests of devices, `testpmd`: a machine of its own by vhost-user, with a
//! driver that shares no code with Linux or qemu and never sleeps.
//!
//! Its packages are unpacked, not installed, and of these it takes what it loads.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::packages::{by_loader, cached, output, take_from_suite};
use crate::{Net, Place as _, Process, skip};

const SUITE: &str = "stable";
const PACKAGE: &str = "dpdk-dev";
const PROGRAM: &str = "dpdk-testpmd";
const LOADER: &str = "ld-linux-x86-64.so.2";
/// What the program loads at its start: memory for its frames, and a device by a socket.
const PLUGINS: [&str; 2] = ["librte_mempool_ring.so", "librte_net_virtio.so"];

/// passt's own address on the link, which frames are sent to.
const ROUTER: &str = "9a:55:9a:55:9a:55";

/// The program's files.
pub struct Testpmd(PathBuf);

impl Testpmd {
    /// None if the test had to be skipped.
    pub fn new() -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            skip("the packages are of x86_64");
            return None;
        }
        let parts = cached(&format!("testpmd-{SUITE}"), make_parts);
        parts.map_err(|error| skip(&format!("no testpmd: {error:#}"))).ok().map(Self)
    }

    /// Starts it in the host's namespace with the back end at `socket` in the test's directory, and
    /// waits until it has its device. `device` are properties of its device, divided by commas,
    /// `options` what it is to do once it is told to `start`, by its standard input.
    pub fn start(&self, net: &Net, socket: &str, device: &str, options: &str) -> Process {
        let lib = self.0.join("lib");
        let mut command = net.host.command("env");
        command.arg(format!("RUNTIME_DIRECTORY={}", net.dir().display()));
        command.args(by_loader(&lib.join(LOADER), &lib)).arg(self.0.join(PROGRAM));
        // Two threads on one processor: the other one is for passt.
        command.args(["--lcores", "(0-1)@0", "--no-huge", "-m", "64", "--no-pci"]);
        command.args(["--no-telemetry", "--no-shconf"]);
        for plugin in PLUGINS {
            // By its name alone: DPDK takes no path below a directory that all may write to.
            command.args(["-d", plugin]);
        }
        let socket = net.dir().join(socket);
        command.arg(format!("--vdev=virtio_user0,path={},{device}", socket.display()));
        command.args(["--", "-i", "--total-num-mbufs=4096", &format!("--eth-peer=0,{ROUTER}")]);
        command.args(options.split_whitespace());
        let mut testpmd = Process::start(&mut command);
        // Of what comes later it keeps some to itself.
        testpmd.wait_for("Checking link statuses");
        testpmd
    }
}

/// Leaves in `work/parts` the program and, in `lib`, its loader, plugins and libraries.
fn make_parts(work: &Path) -> Result<()> {
    take_from_suite(work, SUITE, &[PACKAGE])?;
    let from = work.join("root/usr/lib/x86_64-linux-gnu");
    let (program, to) = (work.join("root/usr/bin").join(PROGRAM), work.join("parts/lib"));
    fs::create_dir_all(&to)?;
    fs::copy(from.join(LOADER), to.join(LOADER)).context(LOADER)?;
    let versions = fs::read_dir(from.join("dpdk"))?;
    let plugins = versions.last().context("no plugins")??.path();
    let mut files = vec![program.clone()];
    for plugin in PLUGINS {
        fs::copy(plugins.join(plugin), to.join(plugin)).context(plugin)?;
        files.push(plugins.join(plugin));
    }
    for file in files {
        let [loader, option, libraries] = by_loader(&from.join(LOADER), &from);
        let words = [&option, &libraries, &"--list".into(), &file.into_os_string()]
            .map(|word| word.to_string_lossy().into_owned());
        let listed = output(work, &loader.to_string_lossy(), &words.each_ref().map(String::as_str))?;
        for path in listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
            fs::copy(path, to.join(path.file_name().context("a library")?))?;
        }
    }
    fs::rename(program, work.join("parts").join(PROGRAM))?;
    Ok(())
}
