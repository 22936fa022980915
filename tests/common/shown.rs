//! The checkpoints with pictures as models to talk with: with a tokenizer, which they lack.
#![allow(dead_code)] // Each test binary uses a part.

use std::path::{Path, PathBuf};

use gemmaflow::{
    image::{Image, ImageLimits},
    text::Tokenizer,
};
use serde_json::{Value, json};

/// The newlines of Gemma's vocabulary: 107 is one, 110 are four.
pub const NEWLINE: u32 = 107;

/// The first letter, `!`; printable ASCII without the space follows.
const LETTERS: u32 = 4;

/// Control tokens of every checkpoint: turns where Gemma 3 has them, thoughts and tools before.
const GEMMA_3: [(&str, u32); 2] = [("<start_of_turn>", 105), ("<end_of_turn>", 106)];
const GEMMA_4: [(&str, u32); 8] = [
    ("<|channel>", 99),
    ("<channel|>", 100),
    ("<|tool_call>", 101),
    ("<tool_call|>", 102),
    ("<|tool_response>", 103),
    ("<tool_response|>", 104),
    ("<|turn>", 105),
    ("<turn|>", 106),
];

pub fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/multimodal").join(name)
}

/// A `tokenizer.json` for a checkpoint: its control tokens at the ids of its `config.json`, and a string for every id.
pub fn tokenizer_json(name: &str) -> Value {
    let config: Value = serde_json::from_slice(&std::fs::read(checkpoint(name).join("config.json")).unwrap()).unwrap();
    let id = |key: &str| ["id", "index"].iter().find_map(|end| config[format!("{key}_token_{end}")].as_u64()).map(|id| id as u32);
    let is_gemma4 = name.starts_with("gemma4");
    let media: &[_] = if is_gemma4 {
        &[
            ("<|image>", "boi"),
            ("<|image|>", "image"),
            ("<image|>", "eoi"),
            ("<|video|>", "video"),
            ("<|audio>", "boa"),
            ("<|audio|>", "audio"),
            ("<audio|>", "eoa"),
        ]
    } else {
        &[
            ("<start_of_image>", "boi"),
            ("<image_soft_token>", "image"),
            ("<end_of_image>", "eoi"),
            ("<start_of_audio>", "boa"),
            ("<audio_soft_token>", "audio"),
            ("<end_of_audio>", "eoa"),
        ]
    };
    let mut control = vec![("<pad>", 0), ("<eos>", 1), ("<bos>", 2), ("<unk>", 3)];
    control.extend(if is_gemma4 { &GEMMA_4[..] } else { &GEMMA_3[..] });
    control.extend(media.iter().filter_map(|(name, key)| Some((*name, id(key)?))));
    let size = config["text_config"]["vocab_size"].as_u64().unwrap() as u32;
    let mut names: Vec<Option<String>> = vec![None; size as usize];
    for (name, id) in &control {
        names[*id as usize] = Some((*name).into());
    }
    for (at, letter) in (b'!'..=b'~').enumerate() {
        names[LETTERS as usize + at] = Some((letter as char).into());
    }
    names[98] = Some("▁".into());
    for count in 1..=4u32 {
        names[(NEWLINE + count - 1) as usize] = Some("\n".repeat(count as usize));
    }
    // Whatever the model says has a letter.
    let others = ('α'..).filter(|letter| letter.is_alphabetic());
    for (name, letter) in names.iter_mut().filter(|name| name.is_none()).zip(others) {
        *name = Some(letter.into());
    }
    let vocab: serde_json::Map<String, Value> =
        names.into_iter().flatten().zip(0u32..).map(|(name, id)| (name, id.into())).collect();
    let added: Vec<Value> = control
        .iter()
        .map(|(content, id)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "post_processor": null,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
            "merges": [["\n", "\n"], ["\n\n", "\n"], ["\n\n", "\n\n"]]}})
}

pub fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_bytes(tokenizer_json(name).to_string().as_bytes()).unwrap()
}

/// The checkpoint with its tokenizer, as a folder that a model is opened from.
pub fn folder(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(checkpoint(name)).unwrap() {
        let file = file.unwrap();
        let is_oracle = file.file_name().to_string_lossy().starts_with("mm_oracle");
        if file.path().is_file() && !is_oracle {
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer_json(name).to_string()).unwrap();
    folder
}

/// A picture of a checkpoint's cases.
pub fn image(name: &str, file: &str) -> Image {
    let bytes = std::fs::read(checkpoint(name).join("inputs").join(file)).unwrap();
    Image::from_bytes(&bytes, &ImageLimits::default()).unwrap()
}
