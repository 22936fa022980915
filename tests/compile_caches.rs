//! Compiled graphs by size: what is compiled, what is kept, and that every cache gives the logits of transformers.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use gemmaflow::{
    Error,
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow},
    ir::{DimBinding, Value, sym},
    runtime::{
        BucketedCompileCache, CompileCache, CompileOptions, CounterSnapshot, Device, DynamicDimCompileCache, RunInput, Session,
    },
};
use oracle::{GATE, Oracle, worst};

const MODEL: &str = "gemma3-text";

fn prefill(oracle: &Oracle, most: usize) -> BuiltModel {
    let flow = GemmaFlow::for_prefill(&oracle.config, 1, most).dynamic_seq().last_token_logits();
    flow.build(oracle.loader().as_mut()).unwrap()
}

fn gpu(built: &BuiltModel) -> (Session, CompileOptions) {
    let session = Session::new(&Device::Gpu).expect("a GPU adapter (lavapipe will do)");
    let weights = session.load(&built.params).unwrap();
    (session, CompileOptions::default().with_weights(&weights).with_profile(&built.profile))
}

fn counters(session: &Session) -> CounterSnapshot {
    session.context().expect("a GPU").counters().snapshot()
}

/// The logits that `run` gives for the first `len` tokens of `p70`, against transformers.
fn check(oracle: &Oracle, len: usize, run: impl FnOnce(&[(&str, RunInput)]) -> Vec<(String, Value)>) {
    let tokens = oracle.tokens("p70.input_ids");
    let last = [len as u32 - 1];
    let inputs = [("input_ids", RunInput::U32(&tokens[..len])), ("last_token_idx", RunInput::U32(&last))];
    let logits = run(&inputs)[0].1.to_f32().unwrap().into_owned();
    let vocab = oracle.config.vocab_size;
    let error = worst(&logits, &oracle.f32("p70.logits")[(len - 1) * vocab..][..vocab]);
    assert!(error < GATE, "{len} tokens: {error}");
}

#[test]
fn exact_sizes_stay_by_use() {
    let oracle = Oracle::open(MODEL);
    let built = prefill(&oracle, 70);
    let (session, options) = gpu(&built);
    let mut cache = CompileCache::new(&session, &built.graph, &options, 2).unwrap();
    for len in [5, 12, 5, 7, 5, 12] {
        check(&oracle, len, |inputs| cache.run(inputs).unwrap());
    }
    // 5 and 12 are compiled, 5 is used, 7 drops 12 (the first in would have been 5), 5 is used, 12 is compiled again.
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.compiles, stats.evictions), (2, 4, 4, 2));
    assert!(stats.bytes > 0);
    // The same sizes in other words are one entry; a size past the limit is an error.
    let sizes = DimBinding::batch_seq(1, 12);
    cache.get(&sizes).unwrap();
    assert_eq!((cache.stats().hits, cache.stats().compiles), (3, 4));
    assert!(matches!(cache.get(&DimBinding::batch_seq(1, 71)), Err(Error::Input { .. })));
    assert!(matches!(CompileCache::new(&session, &built.graph, &options, 0), Err(Error::Builder(_))));
}

#[test]
fn one_template_serves_a_thousand_lengths() {
    let oracle = Oracle::open(MODEL);
    let mut oracle_1k = Oracle::open(MODEL);
    oracle_1k.config.max_position_embeddings = 1024;
    let built = prefill(&oracle_1k, 1000);
    let (session, options) = gpu(&built);
    let mut cache = DynamicDimCompileCache::new(&session, &built.graph, &options).unwrap();
    let (warm, bytes) = (counters(&session), cache.stats().bytes);
    for len in [1, 7, 33, 64, 70] {
        check(&oracle, len, |inputs| cache.run(inputs).unwrap());
    }
    let ids = vec![3u32; 1000];
    for len in (71..=1000).step_by(97) {
        let last = [len as u32 - 1];
        cache.run(&[("input_ids", RunInput::U32(&ids[..len])), ("last_token_idx", RunInput::U32(&last))]).unwrap();
    }
    let (stats, now) = (cache.stats(), counters(&session));
    assert_eq!((stats.compiles, stats.misses, stats.hits, stats.bytes), (1, 0, 15, bytes));
    let made = |c: &CounterSnapshot| (c.pipelines_created, c.bind_groups_created);
    assert_eq!(made(&now), made(&warm), "no pipeline and no bind group for a new length");
}

