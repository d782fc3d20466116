//! Questions that the proxy asks with credentials of its own.

use std::sync::atomic::Ordering;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{
    Ask, Upstream,
    own::{Login, Own},
    request::checked,
    token::Challenge,
};
use crate::source::{Refusal, SourceError};

/// The first one may show what has expired or was replaced.
const ATTEMPTS: usize = 4;

impl Upstream {
    /// As [`Upstream::ask`] without a caller's credential. A refusal is a 403 without a
    /// challenge: nothing that the client has would help.
    pub(super) async fn ask_as_self(
        &self,
        ask: &Ask<'_>,
        own: &Own,
    ) -> Result<Response<Incoming>, SourceError> {
        let unknown = |cause| SourceError::broken("the proxy's own credentials", cause);
        let mut login = own.login(None).await.map_err(unknown)?;
        let token = self.own_token(ask.repository).await;
        let mut shown = token.or_else(|| own.beforehand(&login));
        let mut has_answered = false;
        for attempt in 1..=ATTEMPTS {
            let reply = self.follow(ask, shown.clone()).await?;
            if reply.status() == StatusCode::FORBIDDEN {
                if attempt > 1 || !self.outgrows(ask.repository, shown.as_ref()).await {
                    return Err(self.refused_as_self(reply.status()));
                }
                shown = own.beforehand(&login);
                continue;
            }
            if reply.status() != StatusCode::UNAUTHORIZED {
                return checked(reply).await;
            }
            if let Some(refused) = &shown {
                self.tokens.forget(ask.repository, refused).await;
            }
            let mut next = None;
            if !has_answered {
                has_answered = true;
                next = self.answer(ask, own, &login, reply.headers()).await;
            }
            if next.is_none() {
                // It may have been replaced since it was read.
                let replaced = own.login(Some(&login)).await.map_err(unknown)?;
                if replaced != login {
                    login = replaced;
                    next = self.answer(ask, own, &login, reply.headers()).await;
                }
            }
            if next.is_none() {
                return Err(self.refused_as_self(reply.status()));
            }
            shown = next;
        }
        Err(self.refused_as_self(StatusCode::UNAUTHORIZED))
    }

    /// What to show next to an upstream that asks for it so.
    async fn answer(
        &self,
        ask: &Ask<'_>,
        own: &Own,
        login: &Login,
        headers: &HeaderMap,
    ) -> Option<HeaderValue> {
        if let Login::Bearer(value) = login {
            return Some(value.clone());
        }
        let challenges = headers.get_all(header::WWW_AUTHENTICATE);
        if let Some(challenge) = challenges.iter().find_map(Challenge::parse) {
            own.speaks_basic.store(false, Ordering::Relaxed);
            return self.anonymous_token(&challenge, ask.repository).await;
        }
        let is_basic = |value: &HeaderValue| {
            let text = value.to_str().unwrap_or_default();
            text.get(..5)
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"))
        };
        match login {
            Login::Basic(value) if challenges.iter().any(is_basic) => {
                own.speaks_basic.store(true, Ordering::Relaxed);
                Some(value.clone())
            }
            _ => None,
        }
    }

    fn refused_as_self(&self, status: StatusCode) -> SourceError {
        tracing::warn!(upstream = %self.name, status = status.as_u16(), "the registry refuses the proxy's own credentials");
        SourceError::Refused(Box::new(Refusal {
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
        }))
    }
}
