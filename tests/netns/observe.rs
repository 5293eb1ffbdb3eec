//! `observe`
