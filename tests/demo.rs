//! The demo model against what Hugging Face transformers computes with it (assets/demo/expected.json).

use std::path::Path;

use gemmaflow::{
    gemma::GemmaConfig,
    generate::{GemmaGenerator, SampleOpts},
    runtime::Device,
    text::Tokenizer,
};
use serde_json::Value;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(folder().join("tokenizer.json")).unwrap()
}

fn generator(device: Device) -> GemmaGenerator {
    GemmaGenerator::from_path(GemmaConfig::from_file(folder()).unwrap(), folder(), device).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Held-out tokens in windows of 128 predictions each, as assets/demo/train.py cuts them; no BOS.
fn windows(tokens: &[u32], window: usize) -> Vec<&[u32]> {
    let cut = |start: usize| &tokens[start..tokens.len().min(start + window + 1)];
    (0..tokens.len() - 1).step_by(window).map(cut).collect()
}

/// Sum of −ln p of each token of the window but its first.
fn loss(generator: &mut GemmaGenerator, window: &[u32]) -> f64 {
    let vocab = generator.config().vocab_size;
    let logits = generator.all_logits(&window[..window.len() - 1]).unwrap();
    let of = |(row, next): (&[f32], &u32)| {
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|l| f64::from(l - max).exp()).sum();
        sum.ln() + f64::from(max) - f64::from(row[*next as usize])
    };
    logits.chunks(vocab).zip(&window[1..]).map(of).sum()
}

#[test]
fn held_out_loss_is_that_of_transformers() {
    let held_out = &expected()["held_out"];
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/held_out.txt")).unwrap();
    let tokens = tokenizer().encode(&text, false).unwrap();
    assert_eq!(tokens.len() as u64, held_out["tokens"].as_u64().unwrap());
    let windows = windows(&tokens, held_out["window"].as_u64().unwrap() as usize);
    let counted: usize = windows.iter().map(|w| w.len() - 1).sum();
    assert_eq!(counted as u64, held_out["counted"].as_u64().unwrap());

    let mut reference = generator(Device::Cpu);
    let sums: Vec<f64> = windows.iter().map(|window| loss(&mut reference, window)).collect();
    let found = sums.iter().sum::<f64>() / counted as f64;
    let wanted = held_out["loss_nats"].as_f64().unwrap();
    println!("reference: {found:.6} nats a token, transformers {wanted:.6}");
    assert!((found / wanted - 1.0).abs() < 1e-3, "{found} nats, transformers {wanted}");

    let mut gpu = generator(Device::Gpu);
    let found = windows.iter().map(|window| loss(&mut gpu, window)).sum::<f64>() / counted as f64;
    println!("gpu: {found:.6} nats a token");
    assert!((found / wanted - 1.0).abs() < 1e-3, "{found} nats, transformers {wanted}");
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let (expected, tokenizer) = (expected(), tokenizer());
    let cases = expected["greedy"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for device in [Device::Cpu, Device::Gpu] {
        let mut generator = generator(device.clone());
        for case in cases {
            let prompt = case["prompt"].as_str().unwrap();
            let prompt_ids = tokenizer.encode(prompt, true).unwrap();
            assert_eq!(prompt_ids, ids(&case["prompt_ids"]), "{prompt:?}");

            let logits = generator.prefill_get_last_logits(&prompt_ids).unwrap();
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            assert!(
                (f64::from(largest) - case["first_logits_max"].as_f64().unwrap()).abs() < 2e-4,
                "{device} {prompt:?}: {largest}"
            );

            generator.prefill(&prompt_ids).unwrap();
            let new = generator.generate_cached(64, &SampleOpts::greedy()).unwrap();
            assert_eq!(new, ids(&case["new_ids"]), "{device} {prompt:?}");
            assert_eq!(tokenizer.decode(&new).unwrap(), case["text"].as_str().unwrap(), "{device} {prompt:?}");
            assert_eq!(generator.tokens(), [prompt_ids, new].concat());
        }
    }
}
