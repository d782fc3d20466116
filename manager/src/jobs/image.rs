//! Images as people and registries write them.

use darter_api::{Digest, Repository, session::Reference, wire::v1};
use serde::{Deserialize, Serialize};

use super::WishError;

/// Where Docker looks when no registry is named.
const DOCKER_HUB: &str = "docker.io";
/// Of a registry's name.
const MOST_REGISTRY: usize = 255;

/// An image by its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) registry: String,
    pub(crate) repository: String,
    /// A tag, or a digest.
    pub(crate) reference: String,
}

impl Image {
    /// `library/app:1`, `registry:5000/app@sha256:..`; without a registry Docker Hub's, without
    /// a tag `latest`.
    pub(crate) fn parse(text: &str) -> Result<Self, WishError> {
        let (registry, rest) = match text.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DOCKER_HUB, text),
        };
        let (name, reference) = if let Some((name, digest)) = rest.split_once('@') {
            // A tag beside a digest says nothing.
            (name.split_once(':').map_or(name, |(name, _)| name), digest)
        } else {
            rest.split_once(':').unwrap_or((rest, "latest"))
        };
        let official = registry == DOCKER_HUB && !name.contains('/');
        let repository = if official {
            format!("library/{name}")
        } else {
            name.to_owned()
        };
        Self::checked(registry, &repository, reference)
    }

    /// `https://registry/v2/library/app/manifests/1`
    pub(crate) fn parse_url(text: &str) -> Result<Self, WishError> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let parts = rest.and_then(|rest| {
            let (registry, path) = rest.split_once('/')?;
            let path = path.split(['?', '#']).next()?.strip_prefix("v2/")?;
            let (repository, reference) = path.rsplit_once("/manifests/")?;
            Some((registry, repository, reference))
        });
        let (registry, repository, reference) = parts.ok_or(WishError::Url)?;
        Self::checked(registry, repository, reference)
    }

    /// By its parts, as a registry names itself: also by one word.
    pub(crate) fn checked(
        registry: &str,
        repository: &str,
        reference: &str,
    ) -> Result<Self, WishError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if registry.is_empty() || registry.len() > MOST_REGISTRY || !registry.bytes().all(plain) {
            return Err(WishError::Registry);
        }
        repository
            .parse::<Repository>()
            .map_err(|_| WishError::Repository)?;
        let image = Self {
            registry: registry.to_ascii_lowercase(),
            repository: repository.to_owned(),
            reference: reference.to_owned(),
        };
        image.reference()?;
        Ok(image)
    }

    /// The reference, understood.
    pub(crate) fn reference(&self) -> Result<Reference, WishError> {
        if self.reference.contains(':') {
            let digest: Digest = self.reference.parse().map_err(|_| WishError::Reference)?;
            return Ok(Reference::Digest(digest));
        }
        // The distribution specification: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let mut bytes = self.reference.bytes();
        let tag =
            bytes.next().is_some_and(word) && bytes.all(|byte| word(byte) || b".-".contains(&byte));
        if tag && self.reference.len() <= 128 {
            Ok(Reference::Tag(self.reference.clone()))
        } else {
            Err(WishError::Reference)
        }
    }

    /// As schedulers and hosts are told it.
    pub(crate) fn on_the_wire(&self, platforms: Vec<String>) -> v1::PreheatImage {
        use v1::preheat_image::Reference as Wire;
        let reference = if self.reference.contains(':') {
            Wire::Digest(self.reference.clone())
        } else {
            Wire::Tag(self.reference.clone())
        };
        v1::PreheatImage {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            platforms,
            reference: Some(reference),
        }
    }

    /// Where the registry has a content of it, as its API names it.
    pub(crate) fn url_of(&self, digest: &str, manifest: bool) -> String {
        let kind = if manifest { "manifests" } else { "blobs" };
        format!(
            "https://{}/v2/{}/{kind}/{digest}",
            self.registry, self.repository
        )
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.reference.contains(':') {
            '@'
        } else {
            ':'
        };
        write!(
            f,
            "{}/{}{separator}{}",
            self.registry, self.repository, self.reference
        )
    }
}

/// As Docker tells a registry from a repository's first component.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_write_them() {
        let digest = Digest::sha256(b"x").to_string();
        for (text, shown) in [
            ("app", "docker.io/library/app:latest".to_owned()),
            ("library/app:1", "docker.io/library/app:1".to_owned()),
            ("a/b/c:1.0", "docker.io/a/b/c:1.0".to_owned()),
            ("localhost/app:1", "localhost/app:1".to_owned()),
            (
                "R.Example.com:5000/x/y:v",
                "r.example.com:5000/x/y:v".to_owned(),
            ),
            (&format!("r.io/x:1@{digest}"), format!("r.io/x@{digest}")),
        ] {
            assert_eq!(Image::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for bad in [
            "",
            "/",
            "App",
            "app:",
            "app:-x",
            "app@sha256:00",
            "r.io/",
            "a b",
            "<b>/x",
            "x'; --",
            "r.io/x:é",
        ] {
            assert!(Image::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn as_harbor_writes_them() {
        let image = Image::parse_url("https://harbor.x/v2/library/nginx/manifests/1.27").unwrap();
        assert_eq!(image.to_string(), "harbor.x/library/nginx:1.27");
        let url = "https://harbor.x/v2/library/nginx/blobs/sha256:0";
        assert_eq!(image.url_of("sha256:0", false), url);
        for bad in [
            "",
            "ftp://x/v2/a/manifests/1",
            "https://x/v2/a/blobs/1",
            "https://x/a/manifests/1",
            "https:///v2/a/manifests/1",
            "https://u@x/v2/a/manifests/1",
            "https://x/v2/../manifests/1",
        ] {
            assert!(Image::parse_url(bad).is_err(), "{bad}");
        }
    }
}
