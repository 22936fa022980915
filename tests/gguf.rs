//! GGUF files: what llama.cpp's tools wrote is read to the bit, and what cannot be read is refused in words.

mod common;
#[path = "gguf/headers.rs"]
mod headers;

use std::path::Path;

use common::{
    gguf::{GgufOracle, Writer, key, sum},
    oracle::data,
};
use gemmaflow::{
    Error, Result,
    checkpoint::{GgufLoader, load_from_path},
    gemma::{BidirectionalPictures, GemmaArch, GemmaConfig, LayerKind, RopeScaling},
    weights::{ReadMode, WeightLoader},
};
use safetensors::SafeTensors;
use serde_json::Value;

/// The stored values of a weight: a norm comes with 1 less.
fn stored(loader: &mut GgufLoader, key: &str, less_one: bool) -> Vec<f32> {
    let mut values = loader.take(key).unwrap_or_else(|e| panic!("{e}")).to_f32().unwrap();
    if less_one {
        values.iter_mut().for_each(|x| *x += 1.0);
    }
    values
}

#[test]
fn tensors_are_widened_to_the_bit() {
    for oracle in GgufOracle::all() {
        for mode in [ReadMode::Mapped, ReadMode::Positioned] {
            let mut loader = GgufLoader::from_file_with(&oracle.path, mode).unwrap().include_mtp(true);
            assert_eq!(loader.arch_hint(), Some(oracle.architecture()));
            for (name, expected) in oracle.info["tensors"].as_object().unwrap() {
                let (key, less_one) = key(oracle.architecture(), name);
                let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
                if let ([count, rows, columns], true) = (&shape[..], name.starts_with("altup")) {
                    // A stack comes as its matrices.
                    let count = *count;
                    let rows = *rows;
                    let columns = *columns;
                    let stem = if name.contains("unembd") { "altup_unembed_projections" } else { "altup_projections" };
                    let one = |j: usize| {
                        let key = format!("{stem}.{j}.weight");
                        assert_eq!(loader.peek(&key).unwrap().shape, [rows, columns], "{} {name}", oracle.name);
                        stored(&mut loader, &key, false)
                    };
                    let values = (0..count).flat_map(one).collect::<Vec<f32>>();
                    assert_eq!(sum(&values), expected["sha256"].as_str().unwrap(), "{} {name}", oracle.name);
                    continue;
                }
                assert_eq!(loader.peek(&key).unwrap().shape, shape, "{} {name}", oracle.name);
                let values = stored(&mut loader, &key, less_one);
                assert_eq!(sum(&values), expected["sha256"].as_str().unwrap(), "{} {name}", oracle.name);
            }
            assert!(loader.is_empty(), "{}: {:?}", oracle.name, loader.remaining_keys());
            println!("{:24} {mode:?}: {} tensors to the bit", oracle.name, oracle.info["tensors"].as_object().unwrap().len());
        }
    }
}

/// Single tensors of the formats that no whole file in the tree has, under the formats' names.
fn blocks() -> (Writer, serde_json::Map<String, Value>) {
    let bytes = std::fs::read(data("gguf/blocks.safetensors")).unwrap();
    let info: Value = serde_json::from_slice(&std::fs::read(data("gguf/blocks.json")).unwrap()).unwrap();
    let info = info.as_object().unwrap().clone();
    let mut writer = Writer::new("other");
    for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let dims: Vec<u64> = info[&name]["shape"].as_array().unwrap().iter().rev().map(|d| d.as_u64().unwrap()).collect();
        writer = writer.tensor(&name, &dims, info[&name]["ggml_type"].as_u64().unwrap() as u32, tensor.data());
    }
    (writer, info)
}

#[test]
fn every_format_is_widened_to_the_bit_in_any_version_and_alignment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks.gguf");
    let (writer, info) = blocks();
    for (version, alignment) in [(3, 32), (2, 32), (3, 4096)] {
        let writer = Writer { version, alignment, ..writer.clone() }.u32("general.alignment", alignment as u32);
        writer.write(&path);
        let mut loader = GgufLoader::from_file(&path).unwrap();
        for (name, expected) in &info {
            let found = loader.peek(name).unwrap().dtype;
            assert!(found.name().eq_ignore_ascii_case(name), "{name} is {found}");
            assert_eq!(sum(&stored(&mut loader, name, false)), expected["sha256"].as_str().unwrap(), "{name}");
        }
    }
    // Together with the whole files, every format is covered.
    let types = |oracle: GgufOracle| oracle.info["types"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let covered: std::collections::BTreeSet<String> =
        GgufOracle::all().into_iter().flat_map(types).chain(info.keys().cloned()).collect();
    assert!(covered.len() >= 16, "{covered:?}");
}

