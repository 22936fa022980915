//! Keys that are missing, spelt otherwise, or known to nobody here: against transformers' classes and logits
//! (tests/data/keys/make_keys.py), and against files that say the same in llama.cpp's spelling.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use gemmaflow::{
    Error, Result,
    checkpoint::load_from_path,
    gemma::{GemmaArch, GemmaConfig, LayerKind, PerLayerInput, RopeScaling},
    generate::{GemmaGenerator, GeneratorOptions},
    ir::MaskKind,
    runtime::Device,
};
use serde_json::{Value, json};
use tracing::{
    Event, Level, Metadata,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use super::common::{
    gguf::{GgufOracle, Writer},
    oracle::{data, gate, worst},
};

/// The warnings of one thread, each as one text.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

struct Texts<'a>(&'a mut String);

impl Visit for Texts<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = String::new();
        event.record(&mut Texts(&mut text));
        self.0.lock().unwrap().push(text);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What `work` gives, and the warnings that it told.
fn told<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let seen = Warnings::default();
    let result = tracing::subscriber::with_default(seen.clone(), work);
    let warnings = seen.0.lock().unwrap().clone();
    (result, warnings)
}

fn known(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data("keys").join(file)).unwrap()).unwrap()
}

fn bare(model_type: &str, extra: Value) -> Result<GemmaConfig> {
    let mut config = json!({"model_type": model_type});
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    GemmaConfig::from_json(&config.to_string())
}

/// One table as transformers writes it.
fn table(rope: &gemmaflow::gemma::RopeConfig) -> Value {
    let mut table = json!({"rope_type": "default", "rope_theta": f64::from(rope.theta)});
    if let RopeScaling::Proportional { partial_rotary_factor, factor: 1.0 } = rope.scaling {
        table["rope_type"] = json!("proportional");
        table["partial_rotary_factor"] = json!(f64::from(partial_rotary_factor));
    } else {
        assert_eq!(rope.scaling, RopeScaling::None);
    }
    table
}

#[test]
fn absent_keys_are_what_the_classes_of_transformers_have() {
    let all = known("defaults.json");
    for (family, class) in all.as_object().unwrap().iter().filter(|(_, class)| class.is_object()) {
        let config = bare(family, json!({})).unwrap();
        let sizes = [
            ("vocab_size", config.vocab_size),
            ("hidden_size", config.hidden_size),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", config.num_attention_heads),
            ("num_key_value_heads", config.num_key_value_heads),
            ("head_dim", config.head_dim),
            ("max_position_embeddings", config.max_position_embeddings),
            ("num_kv_shared_layers", config.num_kv_shared_layers),
            ("hidden_size_per_layer_input", config.per_layer_input.map_or(0, |input| input.hidden_size)),
            ("altup_num_inputs", config.altup.map_or(0, |altup| altup.num_inputs)),
            ("altup_active_idx", config.altup.map_or(0, |altup| altup.active_idx)),
            ("laurel_rank", config.laurel_rank.unwrap_or(0)),
            ("embedding_dim", config.embedding_dim.unwrap_or(0)),
        ];
        let mut compared = 0;
        for (key, found) in sizes {
            if let Some(expected) = class.get(key) {
                assert_eq!(json!(found), *expected, "{family} {key}");
                compared += 1;
            }
        }
        assert!(compared >= 7, "{family}: only {compared}");
        let numbers = [
            ("query_pre_attn_scalar", config.query_pre_attn_scalar),
            ("final_logit_softcapping", config.final_logit_softcapping),
            ("attn_logit_softcapping", config.attn_logit_softcapping),
        ];
        for (key, found) in numbers.into_iter().filter(|(key, _)| class.get(key).is_some()) {
            assert_eq!(found, class[key].as_f64().map(|x| x as f32), "{family} {key}");
        }
        assert_eq!(config.rms_norm_eps, class["rms_norm_eps"].as_f64().unwrap() as f32);
        if config.arch != GemmaArch::Gemma {
            assert_eq!(json!(config.sliding_window), class["sliding_window"], "{family}");
            let names = config.layer_types.iter().map(|kind| match kind {
                LayerKind::Full => "full_attention",
                LayerKind::Sliding => "sliding_attention",
            });
            assert_eq!(json!(names.collect::<Vec<_>>()), class["layer_types"], "{family}");
        }
        let rope = &class["rope_parameters"];
        match rope.get("full_attention") {
            Some(full) => {
                assert_eq!(
                    (table(&config.rope_full), table(&config.rope_sliding)),
                    (full.clone(), rope["sliding_attention"].clone())
                )
            }
            None => assert_eq!((table(&config.rope_full), config.rope_sliding), (rope.clone(), config.rope_full), "{family}"),
        }
        let ids = [Some(config.eos_token_ids[0]), config.bos_token_id, config.pad_token_id];
        assert_eq!(json!(ids), json!([class["eos_token_id"], class["bos_token_id"], class["pad_token_id"]]), "{family}");
    }
}

