//! Errands and their results.

use super::{
    WireError,
    common::{digest, parse, pieces, required, some, task},
    preheat::why,
    v1::{
        self,
        errand::{self, Kind as WireErrand},
        errand_result::{self, Kind as WireResult},
    },
};
use crate::{
    PieceSet, TaskId,
    errand::{Dropped, Errand, ErrandOrder, ErrandReport, ErrandResult, MOST_TASKS},
    preheat::MOST_CONTENTS,
};

impl From<&Errand> for v1::Errand {
    fn from(errand: &Errand) -> Self {
        let kind = match errand {
            Errand::Contents(image) => WireErrand::Contents(errand::Contents {
                image: some(image.into()),
            }),
            Errand::Drop { tasks, spare } => WireErrand::Drop(errand::Drop {
                tasks: tasks.iter().map(ToString::to_string).collect(),
                spare: *spare,
            }),
            Errand::ForgetTag(image) => WireErrand::ForgetTag(errand::ForgetTag {
                image: some(image.into()),
            }),
        };
        Self { kind: some(kind) }
    }
}

impl TryFrom<v1::Errand> for Errand {
    type Error = WireError;

    fn try_from(value: v1::Errand) -> Result<Self, WireError> {
        Ok(match required(value.kind, "kind")? {
            WireErrand::Contents(v) => Self::Contents(required(v.image, "image")?.try_into()?),
            WireErrand::Drop(v) if v.tasks.is_empty() || v.tasks.len() > MOST_TASKS => {
                return Err(WireError::Invalid("tasks"));
            }
            WireErrand::Drop(v) => {
                let tasks = v.tasks.iter().map(|text| task(text));
                Self::Drop {
                    tasks: tasks.collect::<Result<Vec<TaskId>, _>>()?,
                    spare: v.spare,
                }
            }
            WireErrand::ForgetTag(v) => Self::ForgetTag(required(v.image, "image")?.try_into()?),
        })
    }
}

impl From<&ErrandResult> for v1::ErrandResult {
    fn from(result: &ErrandResult) -> Self {
        let kind = match result {
            ErrandResult::Contents(digests) => WireResult::Contents(errand_result::Contents {
                digests: digests.iter().map(ToString::to_string).collect(),
            }),
            ErrandResult::Dropped(dropped) => WireResult::Dropped(errand_result::Dropped {
                dropped: some((&dropped.dropped).into()),
                in_use: some((&dropped.in_use).into()),
                needed: some((&dropped.needed).into()),
            }),
            ErrandResult::Forgotten(upstream) => WireResult::Forgotten(errand_result::Forgotten {
                upstream: upstream
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            }),
            ErrandResult::Refused(why) => WireResult::Refused(why.clone()),
        };
        Self { kind: some(kind) }
    }
}

/// Places in a list of so many tasks.
fn places(value: Option<v1::PieceSet>) -> Result<PieceSet, WireError> {
    let places = pieces(value)?;
    let fits = usize::try_from(places.end()).is_ok_and(|end| end <= MOST_TASKS);
    fits.then_some(places).ok_or(WireError::Invalid("places"))
}

impl TryFrom<v1::ErrandResult> for ErrandResult {
    type Error = WireError;

    fn try_from(value: v1::ErrandResult) -> Result<Self, WireError> {
        Ok(match required(value.kind, "kind")? {
            WireResult::Contents(v) if v.digests.len() > MOST_CONTENTS => {
                return Err(WireError::Invalid("digests"));
            }
            WireResult::Contents(v) => {
                let digests = v.digests.iter().map(|text| digest(text));
                Self::Contents(digests.collect::<Result<_, _>>()?)
            }
            WireResult::Dropped(v) => Self::Dropped(Dropped {
                dropped: places(v.dropped)?,
                in_use: places(v.in_use)?,
                needed: places(v.needed)?,
            }),
            WireResult::Forgotten(v) if v.upstream.is_empty() => Self::Forgotten(None),
            WireResult::Forgotten(v) => Self::Forgotten(Some(parse(&v.upstream, "upstream")?)),
            WireResult::Refused(text) => Self::Refused(why(text)?),
        })
    }
}

impl From<&ErrandOrder> for v1::ErrandOrder {
    fn from(order: &ErrandOrder) -> Self {
        Self {
            run: order.run,
            errand: some((&order.errand).into()),
        }
    }
}

impl TryFrom<v1::ErrandOrder> for ErrandOrder {
    type Error = WireError;

    fn try_from(value: v1::ErrandOrder) -> Result<Self, WireError> {
        Ok(Self {
            run: value.run,
            errand: required(value.errand, "errand")?.try_into()?,
        })
    }
}

impl From<&ErrandReport> for v1::ErrandReport {
    fn from(report: &ErrandReport) -> Self {
        Self {
            run: report.run,
            result: some((&report.result).into()),
        }
    }
}

impl TryFrom<v1::ErrandReport> for ErrandReport {
    type Error = WireError;

    fn try_from(value: v1::ErrandReport) -> Result<Self, WireError> {
        Ok(Self {
            run: value.run,
            result: required(value.result, "result")?.try_into()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, preheat::ImageName, session::Reference};

    fn task() -> TaskId {
        TaskId::of_content(Digest::sha256(b"x"))
    }

    #[test]
    fn errands_and_results_survive_the_wire() {
        let image = ImageName {
            registry: "docker.io".to_owned(),
            repository: "library/app".parse().unwrap(),
            reference: Reference::Tag("1".to_owned()),
            platforms: Vec::new(),
        };
        let errands = [
            Errand::Contents(image.clone()),
            Errand::Drop {
                tasks: vec![task()],
                spare: true,
            },
            Errand::ForgetTag(image),
        ];
        for errand in errands {
            let order = ErrandOrder { run: 9, errand };
            assert_eq!(
                ErrandOrder::try_from(v1::ErrandOrder::from(&order)),
                Ok(order)
            );
        }
        let dropped = Dropped {
            dropped: PieceSet::from_range(1..3),
            needed: PieceSet::from_range(0..1),
            ..Dropped::default()
        };
        let results = [
            ErrandResult::Contents(vec![Digest::sha256(b"x")]),
            ErrandResult::Dropped(dropped),
            ErrandResult::Forgotten(Some("docker.io".parse().unwrap())),
            ErrandResult::Forgotten(None),
            ErrandResult::Refused("no".to_owned()),
        ];
        for result in results {
            let report = ErrandReport { run: 9, result };
            assert_eq!(
                ErrandReport::try_from(v1::ErrandReport::from(&report)),
                Ok(report)
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let of = |tasks: Vec<String>| {
            let drop = errand::Drop {
                tasks,
                spare: false,
            };
            let kind = some(WireErrand::Drop(drop));
            Errand::try_from(v1::Errand { kind })
        };
        assert!(of(vec![task().to_string()]).is_ok());
        assert!(of(Vec::new()).is_err());
        assert!(of(vec!["md5:00".to_owned()]).is_err());
        assert!(of(vec![task().to_string(); MOST_TASKS + 1]).is_err());
        let beyond = PieceSet::from_range(0..u32::try_from(MOST_TASKS).unwrap() + 1);
        let dropped = errand_result::Dropped {
            dropped: some((&beyond).into()),
            ..errand_result::Dropped::default()
        };
        let kind = some(WireResult::Dropped(dropped));
        assert!(ErrandResult::try_from(v1::ErrandResult { kind }).is_err());
        assert!(Errand::try_from(v1::Errand { kind: None }).is_err());
    }
}
