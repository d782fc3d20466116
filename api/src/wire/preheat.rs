//! Orders and reports of preheats.

use super::{
    WireError,
    common::{digest, parse, required, some, task},
    v1::{
        self,
        preheat_image::Reference as WireReference,
        preheat_order::{self, Kind as WireOrder},
        preheat_report::{self, Kind as WireReport},
    },
};
use crate::{
    Digest, OriginKind, TaskId,
    preheat::{
        Authorization, Content, Have, ImageName, MOST_CONTENTS, MOST_FILES, MOST_PIN_SECONDS,
        MOST_PLATFORMS, MOST_TIMEOUT_SECONDS, MOST_URL, MOST_WHY, Order, PreheatOrder,
        PreheatReport, Report, Scope, Subject,
    },
    session::Reference,
};

/// Of a registry's, a platform's or a tag's name.
const MOST_NAME: usize = 256;

fn authorization(text: String) -> Result<Authorization, WireError> {
    Authorization::checked(text).ok_or(WireError::Invalid("authorization"))
}

fn reveal(authorization: &Authorization) -> String {
    authorization.reveal().unwrap_or_default().to_owned()
}

fn name(text: String, field: &'static str) -> Result<String, WireError> {
    if text.is_empty() || text.len() > MOST_NAME || text.chars().any(char::is_control) {
        return Err(WireError::Invalid(field));
    }
    Ok(text)
}

pub(super) fn why(text: String) -> Result<String, WireError> {
    if text.len() > MOST_WHY {
        return Err(WireError::Invalid("why"));
    }
    Ok(text)
}

/// A task that is a content by itself, whatever its size.
fn content(text: &str) -> Result<TaskId, WireError> {
    let task = task(text)?;
    let is_content = !task.is_open();
    is_content
        .then_some(task)
        .ok_or(WireError::Invalid("digest"))
}

/// A digest, or what a version of a file is called.
fn named(text: &str) -> Result<Digest, WireError> {
    Ok(*content(text)?.digest())
}

fn perhaps(text: &str) -> Result<Option<Digest>, WireError> {
    Some(text)
        .filter(|text| !text.is_empty())
        .map(named)
        .transpose()
}

fn url(text: String) -> Result<String, WireError> {
    if text.is_empty() || text.len() > MOST_URL || text.chars().any(char::is_control) {
        return Err(WireError::Invalid("url"));
    }
    Ok(text)
}

type Wished = (Option<v1::PreheatImage>, Option<v1::PreheatFiles>);

/// Either an image or files.
impl TryFrom<Wished> for Subject {
    type Error = WireError;

    fn try_from(wished: Wished) -> Result<Self, WireError> {
        match wished {
            (Some(image), None) => Ok(Self::Image(image.try_into()?)),
            (None, Some(files)) if files.urls.is_empty() || files.urls.len() > MOST_FILES => {
                Err(WireError::Invalid("files"))
            }
            (None, Some(files)) => {
                let urls = files.urls.into_iter().map(url);
                Ok(Self::Files(urls.collect::<Result<_, _>>()?))
            }
            (Some(_), Some(_)) => Err(WireError::Invalid("image and files")),
            (None, None) => Err(WireError::Missing("image or files")),
        }
    }
}

impl From<Scope> for v1::PreheatScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::SingleSeedPeer => Self::SingleSeedPeer,
            Scope::AllSeedPeers => Self::AllSeedPeers,
            Scope::AllPeers => Self::AllPeers,
        }
    }
}

impl From<v1::PreheatScope> for Scope {
    fn from(scope: v1::PreheatScope) -> Self {
        match scope {
            v1::PreheatScope::SingleSeedPeer => Self::SingleSeedPeer,
            v1::PreheatScope::AllSeedPeers => Self::AllSeedPeers,
            v1::PreheatScope::AllPeers => Self::AllPeers,
        }
    }
}

impl From<&Subject> for Wished {
    fn from(subject: &Subject) -> Self {
        match subject {
            Subject::Image(image) => (some(image.into()), None),
            Subject::Files(urls) => {
                let urls = urls.clone();
                (None, some(v1::PreheatFiles { urls }))
            }
        }
    }
}

