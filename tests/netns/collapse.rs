//! `collapse`
