//! The program under the name `slirp4netns`.

use std::process::ExitCode;

fn main() -> ExitCode {
    passt::app::main()
}
