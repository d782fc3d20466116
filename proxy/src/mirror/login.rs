//! Clients that have to say who they are: to the registry, or to this proxy.
//!
//! A client that names the registry in the path asks for its challenge at `/v2/`, before it
//! says which registry it means; the token server that the challenge names is this mirror
//! ([`Inner::token`]). It gives an upstream's own token for the upstream's own name of the
//! repository, a token of the proxy's for upstreams that the proxy has credentials for, and to
//! who shows nothing one that stands for nothing, without asking anybody.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use darter_api::Repository;
use darter_runtime::{attempts::WINDOW, server::CallerAddress};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use serde_json::json;

use super::{Failure, Inner, route::Kind};
use crate::{
    clients::{Admitted, Denied, Whence},
    credential::Credential,
    source::{Refusal, SourceError},
    upstream::Upstream,
};

/// Where tokens are asked for.
pub(super) const PATH: &str = "/token";
/// The token of who showed nothing.
const NOTHING: &str = "anonymous";
/// The service of a challenge that does not say which upstream is meant: the path does.
const SERVICE: &str = "darter";
/// Tokens that stand for a name and a password, for registries that know no tokens.
const PAIR: &str = "basic.";

/// The Authorization that is meant for the registry.
pub(super) fn shown(headers: &HeaderMap) -> Option<Credential> {
    let value = headers.get(header::AUTHORIZATION)?;
    let text = value.to_str().unwrap_or_default();
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("bearer") && rest == NOTHING {
        return None;
    }
    // Clients without a name send the Base64 of a colon.
    if scheme.eq_ignore_ascii_case("basic") && rest == "Og==" {
        return None;
    }
    if let Some(pair) = rest.strip_prefix(PAIR) {
        let basic = HeaderValue::try_from(format!("Basic {pair}"));
        return basic.ok().map(Credential::new);
    }
    Some(Credential::new(value.clone()))
}

impl Inner {
    /// The credential for the upstream that this client's request goes with, if the client is
    /// let in at all.
    pub(super) async fn credential(
        &self,
        upstream: &Upstream,
        kind: &Kind,
        headers: &HeaderMap,
        whence: Whence,
    ) -> Result<Option<Credential>, Denied> {
        let shown = shown(headers);
        if !upstream.has_own_credentials() {
            // What is meant for this proxy is for no registry to see.
            return Ok(shown.filter(|shown| !self.clients.is_ours(shown)));
        }
        // `/v2/` gives nothing of the registry's.
        if matches!(kind, Kind::Base | Kind::Moved) && !self.clients.have_names() {
            return Ok(None);
        }
        match self.admit(shown.as_ref(), whence).await? {
            Admitted::ByName => Ok(None),
            Admitted::Local => Ok(shown),
        }
    }

    async fn admit(&self, shown: Option<&Credential>, whence: Whence) -> Result<Admitted, Denied> {
        let admitted = self.clients.admit(shown, whence);
        let admitted = tokio::time::timeout(self.options.upstream_timeout, admitted).await;
        admitted.unwrap_or(Err(Denied::Busy))
    }

    /// Takes an Authorization that is meant for this proxy off a request to a registry.
    pub(super) fn keep_own(&self, headers: &mut HeaderMap) {
        if shown(headers).is_some_and(|shown| self.clients.is_ours(&shown)) {
            headers.remove(header::AUTHORIZATION);
        }
    }

    /// Whether `/v2/` asks clients to say who they are.
    pub(super) fn asks_for_names(&self) -> bool {
        self.options.login || self.clients.have_names()
    }

    /// A 401 that names this mirror's token server, or asks for a password where the client
    /// can't know the mirror by its own name.
    pub(super) fn ask_for_name(
        &self,
        upstream: &Upstream,
        headers: &HeaderMap,
        kind: &Kind,
        prefix: &str,
        is_intercepted: bool,
    ) -> Failure {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let host = host.filter(|host| !is_intercepted && is_authority(host));
        let challenge = match host {
            Some(host) => {
                let repository = kind.repository();
                let is_by_path = repository.is_none() || !prefix.is_empty();
                let service = match is_by_path {
                    true => SERVICE,
                    false => upstream.name().as_str(),
                };
                let scope =
                    repository.map(|name| format!(",scope=\"repository:{prefix}{name}:pull\""));
                let scope = scope.unwrap_or_default();
                format!("Bearer realm=\"http://{host}{PATH}\",service=\"{service}\"{scope}")
            }
            None => "Basic realm=\"darter\"".to_owned(),
        };
        let mut headers = HeaderMap::new();
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        Failure::Refused(Box::new(Refusal {
            status: StatusCode::UNAUTHORIZED,
            headers,
            body: bytes::Bytes::new(),
        }))
    }

