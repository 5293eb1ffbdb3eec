//! passt: a virtual machine behind a socket.

use crate::cli::{Config, PasstOptions};
use crate::life::start::Inherited;

/// Runs until the virtual machine or a signal ends the process; the exit status.
pub(super) fn run(_: &Config, _: &PasstOptions, _: Inherited) -> anyhow::Result<u8> {
    anyhow::bail!("The side of the virtual machine is not there yet")
}
