//! What an image is made of: its manifests and what they name, all of it asked for at the
//! registry, so that what is missing is known before anything moves.

use std::{collections::HashSet, sync::Arc};

use axum::body::Body;
use darter_api::{
    Digest, Origin, OriginKind,
    preheat::{Authorization, Content, ImageName, MOST_CONTENTS, Report, cut},
    session::Reference,
};
use futures::{StreamExt as _, stream};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;

use super::{Preheater, SignIn};
use crate::{
    content::MAX_MANIFEST_BYTES,
    credential::Credential,
    mirror::{Anew, chain},
    source::SourceError,
    upstream::{MANIFEST_TYPES, Upstream, Upstreams},
};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

/// Manifests of an index at most.
const MOST_MANIFESTS: usize = 256;
/// Questions to the registry at the same time.
const QUESTIONS: usize = 8;
/// Registries name these when they name no port.
const PORTS: [u16; 2] = [443, 80];

/// An image can't be resolved.
#[derive(Debug)]
struct Unresolved {
    digest: Option<Digest>,
    why: String,
    elsewhere: bool,
}

impl Unresolved {
    fn here(why: impl Into<String>) -> Self {
        Self {
            digest: None,
            why: why.into(),
            elsewhere: true,
        }
    }

    fn anywhere(digest: Option<Digest>, why: impl Into<String>) -> Self {
        Self {
            digest,
            why: why.into(),
            elsewhere: false,
        }
    }
}

impl From<Unresolved> for Report {
    fn from(unresolved: Unresolved) -> Self {
        Self::Unresolved {
            digest: unresolved.digest,
            why: cut(unresolved.why),
            elsewhere: unresolved.elsewhere,
        }
    }
}

/// Of an image manifest (OCI, or Docker's schema 2).
#[derive(Debug, Deserialize)]
struct ImageManifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// Of an index, or Docker's manifest list.
#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Vec<String>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Platform {
    /// Whether `os/architecture[/variant]` means it; a variant that is not named is any.
    fn is(&self, wanted: &str) -> bool {
        let mut parts = wanted.split('/');
        let fits = |part: Option<&str>, own: &str| part.is_some_and(|part| part == own);
        fits(parts.next(), &self.os)
            && fits(parts.next(), &self.architecture)
            && parts.next().is_none_or(|variant| variant == self.variant)
    }
}

/// One question's answer.
struct Manifest {
    digest: Digest,
    bytes: bytes::Bytes,
}

impl Manifest {
    fn content(&self) -> Content {
        Content {
            digest: self.digest,
            size: self.bytes.len() as u64,
            kind: OriginKind::Manifest,
            url: None,
        }
    }
}

/// A repository as one caller sees it.
struct Seen<'a> {
    preheater: &'a Preheater,
    upstream: &'a Arc<Upstream>,
    image: &'a ImageName,
    credential: Option<Credential>,
}

impl Preheater {
    /// What an image is made of. Cancel-safe.
    pub(super) async fn resolve(&self, image: ImageName, authorization: &Authorization) -> Report {
        let Some(upstream) = registry(&self.upstreams, &image.registry) else {
            let what = format!("{} is not on the host's list of registries", image.registry);
            return Unresolved::here(what).into();
        };
        let credential = match SignIn::new(upstream, &image.repository, authorization) {
            Some(sign_in) => Some(sign_in.credential().await),
            None => None,
        };
        let token = token(authorization, credential.as_ref());
        let seen = Seen {
            preheater: self,
            upstream,
            image: &image,
            credential,
        };
        match seen.contents().await {
            Ok(contents) => Report::Resolved {
                upstream: upstream.name().clone(),
                contents,
                token,
            },
            Err(unresolved) => unresolved.into(),
        }
    }
}

/// What the registry gave for a password; nothing where it gives no tokens, or one was brought.
fn token(brought: &Authorization, shown: Option<&Credential>) -> Authorization {
    let text = shown.and_then(|shown| shown.header().to_str().ok());
    let token = text.and_then(|text| Authorization::checked(text.to_owned()));
    token
        .filter(|token| token.is_token() && !brought.is_token())
        .unwrap_or_default()
}

/// By name or alias, else by where it is.
pub(crate) fn registry<'a>(upstreams: &'a Upstreams, name: &str) -> Option<&'a Arc<Upstream>> {
    upstreams.resolve(name).or_else(|| {
        let mut places = places(name);
        places.find_map(|(host, port)| upstreams.by_address(host, port))
    })
}

