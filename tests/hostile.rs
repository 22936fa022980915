//! Damaged and hostile files by the thousand: each gets weights or an error, and little heap. A binary of one test, as
//! it counts the heap of the whole process.

mod common;
#[path = "common/heap.rs"]
mod heap;

use std::{
    fs::File,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use common::{
    gguf::{GgufOracle, Writer, string},
    oracle::data,
};
use gemmaflow::{
    Error, Result,
    checkpoint::{GgufLoader, SafetensorsLoader},
    error::WeightError,
    gemma::{GemmaConfig, GemmaFlow},
    weights::{ReadMode, WeightLoader},
};

/// What opening a file may take of the heap: so many bytes for each of the file's, and this.
const HEAP_PER_BYTE: usize = 16;
const FREE_HEAP: usize = 128 << 10;

/// Marsaglia's xorshift64.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }

    /// Numbers at which lengths and offsets go wrong.
    fn number(&mut self) -> u64 {
        let near = [0, 1, 1 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
        near[self.below(near.len())].wrapping_add(self.below(3) as u64).wrapping_sub(1)
    }

    /// Damages a header a little, in one to three places.
    fn damage(&mut self, header: &[u8], alphabet: &[u8]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len());
            match self.below(8) {
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = alphabet[self.below(alphabet.len())],
                3 | 4 => {
                    let number = self.number().to_le_bytes();
                    let width = [4, 8][self.below(2)].min(bytes.len() - at);
                    bytes[at..at + width].copy_from_slice(&number[..width]);
                }
                5 => {
                    let other = self.below(bytes.len());
                    bytes.swap(at, other);
                }
                6 => drop(bytes.drain(at..(at + self.below(9)).min(bytes.len()))),
                _ => {
                    let from = self.below(bytes.len());
                    let copy = bytes[from..(from + self.below(40)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        bytes
    }
}

/// A file to be damaged.
struct Seed {
    name: &'static str,
    rounds: usize,
    /// What is damaged: the header. What follows it is zeros.
    header: Vec<u8>,
    len: usize,
    /// Where the damaged file is put.
    path: PathBuf,
    open: fn(&Path, ReadMode) -> Result<Box<dyn WeightLoader>>,
    config: fn(&Path) -> Result<GemmaConfig>,
}

fn gguf(path: &Path, mode: ReadMode) -> Result<Box<dyn WeightLoader>> {
    Ok(Box::new(GgufLoader::from_file_with(path, mode)?.include_mtp(true)))
}

/// Opens the first part, whichever part is damaged.
fn gguf_parts(path: &Path, mode: ReadMode) -> Result<Box<dyn WeightLoader>> {
    gguf(&path.with_file_name("m-00001-of-00002.gguf"), mode)
}

fn safetensors(path: &Path, mode: ReadMode) -> Result<Box<dyn WeightLoader>> {
    Ok(Box::new(SafetensorsLoader::open_with(path, mode)?))
}

fn beside(path: &Path) -> Result<GemmaConfig> {
    GemmaConfig::from_file(path.parent().expect("a folder"))
}

/// A small Gemma with every type of value.
fn small() -> Writer {
    let integer = |n: u32| n.to_le_bytes().to_vec();
    let tokens: Vec<Vec<u8>> = (0..40).map(|i| string(format!("<{i}>").as_bytes())).collect();
    let nested = [4u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec(), vec![0; 8]].concat();
    let mut writer = Writer::new("gemma3").f32("gemma3.attention.layer_norm_rms_epsilon", 1e-6);
    let keys = ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"];
    for (key, size) in keys.iter().zip([2, 64, 32, 32, 2]) {
        writer = writer.u32(&format!("gemma3.{key}"), size);
    }
    writer = writer
        .array("gemma3.attention.head_count_kv", 4, &[integer(1), integer(1)])
        .u32("gemma3.attention.sliding_window", 8)
        .array("gemma3.attention.sliding_window_pattern", 7, &[vec![1], vec![0]])
        .text("gemma3.rope.scaling.type", "linear")
        .f32("gemma3.rope.scaling.factor", 8.0)
        .array("tokenizer.ggml.tokens", 8, &tokens)
        .array("nested", 9, &[nested.clone(), nested])
        .pair("f64", 12, vec![0; 8])
        .pair("i8", 1, vec![200])
        .pair("tokenizer.ggml.eos_token_id", 10, vec![1, 0, 0, 0, 0, 0, 0, 0])
        .u32("general.alignment", 64);
    writer.alignment = 64;
    let matrix =
        |w: Writer, name: &str, dims: [u64; 2]| w.tensor(name, &dims, 2, &vec![0; (dims[0] * dims[1] / 32 * 18) as usize]);
    let norm = |w: Writer, name: &str, len: usize| w.tensor(name, &[len as u64], 0, &vec![0; 4 * len]);
    writer = norm(matrix(writer, "token_embd.weight", [32, 40]), "output_norm.weight", 32);
    for i in 0..2 {
        let name = |what: &str| format!("blk.{i}.{what}.weight");
        for what in ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"] {
            writer = norm(writer, &name(what), 32);
        }
        for what in ["attn_q_norm", "attn_k_norm"] {
            writer = norm(writer, &name(what), 16);
        }
        for (what, out) in [
            ("attn_q", 32),
            ("attn_k", 16),
            ("attn_v", 16),
            ("attn_output", 32),
            ("ffn_gate", 32),
            ("ffn_up", 32),
            ("ffn_down", 32),
        ] {
            writer = matrix(writer, &name(what), [32, out]);
        }
    }
    writer
}

/// The bytes before the tensors' own: those up to the last offset in the table.
fn header(writer: &Writer) -> (Vec<u8>, usize) {
    let (bytes, offsets) = writer.bytes_and_offsets();
    (bytes[..offsets.last().map_or(bytes.len(), |at| at + 8)].to_vec(), bytes.len())
}

fn seeds(folder: &Path) -> Vec<Seed> {
    let (small_header, small_len) = header(&small());
    let oracle = std::fs::read(GgufOracle::open("gemma2-s-q4_0-pure").path).unwrap();
    let part = |index: u16| small().pair("split.no", 2, index.to_le_bytes().to_vec()).pair("split.count", 2, vec![2, 0]);
    let mut second = part(1);
    second.tensors = vec![("extra".into(), vec![4], 0, vec![0; 16])];
    let (first_header, first_len) = header(&part(0));
    let (second_header, second_len) = header(&second);
    for name in ["parts", "parts2"] {
        std::fs::create_dir(folder.join(name)).unwrap();
        part(0).write(&folder.join(name).join("m-00001-of-00002.gguf"));
        second.write(&folder.join(name).join("m-00002-of-00002.gguf"));
    }
    let plain = data("checkpoints/gemma3-text");
    std::fs::copy(plain.join("config.json"), folder.join("config.json")).unwrap();
    let plain = std::fs::read(plain.join("model.safetensors")).unwrap();
    let plain_header = 8 + u64::from_le_bytes(plain[..8].try_into().unwrap()) as usize;
    let sharded = data("checkpoints/gemma1-mqa-bf16-sharded");
    std::fs::create_dir(folder.join("sharded")).unwrap();
    for file in std::fs::read_dir(&sharded).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&file, folder.join("sharded").join(file.file_name().unwrap())).unwrap();
    }
    let index = std::fs::read(sharded.join("model.safetensors.index.json")).unwrap();
    let seed = |name, rounds, header: &[u8], len, file: &str, open, config| Seed {
        name,
        rounds,
        header: header.to_vec(),
        len,
        path: folder.join(file),
        open,
        config,
    };
    let from_gguf: fn(&Path) -> Result<GemmaConfig> = |path| GemmaConfig::from_gguf(path);
    let from_parts: fn(&Path) -> Result<GemmaConfig> =
        |path| GemmaConfig::from_gguf(path.with_file_name("m-00001-of-00002.gguf"));
    vec![
        seed("small gguf", 9000, &small_header, small_len, "small.gguf", gguf, from_gguf),
        seed("oracle gguf", 3000, &oracle[..oracle.len() - 120_000], oracle.len(), "oracle.gguf", gguf, from_gguf),
        seed("first part", 1500, &first_header, first_len, "parts/m-00001-of-00002.gguf", gguf_parts, from_parts),
        seed("second part", 1500, &second_header, second_len, "parts2/m-00002-of-00002.gguf", gguf_parts, from_parts),
        seed("safetensors", 6000, &plain[..plain_header], plain.len(), "model.safetensors", safetensors, beside),
        seed("index", 3000, &index, index.len(), "sharded/model.safetensors.index.json", safetensors, beside),
    ]
}

/// Everything that can be had from a file without a device: configuration, weights, graph.
fn use_up(seed: &Seed, mode: ReadMode, file_len: usize) -> Result<()> {
    let before = heap::restart();
    let opened = (seed.open)(&seed.path, mode);
    let config = (seed.config)(&seed.path);
    let heap = heap::peak() - before;
    // The other parts are files too.
    let allowed = HEAP_PER_BYTE * (file_len + 16 * 1024) + FREE_HEAP;
    assert!(heap <= allowed, "{heap} bytes of heap for a file of {file_len}");
    let mut loader = opened?;
    let mut again = (seed.open)(&seed.path, mode)?;
    for key in again.remaining_keys() {
        let Ok(tensor) = again.take(&key) else { continue };
        let mut some = vec![0.0; tensor.len().min(300)];
        match tensor.read_f32(0, &mut some) {
            // Integers are no weights.
            Err(Error::Weight(WeightError::Type { .. })) => {}
            outcome => outcome.and_then(|()| tensor.read_f32(tensor.len() - some.len(), &mut some))?,
        }
    }
    GemmaFlow::new(&config?).lm_head().build(loader.as_mut())?;
    Ok(())
}

/// Puts a file of `len` bytes in the seed's place: a header, and zeros.
fn write(seed: &Seed, header: &[u8], len: usize) {
    // A file that is made anew: some file systems wait for the disk where an old one is cut short and written again.
    std::fs::remove_file(&seed.path).ok();
    let mut file = File::create_new(&seed.path).unwrap();
    file.write_all(header).unwrap();
    file.set_len(len as u64).unwrap();
}

/// The outcome of one round; a panic is told with what it takes to see it again.
fn round(seed: &Seed, number: usize, random: &mut Xorshift) -> Result<()> {
    let damaged = match random.below(20) {
        0 => seed.header[..random.below(seed.header.len())].to_vec(),
        _ => random.damage(&seed.header, b"0123456789[]{},:\"-"),
    };
    let len = match random.below(10) {
        0 => damaged.len().max(random.below(seed.len + 1)),
        _ => damaged.len() + (seed.len - seed.header.len()),
    };
    write(seed, &damaged, len);
    let mode = if number.is_multiple_of(2) { ReadMode::Mapped } else { ReadMode::Positioned };
    catch_unwind(AssertUnwindSafe(|| use_up(seed, mode, len)))
        .unwrap_or_else(|_| panic!("{}, round {number}: {} bytes of header panicked", seed.name, damaged.len()))
}

/// The most names that a file of its size can have.
fn dense(folder: &Path) {
    let mut writer = Writer { alignment: 1, ..Writer::new("x") }.u32("general.alignment", 1);
    writer.pairs.extend((0..9000).map(|i| (format!("{i:x}"), 0, vec![0])));
    writer.tensors = (0..50_000).map(|i| (format!("{i:x}"), Vec::new(), 99, Vec::new())).collect();
    let mut scalars = Writer { alignment: 1, ..Writer::new("x") }.u32("general.alignment", 1);
    scalars.tensors = (0..50_000).map(|i| (format!("{i:x}"), Vec::new(), 0, vec![0; 4])).collect();
    for (name, writer) in [("names", writer), ("scalars", scalars)] {
        let path = folder.join("dense.gguf");
        writer.write(&path);
        let len = std::fs::metadata(&path).unwrap().len() as usize;
        let before = heap::restart();
        assert_eq!(gguf(&path, ReadMode::Mapped).unwrap().len(), 50_000);
        let heap = heap::peak() - before;
        println!("{name:12} {heap} bytes of heap for a file of {len}");
        assert!(heap <= HEAP_PER_BYTE * len + FREE_HEAP, "{name}: {heap} of {len}");
    }
}

#[test]
fn thousands_of_damaged_files_get_an_error_and_little_heap() {
    let folder = tempfile::tempdir().unwrap();
    dense(folder.path());
    let mut total = 0;
    for seed in seeds(folder.path()) {
        write(&seed, &seed.header, seed.len);
        use_up(&seed, ReadMode::Mapped, seed.len).unwrap_or_else(|error| panic!("{}, whole: {error}", seed.name));
        let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
        let (mut accepted, mut said) = (0, std::collections::BTreeSet::new());
        for number in 0..seed.rounds {
            match round(&seed, number, &mut random) {
                Ok(()) => accepted += 1,
                Err(error) => drop(said.insert(error.to_string())),
            }
        }
        println!("{:12} {} rounds, {accepted} accepted, {} different errors", seed.name, seed.rounds, said.len());
        assert!(accepted > 0 && accepted < seed.rounds, "{}: the damage is too mild or too wild to say anything", seed.name);
        assert!(said.len() > 50, "{}: {said:?}", seed.name);
        total += seed.rounds;
    }
    assert!(total >= 20_000);
}