#[test]
fn any_part_of_a_packed_tensor_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks.gguf");
    let (writer, info) = blocks();
    writer.write(&path);
    for name in info.keys().filter(|name| !name.ends_with("F16")) {
        let mut loader = GgufLoader::from_file(&path).unwrap();
        let tensor = loader.take(name).unwrap();
        let all = tensor.to_f32().unwrap();
        for (start, len) in [(0, 1), (3, 9), (255, 1700), (all.len() - 5, 5), (4, 0), (256, all.len() - 256)] {
            let mut part = vec![0.0; len];
            tensor.read_f32(start, &mut part).unwrap();
            assert!(part == all[start..start + len], "{name} from {start}, {len} elements");
        }
        let mut loader = GgufLoader::from_file(&path).unwrap();
        let text = loader.take_transposed(name).unwrap_err().to_string();
        assert!(text.contains(&format!("'{name}'")) && text.contains("cannot be transposed"), "{text}");
        assert_eq!(loader.take(name).unwrap().shape(), tensor.shape(), "{name}: what cannot be taken stays");
    }
}

#[test]
fn drafting_tensors_are_hidden_until_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    // A model with a drafter's tensors in its own file.
    let tensors = ["output_norm.weight", "nextn.pre_projection.weight", "nextn.post_projection.weight"];
    let writer = tensors.iter().fold(Writer::new("gemma4"), |writer, name| writer.tensor(name, &[2], 0, &[0; 8]));
    writer.write(&path);
    let keys = |loader: &GgufLoader| loader.remaining_keys().iter().filter(|key| key.starts_with("nextn.")).count();
    let loader = GgufLoader::from_file(&path).unwrap();
    let hidden = loader.len();
    assert_eq!(keys(&loader), 0);
    let loader = loader.include_mtp(true);
    assert_eq!((keys(&loader), loader.len()), (2, hidden + 2));
    assert_eq!(loader.include_mtp(false).len(), hidden);
    // In a drafter's file they are the model.
    let loader = GgufLoader::from_file(data("gguf/gemma4-assistant-q4_1/model.gguf")).unwrap();
    assert!(loader.peek("pre_projection.weight").is_ok() && loader.peek("post_projection.weight").is_ok());
}

#[test]
fn a_file_holds_the_configuration_it_was_made_from() {
    for oracle in GgufOracle::all() {
        let found = GemmaConfig::from_gguf(&oracle.path);
        if oracle.architecture() == "gemma4-assistant" {
            let error = found.unwrap_err();
            assert!(matches!(error, Error::Unsupported(_)), "{error}");
            let text = error.to_string();
            assert!(text.contains(oracle.architecture()) && text.contains("model.gguf"), "{text}");
            continue;
        }
        let found = found.unwrap();
        let mut expected = GemmaConfig::from_json(&oracle.info["hf_config"].to_string()).unwrap();
        // The converter writes the end of a turn, token 107, into every file of Gemma 1.
        if found.arch == GemmaArch::Gemma {
            expected.eos_token_ids.push(107);
        }
        if expected.use_bidirectional_attention {
            // Hugging Face has them in files beside config.json.
            expected.embedding_dense = vec![128, 64];
        }
        // No key of a file says it. Published models without per-layer inputs (26B-A4B, 31B) have "vision" in config.json.
        if found.arch == GemmaArch::Gemma4 && found.per_layer_input.is_none() {
            expected.bidirectional_pictures = BidirectionalPictures::SlidingLayers;
        }
        assert_eq!(found, expected, "{}", oracle.name);
    }
}

/// A file with the metadata of a small Gemma.
fn model(architecture: &str) -> Writer {
    let sizes = [
        ("block_count", 6),
        ("context_length", 512),
        ("embedding_length", 64),
        ("feed_forward_length", 128),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ];
    let writer = Writer::new(architecture).f32(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-6);
    let mut writer = sizes.iter().fold(writer, |w, (key, size)| w.u32(&format!("{architecture}.{key}"), *size));
    if !["gemma", "gemma2"].contains(&architecture) {
        writer = writer.u32(&format!("{architecture}.attention.sliding_window"), 0);
    }
    if architecture == "gemma4" {
        let divisors: Vec<u8> = [1.0, 1.0, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30f32].iter().flat_map(|x| x.to_le_bytes()).collect();
        writer = writer.f32("gemma4.final_logit_softcapping", 30.0).tensor("rope_freqs.weight", &[8], 0, &divisors);
    }
    writer.tensor("token_embd.weight", &[64, 40], 0, &[0; 4 * 64 * 40])
}

