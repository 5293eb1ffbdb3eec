//! The program under the name `passt`.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::app::main()
}
