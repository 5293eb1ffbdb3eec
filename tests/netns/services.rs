//! `services`
