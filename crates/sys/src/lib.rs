//! System calls of passt and pasta.
//!
//! The only crate of the workspace that may contain `unsafe`. What rustix
//! wraps well is used through it, here or directly by the crates above; what
//! it lacks is wrapped here, each as a small safe function that can be checked
//! by itself. There is no policy here: nothing knows what a flow or a guest is.

#![expect(
    clippy::cast_possible_truncation,
    reason = "C's types differ from Rust's in width; values at this border are lengths and flags that fit"
)]

pub mod alloc;
pub mod clock;
pub mod dgram;
pub mod event;
pub mod fd;
pub mod groups;
#[cfg(feature = "inject")]
pub mod inject;
pub mod iovec;
#[cfg(feature = "provoke")]
pub mod lacking;
pub mod msg;
pub mod namespace;
pub mod netlink;
pub mod plain;
pub mod process;
#[cfg(feature = "provoke")]
pub mod provoke;
pub mod seccomp;
pub mod sender;
pub mod shared;
pub mod signal;
pub mod socket;
pub mod tun;

/// The result of a system call that returns -1 on error.
fn result(value: isize) -> std::io::Result<usize> {
    usize::try_from(value).map_err(|_| std::io::Error::last_os_error())
}
