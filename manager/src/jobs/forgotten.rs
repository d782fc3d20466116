//! What is kept of a job only until its end: what signs in at a registry, and where exactly files
//! are. A file's query may be a signature that lets everybody have it for a while, and jobs that
//! have ended are shown for days.

use std::fmt;

use super::{Secret, Subject, Wish, WishError};

/// What the database forgets with the job's end. Printing it yields a placeholder.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Forgotten(String);

impl Forgotten {
    /// Of a wish as it was posted.
    pub(crate) fn of(wish: &Wish, secret: &Secret) -> Self {
        Self(match &wish.subject {
            Subject::Files(urls) if urls.iter().any(|url| has_query(url)) => {
                serde_json::Value::from(urls.clone()).to_string()
            }
            Subject::Files(_) | Subject::Image(_) => secret.reveal().unwrap_or_default().to_owned(),
        })
    }

    /// As the database had it.
    pub(super) const fn kept(text: String) -> Self {
        Self(text)
    }

    /// For the database, and nobody else.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// The wish as it was posted, of what is kept of it, and what signs in.
    pub(super) fn restore(self, kept: Wish) -> Result<(Wish, Secret), serde_json::Error> {
        match &kept.subject {
            Subject::Files(_) if !self.0.is_empty() => {
                let subject = Subject::Files(serde_json::from_str(&self.0)?);
                Ok((Wish { subject, ..kept }, Secret::default()))
            }
            Subject::Files(_) | Subject::Image(_) => Ok((kept, Secret::new(self.0))),
        }
    }
}

impl fmt::Debug for Forgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forgotten(..)")
    }
}

impl Wish {
    /// What is kept of it for as long as the job is shown: of a query that it was there.
    pub(super) fn at_rest(&self) -> Self {
        let mut kept = self.clone();
        if let Subject::Files(urls) = &mut kept.subject {
            for url in urls {
                if let Some(at) = url.find('?') {
                    url.truncate(at + 1);
                }
            }
        }
        kept
    }

    /// A wish that is kept, wanted again: its files are said again, if they had queries.
    pub(crate) fn again(self, files: Option<Vec<String>>) -> Result<Self, WishError> {
        match (&self.subject, files) {
            (Subject::Files(kept), None) if kept.iter().any(|url| has_query(url)) => {
                Err(WishError::FilesAgain)
            }
            (_, None) => Ok(self),
            (Subject::Image(_), Some(_)) => Err(WishError::OtherFiles),
            (Subject::Files(_), Some(files)) => {
                let subject = Subject::files(files)?;
                let again = Self {
                    subject,
                    ..self.clone()
                };
                match again.at_rest() == self.at_rest() {
                    true => Ok(again),
                    false => Err(WishError::OtherFiles),
                }
            }
        }
    }
}

fn has_query(url: &str) -> bool {
    url.contains('?')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::Request;

    fn files(urls: &[&str]) -> Wish {
        let files = Some(urls.iter().map(ToString::to_string).collect());
        let request = Request {
            files,
            ..Request::default()
        };
        request.wish().unwrap()
    }

    #[test]
    fn a_signature_is_not_kept() {
        let wish = files(&["http://h/a?sig=secret", "http://h/b"]);
        let (kept, forgotten) = (wish.at_rest(), Forgotten::of(&wish, &Secret::default()));
        let text = serde_json::to_string(&kept).unwrap();
        assert!(!text.contains("secret"), "{text}");
        assert!(!format!("{forgotten:?} {wish:?}").contains("secret"));
        assert_eq!(kept.at_rest(), kept);
        let restored = forgotten.restore(kept).unwrap();
        assert_eq!(restored, (wish, Secret::default()));
    }

    #[test]
    fn what_needs_no_secret_is_kept_whole() {
        let wish = files(&["http://h/a"]);
        assert_eq!(wish.at_rest(), wish);
        let forgotten = Forgotten::of(&wish, &Secret::default());
        assert_eq!(forgotten, Forgotten::default());
        assert_eq!(forgotten.restore(wish.clone()).unwrap().0, wish);
        // As jobs were kept before there was a difference.
        let Subject::Files(urls) = &wish.subject else {
            panic!("files");
        };
        let old = Wish {
            subject: Subject::Files(vec![format!("{}?sig=1", urls[0])]),
            ..wish
        };
        let restored = Forgotten::default().restore(old.clone()).unwrap();
        assert_eq!(restored.0, old);
    }

    #[test]
    fn files_with_queries_are_said_again() {
        let again = |kept: &Wish, urls: Option<&[&str]>| {
            let urls = urls.map(|urls| urls.iter().map(ToString::to_string).collect());
            kept.clone().again(urls)
        };
        let signed = files(&["http://h/a?sig=1"]);
        let kept = signed.at_rest();
        assert_eq!(again(&kept, None), Err(WishError::FilesAgain));
        let newer = again(&kept, Some(&["http://h/a?sig=2"])).unwrap();
        assert_eq!(newer, files(&["http://h/a?sig=2"]));
        for other in ["http://h/b?sig=1", "http://h/a"] {
            let other = again(&kept, Some(&[other]));
            assert_eq!(other, Err(WishError::OtherFiles));
        }
        let plain = files(&["http://h/a"]);
        assert_eq!(again(&plain, None), Ok(plain.clone()));
        assert_eq!(again(&plain, Some(&["http://h/a"])), Ok(plain));
    }
}