/// Whether this registry is called so; of several at one address each is.
pub(super) fn is_called(upstreams: &Upstreams, upstream: &Arc<Upstream>, name: &str) -> bool {
    match upstreams.resolve(name) {
        Some(called) => Arc::ptr_eq(called, upstream),
        None => places(name).any(|(host, port)| upstream.is_at(host, port)),
    }
}

/// Where a registry is that is called by its address.
fn places(name: &str) -> impl Iterator<Item = (&str, u16)> {
    let port = |(host, port): (_, &str)| Some((host, port.parse::<u16>().ok()?));
    let named = name.rsplit_once(':').and_then(port);
    let usual = PORTS.map(|port| (name, port)).into_iter();
    let usual = usual.filter(move |_| named.is_none());
    named.into_iter().chain(usual)
}

impl Seen<'_> {
    async fn contents(&self) -> Result<Vec<Content>, Unresolved> {
        let top = self.manifest(&self.image.reference).await?;
        let mut manifests = vec![top];
        if let Ok(index) = serde_json::from_slice::<Index>(&manifests[0].bytes) {
            for child in self.chosen(index)? {
                let reference = Reference::Digest(child);
                manifests.push(self.manifest(&reference).await?);
            }
        }
        let is_index = manifests.len() > 1;
        let mut contents: Vec<Content> = manifests.iter().map(Manifest::content).collect();
        for manifest in manifests.iter().skip(usize::from(is_index)) {
            contents.extend(blobs(manifest)?);
        }
        let mut known = HashSet::new();
        contents.retain(|content| known.insert(content.digest));
        if contents.len() > MOST_CONTENTS {
            let what = format!("the image has more than {MOST_CONTENTS} contents");
            return Err(Unresolved::anywhere(None, what));
        }
        self.check(&contents).await?;
        Ok(contents)
    }

    /// The manifests of an index that are wanted.
    fn chosen(&self, index: Index) -> Result<Vec<Digest>, Unresolved> {
        let wanted = &self.image.platforms;
        let is_wanted = |child: &Descriptor| {
            let is = |platform: &Platform| wanted.iter().any(|wanted| platform.is(wanted));
            wanted.is_empty() || child.platform.as_ref().is_some_and(is)
        };
        let children = index.manifests.into_iter().filter(is_wanted);
        let digests: Result<Vec<Digest>, _> = children.map(|child| child.digest.parse()).collect();
        let digests =
            digests.map_err(|_| Unresolved::anywhere(None, "the index names no digest"))?;
        if digests.is_empty() {
            let what = format!("the index has no manifest for {}", wanted.join(", "));
            return Err(Unresolved::anywhere(None, what));
        }
        if digests.len() > MOST_MANIFESTS {
            let what = format!("the index has more than {MOST_MANIFESTS} manifests");
            return Err(Unresolved::anywhere(None, what));
        }
        Ok(digests)
    }

    /// A manifest as the mirror gives it: its right checked, a tag asked anew.
    async fn manifest(&self, reference: &Reference) -> Result<Manifest, Unresolved> {
        let (text, digest) = match reference {
            Reference::Tag(tag) => (tag.clone(), None),
            Reference::Digest(digest) => (digest.to_string(), Some(*digest)),
        };
        let path = format!("/v2/{}/manifests/{text}", self.image.repository);
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .extension(Anew)
            .header(header::ACCEPT, MANIFEST_TYPES);
        if let Some(credential) = &self.credential {
            request = request.header(header::AUTHORIZATION, credential.header());
        }
        let request = request
            .body(Body::empty())
            .map_err(|_| Unresolved::anywhere(None, format!("no tag is called {text}")))?;
        let name = Some(self.upstream.name().clone());
        let response = self.preheater.mirror.handle(name, request).await;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_MANIFEST_BYTES as usize).collect();
        let body = body.await.map_err(|cause| {
            let what = format!("the manifest {text} can't be read: {cause}");
            Unresolved::here(what)
        })?;
        match parts.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                let what = format!("the registry has no manifest {text}");
                return Err(Unresolved::anywhere(digest, what));
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let what = format!("the registry refuses the manifest {text} ({status})");
                return Err(Unresolved::anywhere(digest, what));
            }
            status => {
                let what = format!("the manifest {text} can't be had ({status})");
                return Err(Unresolved::here(what));
            }
        }
        let told = parts.headers.get("docker-content-digest");
        let told = told.and_then(|value| value.to_str().ok()?.parse().ok());
        let digest = told.ok_or_else(|| Unresolved::here("the manifest has no digest"))?;
        Ok(Manifest {
            digest,
            bytes: body.to_bytes(),
        })
    }

    /// Asks the registry for each blob, which also shows whether anybody may read it.
    async fn check(&self, contents: &[Content]) -> Result<(), Unresolved> {
        let blobs = contents
            .iter()
            .filter(|content| content.kind == OriginKind::Blob);
        let checks: Vec<_> = blobs.map(|blob| self.check_one(blob.clone())).collect();
        let mut checks = stream::iter(checks).buffer_unordered(QUESTIONS);
        while let Some(check) = checks.next().await {
            check?;
        }
        Ok(())
    }

    async fn check_one(&self, blob: Content) -> Result<(), Unresolved> {
        let origin = Origin {
            upstream: self.upstream.name().clone(),
            repository: self.image.repository.clone(),
            kind: OriginKind::Blob,
            private: self.credential.is_some(),
        };
        let digest = blob.digest;
        let rights = &self.preheater.rights;
        let allowed = rights.check(&origin, &digest, self.credential.as_ref());
        match allowed.await {
            Ok(allowed) if allowed.stat.size.is_none_or(|size| size == blob.size) => Ok(()),
            Ok(_) => Err(Unresolved::anywhere(
                Some(digest),
                format!("the registry has {digest} with another size than its manifest says"),
            )),
            Err(error) => match &*error {
                error if error.is_missing() => Err(Unresolved::anywhere(
                    Some(digest),
                    format!("the registry has no blob {digest}"),
                )),
                error @ SourceError::Refused(_) => Err(Unresolved::anywhere(
                    Some(digest),
                    format!("{digest}: {}", chain(error)),
                )),
                // Others may have it, or it may come back.
                _ => Ok(()),
            },
        }
    }
}

