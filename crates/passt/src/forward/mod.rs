//! Forwarded ports: which sockets listen where, and for whom.
//!
//! What happens to connections and datagrams that come in is the business of
//! [`host`](crate::host).

pub mod listener;

pub use listener::{Listener, Listeners, Scope};
