use super::*;

#[test]
fn the_ladder_of_a_decode_cache_has_powers_of_two() {
    let policy = PlanPolicy { decode: DecodePlans::Ladder(1), ..PlanPolicy::default() };
    let rows = [1, 2, 3, 4, 5, 8, 9, 64, 65].map(|end| policy.rows(1, end, 128));
    assert_eq!(rows, [1, 2, 4, 4, 8, 8, 16, 64, 128]);
    assert_eq!([1, 256, 257].map(|end| PlanPolicy::default().rows(1, end, 512)), [256, 256, 512]);
    let policy = PlanPolicy { most: 300, ..PlanPolicy::default() };
    assert_eq!([1, 256, 257, 300].map(|rows| policy.reserved(rows)), [256, 256, 300, 300], "no more than the context");
    let policy = PlanPolicy { decode: DecodePlans::Single(100), ..policy };
    assert_eq!([1, 64, 100].map(|end| policy.rows(1, end, 100)), [100; 3]);
}

#[test]
fn runs_of_several_tokens_have_buckets_exact_plans_or_one() {
    let of = |prefill, tokens| PlanPolicy { prefill, ..PlanPolicy::default() }.tokens(tokens, 128);
    assert_eq!([1, 2, 4, 5, 17, 64, 65, 128].map(|t| of(PrefillPlans::Bucketed, t)), [1, 4, 4, 16, 64, 64, 128, 128]);
    assert_eq!([1, 2, 5, 127].map(|t| of(PrefillPlans::Exact(3), t)), [1, 2, 5, 127]);
    assert_eq!([1, 2, 5, 127].map(|t| of(PrefillPlans::Single(500), t)), [1, 128, 128, 128]);
    let single = PlanPolicy { prefill: PrefillPlans::Single(20), ..PlanPolicy::default() };
    assert_eq!((single.chunk(128), single.chunk(16), single.rows(7, 30, 1024), single.rows(1, 30, 1024)), (64, 16, 1024, 256));
}
