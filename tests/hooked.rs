//! Steps with hooks on the reference and on the GPU, against their definition on the model's own logits.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    error::{CallbackError, SamplingError},
    gemma::GemmaConfig,
    generate::{
        Chosen, GemmaGenerator, GeneratorOptions, LogitBias, LogitChanges, LogitProcessor, SampleHooks, SampleOpts, Sampler,
        TokenSet, sample_token_after,
    },
    runtime::{Device, GpuOptions, KernelTier},
    weights::{Tensor, WeightMap},
};

const PROMPT: [u32; 3] = [2, 910, 262];
/// Bytes of a short list.
const LIST: u64 = (2 * 64 + 3) * 4;

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))
}

fn generator(device: Device) -> GemmaGenerator {
    let mut generator = GemmaGenerator::from_path(GemmaConfig::from_file(demo()).unwrap(), demo(), device).unwrap();
    generator.prefill(PROMPT).unwrap();
    generator
}

/// The reference, and the GPU with each tier of kernels.
fn devices() -> Vec<Device> {
    let gpus = common::tiers().into_iter().map(|(_, context)| Device::Context(context));
    [Device::Cpu].into_iter().chain(gpus).collect()
}

fn read_back(generator: &GemmaGenerator) -> u64 {
    generator.counters().map_or(0, |counters| counters.bytes_read_back)
}

/// Numbers in [0, end).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Allows these tokens alone.
struct Only(BTreeSet<u32>);

impl LogitProcessor for Only {
    fn name(&self) -> &str {
        "only"
    }

    fn process(&mut self, _: &[u32], changes: &mut LogitChanges) -> anyhow::Result<()> {
        let mut set = TokenSet::none(changes.vocab_size());
        self.0.iter().for_each(|token| set.insert(*token));
        changes.allow_only(set);
        Ok(())
    }
}

/// Fails at a length of the history, in one way or another.
struct FailsAt(usize, bool);

impl LogitProcessor for FailsAt {
    fn name(&self) -> &str {
        "fails at"
    }

    fn process(&mut self, history: &[u32], _: &mut LogitChanges) -> anyhow::Result<()> {
        assert!(!self.1 || history.len() != self.0, "too long");
        anyhow::ensure!(history.len() != self.0, "too long");
        Ok(())
    }
}

/// Takes the least likely token that is allowed.
struct Unlikeliest(usize);

impl Sampler for Unlikeliest {
    fn name(&self) -> &str {
        "unlikeliest"
    }

    fn choose(&mut self, logits: &[f32], history: &[u32]) -> anyhow::Result<u32> {
        assert!(history.len() != self.0, "enough");
        let allowed = logits.iter().enumerate().filter(|e| *e.1 > f32::NEG_INFINITY);
        Ok(allowed.min_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32)
    }
}

#[test]
fn without_hooks_a_step_is_the_plain_one() {
    for device in [Device::Cpu, Device::Gpu] {
        let (mut plain, mut hooked) = (generator(device.clone()), generator(device.clone()));
        let drawn = SampleOpts::temperature(0.8, 4);
        for opts in [SampleOpts::greedy(), drawn, drawn.with_top_k(30).with_top_p(0.9), drawn.with_repetition_penalty(1.2)] {
            for generator in [&mut plain, &mut hooked] {
                generator.prefill(PROMPT).unwrap();
            }
            let expected = plain.generate_cached(20, &opts).unwrap();
            let mut seen = Vec::new();
            let mut keep = |chosen: &Chosen| {
                seen.push(chosen.clone());
                std::ops::ControlFlow::Continue(())
            };
            let found = hooked.generate_hooked(20, &opts, &mut SampleHooks::new(), &mut keep).unwrap();
            assert_eq!(found, expected, "{device} {opts:?}");
            assert_eq!((hooked.tokens(), hooked.cached_rows()), (plain.tokens(), plain.cached_rows()));
            assert!(seen.iter().zip(&found).all(|(c, t)| c.token == *t && c.logprob.is_none() && c.top.is_empty()));
        }
    }
}