    /// Answers as a token server.
    ///
    /// <https://distribution.github.io/distribution/spec/auth/token/>
    pub(super) async fn token(&self, request: &Parts) -> Response<Body> {
        let method = &request.method;
        if *method != Method::GET {
            // Clients that try OAuth ask by GET then.
            return Failure::Unsupported.response(method);
        }
        if !self.asks_for_names() {
            // Nobody was sent here.
            return Failure::NotFound.response(method);
        }
        match self.token_for(request).await {
            Ok((token, life)) => {
                let body = json!({"token": token, "access_token": token, "expires_in": life});
                let mut response = Response::new(Body::from(body.to_string()));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(failure) => failure.response(method),
        }
    }

    /// The upstream that a token is for, and its own name of the repository. A challenge that
    /// named the upstream is believed: one registry's repository may be called like another
    /// registry, and the credential is not for that one.
    fn meant<'a>(
        &self,
        service: &str,
        path: &'a str,
    ) -> Result<(&Arc<Upstream>, &'a str), Failure> {
        if service != SERVICE
            && let Some(named) = self.upstreams.resolve(service)
        {
            return Ok((named, path));
        }
        let found = self.upstreams.by_path(path);
        let default = || Some((self.upstreams.default_upstream()?, path));
        found.or_else(default).ok_or(Failure::NameUnknown)
    }

    async fn token_for(&self, request: &Parts) -> Result<(String, u64), Failure> {
        let Some(shown) = shown(&request.headers) else {
            return Ok((NOTHING.to_owned(), 300));
        };
        let query = request.uri.query().unwrap_or_default();
        let asked = |name: &str| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned())
        };
        let scope = asked("scope").unwrap_or_default();
        let path = scope
            .strip_prefix("repository:")
            .and_then(|rest| rest.rsplit_once(':'));
        let path = path.map_or("", |(path, _)| path);
        let service = asked("service").unwrap_or_default();
        let (upstream, path) = self.meant(&service, path)?;
        let (is_own, has_names) = (upstream.has_own_credentials(), self.clients.have_names());
        if self.clients.is_ours(&shown) || is_own {
            let (uri, headers) = (&request.uri, &request.headers);
            let address = CallerAddress::of_own(uri, headers, &request.extensions);
            let whence = Whence::new(address, &request.extensions);
            let admitted = self.admit(Some(&shown), whence).await;
            let token = match admitted {
                Ok(_) => self.clients.token(&shown).filter(|_| has_names),
                Err(Denied::Busy) => return Err(busy()),
                Err(Denied::Spent) => return Err(spent()),
                Err(Denied::Remote) => return Err(Failure::NotHere),
                Err(Denied::Unknown) => None,
            };
            match token {
                Some((token, life)) => return Ok((token, life.as_secs())),
                // `docker login`, which is to say that the password is wrong; who pulls what
                // needs none goes on as nobody.
                None if !is_own && scope.is_empty() => return Err(wrong_name()),
                None if !is_own => return Ok((NOTHING.to_owned(), 60)),
                None if has_names => return Err(wrong_name()),
                // A client of this host may have a name at the registry itself.
                None => {}
            }
        }
        let repository: Option<Repository> = path.parse().ok();
        let given = upstream.token_for(repository.as_ref(), &shown);
        let given = tokio::time::timeout(self.options.upstream_timeout, given).await;
        let what = || Failure::Unavailable("the registry's token server gave nothing".to_owned());
        match given.map_err(|_| what())? {
            Ok(Some(given)) => Ok(given),
            // It knows no tokens: the pair itself is what it wants to see.
            Ok(None) => {
                let text = shown.header().to_str().unwrap_or_default();
                let pair = text.split_once(' ').map(|(_, pair)| pair.trim());
                let pair = pair.filter(|pair| STANDARD.decode(pair).is_ok());
                pair.map(|pair| (format!("{PAIR}{pair}"), 60))
                    .ok_or_else(wrong_name)
            }
            Err(SourceError::Refused(_)) => Err(wrong_name()),
            Err(error) => Err(Failure::from_source(&error, false)),
        }
    }
}

/// `host` or `host:port`, and nothing that could end a quoted text.
fn is_authority(host: &str) -> bool {
    let fits =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !host.is_empty() && host.len() <= 255 && host.bytes().all(fits)
}

/// Too many say who they are, or the last one waited for too long.
pub(super) fn busy() -> Failure {
    Failure::Later {
        why: "too many clients say who they are at the same time",
        after: Duration::from_secs(1),
    }
}

/// Too many wrong passwords.
pub(super) fn spent() -> Failure {
    Failure::Later {
        why: "too many wrong passwords came from this address",
        after: WINDOW,
    }
}

fn wrong_name() -> Failure {
    Failure::Refused(Box::new(Refusal {
        status: StatusCode::UNAUTHORIZED,
        headers: HeaderMap::new(),
        body: bytes::Bytes::new(),
    }))
}
