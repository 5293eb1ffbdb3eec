//! The engine and the executable of passt and pasta.

pub mod app;
pub mod cli;
mod clock;
mod files;
pub mod flow;
pub mod forward;
mod from_guest;
pub mod host;
pub mod isolate;
pub mod life;
pub mod link;
pub mod log;
pub mod netconf;
mod outlet;
pub mod pcap;
pub mod setup;
#[cfg(test)]
mod skip;
mod to_guest;
pub mod worker;
