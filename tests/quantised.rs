//! Weights that are packed as they are loaded: ggml's blocks, and what they cost.

mod common;

use common::{gguf::GgufOracle, oracle::Oracle};
use gemmaflow::{
    checkpoint::GgufLoader,
    generate::{GemmaGenerator, GeneratorOptions},
    ir::DType,
    runtime::Device,
    weights::{Quantise, QuantisedLoader, Tensor, WeightLoader, WeightMap},
};

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.byte_len()];
    tensor.read_bytes(0, &mut bytes).unwrap();
    bytes
}

/// What llama.cpp packed is packed again from its own numbers to the same bytes.
#[test]
fn blocks_of_llama_cpp_are_made_again_to_the_bit() {
    for to in [Quantise::Q8_0, Quantise::Q4_0] {
        let packed = DType::Packed(to.format());
        let mut compared = 0;
        for oracle in GgufOracle::all() {
            let mut loader = GgufLoader::from_file(&oracle.path).unwrap();
            for key in loader.remaining_keys() {
                if loader.peek(&key).unwrap().dtype != packed {
                    continue;
                }
                let theirs = loader.take(&key).unwrap();
                let wide = Tensor::from_f32(&key, theirs.shape().to_vec(), &theirs.to_f32().unwrap());
                let mut wide = WeightMap::from_tensors(vec![wide]);
                let ours = QuantisedLoader::new(&mut wide, to).take(&key).unwrap();
                assert_eq!(ours.dtype(), packed);
                assert!(bytes(&ours) == bytes(&theirs), "{} {key}", oracle.name);
                compared += 1;
            }
        }
        println!("{to:?}: {compared} tensors to the bit");
        assert!(compared >= 2, "{to:?}: {compared} tensors");
    }
}

/// The root mean square of the difference, as a share of that of the expected values' deviation from their mean.
fn share(found: &[f32], expected: &[f32]) -> f64 {
    let mean = expected.iter().map(|x| f64::from(*x)).sum::<f64>() / expected.len() as f64;
    let squares = |terms: &mut dyn Iterator<Item = f64>| terms.map(|x| x * x).sum::<f64>();
    let error = squares(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    let spread = squares(&mut expected.iter().map(|x| f64::from(*x) - mean));
    (error / spread).sqrt()
}

#[test]
fn a_checkpoint_loads_packed_and_its_logits_stay_near() {
    // The small checkpoints whose matrices have rows of whole blocks.
    for name in ["gemma1-mha"] {
        let oracle = Oracle::open(name);
        let (tokens, expected) = (oracle.tokens("p33.input_ids"), oracle.f32("p33.logits"));
        let load = |quantise| {
            let options = GeneratorOptions { quantise, prefill_chunk: Some(16), ..GeneratorOptions::default() };
            let device = Device::Gpu;
            GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device, options).unwrap()
        };
        let whole = load(None).stats().weight_bytes;
        // Random weights are the worst to round: an error of half a step of 1/127 or 1/8 of the largest of 32 numbers.
        for (to, most) in [(Quantise::Q8_0, 0.02), (Quantise::Q4_0, 0.35)] {
            let mut generator = load(Some(to));
            let error = share(&generator.all_logits(&tokens).unwrap(), &expected);
            let bytes = generator.stats().weight_bytes;
            println!("{name} as {to:?}: {bytes} bytes, {whole} before; rms error {error:.1e} of the logits' deviation");
            assert!(error < most, "{name} as {to:?}: {error}");
            assert!(error > 1e-4, "{name} as {to:?}: {error}: nothing was rounded");
            assert!(bytes < whole, "{name} as {to:?}: {bytes} of {whole} bytes");
        }
    }
}
