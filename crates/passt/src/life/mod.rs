//! The life of the process: how it starts, who it becomes, which namespaces it
//! works in, how it goes to the background, and what ends it.
//!
//! [`app`](crate::app) calls the parts in the order of a start: [`start`], then
//! [`pid_file`](background::PidFile) and other files as whoever started us, then for pasta
//! [`enter`](namespace::enter), which changes identity and goes where the namespace is, and for
//! passt [`identity`], after its [`socket`] was bound, then, when all is ready, [`background`].
//! From there on only [`watch`] matters, one descriptor of the engine's loop. Giving up what the
//! loop doesn't need is the business of [`isolate`](crate::isolate).

pub mod attendant;
pub mod background;
pub mod command;
pub mod identity;
pub mod leftovers;
pub mod namespace;
pub mod peers;
mod resolv_conf;
pub mod socket;
pub mod start;
pub mod starter;
pub mod vmnet;
pub mod watch;
