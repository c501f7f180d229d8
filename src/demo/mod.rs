//! Placeholder until the demo lands.

/// Options
#[derive(Debug)]
pub struct Options {
    /// File
    pub file: std::path::PathBuf,
}

/// Run
pub async fn run(_: Options) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not yet")
}
