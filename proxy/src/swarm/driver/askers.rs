//! Where the clients of one download asked for it, and what they showed there.
//!
//! Owner of state: [`Askers`], bounded. They are used for this node's own reads of that
//! content's source, and for nothing else: no message to a peer or a scheduler is made from a
//! credential. Invariants: a credential is shown for the repository that its client named, and
//! nowhere else, whoever waits for the same content; who asked in vain, refused or where the
//! content is not, keeps nobody else from it: neither takes his place nor goes before him.

use darter_api::{Origin, UpstreamName};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::{credential::Credential, source::SourceError};

/// Kept for one download; clients beyond that read by the others'.
const MOST: usize = 8;
/// Questions of one asking, also for those who come meanwhile.
const MOST_QUESTIONS: usize = 4 * MOST;

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
    /// Whether the source was asked for its sake.
    heard: bool,
    standing: Standing,
}

/// What came of it the last time. In the order in which they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// An answer.
    Worked,
    /// Nothing yet.
    Open,
    /// Its upstream can't be asked: its place is for who asks elsewhere.
    Silent,
    /// It was refused, or the content is not there: its place is another's.
    Failed,
}

/// Whether all questions to the upstream would fail so now; other failures are of what was
/// asked for, or of who asked.
fn is_of_all(error: &SourceError) -> bool {
    error.is_retryable() || matches!(error, SourceError::Forbidden)
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

    /// Takes one more client's. Where there are too many, the first that asked in vain goes.
    pub(super) fn add(&self, origin: &Origin, credential: Option<Credential>) {
        let asker = Asker::new(origin, credential);
        let mut all = self.0.lock();
        if all.iter().any(|kept| kept.asker == asker) {
            return;
        }
        if all.len() >= MOST {
            let failed = |kept: &Kept| kept.standing == Standing::Failed;
            let silent = |kept: &Kept| {
                let is_elsewhere = kept.asker.origin.upstream != asker.origin.upstream;
                kept.standing == Standing::Silent && is_elsewhere
            };
            let gone = all.iter().position(failed);
            let Some(gone) = gone.or_else(|| all.iter().position(silent)) else {
                return;
            };
            all.remove(gone);
        }
        all.push(Kept {
            asker,
            heard: false,
            standing: Standing::Open,
        });
    }

    /// Whether the source was asked for this client's sake.
    pub(super) fn were_heard(&self, origin: &Origin, credential: Option<&Credential>) -> bool {
        let asker = Asker::new(origin, credential.cloned());
        let all = self.0.lock();
        all.iter().any(|kept| kept.asker == asker && kept.heard)
    }

    /// Asks for one after the other, also for those who come meanwhile, until one gets an
    /// answer. Else the first failure counts, or the first that may pass.
    pub(super) async fn ask<T>(
        &self,
        mut question: impl FnMut(&Asker) -> BoxFuture<'static, Result<T, SourceError>>,
    ) -> Result<(Asker, T), SourceError> {
        let (mut tried, mut broken) = (Vec::new(), Vec::new());
        let mut failure: Option<SourceError> = None;
        for _ in 0..MOST_QUESTIONS {
            let Some(asker) = self.next(&tried, &broken) else {
                break;
            };
            tried.push(asker.clone());
            let error = match question(&asker).await {
                Ok(answer) => {
                    self.worked(&asker);
                    return Ok((asker, answer));
                }
                Err(error) => error,
            };
            if is_of_all(&error) {
                self.silent(&asker.origin.upstream);
                broken.push(asker.origin.upstream);
            } else {
                self.failed(&asker);
                if error.is_missing() {
                    // Who shows nothing is told no more than who is known.
                    tried.push(asker.without_credential());
                }
            }
            let counts = |kept: &SourceError| !kept.is_retryable() && error.is_retryable();
            if failure.as_ref().is_none_or(counts) {
                failure = Some(error);
            }
        }
        Err(failure.unwrap_or(SourceError::Protocol("nobody asks for it")))
    }

    /// Whom to ask for next: who got an answer, then who showed something, and last who asked in
    /// vain before.
    fn next(&self, tried: &[Asker], broken: &[UpstreamName]) -> Option<Asker> {
        let mut all = self.0.lock();
        let exact = all.iter().map(|kept| (kept.standing, kept.asker.clone()));
        let nobody = all.iter().map(|kept| {
            let standing = kept.standing.max(Standing::Open);
            (standing, kept.asker.without_credential())
        });
        let open = exact.chain(nobody).filter(|(_, asker)| {
            let is_broken = broken.contains(&asker.origin.upstream);
            !is_broken && !tried.contains(asker)
        });
        // The first of those that are equal.
        let next = open.min_by_key(|(standing, asker)| (*standing, asker.credential.is_none()));
        let (_, next) = next?;
        for kept in all.iter_mut().filter(|kept| kept.asker == next) {
            kept.heard = true;
        }
        Some(next)
    }

    /// It is asked for first from now on.
    fn worked(&self, asker: &Asker) {
        let mut all = self.0.lock();
        if let Some(at) = all.iter().position(|kept| kept.asker == *asker) {
            all[at].standing = Standing::Worked;
            all[..=at].rotate_right(1);
        }
    }

    /// Refused, or not there; who showed nothing there may wait for his turn, but keeps no place.
    fn failed(&self, asker: &Asker) {
        let nobody = asker.without_credential();
        for kept in self.0.lock().iter_mut() {
            let is_nobody = kept.asker == nobody && kept.standing == Standing::Open;
            if kept.asker == *asker || is_nobody {
                kept.standing = Standing::Failed;
            }
        }
    }

    /// Nobody's question to it has an answer now.
    fn silent(&self, upstream: &UpstreamName) {
        let mut all = self.0.lock();
        for kept in all.iter_mut() {
            if kept.asker.origin.upstream == *upstream && kept.standing == Standing::Open {
                kept.standing = Standing::Silent;
            }
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
        // Then those who have not asked yet, and who was refused last.
        assert_eq!(all[..3], [of(2), of(3), of(4)]);
        assert_eq!(all[6..], [of(0), of(1), Asker::new(&one, None)]);
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

    fn at(upstream: &str, repository: usize) -> Origin {
        Origin {
            repository: format!("invented/{repository}").parse().unwrap(),
            ..origin(upstream)
        }
    }

    /// Those who ask where the content is not, or where nobody answers, however many they are.
    #[tokio::test]
    async fn who_asks_in_vain_keeps_nobody_out() {
        let good = origin("one.test");
        let answer = |asker: &Asker| match asker.origin.upstream.as_str() {
            "dead.test" => Err(SourceError::broken("connecting", "nobody is there")),
            _ if asker.origin.repository == good.repository => Ok(()),
            _ => Err(SourceError::Missing),
        };
        for (upstream, shown) in [
            ("one.test", None),
            ("one.test", Some(bearer(1))),
            ("dead.test", None),
        ] {
            let askers = Askers::default();
            for repository in 0..MOST {
                askers.add(&at(upstream, repository), shown.clone());
                askers.add(&at(upstream, repository), None);
            }
            let (_, answered) = asked(&askers, answer).await;
            assert!(answered.is_err(), "{upstream}");
            askers.add(&good, None);
            let (all, answered) = asked(&askers, answer).await;
            assert!(answered.is_ok(), "{upstream}");
            assert_eq!(all, [Asker::new(&good, None)], "before the others");
            // Nor do those who come later, while its upstream is away for a moment.
            let broken = |_: &Asker| Err(SourceError::broken("reading", "a reset"));
            assert!(asked(&askers, broken).await.1.is_err());
            for repository in MOST..5 * MOST {
                askers.add(&at("other.test", repository), shown.clone());
            }
            let (all, _) = asked(&askers, answer).await;
            assert_eq!(all, [Asker::new(&good, None)], "{upstream}");
        }
    }

    #[tokio::test]
    async fn who_goes_on_asking_in_vain_does_not_go_on_for_ever() {
        let askers = Askers::of(&at("one.test", 0), None);
        let mut asked = 0;
        let answered = askers.ask(|_| {
            asked += 1;
            askers.add(&at("one.test", asked), None);
            async { Err::<(), _>(SourceError::Missing) }.boxed()
        });
        assert!(matches!(answered.await, Err(SourceError::Missing)));
        assert_eq!(asked, MOST_QUESTIONS);
    }
}
