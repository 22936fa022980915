//! Tokens tried before the model has chosen them: the text is the model's own, whatever is drafted.

mod common;

use std::ops::ControlFlow;

use common::{
    gguf::GgufOracle,
    oracle::{Oracle, data},
};
use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    gemma::{GemmaConfig, GemmaDrafterConfig},
    generate::{Drafter, GemmaGenerator, GeneratorOptions, SMALLEST_BUCKET, SampleOpts},
    runtime::Device,
    weights::{Tensor, WeightLoader, WeightMap},
};

const DEVICES: [Device; 2] = [Device::Cpu, Device::Gpu];

fn generator(oracle: &Oracle, device: &Device) -> GemmaGenerator {
    let options = GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() };
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options).unwrap()
}

fn drafter() -> Drafter {
    Drafter::from_path(data("checkpoints/gemma4-assistant")).unwrap()
}

/// With a head over all tokens, and with one over the tokens of some centroids.
const DRAFTERS: [&str; 2] = ["gemma4-assistant", "gemma4-assistant-ordered"];

/// A prompt in which ends of the text occur before.
fn repeating(oracle: &Oracle) -> Vec<u32> {
    let tokens = oracle.tokens("p33.input_ids");
    [&tokens[..], &tokens[1..20], &tokens[1..9]].concat()
}

#[test]
fn what_a_drafter_says_is_what_transformers_says() {
    for (device, name) in DEVICES.iter().flat_map(|device| DRAFTERS.map(|name| (device.clone(), name))) {
        let (target, oracle) = (Oracle::open("gemma4-target"), Oracle::open_drafter(name));
        let drafter = Drafter::from_path(&oracle.folder).unwrap();
        let mut generator = generator(&target, &device).with_drafter(drafter).unwrap();
        for prompt in ["p2", "p7", "p33"] {
            generator.prefill(oracle.tokens(&format!("{prompt}.input_ids"))).unwrap();
            assert!(generator.draft(6).unwrap().is_empty(), "{device:?} {prompt}: nothing to go on from");
            let first = generator.step_cached(&SampleOpts::greedy()).unwrap();
            assert_eq!(vec![first], oracle.tokens(&format!("{prompt}.first_token")));
            let expected = oracle.tokens(&format!("{prompt}.draft_tokens"));
            for _ in 0..2 {
                assert_eq!(generator.draft(6).unwrap(), expected, "{device:?} {prompt}, and again");
            }
            assert_eq!(generator.draft(2).unwrap(), expected[..2]);
        }
    }
}

/// The text has one token more than the smallest caches have rows; then what there is to go on from is of another text
/// of that length.
#[test]
fn drafts_are_of_the_text_at_the_border_of_a_bucket_too() {
    let target = Oracle::open("gemma4-target");
    let tokens: Vec<u32> = target.tokens("p33.input_ids").into_iter().cycle().take(SMALLEST_BUCKET + 1).collect();
    for name in DRAFTERS {
        let drafts = DEVICES.map(|device| {
            let drafter = Drafter::from_path(data("checkpoints").join(name)).unwrap();
            let mut generator = generator(&target, &device).with_drafter(drafter).unwrap();
            generator.prefill(&tokens[..SMALLEST_BUCKET]).unwrap();
            generator.step_cached(&SampleOpts::greedy()).unwrap();
            let drafts = generator.draft(4).unwrap();
            generator.prefill(&tokens).unwrap();
            assert!(generator.draft(4).unwrap().is_empty(), "{device:?} {name}: nothing ran for this text");
            drafts
        });
        assert_eq!((drafts[0].len(), &drafts[0]), (4, &drafts[1]), "{name}: the reference has no buckets");
    }
}

