//! What an order's header is good for at its registry, for as long as the order goes on.
//!
//! Owner of state: [`SignIn`] has what the registry gave last. An order may take longer than a
//! token lives, so that a password gets another one before that; whoever asks meanwhile waits for
//! the same. All of it is forgotten with the order.

use std::sync::Arc;

use darter_api::{Repository, preheat::Authorization};
use http::HeaderValue;
use tokio::{sync::Mutex, time::Instant};

use crate::{credential::Credential, upstream::Upstream};

/// See the module.
pub(super) struct SignIn {
    upstream: Arc<Upstream>,
    repository: Repository,
    brought: Credential,
    last: Mutex<Option<Last>>,
}

struct Last {
    credential: Credential,
    /// When another one is asked for; never, where the registry gives no tokens.
    until: Option<Instant>,
}

impl SignIn {
    /// None where nothing was brought.
    pub(super) fn new(
        upstream: &Arc<Upstream>,
        repository: &Repository,
        brought: &Authorization,
    ) -> Option<Self> {
        let brought = HeaderValue::from_str(brought.reveal()?).ok()?;
        Some(Self {
            upstream: Arc::clone(upstream),
            repository: repository.clone(),
            brought: Credential::new(brought),
            last: Mutex::default(),
        })
    }

    /// What is to be shown now. Cancel-safe.
    pub(super) async fn credential(&self) -> Credential {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        let holds = |last: &&Last| last.until.is_none_or(|until| now < until);
        if let Some(last) = last.as_ref().filter(holds) {
            return last.credential.clone();
        }
        let brought = self.brought.clone();
        let (credential, life) = self.upstream.sign_in(brought, &self.repository).await;
        *last = Some(Last {
            credential: credential.clone(),
            until: life.map(|life| now + life * 3 / 4),
        });
        credential
    }
}
