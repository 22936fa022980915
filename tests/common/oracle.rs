//! Checkpoints with the outputs that Hugging Face transformers computed for them (tests/data/README.md).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use gemmaflow::{
    checkpoint::load_from_path,
    gemma::{GemmaArch, GemmaConfig, GemmaDrafterConfig},
    weights::WeightLoader,
};
use safetensors::SafeTensors;

/// Every checkpoint that this version computes.
pub const CHECKPOINTS: [&str; 15] = [
    "gemma1-mha",
    "gemma1-mqa-bf16-sharded",
    "gemma2",
    "gemma2-bf16-native",
    "gemma3-mm-bf16",
    "gemma3-text",
    "gemma3-untied-native",
    "gemma3n",
    "gemma4-dense",
    "gemma4-e2b",
    "gemma4-moe",
    "gemma4-moe-mm-bf16",
    "gemma4-target",
    "gemma4-unified",
    "vaultgemma",
];

/// The gate on logits, hidden states, K and V in f32 up to Gemma 3 (docs/gemma.md, Numerical precision: the oracle's
/// own error against f64 is 2.3e-5 at
/// most).
pub const GATE: f32 = 2e-4;

/// The gate from Gemma 3n on, where gates and norms of values amplify: the oracle's own error against f64 is 1.3e-4.
pub const WIDE_GATE: f32 = 1e-3;

/// The gate of a family.
pub fn gate(arch: GemmaArch) -> f32 {
    match arch {
        GemmaArch::Gemma | GemmaArch::Gemma2 | GemmaArch::VaultGemma | GemmaArch::Gemma3 => GATE,
        _ => WIDE_GATE,
    }
}

pub fn data(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

/// One checkpoint and its golden values.
pub struct Oracle {
    pub name: String,
    pub folder: PathBuf,
    pub config: GemmaConfig,
    tensors: HashMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Oracle {
    pub fn open(name: &str) -> Self {
        let folder = data("checkpoints").join(name);
        let config = GemmaConfig::from_file(&folder).expect("the oracle's configuration is read");
        Self::of(name, folder, config)
    }

    /// A drafter, with the configuration of its layers.
    pub fn open_drafter(name: &str) -> Self {
        let folder = data("checkpoints").join(name);
        let config = GemmaDrafterConfig::near_weights(&folder).expect("the oracle's configuration is read");
        Self::of(name, folder, config.layers)
    }

    fn of(name: &str, folder: PathBuf, config: GemmaConfig) -> Self {
        let bytes = std::fs::read(folder.join("oracle.safetensors")).expect("the oracle's values are in the tree");
        let file = SafeTensors::deserialize(&bytes).expect("the oracle's values are safetensors");
        let tensors = file.tensors().into_iter().map(|(k, v)| (k, (v.shape().to_vec(), v.data().to_vec()))).collect();
        Self { name: name.into(), folder, config, tensors }
    }

    /// The gate of its family.
    pub fn gate(&self) -> f32 {
        gate(self.config.arch)
    }

    pub fn loader(&self) -> Box<dyn WeightLoader> {
        load_from_path(&self.folder).expect("the oracle's checkpoint is read")
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.raw(name).1)
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.raw(name).0.clone()
    }

    /// Token ids are stored as i32.
    pub fn tokens(&self, name: &str) -> Vec<u32> {
        bytemuck::pod_collect_to_vec::<u8, i32>(&self.raw(name).1).into_iter().map(|t| t as u32).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn raw(&self, name: &str) -> &(Vec<usize>, Vec<u8>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no '{name}'", self.name))
    }
}

/// The largest absolute difference; lengths must agree.
pub fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    assert!(found.iter().all(|x| x.is_finite()), "not a number among the values");
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
