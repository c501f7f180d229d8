//! Snapshots in an S3-compatible bucket.
//!
//! A large object appears completely or not at all, as multipart uploads guarantee. The parts of an interrupted
//! upload are not listed, and are removed by the bucket's own rule for incomplete uploads.
//!
//! Objects cannot be renamed, and uploading a large one overwrites an existing one without asking. So a snapshot's
//! name is claimed first (`NAME.claim`, which only one process can create), and the claim is released at the end; the
//! claim of a crashed process is removed after a day, like its data.
//!
//! Fetching a snapshot may take hours: it is read range by range, and resumed where it was interrupted.

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
    ClientConfigKey, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    WriteMultipart,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    path::Path,
};

use super::manifest_text;
use crate::{
    clock::Clock,
    error::chain,
    snapshot::{
        SnapshotError,
        format::{
            manifest::{DATA, Manifest, Name},
            pack,
        },
        scratch::aside,
    },
};

/// The size of a part; S3 allows ten thousand of them, and two are in memory at a time.
const PART: usize = 8 * 1024 * 1024;
const PART_MAX_COUNT: u64 = 10_000;

/// How much is requested at a time, and how many requests in a row may break off without a byte.
const RANGE: u64 = 64 * 1024 * 1024;
const TRIES: u32 = 5;

/// How long a request may take, including its body, and how long the store may be silent meanwhile. The environment may
/// override both (`AWS_TIMEOUT`, `AWS_READ_TIMEOUT`).
const TIMEOUTS: [(ClientConfigKey, &str); 2] =
    [(ClientConfigKey::Timeout, "1 day"), (ClientConfigKey::ReadTimeout, "2 minutes")];

/// The suffix of a claim's name.
const CLAIM: &str = ".claim";

/// How long data without a manifest, and a claim, are assumed to be in progress.
const UNDER_WAY: Duration = Duration::from_secs(24 * 3600);

/// A prefix in a bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    objects: Arc<dyn ObjectStore>,
    /// Its name in errors.
    place: String,
    prefix: Path,
}

