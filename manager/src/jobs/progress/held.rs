//! Which contents of a job a host holds, by their places in its list.

use serde::{Deserialize, Serialize};

/// A bit for each content; as text in hex.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Held(Vec<u8>);

impl From<Held> for String {
    fn from(held: Held) -> Self {
        hex::encode(held.0)
    }
}

impl TryFrom<String> for Held {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Ok(Self(hex::decode(text)?))
    }
}

impl Held {
    pub(super) fn insert(&mut self, at: usize) {
        if self.0.len() <= at / 8 {
            self.0.resize(at / 8 + 1, 0);
        }
        self.0[at / 8] |= 1 << (at % 8);
    }

    pub(crate) fn contains(&self, at: usize) -> bool {
        self.0
            .get(at / 8)
            .is_some_and(|byte| byte & (1 << (at % 8)) != 0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }
}
