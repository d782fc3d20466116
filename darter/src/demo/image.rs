//! The demo's image: layers of noise, on disk.

use std::{
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Result;
use darter_api::{Algorithm, Digest, Hasher};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::json;

const STEP: usize = 1 << 20;

/// An image in a directory: one file a blob, named by its hex, and `manifest`.
pub(super) struct Image {
    dir: PathBuf,
    size: u64,
    pub(super) manifest: Digest,
    /// Config and layers.
    pub(super) blobs: Vec<(Digest, u64)>,
}

impl Image {
    pub(super) async fn make(dir: &Path, size: u64, layers: usize) -> Result<Self> {
        let dir = dir.to_owned();
        tokio::task::spawn_blocking(move || Self::write(dir, size, layers)).await?
    }

    fn write(dir: PathBuf, size: u64, layers: usize) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let mut blobs = Vec::new();
        for layer in 0..layers as u64 {
            let share = size / layers as u64 + u64::from(layer < size % layers as u64);
            blobs.push((noise(&dir, layer, share)?, share));
        }
        let diff_ids: Vec<String> = blobs.iter().map(|(digest, _)| digest.to_string()).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
                            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = serde_json::to_vec(&config)?;
        let config_digest = Digest::sha256(&config);
        std::fs::write(dir.join(config_digest.hex()), &config)?;
        let descriptor = |media_type: &str, digest: &Digest, size: u64| json!({"mediaType": media_type, "digest": digest.to_string(), "size": size});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len() as u64),
            "layers": blobs.iter().map(|(digest, size)| descriptor("application/vnd.oci.image.layer.v1.tar", digest, *size)).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest)?;
        std::fs::write(dir.join("manifest"), &manifest)?;
        blobs.push((config_digest, config.len() as u64));
        Ok(Self {
            dir,
            size: blobs.iter().map(|(_, size)| size).sum(),
            manifest: Digest::sha256(&manifest),
            blobs,
        })
    }

    pub(super) fn dir(&self) -> String {
        self.dir.display().to_string()
    }

    /// Bytes of config and layers.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }
}

/// Writes `size` incompressible bytes; the file is named by their digest.
fn noise(dir: &Path, seed: u64, size: u64) -> Result<Digest> {
    let path = dir.join(format!("layer-{seed}"));
    let mut file = BufWriter::new(std::fs::File::create(&path)?);
    let mut random = SmallRng::seed_from_u64(seed + 1);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; STEP];
    let mut rest = size;
    while rest > 0 {
        let chunk = &mut buffer[..rest.min(STEP as u64) as usize];
        random.fill(&mut *chunk);
        hasher.update(chunk);
        file.write_all(chunk)?;
        rest -= chunk.len() as u64;
    }
    file.flush()?;
    let digest = hasher.finish();
    std::fs::rename(path, dir.join(digest.hex()))?;
    Ok(digest)
}
