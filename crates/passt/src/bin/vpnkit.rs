//! The program under the name `vpnkit`.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::app::main()
}