/// The file of a Gemma 4 with other divisors.
fn with_divisors(count: u64, bytes: &[u8]) -> Writer {
    let mut writer = model("gemma4");
    writer.tensors.retain(|(name, ..)| name != "rope_freqs.weight");
    writer.tensor("rope_freqs.weight", &[count], 0, bytes)
}

fn config(writer: &Writer) -> Result<GemmaConfig> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    writer.write(&path);
    GemmaConfig::from_gguf(&path)
}

#[test]
fn what_a_file_leaves_out_is_what_its_family_has() {
    let g1 = config(&model("gemma")).unwrap();
    assert_eq!((g1.head_dim, g1.vocab_size, g1.query_pre_attn_scalar, g1.rope_full.theta), (16, 40, None, 1e4));
    let g2 = config(&model("gemma2")).unwrap();
    assert_eq!((g2.sliding_window, g2.attn_logit_softcapping, g2.final_logit_softcapping), (Some(4096), Some(50.0), Some(30.0)));
    assert_eq!(g2.layer_types[..3], [LayerKind::Sliding, LayerKind::Full, LayerKind::Sliding]);
    let g3 = config(&model("gemma3")).unwrap();
    assert_eq!((g3.sliding_window, g3.final_logit_softcapping, g3.layer_types[0]), (None, None, LayerKind::Full));
    assert_eq!((g3.query_pre_attn_scalar, g3.tie_word_embeddings), (Some(16.0), true));
    let g4 = config(&model("gemma4")).unwrap();
    assert_eq!((g4.query_pre_attn_scalar, g4.final_logit_softcapping), (Some(1.0), Some(30.0)));
    // The largest models have another score scale, and the file does not say so.
    let wide = |arch: &str, layers| {
        config(&model(arch).u32(&format!("{arch}.block_count"), layers).u32(&format!("{arch}.attention.key_length"), 8))
    };
    assert_eq!(wide("gemma2", 46).unwrap().query_pre_attn_scalar, Some(16.0));
    assert_eq!(wide("gemma2", 45).unwrap().query_pre_attn_scalar, Some(8.0));
    assert_eq!(wide("gemma3", 62).unwrap().query_pre_attn_scalar, Some(16.0));
}

#[test]
fn keys_that_only_some_files_have_are_followed() {
    let g3 = || model("gemma3").u32("gemma3.attention.sliding_window", 8);
    let pattern: Vec<Vec<u8>> = [1, 0, 1, 1, 0, 1].iter().map(|sliding| vec![*sliding]).collect();
    let found = config(&g3().array("gemma3.attention.sliding_window_pattern", 7, &pattern)).unwrap();
    assert_eq!(found.layer_types.iter().map(|k| u8::from(*k == LayerKind::Sliding)).collect::<Vec<_>>(), pattern.concat());
    let found = config(&g3().u32("gemma3.attention.sliding_window_pattern", 3)).unwrap();
    assert_eq!(found.layer_types.iter().filter(|k| **k == LayerKind::Full).count(), 2);
    let found = config(&g3().text("gemma3.rope.scaling.type", "linear").f32("gemma3.rope.scaling.factor", 8.0)).unwrap();
    assert_eq!((found.rope_full.scaling, found.rope_sliding.scaling), (RopeScaling::Linear { factor: 8.0 }, RopeScaling::None));
    let untied = g3().tensor("output.weight", &[64, 40], 0, &[0; 4 * 64 * 40]);
    assert!(!config(&untied).unwrap().tie_word_embeddings);
    let same: Vec<Vec<u8>> = vec![2u32.to_le_bytes().to_vec(); 6];
    assert_eq!(config(&g3().array("gemma3.attention.head_count_kv", 4, &same)).unwrap().num_key_value_heads, 2);
}

