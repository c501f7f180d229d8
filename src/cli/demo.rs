//! `daymend demo`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

/// Where the demo plays.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The SQLite file to make; one that an earlier demo made is replaced
    #[arg(long, default_value = "daymend-demo.db", value_name = "FILE")]
    file: PathBuf,
}

impl Options {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        crate::demo::run(crate::demo::Options { file: self.file }).await
    }
}
