//! The engine of passt and pasta: translates between a layer-2 link to a guest and layer-4 sockets of
//! the host.

pub mod control;
pub mod core;
pub mod dispatch;
pub mod flow;
pub mod forward;
pub mod link;
pub mod protocols;
pub mod worker;

pub use crate::core::clock;
