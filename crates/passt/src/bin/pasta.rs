//! The program under the name `pasta`.

fn main() {}
