//! The head is what is stored: a matrix of its own, a copy of the embedding, or the only one of the two.
//!
//! Right values are those of transformers (and of exact arithmetic for GGUF files): with its rows rotated by one, a
//! head gives the tied model's logits rotated by one.

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    error::WeightError,
    gemma::{GemmaConfig, GemmaFlow},
    generate::{Drafter, GemmaGenerator, GeneratorOptions, MemoryPlan, SampleOpts},
    runtime::{Capabilities, Device},
    weights::StoredHead,
};
use std::path::Path;

use crate::common::{
    files::{Checkpoint, Stored, read_gguf, warnings},
    gguf::{GgufOracle, Writer},
    oracle::{CHECKPOINTS, Oracle, data, gate, worst},
};

const EMBED: &str = "embed_tokens.weight";
const PROMPT: &str = "p7";

fn tied() -> Vec<Oracle> {
    let all: Vec<Oracle> = CHECKPOINTS.into_iter().map(Oracle::open).filter(|oracle| oracle.config.tie_word_embeddings).collect();
    assert!(all.len() >= 12, "{} checkpoints", all.len());
    all
}

fn generator(path: &Path, device: Device) -> gemmaflow::Result<GemmaGenerator> {
    let config = GemmaConfig::near_weights(path)?;
    GemmaGenerator::from_path(config, path, device)
}

fn logits(path: &Path, device: Device, tokens: &[u32]) -> Vec<f32> {
    generator(path, device).unwrap().recompute_all_logits(tokens).unwrap()
}

/// Each row of `vocab` logits, beginning with its second.
fn rotated(mut logits: Vec<f32>, vocab: usize) -> Vec<f32> {
    logits.chunks_exact_mut(vocab).for_each(|row| row.rotate_left(1));
    logits
}

/// The checkpoint of an oracle with its embedding as a head too, under the names that wrappers and text models give it.
fn with_head(oracle: &Oracle, change: impl Fn(Stored) -> Stored) -> Vec<Checkpoint> {
    let names: &[&str] = if oracle.name.contains("-mm") || oracle.name.contains("unified") {
        &["lm_head.weight", "language_model.lm_head.weight", "model.language_model.lm_head.weight"]
    } else {
        &["lm_head.weight", "model.lm_head.weight"]
    };
    let with = |name: &&str| {
        let mut checkpoint = Checkpoint::read(&oracle.folder);
        let embed = checkpoint.tensors[checkpoint.find(EMBED)].clone();
        checkpoint.tensors.push(change(embed).named(name));
        checkpoint
    };
    names.iter().map(with).collect()
}

#[test]
fn a_head_of_its_own_is_used_whatever_the_flag_says() {
    for oracle in tied() {
        let tokens = oracle.tokens(&format!("{PROMPT}.input_ids"));
        let expected = rotated(oracle.f32(&format!("{PROMPT}.logits")), oracle.config.vocab_size);
        for mut checkpoint in with_head(&oracle, Stored::rotated) {
            for flag in [Some(true), None, Some(false)] {
                checkpoint.tie(flag);
                let folder = checkpoint.write();
                let error = worst(&logits(folder.path(), Device::Cpu, &tokens), &expected);
                assert!(error < oracle.gate(), "{} {flag:?}: {error}", oracle.name);
            }
        }
    }
}

#[test]
fn a_copy_of_the_embedding_costs_nothing_whatever_the_flag_and_its_type_say() {
    for oracle in tied() {
        let tokens = oracle.tokens(&format!("{PROMPT}.input_ids"));
        let plan = |path: &Path| {
            let (config, mut loader) = (GemmaConfig::near_weights(path).unwrap(), load_from_path(path).unwrap());
            let options = GeneratorOptions { context: Some(16), ..GeneratorOptions::default() };
            MemoryPlan::for_options(config, loader.as_mut(), &Capabilities::portable(), &options).unwrap()
        };
        let before = plan(&oracle.folder);
        for change in [|head| head, Stored::into_f32] {
            for (mut checkpoint, flag) in with_head(&oracle, change).into_iter().zip([Some(true), None, Some(false)]) {
                checkpoint.tie(flag);
                let folder = checkpoint.write();
                assert_eq!(load_from_path(folder.path()).unwrap().stored_head().unwrap(), StoredHead::Copy);
                let error = worst(&logits(folder.path(), Device::Cpu, &tokens), &oracle.f32(&format!("{PROMPT}.logits")));
                assert!(error < oracle.gate(), "{} {flag:?}: {error}", oracle.name);
                let found = plan(folder.path());
                assert_eq!((found.weights, found.tensors), (before.weights, before.tensors), "{}", oracle.name);
            }
        }
    }
}

