//! Which tokens are control tokens, wherever a file says it and whatever it types them as.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::files::ModelPath;
use crate::text_file;

/// Of every family.
const COMMON: [&str; 11] = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<2mass>",
    "[@BOS@]",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
    "<audio_soft_token>",
];

/// Of the turns of Gemma 1 to 3n.
const TURNS: [&str; 2] = ["<start_of_turn>", "<end_of_turn>"];

/// Of the turns of Gemma 4.
const TURNS_4: [&str; 14] = [
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|think|>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|\"|>",
    "<|image|>",
    "<|audio|>",
];

/// Spare tokens are `<unused0>` to less than this; the largest vocabulary has 6,242 of them.
const SPARE: u32 = 10_000;

/// Control tokens that a file names beside those that the tokenizer itself calls special.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// By id.
    pub(super) ids: BTreeSet<u32>,
    /// By what they spell.
    pub(super) strings: BTreeSet<String>,
}

impl Named {
    /// The control tokens that files beside a `tokenizer.json` name: every `*_token` and the special tokens of
    /// `tokenizer_config.json` and `special_tokens_map.json`, every `*_token_id` of `config.json` and
    /// `generation_config.json`. Those that cannot be read name nothing: who needs them says so.
    pub(super) fn beside(tokenizer: &ModelPath) -> Self {
        let mut named = Self::default();
        let read = |name: &str| -> Option<Value> {
            let text = text_file::read(&tokenizer.with_file_name(name)).ok()?;
            serde_json::from_str(&text).ok()
        };
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            read(file).iter().for_each(|config| named.add_strings(config));
        }
        for file in ["config.json", "generation_config.json"] {
            let config = read(file);
            config.iter().for_each(|config| named.add_ids(config));
            config.iter().filter_map(|config| config.get("text_config")).for_each(|config| named.add_ids(config));
        }
        named
    }

    fn add_strings(&mut self, config: &Value) {
        let Some(fields) = config.as_object() else { return };
        for (key, value) in fields {
            match value {
                Value::Array(list) if key.ends_with("special_tokens") => list.iter().for_each(|token| self.add_string(token)),
                Value::Object(map) if key == "extra_special_tokens" => map.values().for_each(|token| self.add_string(token)),
                Value::Object(map) if key == "added_tokens_decoder" => {
                    let special = |token: &&Value| token["special"] == Value::Bool(true);
                    map.values().filter(special).for_each(|token| self.add_string(token));
                }
                _ if key.ends_with("_token") => self.add_string(value),
                _ => {}
            }
        }
    }

    /// A token as a string, or as an object with its `content`.
    fn add_string(&mut self, token: &Value) {
        let string = token.as_str().or_else(|| token["content"].as_str());
        self.strings.extend(string.filter(|string| is_marker(string)).map(str::to_string));
    }

    fn add_ids(&mut self, config: &Value) {
        let fields = config.as_object().into_iter().flatten();
        for (_, value) in fields.filter(|(key, _)| key.ends_with("_token_id")) {
            let listed = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            self.ids.extend(listed.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()));
        }
    }

    /// The control tokens of a tokenizer by id, with what they spell: those that are `special`, those named, and by
    /// name those that the chat format of the vocabulary's family needs.
    pub(super) fn of(&self, tokenizer: &Tokenizer) -> HashMap<u32, String> {
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special || is_spare(&token.content));
        let mut control: HashMap<u32, String> = special.map(|(id, token)| (*id, token.content.clone())).collect();
        let mut names: Vec<&str> = COMMON.to_vec();
        for turns in [&TURNS[..], &TURNS_4[..]] {
            if tokenizer.token_to_id(turns[0]).is_some() {
                names.extend(turns);
            }
        }
        names.extend(self.strings.iter().map(String::as_str));
        let spare = (0..SPARE).map(|number| format!("<unused{number}>"));
        for name in names.into_iter().map(str::to_string).chain(spare) {
            control.extend(tokenizer.token_to_id(&name).map(|id| (id, name)));
        }
        for id in &self.ids {
            if let Some(string) = tokenizer.id_to_token(*id).filter(|string| is_marker(string)) {
                control.insert(*id, string);
            }
        }
        control
    }
}

/// Returns `true` if a string can be a control token that a file merely names: it has several characters and is no word
/// that people write.
pub(super) fn is_marker(string: &str) -> bool {
    let written = |c: char| c.is_alphanumeric() || c.is_whitespace() || c == '▁';
    string.chars().nth(1).is_some() && !string.chars().all(written)
}

/// `<unused0>`, `<unused1>`, …
fn is_spare(content: &str) -> bool {
    content
        .strip_prefix("<unused")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}
