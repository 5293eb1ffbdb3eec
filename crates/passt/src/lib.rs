//! The engine and the executable of passt and pasta.

pub mod cli;
pub mod netconf;
