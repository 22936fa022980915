//! A map that forgets the entry used least recently.

use std::{
    borrow::Borrow,
    collections::{HashMap, hash_map},
    hash::Hash,
};

/// Counts of a cache of plans, and the memory that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Look-ups that found their plan.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Plans made.
    pub compiles: u64,
    /// Plans dropped because the cache was full.
    pub evictions: u64,
    /// Bytes of device memory that the plans hold now, each buffer counted once; weights and key-value caches are not
    /// theirs.
    pub bytes: u64,
}

/// At most `capacity` values by key. When one more comes, the one whose last
/// [`get_or_try_insert`](Self::get_or_try_insert) is longest ago goes.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    capacity: usize,
    entries: HashMap<K, Entry<V>>,
    clock: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
}

#[derive(Debug)]
struct Entry<V> {
    used: u64,
    value: V,
}

impl<K: Hash + Eq + Clone, V> Lru<K, V> {
    /// An empty map of at most `capacity` values, at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { capacity, entries: HashMap::new(), clock: 0, hits: 0, misses: 0, evictions: 0 }
    }

    /// The value of `key`, which thereby is the one used last; made if it is new, after the value that must go for it
    /// is dropped, so that the two never exist at once. A hit or a miss is counted.
    ///
    /// # Errors
    /// Those of `make`; the map then has no value of `key`.
    pub(crate) fn get_or_try_insert<E>(&mut self, key: &K, make: impl FnOnce() -> Result<V, E>) -> Result<&mut V, E> {
        self.clock += 1;
        if self.entries.contains_key(key) {
            self.hits += 1;
        } else {
            self.misses += 1;
            self.make_room();
        }
        let entry = match self.entries.entry(key.clone()) {
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => entry.insert(Entry { used: 0, value: make()? }),
        };
        entry.used = self.clock;
        Ok(&mut entry.value)
    }

    /// The value of `key`; counts nothing and changes no order.
    #[cfg(test)]
    pub(crate) fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// The value of `key` to change; counts nothing and changes no order.
    pub(crate) fn peek_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Drops the value used least recently if the map is full.
    fn make_room(&mut self) {
        while self.entries.len() >= self.capacity {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone()) else {
                return;
            };
            self.entries.remove(&oldest);
            self.evictions += 1;
        }
    }

    /// Drops every value; what was counted stays, and none of them counts as an eviction.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Number of values.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The values in no particular order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &entry.value)
    }

    /// Hits, misses and evictions; `compiles` and `bytes` are for the owner to fill in.
    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats { hits: self.hits, misses: self.misses, evictions: self.evictions, ..CacheStats::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made<K: Hash + Eq + Clone, V>(map: &mut Lru<K, V>, key: K, value: V) -> bool {
        let mut new = false;
        let make = || {
            new = true;
            Ok::<_, ()>(value)
        };
        map.get_or_try_insert(&key, make).unwrap();
        new
    }

    #[test]
    fn what_was_used_least_recently_goes_first() {
        let mut map = Lru::new(3);
        assert!(["a", "b", "c"].into_iter().all(|key| made(&mut map, key, key.to_uppercase())));
        // First in, but used since: a queue would drop it.
        assert!(!made(&mut map, "a", "another".into()));
        assert_eq!(map.peek("a").map(String::as_str), Some("A"));
        made(&mut map, "d", "D".into());
        assert_eq!((map.peek("a").is_some(), map.peek("b").is_some(), map.len()), (true, false, 3));
        // A look that is no use does not count.
        map.peek("c");
        made(&mut map, "e", "E".into());
        assert_eq!((map.peek("c").is_some(), map.peek("a").is_some()), (false, true));
        assert_eq!(map.stats(), CacheStats { hits: 1, misses: 5, evictions: 2, ..CacheStats::default() });
    }

    #[test]
    fn what_cannot_be_made_is_not_there_and_clearing_counts_nothing() {
        let mut map = Lru::new(0);
        assert_eq!(map.get_or_try_insert(&1, || Err("no")), Err("no"));
        assert_eq!(map.len(), 0);
        made(&mut map, 1, 'x');
        *map.peek_mut(&1).unwrap() = 'z';
        assert_eq!((map.values().copied().collect::<Vec<_>>(), map.stats().evictions), (vec!['z'], 0));
        map.clear();
        assert_eq!((map.len(), map.stats().evictions), (0, 0));
    }

    /// Against a list kept in order of use, over a long pseudo-random sequence.
    #[test]
    fn it_agrees_with_a_list_in_order_of_use() {
        let mut map = Lru::new(7);
        let mut list = Vec::<u32>::new();
        let mut state = 1u32;
        for _ in 0..5000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (state >> 24) % 12;
            let known = list.iter().position(|k| *k == key);
            assert_eq!(made(&mut map, key, key * 2), known.is_none());
            assert_eq!(map.peek(&key), Some(&(key * 2)));
            known.map(|at| list.remove(at));
            list.push(key);
            list.drain(..list.len().saturating_sub(7));
            assert_eq!(map.len(), list.len());
            assert!(list.iter().all(|k| map.peek(k).is_some()));
        }
    }
}
