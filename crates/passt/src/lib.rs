//! The programs passt and pasta: command line, configuration, isolation and life of the process
//! around the engine.

pub mod advice;
pub mod app;
pub mod cli;
pub mod control;
mod files;
pub mod isolate;
pub mod life;
pub mod log;
pub mod netconf;
mod outlet;
pub mod pcap;
pub mod setup;
mod stats;

/// The version that the programs tell: the workspace's, and, where one was given when they were
/// built, the date of the commit and its name, as in `0.1.0~git20261129.3167fe3`. Who compares
/// versions does so by the date.
pub const VERSION: &str = match option_env!("PASST_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