#[test]
fn what_a_drafter_in_a_gguf_file_says_follows_its_weights() {
    let (target, oracle) = (GgufOracle::open("gemma4-target-f16"), GgufOracle::open("gemma4-assistant-q4_1"));
    for device in DEVICES {
        let config = GemmaConfig::from_gguf(&target.path).unwrap();
        let mut loader = load_from_path(&target.path).unwrap();
        let generator = GemmaGenerator::from_loader(config, loader.as_mut(), device.clone()).unwrap();
        let mut generator = generator.with_drafter(Drafter::from_path(&oracle.path).unwrap()).unwrap();
        for prompt in ["p1", "p7", "p33"] {
            generator.prefill(oracle.tokens(&format!("{prompt}.input_ids"))).unwrap();
            let first = generator.step_cached(&SampleOpts::greedy()).unwrap();
            assert_eq!(vec![first], oracle.tokens(&format!("exact.{prompt}.first_token")), "{device:?} {prompt}");
            let expected = oracle.tokens(&format!("exact.{prompt}.draft_tokens"));
            assert_eq!(generator.draft(expected.len()).unwrap(), expected, "{device:?} {prompt}");
        }
    }
}

#[test]
fn greedy_text_is_the_models_own() {
    for device in DEVICES {
        for name in ["gemma2", "gemma3-text", "gemma4-target"] {
            let oracle = Oracle::open(name);
            let mut drafters = vec![Drafter::prompt_lookup(), Drafter::prompt_lookup().with_tokens(7).unwrap()];
            if name == "gemma4-target" {
                drafters.extend([1, 3, 6].map(|tokens| drafter().with_tokens(tokens).unwrap()));
                drafters.push(Drafter::from_path(data("checkpoints/gemma4-assistant-ordered")).unwrap());
            }
            let prompts = [repeating(&oracle), oracle.tokens("p7.input_ids"), oracle.tokens("p1.input_ids")];
            let mut plain = generator(&oracle, &device);
            for drafter in drafters {
                let mut drafting = plain.share_weights().unwrap().with_drafter(drafter.clone()).unwrap();
                for prompt in &prompts {
                    let what = format!("{device:?} {name} {drafter:?} {}", prompt.len());
                    plain.prefill(prompt).unwrap();
                    let expected = plain.generate_cached(40, &SampleOpts::greedy()).unwrap();
                    drafting.prefill(prompt).unwrap();
                    assert_eq!(drafting.generate_cached(40, &SampleOpts::greedy()).unwrap(), expected, "{what}");
                    assert_eq!(drafting.tokens(), plain.tokens(), "{what}");
                    assert_eq!(drafting.cached_rows(), drafting.tokens().len() - 1, "{what}");
                    // The rows of drafted tokens that were wrong are gone.
                    let logits = drafting.decode_get_logits(5).unwrap();
                    let again = plain.decode_get_logits(5).unwrap();
                    assert!(common::oracle::worst(&logits, &again) < oracle.gate(), "{what}");
                }
                let stats = drafting.draft_stats();
                assert!(stats.runs > 0 && stats.accepted <= stats.drafted, "{device:?} {name} {drafter:?}: {stats:?}");
                println!("{device:?} {name} {drafter:?}: {stats:?}");
            }
        }
    }
}

