//! Whole models from GGUF files against the exact logits of their weights, on the reference and on the GPU.

mod common;

use common::{
    gguf::GgufOracle,
    oracle::{gate, worst},
};
use gemmaflow::{
    checkpoint::load_from_path,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::Device,
};

/// Prefills in chunks of four and decodes through the ladder of cache sizes.
fn generator(oracle: &GgufOracle, device: Device) -> GemmaGenerator {
    let options = GeneratorOptions { prefill_chunk: Some(4), ..GeneratorOptions::default() };
    let config = GemmaConfig::from_gguf(&oracle.path).unwrap();
    let mut loader = load_from_path(&oracle.path).unwrap();
    let generator = GemmaGenerator::with_options(config, loader.as_mut(), device, options).unwrap();
    assert!(loader.is_empty(), "{}: {:?} are never used", oracle.name, loader.remaining_keys());
    generator.with_decode_cache(64).unwrap()
}

/// The root mean square of differences.
fn rms(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / a.len() as f64).sqrt()
}

#[test]
fn logits_are_exact_and_greedy_tokens_equal() {
    for device in [Device::Cpu, Device::Gpu] {
        for oracle in GgufOracle::runnable() {
            let what = format!("{device:?} {}", oracle.name);
            let mut generator = generator(&oracle, device.clone());
            check_logits(&oracle, &mut generator, &device, &what);
            check_greedy(&oracle, &mut generator, &what);
        }
    }
}

/// Every prompt in chunks (on the reference, whose kernels need no compiling, the short ones in one pass), and the long
/// one by steps from its first token on.
fn check_logits(oracle: &GgufOracle, generator: &mut GemmaGenerator, device: &Device, what: &str) {
    let gate = gate(generator.config().arch);
    for prompt in ["p1", "p7", "p33"] {
        let tokens = oracle.tokens(&format!("{prompt}.input_ids"));
        let exact = oracle.f32(&format!("exact.{prompt}.logits"));
        let in_one_pass = prompt != "p33" && *device == Device::Cpu;
        let logits =
            if in_one_pass { generator.recompute_all_logits(&tokens).unwrap() } else { generator.all_logits(&tokens).unwrap() };
        let error = worst(&logits, &exact);
        // llama.cpp keeps the last rows of long prompts only.
        let theirs = oracle.f32(&format!("llamacpp.{prompt}.logits"));
        let distance = rms(&logits[logits.len() - theirs.len()..], &theirs);
        println!("{what}: {prompt} to exact {error:.1e}, to llama.cpp rms {distance:.1e}");
        assert!(error < gate, "{what} {prompt}: {error}");
        // Their activations have 8 bits, the logits a standard deviation of 2.5: this is a bound on sanity only.
        assert!(distance < 0.5, "{what} {prompt}: {distance} from llama.cpp");
    }
    let tokens = oracle.tokens("p33.input_ids");
    let mut logits = generator.all_logits(&tokens[..1]).unwrap();
    for token in &tokens[1..] {
        logits.extend(generator.decode_get_logits(*token).unwrap());
    }
    let error = worst(&logits, &oracle.f32("exact.p33.logits"));
    println!("{what}: p33 by steps to exact {error:.1e}");
    assert!(error < gate, "{what} by steps: {error}");
}

fn check_greedy(oracle: &GgufOracle, generator: &mut GemmaGenerator, what: &str) {
    let gate = gate(generator.config().arch);
    assert!(oracle.f32("exact.gen.margin").iter().all(|margin| *margin > 2.0 * gate), "{what}: too near to a tie");
    let expected = oracle.tokens("exact.gen.tokens");
    generator.prefill(oracle.tokens("gen.input_ids")).unwrap();
    let found: Vec<u32> = expected.iter().map(|_| generator.step_cached(&SampleOpts::greedy()).unwrap()).collect();
    assert_eq!(found, expected, "{what}");
    let distinct: std::collections::BTreeSet<_> = expected.iter().collect();
    assert!(distinct.len() >= 4, "{what}: a text of {} tokens shows little", distinct.len());
}
