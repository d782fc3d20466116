//! A registry whose blobs lie in an object store, as most hosted ones are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};

use super::{Authority, Body, Objects, SERVICE, Server, Tokens, full};
use crate::image::Image;

/// Runs until it is dropped.
pub struct Redirecting {
    server: Server,
    state: Arc<State>,
}

struct State {
    objects: Objects,
    tokens: Tokens,
    life: Duration,
    /// Body and media type by path: manifests.
    manifests: Mutex<BTreeMap<String, (Bytes, String)>>,
    /// Size of blobs by path.
    blobs: Mutex<BTreeMap<String, usize>>,
}

impl Redirecting {
    /// One that asks for `tokens` and whose signed URLs live for `life`.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start(
        authority: &Authority,
        objects: &Objects,
        tokens: &Tokens,
        life: Duration,
    ) -> Result<Self> {
        let state = Arc::new(State {
            objects: objects.clone(),
            tokens: tokens.clone(),
            life,
            manifests: Mutex::default(),
            blobs: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let tls = authority.server(&authority.issue("redirecting")?, false)?;
        let server = Server::start(Some(tls), move |request| shared.answer(&request));
        Ok(Self {
            server: server.await?,
            state,
        })
    }

    /// `https://localhost:<port>`
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Takes an image in, under its own name and a tag.
    pub fn put(&self, image: &Image, tag: &str) {
        let name = &image.repository;
        let lock = PoisonError::into_inner;
        let mut manifests = self.state.manifests.lock().unwrap_or_else(lock);
        for reference in [tag, &image.manifest.to_string()] {
            let manifest = (image.manifest_bytes.clone(), image.media_type.to_owned());
            manifests.insert(format!("/v2/{name}/manifests/{reference}"), manifest);
        }
        let mut blobs = self
            .state
            .blobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for blob in image.layers.iter().chain([&image.config]) {
            self.state
                .objects
                .put(&object(&blob.digest.to_string()), &blob.bytes);
            let path = format!("/v2/{name}/blobs/{}", blob.digest);
            blobs.insert(path, blob.bytes.len());
        }
    }
}

/// `sha256:ab..` is kept as `sha256/ab..`.
fn object(digest: &str) -> String {
    digest.replace(':', "/")
}

impl State {
    fn answer(&self, request: &Request<Bytes>) -> Response<Body> {
        let path = request.uri().path();
        let rest = path.strip_prefix("/v2/").unwrap_or_default();
        let name = rest.rsplitn(3, '/').nth(2).unwrap_or_default();
        let shown = request.headers().get(header::AUTHORIZATION);
        let shown = shown.and_then(|value| value.to_str().ok());
        if !self.tokens.admits(shown, name) {
            let realm = self.tokens.realm();
            let challenge = format!(
                "Bearer realm=\"{realm}\",service=\"{SERVICE}\",scope=\"repository:{name}:pull\""
            );
            return reply(StatusCode::UNAUTHORIZED)
                .header(header::WWW_AUTHENTICATE, challenge)
                .body(full("{}"))
                .expect("a valid reply");
        }
        let is_head = request.method() == Method::HEAD;
        let body = |bytes: Bytes| full(if is_head { Bytes::new() } else { bytes });
        let manifests = self
            .manifests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((bytes, media_type)) = manifests.get(path) {
            return reply(StatusCode::OK)
                .header(header::CONTENT_TYPE, media_type)
                .header(header::CONTENT_LENGTH, bytes.len())
                .header(
                    "docker-content-digest",
                    darter_api::Digest::sha256(bytes).to_string(),
                )
                .body(body(bytes.clone()))
                .expect("a valid reply");
        }
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(size) = blobs.get(path) else {
            return reply(StatusCode::NOT_FOUND)
                .body(full("{}"))
                .expect("a valid reply");
        };
        if is_head {
            return reply(StatusCode::OK)
                .header(header::CONTENT_LENGTH, *size)
                .body(full(""))
                .expect("a valid reply");
        }
        let digest = path.rsplit('/').next().unwrap_or_default();
        match self.objects.presign(&object(digest), self.life) {
            Ok(url) => reply(StatusCode::TEMPORARY_REDIRECT)
                .header(header::LOCATION, url)
                .body(full(""))
                .expect("a valid reply"),
            Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR)
                .body(full(""))
                .expect("a valid reply"),
        }
    }
}

fn reply(status: StatusCode) -> http::response::Builder {
    Response::builder().status(status)
}
