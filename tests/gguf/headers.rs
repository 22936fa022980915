//! Headers of GGUF files that lie, and what they may ask for.

use std::path::Path;

use gemmaflow::{
    Error,
    checkpoint::{GgufLoader, SafetensorsLoader},
    gemma::GemmaConfig,
    text::Tokenizer,
    weights::{FileLimits, ReadMode, ReadOptions, WeightLoader},
};

use crate::common::gguf::{GgufOracle, Writer, string};

fn refused(bytes: &[u8], says: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error = GgufLoader::from_file(&path).unwrap_err();
    assert!(matches!(error, Error::Format { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(says) && text.contains("x.gguf"), "{text}\nexpected {says}");
}

#[test]
fn headers_that_lie_are_refused_by_what_they_say() {
    let good = Writer::new("x").tensor("a", &[4, 2], 0, &[0; 32]).tensor("b", &[32], 2, &[0; 18]);
    let whole = good.bytes();
    let patched = |at: usize, bytes: &[u8]| [&whole[..at], bytes, &whole[at + bytes.len()..]].concat();
    refused(b"", "4 bytes short");
    refused(b"GGML12345678", "is this a GGUF file?");
    refused(&patched(4, &1u32.to_le_bytes()), "version 1");
    refused(&patched(4, &3u32.to_be_bytes()), "big-endian");
    refused(&patched(4, &99u32.to_le_bytes()), "version 99");
    refused(&patched(8, &u64::MAX.to_le_bytes()), "18446744073709551615 tensors");
    refused(&patched(16, &u64::MAX.to_le_bytes()), "metadata keys");
    refused(&patched(8, &90_000u64.to_le_bytes()), "bytes short");
    refused(&patched(24, &(1u64 << 40).to_le_bytes()), "a key of 1099511627776 bytes");
    refused(&whole[..whole.len() - 20], "6 bytes short");
    refused(&whole[..40], "bytes short");

    let (bytes, offsets) = good.bytes_and_offsets();
    let moved = |tensor: usize, to: u64| [&bytes[..offsets[tensor]], &to.to_le_bytes(), &bytes[offsets[tensor] + 8..]].concat();
    refused(&moved(1, 0), "overlaps");
    refused(&moved(1, 7), "expected a multiple of 32");
    refused(&moved(1, 32 << 40), "bytes short");
    refused(&moved(1, u64::MAX - 31), "far outside");

    let tensor = |name: &str, dims: &[u64], ty| Writer::new("x").tensor(name, dims, ty, &[0; 64]).bytes();
    refused(&tensor("a", &[1, 1, 1, 1, 1], 0), "5 dimensions");
    refused(&tensor("a", &[0], 0), "a dimension of 0");
    refused(&tensor("a", &[1 << 32, 1 << 32], 0), "no 64-bit number");
    refused(&tensor("a", &[1 << 62], 0), "no 64-bit number");
    refused(&tensor("a", &[33], 2), "Q4_0 has blocks of 32");
    refused(&tensor(&"a".repeat(300), &[1], 0), "a tensor's name of 300 bytes");
    refused(&good.clone().tensor("a", &[1], 0, &[0; 4]).bytes(), "tensor 'a' twice");
    refused(&Writer { pairs: [good.pairs.clone(), good.pairs.clone()].concat(), ..good.clone() }.bytes(), "twice");
    for alignment in [0, 3, 1 << 30] {
        refused(&good.clone().u32("general.alignment", alignment).bytes(), "expected a power of two");
    }
    refused(&good.clone().text("general.alignment", "32").bytes(), "general.alignment is \"32\" (string)");
    refused(&good.clone().pair("k", 13, vec![0; 8]).bytes(), "value type 13");
}

#[test]
fn arrays_that_lie_are_refused() {
    let with = |ty: u32, value: Vec<u8>| Writer::new("x").pair("k", ty, value).bytes();
    let array = |element: u32, count: u64, rest: &[u8]| [&element.to_le_bytes()[..], &count.to_le_bytes(), rest].concat();
    refused(&with(9, array(4, 1 << 61, &[])), "bytes short");
    refused(&with(9, array(8, u64::MAX, &[])), "bytes short");
    refused(&with(9, array(8, 2, &[string(b"a"), u64::MAX.to_le_bytes().to_vec()].concat())), "bytes short");
    refused(&with(9, array(77, 1, &[0; 8])), "value type 77");
    let deep = |levels: usize| [array(9, 1, &[]).repeat(levels), array(0, 0, &[])].concat();
    refused(&with(9, deep(100_000)), "more than 4 deep");
    // Nested within reason is read, and passed over.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, with(9, deep(3))).unwrap();
    assert!(GgufLoader::from_file(&path).unwrap().is_empty());
}

#[test]
fn a_type_that_is_not_ours_is_refused_when_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    Writer::new("x").tensor("a", &[256], 16, &[0; 66]).tensor("b", &[4], 0, &[0; 16]).write(&path);
    let mut loader = GgufLoader::from_file(&path).unwrap();
    assert_eq!(loader.take("b").unwrap().len(), 4);
    let text = loader.take("a").unwrap_err().to_string();
    assert!(text.contains("'a'") && text.contains("number 16") && text.contains("IQ4_XS"), "{text}");
}

/// A limit that is just enough lets a file through, one less names what is too much.
fn bounded(path: &Path, limits: FileLimits, less: FileLimits, says: &str) {
    let open = |limits| GgufLoader::from_file_with(path, ReadOptions { limits, ..ReadOptions::default() });
    assert!(open(limits).is_ok(), "{says}");
    let text = open(less).unwrap_err().to_string();
    assert!(text.contains(says), "{text}\nexpected {says}");
}

#[test]
fn what_a_header_may_ask_for_is_the_callers_to_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let writer = Writer::new("gemma").text("a.key", "x").tensor("tensor", &[4], 0, &[0; 16]).u32("general.alignment", 1 << 21);
    Writer { alignment: 1 << 21, ..writer }.write(&path);
    assert!(GgufLoader::from_file(&path).unwrap_err().to_string().contains("up to 1048576"));
    let limits =
        FileLimits { alignment: 1 << 21, tensors: 1, metadata_keys: 3, key_bytes: 20, name_bytes: 6, ..FileLimits::default() };
    bounded(&path, limits, FileLimits { tensors: 0, ..limits }, "1 tensors (at most 0)");
    bounded(&path, limits, FileLimits { metadata_keys: 2, ..limits }, "3 metadata keys (at most 2)");
    bounded(&path, limits, FileLimits { key_bytes: 19, ..limits }, "a key of 20 bytes (at most 19)");
    bounded(&path, limits, FileLimits { name_bytes: 5, ..limits }, "a tensor's name of 6 bytes (at most 5)");
    // Every limit as far as it goes: a file is still held to its own length.
    let most = u64::MAX;
    let none =
        FileLimits { header_bytes: most, tensors: most, metadata_keys: most, key_bytes: most, name_bytes: most, alignment: most };
    let whole = std::fs::read(&path).unwrap();
    for at in [8, 16, 24] {
        std::fs::write(&path, [&whole[..at], &(u64::MAX - 7).to_le_bytes(), &whole[at + 8..]].concat()).unwrap();
        let error = GgufLoader::from_file_with(&path, ReadOptions { limits: none, ..ReadOptions::default() }).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
    }

    let oracle = GgufOracle::open("gemma2-s-q4_0-pure").path;
    let few = FileLimits { metadata_keys: 1, ..FileLimits::default() };
    for text in [
        GemmaConfig::from_gguf_with(&oracle, few).unwrap_err().to_string(),
        Tokenizer::from_gguf_with(&oracle, few).unwrap_err().to_string(),
    ] {
        assert!(text.contains("metadata keys (at most 1)"), "{text}");
    }
    let demo = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"));
    for (limits, says) in [
        (FileLimits { tensors: 3, ..FileLimits::default() }, "more than 3 tensors"),
        (FileLimits { header_bytes: 100, ..FileLimits::default() }, "(at most 100)"),
    ] {
        let text =
            SafetensorsLoader::open_with(demo, ReadOptions { mode: ReadMode::Positioned, limits }).unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
}

/// A copy of a file of one type whose projections of query, key and value are one matrix.
fn fused(oracle: &GgufOracle, layers: usize, path: &Path) {
    let mut loader = GgufLoader::from_file(&oracle.path).unwrap();
    let config = GemmaConfig::from_gguf(&oracle.path).unwrap();
    let mut writer = Writer::new("gemma2")
        .u32("gemma2.attention.head_count", config.num_attention_heads as u32)
        .u32("gemma2.attention.head_count_kv", config.num_key_value_heads as u32);
    for layer in 0..layers {
        let (mut bytes, mut rows) = (Vec::new(), 0);
        for part in ["q", "k", "v"] {
            let tensor = loader.take(&format!("layers.{layer}.self_attn.{part}_proj.weight")).unwrap();
            let length = tensor.dtype().row_bytes(tensor.shape()[1]).unwrap() as usize * tensor.shape()[0];
            let start = bytes.len();
            bytes.resize(start + length, 0);
            tensor.read_bytes(0, &mut bytes[start..]).unwrap();
            rows += tensor.shape()[0] as u64;
        }
        writer = writer.tensor(&format!("blk.{layer}.attn_qkv.weight"), &[config.hidden_size as u64, rows], 2, &bytes);
    }
    writer.write(path);
}

#[test]
fn fused_projections_come_as_three() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let oracle = GgufOracle::open("gemma2-s-q4_0-pure");
    fused(&oracle, 2, &path);
    let (mut whole, mut loader) = (GgufLoader::from_file(&oracle.path).unwrap(), GgufLoader::from_file(&path).unwrap());
    let keys = loader.remaining_keys();
    assert_eq!(keys.len(), 6, "{keys:?}");
    for key in keys {
        let (found, expected) = (loader.take(&key).unwrap(), whole.take(&key).unwrap());
        assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "{key}");
        assert_eq!(found.to_f32().unwrap(), expected.to_f32().unwrap(), "{key}");
    }
    let heads = |query, key| {
        let writer = Writer::new("gemma2").u32("gemma2.attention.head_count", query).u32("gemma2.attention.head_count_kv", key);
        writer.tensor("blk.0.attn_qkv.weight", &[32, 9], 0, &[0; 4 * 32 * 9]).bytes()
    };
    refused(&heads(3, 1), "has 9 rows, expected as many as 3 + 2 · 1 heads have");
    refused(&heads(0, 0), "has 9 rows");
    refused(&heads(u32::MAX, u32::MAX), "has 9 rows");
}
