//! Protocols by which a running passt or pasta is looked into and changed: what is said, and how it
//! is written. The server is in the crate `passt`; pesto, passtop and tests are clients.
//!
//! There are two on one socket (`--conf-path`). A server begins with the greeting of [`v2`], the
//! protocol of the C program's pesto: all rules, as they are. A client of that protocol answers
//! with the rules as they should be. One that finds [`v2::Caps::MESSAGES`] in the greeting may
//! answer with [`frame::HELLO`] instead: then both sides speak in [frames](frame), each a
//! [request](request::Message) or what [comes back](reply::Message). docs/control.md is its manual.
//!
//! Left out: sockets, but for a plain [`client`] that waits.

pub mod client;
pub mod frame;
pub mod reply;
pub mod request;
pub mod rule;
pub mod v2;

pub use rule::{Families, Protocol, Rule, Side};
