//! The programs passt and pasta: command line, configuration, isolation and life of the process
//! around the engine.

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
