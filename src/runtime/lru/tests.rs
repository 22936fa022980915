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
