//! The `daymend` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    daymend::cli::main()
}
