//! `daymend completions`.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};

use super::{Cli, Exit};

/// Options of `daymend completions`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The shell to complete for
    shell: clap_complete::Shell,
}

impl Options {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        // In one piece, with `print!`: a reader that closes the pipe early then causes no panic message.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "daymend", &mut script);
        print!("{}", String::from_utf8_lossy(&script));
        Ok(Exit::Ok.into())
    }
}
