//! Tokens of the proxy's own: anonymous ones, so that public images need nothing of the
//! client, or those that its own credentials get.
//!
//! Owner of state: [`Tokens`], bounded; each token for its own life. Towards its end one
//! question gets the next one beforehand, and all others go on with what is known.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/>

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use darter_api::Repository;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use moka::{Expiry, future::Cache};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Upstream,
    http_client::{HEADER_TIMEOUT, Reach},
    own::Login,
};
use crate::{
    credential::{Credential, Secret},
    source::SourceError,
};

/// Bytes of tokens kept for one upstream, with what they were answers to.
const MAX_KEPT: u64 = 16 << 20;
/// Bytes of a token; no server takes a longer header.
const MAX_TOKEN: usize = 16 * 1024;
/// A token reply is a few kilobytes; more is an attack.
const MAX_REPLY: usize = 256 * 1024;
/// For a token reply's body to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// What the specification says of a reply without `expires_in`.
const DEFAULT_LIFE: u64 = 60;
/// After a password could not be shown to anybody.
const SIGN_IN_AGAIN: Duration = Duration::from_secs(5);
/// Taken off a token's life, so that none expires on its way.
const SLACK: u64 = 10;
/// A question waits no longer for the next token while the last one still holds.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A token that is younger than this says all that there is to say: who is refused all the
/// time asks for no more of them than one in this time.
const YOUNG: Duration = Duration::from_secs(1);

/// `WWW-Authenticate: Bearer realm=..,service=..,scope=..` (RFC 6750, section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    pub(super) fn parse(header: &HeaderValue) -> Option<Self> {
        let text = header.to_str().ok().filter(|text| text.len() <= 4096)?;
        let (scheme, rest) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (key, value) in parameters(rest) {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        Some(Self {
            realm: realm?,
            service,
            scope,
        })
    }

    /// The URL to ask, for pulling from a repository.
    pub(super) fn url(&self, repository: Option<&Repository>) -> Option<Uri> {
        let mut url = url::Url::parse(&self.realm).ok()?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            match (repository, &self.scope) {
                (Some(repository), _) => {
                    query.append_pair("scope", &format!("repository:{repository}:pull"));
                }
                (None, Some(scope)) => {
                    query.append_pair("scope", scope);
                }
                (None, None) => {}
            }
        }
        url.as_str().parse().ok()
    }
}

/// `key="value, with commas", key=value`
fn parameters(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((key, rest)) = text.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_owned();
        let (value, after) = if let Some(quoted) = rest.strip_prefix('"') {
            match quoted.split_once('"') {
                Some((value, after)) => (value, after),
                None => (quoted, ""),
            }
        } else {
            rest.split_once(',').unwrap_or((rest, ""))
        };
        found.push((key, value.trim().to_owned()));
        text = after;
    }
    found
}

