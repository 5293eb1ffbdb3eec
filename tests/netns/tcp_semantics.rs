//! `tcp_semantics`
