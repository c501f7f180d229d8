//! Snapshots in a directory.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use super::manifest_text;
use crate::snapshot::{
    SnapshotError,
    format::{
        manifest::{DATA, MANIFEST, Manifest, Name},
        pack,
    },
    scratch::{self, Scratch},
};

/// Whoever holds this lock may add and remove snapshots.
const LOCK: &str = ".daymend-snapshots.lock";

/// A directory of snapshots.
#[derive(Debug, Clone)]
pub(super) struct Dir {
    path: PathBuf,
}

impl Dir {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The path, if the directory does not exist.
    pub(super) fn missing(&self) -> Option<&Path> {
        let is_missing = scratch::aside(|| !fs::exists(&self.path).unwrap_or(true));
        is_missing.then_some(self.path.as_path())
    }

    /// The directory, created if it is missing.
    pub(super) fn created(&self) -> Result<PathBuf, SnapshotError> {
        scratch::aside(|| fs::create_dir_all(&self.path))
            .map_err(|error| self.failed("create the directory", error))?;
        Ok(self.path.clone())
    }

    pub(super) async fn files(&self) -> Result<Vec<String>, SnapshotError> {
        self.blocking("list", |dir| match fs::read_dir(&dir.path) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        })
        .await
    }

    /// A small file; `None` if it does not exist.
    pub(super) async fn read(&self, file: &str) -> Result<Option<Vec<u8>>, SnapshotError> {
        let file = file.to_owned();
        self.blocking("read a manifest", move |dir| {
            let path = dir.path.join(file);
            match regular(&path).and_then(|()| fs::read(path)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// The path of a snapshot's packed file.
    pub(super) fn data(&self, name: Name) -> Result<PathBuf, SnapshotError> {
        let path = self.path.join(name.data());
        match scratch::aside(|| regular(&path)) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(SnapshotError::damaged(name, format!("{} is missing", name.data())))
            }
            Err(error) => Err(self.failed("read a snapshot", error)),
        }
    }

    pub(super) async fn publish(
        &self,
        scratch: &Scratch,
        packed: PathBuf,
        manifest: &Manifest,
    ) -> Result<(), SnapshotError> {
        let (name, text, temporary) = (manifest.name, manifest_text(manifest)?, scratch.file("manifest"));
        let published = self.blocking("add a snapshot", move |dir| {
            let mut file = pack::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            let _lock = dir.lock()?;
            if fs::exists(dir.path.join(name.manifest()))? {
                return Ok(false);
            }
            // In this order, and each on disk before the next: a crash may leave data without a manifest, which is not
            // a snapshot.
            fs::rename(&packed, dir.path.join(name.data()))?;
            sync(&dir.path)?;
            fs::rename(&temporary, dir.path.join(name.manifest()))?;
            sync(&dir.path)?;
            Ok(true)
        });
        if published.await? { Ok(()) } else { Err(SnapshotError::Exists(name.to_string())) }
    }

    pub(super) async fn remove(&self, name: Name) -> Result<(), SnapshotError> {
        self.blocking("remove a snapshot", move |dir| {
            let _lock = dir.lock()?;
            remove_file(&dir.path.join(name.manifest()))?;
            sync(&dir.path)?;
            remove_file(&dir.path.join(name.data()))
        })
        .await
    }

    pub(super) async fn leftovers(&self, dry_run: bool) -> Result<usize, SnapshotError> {
        self.blocking("clean up", move |dir| {
            if !dir.path.exists() {
                return Ok(0);
            }
            let mut found = scratch::remove_leftovers(&dir.path, dry_run)?;
            // Taking the lock creates its file.
            let _lock = if dry_run { None } else { Some(dir.lock()?) };
            for entry in fs::read_dir(&dir.path)? {
                let path = entry?.path();
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                let Some(name) = file.strip_suffix(DATA).and_then(|name| name.parse::<Name>().ok()) else { continue };
                if !fs::exists(path.with_file_name(format!("{name}{MANIFEST}")))? {
                    if !dry_run {
                        remove_file(&path)?;
                    }
                    found += 1;
                }
            }
            Ok(found)
        })
        .await
    }

    fn lock(&self) -> io::Result<File> {
        let lock = File::options().create(true).append(true).open(self.path.join(LOCK))?;
        lock.lock()?;
        Ok(lock)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&this)).await;
        done.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(|error| self.failed(what, error))
    }

    fn failed(&self, what: &str, error: io::Error) -> SnapshotError {
        SnapshotError::store(format!("snapshots in {}: cannot {what}", self.path.display()), error)
    }
}

/// Fails unless a path leads to a regular file: opening a pipe may block forever.
fn regular(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() { Ok(()) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Makes renames and removals in a directory durable.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
