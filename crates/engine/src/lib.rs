//! The engine of passt and pasta: translates between a layer-2 link to a guest and layer-4 sockets of
//! the host.

pub mod capture;
mod clock;
pub mod flow;
pub mod forward;
mod from_guest;
pub mod host;
pub mod link;
mod to_guest;
pub mod worker;

pub use clock::clock;
