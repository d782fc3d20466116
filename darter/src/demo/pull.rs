//! A pull as a client does it: manifest by tag, then config and layers at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darter_api::{Digest, Hasher};
use futures::future::try_join_all;
use http_body_util::BodyExt as _;
use hyper::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::image::Image;
use crate::http::{HttpClient, ask, client, get};

/// How long one pull took.
pub(super) struct Pulled {
    pub(super) elapsed: Duration,
    /// From the first blob's request to its first bytes.
    pub(super) first_byte: Duration,
}

/// A bar a peer, where there is a terminal to see it.
pub(super) struct Progress {
    bars: Option<MultiProgress>,
    size: u64,
}

impl Progress {
    pub(super) fn new(wanted: bool, size: u64) -> Self {
        let bars = wanted.then(MultiProgress::new);
        Self { bars, size }
    }

    pub(super) fn bar(&self, name: &str) -> Option<ProgressBar> {
        let bar = self.bars.as_ref()?.add(ProgressBar::new(self.size));
        let style =
            ProgressStyle::with_template("{prefix:10} {bar:40} {bytes:>10} {bytes_per_sec:>12}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name.to_owned());
        Some(bar)
    }

    pub(super) fn finish(&self) {
        if let Some(bars) = &self.bars {
            // What is left of drawing is cosmetic.
            let _ = bars.clear();
        }
    }
}

pub(super) async fn pull(
    mirror: &str,
    ns: &str,
    image: &Image,
    bar: Option<ProgressBar>,
) -> Result<Pulled> {
    let client = client();
    let began = Instant::now();
    let base = format!("{mirror}/v2/demo/app");
    let head = ask(
        &client,
        Method::HEAD,
        &format!("{base}/manifests/latest?ns={ns}"),
    )
    .await?;
    let digest = head
        .headers()
        .get("docker-content-digest")
        .context("no digest in the manifest's headers")?;
    let digest = digest.to_str()?.to_owned();
    let manifest = get(&client, &format!("{base}/manifests/{digest}?ns={ns}")).await?;
    ensure!(
        Digest::sha256(&manifest) == image.manifest,
        "the manifest's digest is wrong"
    );
    let blobs = image.blobs.iter().map(|(digest, size)| {
        let url = format!("{base}/blobs/{digest}?ns={ns}");
        blob(&client, url, *digest, *size, bar.clone())
    });
    let first_bytes = try_join_all(blobs).await?;
    Ok(Pulled {
        elapsed: began.elapsed(),
        first_byte: first_bytes.into_iter().min().unwrap_or_default(),
    })
}

async fn blob(
    client: &HttpClient,
    url: String,
    digest: Digest,
    size: u64,
    bar: Option<ProgressBar>,
) -> Result<Duration> {
    let began = Instant::now();
    let mut body = ask(client, Method::GET, &url).await?.into_body();
    let mut first = None;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut got = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("{url}, after {got} bytes"))?;
        if let Some(data) = frame.data_ref() {
            first.get_or_insert_with(|| began.elapsed());
            hasher.update(data);
            got += data.len() as u64;
            if let Some(bar) = &bar {
                bar.inc(data.len() as u64);
            }
        }
    }
    ensure!(got == size, "{url}: {got} of {size} bytes");
    ensure!(hasher.finish() == digest, "{url}: the digest is wrong");
    Ok(first.unwrap_or_else(|| began.elapsed()))
}