#[test]
fn configurations_that_cannot_be_computed_name_the_key() {
    let mixed: Vec<Vec<u8>> = [1u32, 2].map(|n| n.to_le_bytes().to_vec()).to_vec();
    let flags = |n| vec![vec![1]; n];
    let g3 = || model("gemma3").u32("gemma3.attention.sliding_window", 8);
    let experts = |count, used| {
        let writer = model("gemma4").u32("gemma4.expert_count", count).u32("gemma4.expert_used_count", used);
        writer.u32("gemma4.expert_feed_forward_length", 16)
    };
    let cases = [
        (model("llama"), "\"llama\""),
        (model("gemma-embedding").u32("gemma-embedding.pooling_type", 2), "gemma-embedding.pooling_type 2 (cls"),
        (model("gemma3").array("gemma3.feed_forward_length", 4, &mixed), "feed_forward_length has 2 entries"),
        (model("gemma4").u32("gemma4.expert_count", 8), "gemma4.expert_used_count is missing"),
        (experts(8, 9), "top_k_experts is 9"),
        (experts(4096, 8), "num_experts is 4096"),
        (
            model("gemma3")
                .u32("gemma3.expert_count", 8)
                .u32("gemma3.expert_used_count", 2)
                .u32("gemma3.expert_feed_forward_length", 16),
            "num_experts is 8",
        ),
        (with_divisors(8, &[0; 32]), "rope_freqs.weight"),
        (with_divisors(1 << 13, &[0; 4 << 13]), "rope_freqs.weight"),
        (
            model("gemma4").u32("gemma4.attention.key_length_swa", 12).u32("gemma4.rope.dimension_count_swa", 8),
            "dimension_count_swa is 8",
        ),
        (model("gemma4").u32("gemma4.attention.shared_kv_layers", 6), "num_kv_shared_layers is 6"),
        (model("gemma4").u32("gemma4.embedding_length_per_layer_input", 8), "vocab_size_per_layer_input"),
        (model("gemma3").text("gemma3.block_count", "six"), "gemma3.block_count is \"six\" (string)"),
        (model("gemma3").u32("gemma3.block_count", 4_000_000_000), "block_count is 4000000000"),
        (model("gemma3").u32("gemma3.attention.head_count", 0), "num_attention_heads is 0"),
        (model("gemma3").u32("gemma3.attention.value_length", 8), "value_length 8"),
        (model("gemma3").u32("gemma3.rope.dimension_count", 8), "dimension_count is 8"),
        (model("gemma3").text("gemma3.rope.scaling.type", "yarn"), "\"yarn\""),
        (model("gemma3").f32("gemma3.attention.layer_norm_rms_epsilon", f32::NAN), "rms_norm_eps is NaN"),
        (model("gemma3").tensor("rope_freqs.weight", &[8], 0, &[0; 32]), "rope_freqs.weight"),
        (g3().array("gemma3.attention.sliding_window_pattern", 7, &flags(5)), "layer_types has 5 entries"),
        (g3().u32("gemma3.attention.sliding_window_pattern", 0), "sliding_window_pattern is 0"),
        (g3().array("gemma3.attention.sliding_window_pattern", 7, &vec![vec![7]; 6]), "sliding_window_pattern"),
        (Writer { pairs: Vec::new(), ..model("gemma3") }, "general.architecture is missing"),
        (Writer { tensors: Vec::new(), ..model("gemma3") }, "token_embd.weight"),
    ];
    for (writer, says) in cases {
        let text = config(&writer).unwrap_err().to_string();
        assert!(text.contains(says) && text.contains("model.gguf"), "{text}\nexpected {says}");
    }
    let mut gone = model("gemma3");
    gone.pairs.retain(|(key, _, _)| key != "gemma3.context_length");
    assert!(config(&gone).unwrap_err().to_string().contains("gemma3.context_length is missing"));
}

/// Gate and up projections of experts may be two stacks: what is read is the one stack that other files have.
#[test]
fn experts_of_two_stacks_are_the_experts_of_one() {
    let oracle = GgufOracle::open("gemma4-moe-s-q8_0");
    let key = "layers.1.experts.gate_up_proj";
    let whole = GgufLoader::from_file(&oracle.path).unwrap().take(key).unwrap();
    let [experts, rows, columns] = whole.shape().try_into().unwrap();
    let mut bytes = vec![0; whole.byte_len()];
    whole.read_bytes(0, &mut bytes).unwrap();
    let half = |which: usize| bytes.chunks(bytes.len() / experts / 2).skip(which).step_by(2).collect::<Vec<_>>().concat();
    let dims = [columns as u64, rows as u64 / 2, experts as u64];
    let stack =
        |writer: Writer, name: &str, which| writer.tensor(&format!("blk.1.ffn_{name}_exps.weight"), &dims, 8, &half(which));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two.gguf");
    let open = |writer: Writer| {
        writer.write(&path);
        GgufLoader::from_file(&path)
    };
    let gate = || stack(model("gemma4"), "gate", 0);
    let mut loader = open(stack(gate(), "up", 1)).unwrap();
    assert_eq!(loader.remaining_keys(), ["embed_tokens.weight", key, "rope_freqs.weight"]);
    let joined = loader.take(key).unwrap();
    assert_eq!((joined.dtype(), joined.shape()), (whole.dtype(), whole.shape()));
    for (start, len) in [(0, bytes.len()), (1, 33), (bytes.len() / 16 - 5, 10), (bytes.len() / 8 - 1, 200), (bytes.len() - 1, 1)]
    {
        let mut part = vec![0; len];
        joined.read_bytes(start, &mut part).unwrap();
        assert!(part == bytes[start..start + len], "{start} {len}");
    }
    let refused = |writer: Writer, says: &str| {
        let text = open(writer).unwrap_err().to_string();
        assert!(text.contains(says) && text.contains("two.gguf"), "{text}");
    };
    refused(gate(), "no tensor 'blk.1.ffn_up_exps.weight'");
    refused(gate().tensor("blk.1.ffn_up_exps.weight", &[32, 2], 0, &[0; 256]), "no two stacks of one format");
    let both = stack(gate(), "up", 1).tensor("blk.1.ffn_gate_up_exps.weight", &[32, 2], 0, &[0; 256]);
    refused(both, "already a weight 'layers.1.experts.gate_up_proj'");
}

