//! `daymend demo`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

/// Options of `daymend demo`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The SQLite file to create; a file left by an earlier demo is replaced
    #[arg(long, default_value = "daymend-demo.db", value_name = "FILE")]
    file: PathBuf,
}

impl Options {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        crate::demo::run(crate::demo::Options { file: self.file }).await
    }
}
