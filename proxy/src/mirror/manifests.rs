//! Manifests: by tag, which is resolved first, and by digest.

use axum::{BoxError, body::Body};
use bytes::{Bytes, BytesMut};
use darter_api::{
    Digest, Lengths, Origin, OriginKind, Repository, TaskId,
    session::{Purpose, Reference},
};
use darter_runtime::server::span::set_spans;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, Response, header};

use super::{Call, Failure, blobs, held::Room};
use crate::{
    content::{Content, MAX_MANIFEST_BYTES, Sizing, Want},
    manifest::{Descriptor, Manifest, NoDescriptor, USUAL},
};

/// Descriptors of one manifest that the swarm is told of.
pub(super) const MAX_DESCRIPTORS: usize = 4096;
/// Longer ones are sent from the store's file, if they are there: who reads slowly holds no memory.
const LONG: usize = 64 * 1024;

/// All of a manifest, in memory.
struct Read {
    content: Content,
    bytes: Bytes,
    room: Room,
}

impl Call<'_> {
    pub(super) async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Response<Body>, Failure> {
        let origin = Origin {
            upstream: self.upstream.name().clone(),
            repository: repository.clone(),
            kind: OriginKind::Manifest,
            private: self.is_private(),
        };
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => self.resolve_tag(repository, tag).await?,
        };
        let allowed = self
            .mirror
            .rights
            .check(&origin, &digest, self.credential.as_ref());
        let allowed = self
            .of_upstream(allowed)
            .await?
            .map_err(|error| Failure::from_source(&error, true))?;
        if self.not_modified(&digest) {
            return Ok(blobs::not_modified(&digest));
        }
        let read = self.manifest_bytes(&origin, digest, allowed.stat.size);
        let mut read = read.await?;
        let parsed = Manifest::parse(&read.bytes).ok();
        let media_type = allowed
            .stat
            .media_type
            .filter(|media_type| media_type != "application/octet-stream")
            .or(read.content.media_type.take())
            .or_else(|| Some(parsed.as_ref()?.media_type().to_owned()))
            .unwrap_or_else(|| USUAL.to_owned());
        if let Some(parsed) = &parsed {
            self.tell_interest(&origin, parsed);
        }
        let response = Response::builder()
            .header(header::CONTENT_TYPE, media_type)
            .header(header::CONTENT_LENGTH, read.bytes.len())
            .header("docker-content-digest", digest.to_string())
            .header(header::ETAG, format!("\"{digest}\""))
            .body(Body::empty());
        let mut response = response.map_err(|_| {
            Failure::BadGateway("the registry's media type is not valid".to_owned())
        })?;
        if self.method != Method::HEAD {
            read.into_body(&mut response);
        }
        Ok(response)
    }

    async fn manifest_bytes(
        &self,
        origin: &Origin,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<Read, Failure> {
        let want = Want {
            task: digest.into(),
            origin: origin.clone(),
            size,
            credential: self.credential.clone(),
            purpose: Purpose::Pull,
            excerpt: None,
            sizing: Sizing::Needed,
        };
        let read = async {
            let content = self
                .mirror
                .contents
                .open(want)
                .await
                .map_err(|error| Failure::from_open(&error, true))?;
            let size = content.size.unwrap_or(u64::MAX);
            if size > MAX_MANIFEST_BYTES {
                let what = format!("a manifest of {size} bytes is over the limit");
                return Err(Failure::BadGateway(what));
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let room = self.mirror.held.room(size).await?;
            let mut stream = content.reader.read(content.all());
            let mut bytes = BytesMut::with_capacity(size);
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk.map_err(|error| Failure::from_read(&error, true))?);
            }
            Ok(Read {
                content,
                bytes: bytes.freeze(),
                room,
            })
        };
        self.of_content(&digest.into(), read).await?
    }

    /// Tells the swarm what a pull of this manifest will want next.
    fn tell_interest(&self, origin: &Origin, parsed: &Manifest) {
        for (kind, tasks) in named(parsed) {
            if !tasks.is_empty() {
                let origin = Origin {
                    kind,
                    ..origin.clone()
                };
                self.mirror.contents.interest(tasks, origin);
            }
        }
    }
}

impl Read {
    /// As a response's body.
    fn into_body(self, response: &mut Response<Body>) {
        let Self {
            content,
            bytes,
            room,
        } = self;
        if bytes.len() > LONG && content.reader.is_here() {
            let spans = content.reader.spans(content.all());
            set_spans(response, spans.map_err(BoxError::from).boxed());
        } else {
            *response.body_mut() = room.body(bytes);
        }
    }
}

/// What a manifest names, at most [`MAX_DESCRIPTORS`] of a kind.
pub(super) fn named(manifest: &Manifest) -> [(OriginKind, Vec<(TaskId, Lengths)>); 2] {
    [
        (OriginKind::Blob, tasks(manifest.blobs())),
        (OriginKind::Manifest, tasks(manifest.manifests())),
    ]
}

fn tasks(named: impl Iterator<Item = Result<Descriptor, NoDescriptor>>) -> Vec<(TaskId, Lengths)> {
    let task = |one: Descriptor| Some((one.digest.into(), Lengths::of(one.size).ok()?));
    let tasks = named.flatten().filter_map(task);
    tasks.take(MAX_DESCRIPTORS).collect()
}