impl Bucket {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { place: format!("{objects}, under `{prefix}`"), objects, prefix: Path::from(prefix) }
    }

    /// `BUCKET/PREFIX`; everything else comes from the environment.
    pub(super) fn s3(place: &str) -> Result<Self, SnapshotError> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() || place.contains(['@', '?', '#']) {
            // It is not shown, because it may contain a secret.
            let why = "give s3://BUCKET/PREFIX alone, and all secrets in the environment";
            return Err(SnapshotError::Target(why.to_owned()));
        }
        // Fails if somebody else has installed one already, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let s3 = builder(environment).with_bucket_name(bucket).build();
        let s3 =
            s3.map_err(|error| SnapshotError::Target(format!("s3://{place} cannot be used: {}", chain(&error))))?;
        Ok(Self { place: format!("s3://{place}"), ..Self::new(Arc::new(s3), prefix) })
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

    /// A small object; `None` if it does not exist.
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
        let write = |error| SnapshotError::store(format!("write {}", to.display()), error);
        let from = self.path(&name.data());
        let whole = match self.objects.head(&from).await {
            Err(Error::NotFound { .. }) => {
                return Err(SnapshotError::damaged(name, format!("{} is missing", name.data())));
            }
            found => found.map_err(failed)?,
        };
        let mut file = aside(|| pack::create(&to)).map_err(write)?;
        let (mut at, mut failures) = (0, 0);
        while at < whole.size {
            let options = GetOptions {
                range: Some(GetRange::Bounded(at..whole.size.min(at + RANGE))),
                // All parts must be of the same object.
                if_match: whole.e_tag.clone(),
                ..GetOptions::default()
            };
            let found = self.objects.get_opts(&from, options).await.map_err(failed)?;
            let begun_at = at;
            let mut bytes = found.into_stream();
            loop {
                match bytes.try_next().await {
                    Ok(Some(chunk)) => {
                        aside(|| file.write_all(&chunk)).map_err(write)?;
                        at += chunk.len() as u64;
                    }
                    Ok(None) if at > begun_at => break failures = 0,
                    Ok(None) => {
                        let what = format!("{} ends after {at} bytes", name.data());
                        return Err(SnapshotError::damaged(name, what));
                    }
                    Err(error) => {
                        failures = if at > begun_at { 1 } else { failures + 1 };
                        if failures >= TRIES {
                            return Err(failed(error));
                        }
                        tracing::debug!(%error, at, "a snapshot's download was interrupted, continuing");
                        break;
                    }
                }
            }
        }
        Ok(to)
    }

    /// Claims a name, so that no other process takes a snapshot of that name meanwhile; returns whether it was free.
    pub(super) async fn claim(&self, name: Name) -> Result<bool, SnapshotError> {
        let only_new = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(&self.claim_path(name), PutPayload::new(), only_new).await {
            Ok(_) => {}
            Err(Error::AlreadyExists { .. }) => return Ok(false),
            // Not every store supports the condition; without it, nobody can claim a name.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {}
            Err(error) => return Err(self.failed("claim the name of a snapshot", error)),
        }
        // The previous owner of the claim releases it once the manifest exists.
        let is_free = match self.objects.head(&self.path(&name.manifest())).await {
            Ok(_) => Ok(false),
            Err(Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(self.failed("look for a snapshot", error)),
        };
        if !matches!(is_free, Ok(true)) {
            self.release(name).await;
        }
        is_free
    }

    /// Releases a claim. If that fails, it is removed later, with other leftovers.
    pub(super) async fn release(&self, name: Name) {
        if let Err(error) = self.objects.delete(&self.claim_path(name)).await
            && !matches!(error, Error::NotFound { .. })
        {
            tracing::debug!(%error, %name, "the claim of a snapshot cannot be released");
        }
    }

    fn claim_path(&self, name: Name) -> Path {
        self.path(&format!("{name}{CLAIM}"))
    }

    /// Publishes a snapshot whose name has been claimed.
    pub(super) async fn publish(&self, packed: &FsPath, manifest: &Manifest) -> Result<(), SnapshotError> {
        self.upload(packed, &self.path(&manifest.name.data())).await?;
        let manifest_at = self.path(&manifest.name.manifest());
        let text = manifest_text(manifest)?;
        let payload = PutPayload::from(text.clone());
        let only_new = PutOptions::from(PutMode::Create);
        let failed = |error| self.failed("add a snapshot", error);
        match self.objects.put_opts(&manifest_at, payload.clone(), only_new).await {
            Ok(_) => Ok(()),
            // The store may have taken the manifest without an answer, and the client has sent it again.
            Err(Error::AlreadyExists { .. }) => match self.read(&manifest.name.manifest()).await? {
                Some(there) if there == text => Ok(()),
                _ => Err(SnapshotError::Exists(manifest.name.to_string())),
            },
            // Not every store supports the condition.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                self.objects.put(&manifest_at, payload).await.map(drop).map_err(failed)
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

    pub(super) async fn leftovers(&self, dry_run: bool) -> Result<usize, SnapshotError> {
        let files = self.files().await?;
        let mut found = 0;
        let old = Clock::System.now() - UNDER_WAY;
        for (file, _) in files.iter().filter(|(_, written_at)| *written_at < old) {
            let of = |suffix| file.strip_suffix(suffix).and_then(|name: &str| name.parse::<Name>().ok());
            let is_there = |name: Name| files.iter().any(|(file, _)| *file == name.manifest());
            if let Some(name) = of(CLAIM) {
                if !dry_run {
                    self.release(name).await;
                }
                found += 1;
            } else if let Some(name) = of(DATA).filter(|name| !is_there(*name)) {
                if !dry_run {
                    self.remove(name).await?;
                }
                found += 1;
            }
        }
        Ok(found)
    }

    fn failed(&self, what: &str, error: Error) -> SnapshotError {
        SnapshotError::store(format!("{}: cannot {what}", self.place), error)
    }
}

/// The settings of the environment, with defaults that suit large objects.
fn builder(environment: impl Iterator<Item = (String, String)>) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::new();
    for (key, value) in TIMEOUTS {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    for (name, value) in environment.filter(|(name, _)| name.starts_with("AWS_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_take_long_unless_somebody_says_otherwise() {
        let of = |environment: &[(&str, &str)], key| {
            let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            builder(environment).get_config_value(&AmazonS3ConfigKey::Client(key)).unwrap()
        };
        assert_eq!(of(&[], ClientConfigKey::Timeout), "1 day");
        assert_eq!(of(&[("HOME", "/")], ClientConfigKey::ReadTimeout), "2 minutes");
        let said = [("AWS_TIMEOUT", "7 seconds"), ("AWS_REGION", "eu-central-1")];
        assert_eq!(of(&said, ClientConfigKey::Timeout), "7 seconds");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let s3 = builder([("AWS_REGION".to_owned(), "eu-central-1".to_owned())].into_iter()).with_bucket_name("b");
        assert!(s3.build().is_ok(), "the times can be read");
    }

    /// Where two could claim one name, as not every store knows how to keep them from it.
    #[tokio::test]
    async fn a_manifest_that_is_there_is_not_written_over() {
        let bucket = Bucket::new(Arc::new(object_store::memory::InMemory::new()), "lab");
        let fixtures = FsPath::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/snapshot-format-1");
        let name: Name = "2026-11-21T040000Z".parse().unwrap();
        let manifest = Manifest::parse(name, &fs::read(fixtures.join(name.manifest())).unwrap()).unwrap();
        let packed = fixtures.join(name.data());
        bucket.publish(&packed, &manifest).await.unwrap();
        let other = Manifest { took_ms: manifest.took_ms + 1, ..manifest.clone() };
        assert!(matches!(bucket.publish(&packed, &other).await, Err(SnapshotError::Exists(_))));
        assert!(bucket.read(&name.manifest()).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_is_larger_than_a_range_is_put_together_in_order() {
        let bucket = Bucket::new(Arc::new(object_store::memory::InMemory::new()), "lab");
        let name: Name = "2026-11-21T040000Z".parse().unwrap();
        let edge = usize::try_from(RANGE).unwrap();
        let mut bytes = vec![0; edge + 3];
        bytes[edge - 1..].copy_from_slice(b"edge");
        bucket.objects.put(&bucket.path(&name.data()), PutPayload::from(bytes.clone())).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fetched = bucket.fetch(name, dir.path().join("fetched")).await.unwrap();
        assert!(fs::read(fetched).unwrap() == bytes);
    }
}