/// What a manifest names; what lies elsewhere (foreign layers) is left out.
fn blobs(manifest: &Manifest) -> Result<Vec<Content>, Unresolved> {
    let nonsense = |_| {
        let what = format!("{} is no image manifest", manifest.digest);
        Unresolved::anywhere(Some(manifest.digest), what)
    };
    let parsed: ImageManifest = serde_json::from_slice(&manifest.bytes).map_err(nonsense)?;
    let all = std::iter::once(parsed.config).chain(parsed.layers);
    let here = all.filter(|descriptor| descriptor.urls.is_empty());
    here.map(|descriptor| {
        let digest = descriptor.digest.parse();
        let nothing = |_| Unresolved::anywhere(Some(manifest.digest), "a layer without a digest");
        Ok(Content {
            digest: digest.map_err(nothing)?,
            size: descriptor.size,
            kind: OriginKind::Blob,
            url: None,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_as_people_write_them() {
        let arm = Platform {
            os: "linux".to_owned(),
            architecture: "arm64".to_owned(),
            variant: "v8".to_owned(),
        };
        for (wanted, is) in [
            ("linux/arm64", true),
            ("linux/arm64/v8", true),
            ("linux/arm64/v7", false),
            ("linux/amd64", false),
            ("linux", false),
            ("", false),
        ] {
            assert_eq!(arm.is(wanted), is, "{wanted}");
        }
    }

    #[test]
    fn passwords_are_not_passed_on() {
        let brought = |text: &str| Authorization::new(text.to_owned());
        let shown = |text: &str| Credential::new(text.parse().unwrap());
        let of = |was: &str, is: &str| {
            let token = token(&brought(was), Some(&shown(is)));
            token.reveal().map(str::to_owned)
        };
        assert_eq!(of("Basic dTpw", "Bearer t").as_deref(), Some("Bearer t"));
        assert_eq!(of("Basic dTpw", "Basic dTpw"), None);
        assert_eq!(of("Bearer t", "Bearer t"), None, "the registry made none");
        assert_eq!(token(&brought(""), None).reveal(), None);
    }

    #[test]
    fn a_manifest_names_what_the_registry_has() {
        let digest = Digest::sha256(b"x");
        let text = format!(
            r#"{{"config":{{"digest":"{digest}","size":1}},"layers":[
                {{"digest":"{digest}","size":2}},
                {{"digest":"{digest}","size":3,"urls":["https://elsewhere.example/"]}}]}}"#
        );
        let manifest = |text: &str| Manifest {
            digest,
            bytes: text.to_owned().into(),
        };
        let sizes = |list: Vec<Content>| list.iter().map(|one| one.size).collect::<Vec<_>>();
        assert_eq!(sizes(blobs(&manifest(&text)).unwrap()), [1, 2]);
        for nonsense in ["[]", "{}", r#"{"config":{"digest":"md5:0","size":1}}"#] {
            assert!(blobs(&manifest(nonsense)).is_err(), "{nonsense}");
        }
    }
}
