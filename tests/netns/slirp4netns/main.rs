//! `slirp4netns`, the program that others start with its command line: what it says, how it lives,
//! what network it gives and what its API socket answers.
//!
//! All of this is what the original does, which `SLIRP4NETNS=/usr/bin/slirp4netns` puts in our
//! program's place. Where ours is meant to differ, [`rig::original`] tells.

mod api;
mod bess;
mod callers;
mod churn;
mod dns;
mod life;
mod net;
mod ports;
mod rig;
mod sandbox;
mod words;
