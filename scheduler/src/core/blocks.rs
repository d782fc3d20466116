//! A sorted map in blocks, for the millions of members and memberships.
//!
//! Where a tree keeps a third of its places empty, a block has room for what is in it and three
//! more, and its keys and values lie apart, so that a value of two bytes takes two. Looking
//! something up takes two binary searches; what is put in or taken out moves the rest of one block.

use std::{borrow::Borrow, fmt, iter, slice::SliceIndex};

/// Entries of a block at most; it is cut in two then.
const MOST: usize = 64;
/// Places that a full block gains.
const STEP: usize = 4;

/// Entries by their keys, in order; see the module.
pub(super) struct Blocks<K, V> {
    /// None is empty.
    blocks: Vec<Block<K, V>>,
    len: usize,
}

/// As many keys as values, each at the place of the other.
struct Block<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> Default for Blocks<K, V> {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            len: 0,
        }
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Blocks<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V> Blocks<K, V> {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The block that has the key or would have it, and where in it that is, if it is.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let follows = |block: &Block<K, V>| {
            let first = block.keys.first();
            first.is_some_and(|first| first.borrow() <= key)
        };
        let block = self.blocks.partition_point(follows).saturating_sub(1);
        let place = self.blocks.get(block).map_or(Err(0), |entries| {
            entries.keys.binary_search_by(|one| one.borrow().cmp(key))
        });
        (block, place)
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (block, place) = self.find(key);
        self.blocks.get(block)?.values.get(place.ok()?)
    }

    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (block, place) = self.find(key);
        self.blocks.get_mut(block)?.values.get_mut(place.ok()?)
    }

    pub(super) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).1.is_ok()
    }

    /// The value of a key, made if there is none.
    pub(super) fn or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let (mut block, place) = self.find(&key);
        let place = match place {
            Ok(place) => place,
            Err(place) => {
                let mut place = place;
                if self.blocks.is_empty() {
                    self.blocks.push(Block::default());
                } else if self.blocks[block].len() >= MOST {
                    let half = self.blocks[block].cut();
                    self.blocks.insert(block + 1, half);
                    if place > self.blocks[block].len() {
                        place -= self.blocks[block].len();
                        block += 1;
                    }
                }
                self.blocks[block].insert(place, key, V::default());
                self.len += 1;
                place
            }
        };
        &mut self.blocks[block].values[place]
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        let (block, place) = self.find(key);
        let place = place.ok()?;
        let entries = self.blocks.get_mut(block)?;
        let gone = (entries.keys.remove(place), entries.values.remove(place));
        self.len -= 1;
        let left = entries.len();
        if left == 0 {
            self.blocks.remove(block);
        } else if entries.keys.capacity() - left > 2 * STEP {
            entries.shrink();
            self.merge(block);
        }
        Some(gone)
    }

    /// Puts a block and one beside it together, if both are small.
    fn merge(&mut self, block: usize) {
        let is_small = |block: usize| {
            let entries = self.blocks.get(block);
            entries.is_some_and(|entries| entries.len() <= MOST / 4)
        };
        let first = match block.checked_sub(1) {
            Some(before) if is_small(before) => before,
            _ => block,
        };
        if is_small(block) && is_small(first + 1) {
            let rest = self.blocks.remove(first + 1);
            let entries = &mut self.blocks[first];
            entries.keys.reserve_exact(rest.len());
            entries.keys.extend(rest.keys);
            entries.values.reserve_exact(rest.values.len());
            entries.values.extend(rest.values);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.blocks.iter().flat_map(|block| block.range(..))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.blocks.iter().flat_map(|block| &block.keys)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.blocks.iter().flat_map(|block| &block.values)
    }

    /// All entries, from a key's place on and round to it.
    pub(super) fn round_from<'a, Q: Ord + ?Sized>(
        &'a self,
        key: &Q,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let (block, place) = self.find(key);
        let (Ok(place) | Err(place)) = place;
        let own = self.blocks.get(block).into_iter();
        let before = self.blocks.get(..block).unwrap_or_default();
        let after = self.blocks.get(block + 1..).unwrap_or_default();
        let blocks = after.iter().chain(before);
        let all = own.clone().flat_map(move |own| own.range(place..));
        all.chain(blocks.flat_map(|block| block.range(..)))
            .chain(own.flat_map(move |own| own.range(..place)))
    }
}

