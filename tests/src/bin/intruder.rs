//! The programs with the feature `provoke`, under the name that it is copied to.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::app::main()
}
