//! `daymend completions`.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};

use super::{Cli, Exit};

/// The shell to complete for.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Which shell
    shell: clap_complete::Shell,
}

impl Options {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        clap_complete::generate(self.shell, &mut Cli::command(), "daymend", &mut std::io::stdout());
        Ok(Exit::Ok.into())
    }
}
