//! What a manifest names: an image's or an artifact's (OCI image specification 1.1, `manifest.md`;
//! Docker's schema 2), an index or a manifest list. One reading of them for the mirror, for
//! preheats and for `darter doctor`.
//!
//! Descriptors are read one by one when they are asked for, so that a single one that the
//! specification does not know spoils none of the others: who needs all of them says so by
//! collecting into a `Result`.

use darter_api::Digest;
use oci_spec::image;
use serde::Deserialize;
use serde_json::Value;

/// What a manifest is that does not say it: one that is no index, or no JSON.
pub(crate) const USUAL: &str = "application/vnd.oci.image.manifest.v1+json";

/// A manifest of whatever kind: what is not named in it is empty.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Option<Value>,
    #[serde(default)]
    layers: Vec<Value>,
    manifests: Option<Vec<Value>>,
}

/// What is named: a configuration, a layer, or a manifest of an index.
#[derive(Debug, Clone)]
pub struct Descriptor {
    /// Of its bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Of a manifest of an index: for what it is.
    pub platform: Option<image::Platform>,
    /// Whether it lies behind URLs of its own instead of in the registry (a foreign layer).
    is_elsewhere: bool,
}

/// An entry of a manifest that is no descriptor.
#[derive(Debug, thiserror::Error)]
pub enum NoDescriptor {
    /// It lacks what the specification requires.
    #[error("a descriptor of the manifest is not valid")]
    Form(#[source] serde_json::Error),
    /// By another algorithm than those that registries know, or not a digest.
    #[error("a descriptor of the manifest has the digest {0:?}")]
    Digest(String),
}

impl Manifest {
    /// Reads one.
    ///
    /// # Errors
    /// When it is not a JSON object, or lists are something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// What it says that it is, or what its form says: an OCI one may leave that out.
    pub fn media_type(&self) -> &str {
        let stated = self.media_type.as_deref();
        stated.unwrap_or(if self.is_index() {
            "application/vnd.oci.image.index.v1+json"
        } else {
            USUAL
        })
    }

    /// Whether it names manifests instead of blobs.
    pub const fn is_index(&self) -> bool {
        self.manifests.is_some()
    }

    /// Its configuration; an index has none.
    pub fn config(&self) -> Option<Result<Descriptor, NoDescriptor>> {
        self.config.as_ref().map(Descriptor::read)
    }

    /// Its layers, without those that lie elsewhere.
    pub fn layers(&self) -> impl Iterator<Item = Result<Descriptor, NoDescriptor>> {
        here(&self.layers)
    }

    /// Configuration and layers: what a pull of it asks for as blobs.
    pub fn blobs(&self) -> impl Iterator<Item = Result<Descriptor, NoDescriptor>> {
        self.config().into_iter().chain(self.layers())
    }

    /// The manifests of an index.
    pub fn manifests(&self) -> impl Iterator<Item = Result<Descriptor, NoDescriptor>> {
        here(self.manifests.as_deref().unwrap_or_default())
    }
}

fn here(entries: &[Value]) -> impl Iterator<Item = Result<Descriptor, NoDescriptor>> {
    let is_here =
        |read: &Result<Descriptor, _>| read.as_ref().map_or(true, |one| !one.is_elsewhere);
    entries.iter().map(Descriptor::read).filter(is_here)
}

impl Descriptor {
    fn read(entry: &Value) -> Result<Self, NoDescriptor> {
        let read = image::Descriptor::deserialize(entry).map_err(NoDescriptor::Form)?;
        let digest = read.digest().to_string();
        let Ok(digest) = digest.parse() else {
            return Err(NoDescriptor::Digest(digest));
        };
        Ok(Self {
            digest,
            size: read.size(),
            platform: read.platform().clone(),
            is_elsewhere: read.urls().as_ref().is_some_and(|urls| !urls.is_empty()),
        })
    }

    /// Whether `os/architecture[/variant]` means its platform; a variant that is not named is any.
    pub fn is_for(&self, wanted: &str) -> bool {
        let Some(platform) = &self.platform else {
            return false;
        };
        let (os, architecture) = (
            platform.os().to_string(),
            platform.architecture().to_string(),
        );
        let variant = platform.variant().clone().unwrap_or_default();
        let mut parts = wanted.split('/');
        parts.next() == Some(&*os)
            && parts.next() == Some(&*architecture)
            && parts.next().is_none_or(|wanted| wanted == variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn parse(value: &Value) -> Manifest {
        Manifest::parse(value.to_string().as_bytes()).unwrap()
    }

    fn layer(digest: &str) -> Value {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 7,
        })
    }

    #[test]
    fn a_layer_that_is_none_spoils_no_other() {
        let bad = serde_json::json!({"digest": "sha256:short"});
        let manifest = parse(&serde_json::json!({
            "config": layer(A), "layers": [bad, layer(B), {"size": -1}, layer("md5:00")],
        }));
        let read: Vec<_> = manifest.blobs().collect();
        assert_eq!(read.iter().filter(|one| one.is_err()).count(), 3);
        let digests: Vec<_> = read.into_iter().flatten().collect();
        let digests: Vec<_> = digests.iter().map(|one| one.digest.to_string()).collect();
        assert_eq!(digests, [A, B]);
    }

    #[test]
    fn what_lies_elsewhere_is_not_named() {
        let mut foreign = layer(A);
        foreign["urls"] = serde_json::json!(["https://example.com/layer"]);
        let mut own = layer(B);
        own["urls"] = serde_json::json!([]);
        let manifest = parse(&serde_json::json!({"layers": [foreign, own]}));
        let digests: Vec<_> = manifest.blobs().flatten().collect();
        assert_eq!(digests.len(), 1);
        assert_eq!(digests[0].digest.to_string(), B);
    }

    #[test]
    fn types_are_stated_or_follow_from_the_form() {
        for (value, is) in [
            (
                serde_json::json!({"mediaType": "text/x", "manifests": []}),
                "text/x",
            ),
            (
                serde_json::json!({"manifests": []}),
                "application/vnd.oci.image.index.v1+json",
            ),
            (
                serde_json::json!({}),
                "application/vnd.oci.image.manifest.v1+json",
            ),
        ] {
            assert_eq!(parse(&value).media_type(), is, "{value}");
        }
    }

    #[test]
    fn platforms_as_people_write_them() {
        let mut child = layer(A);
        child["platform"] =
            serde_json::json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
        let index = parse(&serde_json::json!({"manifests": [child, layer(B)]}));
        let children: Vec<_> = index.manifests().flatten().collect();
        for (wanted, is) in [
            ("linux/arm64", true),
            ("linux/arm64/v8", true),
            ("linux/arm64/v7", false),
            ("linux/amd64", false),
            ("linux", false),
            ("", false),
        ] {
            assert_eq!(children[0].is_for(wanted), is, "{wanted}");
        }
        assert!(!children[1].is_for("linux/arm64"));
    }
}