#[test]
fn a_head_alone_serves_as_both() {
    for oracle in tied() {
        let tokens = oracle.tokens(&format!("{PROMPT}.input_ids"));
        let mut checkpoint = Checkpoint::read(&oracle.folder);
        let at = checkpoint.find(EMBED);
        checkpoint.tensors[at].name = "lm_head.weight".into();
        for flag in [Some(true), None] {
            checkpoint.tie(flag);
            let folder = checkpoint.write();
            let error = worst(&logits(folder.path(), Device::Cpu, &tokens), &oracle.f32(&format!("{PROMPT}.logits")));
            assert!(error < oracle.gate(), "{} {flag:?}: {error}", oracle.name);
        }
        checkpoint.tie(Some(false));
        let error = generator(checkpoint.write().path(), Device::Cpu).err().unwrap();
        assert!(matches!(&error, Error::Config(text) if text.contains("tie_word_embeddings is false")), "{error}");
    }
}

#[test]
fn a_gpu_takes_the_same_head_and_the_memory_that_is_planned() {
    for name in ["gemma2", "gemma3-text", "gemma4-e2b"] {
        let oracle = Oracle::open(name);
        let tokens = oracle.tokens(&format!("{PROMPT}.input_ids"));
        let wanted = oracle.f32(&format!("{PROMPT}.logits"));
        let bytes = |path: &Path| generator(path, Device::Gpu).unwrap().stats().weight_bytes;
        let alone = bytes(&oracle.folder);
        let own = with_head(&oracle, Stored::rotated)[0].write();
        let error = worst(&logits(own.path(), Device::Gpu, &tokens), &rotated(wanted.clone(), oracle.config.vocab_size));
        assert!(error < oracle.gate() && bytes(own.path()) > alone, "{name}: {error}");
        let copy = with_head(&oracle, |head| head)[0].write();
        let error = worst(&logits(copy.path(), Device::Gpu, &tokens), &wanted);
        assert!(error < oracle.gate(), "{name}: {error}");
        assert_eq!(bytes(copy.path()), alone, "{name}");
        let planned = [copy.path(), &oracle.folder].map(|path| MemoryPlan::for_model(path, 16, Device::Gpu).unwrap().weights);
        assert_eq!(planned[0], planned[1], "{name}");
    }
}

#[test]
fn graphs_that_callers_build_have_that_head() {
    let oracle = Oracle::open("gemma3-text");
    let mut checkpoint = with_head(&oracle, Stored::rotated).remove(0);
    checkpoint.tie(Some(true));
    let folder = checkpoint.write();
    let mut config = GemmaConfig::from_file(folder.path()).unwrap();
    let built = GemmaFlow::for_prefill(&config, 1, 3).lm_head().build(load_from_path(folder.path()).unwrap().as_mut()).unwrap();
    assert!(built.params.contains_key("unembed"), "{:?}", built.params.keys());
    assert!(config.tie_word_embeddings);
    config.settle_head(load_from_path(folder.path()).unwrap().as_ref()).unwrap();
    assert!(!config.tie_word_embeddings);
}

#[test]
fn a_head_of_other_rows_is_refused_by_its_name() {
    let oracle = Oracle::open("gemma3-text");
    let mut checkpoint = with_head(&oracle, Stored::rotated).remove(0);
    let at = checkpoint.find("lm_head.weight");
    let head = &mut checkpoint.tensors[at];
    let row = head.bytes.len() / head.shape[0];
    head.shape[0] -= 1;
    head.bytes.truncate(row * head.shape[0]);
    let error = generator(checkpoint.write().path(), Device::Cpu).err().unwrap();
    assert!(matches!(&error, Error::Weight(WeightError::Shape { name, .. }) if name == "lm_head.weight"), "{error}");
}

/// The file of an oracle with its embedding as `output.weight`, rotated or not.
fn gguf_head(oracle: &GgufOracle, rotate: bool) -> Writer {
    let mut file = read_gguf(&oracle.path);
    let (_, dims, ty, bytes) = file.tensors.iter().find(|(name, ..)| name == "token_embd.weight").unwrap().clone();
    let rows = dims[1] as usize;
    let mut head = bytes;
    // Behind the last row there may be padding of the file.
    head.truncate(head.len() / rows * rows);
    if rotate {
        let row = head.len() / rows;
        head.rotate_left(row);
    }
    file.tensors.retain(|(name, ..)| name != "output.weight");
    file.tensors.push(("output.weight".into(), dims, ty, head));
    file
}

#[test]
fn gguf_files_have_the_same_heads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for oracle in GgufOracle::runnable() {
        let config = GemmaConfig::from_gguf(&oracle.path).unwrap();
        if !config.tie_word_embeddings {
            continue;
        }
        let tokens = oracle.tokens(&format!("{PROMPT}.input_ids"));
        let wanted = oracle.f32(&format!("exact.{PROMPT}.logits"));
        let check = |expected: &[f32], what: &str| {
            let error = worst(&logits(&path, Device::Cpu, &tokens), expected);
            assert!(error < gate(config.arch), "{} {what}: {error}", oracle.name);
        };
        gguf_head(&oracle, true).write(&path);
        check(&rotated(wanted.clone(), config.vocab_size), "own");
        let mut file = gguf_head(&oracle, false);
        file.write(&path);
        check(&wanted, "copy");
        assert_eq!(load_from_path(&path).unwrap().stored_head().unwrap(), StoredHead::Copy, "{}", oracle.name);
        file.tensors.retain(|(name, ..)| name != "token_embd.weight");
        file.write(&path);
        check(&wanted, "alone");
    }
}

