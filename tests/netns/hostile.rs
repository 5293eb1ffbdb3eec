//! `hostile`
