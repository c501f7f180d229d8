//! Snapshots in a bucket: two of the same second, and transfers that are interrupted.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use daymend::{
    clock::Clock,
    snapshot::{self, Manifest, Name, SnapshotError, Store, retention, verify},
};
use object_store::{ObjectStoreExt as _, PutPayload, RetryConfig, aws::AmazonS3Builder, memory::InMemory, path::Path};

use crate::{
    cli::USAGE,
    snapshot::{open_latest, rows},
    support::{Engine, TestDb, process, s3},
};

const PREFIX: &str = "lab";

async fn some_rows(lab: i64) -> TestDb {
    let db = TestDb::new(Engine::Sqlite).await;
    db.add_lab(lab, Some("Asia/Kolkata")).await;
    db.fill_lab(lab, "2026-03-01".parse().unwrap(), 2, 30).await;
    db
}

/// Connects to the bucket, with a client that never retries.
fn impatient(address: SocketAddr) -> Store {
    let s3 = AmazonS3Builder::new()
        .with_endpoint(format!("http://{address}"))
        .with_allow_http(true)
        .with_region("eu-central-1")
        .with_bucket_name("backups")
        .with_access_key_id("test-key")
        .with_secret_access_key("test-secret")
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    let _ = rustls::crypto::ring::default_provider().install_default();
    Store::objects(Arc::new(s3.build().unwrap()), PREFIX)
}