#[test]
fn changed_configurations_compute_what_transformers_does() {
    for (name, question) in known("logits.json").as_object().unwrap() {
        let folder = data("checkpoints").join(question["checkpoint"].as_str().unwrap());
        let mut config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let keys = config.as_object_mut().unwrap();
        for key in question["without"].as_array().unwrap() {
            keys.remove(key.as_str().unwrap());
        }
        keys.extend(question["more"].as_object().unwrap().clone());
        let config = GemmaConfig::from_json(&config.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (gate, vocab) = (gate(config.arch), config.vocab_size);
        let tokens: Vec<u32> = serde_json::from_value(question["tokens"].clone()).unwrap();
        let expected: Vec<f32> = serde_json::from_value(question["logits"].clone()).unwrap();
        let (mut loader, options) = (load_from_path(&folder).unwrap(), GeneratorOptions::default());
        let mut generator = GemmaGenerator::with_options(config, loader.as_mut(), Device::Cpu, options).unwrap();
        let logits = generator.recompute_all_logits(&tokens).unwrap();
        let error = worst(&logits[logits.len() - vocab..], &expected);
        println!("{name:44} {error:.1e}");
        assert!(error < gate, "{name}: {error}");
    }
}

#[test]
fn keys_that_nothing_reads_are_told_once_by_name_or_refused() {
    let junk = json!({"attn_implementation": "eager", "pretraining_tp": 1, "model_max_length": 2048, "auto_map": {},
        "num_logits_to_keep": 0, "gradient_checkpointing": false, "attention_probs_dropout_prob": 0.0, "resid_pdrop": 0.1,
        "wandb_project": "x", "trainer_version": 3, "converted_from": "y", "max_seq_length": 4096, "use_flash_attention_2": true,
        "num_experts": 0, "use_bias": false, "is_causal": true, "boi_token_index": 5, "weight_decay": 0.1, "merge_method": "slerp",
        "transformers_version": "4.51.0", "torch_dtype": "bfloat16", "rope_scaling": null, "use_cache": false});
    for family in ["gemma", "gemma2", "gemma3_text"] {
        let (config, warnings) = told(|| bare(family, junk.clone()));
        assert_eq!(config.unwrap(), bare(family, json!({})).unwrap());
        let [warning] = &warnings[..] else { panic!("{family}: {warnings:?}") };
        for key in ["attn_implementation", "pretraining_tp", "model_max_length", "wandb_project"] {
            assert!(warning.contains(key), "{warning}");
        }
        assert!(!warning.contains("torch_dtype"), "what transformers writes itself is no news: {warning}");
    }
    let (_, none) = told(|| bare("gemma3_text", json!({"torch_dtype": "bfloat16", "use_cache": true})).unwrap());
    assert!(none.is_empty(), "{none:?}");
    for (family, key, value) in [
        ("gemma2", "logit_scale", json!(0.0625)),
        ("gemma2", "embedding_multiplier", json!(12.0)),
        ("gemma3_text", "use_qk_norm", json!(false)),
        ("gemma3_text", "partial_rotary_factor", json!(0.5)),
        ("gemma3_text", "num_experts", json!(8)),
        ("gemma3_text", "attention_sinks", json!(4)),
        ("gemma3_text", "is_causal", json!(false)),
        ("gemma3_text", "rope_global_base_freq", json!(5e5)),
        ("gemma3_text", "scaleEmbedding", json!(false)),
        ("gemma", "attn_logit_softcapping", json!(50.0)),
        ("gemma2", "attention_types", json!(["local", "global"])),
        ("gemma4_text", "rope_theta", json!(5e5)),
        ("gemma4_text", "rope_scaling", json!({"rope_type": "linear", "factor": 8.0})),
        ("gemma4_text", "sliding_window_pattern", json!(5)),
        ("gemma4_text", "rope_parameters", json!({"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})),
        ("gemma4_text", "num_kv_shared_layers", json!(null)),
        ("gemma3n_text", "sliding_window_pattern", json!(4)),
    ] {
        let error = bare(family, json!({key: value})).unwrap_err();
        assert!(matches!(&error, Error::Config(text) if text.contains(key)), "{family} {key}: {error}");
    }
    assert!(bare("gemma3_text", json!({"rope_global_base_freq": 1e6, "bos_token_id": [2]})).is_ok());
}

const KINDS: [(&str, u32); 6] = [
    ("block_count", 6),
    ("context_length", 131_072),
    ("embedding_length", 64),
    ("feed_forward_length", 128),
    ("attention.head_count", 4),
    ("attention.head_count_kv", 2),
];

/// A file with the sizes of a small Gemma, tensors that show its heads, and nothing else.
fn file(architecture: &str) -> Writer {
    let writer = Writer::new(architecture);
    let writer = KINDS.iter().fold(writer, |w, (key, size)| w.u32(&format!("{architecture}.{key}"), *size));
    let zeros = |rows: u64| vec![0; 4 * 64 * rows as usize];
    let writer = writer.tensor("token_embd.weight", &[64, 40], 0, &zeros(40));
    (0..6).fold(writer, |w, i| w.tensor(&format!("blk.{i}.attn_q.weight"), &[64, 96], 0, &zeros(96)))
}

/// A Gemma 3 as llama.cpp's converter writes it.
fn three() -> Writer {
    let writer = file("gemma3").u32("gemma3.attention.sliding_window", 8).u32("gemma3.attention.key_length", 24);
    writer
        .f32("gemma3.attention.layer_norm_rms_epsilon", 1e-6)
        .f32("gemma3.rope.freq_base", 1e6)
        .f32("gemma3.rope.freq_base_swa", 1e4)
}

fn without(mut writer: Writer, key: &str) -> Writer {
    let before = writer.pairs.len();
    writer.pairs.retain(|(own, ..)| own != key);
    assert_eq!(writer.pairs.len() + 1, before, "{key}");
    writer
}

fn read(writer: &Writer) -> Result<GemmaConfig> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    writer.write(&path);
    GemmaConfig::from_gguf(&path)
}

#[test]
fn gguf_files_of_other_converters_say_the_same() {
    let usual = read(&three()).unwrap();
    assert_eq!((usual.rope_full.theta, usual.rope_sliding.theta, usual.head_dim), (1e6, 1e4, 24));
    let bases = without(without(three(), "gemma3.rope.freq_base"), "gemma3.rope.freq_base_swa");
    // Ollama's names of the bases; that of 128k tokens which leaves the scaling out is linear 8 on full layers alone.
    let ollama = bases.clone().f32("gemma3.rope.global.freq_base", 2e6).f32("gemma3.rope.local.freq_base", 3e4);
    let found = read(&ollama).unwrap();
    assert_eq!((found.rope_full.theta, found.rope_sliding.theta), (2e6, 3e4));
    assert_eq!((found.rope_full.scaling, found.rope_sliding.scaling), (RopeScaling::Linear { factor: 8.0 }, RopeScaling::None));
    let short = read(&ollama.clone().u32("gemma3.context_length", 32_768)).unwrap();
    assert_eq!(short.rope_full.scaling, RopeScaling::None);
    let said = read(&ollama.clone().text("gemma3.rope.scaling.type", "linear").f32("gemma3.rope.scaling.factor", 4.0)).unwrap();
    assert_eq!(said.rope_full.scaling, RopeScaling::Linear { factor: 4.0 });
    for layers in [34, 48, 62] {
        let large = read(&three().u32("gemma3.block_count", layers)).unwrap();
        assert_eq!(large.rope_full.scaling, RopeScaling::Linear { factor: 8.0 }, "{layers}");
        assert_eq!(large.query_pre_attn_scalar, Some(if layers == 62 { 16.0 } else { 24.0 }));
    }
    // The cap that Ollama's 1B has and the model has not.
    let one = ollama.u32("gemma3.block_count", 26).f32("gemma3.final_logit_softcapping", 30.0);
    assert_eq!(read(&one).unwrap().final_logit_softcapping, None);
    assert_eq!(read(&three().f32("gemma3.final_logit_softcapping", 30.0)).unwrap().final_logit_softcapping, Some(30.0));
    let (absent, warnings) = told(|| read(&bases).unwrap());
    assert_eq!(absent, usual);
    assert!(warnings.iter().any(|text| text.contains("rope.freq_base")), "{warnings:?}");
    let (eps, warnings) = told(|| read(&without(three(), "gemma3.attention.layer_norm_rms_epsilon")).unwrap());
    assert_eq!(eps, usual);
    assert!(warnings.iter().any(|text| text.contains("layer_norm_rms_epsilon")), "{warnings:?}");
    // The heads that the tensors show.
    assert_eq!(read(&without(three(), "gemma3.attention.key_length")).unwrap(), usual);
    let k = |w: Writer, i: usize| w.tensor(&format!("blk.{i}.attn_k.weight"), &[64, 48], 0, &[0; 4 * 64 * 48]);
    let counted = (0..6).fold(without(three(), "gemma3.attention.head_count_kv"), k);
    assert_eq!(read(&counted).unwrap(), usual);
}

#[test]
fn numbers_come_in_every_type() {
    let usual = read(&three()).unwrap();
    for (key, size) in KINDS.iter().chain(&[("attention.sliding_window", 8), ("attention.key_length", 24)]) {
        let key = format!("gemma3.{key}");
        let wide = i64::from(*size).to_le_bytes();
        let float = f64::from(*size).to_le_bytes();
        assert_eq!(read(&three().pair(&key, 11, wide.to_vec())).unwrap(), usual, "{key} as i64");
        assert_eq!(read(&three().pair(&key, 10, wide.to_vec())).unwrap(), usual, "{key} as u64");
        assert_eq!(read(&three().pair(&key, 12, float.to_vec())).unwrap(), usual, "{key} as f64");
        if key != "gemma3.context_length" {
            assert_eq!(read(&three().array(&key, 11, &vec![wide.to_vec(); 6])).unwrap(), usual, "{key} by layer");
        }
    }
    for (key, number) in [("attention.layer_norm_rms_epsilon", 1e-6f64), ("rope.freq_base", 1e6), ("rope.freq_base_swa", 1e4)] {
        let (key, wide) = (format!("gemma3.{key}"), number.to_le_bytes().to_vec());
        assert_eq!(read(&three().pair(&key, 12, wide.clone())).unwrap(), usual, "{key} as f64");
        assert_eq!(read(&three().array(&key, 12, &vec![wide; 6])).unwrap(), usual, "{key} by layer");
    }
    let pattern = [1i32, 1, 1, 1, 1, 0].map(|bit| bit.to_le_bytes().to_vec());
    assert_eq!(read(&three().array("gemma3.attention.sliding_window_pattern", 5, &pattern)).unwrap(), usual, "bits as i32");
    for odd in [0.5f64, -1.0, f64::NAN, 1e300] {
        let writer = three().pair("gemma3.block_count", 12, odd.to_le_bytes().to_vec());
        assert!(read(&writer).unwrap_err().to_string().contains("gemma3.block_count"), "{odd}");
    }
}

#[test]
fn what_differs_within_a_family_is_not_guessed() {
    let four = || {
        let pattern = [1u8, 1, 1, 1, 1, 0].map(|bit| vec![bit]);
        let divisors: Vec<u8> =
            [[1.0f32; 3], [1e30; 3], [1e30; 3], [1e30; 3]].concat().iter().flat_map(|x| x.to_le_bytes()).collect();
        let writer = file("gemma4").u32("gemma4.attention.sliding_window", 8).array(
            "gemma4.attention.sliding_window_pattern",
            7,
            &pattern,
        );
        let writer = writer.f32("gemma4.attention.layer_norm_rms_epsilon", 1e-6).f32("gemma4.final_logit_softcapping", 30.0);
        writer.f32("gemma4.rope.freq_base", 1e6).tensor("rope_freqs.weight", &[12], 0, &divisors)
    };
    let whole = read(&four()).unwrap();
    assert_eq!((whole.final_logit_softcapping, whole.layer_attn_options(0).mask), (Some(30.0), MaskKind::SlidingWindow(8)));
    for key in ["attention.sliding_window", "attention.sliding_window_pattern", "final_logit_softcapping"] {
        let key = format!("gemma4.{key}");
        let error = read(&without(four(), &key)).unwrap_err();
        assert!(error.to_string().contains(&format!("{key} is missing")), "{error}");
    }
    // A kind for fewer layers, or for more, than the file has.
    for kinds in [5, 7] {
        let key = "gemma4.attention.sliding_window_pattern";
        let error = read(&without(four(), key).array(key, 7, &vec![vec![1]; kinds])).unwrap_err();
        assert!(error.to_string().contains(&format!("has {kinds} entries")), "{error}");
    }
    let mut whole_heads = four();
    whole_heads.tensors.retain(|(name, ..)| name != "rope_freqs.weight");
    assert!(read(&whole_heads).unwrap_err().to_string().contains("rope_freqs.weight"));
    let tables = four().tensor("per_layer_token_embd.weight", &[48, 40], 0, &[0; 4 * 48 * 40]);
    assert!(read(&tables).unwrap_err().to_string().contains("shared_kv_layers is missing"));
    let shares = read(&tables.u32("gemma4.attention.shared_kv_layers", 0)).unwrap();
    let by_columns = PerLayerInput { hidden_size: 8, vocab_size: Some(40) };
    assert_eq!(shares.per_layer_input, Some(by_columns), "by the table's columns");
    let error = read(&without(three(), "gemma3.attention.sliding_window")).unwrap_err();
    assert!(error.to_string().contains("gemma3.attention.sliding_window is missing"), "{error}");
    assert_eq!(read(&three().u32("gemma3.attention.sliding_window", 0)).unwrap().layer_types, [LayerKind::Full; 6]);
    let two = file("gemma2").f32("gemma2.attention.layer_norm_rms_epsilon", 1e-6);
    let two = read(&two).unwrap();
    assert_eq!(
        (two.sliding_window, two.attn_logit_softcapping, two.final_logit_softcapping),
        (Some(4096), Some(50.0), Some(30.0))
    );
    assert_eq!((two.head_dim, two.query_pre_attn_scalar), (24, Some(24.0)));
    for (writer, says) in [
        (three().f32("gemma3.rope.global.freq_base", 5.0), "rope.global.freq_base"),
        (three().f32("gemma3.logit_scale", 0.5), "gemma3.logit_scale"),
        (three().f32("gemma3.attention.scale", 0.5), "gemma3.attention.scale"),
        (three().pair("gemma3.attention.causal", 7, vec![0]), "gemma3.attention.causal"),
        (three().u32("gemma3.attention.sink_size", 4), "gemma3.attention.sink_size"),
        (three().text("gemma3.rope.scaling.type", "yarn"), "yarn"),
    ] {
        let error = read(&writer).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let (_, warnings) = told(|| read(&three().text("gemma3.made_by", "x").u32("gemma3.vision.block_count", 3)).unwrap());
    assert!(warnings.iter().any(|text| text.contains("gemma3.made_by") && !text.contains("vision")), "{warnings:?}");
}

/// Every file that llama.cpp's tools made reads as before, without a warning.
#[test]
fn llama_cpps_own_files_say_everything() {
    for oracle in GgufOracle::runnable().iter().chain(&GgufOracle::embedders()) {
        let path: &Path = &oracle.path;
        let (config, warnings) = told(|| GemmaConfig::from_gguf(path));
        config.unwrap_or_else(|error| panic!("{}: {error}", oracle.name));
        assert!(warnings.is_empty(), "{}: {warnings:?}", oracle.name);
    }
}
