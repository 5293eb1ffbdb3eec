//! The program under the name `pasta`.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::app::main()
}
