//! `mapping`
