//! Checkpoints with pictures and sounds, and what transformers computed for them (tests/data/README.md).

use std::{collections::HashMap, path::PathBuf};

use gemmaflow::{
    checkpoint::load_towers_from_path,
    gemma::GemmaConfig,
    prompt::{Modality, Prompt, SoftTokens},
    weights::{Tensor, WeightMap},
};
use safetensors::SafeTensors;
use serde_json::Value;

use super::oracle::{data, gate};

/// All of them.
pub const CHECKPOINTS: [&str; 8] = [
    "gemma3-vision",
    "gemma3-vision-bf16",
    "gemma3n-audio",
    "gemma3n-vision",
    "gemma4-audio",
    "gemma4-e-vision-bf16",
    "gemma4-unified",
    "gemma4-vision",
];

/// Most soft tokens of a picture in any of them.
pub const LONGEST_PICTURE: usize = 70;

/// One checkpoint and its golden values.
pub struct Multimodal {
    pub name: &'static str,
    pub folder: PathBuf,
    pub config: GemmaConfig,
    pub json: Value,
    cases: Value,
    tensors: HashMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Multimodal {
    pub fn open(name: &'static str) -> Self {
        let folder = data("multimodal").join(name);
        let read = |file: &str| std::fs::read(folder.join(file)).unwrap_or_else(|error| panic!("{name}/{file}: {error}"));
        let json = serde_json::from_slice(&read("config.json")).unwrap();
        let cases: Value = serde_json::from_slice(&read("mm_oracle.json")).unwrap();
        let bytes = read("mm_oracle.safetensors");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(k, v)| (k, (v.shape().to_vec(), v.data().to_vec()))).collect();
        let config = GemmaConfig::from_file(&folder).unwrap();
        Self { name, folder, config, json, cases: cases["cases"].clone(), tensors }
    }

    /// The gate on logits.
    pub fn gate(&self) -> f32 {
        gate(self.config.arch)
    }

    /// The names of the cases.
    pub fn cases(&self) -> Vec<String> {
        self.cases.as_array().unwrap().iter().map(|case| case["name"].as_str().unwrap().to_string()).collect()
    }

    /// What `mm_oracle.json` says of a case.
    pub fn case(&self, name: &str) -> &Value {
        self.cases.as_array().unwrap().iter().find(|case| case["name"] == name).unwrap()
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.raw(name).0.clone()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.raw(name).1)
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        bytemuck::pod_collect_to_vec::<u8, i32>(&self.raw(name).1).into_iter().map(|id| id as u32).collect()
    }

    fn raw(&self, name: &str) -> &(Vec<usize>, Vec<u8>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no '{name}'", self.name))
    }

    fn id(&self, keys: [&str; 2]) -> Option<u32> {
        keys.iter().find_map(|key| self.json[key].as_u64()).map(|id| id as u32)
    }

    /// How the id at a position enters the model, if not as an ordinary token.
    pub fn modality(&self, id: u32) -> Option<Modality> {
        if self.id(["image_token_id", "image_token_index"]) == Some(id) {
            return Some(Modality::Image);
        }
        (self.id(["audio_token_id", "audio_token_index"]) == Some(id)).then_some(Modality::Audio)
    }

    /// The towers' weights in f32, changed.
    pub fn towers(&self, change: fn(&str, &[usize], &mut [f32])) -> WeightMap {
        let mut loader = load_towers_from_path(&self.folder).unwrap();
        let names = loader.remaining_keys();
        let tensor = |name: String| {
            let tensor = loader.take(&name).unwrap();
            let mut values = vec![0.0; tensor.len()];
            tensor.read_f32(0, &mut values).unwrap();
            change(&name, tensor.shape(), &mut values);
            Tensor::from_f32(name, tensor.shape().to_vec(), &values)
        };
        WeightMap::from_tensors(names.into_iter().map(tensor).collect())
    }

    /// The prompt of a case, with the rows of transformers' merged embeddings as soft tokens.
    pub fn merged_prompt(&self, case: &str) -> Prompt {
        self.prompt_of(case, &self.f32(&format!("{case}.inputs_embeds")))
    }

    /// Likewise with the rows of `soft`, in order, in the place of transformers'.
    pub fn prompt_with(&self, case: &str, soft: &[f32]) -> Prompt {
        let mut embeds = self.f32(&format!("{case}.inputs_embeds"));
        let mut soft = soft.chunks(self.config.hidden_size);
        for (id, row) in self.ids(&format!("{case}.input_ids")).iter().zip(embeds.chunks_mut(self.config.hidden_size)) {
            if self.modality(*id).is_some() {
                row.copy_from_slice(soft.next().expect("a row for each soft token"));
            }
        }
        assert!(soft.next().is_none(), "{} {case}: more rows than soft tokens", self.name);
        self.prompt_of(case, &embeds)
    }

    fn prompt_of(&self, case: &str, embeds: &[f32]) -> Prompt {
        let ids = self.ids(&format!("{case}.input_ids"));
        let width = self.config.hidden_size;
        let mut prompt = Prompt::new();
        let mut start = 0;
        while start < ids.len() {
            let same = ids[start..].iter().take_while(|id| **id == ids[start]).count();
            match self.modality(ids[start]) {
                Some(modality) => {
                    let rows = embeds[start * width..(start + same) * width].to_vec();
                    prompt.push(SoftTokens::new(modality, ids[start], width, rows).unwrap());
                    start += same;
                }
                None => {
                    prompt.push([ids[start]]);
                    start += 1;
                }
            }
        }
        prompt
    }
}
