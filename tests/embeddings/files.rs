//! What lies beside a checkpoint: modules that are computed, and those that are refused by name.

use std::{fs, path::Path};

use super::common::{
    gguf::{GgufOracle, Writer},
    oracle::data,
};
use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    embed::GemmaEmbedder,
    error::WeightError,
    gemma::{GemmaArch, GemmaConfig},
    ir::MaskKind,
    runtime::Device,
};
use serde_json::{Value, json};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).map(drop).unwrap()
        }
    }
}

/// A copy of the checkpoint in which `file` is `content`.
fn with(file: &str, content: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&data("checkpoints/embeddinggemma"), folder.path());
    fs::write(folder.path().join(file), content).unwrap();
    folder
}

#[test]
fn configurations_say_how_far_each_layer_sees() {
    let one = GemmaConfig::from_file(data("checkpoints/embeddinggemma")).unwrap();
    assert_eq!((one.arch, &one.embedding_dense[..], one.embedding_width()), (GemmaArch::Gemma3, &[96, 48][..], 48));
    // sliding_window is 10: `|q - k| < 10 / 2 + 1`.
    assert_eq!((one.layer_attn_options(0).mask, one.layer_attn_options(2).mask), (MaskKind::SymmetricWindow(5), MaskKind::None));
    let odd = GemmaConfig { sliding_window: Some(9), ..one };
    assert_eq!(odd.layer_attn_options(0).mask, MaskKind::SymmetricWindow(4));
    let two = GemmaConfig::from_file(data("checkpoints/embeddinggemma2-text")).unwrap();
    assert_eq!((two.arch, two.embedding_dim, two.embedding_width()), (GemmaArch::EmbeddingGemma2, Some(28), 28));
    assert_eq!((two.layer_attn_options(0).mask, two.layer_attn_options(2).mask), (MaskKind::SymmetricWindow(5), MaskKind::None));
    assert_eq!((two.layer_head_dim(2), two.layer_kv_heads(2), two.layer_k_eq_v(2)), (20, 1, false));
    // A wrapper with zero-padded layer numbers, as the released checkpoint has them.
    let text = |name: &str| fs::read_to_string(data("checkpoints/embeddinggemma2-text").join(name)).unwrap();
    let mut inner: Value = serde_json::from_str(&text("config.json")).unwrap();
    for key in ["global_head_dim", "num_global_key_value_heads", "architectures"] {
        inner.as_object_mut().unwrap().remove(key);
    }
    let full = json!({"head_dim": 20, "num_key_value_heads": 1});
    inner["per_layer_config"] = json!({"02": full, "05": full});
    let wrapper = json!({"model_type": "embedding_gemma2", "text_config": inner, "image_token_id": 7});
    assert_eq!(GemmaConfig::from_json(&wrapper.to_string()).unwrap(), two);
}

