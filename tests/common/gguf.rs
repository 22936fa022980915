//! GGUF files with what they must compute (tests/data/README.md), and a writer of files that never were.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use gemmaflow::gemma::{GemmaArch, WeightPosition};
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::oracle::data;

/// One file that llama.cpp's tools made, and what is known of it.
pub struct GgufOracle {
    pub name: String,
    pub path: PathBuf,
    pub info: Value,
    expected: BTreeMap<String, Vec<u8>>,
}

impl GgufOracle {
    pub fn open(name: &str) -> Self {
        let folder = data("gguf").join(name);
        let info = std::fs::read(folder.join("info.json")).expect("the oracle is in the tree");
        let expected = match std::fs::read(folder.join("expected.safetensors")) {
            Ok(bytes) => {
                let file = SafeTensors::deserialize(&bytes).expect("the oracle's values are safetensors");
                file.tensors().into_iter().map(|(k, v)| (k, v.data().to_vec())).collect()
            }
            Err(_) => BTreeMap::new(),
        };
        let info = serde_json::from_slice(&info).expect("the oracle's info is JSON");
        Self { name: name.into(), path: folder.join("model.gguf"), info, expected }
    }

    /// Every file in the tree.
    pub fn all() -> Vec<Self> {
        let folders = std::fs::read_dir(data("gguf")).expect("the oracles are in the tree");
        let mut names: Vec<String> = folders
            .map(|entry| entry.expect("readable").path())
            .filter(|path| path.join("model.gguf").is_file())
            .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.iter().map(|name| Self::open(name)).collect()
    }

    /// Every file of a family that this version computes.
    pub fn runnable() -> Vec<Self> {
        let computed = ["gemma", "gemma2", "gemma3", "gemma3n", "gemma4"];
        let found: Vec<Self> = Self::all().into_iter().filter(|oracle| computed.contains(&oracle.architecture())).collect();
        assert!(computed.iter().all(|arch| found.iter().any(|oracle| oracle.architecture() == *arch)), "a family has no file");
        found
    }

    /// Every file of a model that embeds texts.
    pub fn embedders() -> Vec<Self> {
        let found: Vec<Self> = Self::all().into_iter().filter(|oracle| oracle.architecture() == "gemma-embedding").collect();
        assert!(found.len() >= 3, "{} files", found.len());
        found
    }

    pub fn architecture(&self) -> &str {
        self.info["arch"].as_str().expect("a text")
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(self.raw(name))
    }

    pub fn tokens(&self, name: &str) -> Vec<u32> {
        bytemuck::pod_collect_to_vec::<u8, i32>(self.raw(name)).into_iter().map(|t| t as u32).collect()
    }

    fn raw(&self, name: &str) -> &[u8] {
        self.expected.get(name).unwrap_or_else(|| panic!("{} has no '{name}'", self.name))
    }
}

/// The loader's key of a tensor by the file's name for it, and whether its values come with 1 less.
pub fn key(architecture: &str, name: &str) -> (String, bool) {
    let arch = match architecture {
        "gemma" => GemmaArch::Gemma,
        "gemma2" => GemmaArch::Gemma2,
        "gemma3" | "gemma-embedding" => GemmaArch::Gemma3,
        "gemma3n" => GemmaArch::Gemma3n,
        "gemma4" | "gemma4-assistant" => GemmaArch::Gemma4,
        _ => return (name.into(), false),
    };
    let counts_from_one = !matches!(arch, GemmaArch::Gemma3n | GemmaArch::Gemma4);
    match WeightPosition::from_gguf(arch, name).and_then(|position| position.hugging_face(arch)) {
        Some(key) => (key, counts_from_one && name.ends_with("norm.weight")),
        None => (name.into(), false),
    }
}

/// The first 24 hexadecimal digits of the SHA-256 of values as little-endian f32.
pub fn sum(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Sha256::digest(&bytes).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// A GGUF file of any contents.
#[derive(Clone)]
pub struct Writer {
    pub version: u32,
    pub alignment: u64,
    /// Key, type, bytes of the value.
    pub pairs: Vec<(String, u32, Vec<u8>)>,
    /// Name, dimensions as in the file, type, bytes.
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

impl Writer {
    pub fn new(architecture: &str) -> Self {
        let this = Self { version: 3, alignment: 32, pairs: Vec::new(), tensors: Vec::new() };
        this.text("general.architecture", architecture)
    }

    pub fn pair(mut self, key: &str, ty: u32, value: Vec<u8>) -> Self {
        self.pairs.retain(|(other, _, _)| other != key);
        self.pairs.push((key.into(), ty, value));
        self
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.pair(key, 8, string(value.as_bytes()))
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.pair(key, 4, value.to_le_bytes().to_vec())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.pair(key, 6, value.to_le_bytes().to_vec())
    }

    /// An array of values that are already bytes.
    pub fn array(self, key: &str, element: u32, values: &[Vec<u8>]) -> Self {
        let bytes = [&element.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &values.concat()].concat();
        self.pair(key, 9, bytes)
    }

    pub fn tensor(mut self, name: &str, dims: &[u64], ty: u32, bytes: &[u8]) -> Self {
        self.tensors.push((name.into(), dims.to_vec(), ty, bytes.to_vec()));
        self
    }

    /// The file, and the place of every tensor's offset in it.
    pub fn bytes_and_offsets(&self) -> (Vec<u8>, Vec<usize>) {
        let mut out = [&b"GGUF"[..], &self.version.to_le_bytes()].concat();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, ty, value) in &self.pairs {
            out.extend([&string(key.as_bytes())[..], &ty.to_le_bytes(), value].concat());
        }
        let (mut data, mut offsets) = (Vec::new(), Vec::new());
        let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(self.alignment as usize), 0);
        for (name, dims, ty, bytes) in &self.tensors {
            out.extend(string(name.as_bytes()));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(ty.to_le_bytes());
            offsets.push(out.len());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            pad(&mut data);
        }
        pad(&mut out);
        out.extend(data);
        (out, offsets)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_and_offsets().0
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).expect("written");
    }
}

/// A string as GGUF has it.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}