/// An oracle's tensors, copied into parts.
fn split(oracle: &GgufOracle, folder: &Path, parts: usize) -> Vec<std::path::PathBuf> {
    let mut loader = GgufLoader::from_file(&oracle.path).unwrap();
    let keys = loader.remaining_keys();
    let total = keys.len() as i32;
    let pieces = keys.chunks(keys.len().div_ceil(parts)).enumerate();
    let write = |(i, keys): (usize, &[String])| {
        let mut writer = Writer::new("parts")
            .pair("split.no", 2, (i as u16).to_le_bytes().to_vec())
            .pair("split.count", 2, (parts as u16).to_le_bytes().to_vec())
            .pair("split.tensors.count", 5, total.to_le_bytes().to_vec());
        for key in keys {
            let tensor = loader.take(key).unwrap();
            let bytes: Vec<u8> = tensor.to_f32().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
            let dims: Vec<u64> = tensor.shape().iter().rev().map(|d| *d as u64).collect();
            writer = writer.tensor(key, &dims, 0, &bytes);
        }
        let path = folder.join(format!("m-{:05}-of-{parts:05}.gguf", i + 1));
        writer.write(&path);
        path
    };
    pieces.map(write).collect()
}

#[test]
fn parts_are_found_and_checked() {
    let oracle = GgufOracle::open("gemma2-s-q4_0-pure");
    let folder = tempfile::tempdir().unwrap();
    let parts = split(&oracle, folder.path(), 3);
    let mut whole = GgufLoader::from_file(&oracle.path).unwrap();
    let mut loader = load_from_path(&parts[0]).unwrap();
    assert_eq!(loader.remaining_keys(), whole.remaining_keys());
    for key in whole.remaining_keys() {
        assert_eq!(loader.take(&key).unwrap().to_f32().unwrap(), whole.take(&key).unwrap().to_f32().unwrap(), "{key}");
    }
    let refused = |path: &Path| GgufLoader::from_file(path).unwrap_err().to_string();
    assert!(refused(&parts[1]).contains("part 2 of 3; open m-00001-of-00003.gguf"), "{}", refused(&parts[1]));
    let renamed = folder.path().join("model.gguf");
    std::fs::copy(&parts[0], &renamed).unwrap();
    assert!(refused(&renamed).contains("NAME-00001-of-00003.gguf"), "{}", refused(&renamed));
    // Another model's part, the same part twice, a part that is gone.
    let third = std::fs::read(&parts[2]).unwrap();
    std::fs::copy(&parts[1], &parts[2]).unwrap();
    assert!(refused(&parts[0]).contains("split.no 1"), "{}", refused(&parts[0]));
    std::fs::write(&parts[2], &third[..third.len() - 100]).unwrap();
    assert!(refused(&parts[0]).contains("bytes short"), "{}", refused(&parts[0]));
    std::fs::remove_file(&parts[2]).unwrap();
    assert!(matches!(GgufLoader::from_file(&parts[0]), Err(Error::Io { path, .. }) if path == parts[2]));
    Writer::new("parts").u32("split.no", 2).u32("split.count", 3).write(&parts[2]);
    assert!(refused(&parts[0]).contains("split.tensors.count None"), "{}", refused(&parts[0]));
    Writer::new("parts").u32("split.no", 2).u32("split.count", 3).u32("split.tensors.count", 45).write(&parts[2]);
    let few = refused(&parts[0]);
    assert!(few.contains("split.tensors.count"), "{few}");
}