/// A model that goes through its first 32 tokens in turn, and a drafter that says so from the model's hidden state
/// alone: the layers of both compute and add nothing, token t is the vector r turned by t places, the head of t + 1 is
/// the embedding of t.
fn pair_that_agrees(device: &Device) -> (GemmaGenerator, Drafter) {
    const TOKENS: usize = 32;
    let turned = |by: usize, i: usize| if (i + by).is_multiple_of(TOKENS) { 3.0 } else { [1.0, -1.0][(i + by) % TOKENS % 5 % 2] };
    let rows = |width: usize, count: usize, turn: &dyn Fn(usize) -> usize| -> Vec<f32> {
        let at = |row: usize, i: usize| if row < TOKENS && i < TOKENS { turned(turn(row), i) } else { 0.0 };
        (0..count).flat_map(|row| (0..width).map(move |i| (row, i))).map(|(row, i)| at(row, i)).collect()
    };
    let changed = |mut loader: Box<dyn WeightLoader>, own: &dyn Fn(&str, usize) -> Option<Vec<f32>>| -> Vec<Tensor> {
        let keys = loader.remaining_keys();
        let change = |key: String| {
            let tensor = loader.take(&key).unwrap();
            let values = match key.rsplit('.').nth(1) {
                Some("post_attention_layernorm" | "post_feedforward_layernorm") => Some(vec![0.0; tensor.len()]),
                _ if key.ends_with("layer_scalar") || key == "norm.weight" => Some(vec![1.0; tensor.len()]),
                _ => own(&key, tensor.shape().last().copied().unwrap_or(1)),
            };
            values.map_or(tensor.clone(), |values| Tensor::from_f32(key, tensor.shape().to_vec(), &values))
        };
        keys.into_iter().map(change).collect()
    };
    let oracle = Oracle::open("gemma4-target");
    let config = GemmaConfig { tie_word_embeddings: false, eos_token_ids: Vec::new(), ..oracle.config.clone() };
    let (vocab, width) = (config.vocab_size, config.hidden_size);
    let mut tensors =
        changed(oracle.loader(), &|key, width| (key == "embed_tokens.weight").then(|| rows(width, vocab, &|token| token)));
    tensors.push(Tensor::from_f32("lm_head.weight", vec![vocab, width], &rows(width, vocab, &|token| token + TOKENS - 1)));
    let generator = GemmaGenerator::from_loader(config, &mut WeightMap::from_tensors(tensors), device.clone()).unwrap();
    let folder = data("checkpoints/gemma4-assistant");
    let one = |from: usize, to: usize| f32::from(u8::from(from == to));
    let tensors = changed(load_from_path(&folder).unwrap(), &|key, columns| match key {
        "embed_tokens.weight" => Some(rows(columns, vocab, &|token| token + TOKENS - 2)),
        "pre_projection.weight" => Some((0..TOKENS * columns).map(|i| one(i % columns, width + i / columns)).collect()),
        "post_projection.weight" => {
            let next = |i: usize| if i / columns < TOKENS { one(i % columns, (i / columns + 1) % TOKENS) } else { 0.0 };
            Some((0..width * columns).map(next).collect())
        }
        _ => None,
    });
    let config = GemmaDrafterConfig::near_weights(&folder).unwrap();
    (generator, Drafter::from_loader(config, &mut WeightMap::from_tensors(tensors)).unwrap())
}

#[test]
fn right_drafts_save_runs() {
    for device in DEVICES {
        let (mut plain, drafter) = pair_that_agrees(&device);
        let expected: Vec<u32> = (8..28).collect();
        plain.prefill([5, 6, 7]).unwrap();
        assert_eq!(plain.generate_cached(20, &SampleOpts::greedy()).unwrap(), expected, "{device:?}: as it was built");
        for tokens in [1, 3, 5] {
            let mut drafting = plain.share_weights().unwrap().with_drafter(drafter.clone().with_tokens(tokens).unwrap()).unwrap();
            drafting.prefill([5, 6, 7]).unwrap();
            assert_eq!(drafting.generate_cached(20, &SampleOpts::greedy()).unwrap(), expected, "{device:?} {tokens}");
            let stats = drafting.draft_stats();
            assert_eq!(stats.accepted, stats.drafted, "{device:?} {tokens}");
            // One step alone, then so many and one a run; a single token that is left is a step alone again.
            assert_eq!(stats.runs as usize, 18usize.div_ceil(tokens + 1), "{device:?} {tokens}");
            assert_eq!(stats.acceptance(), 1.0);
        }
    }
}

