//! What a host holds, in few bytes.
//!
//! A scheduler of ten thousand hosts is told of millions of contents at once when it restarts.
//! Nearly all are held whole: of those a digest, a size and a place among the origins say all,
//! 38 bytes of a content instead of 130.

use std::collections::HashMap;

use super::{
    super::{WireError, v1},
    MOST_TOLD,
};
use crate::{Algorithm, Digest, Lengths, Origin, PieceSet, TaskId, session::Holding};

/// Bytes of a SHA-256 digest.
const DIGEST: usize = 32;

/// The message that tells of these.
pub(super) fn pack(holdings: &[Holding], last: bool) -> v1::Inventory {
    let (mut whole, mut digests) = (v1::Whole::default(), Vec::new());
    let (mut others, mut origins) = (Vec::new(), HashMap::new());
    for holding in holdings {
        if !is_plain(holding) {
            others.push(holding.into());
            continue;
        }
        digests.extend_from_slice(holding.task.digest().as_bytes());
        whole.sizes.push(holding.lengths.size());
        let origin = holding.origin.as_ref().map_or(0, |origin| {
            *origins.entry(origin).or_insert_with(|| {
                whole.origins.push(origin.into());
                u32::try_from(whole.origins.len()).unwrap_or(0)
            })
        });
        whole.origin.push(origin);
    }
    whole.digests = digests.into();
    v1::Inventory {
        holdings: others,
        last,
        whole: Some(whole).filter(|whole| !whole.sizes.is_empty()),
    }
}

/// What a message tells of.
pub(super) fn unpack(inventory: v1::Inventory) -> Result<Vec<Holding>, WireError> {
    let whole = inventory.whole.unwrap_or_default();
    let count = whole.sizes.len();
    let belong = whole.digests.len() == count * DIGEST && whole.origin.len() == count;
    let fits = inventory.holdings.len() + count <= MOST_TOLD && whole.origins.len() <= count;
    if !belong || !fits {
        return Err(WireError::Invalid("inventory"));
    }
    let mut holdings = Vec::with_capacity(inventory.holdings.len() + count);
    for holding in inventory.holdings {
        holdings.push(holding.try_into()?);
    }
    let origins = whole.origins.into_iter().map(TryInto::try_into);
    let origins = origins.collect::<Result<Vec<Origin>, WireError>>()?;
    let (digests, _) = whole.digests.as_chunks::<DIGEST>();
    for ((digest, size), place) in digests.iter().zip(whole.sizes).zip(whole.origin) {
        let origin = match place {
            0 => None,
            place => origins.get(place as usize - 1).cloned(),
        };
        if origin.is_none() && place > 0 {
            return Err(WireError::Invalid("origin"));
        }
        let lengths = Lengths::of(size).map_err(|_| WireError::Invalid("lengths"))?;
        let digest = Digest::from_bytes(Algorithm::Sha256, digest);
        holdings.push(Holding {
            task: TaskId::of_content(digest.ok_or(WireError::Invalid("digests"))?),
            lengths,
            held: PieceSet::full(lengths.pieces()),
            reading: PieceSet::new(),
            wanted: false,
            origin,
        });
    }
    // In the order in which they would be sent again.
    holdings.sort_by_key(is_plain);
    Ok(holdings)
}

/// Whether digest, size and origin say all of it.
fn is_plain(holding: &Holding) -> bool {
    let pieces = holding.lengths.pieces();
    holding.task.digest().algorithm() == Algorithm::Sha256
        && !holding.task.is_open()
        && !holding.wanted
        && holding.reading.is_empty()
        && pieces > 0
        && holding.held.len() == pieces
        && holding.held.end() == pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OriginKind;

    fn origin(repository: &str) -> Origin {
        Origin {
            upstream: "docker.io".parse().unwrap(),
            repository: repository.parse().unwrap(),
            kind: OriginKind::Blob,
            private: false,
        }
    }

    fn holding(name: &str, pieces: PieceSet, origin: Option<Origin>) -> Holding {
        Holding {
            task: TaskId::of_content(Digest::sha256(name.as_bytes())),
            lengths: Lengths::of(3 << 20).unwrap(),
            held: pieces,
            reading: PieceSet::new(),
            wanted: false,
            origin,
        }
    }

    #[test]
    fn what_is_held_whole_takes_few_bytes_and_nothing_is_lost() {
        let all = PieceSet::full(12);
        let mut wanted = holding("wanted", all.clone(), None);
        wanted.wanted = true;
        let mut file = holding("file", all.clone(), None);
        file.task = TaskId::of_file(b"http://host/path 1");
        let endless = Lengths::open();
        let mut open = holding("open", PieceSet::full(endless.pieces()), None);
        (open.task, open.lengths) = (open.task.opened(), endless);
        let long = vec![
            wanted,
            file,
            open,
            holding("part", PieceSet::from_range(0..3), None),
        ];
        let short = vec![
            holding("a", all.clone(), Some(origin("library/app"))),
            holding("b", all.clone(), Some(origin("library/other"))),
            holding("c", all.clone(), Some(origin("library/app"))),
            holding("d", all, None),
        ];
        let both = [long.clone(), short.clone()].concat();
        let packed = pack(&both, true);
        let whole = packed.whole.clone().unwrap();
        assert_eq!((packed.holdings.len(), whole.sizes.len()), (4, 4));
        assert_eq!(whole.origin, [1, 2, 1, 0]);
        assert_eq!(unpack(packed), Ok(both));

        // Whatever the order it came in, it is sent again as it was read.
        let mixed = v1::Inventory {
            holdings: short.iter().chain(&long).map(Into::into).collect(),
            ..v1::Inventory::default()
        };
        let read = unpack(mixed).unwrap();
        assert_eq!(read.len(), 8);
        assert_eq!(unpack(pack(&read, true)), Ok(read));

        let many = vec![holding("a", PieceSet::full(12), Some(origin("library/app"))); 200];
        let bytes = prost::Message::encoded_len(&pack(&many, true));
        assert!(bytes < 200 * 40, "{bytes}");
    }

    #[test]
    fn lists_that_do_not_belong_together_are_refused() {
        let good = || {
            pack(
                &[holding("a", PieceSet::full(12), Some(origin("app")))],
                false,
            )
        };
        let broken = |breaks: fn(&mut v1::Whole)| {
            let mut packed = good();
            breaks(packed.whole.as_mut().unwrap());
            unpack(packed).is_err()
        };
        assert!(!broken(|_| {}));
        assert!(broken(|whole| whole.sizes.push(1)));
        assert!(broken(|whole| whole.sizes.clear()));
        assert!(broken(|whole| whole.origin[0] = 2));
        assert!(broken(|whole| whole.origin.clear()));
        assert!(broken(|whole| whole.digests = whole.digests.slice(1..)));
        assert!(broken(|whole| whole.sizes[0] = u64::MAX));
        assert!(broken(|whole| whole.origins[0].repository.clear()));
        let many = v1::Whole {
            digests: vec![7; (MOST_TOLD + 1) * DIGEST].into(),
            sizes: vec![1; MOST_TOLD + 1],
            origin: vec![0; MOST_TOLD + 1],
            origins: Vec::new(),
        };
        let inventory = v1::Inventory {
            whole: Some(many),
            ..v1::Inventory::default()
        };
        assert!(unpack(inventory).is_err());
    }
}