/// A token server's answer.
#[derive(Deserialize)]
pub(super) struct Reply {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Of these bytes, if they are one.
pub(super) fn parse(text: &[u8]) -> Option<Reply> {
    serde_json::from_slice(text).ok()
}

impl Reply {
    /// What its token is shown as, and for how long.
    pub(super) fn token(self) -> Option<(HeaderValue, Duration)> {
        let token = self.token.or(self.access_token)?;
        let token = Some(token).filter(|token| token.len() <= MAX_TOKEN)?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        let life = self.expires_in.unwrap_or(DEFAULT_LIFE);
        let life = life.clamp(SLACK + 1, 3600) - SLACK;
        Some((header, Duration::from_secs(life)))
    }
}

#[derive(Debug, Clone)]
struct Token {
    header: HeaderValue,
    life: Duration,
    /// What it was an answer to.
    challenge: Challenge,
    /// When it was given.
    born: Instant,
    /// After three quarters of its life.
    renew_at: Instant,
    /// Whether somebody gets the next one already.
    renewing: Arc<AtomicBool>,
}

impl Token {
    /// Whether the caller is the one to get the next token.
    fn is_mine_to_renew(&self) -> bool {
        Instant::now() >= self.renew_at && !self.renewing.swap(true, Ordering::Relaxed)
    }
}

/// Bytes that a kept token takes, its repository's name among them.
fn weight(repository: &str, token: &Token) -> u32 {
    let challenge = &token.challenge;
    let said =
        [&challenge.service, &challenge.scope].map(|text| text.as_ref().map_or(0, String::len));
    let bytes = repository.len() + token.header.len() + challenge.realm.len();
    let bytes = bytes + said.iter().sum::<usize>() + size_of::<Token>();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

struct ByLife;

impl Expiry<String, Token> for ByLife {
    fn expire_after_create(
        &self,
        _: &String,
        token: &Token,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(token.life)
    }

    fn expire_after_update(
        &self,
        _: &String,
        token: &Token,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.life)
    }
}

/// Anonymous tokens of one upstream, by repository.
#[derive(Debug)]
pub(super) struct Tokens {
    kept: Cache<String, Token>,
}

impl Tokens {
    pub(super) fn new() -> Self {
        let kept = Cache::builder()
            .max_capacity(MAX_KEPT)
            .weigher(|repository: &String, token| weight(repository, token))
            .expire_after(ByLife)
            .build();
        Self { kept }
    }

    /// The token that is known.
    pub(super) async fn known(&self, repository: Option<&Repository>) -> Option<HeaderValue> {
        self.kept
            .get(key(repository))
            .await
            .map(|token| token.header)
    }

    /// The upstream refuses this one; what came in its place meanwhile stays.
    pub(super) async fn forget(&self, repository: Option<&Repository>, refused: &HeaderValue) {
        let key = key(repository);
        if self.known(repository).await.as_ref() == Some(refused) {
            Box::pin(self.kept.invalidate(key)).await;
        }
    }
}

fn key(repository: Option<&Repository>) -> &str {
    repository.map_or("", Repository::as_str)
}

impl Upstream {
    /// The upstream finds a kept token too little: rights may have been given since it was
    /// got. Whether the question is worth another one.
    pub(super) async fn outgrows(
        &self,
        repository: Option<&Repository>,
        shown: Option<&HeaderValue>,
    ) -> bool {
        let kept = self.tokens.kept.get(key(repository)).await;
        let is_old =
            kept.is_some_and(|token| shown == Some(&token.header) && token.born.elapsed() >= YOUNG);
        if is_old {
            Box::pin(self.tokens.kept.invalidate(key(repository))).await;
        }
        is_old
    }

    /// The token that is known for a repository, renewed before it ends.
    pub(super) async fn own_token(&self, repository: Option<&Repository>) -> Option<HeaderValue> {
        let token = self.tokens.kept.get(key(repository)).await?;
        if !token.is_mine_to_renew() {
            return Some(token.header);
        }
        let next = self.fetch_token(&token.challenge, repository);
        match tokio::time::timeout(RENEWAL_TIMEOUT, next).await {
            Ok(Some(next)) => {
                let header = next.header.clone();
                let kept = &self.tokens.kept;
                Box::pin(kept.insert(key(repository).to_owned(), next)).await;
                Some(header)
            }
            _ => {
                token.renewing.store(false, Ordering::Relaxed);
                Some(token.header)
            }
        }
    }

    /// An anonymous token as a challenge asks for it: one request, however many wait.
    /// `None` when the realm may not be asked, or gives none.
    pub(super) async fn anonymous_token(
        &self,
        challenge: &Challenge,
        repository: Option<&Repository>,
    ) -> Option<HeaderValue> {
        let realm: Uri = challenge.realm.parse().ok()?;
        if !self.policy.allows_realm(&realm) {
            tracing::warn!(upstream = %self.name, host = realm.host(), "the token realm is not of the upstream's domain; it is not asked");
            return None;
        }
        let fetch = async { self.fetch_token(challenge, repository).await.ok_or(()) };
        let kept = &self.tokens.kept;
        let token = kept.try_get_with_by_ref(key(repository), fetch);
        Box::pin(token).await.ok().map(|token| token.header)
    }