#[test]
fn a_ladder_compiles_once_a_rung_and_no_pipeline_after_the_first_pass() {
    // A model of no size, so that a thousand steps take seconds.
    let config = GemmaConfig { max_position_embeddings: 1024, ..GemmaConfig::tiny_test() };
    let mut loader = gemmaflow::gemma::random_weights(&config, gemmaflow::ir::DType::F32, 3).unwrap();
    let built = GemmaFlow::for_decode(&config, 1, 1000).dynamic_past().custom_mask().build(&mut loader).unwrap();
    let (session, options) = gpu(&built);
    let ladder = BucketedCompileCache::power_of_two_ladder(&session, 1, 1000).unwrap();
    assert_eq!(ladder.buckets(), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]);
    assert_eq!([1, 2, 3, 4, 5, 8, 9, 513, 1000].map(|n| ladder.bucket_for(n).unwrap()), [1, 2, 4, 4, 8, 8, 16, 1000, 1000]);
    assert_eq!(ladder.bucket_for(1001), None);
    let mut cache = ladder.for_graph(&built.graph, sym::PAST_SEQ, &options);
    let width = config.kv_proj_dim();
    let row = vec![0.25f32; 1001 * width];
    let names: Vec<String> = (0..2).flat_map(|i| [format!("past_k_{i}"), format!("past_v_{i}")]).collect();
    let step = |cache: &mut BucketedCompileCache, past: usize| {
        let (position, mask) = ([past as u32], vec![1.0; past + 1]);
        let mut inputs =
            vec![("input_ids", RunInput::U32(&[5])), ("position", RunInput::U32(&position)), ("mask", RunInput::F32(&mask))];
        inputs.extend(names.iter().map(|name| (name.as_str(), RunInput::F32(&row[..past * width]))));
        cache.run(&inputs)
    };
    for rung in cache.buckets().to_vec() {
        step(&mut cache, rung).unwrap();
    }
    let (warm, held) = (counters(&session), cache.stats());
    for past in 1..=1000 {
        step(&mut cache, past).unwrap();
    }
    let (now, stats) = (counters(&session), cache.stats());
    assert_eq!((now.pipelines_created, now.bind_groups_created), (warm.pipelines_created, warm.bind_groups_created));
    assert_eq!((stats.compiles, stats.misses, stats.hits, stats.bytes), (11, 11, 1000, held.bytes));
    let top = cache.get(1000).unwrap().bytes();
    println!("11 rungs: {} bytes, the top rung alone {top}; {} pipelines", stats.bytes, warm.pipelines_created);
    assert!(stats.bytes < 4 * top, "{} of {top}", stats.bytes);
    assert!(matches!(step(&mut cache, 1001), Err(Error::ContextFull { .. } | Error::Input { .. })));
    assert!(matches!(cache.get(1001), Err(Error::ContextFull { needed: 1001, capacity: 1000 })));
    let longer = BucketedCompileCache::power_of_two_ladder(&session, 256, 4096).unwrap();
    assert_eq!(longer.for_graph(&built.graph, sym::PAST_SEQ, &options).buckets(), [256, 512, 1000]);
    for (min, max) in [(0, 4), (5, 4)] {
        assert!(matches!(BucketedCompileCache::power_of_two_ladder(&session, min, max), Err(Error::Builder(_))));
    }
}

#[test]
fn caches_share_the_weights() {
    let oracle = Oracle::open(MODEL);
    let built = prefill(&oracle, 70);
    let (session, options) = gpu(&built);
    let uploaded = counters(&session).bytes_uploaded;
    let all: usize = built.params.values().map(|t| t.byte_len()).sum();
    assert!(uploaded >= all as u64);
    let mut exact = CompileCache::new(&session, &built.graph, &options, 2).unwrap();
    let mut dynamic = DynamicDimCompileCache::new(&session, &built.graph, &options).unwrap();
    check(&oracle, 9, |inputs| exact.run(inputs).unwrap());
    check(&oracle, 9, |inputs| dynamic.run(inputs).unwrap());
    // Inputs of a few hundred bytes each are written; weights are not.
    let written = counters(&session).bytes_uploaded - uploaded;
    assert!(written < all as u64 / 4, "{written} of {all}");
}
