//! `programs`