    /// The token that a client's own name and password get it from the upstream's token
    /// server, with its life in seconds; `None` where the upstream knows no tokens.
    ///
    /// # Errors
    /// The refusal, or why nobody can be asked.
    pub(crate) async fn token_for(
        &self,
        repository: Option<&Repository>,
        shown: &Credential,
    ) -> Result<Option<(String, u64)>, SourceError> {
        let base = format!("{}/v2/", self.base.to_string().trim_end_matches('/'));
        let broken = |cause| SourceError::broken("the token server", cause);
        let ask = |url: &str| Request::get(url).header(header::ACCEPT, "application/json");
        let bare = ask(&base).body(());
        let bare = bare.map_err(|_| SourceError::Protocol("the request makes no sense"))?;
        let reply = self.send_home(&bare, false).await.map_err(broken)?;
        let mut challenges = reply.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let Some(challenge) = challenges.find_map(Challenge::parse) else {
            if reply.status() == StatusCode::UNAUTHORIZED {
                // It wants to see the pair itself: who has a wrong one is told so here.
                let pair = ask(&base).header(header::AUTHORIZATION, shown.header());
                let pair = pair.body(());
                let pair = pair.map_err(|_| SourceError::Protocol("the request makes no sense"))?;
                let reply = self.send_home(&pair, false).await.map_err(broken)?;
                super::request::checked(reply).await?;
            }
            return Ok(None);
        };
        let realm: Option<Uri> = challenge.realm.parse().ok();
        if !realm.is_some_and(|realm| self.policy.allows_realm(&realm)) {
            return Err(SourceError::Protocol(
                "its token server is not of its own domain",
            ));
        }
        let url = challenge.url(repository);
        let url = url.ok_or(SourceError::Protocol("its challenge makes no URL"))?;
        let request = ask(&url.to_string()).header(header::AUTHORIZATION, shown.header());
        let request = request.body(());
        let request = request.map_err(|_| SourceError::Protocol("the request makes no sense"))?;
        // The semaphore is never closed.
        let _turn = self.questions.acquire().await.ok();
        let reply = self
            .client
            .send(&request, Reach::Own)
            .await
            .map_err(broken)?;
        let reply = super::request::checked(reply).await?;
        let reply = bounded(reply).await.and_then(|reply| {
            let life = reply.expires_in.unwrap_or(DEFAULT_LIFE).min(3600);
            Some((reply.token.or(reply.access_token)?, life))
        });
        reply
            .map(Some)
            .ok_or(SourceError::Protocol("its token server answers nonsense"))
    }

    /// What a user and a password (`Basic`) are good for at this registry: a token for pulling
    /// from the repository, where it gives tokens, and how long that lives. Anything else is what
    /// it was, for good; where nobody could be asked, for a while.
    pub(crate) async fn sign_in(
        &self,
        credential: Credential,
        repository: &Repository,
    ) -> (Credential, Option<Duration>) {
        let basic = |value: &[u8]| value.len() > 6 && value[..6].eq_ignore_ascii_case(b"basic ");
        if !basic(credential.header().as_bytes()) {
            return (credential, None);
        }
        match self.token_for(Some(repository), &credential).await {
            Ok(Some((token, life))) => {
                let header = HeaderValue::try_from(format!("Bearer {token}"));
                let token = header.map_or(credential, Credential::new);
                (token, Some(Duration::from_secs(life)))
            }
            Ok(None) => (credential, None),
            Err(cause) => {
                let cause = &cause as &dyn std::error::Error;
                tracing::warn!(upstream = %self.name, cause, "nobody could sign in for a preheat");
                (credential, Some(SIGN_IN_AGAIN))
            }
        }
    }