#[test]
fn drawn_text_is_the_models_own() {
    let oracle = Oracle::open("gemma4-target");
    let prompt = repeating(&oracle);
    let flat = SampleOpts::temperature(5.0, 1);
    let options: Vec<SampleOpts> = (0..6)
        .flat_map(|seed| [SampleOpts::temperature(0.7, seed), SampleOpts::temperature(1.3, seed).with_top_k(20).with_top_p(0.9)])
        .chain([
            flat,
            SampleOpts::temperature(0.8, 2).with_repetition_penalty(1.3),
            SampleOpts::greedy().with_repetition_penalty(1.5),
        ])
        .collect();
    for device in DEVICES {
        let mut plain = generator(&oracle, &device);
        for drafter in [Drafter::prompt_lookup(), drafter()] {
            let mut drafting = plain.share_weights().unwrap().with_drafter(drafter).unwrap();
            for opts in &options {
                plain.prefill(&prompt).unwrap();
                drafting.prefill(&prompt).unwrap();
                let expected = plain.generate_cached(12, opts).unwrap();
                assert_eq!(drafting.generate_cached(12, opts).unwrap(), expected, "{device:?} {opts:?}");
            }
        }
    }
}

/// Pearson's test of the second and third token over seeds, against probabilities from the model's own logits.
#[test]
fn draws_follow_the_models_distribution() {
    const SEEDS: u64 = 1500;
    let mut oracle = Oracle::open("gemma4-target");
    // A text in which what comes next has come before.
    oracle.config.eos_token_ids.clear();
    let mut plain = generator(&oracle, &Device::Cpu);
    plain.prefill(repeating(&oracle)).unwrap();
    plain.generate_cached(24, &SampleOpts::greedy()).unwrap();
    let prompt = plain.tokens().to_vec();
    let mut drafting = generator(&oracle, &Device::Cpu).with_drafter(Drafter::prompt_lookup()).unwrap();
    let mut counts = std::collections::BTreeMap::<Vec<u32>, f64>::new();
    for seed in 0..SEEDS {
        drafting.prefill(&prompt).unwrap();
        let opts = SampleOpts::temperature(0.6, seed).with_top_k(3);
        *counts.entry(drafting.generate_cached(3, &opts).unwrap()).or_default() += 1.0;
    }
    assert!(drafting.draft_stats().accepted > 0, "drafts are taken: {:?}", drafting.draft_stats());
    let mut expected = vec![(Vec::<u32>::new(), 1.0)];
    for _ in 0..3 {
        let mut longer = Vec::new();
        for (text, probability) in &expected {
            let mut logits: Vec<(u32, f64)> = Vec::new();
            let row = plain.prefill_get_last_logits([&prompt[..], text].concat()).unwrap();
            logits.extend((0..).zip(row.iter().map(|l| f64::from(*l) / 0.6)));
            logits.sort_by(|a, b| b.1.total_cmp(&a.1));
            let total: f64 = logits[..3].iter().map(|(_, l)| l.exp()).sum();
            longer.extend(logits[..3].iter().map(|(id, l)| ([&text[..], &[*id]].concat(), probability * l.exp() / total)));
        }
        expected = longer;
    }
    let mut chi = 0.0;
    let mut cells = 0;
    let mut rare = (0.0, 0.0);
    for (text, probability) in &expected {
        let found = counts.remove(text).unwrap_or(0.0);
        let mean = probability * SEEDS as f64;
        if mean < 8.0 {
            rare = (rare.0 + found, rare.1 + mean);
            continue;
        }
        (chi, cells) = (chi + (found - mean).powi(2) / mean, cells + 1);
    }
    assert!(counts.is_empty(), "texts that the model cannot draw: {counts:?}");
    if rare.1 >= 8.0 {
        (chi, cells) = (chi + (rare.0 - rare.1).powi(2) / rare.1, cells + 1);
    }
    // Of a χ² with n degrees of freedom, n + 4·√(2n) is exceeded about once in ten thousand times.
    let freedom = f64::from(cells - 1);
    println!("χ² {chi:.1} with {freedom} degrees of freedom, {:?}", drafting.draft_stats());
    assert!(cells >= 5 && chi < freedom + 4.0 * (2.0 * freedom).sqrt(), "χ² {chi} in {cells} cells");
}