#[test]
fn a_drafter_drafts_with_its_own_head() {
    let target = Oracle::open("gemma4-target");
    let prompt = target.tokens("p33.input_ids");
    let accepted = |folder: &Path| {
        let generator = GemmaGenerator::from_loader(target.config.clone(), target.loader().as_mut(), Device::Cpu).unwrap();
        let mut generator = generator.with_drafter(Drafter::from_path(folder).unwrap()).unwrap();
        generator.prefill(&prompt).unwrap();
        let text = generator.generate_cached(24, &SampleOpts::greedy()).unwrap();
        (text, generator.draft_stats().accepted)
    };
    for name in ["gemma4-assistant", "gemma4-assistant-ordered"] {
        let mut checkpoint = Checkpoint::read(&data("checkpoints").join(name));
        let at = checkpoint.find(EMBED);
        let other = checkpoint.tensors[at].clone();
        // A drafter's embedding is nothing but its head: rotated, it proposes other tokens, some of which the target
        // takes.
        let ((text, expected), embed) = std::iter::successors(Some(other.clone()), |embed| Some(embed.clone().rotated()))
            .take(target.config.vocab_size)
            .map(|embed| {
                checkpoint.tensors[at] = embed.clone();
                (accepted(checkpoint.write().path()), embed)
            })
            .find(|((_, accepted), _)| *accepted > 1)
            .expect("a head that guesses twice");
        checkpoint.tensors[at] = other;
        let (same, without) = accepted(checkpoint.write().path());
        assert!(same == text && without != expected, "{name}: {without} of {expected}");
        checkpoint.tensors.push(embed.named("lm_head.weight"));
        assert_eq!(accepted(checkpoint.write().path()), (text, expected), "{name}");
        println!("{name}: {expected} tokens accepted with its own head, {without} with its embedding");
    }
}

#[test]
fn published_checkpoints_load_without_a_warning() {
    let all = CHECKPOINTS.into_iter().map(|name| data("checkpoints").join(name));
    let all = all.chain(GgufOracle::runnable().into_iter().map(|oracle| oracle.path));
    for path in all {
        let (_, heard) = warnings(|| generator(&path, Device::Cpu).unwrap());
        assert!(heard.iter().all(|text| !text.contains("does not use")), "{}: {heard:?}", path.display());
    }
}

#[test]
fn what_a_model_does_not_use_is_told_by_its_name() {
    let oracle = Oracle::open("gemma3-text");
    let prefix = oracle.config.num_hidden_layers;
    let unknown = [
        "model.layers.0.self_attn.q_proj.bias".to_string(),
        format!("model.layers.{prefix}.mlp.up_proj.weight"),
        "model.layers.1.mlp.sink".to_string(),
        "lm_head.bias".to_string(),
    ];
    let harmless = ["model.layers.0.self_attn.rotary_emb.inv_freq", "vision_tower.x.weight", "model.embed_tokens.embed_scale"];
    let mut checkpoint = Checkpoint::read(&oracle.folder);
    let extra = |name: &str| Stored::new(name, safetensors::Dtype::F32, &[2], vec![0; 8]);
    checkpoint.tensors.extend(unknown.iter().map(|name| extra(name)).chain(harmless.map(extra)));
    let folder = checkpoint.write();
    let config = GemmaConfig::from_file(folder.path()).unwrap();
    let build = || drop(GemmaFlow::new(&config).build(load_from_path(folder.path()).unwrap().as_mut()).unwrap());
    let load = || drop(generator(folder.path(), Device::Cpu).unwrap());
    for (_, heard) in [warnings(build), warnings(load)] {
        let heard = heard.into_iter().filter(|text| text.contains("does not use")).collect::<Vec<_>>();
        assert_eq!(heard.len(), 1, "{heard:?}");
        for name in &unknown {
            assert!(heard[0].contains(name.trim_start_matches("model.")), "{name}: {heard:?}");
        }
        assert!(["inv_freq", "vision", "embed_scale"].iter().all(|name| !heard[0].contains(name)), "{heard:?}");
    }
    let gguf = GgufOracle::open("gemma2-s-q4_0-pure");
    let path = folder.path().join("model.gguf");
    let file = read_gguf(&gguf.path).tensor("blk.0.attn_q.bias", &[2], 0, &[0; 8]).tensor("v.blk.0.ln1.weight", &[2], 0, &[0; 8]);
    file.write(&path);
    let (_, heard) = warnings(|| generator(&path, Device::Cpu).unwrap());
    assert!(heard.iter().any(|text| text.contains("blk.0.attn_q.bias") && !text.contains("v.blk")), "{heard:?}");
}
