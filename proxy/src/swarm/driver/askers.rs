//! Where the clients of one download asked for it, and what they showed there.
//!
//! Owner of state: [`Askers`], bounded. They are used for this node's own reads of that
//! content's source, and for nothing else: no message to a peer or a scheduler is made from a
//! credential. Invariants: a credential is shown for the repository that its client named, and
//! nowhere else, whoever waits for the same content; whoever the source refuses keeps nobody
//! else from it.

use darter_api::{Origin, UpstreamName};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::{credential::Credential, source::SourceError};

/// Kept for one download; clients beyond that read by the others'.
const MOST: usize = 8;

/// One client's question, or several clients' that ask the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asker {
    /// What it named.
    pub(super) origin: Origin,
    /// What it showed; `None` is nothing, or the source's own.
    pub(super) credential: Option<Credential>,
}

impl Asker {
    fn new(origin: &Origin, credential: Option<Credential>) -> Self {
        // Whom it is private to is said by the credential.
        let private = false;
        let origin = Origin {
            private,
            ..origin.clone()
        };
        Self { origin, credential }
    }

    fn without_credential(&self) -> Self {
        Self::new(&self.origin, None)
    }
}

#[derive(Debug)]
struct Kept {
    asker: Asker,
    tried: bool,
    refused: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Askers(Mutex<Vec<Kept>>);

impl Askers {
    /// One alone.
    pub(super) fn of(origin: &Origin, credential: Option<Credential>) -> Self {
        let askers = Self::default();
        askers.add(origin, credential);
        askers
    }

    /// Takes one more client's. Where there are too many, the first that was refused goes.
    pub(super) fn add(&self, origin: &Origin, credential: Option<Credential>) {
        let asker = Asker::new(origin, credential);
        let mut all = self.0.lock();
        if all.iter().any(|kept| kept.asker == asker) {
            return;
        }
        if all.len() >= MOST {
            let Some(refused) = all.iter().position(|kept| kept.refused) else {
                return;
            };
            all.remove(refused);
        }
        all.push(Kept {
            asker,
            tried: false,
            refused: false,
        });
    }

    /// Whether the source was asked for this client's sake.
    pub(super) fn were_heard(&self, origin: &Origin, credential: Option<&Credential>) -> bool {
        let asker = Asker::new(origin, credential.cloned());
        let all = self.0.lock();
        all.iter().any(|kept| kept.asker == asker && kept.tried)
    }

    /// Asks for one after the other, also for those who come meanwhile, until one gets an
    /// answer. Else the first failure counts, or the first that may pass.
    pub(super) async fn ask<T>(
        &self,
        mut question: impl FnMut(&Asker) -> BoxFuture<'static, Result<T, SourceError>>,
    ) -> Result<(Asker, T), SourceError> {
        let (mut tried, mut broken) = (Vec::new(), Vec::new());
        let mut failure: Option<SourceError> = None;
        while let Some(asker) = self.next(&tried, &broken) {
            tried.push(asker.clone());
            let error = match question(&asker).await {
                Ok(answer) => {
                    self.worked(&asker);
                    return Ok((asker, answer));
                }
                Err(error) => error,
            };
            match &error {
                SourceError::Refused(_) => self.was_refused(&asker),
                // Who shows nothing is told no more than who is known.
                SourceError::Missing => tried.push(asker.without_credential()),
                _ => broken.push(asker.origin.upstream),
            }
            let counts = |kept: &SourceError| !kept.is_retryable() && error.is_retryable();
            if failure.as_ref().is_none_or(counts) {
                failure = Some(error);
            }
        }
        Err(failure.unwrap_or(SourceError::Protocol("nobody asks for it")))
    }

    /// Whom to ask for next: who showed something first.
    fn next(&self, tried: &[Asker], broken: &[UpstreamName]) -> Option<Asker> {
        let mut all = self.0.lock();
        let known = all.iter().filter(|kept| kept.asker.credential.is_some());
        let known = known.map(|kept| kept.asker.clone());
        let nobody = all.iter().map(|kept| kept.asker.without_credential());
        let next = known.chain(nobody).find(|asker| {
            let is_broken = broken.contains(&asker.origin.upstream);
            !is_broken && !tried.contains(asker)
        })?;
        for kept in all.iter_mut().filter(|kept| kept.asker == next) {
            kept.tried = true;
        }
        Some(next)
    }

