//! What a seed is told that is asked for groups of a content.

use super::{
    WireError,
    common::{origin, required, some},
    v1,
};
use crate::link::Excerpt;

impl From<&Excerpt> for v1::Excerpt {
    fn from(excerpt: &Excerpt) -> Self {
        Self {
            origin: some((&excerpt.origin).into()),
            grant: some((&excerpt.grant).into()),
        }
    }
}

impl TryFrom<v1::Excerpt> for Excerpt {
    type Error = WireError;

    fn try_from(value: v1::Excerpt) -> Result<Self, WireError> {
        Ok(Self {
            origin: origin(value.origin)?,
            grant: required(value.grant, "grant")?.try_into()?,
        })
    }
}
