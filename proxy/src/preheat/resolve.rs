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

use super::{Preheater, SignIn};
use crate::{
    content::MAX_MANIFEST_BYTES,
    credential::Credential,
    manifest::{Descriptor, Manifest},
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

/// One question's answer.
struct Answer {
    digest: Digest,
    bytes: bytes::Bytes,
}

impl Answer {
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
        let parsed = Manifest::parse(&manifests[0].bytes);
        if let Some(index) = parsed.ok().filter(Manifest::is_index) {
            for child in chosen(&index, &self.image.platforms)? {
                let reference = Reference::Digest(child);
                manifests.push(self.manifest(&reference).await?);
            }
        }
        let is_index = manifests.len() > 1;
        let mut contents: Vec<Content> = manifests.iter().map(Answer::content).collect();
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

    /// A manifest as the mirror gives it: its right checked, a tag asked anew.
    async fn manifest(&self, reference: &Reference) -> Result<Answer, Unresolved> {
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
        Ok(Answer {
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

/// The manifests of an index that are wanted; all of them, attestations among them, where no platform
/// is named. One that can't be read is none of a platform's, but is missed where all are wanted.
fn chosen(index: &Manifest, wanted: &[String]) -> Result<Vec<Digest>, Unresolved> {
    let is_wanted =
        |child: &Descriptor| wanted.is_empty() || wanted.iter().any(|wanted| child.is_for(wanted));
    let mut odd = None;
    let children = index.manifests().filter_map(|read| {
        // It may be for a platform that nobody wants, and spoils none of the others.
        let told = read.inspect_err(|cause| {
            let cause = chain(cause);
            tracing::info!(%cause, "a manifest of an index is left out of a preheat");
        });
        told.map_err(|cause| odd = Some(cause)).ok()
    });
    let wanted_ones = children.filter(is_wanted);
    let digests: Vec<Digest> = wanted_ones.map(|child| child.digest).collect();
    if digests.is_empty() {
        let platforms = match wanted {
            [] => "any platform".to_owned(),
            some => some.join(", "),
        };
        let odd = odd.map(|cause| format!(" ({})", chain(&cause)));
        let odd = odd.unwrap_or_default();
        let what = format!("the index has no manifest for {platforms}{odd}");
        return Err(Unresolved::anywhere(None, what));
    }
    if let (Some(cause), []) = (&odd, wanted) {
        let what = format!(
            "the index names a manifest that can't be had ({}); name platforms to do without it",
            chain(cause)
        );
        return Err(Unresolved::anywhere(None, what));
    }
    if digests.len() > MOST_MANIFESTS {
        let what = format!("the index has more than {MOST_MANIFESTS} manifests");
        return Err(Unresolved::anywhere(None, what));
    }
    Ok(digests)
}

/// What a manifest names; what lies elsewhere (foreign layers) is left out.
fn blobs(answer: &Answer) -> Result<Vec<Content>, Unresolved> {
    let nonsense = |why: String| {
        let what = format!("{} is no image manifest: {why}", answer.digest);
        Unresolved::anywhere(Some(answer.digest), what)
    };
    let parsed = Manifest::parse(&answer.bytes).map_err(|cause| nonsense(cause.to_string()))?;
    if parsed.config().is_none() {
        return Err(nonsense("it names no configuration".to_owned()));
    }
    let content = |descriptor: Descriptor| Content {
        digest: descriptor.digest,
        size: descriptor.size,
        kind: OriginKind::Blob,
        url: None,
    };
    let blobs = parsed.blobs().map(|read| read.map(content));
    blobs
        .collect::<Result<_, _>>()
        .map_err(|cause| nonsense(chain(&cause)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_child_that_is_none_spoils_no_platform_but_is_missed_where_all_are_wanted() {
        let entry = |of: &str, architecture: &str| {
            format!(
                r#"{{"mediaType":"{}","digest":"{of}","size":1,
                    "platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
                "application/vnd.oci.image.manifest.v1+json"
            )
        };
        let good = Digest::sha256(b"x");
        let (good_one, odd) = (entry(&good.to_string(), "amd64"), entry("md5:00", "arm64"));
        let index = |entries: &[&str]| {
            let text = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
            Manifest::parse(text.as_bytes()).unwrap()
        };
        let wanted = |platform: &str| vec![platform.to_owned()];
        for entries in [[&*odd, &*good_one], [&*good_one, "{}"]] {
            let amd64 = chosen(&index(&entries), &wanted("linux/amd64"));
            assert_eq!(amd64.unwrap(), [good]);
        }
        let why =
            |entries: &[&str], wanted: &[String]| chosen(&index(entries), wanted).unwrap_err().why;
        for (entries, named) in [
            ([&*odd, &*good_one], "md5:00"),
            ([&*good_one, "{}"], "valid"),
        ] {
            let missed = why(&entries, &[]);
            assert!(
                missed.contains(named) && missed.contains("name platforms"),
                "{missed}"
            );
        }
        let nothing = why(&[&odd, &good_one], &wanted("linux/arm64"));
        assert!(
            nothing.contains("linux/arm64") && nothing.contains("md5:00"),
            "{nothing}"
        );
        assert_eq!(why(&[], &[]), "the index has no manifest for any platform");
    }

    #[test]
    fn a_manifest_names_what_the_registry_has() {
        let digest = Digest::sha256(b"x");
        let entry = format!(r#""mediaType":"application/octet-stream","digest":"{digest}""#);
        let text = format!(
            r#"{{"config":{{{entry},"size":1}},"layers":[{{{entry},"size":2}},
                {{{entry},"size":3,"urls":["https://elsewhere.example/"]}}]}}"#
        );
        let manifest = |text: &str| Answer {
            digest,
            bytes: text.to_owned().into(),
        };
        let sizes = |list: Vec<Content>| list.iter().map(|one| one.size).collect::<Vec<_>>();
        assert_eq!(sizes(blobs(&manifest(&text)).unwrap()), [1, 2]);
        let other = text.replace("sha256:", "md5:");
        for nonsense in ["[]", "{}", r#"{"layers":[]}"#, &other] {
            assert!(blobs(&manifest(nonsense)).is_err(), "{nonsense}");
        }
    }
}
