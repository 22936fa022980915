//! Sampling as a model's maker recommends it.

use std::{fs, path::Path};

use gemmaflow::{
    conversation::Model,
    generate::{GeneratorOptions, SampleOpts},
    runtime::Device,
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

fn in_folder(text: &str) -> Result<Option<SampleOpts>, gemmaflow::Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("generation_config.json"), text).unwrap();
    let beside = SampleOpts::recommended(folder.path().join("model.safetensors"));
    let inside = SampleOpts::recommended(folder.path());
    assert_eq!(inside.as_ref().ok(), beside.as_ref().ok(), "{text}");
    inside
}

fn drawn(temperature: f32, top_k: usize, top_p: f32, min_p: f32, penalty: f32) -> SampleOpts {
    let opts = SampleOpts::temperature(temperature, 0).with_top_k(top_k).with_top_p(top_p).with_min_p(min_p);
    opts.with_repetition_penalty(penalty)
}

/// What `GenerationMixin` of transformers 5.24 makes of each file: the settings of its logits processors.
#[test]
fn a_generation_config_means_what_transformers_makes_of_it() {
    let greedy = SampleOpts::greedy();
    let table = [
        ("{}", None),
        (r#"{"eos_token_id": [1, 106], "transformers_version": "4.50.0", "cache_implementation": "hybrid"}"#, None),
        (r#"{"do_sample": null, "top_k": null}"#, None),
        (
            r#"{"cache_implementation": "hybrid", "do_sample": true, "top_k": 64, "top_p": 0.95}"#,
            Some(drawn(1.0, 64, 0.95, 0.0, 1.0)),
        ),
        (r#"{"do_sample": true, "temperature": 1.0, "top_k": 64, "top_p": 0.95}"#, Some(drawn(1.0, 64, 0.95, 0.0, 1.0))),
        (r#"{"do_sample": true}"#, Some(drawn(1.0, 50, 1.0, 0.0, 1.0))),
        (r#"{"do_sample": true, "top_p": 0.9}"#, Some(drawn(1.0, 50, 0.9, 0.0, 1.0))),
        (r#"{"do_sample": true, "top_k": 0}"#, Some(drawn(1.0, 0, 1.0, 0.0, 1.0))),
        (r#"{"do_sample": true, "top_k": null, "temperature": null}"#, Some(drawn(1.0, 50, 1.0, 0.0, 1.0))),
        (r#"{"do_sample": true, "temperature": 0.6, "min_p": 0.05, "top_k": 20}"#, Some(drawn(0.6, 20, 1.0, 0.05, 1.0))),
        (r#"{"do_sample": false}"#, Some(greedy)),
        (r#"{"do_sample": false, "top_k": 64, "temperature": 0.3}"#, Some(greedy)),
        (r#"{"temperature": 0.7, "top_p": 0.8}"#, Some(greedy)),
        (r#"{"repetition_penalty": 1.2}"#, Some(greedy.with_repetition_penalty(1.2))),
        (r#"{"do_sample": false, "repetition_penalty": 1.2}"#, Some(greedy.with_repetition_penalty(1.2))),
        (r#"{"do_sample": true, "repetition_penalty": 1.1, "temperature": 0.5}"#, Some(drawn(0.5, 50, 1.0, 0.0, 1.1))),
    ];
    for (text, expected) in table {
        assert_eq!(in_folder(text).unwrap(), expected, "{text}");
        // A byte-order mark changes nothing.
        assert_eq!(in_folder(&format!("\u{feff}{text}")).unwrap(), expected, "{text}");
    }
    assert_eq!(SampleOpts::recommended(tempfile::tempdir().unwrap().path()).unwrap(), None, "there is no file");
    assert_eq!(SampleOpts::recommended(DEMO).unwrap(), None, "the demo's file says nothing of it");
}

#[test]
fn values_without_meaning_are_named_with_their_file() {
    let table = [
        (r#"{"do_sample": "true"}"#, r#"do_sample is "true", expected true or false"#),
        (r#"{"do_sample": true, "temperature": "0.7"}"#, r#"temperature is "0.7", expected a number"#),
        (r#"{"do_sample": true, "temperature": -1}"#, "temperature is -1"),
        (r#"{"do_sample": true, "top_k": -1}"#, "top_k is -1, expected a whole number"),
        (r#"{"do_sample": true, "top_k": 1.5}"#, "top_k is 1.5"),
        (r#"{"do_sample": true, "top_p": 7}"#, "top-p is 7"),
        (r#"{"do_sample": true, "top_p": [0.9]}"#, "top_p is [0.9]"),
        (r#"{"repetition_penalty": 0}"#, "repetition penalty is 0"),
        ("[]", "not valid JSON"),
        (r#"{"top_k": 3"#, "not valid JSON"),
    ];
    for (text, expected) in table {
        let error = in_folder(text).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("generation_config.json"), "{text}: {error}");
    }
}

/// The keys as llama.cpp's converter writes them (`Keys.General` of gguf 0.19): integers as i32, all else as f32.
#[test]
fn the_sampling_keys_of_a_gguf_file_are_read() {
    let float = |value: f32| (6, value.to_le_bytes().to_vec());
    let integer = |value: i32| (5, value.to_le_bytes().to_vec());
    let text = |value: &str| (8, [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat());
    let read = |pairs: &[(&str, (u32, Vec<u8>))]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let all: Vec<_> = pairs.iter().map(|(key, value)| (format!("general.sampling.{key}"), value.clone())).collect();
        write_gguf(&path, &all);
        SampleOpts::recommended(&path)
    };
    assert_eq!(read(&[]).unwrap(), None);
    let gemma = [("top_k", integer(64)), ("top_p", float(0.95))];
    assert_eq!(read(&gemma).unwrap(), Some(drawn(1.0, 64, 0.95, 0.0, 1.0)));
    let all = [
        ("temp", float(0.7)),
        ("top_k", integer(20)),
        ("top_p", float(0.8)),
        ("min_p", float(0.01)),
        ("penalty_repeat", float(1.05)),
        ("penalty_last_n", integer(-1)),
        ("mirostat", integer(0)),
        ("xtc_probability", float(0.0)),
    ];
    assert_eq!(read(&all).unwrap(), Some(drawn(0.7, 20, 0.8, 0.01, 1.05)));
    // llama.cpp: no temperature is greedy, no k or less is all tokens, a penalty over no tokens is none.
    let edges = [("temp", float(0.0)), ("top_k", integer(-1)), ("penalty_repeat", float(2.0)), ("penalty_last_n", integer(0))];
    assert_eq!(read(&edges).unwrap(), Some(SampleOpts::greedy()));
    // A sampler that the sequence leaves out has no effect.
    let sequence = [("sequence", text("top-k;temperature")), ("top_k", integer(5)), ("top_p", float(0.5)), ("temp", float(1.0))];
    assert_eq!(read(&sequence).unwrap(), Some(drawn(1.0, 5, 1.0, 0.0, 1.0)));
    for (pair, expected) in [
        (("temp", text("warm")), "general.sampling.temp is \"warm\""),
        (("top_k", float(1.5)), "general.sampling.top_k is 1.5"),
        (("top_p", float(f32::NAN)), "top-p is NaN"),
        (("penalty_repeat", float(-1.0)), "repetition penalty is -1"),
    ] {
        let error = read(&[pair]).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("model.gguf"), "{error}");
    }
}

/// A file without tensors.
fn write_gguf(path: &Path, pairs: &[(String, (u32, Vec<u8>))]) {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes(), &0u64.to_le_bytes(), &(pairs.len() as u64).to_le_bytes()].concat();
    for (key, (ty, value)) in pairs {
        bytes.extend([&string(key)[..], &ty.to_le_bytes(), value].concat());
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_model_offers_what_its_files_recommend() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(Path::new(DEMO).join(file), folder.path().join(file)).unwrap();
    }
    let open = || Model::open(folder.path(), Device::Cpu, GeneratorOptions::default()).unwrap().recommended_sampling();
    assert_eq!(open(), None);
    fs::write(folder.path().join("generation_config.json"), r#"{"do_sample": true, "top_k": 64, "top_p": 0.95}"#).unwrap();
    assert_eq!(open(), Some(drawn(1.0, 64, 0.95, 0.0, 1.0)));
}

#[test]
fn settings_read_as_text() {
    assert_eq!(SampleOpts::greedy().with_top_k(5).to_string(), "greedy");
    assert_eq!(drawn(1.0, 64, 0.95, 0.0, 1.0).to_string(), "temperature 1, top-k 64, top-p 0.95");
    assert_eq!(drawn(0.7, 0, 1.0, 0.05, 1.1).to_string(), "temperature 0.7, min-p 0.05, repetition penalty 1.1");
}
