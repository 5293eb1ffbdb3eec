//! `vpnkit`, which RootlessKit starts and speaks to: how clients introduce themselves, which
//! addresses they get, what network is there, how it lives.

mod client;
mod handshake;
mod life;
mod network;
mod rig;
mod rootlesskit;
