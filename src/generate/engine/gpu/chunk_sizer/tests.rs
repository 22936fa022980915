use super::*;

#[test]
fn chunks_are_buckets_within_the_budget() {
    assert_eq!([1, 3, 4, 15, 16, 63, 127, 300].map(bucket_below), [1, 1, 4, 4, 16, 16, 64, 256]);
    let mut pace = ChunkSizer::new(128, 2_600_000_000, false, None);
    assert_eq!(pace.chunk(), 4, "9 tokens fit half a second of the slowest GPU");
    pace.set(1000.0);
    assert_eq!(pace.chunk(), 128);
    pace.set(100.0);
    assert_eq!(pace.chunk(), 64);
    pace.set(0.2);
    assert_eq!(pace.chunk(), 1);
    assert_eq!(ChunkSizer::new(16, 1_000_000, false, None).chunk(), 16);
    let mut pace = ChunkSizer::new(128, 1_000_000_000, false, Some(Duration::from_millis(100)));
    assert_eq!(pace.chunk(), 4, "5 tokens, until the dispatches are known");
    pace.bound(100.0);
    pace.set(1000.0);
    assert_eq!(pace.chunk(), 64);
}