#[test]
fn modules_that_are_not_computed_are_refused_by_name() {
    let pooling = |mode: &str| json!({"pooling_mode_mean_tokens": false, mode: true, "include_prompt": true}).to_string();
    let dense = |bias: bool, activation: &str| {
        json!({"in_features": 48, "out_features": 96, "bias": bias, "activation_function": activation}).to_string()
    };
    let modules = |kinds: &[&str]| {
        let module = |(i, kind): (usize, &&str)| {
            let path = if i == 0 { String::new() } else { format!("{i}_{kind}") };
            json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
        };
        json!(kinds.iter().enumerate().map(module).collect::<Vec<_>>()).to_string()
    };
    let identity = "torch.nn.modules.linear.Identity";
    let cases = [
        ("1_Pooling/config.json", pooling("pooling_mode_cls_token"), "pooling_mode_cls_token"),
        ("1_Pooling/config.json", pooling("pooling_mode_lasttoken"), "pooling_mode_lasttoken"),
        ("1_Pooling/config.json", json!({"pooling_mode": "max"}).to_string(), "pooling_mode \"max\""),
        ("1_Pooling/config.json", "{}".into(), "no pooling_mode_mean_tokens"),
        ("1_Pooling/config.json", json!({"pooling_mode": "mean", "include_prompt": false}).to_string(), "include_prompt"),
        ("2_Dense/config.json", dense(true, identity), "bias"),
        ("2_Dense/config.json", dense(false, "torch.nn.modules.activation.Tanh"), "\"Tanh\""),
        ("2_Dense/config.json", json!({"in_features": 48, "out_features": 96, "bias": false}).to_string(), "activation_function"),
        ("modules.json", modules(&["Transformer", "Pooling", "LayerNorm"]), "'LayerNorm'"),
        ("modules.json", modules(&["Transformer", "Normalize"]), "'Normalize'"),
        ("modules.json", modules(&["Transformer"]), "without a Pooling"),
    ];
    for (file, content, says) in cases {
        let folder = with(file, &content);
        let error = GemmaConfig::from_file(folder.path()).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(what) if what.contains(says)), "{file} {content}: {error}");
    }
    let out = json!([{"idx": 0, "path": "", "type": "a.Transformer"}, {"idx": 1, "path": "../1_Pooling", "type": "a.Pooling"}]);
    for (file, content, says) in [
        ("modules.json", out.to_string(), "\"../1_Pooling\""),
        ("modules.json", "{".into(), "modules.json"),
        ("2_Dense/config.json", "[]".into(), "2_Dense"),
    ] {
        let folder = with(file, &content);
        let error = GemmaConfig::from_file(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(says), "{file} {content}: {error}");
    }
    let narrow = json!({"in_features": 40, "out_features": 96, "bias": false, "activation_function": identity}).to_string();
    let error = GemmaConfig::from_file(with("2_Dense/config.json", &narrow).path()).unwrap_err();
    assert!(matches!(&error, Error::Config(text) if text.contains("in_features 40")), "{error}");
    // A dense module whose weights did not come along.
    let folder = with("config.json", &fs::read_to_string(data("checkpoints/embeddinggemma/config.json")).unwrap());
    fs::remove_file(folder.path().join("3_Dense/model.safetensors")).unwrap();
    let error = GemmaEmbedder::from_path(folder.path(), Device::Cpu).unwrap_err();
    assert!(matches!(&error, Error::Weight(WeightError::Missing { name, .. }) if name == "3_Dense.linear.weight"), "{error}");
    // The newer way of saying mean.
    let newer = with("1_Pooling/config.json", &json!({"embedding_dimension": 48, "pooling_mode": "mean"}).to_string());
    assert_eq!(GemmaConfig::from_file(newer.path()).unwrap().embedding_dense, [96, 48]);
    // Weights by their own file find the modules beside it.
    let loader = load_from_path(data("checkpoints/embeddinggemma/model.safetensors")).unwrap();
    assert_eq!(loader.peek("2_Dense.linear.weight").unwrap().shape, [96, 48]);
}

#[test]
fn gguf_files_say_how_they_pool() {
    let oracle = GgufOracle::open("embeddinggemma-s-q4_0");
    let config = GemmaConfig::from_gguf(&oracle.path).unwrap();
    assert_eq!((config.arch, &config.embedding_dense[..]), (GemmaArch::Gemma3, &[128, 64][..]));
    assert_eq!(config.layer_attn_options(0).mask, MaskKind::SymmetricWindow(4));
    let sizes = [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", 64),
        ("feed_forward_length", 128),
        ("attention.head_count", 2),
        ("attention.sliding_window", 8),
    ];
    let file = || {
        let writer = Writer::new("gemma-embedding").f32("gemma-embedding.attention.layer_norm_rms_epsilon", 1e-6);
        let writer = sizes.iter().fold(writer, |w, (key, size)| w.u32(&format!("gemma-embedding.{key}"), *size));
        writer.tensor("token_embd.weight", &[64, 40], 0, &[0; 4 * 64 * 40])
    };
    let read = |writer: Writer| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        writer.write(&path);
        GemmaConfig::from_gguf(&path)
    };
    let bare = read(file()).unwrap();
    assert!(bare.use_bidirectional_attention && bare.embedding_dense.is_empty());
    for (pooling, name) in [(0, "none"), (2, "cls"), (3, "last"), (4, "rank"), (9, "unknown")] {
        let error = read(file().u32("gemma-embedding.pooling_type", pooling)).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(what) if what.contains(name) && what.contains("pooling_type")), "{error}");
    }
    let dense = |dims: &[u64]| file().tensor("dense_2.weight", dims, 0, &vec![0; 4 * dims.iter().product::<u64>() as usize]);
    assert_eq!(read(dense(&[64, 16])).unwrap().embedding_dense, [16]);
    for (writer, says) in [
        (dense(&[32, 16]), "takes 32 numbers"),
        (dense(&[64, 16]).u32("gemma-embedding.dense_2_feat_out", 17), "dense_2_feat_out is 17"),
    ] {
        let error = read(writer).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