impl<K, V> Default for Block<K, V> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<K, V> Block<K, V> {
    const fn len(&self) -> usize {
        self.keys.len()
    }

    fn insert(&mut self, place: usize, key: K, value: V) {
        if self.keys.len() == self.keys.capacity() {
            self.keys.reserve_exact(STEP);
            self.values.reserve_exact(STEP);
        }
        self.keys.insert(place, key);
        self.values.insert(place, value);
    }

    /// The upper half, where the lower one stays.
    fn cut(&mut self) -> Self {
        let half = self.len() / 2;
        let (keys, values) = (self.keys.split_off(half), self.values.split_off(half));
        self.shrink();
        Self { keys, values }
    }

    /// Keeps room for a few more.
    fn shrink(&mut self) {
        let room = self.len() + STEP;
        self.keys.shrink_to(room);
        self.values.shrink_to(room);
    }

    /// Entries of these places.
    fn range<R>(&self, places: R) -> impl Iterator<Item = (&K, &V)> + use<'_, K, V, R>
    where
        R: SliceIndex<[K], Output = [K]> + SliceIndex<[V], Output = [V]> + Clone,
    {
        let keys = self.keys[places.clone()].iter();
        iter::zip(keys, &self.values[places])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

    use super::*;

    #[test]
    fn it_does_as_a_tree_does() {
        for seed in 0..20 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (mut blocks, mut tree) = (Blocks::default(), BTreeMap::new());
            for step in 0..4000 {
                let key = rng.random_range(0..600_u32);
                // It grows at first, and shrinks then.
                if rng.random_range(0..4000) > step / 2 + 500 {
                    *blocks.or_default(key) += 1;
                    *tree.entry(key).or_insert(0) += 1;
                } else {
                    assert_eq!(blocks.remove(&key), tree.remove_entry(&key), "seed {seed}");
                }
                let other = rng.random_range(0..600);
                assert_eq!(blocks.get(&other), tree.get(&other), "seed {seed}");
                assert_eq!(blocks.get_mut(&other), tree.get_mut(&other));
                assert_eq!(blocks.contains_key(&other), tree.contains_key(&other));
                assert_eq!(
                    (blocks.len(), blocks.is_empty()),
                    (tree.len(), tree.is_empty())
                );
                if step % 50 == 0 {
                    assert!(blocks.iter().eq(&tree), "seed {seed}");
                    let round = tree.range(other..).chain(tree.range(..other));
                    assert!(blocks.round_from(&other).eq(round), "seed {seed}");
                }
            }
            for key in tree.keys() {
                assert!(blocks.remove(key).is_some());
            }
            assert!(blocks.is_empty() && blocks.blocks.is_empty());
        }
    }

    #[test]
    fn it_has_hardly_more_room_than_it_needs() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut blocks = Blocks::default();
        let room = |blocks: &Blocks<u64, u16>| {
            let room = |block: &Block<u64, u16>| {
                assert!(block.values.capacity() <= block.keys.capacity() + STEP);
                block.keys.capacity()
            };
            blocks.blocks.iter().map(room).sum::<usize>()
        };
        let keys: Vec<u64> = (0..10_000).map(|_| rng.random()).collect();
        for key in &keys {
            blocks.or_default(*key);
        }
        assert!(room(&blocks) < 10_800, "{}", room(&blocks));
        for key in &keys[100..] {
            blocks.remove(key);
        }
        assert!(
            blocks.len() == 100 && room(&blocks) < 1200,
            "{}",
            room(&blocks)
        );
    }

    #[test]
    fn small_blocks_become_one_from_either_side() {
        for upwards in [true, false] {
            let mut blocks = Blocks::<u32, ()>::default();
            for key in 0..6400 {
                blocks.or_default(key);
            }
            let stays = |key: &u32| key.is_multiple_of(16);
            let mut gone: Vec<u32> = (0..6400).filter(|key| !stays(key)).collect();
            if !upwards {
                gone.reverse();
            }
            for key in &gone {
                blocks.remove(key);
            }
            assert!(blocks.keys().copied().eq((0..6400).filter(stays)));
            let count = blocks.blocks.len();
            assert!(
                count <= 400 / (MOST / 4),
                "{count} blocks, upwards {upwards}"
            );
        }
    }
}