/// Thousands of steps with changes at random: on each device the token is that of the definition on this device's own
/// row.
#[test]
fn a_hooked_token_is_that_of_the_changed_row() {
    let mut n = Numbers(9);
    for (device, rounds) in [(Device::Cpu, 150), (Device::Gpu, 800)] {
        let (mut rows, mut hooked) = (generator(device.clone()), generator(device.clone()));
        let vocab = rows.config().vocab_size;
        let mut row = rows.prefill_get_last_logits(PROMPT).unwrap();
        let mut by_row = 0;
        for round in 0..rounds {
            let mut likely: Vec<u32> = (0..vocab as u32).collect();
            likely.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
            let mut changed = row.clone();
            let (mut biases, mut hooks) = (BTreeMap::new(), SampleHooks::new());
            for _ in 0..[0, 3, 30, 80][n.below(4)] {
                let rank = [8, 100, vocab][n.below(3)];
                let bias = [-3.5, -0.25, 1.5, 6.0, f32::NEG_INFINITY][n.below(5)];
                biases.insert(likely[n.below(rank)], bias);
            }
            biases.iter().for_each(|(token, bias)| changed[*token as usize] += bias);
            let list = biases.iter().fold(LogitBias::new(), |list, (token, bias)| list.with(*token, *bias));
            hooks = hooks.with_processor(list);
            if n.below(2) == 0 {
                let most = [1, 2, 30][n.below(3)];
                let allowed: BTreeSet<u32> = (0..vocab as u32).filter(|_| n.below(most) == 0).collect();
                (0..vocab as u32).filter(|t| !allowed.contains(t)).for_each(|t| changed[t as usize] = f32::NEG_INFINITY);
                hooks = hooks.with_processor(Only(allowed));
            }
            let opts = match n.below(4) {
                0 | 1 => SampleOpts::greedy(),
                2 => SampleOpts::temperature(0.9, n.below(1 << 30) as u64),
                _ => SampleOpts::temperature(1.0, n.below(1 << 30) as u64).with_top_k(20).with_top_p(0.95),
            };
            let before = read_back(&hooked);
            let chosen = hooked.step_hooked(&opts, &mut hooks).unwrap();
            by_row += u64::from(read_back(&hooked) - before > LIST + 64 * 4);
            let expected = sample_token_after(&changed, &opts, rows.tokens()).unwrap();
            assert_eq!(chosen.token, expected, "{device} {round} {opts:?} {hooks:?}");
            if rows.tokens().len() > 60 {
                row = rows.prefill_get_last_logits([2, 4 + n.below(500) as u32]).unwrap();
                hooked.prefill(rows.tokens()).unwrap();
            } else {
                row = rows.decode_get_logits(chosen.token).unwrap();
            }
        }
        assert!(by_row * 2 < rounds, "{device}: the list left {by_row} of {rounds} tokens to the whole row");
    }
}

/// A list, and four bytes for each biased token.
#[test]
fn greedy_with_biases_reads_few_bytes() {
    for kernels in [KernelTier::Auto, KernelTier::Portable] {
        let gpu = GpuOptions { kernels, ..GpuOptions::default() };
        let (config, options) =
            (GemmaConfig::from_file(demo()).unwrap(), GeneratorOptions { gpu, ..GeneratorOptions::default() });
        let loader = &mut *load_from_path(demo()).unwrap();
        let mut generator = GemmaGenerator::with_options(config, loader, Device::Gpu, options).unwrap();
        let plain = generator.prefill(PROMPT).and_then(|()| generator.generate_cached(3, &SampleOpts::greedy())).unwrap();
        let biases = LogitBias::new().banning([plain[0], 1000]).with(700, 0.5).with(701, -2.0).with(12, 1.0);
        let mut hooks = SampleHooks::new().with_processor(biases).with_logprobs(5);
        generator.prefill(PROMPT).unwrap();
        for step in 0..20 {
            let before = read_back(&generator);
            let chosen = generator.step_hooked(&SampleOpts::greedy(), &mut hooks).unwrap();
            assert!(![plain[0], 1000].contains(&chosen.token) && chosen.top.len() == 5);
            assert_eq!(read_back(&generator) - before, LIST + 5 * 4, "step {step}");
        }
        // None of the allowed is in the list: the row is read once.
        let row = generator.prefill_get_last_logits(PROMPT).unwrap();
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        let allowed: BTreeSet<u32> = order[100..].iter().copied().filter(|token| token % 7 == 3).collect();
        let best = order.iter().find(|token| allowed.contains(token)).copied();
        generator.prefill(PROMPT).unwrap();
        let before = read_back(&generator);
        let chosen = generator.step_hooked(&SampleOpts::greedy(), &mut SampleHooks::new().with_processor(Only(allowed))).unwrap();
        assert_eq!(Some(chosen.token), best);
        assert_eq!(read_back(&generator) - before, LIST + row.len() as u64 * 4);
    }
}

#[test]
fn log_probabilities_are_the_models_own() {
    for device in devices() {
        let mut generator = generator(device.clone());
        let row = generator.prefill_get_last_logits(PROMPT).unwrap();
        let z: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        let of = |token: u32| f64::from(row[token as usize]) - z.ln();
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
        for opts in [SampleOpts::greedy(), SampleOpts::temperature(1.0, 3), SampleOpts::temperature(0.5, 3)] {
            for top in [0, 3, 64] {
                let bias = LogitBias::new().with(order[0], -1.0).with(order[200], 12.0);
                let mut hooks = SampleHooks::new().with_processor(bias).with_logprobs(top);
                generator.prefill(PROMPT).unwrap();
                let chosen = generator.step_hooked(&opts, &mut hooks).unwrap();
                assert!((f64::from(chosen.logprob.unwrap()) - of(chosen.token)).abs() < 1e-4, "{device} {chosen:?}");
                assert_eq!(chosen.top.iter().map(|e| e.0).collect::<Vec<_>>(), order[..top], "{device} {opts:?}");
                assert!(chosen.top.iter().all(|(token, logprob)| (f64::from(*logprob) - of(*token)).abs() < 1e-4));
            }
        }
        let error = generator.step_hooked(&SampleOpts::greedy(), &mut SampleHooks::new().with_logprobs(65)).unwrap_err();
        assert!(error.to_string().contains("65, expected 0 to 64"), "{error}");
    }
}

