//! One question to an upstream: token, redirects, refusals.

use std::time::Duration;

use darter_api::Repository;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    Upstream,
    http_client::{HEADER_TIMEOUT, Reach, SendError},
    policy::Follow,
    token::Challenge,
};
use crate::{
    credential::Credential,
    source::{Refusal, SourceError},
};

/// Redirects followed for one question.
const MAX_REDIRECTS: usize = 5;
/// Attempts at a question that ends at a store which refuses what the registry has signed: it
/// may have expired on the way.
const SIGNED_ATTEMPTS: usize = 2;
/// After a 429 that does not say how long.
const SHORT_WAIT: Duration = Duration::from_millis(500);
/// After a 429: a client still knows in time when it does not help.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Of a refusal's body.
const MAX_REFUSAL: usize = 64 * 1024;

/// What to ask.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// GET or HEAD.
    pub method: Method,
    /// Path and query below the upstream's base, `/v2/..`.
    pub path: String,
    /// `Accept`, `Range` and the like.
    pub headers: HeaderMap,
    /// The repository it is about, for the scope of a token.
    pub repository: Option<&'a Repository>,
    /// The caller's own credential; without it the proxy's own or an anonymous token is used.
    pub credential: Option<&'a Credential>,
    /// Ask although the upstream was silent a moment ago: for whoever paces his attempts
    /// himself.
    pub insists: bool,
}