    async fn fetch_token(
        &self,
        challenge: &Challenge,
        repository: Option<&Repository>,
    ) -> Option<Token> {
        let url = challenge.url(repository)?;
        let login = match &self.own {
            Some(own) => Some(own.login(None).await.ok()?),
            None => None,
        };
        let reply = match login {
            Some(Login::Identity(token)) => self.refresh_token(url, &token).await?,
            login => {
                let mut request = Request::get(url).header(header::ACCEPT, "application/json");
                if let Some(Login::Basic(value)) = login {
                    request = request.header(header::AUTHORIZATION, value);
                }
                let request = request.body(()).ok()?;
                self.client.send(&request, Reach::Own).await.ok()?
            }
        };
        if !reply.status().is_success() {
            return None;
        }
        let (header, life) = bounded(reply).await?.token()?;
        Some(Token {
            header,
            life,
            challenge: challenge.clone(),
            born: Instant::now(),
            renew_at: Instant::now() + life * 3 / 4,
            renewing: Arc::default(),
        })
    }
}

/// A token server's answer, as far as it may go.
async fn bounded(reply: Response<Incoming>) -> Option<Reply> {
    let body = Limited::new(reply.into_body(), MAX_REPLY).collect();
    let body = tokio::time::timeout(BODY_TIMEOUT, body).await.ok()?.ok()?;
    parse(&body.to_bytes())
}

impl Upstream {
    /// Asks with an OAuth refresh token.
    ///
    /// <https://distribution.github.io/distribution/spec/auth/oauth/>
    async fn refresh_token(&self, url: Uri, token: &Secret) -> Option<Response<Incoming>> {
        let sent = self.client.send_patiently(refresh(&url, token)?);
        let reply = tokio::time::timeout(HEADER_TIMEOUT, sent).await;
        reply.ok()?.ok()
    }
}

fn refresh(url: &Uri, token: &Secret) -> Option<Request<axum::body::Body>> {
    let query = url.query().unwrap_or_default().to_owned();
    let mut form = url::form_urlencoded::Serializer::new(query);
    form.append_pair("grant_type", "refresh_token");
    form.append_pair("client_id", "darter");
    form.append_pair("refresh_token", token.reveal());
    let bare = url.to_string();
    let bare = bare.split('?').next().unwrap_or_default();
    Request::post(bare)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(axum::body::Body::from(form.finish()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_as_registries_write_them() {
        let parse = |text: &str| Challenge::parse(&HeaderValue::from_str(text).unwrap());
        let hub = parse(r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull,push""#).unwrap();
        assert_eq!(hub.realm, "https://auth.docker.io/token");
        assert_eq!(hub.scope.as_deref(), Some("repository:library/a:pull,push"));
        let url = hub.url(Some(&"library/a".parse().unwrap())).unwrap();
        assert_eq!(
            url.query(),
            Some("service=registry.docker.io&scope=repository%3Alibrary%2Fa%3Apull")
        );
        assert!(parse(r#"bearer realm=https://x/t, service=y"#).is_some());
        for odd in [
            "Basic realm=\"x\"",
            "Bearer",
            "Bearer service=\"x\"",
            "Bearer realm=\"unterminated",
        ] {
            let parsed = parse(odd);
            assert!(
                parsed.is_none_or(|challenge| challenge.realm == "unterminated"),
                "{odd}"
            );
        }
    }

    #[test]
    fn a_token_is_no_longer_than_a_header_may_be() {
        let token = |length: usize| {
            let reply = serde_json::json!({"token": "x".repeat(length)}).to_string();
            parse(reply.as_bytes()).unwrap().token()
        };
        assert!(token(MAX_TOKEN).is_some());
        assert!(token(MAX_TOKEN + 1).is_none());
    }
}
