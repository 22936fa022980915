//! Checkpoints rewritten with other tensors, types and flags, and what is warned of while they load.

use std::{
    fmt::{Debug, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::gguf::Writer;

/// A tensor of a safetensors file.
#[derive(Clone)]
pub struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn new(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { name: name.into(), dtype, shape: shape.to_vec(), bytes }
    }

    pub fn named(&self, name: &str) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    /// The rows in order, beginning with the second.
    pub fn rotated(mut self) -> Self {
        let row = self.bytes.len() / self.shape[0];
        self.bytes.rotate_left(row);
        self
    }

    /// The elements of f32 or bf16.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => bytemuck::pod_collect_to_vec(&self.bytes),
            Dtype::BF16 => {
                let halves: Vec<u16> = bytemuck::pod_collect_to_vec(&self.bytes);
                halves.into_iter().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn into_f32(self) -> Self {
        let bytes = self.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, bytes, ..self }
    }

    pub fn into_f64(self) -> Self {
        let bytes = self.to_f32().iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
        Self { dtype: Dtype::F64, bytes, ..self }
    }
}

/// A checkpoint that a test may change.
pub struct Checkpoint {
    pub config: Value,
    pub tensors: Vec<Stored>,
}

impl Checkpoint {
    /// The one in a folder, of one file or shards.
    pub fn read(folder: &Path) -> Self {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let weights = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("model"));
        files.retain(|path| weights(path) && path.extension().is_some_and(|end| end == "safetensors"));
        files.sort();
        let mut tensors = Vec::new();
        for file in files {
            let bytes = std::fs::read(file).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                tensors.push(Stored::new(&name, view.dtype(), view.shape(), view.data().to_vec()));
            }
        }
        let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        Self { config, tensors }
    }

    /// The place of the tensor whose name ends so.
    pub fn find(&self, end: &str) -> usize {
        self.tensors.iter().position(|tensor| tensor.name.ends_with(end)).unwrap_or_else(|| panic!("no {end}"))
    }

    /// Sets whether the head is said to be the embedding, wherever that stands; `None` takes the flag away.
    pub fn tie(&mut self, flag: Option<bool>) {
        set_tied(&mut self.config, flag);
        if let Some(text) = self.config.get_mut("text_config") {
            set_tied(text, flag);
        }
    }

    pub fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        write(&folder.path().join("model.safetensors"), &self.tensors);
        folder
    }
}

fn set_tied(config: &mut Value, flag: Option<bool>) {
    let map = config.as_object_mut().unwrap();
    map.remove("tie_word_embeddings");
    map.extend(flag.map(|flag| ("tie_word_embeddings".to_string(), flag.into())));
}

/// Writes a safetensors file.
pub fn write(path: &Path, tensors: &[Stored]) {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap();
        (tensor.name.clone(), view)
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A GGUF file's keys and tensors as they are.
pub fn read_gguf(path: &Path) -> Writer {
    let bytes = std::fs::read(path).unwrap();
    let mut at = Reader { bytes: &bytes, at: 8 };
    let (tensors, pairs) = (at.u64(), at.u64());
    let pair = |at: &mut Reader<'_>| {
        let (key, ty) = (at.text(), at.u32());
        let start = at.at;
        at.skip(ty);
        (key, ty, bytes[start..at.at].to_vec())
    };
    let pairs: Vec<_> = (0..pairs).map(|_| pair(&mut at)).collect();
    let entry = |at: &mut Reader<'_>| {
        let name = at.text();
        let dims: Vec<u64> = (0..at.u32()).map(|_| at.u64()).collect();
        (name, dims, at.u32(), at.u64() as usize)
    };
    let entries: Vec<_> = (0..tensors).map(|_| entry(&mut at)).collect();
    let start = at.at.next_multiple_of(32);
    let end =
        |offset: usize| entries.iter().map(|entry| entry.3).filter(|next| *next > offset).min().unwrap_or(bytes.len() - start);
    let tensors = entries.iter().map(|(name, dims, ty, offset)| {
        let data = bytes[start + offset..start + end(*offset)].to_vec();
        (name.clone(), dims.clone(), *ty, data)
    });
    Writer { version: 3, alignment: 32, pairs, tensors: tensors.collect() }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn skip(&mut self, ty: u32) {
        match ty {
            8 => drop(self.text()),
            9 => {
                let (element, count) = (self.u32(), self.u64());
                (0..count).for_each(|_| self.skip(element));
            }
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            10..=12 => self.at += 8,
            _ => self.at += 4,
        }
    }
}

/// What `work` gives, and every warning of this thread meanwhile.
pub fn warnings<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let heard = Heard::default();
    let result = tracing::subscriber::with_default(tracing_subscriber::registry().with(heard.clone()), work);
    let warnings = heard.0.lock().unwrap().clone();
    (result, warnings)
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::WARN {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{} {value:?} ", field.name()).unwrap();
    }
}