#[test]
fn stops_breaks_and_limits_hold() {
    for device in DEVICES {
        let oracle = Oracle::open("gemma4-target");
        let prompt = repeating(&oracle);
        let mut plain = generator(&oracle, &device);
        plain.prefill(&prompt).unwrap();
        let text = plain.generate_cached(20, &SampleOpts::greedy()).unwrap();
        for length in 1..12 {
            let mut drafting = plain.share_weights().unwrap().with_drafter(drafter()).unwrap();
            drafting.prefill(&prompt).unwrap();
            let mut left = length;
            let stop = |_| {
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            assert_eq!(drafting.generate_cached_with(20, &SampleOpts::greedy(), stop).unwrap(), text[..length], "{device:?}");
            let rest = drafting.generate_cached(20 - length, &SampleOpts::greedy()).unwrap();
            assert_eq!(rest, text[length..], "{device:?}: goes on after a break at {length}");
        }
        let last = text[5];
        let expected = text.iter().position(|token| *token == last).unwrap() + 1;
        let mut stopping = plain.share_weights().unwrap().with_stop_tokens(&[last]).with_drafter(drafter()).unwrap();
        stopping.prefill(&prompt).unwrap();
        assert_eq!(stopping.generate_cached(20, &SampleOpts::greedy()).unwrap(), text[..expected], "{device:?}");
        let mut forked = stopping.fork().unwrap();
        let rest = forked.generate_cached(20 - expected, &SampleOpts::greedy()).unwrap();
        assert_eq!(rest[..], text[expected..][..rest.len()], "{device:?}: a fork goes on");
    }
}

#[test]
fn the_context_ends_where_it_ends() {
    for device in DEVICES {
        let oracle = Oracle::open("gemma3-text");
        let options = GeneratorOptions { context: Some(66), prefill_chunk: Some(16), ..GeneratorOptions::default() };
        let config = oracle.config.clone();
        let generator = GemmaGenerator::with_options(config, oracle.loader().as_mut(), device.clone(), options).unwrap();
        let mut drafting = generator.with_drafter(Drafter::prompt_lookup()).unwrap();
        drafting.prefill(repeating(&oracle)).unwrap();
        let left = 66 - drafting.tokens().len();
        assert_eq!(drafting.generate_cached(100, &SampleOpts::greedy()).unwrap().len(), left, "{device:?}: what fits");
        let error = drafting.generate_cached(100, &SampleOpts::greedy()).unwrap_err();
        assert!(matches!(error, Error::ContextFull { needed: 67, capacity: 66 }), "{error}");
        assert!(left > 0 && drafting.tokens().len() == 66, "{device:?}: what was generated stays");
    }
}

#[test]
fn the_drafter_of_another_model_is_refused() {
    let oracle = Oracle::open("gemma4-dense");
    let error = generator(&oracle, &Device::Cpu).with_drafter(drafter()).unwrap_err().to_string();
    assert!(error.contains("drafter") && error.contains("target"), "{error}");
    let folder = data("checkpoints");
    let error = GemmaDrafterConfig::near_weights(folder.join("gemma3-text")).unwrap_err().to_string();
    assert!(error.contains("gemma4_assistant") && error.contains("gemma3"), "{error}");
    let error = GemmaConfig::from_file(folder.join("gemma4-assistant")).unwrap_err().to_string();
    assert!(error.contains("Drafter::from_path"), "{error}");
    let error = GemmaDrafterConfig::near_weights(data("gguf/gemma4-target-f16/model.gguf")).unwrap_err().to_string();
    assert!(error.contains("gemma4-assistant"), "{error}");
}
