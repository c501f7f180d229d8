//! Opening a snapshot: it is unpacked to a temporary file, which is removed afterwards.

use std::{io::Error, path::PathBuf};

use super::{
    manifest::{Manifest, Name},
    pack,
};
use crate::{
    db::{Db, open_file},
    snapshot::{SnapshotError, Store, scratch::Scratch},
};

/// A snapshot that can be read with SQL, until this is dropped.
#[derive(Debug)]
pub struct Opened {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its SQLite database, read-only: tables and columns have their own names.
    pub db: Db,
    _scratch: Scratch,
}

/// Opens a snapshot: fetches it, verifies the hash of its file, and unpacks it to a temporary file (in `TMPDIR`).
///
/// # Errors
/// If there is no such snapshot, it is damaged, or there is not enough space for it.
pub async fn open(store: &Store, name: Name) -> Result<Opened, SnapshotError> {
    let manifest = store.manifest(name).await?;
    let (scratch, path) = unpack(store, &manifest).await?;
    Ok(Opened { manifest, db: open_file(&path), _scratch: scratch })
}

/// Fetches a snapshot's file and unpacks it; returns the path, which is valid until the directory is dropped.
pub(crate) async fn unpack(store: &Store, manifest: &Manifest) -> Result<(Scratch, PathBuf), SnapshotError> {
    let parent = std::env::temp_dir();
    let scratch = Scratch::new(&parent)?;
    let packed = store.fetch(manifest.name, &scratch).await?;
    let path = scratch.file("snapshot.sqlite");
    let (to, size) = (path.clone(), manifest.sqlite_size);
    let found = tokio::task::spawn_blocking(move || pack::unpack(&packed, &to, size))
        .await
        .map_err(|error| SnapshotError::store("unpack", Error::other(error)))?;
    let damaged = |what: String| SnapshotError::damaged(manifest.name, what);
    let found = found.map_err(|error| {
        if is_of_the_bytes(&error) {
            return damaged(format!("{} cannot be unpacked: {error}", manifest.name.data()));
        }
        SnapshotError::store(format!("unpack {} to {}", manifest.name.data(), parent.display()), error)
    })?;
    if found.size != manifest.size {
        return Err(damaged(format!("its file has {} bytes, not {}", found.size, manifest.size)));
    }
    if found.sha256 != manifest.sha256 {
        return Err(damaged("its file does not match its hash".to_owned()));
    }
    Ok((scratch, path))
}

/// Whether an error is about the bytes that were read. An error of the system (no space, no permission, a failing disk)
/// says nothing about the snapshot.
fn is_of_the_bytes(error: &Error) -> bool {
    use std::io::ErrorKind::{InvalidData, Other, UnexpectedEof};
    error.raw_os_error().is_none() && matches!(error.kind(), InvalidData | UnexpectedEof | Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_is_no_damage() {
        // EDQUOT, EACCES, EIO, ENOSPC.
        for code in [122, 13, 5, 28] {
            assert!(!is_of_the_bytes(&Error::from_raw_os_error(code)), "{code}");
        }
        for kind in [std::io::ErrorKind::InvalidData, std::io::ErrorKind::UnexpectedEof] {
            assert!(is_of_the_bytes(&kind.into()), "{kind}");
        }
        assert!(is_of_the_bytes(&Error::other("Restored data doesn't match checksum")));
    }
}
