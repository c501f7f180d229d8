//! Snapshots in an S3-compatible bucket.
//!
//! A large object appears whole or not at all, which is what its upload in parts promises; what an
//! upload that died has sent is not listed, and goes by the bucket's own rule for incomplete uploads.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path as FsPath, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use object_store::{
    Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, WriteMultipart, aws::AmazonS3Builder,
    path::Path,
};

use super::manifest_text;
use crate::{
    clock::Clock,
    snapshot::{
        SnapshotError,
        format::{
            manifest::{DATA, MANIFEST, Manifest, Name},
            pack,
        },
        work::aside,
    },
};

/// The size of a part; S3 allows ten thousand of them, and two are in memory at a time.
const PART: usize = 8 * 1024 * 1024;
const PART_MAX_COUNT: u64 = 10_000;

/// Data without a manifest is taken to be under way for so long.
const UNDER_WAY: Duration = Duration::from_secs(24 * 3600);

/// A prefix of a bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Bucket {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { objects, prefix: Path::from(prefix) }
    }

    /// `BUCKET/PREFIX`; all else comes from the environment.
    pub(super) fn s3(place: &str) -> Result<Self, SnapshotError> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() || place.contains(['@', '?', '#']) {
            return Err(SnapshotError::Target(format!(
                "`s3://{place}` names no bucket: s3://BUCKET/PREFIX, with all secrets in the environment"
            )));
        }
        // Somebody else may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let s3 = AmazonS3Builder::from_env().with_bucket_name(bucket).build();
        let s3 = s3.map_err(|error| SnapshotError::Target(format!("s3://{place} cannot be used: {error}")))?;
        Ok(Self::new(Arc::new(s3), prefix))
    }

    fn path(&self, file: &str) -> Path {
        self.prefix.clone().join(file)
    }

    /// The objects, and when they were written.
    pub(super) async fn files(&self) -> Result<Vec<(String, DateTime<Utc>)>, SnapshotError> {
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let listed = self.objects.list_with_delimiter(prefix).await.map_err(|error| self.failed("list", error))?;
        let files = listed.objects.into_iter();
        Ok(files.filter_map(|meta| Some((meta.location.filename()?.to_owned(), meta.last_modified))).collect())
    }

    /// A small object; none where it does not exist.
    pub(super) async fn read(&self, file: &str) -> Result<Option<Vec<u8>>, SnapshotError> {
        let failed = |error| self.failed("read a manifest", error);
        match self.objects.get(&self.path(file)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?.to_vec())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Fetches the packed file of a snapshot.
    pub(super) async fn fetch(&self, name: Name, to: PathBuf) -> Result<PathBuf, SnapshotError> {
        let failed = |error| self.failed("fetch a snapshot", error);
        let found = match self.objects.get(&self.path(&name.data())).await {
            Err(Error::NotFound { .. }) => {
                return Err(SnapshotError::damaged(name, format!("{} is missing", name.data())));
            }
            found => found.map_err(failed)?,
        };
        let write = |error| SnapshotError::store(format!("write {}", to.display()), error);
        let mut file = aside(|| pack::create(&to)).map_err(write)?;
        let mut bytes = found.into_stream();
        while let Some(chunk) = bytes.try_next().await.map_err(failed)? {
            aside(|| file.write_all(&chunk)).map_err(write)?;
        }
        Ok(to)
    }

    pub(super) async fn publish(&self, packed: &FsPath, manifest: &Manifest) -> Result<(), SnapshotError> {
        let failed = |error| self.failed("add a snapshot", error);
        let exists = || SnapshotError::Exists(manifest.name.to_string());
        let manifest_at = self.path(&manifest.name.manifest());
        match self.objects.head(&manifest_at).await {
            Ok(_) => return Err(exists()),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        self.upload(packed, &self.path(&manifest.name.data())).await?;
        let text = PutPayload::from(manifest_text(manifest));
        let only_new = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(&manifest_at, text.clone(), only_new).await {
            Ok(_) => Ok(()),
            Err(Error::AlreadyExists { .. }) => Err(exists()),
            // Not every store knows the condition.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                self.objects.put(&manifest_at, text).await.map(drop).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn upload(&self, packed: &FsPath, to: &Path) -> Result<(), SnapshotError> {
        let failed = |error| self.failed("upload a snapshot", error);
        let read = |error| SnapshotError::store(format!("read {}", packed.display()), error);
        let opened = aside(|| fs::File::open(packed).and_then(|file| Ok((file.metadata()?.len(), file))));
        let (size, mut file) = opened.map_err(read)?;
        let part = PART.max(usize::try_from(size / (PART_MAX_COUNT - 1)).unwrap_or(PART));
        let upload = self.objects.put_multipart(to).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part);
        let mut chunk = vec![0; 256 * 1024];
        loop {
            let count = aside(|| file.read(&mut chunk)).map_err(read)?;
            if count == 0 {
                break;
            }
            if let Err(error) = upload.wait_for_capacity(1).await {
                let _ = upload.abort().await;
                return Err(failed(error));
            }
            upload.write(&chunk[..count]);
        }
        upload.finish().await.map(drop).map_err(failed)
    }

    pub(super) async fn remove(&self, name: Name) -> Result<(), SnapshotError> {
        for file in [name.manifest(), name.data()] {
            match self.objects.delete(&self.path(&file)).await {
                Err(Error::NotFound { .. }) | Ok(()) => {}
                Err(error) => return Err(self.failed("remove a snapshot", error)),
            }
        }
        Ok(())
    }

    pub(super) async fn clean(&self) -> Result<usize, SnapshotError> {
        let files = self.files().await?;
        let mut removed = 0;
        let old = Clock::System.now() - UNDER_WAY;
        for (file, written_at) in &files {
            let Some(name) = file.strip_suffix(DATA).and_then(|name| name.parse::<Name>().ok()) else { continue };
            let manifest = format!("{name}{MANIFEST}");
            if *written_at < old && !files.iter().any(|(file, _)| *file == manifest) {
                self.remove(name).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn failed(&self, what: &str, error: Error) -> SnapshotError {
        SnapshotError::store(format!("snapshots in the bucket, under `{}`: cannot {what}", self.prefix), error)
    }
}
