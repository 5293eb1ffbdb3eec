//! System calls of passt and pasta.
//!
//! The only crate of the workspace that may contain `unsafe`. What rustix
//! wraps well is used through it, here or directly by the crates above; what it lacks is
//! wrapped here, each as a small safe function that can be checked by itself.
//! There is no policy here: nothing knows what a flow or a guest is.
