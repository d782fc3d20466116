//! The demo's registry: one image, read-only, and a count of the bytes that leave it.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, Response, StatusCode, header},
    response::IntoResponse as _,
    routing::get,
};
use bytes::Bytes;
use darter_api::Digest;
use darter_runtime::{
    Tasks,
    server::{Server, ServerOptions},
};
use futures::stream;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::http::{client, get as fetch};
use crate::{cli::DemoRegistry, parts::until_signal};

const STEP: usize = 256 * 1024;

struct Shared {
    dir: PathBuf,
    sent: AtomicU64,
}

pub(crate) async fn run(options: DemoRegistry) -> Result<ExitCode> {
    let tasks = Tasks::new();
    let shared = Arc::new(Shared {
        dir: options.image,
        sent: AtomicU64::new(0),
    });
    let router = Router::new()
        .route("/v2/", get(|| async { "{}" }))
        .route("/v2/demo/app/manifests/{reference}", get(manifest))
        .route("/v2/demo/app/blobs/{digest}", get(blob))
        .route(
            "/sent",
            get(|State(shared): State<Arc<Shared>>| async move {
                shared.sent.load(Ordering::Relaxed).to_string()
            }),
        )
        .with_state(shared);
    let server = Server::bind(([127, 0, 0, 1], 0).into()).await?;
    println!("ready registry={}", server.local_addr());
    server.serve("demo registry", router, &tasks, ServerOptions::default());
    until_signal(&tasks, true).await
}

/// Bytes that have left a demo registry in blobs.
pub(super) async fn sent(url: &str) -> Result<u64> {
    let text = fetch(&client(), &format!("{url}/sent")).await?;
    Ok(std::str::from_utf8(&text)?.parse()?)
}

async fn manifest(
    State(shared): State<Arc<Shared>>,
    Path(reference): Path<String>,
    method: Method,
) -> Response<Body> {
    let Ok(bytes) = tokio::fs::read(shared.dir.join("manifest")).await else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let digest = Digest::sha256(&bytes).to_string();
    if reference != "latest" && reference != digest {
        return StatusCode::NOT_FOUND.into_response();
    }
    let length = bytes.len();
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(bytes)
    };
    let response = Response::builder()
        .header(
            header::CONTENT_TYPE,
            "application/vnd.oci.image.manifest.v1+json",
        )
        .header(header::CONTENT_LENGTH, length)
        .header("docker-content-digest", digest)
        .body(body);
    response.unwrap_or_default()
}

async fn blob(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let Ok(digest) = digest.parse::<Digest>() else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Ok(mut file) = tokio::fs::File::open(shared.dir.join(digest.hex())).await else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Ok(size) = file.metadata().await.map(|metadata| metadata.len()) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let range = headers
        .get(header::RANGE)
        .and_then(|value| parse_range(value.to_str().ok()?, size));
    let (start, end) = range.unwrap_or((0, size));
    let mut response = Response::builder()
        .header(header::CONTENT_LENGTH, end - start)
        .header("docker-content-digest", digest.to_string());
    if range.is_some() {
        response = response.status(StatusCode::PARTIAL_CONTENT).header(
            header::CONTENT_RANGE,
            format!("bytes {start}-{}/{size}", end - 1),
        );
    }
    if method == Method::HEAD {
        return response.body(Body::empty()).unwrap_or_default();
    }
    if file.seek(std::io::SeekFrom::Start(start)).await.is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let chunks = stream::try_unfold((file, end - start), move |(mut file, rest)| {
        let shared = Arc::clone(&shared);
        async move {
            if rest == 0 {
                return Ok::<_, std::io::Error>(None);
            }
            let mut chunk = vec![0; STEP.min(usize::try_from(rest).unwrap_or(STEP))];
            file.read_exact(&mut chunk).await?;
            shared.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            let rest = rest - chunk.len() as u64;
            Ok(Some((Bytes::from(chunk), (file, rest))))
        }
    });
    response.body(Body::from_stream(chunks)).unwrap_or_default()
}

/// `bytes=a-b` or `bytes=a-`, as start and end.
fn parse_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (start, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = start.parse().ok()?;
    let end = if last.is_empty() {
        size
    } else {
        last.parse::<u64>().ok()?.saturating_add(1).min(size)
    };
    (start < end).then_some((start, end))
}