#[test]
fn a_sampler_chooses_from_the_changed_row() {
    for device in [Device::Cpu, Device::Gpu] {
        let mut generator = generator(device.clone());
        let row = generator.prefill_get_last_logits(PROMPT).unwrap();
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|a, b| row[*a as usize].total_cmp(&row[*b as usize]));
        let bans = LogitBias::new().banning(order[..9].iter().copied());
        let mut hooks = SampleHooks::new().with_processor(bans).with_sampler(Unlikeliest(4)).with_logprobs(1);
        generator.prefill(PROMPT).unwrap();
        assert_eq!(generator.step_hooked(&SampleOpts::greedy(), &mut hooks).unwrap().token, order[9], "{device}");
        let error = generator.step_hooked(&SampleOpts::greedy(), &mut hooks).unwrap_err();
        assert_eq!(error.to_string(), "unlikeliest: it panicked: enough");
        assert_eq!(generator.tokens().len(), 4);
        generator.step_cached(&SampleOpts::greedy()).unwrap();
    }
}

#[test]
fn a_hook_that_fails_leaves_the_text_as_it_would_be() {
    for device in [Device::Cpu, Device::Gpu] {
        let expected = generator(device.clone()).generate_cached(8, &SampleOpts::greedy()).unwrap();
        for panics in [false, true] {
            let mut generator = generator(device.clone());
            let mut hooks = SampleHooks::new().with_processor(FailsAt(6, panics));
            let mut found = Vec::new();
            while let Ok(chosen) = generator.step_hooked(&SampleOpts::greedy(), &mut hooks) {
                found.push(chosen.token);
            }
            assert_eq!((found.len(), generator.tokens().len()), (3, 6));
            let error = generator.step_hooked(&SampleOpts::greedy(), &mut hooks).unwrap_err();
            assert!(matches!(&error, Error::Callback(CallbackError::Hook { hook, .. }) if hook == "fails at"), "{error:?}");
            assert!(error.to_string().ends_with("too long"), "{error}");
            let computed = generator.rows_computed();
            found.extend(generator.generate_cached(5, &SampleOpts::greedy()).unwrap());
            assert_eq!(found, expected, "{device}");
            assert!(generator.rows_computed() - computed <= 6, "nothing but the last row was computed again");
            let error = generator.step_hooked(&SampleOpts::greedy(), &mut SampleHooks::new().with_processor(Only([].into())));
            assert!(matches!(error, Err(Error::Sampling(SamplingError::NoTokenAllowed { tokens: 11 }))), "{error:?}");
        }
    }
}

/// One number of one row of the embedding, which is also the head: one logit is NaN, whatever the text.
fn poisoned(device: Device) -> GemmaGenerator {
    let mut loader = load_from_path(demo()).unwrap();
    let mut found = false;
    let take = |key: &String| {
        let tensor = loader.take(key).unwrap();
        if !key.contains("embed_tokens") {
            return tensor;
        }
        found = true;
        let mut bytes = vec![0; tensor.byte_len()];
        tensor.read_bytes(0, &mut bytes).unwrap();
        let (row, width) = (bytes.len() / tensor.shape()[0], tensor.dtype().scalar_bytes().unwrap());
        // All bits are a NaN in every type.
        bytes[777 * row..][..width].fill(0xff);
        Tensor::from_bytes(key, tensor.dtype(), tensor.shape().to_vec(), bytes).unwrap()
    };
    let keys = load_from_path(demo()).unwrap().remaining_keys();
    let tensors = keys.iter().map(take).collect();
    assert!(found, "{keys:?}");
    let config = GemmaConfig::from_file(demo()).unwrap();
    GemmaGenerator::from_loader(config, &mut WeightMap::from_tensors(tensors), device).unwrap()
}

#[test]
fn a_logit_that_is_no_number_is_an_error_everywhere() {
    for device in devices() {
        let mut generator = poisoned(device.clone());
        let drawn = SampleOpts::temperature(0.7, 1);
        for opts in [SampleOpts::greedy(), drawn, drawn.with_top_k(3), SampleOpts::greedy().with_repetition_penalty(1.3)] {
            generator.prefill(PROMPT).unwrap();
            let outcomes = [
                generator.step(&opts).map(|_| ()),
                generator.step_cached(&opts).map(|_| ()),
                generator.generate_cached(4, &opts).map(|_| ()),
                generator.step_hooked(&opts, &mut SampleHooks::new()).map(|_| ()),
                generator.step_hooked(&opts, &mut SampleHooks::new().with_sampler(Unlikeliest(0))).map(|_| ()),
            ];
            for (way, outcome) in outcomes.into_iter().enumerate() {
                assert!(
                    matches!(outcome, Err(Error::Sampling(SamplingError::BrokenLogits { tokens: 3 }))),
                    "{device} {opts:?} {way}: {outcome:?}"
                );
            }
            assert_eq!(generator.tokens(), PROMPT);
        }
    }
}
