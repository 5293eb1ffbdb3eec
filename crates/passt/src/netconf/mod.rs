//! Network configuration: what the host has, and what a namespace is given.
//!
//! [`host`] looks up the interface that serves as template, its addresses and
//! routes; [`route`] knows what these lead to; [`resolv`] reads the host's resolver configuration;
//! [`guest`] configures a namespace. All of it happens once, at start; [`neighbours`] goes on to
//! follow who is on the host's links. What is to be done with what
//! was found is decided by [`crate::setup`].

pub mod guest;
pub mod host;
pub mod neighbours;
mod parse;
pub mod resolv;
pub mod route;
mod rtnl;

pub use rtnl::{Error, Rtnl};

#[cfg(test)]
mod tests;