    /// It is asked for first from now on.
    fn worked(&self, asker: &Asker) {
        let mut all = self.0.lock();
        if let Some(at) = all.iter().position(|kept| kept.asker == *asker) {
            all[at].refused = false;
            all[..=at].rotate_right(1);
        }
    }

    fn was_refused(&self, asker: &Asker) {
        let mut all = self.0.lock();
        for kept in all.iter_mut().filter(|kept| kept.asker == *asker) {
            kept.refused = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use darter_api::OriginKind;
    use futures::FutureExt as _;
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;
    use crate::source::Refusal;

    fn origin(upstream: &str) -> Origin {
        Origin {
            upstream: upstream.parse().unwrap(),
            repository: "app".parse().unwrap(),
            kind: OriginKind::Blob,
            private: true,
        }
    }

    fn bearer(number: usize) -> Credential {
        Credential::new(HeaderValue::from_str(&format!("Bearer {number}")).unwrap())
    }

    fn refused() -> SourceError {
        SourceError::Refused(Box::new(Refusal {
            status: StatusCode::UNAUTHORIZED,
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
        }))
    }

    /// Who is asked for, in order, when each gets the answer that is given of it.
    async fn asked(
        askers: &Askers,
        answer: impl Fn(&Asker) -> Result<(), SourceError>,
    ) -> (Vec<Asker>, Result<(), SourceError>) {
        let mut asked = Vec::new();
        let answered = askers.ask(|asker| {
            asked.push(asker.clone());
            let answer = answer(asker);
            async move { answer }.boxed()
        });
        let answered = answered.await.map(drop);
        (asked, answered)
    }

    #[tokio::test]
    async fn bounded_and_the_one_that_worked_comes_first() {
        let (askers, one) = (Askers::default(), origin("one.test"));
        for number in 0..MOST + 5 {
            for _ in 0..2 {
                askers.add(&one, Some(bearer(number)));
            }
        }
        let of = |number| Asker::new(&one, Some(bearer(number)));
        let only = |wanted| {
            move |asker: &Asker| {
                if *asker == wanted {
                    Ok(())
                } else {
                    Err(refused())
                }
            }
        };
        let (all, answered) = asked(&askers, only(of(2))).await;
        assert!(answered.is_ok());
        assert_eq!(all, [of(0), of(1), of(2)]);
        let (all, answered) = asked(&askers, only(of(99))).await;
        assert!(matches!(answered, Err(SourceError::Refused(_))));
        assert_eq!(all.len(), MOST + 1);
        assert_eq!(all[..3], [of(2), of(0), of(1)]);
        assert_eq!(all[MOST], Asker::new(&one, None));
        // Those who were refused keep nobody out.
        askers.add(&one, Some(bearer(99)));
        assert!(!askers.were_heard(&one, Some(&bearer(99))));
        assert!(asked(&askers, only(of(99))).await.1.is_ok());
        assert!(askers.were_heard(&one, Some(&bearer(99))));
        assert!(askers.0.lock().len() == MOST);
    }

    #[tokio::test]
    async fn a_credential_goes_where_it_was_shown_for_and_nowhere_else() {
        let (one, other) = (origin("one.test"), origin("other.test"));
        let askers = Askers::of(&other, None);
        askers.add(&one, Some(bearer(1)));
        let of = Asker::new;
        let (all, answered) = asked(&askers, |_| Err(SourceError::Missing)).await;
        assert!(matches!(answered, Err(SourceError::Missing)));
        assert_eq!(all, [of(&one, Some(bearer(1))), of(&other, None)]);
        // One that can't be reached is asked once, and may come back.
        let (all, answered) = asked(&askers, |asker| match asker.credential {
            Some(_) => Err(SourceError::broken("connecting", "nobody is there")),
            None => Err(SourceError::Missing),
        })
        .await;
        assert!(matches!(answered, Err(SourceError::Broken { .. })));
        assert_eq!(all, [of(&one, Some(bearer(1))), of(&other, None)]);
    }

    #[tokio::test]
    async fn who_comes_meanwhile_is_asked_for_too() {
        let (one, other) = (origin("one.test"), origin("other.test"));
        let askers = Askers::of(&other, None);
        let answered = askers.ask(|asker| {
            askers.add(&one, Some(bearer(1)));
            let answer = match asker.credential {
                Some(_) => Ok(()),
                None => Err(SourceError::Missing),
            };
            async move { answer }.boxed()
        });
        let (asker, ()) = answered.await.unwrap();
        assert_eq!(asker, Asker::new(&one, Some(bearer(1))));
    }
}