async fn take(
    db: &TestDb,
    store: &Store,
    clock: Clock,
    progress: &(dyn Fn() + Send + Sync),
) -> Result<Manifest, SnapshotError> {
    let tables = ["billing".to_owned()];
    snapshot::take(&db.admin, store, Some(&tables), clock, &|_| progress()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_belongs_to_whoever_came_first() {
    let (first, second) = (some_rows(1).await, some_rows(2).await);
    let objects = Arc::new(InMemory::new());
    let store = Store::objects(Arc::clone(&objects) as _, PREFIX);
    let clock = Clock::Fixed("2026-11-21T04:00:00Z".parse().unwrap());
    // While one is under way, another one of the same second is taken from beginning to end.
    let other = Mutex::new(None);
    let meanwhile = || {
        let mut other = other.lock().unwrap();
        if other.is_none() {
            let take = take(&second, &store, clock, &|| ());
            *other = Some(tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(take)));
        }
    };
    let taken = take(&first, &store, clock, &meanwhile).await.unwrap();
    let other = other.into_inner().unwrap().unwrap();
    assert!(matches!(&other, Err(SnapshotError::Exists(name)) if *name == taken.name.to_string()), "{other:?}");
    assert!(verify::verify(&store, taken.name, |_| ()).await.unwrap().is_whole());
    assert_eq!(taken.server.database, first.admin.name());
    // Nothing else of either is left, and a later take finds that the name is taken.
    let mut keys: Vec<String> = Vec::new();
    for file in [taken.name.manifest(), taken.name.data(), format!("{}.claim", taken.name)] {
        keys.extend(objects.head(&Path::from(format!("{PREFIX}/{file}"))).await.map(|_| file));
    }
    assert_eq!(keys, [taken.name.manifest(), taken.name.data()]);
    assert!(matches!(take(&second, &store, clock, &|| ()).await, Err(SnapshotError::Exists(_))));
}

/// The daily snapshots of two databases are due at the same moment: neither may be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_second_takes_a_later_second() {
    let db = some_rows(1).await;
    let objects = Arc::new(InMemory::new());
    let store = Store::objects(Arc::clone(&objects) as _, PREFIX);
    let now = Clock::System.now();
    let claimed = [0, 1].map(|seconds| Name::at(now + chrono::TimeDelta::seconds(seconds)));
    for name in claimed {
        objects.put(&Path::from(format!("{PREFIX}/{name}.claim")), PutPayload::new()).await.unwrap();
    }
    let taken = take(&db, &store, Clock::System, &|| ()).await.unwrap();
    assert!(!claimed.contains(&taken.name), "{}", taken.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_that_died_have_left_goes_after_a_day() {
    let db = some_rows(1).await;
    let (address, bucket) = s3::serve().await;
    let store = impatient(address);
    let taken = take(&db, &store, Clock::System, &|| ()).await.unwrap().name;
    let at = |name: &str| format!("{PREFIX}/{name}");
    let (old, young) = ("2026-11-01T020000Z", "2026-11-02T020000Z");
    {
        let mut bucket = bucket.lock().unwrap();
        for file in ["claim", "sqlite.zst"] {
            bucket.old.insert(at(&format!("{old}.{file}")));
            for name in [old, young] {
                bucket.objects.insert(at(&format!("{name}.{file}")), b"half".to_vec());
            }
        }
        bucket.old.extend([at(&taken.manifest()), at(&taken.data())]);
    }
    let planned = retention::prune(&store, &"1 daily".parse().unwrap(), None, Clock::System.now(), true).await.unwrap();
    assert_eq!((planned.leftovers, bucket.lock().unwrap().objects.len()), (2, 6), "a dry run");
    assert_eq!(store.clean().await.unwrap(), 2);
    let keys: Vec<String> = bucket.lock().unwrap().objects.keys().cloned().collect();
    let left = [format!("{young}.claim"), format!("{young}.sqlite.zst"), taken.manifest(), taken.data()];
    assert_eq!(keys, left.map(|file| at(&file)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_breaks_off_is_resumed_where_it_was() {
    let db = some_rows(1).await;
    let (address, bucket) = s3::serve().await;
    let store = impatient(address);
    let size = usize::try_from(take(&db, &store, Clock::System, &|| ()).await.unwrap().size).unwrap();
    bucket.lock().unwrap().cuts = 6;
    assert_eq!(rows(&open_latest(&store).await, "billing").await.len(), 60);
    let ranges = std::mem::take(&mut bucket.lock().unwrap().ranges);
    assert_eq!((ranges.len(), ranges[0].clone()), (7, 0..size));
    for (before, range) in ranges.iter().zip(&ranges[1..]) {
        assert_eq!((range.start, range.end), (before.start + before.len() / 2, size), "no byte is fetched twice");
    }
    // A store that never delivers does not count as damage.
    bucket.lock().unwrap().cuts = usize::MAX;
    let name = store.names().await.unwrap()[0];
    let error = snapshot::open(&store, name).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Store { what, .. } if what.contains("fetch a snapshot")), "{error:?}");
}

/// The client sends the manifest again, and hears that it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manifest_that_is_stored_without_an_answer_is_its_takers_own() {
    let db = some_rows(1).await;
    let (address, bucket) = s3::serve().await;
    bucket.lock().unwrap().lost_answers = 1;
    let mut command = process::command(&db, &["snapshot", "take", "--table", "billing"]);
    s3::use_store(&mut command, address, "s3://backups/lab", ("test-key", "test-secret"));
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    assert_eq!((output.status.code(), bucket.lock().unwrap().lost_answers), (Some(0), 0), "{output:?}");
    let store = impatient(address);
    let name = store.names().await.unwrap()[0];
    assert!(verify::verify(&store, name, |_| ()).await.unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_machine_without_certificate_authorities_is_told_so() {
    let db = some_rows(1).await;
    let (address, _bucket) = s3::serve().await;
    let mut command = process::command(&db, &["snapshot", "list"]);
    s3::use_store(&mut command, address, "s3://backups/lab", ("test-key", "test-secret"));
    let empty = tempfile::tempdir().unwrap();
    command.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", empty.path());
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(USAGE), 1), "{error}");
    assert!(error.contains("s3://backups/lab cannot be used: ") && error.contains("No CA certificates"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_error_names_the_bucket_and_the_prefix_and_no_secret() {
    let db = some_rows(1).await;
    let (address, _bucket) = s3::serve().await;
    for command in [&["snapshot", "list"][..], &["snapshot", "take", "--table", "billing"], &["snapshot", "prune"]] {
        let mut command = process::command(&db, command);
        s3::use_store(&mut command, address, "s3://backups/lab/daily", ("nobody", "verysecret"));
        let output = tokio::task::block_in_place(|| command.output()).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
        assert!(error.contains("s3://backups/lab/daily: cannot ") && !error.contains("verysecret"), "{error}");
    }
}
