//! `tcp_many`
