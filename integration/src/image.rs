//! Images made and pushed by the tests themselves.

use std::io::Write as _;

use anyhow::{Result, ensure};
use bytes::Bytes;
use darter_api::Digest;
use http::{Method, StatusCode};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};

use crate::{http::send, registry::Registry};

/// Media types of one flavour of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// The OCI image specification's.
    Oci,
    /// Docker's image manifest version 2, schema 2.
    Schema2,
}

impl Flavour {
    /// Of a manifest.
    pub const fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Schema2 => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// Of an index.
    pub const fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Schema2 => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    const fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Schema2 => "application/vnd.docker.container.image.v1+json",
        }
    }

    const fn layer(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.layer.v1.tar",
            // Docker knows no media type of its own for plain tar that clients accept
            // everywhere; they look at the bytes.
            Self::Schema2 => "application/vnd.docker.image.rootfs.diff.tar",
        }
    }
}

/// A blob: its digest and bytes.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Bytes,
}

impl Blob {
    /// Of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: Digest::sha256(&bytes),
            bytes,
        }
    }

    /// A layer: a tar with one file of `size` incompressible bytes, other ones for
    /// every seed.
    pub fn layer(seed: u64, size: usize) -> Self {
        let mut content = vec![0; size];
        SmallRng::seed_from_u64(seed).fill(&mut content[..]);
        Self::new(tar(&format!("data-{seed}"), &content))
    }
}

/// A tar (POSIX ustar) with one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());

    let mut archive = Vec::with_capacity(content.len() + 2048);
    archive.extend(header);
    archive.extend(content);
    let padded = archive.len().next_multiple_of(512) + 1024;
    archive.resize(padded, 0);
    archive
}

/// An image as pushed.
#[derive(Debug, Clone)]
pub struct Image {
    /// `library/app`
    pub repository: String,
    /// The manifest's digest.
    pub manifest: Digest,
    /// Its bytes.
    pub manifest_bytes: Bytes,
    /// Its media type.
    pub media_type: &'static str,
    /// The config.
    pub config: Blob,
    /// The layers.
    pub layers: Vec<Blob>,
}

impl Image {
    /// An image of these layers that no registry has yet.
    ///
    /// # Errors
    /// When it can't be written as JSON.
    pub fn of(repository: &str, flavour: Flavour, layers: Vec<Blob>) -> Result<Self> {
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|layer| layer.digest.to_string())
            .collect();
        let config = Blob::new(serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["/data"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>(),
        }))?);
        let descriptor = |media_type: &str, blob: &Blob| json!({"mediaType": media_type, "digest": blob.digest.to_string(), "size": blob.bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": flavour.manifest(),
            "config": descriptor(flavour.config(), &config),
            "layers": layers.iter().map(|layer| descriptor(flavour.layer(), layer)).collect::<Vec<_>>(),
        });
        let manifest_bytes = Bytes::from(serde_json::to_vec(&manifest)?);
        Ok(Self {
            repository: repository.to_owned(),
            manifest: Digest::sha256(&manifest_bytes),
            manifest_bytes,
            media_type: flavour.manifest(),
            config,
            layers,
        })
    }

    /// Pushes an image of these layers as `repository:tag`.
    ///
    /// # Errors
    /// When the registry refuses a part of it.
    pub async fn push(
        registry: &Registry,
        repository: &str,
        tag: &str,
        flavour: Flavour,
        layers: Vec<Blob>,
    ) -> Result<Self> {
        let image = Self::of(repository, flavour, layers)?;
        for blob in image.layers.iter().chain([&image.config]) {
            push_blob(registry, repository, blob).await?;
        }
        let manifest: Value = serde_json::from_slice(&image.manifest_bytes)?;
        push_manifest(registry, repository, tag, flavour.manifest(), &manifest).await?;
        Ok(image)
    }

    /// Bytes of config and layers.
    pub fn size(&self) -> u64 {
        let blobs = self.layers.iter().chain([&self.config]);
        blobs.map(|blob| blob.bytes.len() as u64).sum()
    }
}

/// Pushes a manifest or an index: its digest and bytes.
///
/// # Errors
/// When the registry refuses it.
pub async fn push_manifest(
    registry: &Registry,
    repository: &str,
    reference: &str,
    media_type: &str,
    manifest: &Value,
) -> Result<(Digest, Bytes)> {
    let bytes = Bytes::from(serde_json::to_vec(manifest)?);
    let url = format!("{}/v2/{repository}/manifests/{reference}", registry.url());
    let reply = send(
        Method::PUT,
        &url,
        &[("content-type", media_type)],
        bytes.clone(),
    )
    .await?;
    ensure!(
        reply.status() == StatusCode::CREATED,
        "{url}: {} {:?}",
        reply.status(),
        reply.body()
    );
    Ok((Digest::sha256(&bytes), bytes))
}

/// Pushes a blob in one request.
///
/// # Errors
/// When the registry refuses it.
pub async fn push_blob(registry: &Registry, repository: &str, blob: &Blob) -> Result<()> {
    let start = format!("{}/v2/{repository}/blobs/uploads/", registry.url());
    let begun = send(Method::POST, &start, &[], Bytes::new()).await?;
    let location = begun.headers().get("location").map(|value| value.to_str());
    let location = location.transpose()?.unwrap_or_default();
    ensure!(
        begun.status() == StatusCode::ACCEPTED,
        "{start}: {}",
        begun.status()
    );
    let joint = if location.contains('?') { '&' } else { '?' };
    let url = format!("{location}{joint}digest={}", blob.digest);
    let headers = [("content-type", "application/octet-stream")];
    let reply = send(Method::PUT, &url, &headers, blob.bytes.clone()).await?;
    ensure!(
        reply.status() == StatusCode::CREATED,
        "{url}: {}",
        reply.status()
    );
    Ok(())
}

/// Writes a file of bytes, for tools that read images from disk.
///
/// # Errors
/// When it can't be written.
pub fn write(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    Ok(std::fs::File::create(path)?.write_all(bytes)?)
}
