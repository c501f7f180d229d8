//! Reading a snapshot: unpacked to a file that is gone afterwards.

use super::manifest::{Manifest, Name};
use crate::{
    db::Db,
    snapshot::{SnapshotError, Store},
};

/// A snapshot that can be read with SQL, as long as this lives.
#[derive(Debug)]
pub struct Opened {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its SQLite database, read only: each table under its own name, with its columns under theirs.
    pub db: Db,
}

/// Opens a snapshot: fetches it, checks the hash of its file, and unpacks it to a temporary file.
///
/// # Errors
/// Where there is no such snapshot, where it is damaged, and where there is no room for it.
pub async fn open(store: &Store, name: Name) -> Result<Opened, SnapshotError> {
    let _ = (store, name);
    unimplemented!("on its way")
}