fn shown(digest: Option<&Digest>) -> String {
    digest.map(ToString::to_string).unwrap_or_default()
}

impl From<&ImageName> for v1::PreheatImage {
    fn from(image: &ImageName) -> Self {
        Self {
            registry: image.registry.clone(),
            repository: image.repository.to_string(),
            reference: some(match &image.reference {
                Reference::Tag(tag) => WireReference::Tag(tag.clone()),
                Reference::Digest(digest) => WireReference::Digest(digest.to_string()),
            }),
            platforms: image.platforms.clone(),
        }
    }
}

impl TryFrom<v1::PreheatImage> for ImageName {
    type Error = WireError;

    fn try_from(value: v1::PreheatImage) -> Result<Self, WireError> {
        if value.platforms.len() > MOST_PLATFORMS {
            return Err(WireError::Invalid("platforms"));
        }
        let platforms = value.platforms.into_iter();
        Ok(Self {
            registry: name(value.registry, "registry")?,
            repository: parse(&value.repository, "repository")?,
            reference: match required(value.reference, "reference")? {
                WireReference::Tag(tag) => Reference::Tag(name(tag, "tag")?),
                WireReference::Digest(text) => Reference::Digest(digest(&text)?),
            },
            platforms: platforms
                .map(|one| name(one, "platforms"))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Content> for v1::PreheatContent {
    fn from(content: &Content) -> Self {
        Self {
            digest: content.digest.to_string(),
            size: content.size,
            manifest: content.kind == OriginKind::Manifest,
            url: content.url.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::PreheatContent> for Content {
    type Error = WireError;

    fn try_from(value: v1::PreheatContent) -> Result<Self, WireError> {
        let (name, is_file) = (content(&value.digest)?, !value.url.is_empty());
        if name.is_file() != is_file {
            return Err(WireError::Invalid("digest"));
        }
        Ok(Self {
            digest: *name.digest(),
            size: value.size,
            kind: if value.manifest {
                OriginKind::Manifest
            } else {
                OriginKind::Blob
            },
            url: is_file.then(|| url(value.url)).transpose()?,
        })
    }
}

fn contents(list: Vec<v1::PreheatContent>) -> Result<Vec<Content>, WireError> {
    if list.is_empty() || list.len() > MOST_CONTENTS {
        return Err(WireError::Invalid("contents"));
    }
    list.into_iter().map(TryInto::try_into).collect()
}

/// A number of seconds that makes sense.
fn within(seconds: u64, most: u64, field: &'static str) -> Result<u64, WireError> {
    let bounded = Some(seconds).filter(|seconds| *seconds <= most);
    bounded.ok_or(WireError::Invalid(field))
}

impl From<&PreheatOrder> for v1::PreheatOrder {
    fn from(order: &PreheatOrder) -> Self {
        let kind = match &order.what {
            Order::Resolve {
                subject,
                authorization,
            } => {
                let (image, files) = subject.into();
                WireOrder::Resolve(preheat_order::Resolve {
                    image,
                    files,
                    authorization: reveal(authorization),
                })
            }
            Order::Have(have) => WireOrder::Have(preheat_order::Have {
                upstream: have.upstream.to_string(),
                repository: have.repository.to_string(),
                contents: have.contents.iter().map(Into::into).collect(),
                authorization: reveal(&have.authorization),
                at_once: have.at_once,
                pin_seconds: have.pin_seconds,
                timeout_seconds: have.timeout_seconds,
                private: have.private,
                registry: have.registry.clone().unwrap_or_default(),
            }),
            Order::Stop => WireOrder::Stop(preheat_order::Stop {}),
        };
        Self {
            run: order.run,
            kind: some(kind),
        }
    }
}

impl TryFrom<v1::PreheatOrder> for PreheatOrder {
    type Error = WireError;

    fn try_from(value: v1::PreheatOrder) -> Result<Self, WireError> {
        let what = match required(value.kind, "kind")? {
            WireOrder::Resolve(v) => Order::Resolve {
                subject: (v.image, v.files).try_into()?,
                authorization: authorization(v.authorization)?,
            },
            WireOrder::Have(v) => Order::Have(Have {
                upstream: parse(&v.upstream, "upstream")?,
                repository: parse(&v.repository, "repository")?,
                registry: Some(v.registry)
                    .filter(|text| !text.is_empty())
                    .map(|text| name(text, "registry"))
                    .transpose()?,
                contents: contents(v.contents)?.into(),
                authorization: authorization(v.authorization)?,
                at_once: v.at_once,
                pin_seconds: within(v.pin_seconds, MOST_PIN_SECONDS, "pin_seconds")?,
                timeout_seconds: within(
                    v.timeout_seconds,
                    MOST_TIMEOUT_SECONDS,
                    "timeout_seconds",
                )?,
                private: v.private,
            }),
            WireOrder::Stop(_) => Order::Stop,
        };
        Ok(Self {
            run: value.run,
            what,
        })
    }
}

impl From<&PreheatReport> for v1::PreheatReport {
    fn from(report: &PreheatReport) -> Self {
        let kind = match &report.what {
            Report::Resolved {
                upstream,
                contents,
                token,
            } => WireReport::Resolved(preheat_report::Resolved {
                upstream: upstream.to_string(),
                contents: contents.iter().map(Into::into).collect(),
                token: reveal(token),
            }),
            Report::Unresolved {
                digest,
                why,
                elsewhere,
            } => WireReport::Unresolved(preheat_report::Unresolved {
                digest: shown(digest.as_ref()),
                why: why.clone(),
                elsewhere: *elsewhere,
            }),
            Report::Held(digests) => WireReport::Held(preheat_report::Held {
                digests: digests.iter().map(ToString::to_string).collect(),
            }),
            Report::Lacks { digest, why } => WireReport::Lacks(preheat_report::Lacks {
                digest: shown(digest.as_ref()),
                why: why.clone(),
            }),
        };
        Self {
            run: report.run,
            kind: some(kind),
        }
    }
}

impl TryFrom<v1::PreheatReport> for PreheatReport {
    type Error = WireError;

    fn try_from(value: v1::PreheatReport) -> Result<Self, WireError> {
        let what = match required(value.kind, "kind")? {
            WireReport::Resolved(v) => Report::Resolved {
                upstream: parse(&v.upstream, "upstream")?,
                contents: contents(v.contents)?,
                token: authorization(v.token)?,
            },
            WireReport::Unresolved(v) => Report::Unresolved {
                digest: perhaps(&v.digest)?,
                why: why(v.why)?,
                elsewhere: v.elsewhere,
            },
            WireReport::Held(v) if v.digests.len() > MOST_CONTENTS => {
                return Err(WireError::Invalid("digests"));
            }
            WireReport::Held(v) => {
                let digests = v.digests.iter().map(|text| named(text));
                Report::Held(digests.collect::<Result<_, _>>()?)
            }
            WireReport::Lacks(v) => Report::Lacks {
                digest: perhaps(&v.digest)?,
                why: why(v.why)?,
            },
        };
        Ok(Self {
            run: value.run,
            what,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskId;

    fn content(kind: OriginKind) -> Content {
        Content {
            digest: Digest::sha256(b"x"),
            size: 7,
            kind,
            url: None,
        }
    }

    #[test]
    fn orders_and_reports_survive_the_wire() {
        let image = ImageName {
            registry: "harbor.x:8443".to_owned(),
            repository: "library/app".parse().unwrap(),
            reference: Reference::Tag("1".to_owned()),
            platforms: vec!["linux/arm64/v8".to_owned()],
        };
        let list = vec![content(OriginKind::Manifest), content(OriginKind::Blob)];
        let authorization = Authorization::new("Bearer x".to_owned());
        let url = "http://dl.example.com/a.iso".to_owned();
        let file = Content {
            digest: *TaskId::of_file(b"a").digest(),
            url: Some(url.clone()),
            ..content(OriginKind::Blob)
        };
        let orders = [
            Order::Resolve {
                subject: Subject::Files(vec![url]),
                authorization: Authorization::default(),
            },
            Order::Resolve {
                subject: Subject::Image(image),
                authorization: authorization.clone(),
            },
            Order::Have(Have {
                upstream: "docker.io".parse().unwrap(),
                repository: "library/app".parse().unwrap(),
                registry: Some("harbor.x:8443".to_owned()),
                contents: list.clone().into(),
                authorization: authorization.clone(),
                private: true,
                at_once: 3,
                pin_seconds: 60,
                timeout_seconds: 30,
            }),
            Order::Stop,
        ];
        for what in orders {
            let order = PreheatOrder { run: 9, what };
            assert_eq!(
                PreheatOrder::try_from(v1::PreheatOrder::from(&order)),
                Ok(order)
            );
        }
        let digest = Digest::sha256(b"x");
        let reports = [
            Report::Resolved {
                upstream: "docker.io".parse().unwrap(),
                contents: [list, vec![file.clone()]].concat(),
                token: authorization,
            },
            Report::Held(vec![file.digest]),
            Report::Unresolved {
                digest: Some(digest),
                why: "no".to_owned(),
                elsewhere: true,
            },
            Report::Held(vec![digest]),
            Report::Lacks {
                digest: None,
                why: "full".to_owned(),
            },
        ];
        for what in reports {
            let report = PreheatReport { run: 9, what };
            assert_eq!(
                PreheatReport::try_from(v1::PreheatReport::from(&report)),
                Ok(report)
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let have = |spoil: fn(&mut preheat_order::Have)| {
            let mut have = preheat_order::Have {
                upstream: "docker.io".to_owned(),
                repository: "a".to_owned(),
                contents: vec![(&content(OriginKind::Blob)).into()],
                ..preheat_order::Have::default()
            };
            spoil(&mut have);
            let kind = some(WireOrder::Have(have));
            PreheatOrder::try_from(v1::PreheatOrder { run: 1, kind })
        };
        assert!(have(|_| {}).is_ok());
        assert!(have(|have| have.contents.clear()).is_err());
        assert!(
            have(|have| have.contents = vec![have.contents[0].clone(); MOST_CONTENTS + 1]).is_err()
        );
        assert!(have(|have| have.repository = "../x".to_owned()).is_err());
        assert!(have(|have| have.pin_seconds = u64::MAX).is_err());
        assert!(have(|have| have.timeout_seconds = 24 * 3600 + 1).is_err());
        assert!(have(|have| have.authorization = "a\r\nb: c".to_owned()).is_err());
        assert!(have(|have| have.contents[0].digest = "md5:00".to_owned()).is_err());
        // A file says where it is, and nothing else does.
        let name = |have: &mut preheat_order::Have| {
            have.contents[0].digest = TaskId::of_file(b"a").to_string();
        };
        assert!(have(name).is_err());
        assert!(have(|have| have.contents[0].url = "http://h/a".to_owned()).is_err());
        let image = v1::PreheatImage::from(&ImageName {
            registry: "a".to_owned(),
            repository: "a".parse().unwrap(),
            reference: Reference::Tag("1".to_owned()),
            platforms: Vec::new(),
        });
        let files = |url: &str, count| v1::PreheatFiles {
            urls: vec![url.to_owned(); count],
        };
        let subject = |image, files| Subject::try_from((image, files));
        assert!(subject(None, None).is_err());
        assert!(subject(Some(image), Some(files("http://h/a", 1))).is_err());
        for (url, count) in [("", 1), ("http://h/a\r\nb", 1), ("http://h/a", 0)] {
            assert!(subject(None, Some(files(url, count))).is_err(), "{url}");
        }
        assert!(subject(None, Some(files("http://h/a", MOST_FILES + 1))).is_err());
        assert!(PreheatOrder::try_from(v1::PreheatOrder { run: 1, kind: None }).is_err());
    }
}
