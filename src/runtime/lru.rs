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

/// At most `capacity` values by key. When one more comes, the one that was asked for longest ago goes.
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

    /// The value of `key`, which thereby is the one used last; a hit or a miss is counted.
    #[cfg(any(feature = "audio", feature = "vision"))]
    pub(crate) fn get(&mut self, key: &K) -> Option<&mut V> {
        self.clock += 1;
        let entry = self.entries.get_mut(key);
        match entry {
            Some(_) => self.hits += 1,
            None => self.misses += 1,
        }
        entry.map(|entry| {
            entry.used = self.clock;
            &mut entry.value
        })
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
        while self.entries.len() >= self.capacity && self.drop_oldest() {}
    }

    /// Drops the value used least recently; `false` if there is none.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
        let dropped = oldest.is_some_and(|oldest| self.entries.remove(&oldest).is_some());
        self.evictions += u64::from(dropped);
        dropped
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
mod tests;
