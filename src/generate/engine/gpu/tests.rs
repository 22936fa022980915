//! Logits of steps of several sequences against those of transformers (tests/data/README.md).

use std::path::Path;

use safetensors::SafeTensors;

use super::{EngineOptions, GpuEngine, GpuTurn, model::LOGITS, output};
use crate::{
    checkpoint::load_from_path,
    gemma::{GemmaArch, GemmaConfig},
    generate::{CacheStore, ModelGraphs, Outputs, Profiles, SampleOpts},
    runtime::{Device, GpuOptions, Opened, RunTokens, Wait},
};

/// A checkpoint of each family, and each sort of layer that one has.
const CHECKPOINTS: [&str; 9] = [
    "gemma1-mqa-bf16-sharded",
    "gemma2",
    "gemma3-text",
    "gemma3n",
    "gemma4-dense",
    "gemma4-e2b",
    "gemma4-moe",
    "gemma4-unified",
    "vaultgemma",
];

/// Tokens of the sequences: rings hold 24 or 25 rows.
const LENGTHS: [usize; 11] = [7, 70, 1, 24, 25, 26, 33, 2, 64, 50, 69];

/// Most tokens of a run before.
const CHUNK: usize = 16;

/// The gate of tests/common/oracle.rs.
fn gate(arch: GemmaArch) -> f32 {
    match arch {
        GemmaArch::Gemma | GemmaArch::Gemma2 | GemmaArch::VaultGemma | GemmaArch::Gemma3 => 2e-4,
        _ => 1e-3,
    }
}

/// An engine whose caches hold all rows but the last.
fn filled(engine: &mut GpuEngine, tokens: &[u32]) {
    engine.reserve(tokens.len()).unwrap();
    let last = tokens.len() - 1;
    let rows = &tokens[..tokens.len() - 1];
    for start in (0..last).step_by(CHUNK) {
        engine.logits(RunTokens::text(&rows[start..last.min(start + CHUNK)], start), true, Outputs::Nothing).unwrap();
    }
}

/// The logits that the step left, in the order of the engines.
fn left(engines: &[GpuEngine], vocab: usize) -> Vec<Vec<f32>> {
    let model = &engines[0].model;
    let batches = model.batches.lock_blocking();
    let batch = batches.only().expect("one plan");
    let (buffer, offset, _) = output(&batch.run.plan, LOGITS).unwrap();
    let logits = |engine: &GpuEngine| {
        let row = engine.slot_in(batch.id).expect("a slot").row;
        let mut bytes = vec![0; vocab * 4];
        model.context.read_back(buffer, offset + (row * vocab * 4) as u64, &mut bytes).unwrap();
        bytemuck::pod_collect_to_vec(&bytes)
    };
    engines.iter().map(logits).collect()
}

#[test]
fn logits_of_sequences_of_all_lengths_are_those_of_transformers() {
    for name in CHECKPOINTS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints").join(name);
        let config = GemmaConfig::from_file(&folder).unwrap();
        let bytes = std::fs::read(folder.join("oracle.safetensors")).unwrap();
        let oracle = SafeTensors::deserialize(&bytes).unwrap();
        let tokens: Vec<i32> = bytemuck::pod_collect_to_vec(oracle.tensor("p70.input_ids").unwrap().data());
        let tokens: Vec<u32> = tokens.into_iter().map(|token| token as u32).collect();
        let expected: Vec<f32> = bytemuck::pod_collect_to_vec(oracle.tensor("p70.logits").unwrap().data());
        let model = ModelGraphs::new(config.clone(), load_from_path(&folder).unwrap().as_mut(), None).unwrap();
        let Opened::Gpu(context) = Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") else {
            panic!("Device::Gpu opened the reference");
        };
        let options = EngineOptions { chunk: Some(CHUNK), ..EngineOptions::default() };
        let first = crate::platform::wait("a test", GpuEngine::new(context, model.into(), Profiles::default(), options)).unwrap();
        let another = |_: &usize| first.beside(super::Caches::new(first.caches.ring()));
        let mut engines: Vec<GpuEngine> = LENGTHS.iter().map(another).collect();
        engines.iter_mut().zip(LENGTHS).for_each(|(engine, length)| filled(engine, &tokens[..length]));
        let opts = SampleOpts::greedy();
        let turns = engines.iter_mut().zip(LENGTHS);
        let mut turns: Vec<GpuTurn<'_>> =
            turns.map(|(engine, length)| GpuTurn { engine, history: &tokens[..length], opts: &opts }).collect();
        let chosen =
            pollster::block_on(GpuEngine::decode_batch(&mut turns, Wait::Thread)).unwrap().expect("a step of all together");
        let vocab = config.vocab_size;
        for ((found, length), token) in left(&engines, vocab).iter().zip(LENGTHS).zip(chosen) {
            let expected = &expected[(length - 1) * vocab..][..vocab];
            let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.iter().all(|x| x.is_finite()) && error < gate(config.arch), "{name} after {length} tokens: {error}");
            let most = found.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(found[token.unwrap() as usize], most, "{name} after {length} tokens");
        }
    }
}
