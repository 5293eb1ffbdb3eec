//! The engine and the executable of passt and pasta.

pub mod app;
pub mod cli;
pub mod flow;
pub mod life;
pub mod netconf;
