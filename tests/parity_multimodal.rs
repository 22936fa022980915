//! Prompts with pictures and sounds against transformers: logits at every position and greedy text, by every path. The
//! rows of pictures and sounds are transformers' own.

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "parity_multimodal/stages.rs"]
mod stages;

use common::{
    multimodal::{CHECKPOINTS, LONGEST_PICTURE, Multimodal},
    oracle::worst,
};
use gemmaflow::{
    checkpoint::load_from_path,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    prompt::{Modality, Prompt},
    runtime::Device,
};

fn generator(oracle: &Multimodal, device: &Device, options: GeneratorOptions) -> GemmaGenerator {
    let options = GeneratorOptions { longest_picture: Some(LONGEST_PICTURE), ..options };
    let mut loader = load_from_path(&oracle.folder).unwrap();
    GemmaGenerator::with_options(oracle.config.clone(), loader.as_mut(), device.clone(), options).unwrap()
}

fn chunk(tokens: usize) -> GeneratorOptions {
    GeneratorOptions { prefill_chunk: Some(tokens), ..GeneratorOptions::default() }
}

/// Runs `check` on the reference and the best adapter for each case whose merged embeddings are given: a prompt, and
/// transformers' logits `[T, V]`.
fn for_all(
    options: impl Fn() -> GeneratorOptions,
    change: impl Fn(GemmaGenerator) -> GemmaGenerator,
    check: impl Fn(&mut GemmaGenerator, &Prompt, &[f32]) -> f32,
) {
    for (device_name, device) in [("reference", Device::Cpu), ("gpu", Device::Gpu)] {
        for name in CHECKPOINTS {
            let oracle = Multimodal::open(name);
            let mut generator = change(generator(&oracle, &device, options()));
            let cases: Vec<String> =
                oracle.cases().into_iter().filter(|case| oracle.has(&format!("{case}.inputs_embeds"))).collect();
            assert!(!cases.is_empty(), "{name} has no merged embeddings");
            for case in cases {
                let error = check(&mut generator, &oracle.merged_prompt(&case), &oracle.f32(&format!("{case}.logits")));
                println!("{device_name:10} {name:22} {case:6} {error:.1e}");
                assert!(error < oracle.gate(), "{device_name} {name} {case}: {error}");
            }
        }
    }
}

/// The position after the last soft token.
fn end_of_soft(prompt: &Prompt) -> usize {
    prompt.soft_tokens().map(|(start, soft)| start + soft.len()).max().unwrap()
}

#[test]
fn in_one_pass() {
    let check = |generator: &mut GemmaGenerator, prompt: &Prompt, expected: &[f32]| {
        worst(&generator.recompute_all_logits(prompt).unwrap(), expected)
    };
    for_all(GeneratorOptions::default, |generator| generator, check);
}

/// A picture is run whole, whatever the chunk.
#[test]
fn in_chunks() {
    let check = |generator: &mut GemmaGenerator, prompt: &Prompt, expected: &[f32]| {
        worst(&generator.all_logits(prompt).unwrap(), expected)
    };
    for_all(|| chunk(4), |generator| generator, check);
}

#[test]
fn with_exact_and_single_plans() {
    let last = |generator: &mut GemmaGenerator, prompt: &Prompt, expected: &[f32]| {
        let logits = generator.prefill_get_last_logits(prompt).unwrap();
        worst(&logits, &expected[expected.len() - logits.len()..])
    };
    for_all(|| chunk(16), |generator| generator.with_prefill_cache(2).unwrap(), last);
    for_all(GeneratorOptions::default, |generator| generator.with_dynamic_prefill_cache(40).unwrap(), last);
}

/// Runs on a grid of 16 tokens, which a picture widens.
#[test]
fn deterministic() {
    let options = || GeneratorOptions { deterministic: true, ..GeneratorOptions::default() };
    let last = |generator: &mut GemmaGenerator, prompt: &Prompt, expected: &[f32]| {
        let logits = generator.prefill_get_last_logits(prompt).unwrap();
        worst(&logits, &expected[expected.len() - logits.len()..])
    };
    for_all(options, |generator| generator, last);
}

