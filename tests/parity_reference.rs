//! The CPU reference against Hugging Face transformers: every checkpoint, every path.

mod common;

use common::oracle::{CHECKPOINTS, GATE, Oracle, worst};
use gemmaflow::{
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::Device,
};

#[test]
fn logits_at_all_positions() {
    for name in CHECKPOINTS {
        let oracle = Oracle::open(name);
        let mut generator = GemmaGenerator::from_loader(oracle.config.clone(), oracle.loader().as_mut(), Device::Cpu).unwrap();
        for prompt in ["p1", "p2", "p7", "p33", "p70"] {
            let tokens = oracle.tokens(&format!("{prompt}.input_ids"));
            let logits = generator.all_logits(&tokens).unwrap();
            let error = worst(&logits, &oracle.f32(&format!("{prompt}.logits")));
            println!("{name} {prompt} {error:e}");
            assert!(error < GATE, "{name} {prompt}: {error}");
        }
    }
}
