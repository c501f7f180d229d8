//! Where snapshots live: a directory, or a bucket.
//!
//! In both cases the manifest is written last and removed first, so that a listed snapshot is complete.

mod bucket;
mod dir;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use object_store::ObjectStore;

use super::{
    SnapshotError,
    format::manifest::{MANIFEST, Manifest, Name},
    scratch::Scratch,
};

/// A place where snapshots are stored.
#[derive(Debug, Clone)]
pub struct Store(Place);

#[derive(Debug, Clone)]
enum Place {
    Dir(dir::Dir),
    Bucket(bucket::Bucket),
}

/// An existing snapshot, and its manifest if that can be read.
pub type Listed = (Name, Result<Manifest, SnapshotError>);

impl Store {
    /// Parses a directory, or a bucket: `s3://BUCKET/PREFIX`, whose endpoint, region and credentials come from the
    /// environment (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, …).
    ///
    /// # Errors
    /// If the text is neither.
    pub fn parse(text: &str) -> Result<Self, SnapshotError> {
        if let Some(rest) = text.strip_prefix("s3://") {
            return bucket::Bucket::s3(rest).map(|bucket| Self(Place::Bucket(bucket)));
        }
        if text.contains("://") || text.is_empty() {
            return Err(SnapshotError::Target(format!(
                "`{text}` is not a place for snapshots: give a directory, or s3://BUCKET/PREFIX"
            )));
        }
        Ok(Self::dir(text))
    }

    /// A store in a directory.
    #[must_use]
    pub fn dir(path: impl Into<PathBuf>) -> Self {
        Self(Place::Dir(dir::Dir::new(path.into())))
    }

    /// A store in anything that stores objects, under a prefix.
    #[must_use]
    pub fn objects(objects: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self(Place::Bucket(bucket::Bucket::new(objects, prefix)))
    }

    /// The directory, if it does not exist: it is created when the first snapshot is taken.
    #[must_use]
    pub fn missing_dir(&self) -> Option<&Path> {
        match &self.0 {
            Place::Dir(dir) => dir.missing(),
            Place::Bucket(_) => None,
        }
    }

    /// The names of the snapshots, oldest first.
    pub async fn names(&self) -> Result<Vec<Name>, SnapshotError> {
        let files = match &self.0 {
            Place::Dir(dir) => dir.files().await?,
            Place::Bucket(bucket) => bucket.files().await?.into_iter().map(|(name, _)| name).collect(),
        };
        let mut names: Vec<Name> = files.iter().filter_map(|file| file.strip_suffix(MANIFEST)?.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The snapshots, oldest first.
    pub async fn list(&self) -> Result<Vec<Listed>, SnapshotError> {
        let mut listed = Vec::new();
        for name in self.names().await? {
            match self.manifest(name).await {
                // Removed after it was listed.
                Err(SnapshotError::NoSnapshot(_)) => {}
                manifest => listed.push((name, manifest)),
            }
        }
        Ok(listed)
    }

    /// The manifest of a snapshot.
    pub async fn manifest(&self, name: Name) -> Result<Manifest, SnapshotError> {
        let bytes = match &self.0 {
            Place::Dir(dir) => dir.read(&name.manifest()).await?,
            Place::Bucket(bucket) => bucket.read(&name.manifest()).await?,
        };
        Manifest::parse(name, &bytes.ok_or_else(|| SnapshotError::NoSnapshot(name.to_string()))?)
    }

    /// Removes a snapshot.
    pub async fn remove(&self, name: Name) -> Result<(), SnapshotError> {
        match &self.0 {
            Place::Dir(dir) => dir.remove(name).await,
            Place::Bucket(bucket) => bucket.remove(name).await,
        }
    }

    /// Removes what interrupted takes left behind; returns how much was removed.
    pub async fn clean(&self) -> Result<usize, SnapshotError> {
        self.leftovers(false).await
    }

    /// Removes what interrupted takes left behind, unless it is a `dry_run`; returns how much there was.
    pub(super) async fn leftovers(&self, dry_run: bool) -> Result<usize, SnapshotError> {
        match &self.0 {
            Place::Dir(dir) => dir.leftovers(dry_run).await,
            Place::Bucket(bucket) => bucket.leftovers(dry_run).await,
        }
    }

    /// A directory for preparing a snapshot.
    pub(super) fn scratch(&self) -> Result<Scratch, SnapshotError> {
        let parent = match &self.0 {
            Place::Dir(dir) => dir.created()?,
            Place::Bucket(_) => std::env::temp_dir(),
        };
        Scratch::new(&parent)
    }

    /// Claims a name; returns whether it is free. In a bucket it is reserved until it is [released](Self::release);
    /// in a directory, [`publish`](Self::publish) finds out who was first.
    pub(super) async fn claim(&self, name: Name) -> Result<bool, SnapshotError> {
        match &self.0 {
            Place::Dir(_) => Ok(!self.names().await?.contains(&name)),
            Place::Bucket(bucket) => bucket.claim(name).await,
        }
    }

    /// Releases a claimed name, whatever the outcome.
    pub(super) async fn release(&self, name: Name) {
        if let Place::Bucket(bucket) = &self.0 {
            bucket.release(name).await;
        }
    }

    /// Makes a packed file and its manifest a snapshot; it is durable when this returns.
    pub(super) async fn publish(
        &self,
        scratch: &Scratch,
        packed: PathBuf,
        manifest: &Manifest,
    ) -> Result<(), SnapshotError> {
        match &self.0 {
            Place::Dir(dir) => dir.publish(scratch, packed, manifest).await,
            Place::Bucket(bucket) => bucket.publish(&packed, manifest).await,
        }
    }

    /// The packed file of a snapshot, on this machine.
    pub(super) async fn fetch(&self, name: Name, scratch: &Scratch) -> Result<PathBuf, SnapshotError> {
        match &self.0 {
            Place::Dir(dir) => dir.data(name),
            Place::Bucket(bucket) => bucket.fetch(name, scratch.file("fetched")).await,
        }
    }
}

/// A manifest as it is stored.
fn manifest_text(manifest: &Manifest) -> Result<Vec<u8>, SnapshotError> {
    let text = serde_json::to_vec_pretty(manifest);
    let mut text = text.map_err(|error| SnapshotError::store("write the manifest", error))?;
    text.push(b'\n');
    Ok(text)
}