/// The text after the last picture or sound, token by token.
#[test]
fn by_steps_after_it() {
    let check = |generator: &mut GemmaGenerator, prompt: &Prompt, expected: &[f32]| {
        let text = end_of_soft(prompt) + 1;
        let vocab = generator.config().vocab_size;
        let mut start = Prompt::new();
        let mut at = 0;
        for (first, soft) in prompt.soft_tokens() {
            start = start.then(&prompt.tokens()[at..first]).then(soft.clone());
            at = first + soft.len();
        }
        let mut logits = generator.prefill_get_last_logits(start.then(&prompt.tokens()[at..text])).unwrap();
        for token in &prompt.tokens()[text..] {
            logits.extend(generator.decode_get_logits(*token).unwrap());
        }
        worst(&logits, &expected[(text - 1) * vocab..])
    };
    for_all(|| chunk(16), |generator| generator, check);
}

#[test]
fn greedy_text() {
    for (device_name, device) in [("reference", Device::Cpu), ("gpu", Device::Gpu)] {
        for name in CHECKPOINTS {
            let oracle = Multimodal::open(name);
            let options = GeneratorOptions { deterministic: name == "gemma4-vision", ..chunk(16) };
            let mut generator = generator(&oracle, &device, options);
            for case in oracle.cases().into_iter().filter(|case| oracle.has(&format!("{case}.inputs_embeds"))) {
                let expected = oracle.ids(&format!("{case}.gen_tokens"));
                generator.prefill(oracle.merged_prompt(&case)).unwrap();
                let found: Vec<u32> =
                    (0..expected.len()).map(|_| generator.step_cached(&SampleOpts::greedy()).unwrap()).collect();
                assert_eq!(found, expected, "{device_name} {name} {case}");
            }
        }
    }
}

/// Gemma 3n's embedders embed ids that are generated, also where several texts grow together.
#[test]
fn ids_of_embedders_are_generated_in_batches() {
    for device in [Device::Cpu, Device::Gpu] {
        let oracle = Multimodal::open("gemma3n-vision");
        let expected = oracle.ids("one.gen_tokens");
        let first = oracle.config.multimodal.hard_tokens[0].first;
        assert!(expected[..15].iter().any(|id| *id >= first), "one is generated and read");
        let mut generators = vec![generator(&oracle, &device, GeneratorOptions::default())];
        for _ in 0..2 {
            generators.push(generators[0].share_weights().unwrap());
        }
        for generator in &mut generators {
            generator.prefill(oracle.merged_prompt("one")).unwrap();
        }
        // They are at other places in the text.
        generators[1].step_cached(&SampleOpts::greedy()).unwrap();
        let greedy = vec![SampleOpts::greedy(); 3];
        for at in 0..15 {
            let tokens = GemmaGenerator::decode_batch(&mut generators.iter_mut().collect::<Vec<_>>(), &greedy);
            let tokens: Vec<u32> = tokens.into_iter().map(|token| token.unwrap()).collect();
            assert_eq!(tokens, [expected[at], expected[at + 1], expected[at]], "{device:?}");
        }
    }
}

/// Which layers let a picture's tokens see each other is seen in the logits.
#[test]
fn a_picture_taken_for_a_sound_is_noticed() {
    for name in ["gemma3-vision", "gemma4-vision", "gemma4-unified"] {
        let oracle = Multimodal::open(name);
        let mut generator = generator(&oracle, &Device::Cpu, GeneratorOptions::default());
        let prompt = oracle.merged_prompt("one");
        let mut causal = Prompt::new();
        let mut at = 0;
        for (first, soft) in prompt.soft_tokens() {
            assert_eq!(soft.modality(), Modality::Image);
            let sound =
                gemmaflow::prompt::SoftTokens::new(Modality::Audio, soft.placeholder(), soft.width(), soft.values().to_vec());
            causal = causal.then(&prompt.tokens()[at..first]).then(sound.unwrap());
            at = first + soft.len();
        }
        let causal = causal.then(&prompt.tokens()[at..]);
        let error = worst(&generator.recompute_all_logits(causal).unwrap(), &oracle.f32("one.logits"));
        assert!(error > 0.05, "{name}: {error}");
    }
}
