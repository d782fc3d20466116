//! Orders and reports of preheats.

use super::{
    WireError,
    common::{digest, parse, required, some},
    v1::{
        self,
        preheat_image::Reference as WireReference,
        preheat_order::{self, Kind as WireOrder},
        preheat_report::{self, Kind as WireReport},
    },
};
use crate::{
    Digest, OriginKind,
    preheat::{
        Authorization, Content, Have, ImageName, MOST_CONTENTS, MOST_PIN_SECONDS, MOST_PLATFORMS,
        MOST_TIMEOUT_SECONDS, MOST_WHY, Order, PreheatOrder, PreheatReport, Report,
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

fn perhaps(text: &str) -> Result<Option<Digest>, WireError> {
    Some(text)
        .filter(|text| !text.is_empty())
        .map(digest)
        .transpose()
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
        }
    }
}

impl TryFrom<v1::PreheatContent> for Content {
    type Error = WireError;

    fn try_from(value: v1::PreheatContent) -> Result<Self, WireError> {
        Ok(Self {
            digest: digest(&value.digest)?,
            size: value.size,
            kind: if value.manifest {
                OriginKind::Manifest
            } else {
                OriginKind::Blob
            },
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
                image,
                authorization,
            } => WireOrder::Resolve(preheat_order::Resolve {
                image: some(image.into()),
                authorization: reveal(authorization),
            }),
            Order::Have(have) => WireOrder::Have(preheat_order::Have {
                upstream: have.upstream.to_string(),
                repository: have.repository.to_string(),
                contents: have.contents.iter().map(Into::into).collect(),
                authorization: reveal(&have.authorization),
                at_once: have.at_once,
                pin_seconds: have.pin_seconds,
                timeout_seconds: have.timeout_seconds,
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
                image: required(v.image, "image")?.try_into()?,
                authorization: authorization(v.authorization)?,
            },
            WireOrder::Have(v) => Order::Have(Have {
                upstream: parse(&v.upstream, "upstream")?,
                repository: parse(&v.repository, "repository")?,
                contents: contents(v.contents)?,
                authorization: authorization(v.authorization)?,
                at_once: v.at_once,
                pin_seconds: within(v.pin_seconds, MOST_PIN_SECONDS, "pin_seconds")?,
                timeout_seconds: within(
                    v.timeout_seconds,
                    MOST_TIMEOUT_SECONDS,
                    "timeout_seconds",
                )?,
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
            Report::Resolved { upstream, contents } => {
                WireReport::Resolved(preheat_report::Resolved {
                    upstream: upstream.to_string(),
                    contents: contents.iter().map(Into::into).collect(),
                })
            }
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
                let digests = v.digests.iter().map(|text| digest(text));
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

    fn content(kind: OriginKind) -> Content {
        Content {
            digest: Digest::sha256(b"x"),
            size: 7,
            kind,
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
        let orders = [
            Order::Resolve {
                image,
                authorization: authorization.clone(),
            },
            Order::Have(Have {
                upstream: "docker.io".parse().unwrap(),
                repository: "library/app".parse().unwrap(),
                contents: list.clone(),
                authorization,
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
                contents: list,
            },
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
        assert!(PreheatOrder::try_from(v1::PreheatOrder { run: 1, kind: None }).is_err());
    }
}
