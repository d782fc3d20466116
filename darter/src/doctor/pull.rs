//! A test pull by the mirror: manifest, configuration and the smallest layer, each checked.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use darter_api::Digest;
use darter_proxy::manifest::{Descriptor, Manifest};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    header::{ACCEPT, HeaderValue},
};
use tokio::time::timeout;

use super::{Patient, finding::Finding};
use crate::{
    http::{HttpClient, client},
    setup::Mirror,
};

const CHECK: &str = "test pull";
/// For all of it.
const LIMIT: Duration = Duration::from_secs(60);
/// Docker's own image for the purpose: 13 kB.
const HELLO: &str = "docker.io/library/hello-world:latest";
/// A manifest is not larger.
/// <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-manifests>
const MOST_MANIFEST: usize = 4 << 20;
/// A layer beyond that is not pulled for a test.
const MOST_LAYER: u64 = 256 << 20;
const KINDS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

pub(super) async fn check(patient: &Patient) -> Finding {
    let upstreams = &patient.config.proxy.upstreams;
    let is_listed = upstreams
        .iter()
        .any(|upstream| upstream.name == "docker.io");
    let (image, is_asked) = match &patient.image {
        Some(image) => (image.clone(), true),
        None if is_listed => (HELLO.to_owned(), false),
        None => return Finding::skipped(CHECK, "say of what: --image REGISTRY/REPOSITORY:TAG"),
    };
    if !patient.vitals.runs() {
        return Finding::skipped(CHECK, "no proxy runs");
    }
    let default = upstreams.first().map_or("docker.io", |u| &u.name);
    let image = match Image::parse(&image, default) {
        Ok(image) => image,
        Err(cause) => {
            let found = format!("{cause:#}");
            return Finding::wrong(CHECK, found, "name one as docker.io/library/alpine:3");
        }
    };
    let mirror = Mirror::at(patient.config.proxy.listen).to_string();
    let pull = timeout(LIMIT, pull(&mirror, &image)).await;
    let (failed, is_private) = match pull {
        Ok(Ok(found)) => return Finding::ok(CHECK, found),
        Ok(Err(cause)) => {
            let failed = format!("{image:?} can't be pulled: {cause:#}");
            (failed, is_private(&cause))
        }
        Err(_) => (format!("{image:?} was not there after {LIMIT:?}"), false),
    };
    if is_private && !is_asked {
        let todo = "say of which image, a public one: --image REGISTRY/REPOSITORY:TAG";
        return Finding::warning(CHECK, failed, todo);
    }
    Finding::wrong(
        CHECK,
        failed,
        "see what is wrong above, and the proxy's log",
    )
}

/// The mirror answers otherwise than with what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the mirror answers {status}: {text}")]
struct Answer {
    status: StatusCode,
    /// What it says.
    text: String,
}

/// Whether the image is not there, or not for everybody.
fn is_private(cause: &anyhow::Error) -> bool {
    let answer = cause.downcast_ref::<Answer>();
    let told = [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND];
    answer.is_some_and(|answer| told.contains(&answer.status))
}

struct Image {
    registry: String,
    repository: String,
    reference: String,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.reference.contains(':') {
            '@'
        } else {
            ':'
        };
        write!(f, "{}/{}", self.registry, self.repository)?;
        write!(f, "{separator}{}", self.reference)
    }
}

impl Image {
    /// `[REGISTRY/]REPOSITORY[:TAG|@DIGEST]`, as docker reads it.
    fn parse(text: &str, default: &str) -> Result<Self> {
        let (first, rest) = text.split_once('/').unwrap_or(("", text));
        let is_host = first.contains(['.', ':']) || first == "localhost";
        let (registry, rest) = if is_host {
            (first, rest)
        } else {
            (default, text)
        };
        let (repository, reference) = rest
            .split_once('@')
            .or_else(|| rest.split_once(':'))
            .unwrap_or((rest, "latest"));
        repository
            .parse::<darter_api::Repository>()
            .with_context(|| format!("`{text}`"))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        ensure!(
            !reference.is_empty() && reference.chars().all(plain),
            "`{text}`: `{reference}` is no tag and no digest"
        );
        let repository = match registry {
            "docker.io" if !repository.contains('/') => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            reference: reference.to_owned(),
        })
    }
}

