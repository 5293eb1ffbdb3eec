//! The program under the name `passt`.

fn main() {}
