//! What the namespace tests share.
//!
//! A test builds [`Net`], the topology *guest – host – peer*: two namespaces
//! of its own joined by a veth pair, and the program under test started in
//! `host` ([`Net::pasta`]), which makes the third. Commands run in any of them
//! through [`Place`]; the `peer` binary of this package does the transfers and
//! [`stream`] says what their content must be.
//!
//! Everything ends with the values' scope, also by a panic: processes are
//! killed by their id, namespaces deleted. A failing test prints what its
//! processes wrote. Nothing sleeps and hopes: [`eventually`] polls with a
//! deadline, and a process is ready when it says so.
#![expect(clippy::missing_panics_doc, reason = "a test helper panics where the test has failed")]

mod avahi;
pub mod boot;
pub mod client;
mod cpio;
pub mod device;
pub mod dhcp;
pub mod examples;
pub mod frame;
mod guest;
#[cfg(feature = "provoke")]
pub mod lacking;
mod machine;
mod modules;
mod net;
mod newest;
pub mod packages;
mod process;
mod rooted;
pub mod roots;
pub mod selinux;
mod starters;
pub mod stream;
mod system;
mod testpmd;
pub mod transfer;
mod vm;

pub use avahi::Avahi;
pub use guest::{Guest, Launch, User};
pub use machine::Machine;
pub use net::{FAR4, FAR6, GATEWAY4, GATEWAY6, HOST4, HOST6, Net, Ns, Place};
pub use newest::Newest;
pub use passt_testing::skip;
pub use process::{DEADLINE, Finished, Process, eventually, eventually_within, slowness};
pub use roots::{Recipe, Root};
pub use starters::Starters;
pub use system::System;
pub use testpmd::Testpmd;
pub use vm::{Extras, MAC, Qemu, Vm, uml, vhost};

use std::path::{Path, PathBuf};

/// Whether all these programs are on PATH; if not, the test is skipped.
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|name| find_program(name).is_none()).copied().collect();
    if !missing.is_empty() {
        skip(&format!("not installed: {}", missing.join(", ")));
    }
    missing.is_empty()
}

/// A program's path, looked up in PATH and the administrator's directories.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|dir| Path::new(dir).join(name)).find(|file| file.is_file())
}

/// A program under test: named by the environment, as in `PASTA=/usr/bin/pasta`, or the release
/// build; of the tools, which carry no traffic, what was built along with the tests.
pub fn program_path(name: &str) -> PathBuf {
    let named = std::env::var_os(name.to_uppercase());
    let is_tool = ["pesto", "passtop"].contains(&name);
    let own = || built(&if is_tool { name.to_owned() } else { format!("release/{name}") });
    named.map_or_else(own, PathBuf::from)
}

/// The transfer helper that cargo built along with the tests.
fn peer_path() -> PathBuf {
    built("peer")
}

/// What cargo built, above the running test or command.
pub fn built(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let found = exe.ancestors().skip(1).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!("no {name}: build it first: cargo build --release; cargo build --package passt-tools")
    })
}
