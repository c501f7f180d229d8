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
        // In one piece, through print: whoever reads only its beginning is no reason to panic.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "daymend", &mut script);
        print!("{}", String::from_utf8_lossy(&script));
        Ok(Exit::Ok.into())
    }
}
