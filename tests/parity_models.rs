//! Whole models against Hugging Face transformers: every checkpoint, every path, on the reference and on the GPU.

mod common;

use common::oracle::{CHECKPOINTS, Oracle, worst};
use gemmaflow::{
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{Device, GpuOptions, KernelTier},
};

/// The reference and the best adapter; no adapter fails the test.
fn devices() -> Vec<(&'static str, Device, GpuOptions)> {
    vec![("reference", Device::Cpu, GpuOptions::default()), ("gpu", Device::Gpu, GpuOptions::default())]
}

/// The best adapter with the kernels that need no optional feature. Their barriers make software drivers compile for
/// seconds, so that only the paths with small tiles run on all checkpoints; the op cases cover the large ones.
fn portable() -> (&'static str, Device, GpuOptions) {
    ("gpu, portable kernels", Device::Gpu, GpuOptions { kernels: KernelTier::Portable, ..GpuOptions::default() })
}

fn generator(oracle: &Oracle, device: &Device, gpu: &GpuOptions, chunk: Option<usize>) -> GemmaGenerator {
    let options = GeneratorOptions { prefill_chunk: chunk, gpu: gpu.clone(), ..GeneratorOptions::default() };
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options).unwrap()
}

/// Runs `check` for each checkpoint on each device, with a generator that prefills in chunks of `chunk`.
fn for_all(chunk: Option<usize>, check: impl Fn(&Oracle, GemmaGenerator) -> f32) {
    for_each(devices(), chunk, check);
}

fn for_each(
    devices: impl IntoIterator<Item = (&'static str, Device, GpuOptions)>,
    chunk: Option<usize>,
    check: impl Fn(&Oracle, GemmaGenerator) -> f32,
) {
    for (device_name, device, gpu) in devices {
        for name in CHECKPOINTS {
            let oracle = Oracle::open(name);
            let error = check(&oracle, generator(&oracle, &device, &gpu, chunk));
            println!("{device_name:24} {name:26} {error:.1e}");
            assert!(error < oracle.gate(), "{device_name} {name}: {error}");
        }
    }
}

/// All logits by a prefill of the first half and cached steps.
fn stepwise(generator: &mut GemmaGenerator, tokens: &[u32], first: usize) -> Vec<f32> {
    let mut logits = generator.all_logits(&tokens[..first]).unwrap();
    for token in &tokens[first..] {
        logits.extend(generator.decode_get_logits(*token).unwrap());
    }
    logits
}

#[test]
fn prefill_in_one_pass() {
    for_all(None, |oracle, mut generator| {
        // Short prompts and their buckets are part of the next test.
        let prompts = ["p7", "p33", "p70"];
        let error = |prompt: &str| {
            let tokens = oracle.tokens(&format!("{prompt}.input_ids"));
            worst(&generator.recompute_all_logits(&tokens).unwrap(), &oracle.f32(&format!("{prompt}.logits")))
        };
        prompts.map(error).into_iter().fold(0.0, f32::max)
    });
}

#[test]
fn token_by_token_without_a_cache() {
    for_all(None, |oracle, mut generator| {
        let tokens = oracle.tokens("p33.input_ids");
        let expected = oracle.f32("p33.logits");
        let vocab = oracle.config.vocab_size;
        let row = |t: usize| {
            let logits = generator.recompute_all_logits(&tokens[..=t]).unwrap();
            worst(&logits[t * vocab..], &expected[t * vocab..][..vocab])
        };
        (0..tokens.len()).map(row).fold(0.0, f32::max)
    });
}

#[test]
fn chunked_prefill_wraps_the_ring() {
    // Rings hold window + chunk rows: 8 + 16 and 9 + 16 at most, so that 70 tokens wrap them at least twice.
    for chunk in [4, 16] {
        for_all(Some(chunk), |oracle, mut generator| {
            worst(&generator.all_logits(oracle.tokens("p70.input_ids")).unwrap(), &oracle.f32("p70.logits"))
        });
    }
}

#[test]
fn cached_decode_after_prefill() {
    for_all(Some(16), |oracle, mut generator| {
        let tokens = oracle.tokens("p70.input_ids");
        worst(&stepwise(&mut generator, &tokens, tokens.len() / 2), &oracle.f32("p70.logits"))
    });
}

/// Sliding windows with softcaps, and experts.
#[test]
fn subgroups_of_any_size() {
    for name in ["gemma2", "gemma4-moe"] {
        let oracle = Oracle::open(name);
        let gpu = GpuOptions { kernels: KernelTier::Subgroups, ..GpuOptions::default() };
        let mut generator = generator(&oracle, &Device::Gpu, &gpu, Some(16));
        let found = stepwise(&mut generator, &oracle.tokens("p70.input_ids"), 40);
        assert!(worst(&found, &oracle.f32("p70.logits")) < oracle.gate(), "{name}");
    }
}

#[test]
fn bucketed_decode_at_every_edge() {
    // From one token on, every past from 1 to 69: each bucket's upper bound, one less and one more among them.
    for_each(devices().into_iter().chain([portable()]), Some(4), |oracle, generator| {
        let mut generator = generator.with_decode_cache(128).unwrap();
        worst(&stepwise(&mut generator, &oracle.tokens("p70.input_ids"), 1), &oracle.f32("p70.logits"))
    });
}

#[test]
fn greedy_continuations() {
    for (device_name, device, gpu) in devices() {
        for name in CHECKPOINTS {
            let oracle = Oracle::open(name);
            let mut generator = generator(&oracle, &device, &gpu, Some(16)).with_decode_cache(64).unwrap();
            for prompt in ["p7", "p33"] {
                let expected = oracle.tokens(&format!("{prompt}.gen_tokens"));
                generator.prefill(oracle.tokens(&format!("{prompt}.input_ids"))).unwrap();
                let mut found = Vec::new();
                while found.len() < expected.len() {
                    found.push(generator.step_cached(&SampleOpts::greedy()).unwrap());
                }
                assert_eq!(found, expected, "{device_name} {name} {prompt}");
                let distinct: std::collections::BTreeSet<_> = expected.iter().collect();
                assert!(distinct.len() >= 4, "{name}: a text of {} tokens shows little", distinct.len());
            }
        }
    }
}
