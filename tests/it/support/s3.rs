//! An in-memory bucket, served over HTTP with the part of S3 that snapshots need.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    ops::Range,
    process::Command,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderMap, Method, Response, StatusCode, Uri},
};
use chrono::SecondsFormat;
use daymend::clock::Clock;
use futures::StreamExt as _;

/// A bucket, and the multipart uploads in progress.
#[derive(Debug, Default)]
pub struct Bucket {
    pub objects: BTreeMap<String, Vec<u8>>,
    uploads: HashMap<String, BTreeMap<u32, Vec<u8>>>,
    next_upload: u32,
    /// The number of requests that were rejected because they were not signed with the test's key.
    pub unsigned: usize,
    /// Keys of objects that are listed as written long ago.
    pub old: BTreeSet<String>,
    /// The ranges that were requested, and how many of the next answers break off in the middle.
    pub ranges: Vec<Range<usize>>,
    pub cuts: usize,
    /// How many of the next manifests are stored, and answered as if the store had failed.
    pub lost_answers: usize,
}

pub type Shared = Arc<Mutex<Bucket>>;

/// Serves an empty bucket on a task of the runtime, and returns its address.
pub async fn serve() -> (SocketAddr, Shared) {
    let bucket = Shared::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    // The default body limit is smaller than a part.
    let limit = axum::extract::DefaultBodyLimit::disable();
    let app = Router::new().fallback(answer).layer(limit).with_state(Arc::clone(&bucket));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, bucket)
}

/// Makes a command keep its snapshots in `store` at that address, with a key and its secret.
pub fn use_store(command: &mut Command, address: SocketAddr, store: &str, (key, secret): (&str, &str)) {
    command
        .env("DAYMEND_SNAPSHOT_STORE", store)
        .env("AWS_ENDPOINT_URL", format!("http://{address}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "eu-central-1")
        .env("AWS_ACCESS_KEY_ID", key)
        .env("AWS_SECRET_ACCESS_KEY", secret);
}

fn respond(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("ETag", "\"e\"")
        .header("Last-Modified", "Sat, 21 Nov 2026 04:00:00 GMT")
        .body(body.into())
        .expect("a response")
}

async fn answer(
    State(bucket): State<Shared>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let mut bucket = bucket.lock().expect("the bucket");
    if !headers.get("authorization").is_some_and(|value| value.to_str().is_ok_and(|text| text.contains("test-key"))) {
        bucket.unsigned += 1;
        return respond(StatusCode::FORBIDDEN, "");
    }
    // /BUCKET/KEY
    let key = uri.path().splitn(3, '/').nth(2).unwrap_or_default().to_owned();
    let upload = query.get("uploadId").cloned();
    match (method.as_str(), upload) {
        ("GET", _) if query.contains_key("list-type") => list(&bucket, query.get("prefix").map_or("", String::as_str)),
        ("GET" | "HEAD", _) => match bucket.objects.get(&key).cloned() {
            Some(bytes) => match headers.get("range").and_then(|range| range.to_str().ok()) {
                Some(range) => part(&mut bucket, &bytes, range),
                None => respond(StatusCode::OK, bytes),
            },
            None => respond(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>"),
        },
        ("POST", _) if query.contains_key("delete") => {
            let text = String::from_utf8_lossy(&body).into_owned();
            let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
            let deleted: String = keys
                .inspect(|key| drop(bucket.objects.remove(*key)))
                .map(|key| format!("<Deleted><Key>{key}</Key></Deleted>"))
                .collect();
            respond(StatusCode::OK, format!("<DeleteResult>{deleted}</DeleteResult>"))
        }
        ("POST", None) => {
            bucket.next_upload += 1;
            let id = bucket.next_upload.to_string();
            bucket.uploads.insert(id.clone(), BTreeMap::new());
            let xml = format!(
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{key}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            respond(StatusCode::OK, xml)
        }
        ("PUT", Some(upload)) => {
            let number = query.get("partNumber").and_then(|number| number.parse().ok()).expect("a part's number");
            bucket.uploads.entry(upload).or_default().insert(number, body.to_vec());
            respond(StatusCode::OK, "")
        }
        ("POST", Some(upload)) => {
            let parts = bucket.uploads.remove(&upload).unwrap_or_default();
            bucket.objects.insert(key.clone(), parts.into_values().flatten().collect());
            let xml = format!(
                "<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>{key}</Key><ETag>\"e\"</ETag></CompleteMultipartUploadResult>"
            );
            respond(StatusCode::OK, xml)
        }
        ("PUT", None) => {
            if headers.contains_key("if-none-match") && bucket.objects.contains_key(&key) {
                return respond(StatusCode::PRECONDITION_FAILED, "");
            }
            let is_manifest = key.ends_with(".json");
            bucket.objects.insert(key, body.to_vec());
            if is_manifest && bucket.lost_answers > 0 {
                bucket.lost_answers -= 1;
                return respond(StatusCode::SERVICE_UNAVAILABLE, "");
            }
            respond(StatusCode::OK, "")
        }
        ("DELETE", _) => {
            bucket.objects.remove(&key);
            respond(StatusCode::NO_CONTENT, "")
        }
        _ => respond(StatusCode::NOT_IMPLEMENTED, ""),
    }
}

/// Answers a request for `bytes=FIRST-LAST`: with the whole range, or with its first half while cuts remain.
fn part(bucket: &mut Bucket, bytes: &[u8], range: &str) -> Response<Body> {
    let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
    let (first, last): (usize, usize) = (first.parse().expect("a number"), last.parse().expect("a number"));
    let (end, size) = (bytes.len().min(last + 1), bytes.len());
    bucket.ranges.push(first..end);
    let body = if bucket.cuts > 0 {
        bucket.cuts -= 1;
        let half = Bytes::copy_from_slice(&bytes[first..first + (end - first) / 2]);
        // Lets the first half be sent before the connection ends.
        let broken = async {
            tokio::task::yield_now().await;
            Err(std::io::Error::other("cut"))
        };
        Body::from_stream(futures::stream::iter([Ok(half)]).chain(futures::stream::once(broken)))
    } else {
        Body::from(bytes[first..end].to_vec())
    };
    let mut response = respond(StatusCode::PARTIAL_CONTENT, body);
    let mut say = |name, value: String| response.headers_mut().insert(name, value.parse().expect("a header"));
    say("content-range", format!("bytes {first}-{}/{size}", end - 1));
    say("content-length", (end - first).to_string());
    response
}

fn list(bucket: &Bucket, prefix: &str) -> Response<Body> {
    let contents: String = bucket
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(prefix) && !key[prefix.len()..].contains('/'))
        .map(|(key, bytes)| {
            let now = Clock::System.now().to_rfc3339_opts(SecondsFormat::Millis, true);
            let at = if bucket.old.contains(key) { "2020-01-01T00:00:00.000Z" } else { now.as_str() };
            format!(
                "<Contents><Key>{key}</Key><LastModified>{at}</LastModified><ETag>\"e\"</ETag><Size>{}</Size></Contents>",
                bytes.len()
            )
        })
        .collect();
    let xml = format!(
        "<ListBucketResult><Name>b</Name><Prefix>{prefix}</Prefix><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    );
    respond(StatusCode::OK, xml)
}