async fn pull(mirror: &str, image: &Image) -> Result<String> {
    let began = Instant::now();
    let client = client();
    let base = format!("{mirror}/v2/{}", image.repository);
    let url =
        |kind: &str, reference: &str| format!("{base}/{kind}/{reference}?ns={}", image.registry);
    let bytes = fetch(&client, &url("manifests", &image.reference), MOST_MANIFEST).await?;
    let mut manifest = Manifest::parse(&bytes).context("its manifest")?;
    if manifest.is_index() {
        let child = for_linux(&manifest)?;
        let url = url("manifests", &child.digest.to_string());
        let bytes = fetch(&client, &url, MOST_MANIFEST).await?;
        verify(&bytes, &child)?;
        manifest = Manifest::parse(&bytes).context("its manifest")?;
    }
    let config = manifest.config().transpose().context("its manifest")?;
    let layers: Vec<Descriptor> = manifest
        .layers()
        .collect::<Result<_, _>>()
        .context("its manifest")?;
    let smallest = layers.into_iter().min_by_key(|layer| layer.size);
    let mut total = 0;
    for blob in config.iter().chain(&smallest) {
        ensure!(
            blob.size <= MOST_LAYER,
            "its smallest layer has {} bytes",
            blob.size
        );
        let most = usize::try_from(blob.size)?;
        let bytes = fetch(&client, &url("blobs", &blob.digest.to_string()), most).await?;
        verify(&bytes, blob)?;
        total += bytes.len();
    }
    let took = began.elapsed();
    Ok(format!(
        "{image:?}: {total} bytes of it in {took:.1?}, every digest right"
    ))
}

/// The first manifest of an index that may be one for Linux.
fn for_linux(index: &Manifest) -> Result<Descriptor> {
    let mut odd = None;
    let is_linux = |one: &Descriptor| {
        one.platform
            .as_ref()
            .is_none_or(|platform| platform.os().to_string() == "linux")
    };
    // One that can't be read may be for another platform, and spoils none of the others.
    let read = index.manifests();
    let mut manifests = read.filter_map(|read| read.map_err(|cause| odd = Some(cause)).ok());
    let child = manifests.find(is_linux);
    let nothing = "its index has no manifest for linux";
    match (child, odd) {
        (Some(child), _) => Ok(child),
        (None, Some(cause)) => Err(cause).context(nothing),
        (None, None) => bail!(nothing),
    }
}

async fn fetch(client: &HttpClient, url: &str, most: usize) -> Result<Bytes> {
    let mut request = Request::get(url).body(Empty::new())?;
    let kinds = HeaderValue::from_static(KINDS);
    request.headers_mut().insert(ACCEPT, kinds);
    let reply = client.request(request).await;
    let reply = reply.context("the mirror does not answer")?;
    let status = reply.status();
    let body = Limited::new(reply.into_body(), most.max(64 * 1024));
    let body = body.collect().await;
    let body = body
        .map_err(|cause| anyhow::anyhow!(cause))
        .context("its body breaks off")?
        .to_bytes();
    if status != StatusCode::OK {
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        let text = text.trim().to_owned();
        bail!(Answer { status, text });
    }
    Ok(body)
}

fn verify(bytes: &[u8], descriptor: &Descriptor) -> Result<()> {
    let got = Digest::of(descriptor.digest.algorithm(), bytes);
    ensure!(got == descriptor.digest, "{} is {got}", descriptor.digest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_no_digits_in_a_digest() {
        let answer = |status, text: &str| {
            let text = text.to_owned();
            is_private(&anyhow::Error::new(Answer { status, text }))
        };
        assert!(answer(StatusCode::UNAUTHORIZED, "") && answer(StatusCode::NOT_FOUND, ""));
        assert!(!answer(StatusCode::BAD_GATEWAY, "sha256:4014040"));
        assert!(!is_private(&anyhow::anyhow!("sha256:401 is sha256:404")));
    }

    #[test]
    fn a_child_that_is_none_spoils_no_other() {
        let digest = Digest::sha256(b"x");
        let child = |of: &str| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{of}","size":1}}"#
            )
        };
        let index = |entries: &str| {
            let text = format!(r#"{{"manifests":[{entries}]}}"#);
            Manifest::parse(text.as_bytes()).unwrap()
        };
        let (odd, good) = (child("md5:00"), child(&digest.to_string()));
        let found = for_linux(&index(&format!("{odd},{good}"))).unwrap();
        assert_eq!(found.digest, digest);
        for nothing in ["", &odd] {
            assert!(for_linux(&index(nothing)).is_err(), "{nothing}");
        }
    }

    #[test]
    fn names_of_images() {
        let read = |text: &str| {
            let image = Image::parse(text, "docker.io").unwrap();
            format!("{image:?}")
        };
        assert_eq!(read("alpine"), "docker.io/library/alpine:latest");
        assert_eq!(read("localhost:5000/a/b:1"), "localhost:5000/a/b:1");
        let digest = format!("ghcr.io/a/b@sha256:{}", "0".repeat(64));
        assert_eq!(read(&digest), digest);
        for text in ["", "a/../b", "a:", "UPPER", "a:1?x=y"] {
            assert!(Image::parse(text, "docker.io").is_err(), "{text}");
        }
    }
}