impl Upstream {
    /// Asks, and follows; the reply is a success, or what is said to be wrong.
    ///
    /// # Errors
    /// Why there is no successful reply.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Response<Incoming>, SourceError> {
        let mut has_waited = false;
        loop {
            let error = match self.ask_at_once(&ask).await {
                Err(error) if !has_waited => error,
                result => return result,
            };
            let Some(wait) = patience(&error) else {
                return Err(error);
            };
            has_waited = true;
            tokio::time::sleep(wait).await;
        }
    }

    async fn ask_at_once(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, SourceError> {
        if let (None, Some(own)) = (ask.credential, &self.own) {
            return Box::pin(self.ask_as_self(ask, own)).await;
        }
        let mut known = match ask.credential {
            Some(credential) => Some(credential.header().clone()),
            None => self.own_token(ask.repository).await,
        };
        let mut reply = self.follow(ask, known.clone()).await?;
        if reply.status() == StatusCode::FORBIDDEN
            && ask.credential.is_none()
            && self.outgrows(ask.repository, known.as_ref()).await
        {
            known = None;
            reply = self.follow(ask, None).await?;
        }
        if reply.status() != StatusCode::UNAUTHORIZED || ask.credential.is_some() {
            return checked(reply).await;
        }
        if let Some(refused) = &known {
            self.tokens.forget(ask.repository, refused).await;
        }
        let challenge = reply
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .find_map(Challenge::parse);
        let token = match challenge {
            Some(challenge) => self.anonymous_token(&challenge, ask.repository).await,
            None => None,
        };
        let Some(token) = token else {
            return checked(reply).await;
        };
        let again = self.follow(ask, Some(token.clone())).await?;
        if matches!(
            again.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            // The anonymous token is not enough: the client sees the challenge as it is for
            // who shows nothing.
            self.tokens.forget(ask.repository, &token).await;
            return match known {
                Some(_) => checked(Box::pin(self.follow(ask, None)).await?).await,
                None => checked(reply).await,
            };
        }
        checked(again).await
    }

    /// Asks, and follows redirects. A refusal by somebody else than the upstream, in whatever
    /// words, says nothing of the caller's right.
    pub(super) async fn follow(
        &self,
        ask: &Ask<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, SourceError> {
        let mut attempt = 1;
        loop {
            let (reply, elsewhere) = self.follow_once(ask, authorization.clone()).await?;
            let status = reply.status();
            let asks_for_patience = status == StatusCode::TOO_MANY_REQUESTS;
            if !elsewhere || asks_for_patience || !status.is_client_error() {
                return Ok(reply);
            }
            let may_have_expired = matches!(status.as_u16(), 400 | 401 | 403);
            if attempt == SIGNED_ATTEMPTS || !may_have_expired {
                return Err(SourceError::Redirected(status));
            }
            attempt += 1;
        }
    }

    /// The reply, and whether it is of somebody else, or of the upstream by such a way: then the
    /// caller's credential was not shown.
    async fn follow_once(
        &self,
        ask: &Ask<'_>,
        mut authorization: Option<HeaderValue>,
    ) -> Result<(Response<Incoming>, bool), SourceError> {
        let base = self.base.to_string();
        let mut target: Uri = format!("{}{}", base.trim_end_matches('/'), ask.path)
            .parse()
            .map_err(|_| SourceError::Protocol("the request makes no URL"))?;
        let (mut reach, mut elsewhere) = (Reach::Own, false);
        for hop in 0..=MAX_REDIRECTS {
            let mut request = Request::builder()
                .method(ask.method.clone())
                .uri(target.clone());
            if let Some(headers) = request.headers_mut() {
                headers.extend(ask.headers.clone());
                if let Some(value) = &authorization {
                    headers.insert(header::AUTHORIZATION, value.clone());
                }
            }
            let request = request
                .body(())
                .map_err(|_| SourceError::Protocol("the request makes no sense"))?;
            let reply = if hop == 0 {
                self.send_home(&request, ask.insists).await
            } else {
                self.client.send(&request, reach).await
            };
            let reply = reply.map_err(broken)?;
            if !is_redirect(reply.status()) {
                return Ok((reply, elsewhere));
            }
            let next = location(&target, &reply)?;
            if elsewhere || !self.policy.is_home(&next) {
                match self.policy.follow(&next) {
                    Follow::Listed => reach = Reach::Own,
                    Follow::Fellow => reach = Reach::Fellow,
                    Follow::Public => reach = Reach::Public,
                    Follow::Never => {
                        tracing::warn!(upstream = %self.name, host = next.host(), "a redirect is not followed: its target is neither public https nor listed");
                        return Err(SourceError::Protocol(
                            "it redirects to where this proxy may not go",
                        ));
                    }
                }
                authorization = None;
                elsewhere = true;
            }
            target = next;
        }
        Err(SourceError::Protocol("it redirects without end"))
    }

    /// Sends to the upstream itself, whose pulse it takes.
    pub(super) async fn send_home(
        &self,
        request: &Request<()>,
        insists: bool,
    ) -> Result<Response<Incoming>, SendError> {
        // Readings are paced by whoever begins them. The semaphore is never closed.
        let _turn = match insists {
            true => None,
            false => self.questions.acquire().await.ok(),
        };
        let asked = Instant::now();
        if !insists && !self.pulse.may_ask(asked, HEADER_TIMEOUT) {
            return Err(SendError::Silent);
        }
        let busy = || self.pulse.is_busy(Instant::now());
        let reply = self.client.send_while(request, busy).await;
        match &reply {
            Ok(reply) => {
                let now = Instant::now();
                self.pulse.heard(now);
                let fails = reply.status().is_server_error();
                if !fails && reply.status() != StatusCode::TOO_MANY_REQUESTS {
                    self.pulse.worked(now);
                }
            }
            Err(error) if error.is_silence() => self.pulse.silent(asked, Instant::now()),
            Err(_) => {}
        }
        reply
    }
}

/// How long to wait before a question that came too often is asked once more, where that is
/// soon: clients that are answered 503 give up, and alone they would have waited.
fn patience(error: &SourceError) -> Option<Duration> {
    match error {
        SourceError::Throttled {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after,
        } => Some(retry_after.unwrap_or(SHORT_WAIT)).filter(|wait| *wait <= LONGEST_WAIT),
        _ => None,
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads.
pub(super) fn location<B>(base: &Uri, reply: &Response<B>) -> Result<Uri, SourceError> {
    let wrong = SourceError::Protocol("its redirect has no usable Location");
    let value = reply
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    let base = url::Url::parse(&base.to_string()).ok();
    let joined = value
        .zip(base)
        .and_then(|(value, base)| base.join(value).ok());
    joined
        .and_then(|url| url.as_str().parse().ok())
        .ok_or(wrong)
}

fn broken(cause: SendError) -> SourceError {
    SourceError::broken("the request", cause)
}

/// A success, or the error that a status stands for.
pub(super) async fn checked(reply: Response<Incoming>) -> Result<Response<Incoming>, SourceError> {
    let status = reply.status();
    match status.as_u16() {
        200..=299 => Ok(reply),
        401 | 403 => Err(SourceError::Refused(Box::new(refusal(reply).await))),
        404 | 410 => Err(SourceError::Missing),
        429 | 503 => Err(SourceError::Throttled {
            status,
            retry_after: retry_after(reply.headers()),
        }),
        _ => Err(SourceError::Status(status)),
    }
}

pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse::<u64>()
        .ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

async fn refusal(reply: Response<Incoming>) -> Refusal {
    let (parts, body) = reply.into_parts();
    let mut headers = HeaderMap::new();
    for name in [header::WWW_AUTHENTICATE, header::CONTENT_TYPE] {
        for value in parts.headers.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    let body = tokio::time::timeout(
        Duration::from_secs(2),
        Limited::new(body, MAX_REFUSAL).collect(),
    )
    .await;
    let body = body
        .ok()
        .and_then(Result::ok)
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    Refusal {
        status: parts.status,
        headers,
        body,
    }
}
