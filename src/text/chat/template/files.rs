//! The chat templates that a model's files carry.

use serde_json::{Map, Value};

use crate::{
    Error, Result,
    files::ModelPath,
    text_file,
    weights::{FileLimits, GgufFiles, ReadMode, ReadOptions, is_gguf},
};

/// Larger ones than any published template are not read.
const MOST_BYTES: u64 = 1 << 20;

/// A model's templates, and what they are given.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// For conversations; `None` where the files have a template for tools alone.
    pub(super) default: Option<String>,
    /// For conversations with tools, if those have their own.
    pub(super) tool_use: Option<String>,
    /// `bos_token`, `eos_token` and their like.
    pub(super) tokens: Map<String, Value>,
    /// A BOS token stands before every prompt, whether or not the template has it: llama.cpp's rule for GGUF files.
    pub(super) bos_in_front: bool,
    /// Where the templates were found, for messages.
    pub(super) origin: String,
}

impl Sources {
    /// One template for all conversations.
    pub(super) fn of_text(template: &str) -> Self {
        let mut sources = Self { tokens: default_tokens(), origin: "given as a text".into(), ..Self::default() };
        sources.add("default", template);
        sources
    }

    fn is_empty(&self) -> bool {
        self.default.is_none() && self.tool_use.is_none()
    }

    /// Takes templates by name, as transformers and GGUF files name them.
    fn add(&mut self, name: &str, template: &str) {
        let template = template.strip_prefix('\u{feff}').unwrap_or(template).to_string();
        match name {
            "default" => self.default = Some(template),
            "tool_use" => self.tool_use = Some(template),
            _ => {}
        }
    }

    /// Takes a `chat_template` of a JSON file: a text, or several with names.
    fn add_json(&mut self, value: &Value) {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_string);
        match value {
            Value::String(template) => self.add("default", template),
            Value::Array(list) => {
                for item in list {
                    if let (Some(name), Some(template)) = (text(item, "name"), text(item, "template")) {
                        self.add(&name, &template);
                    }
                }
            }
            Value::Object(named) => {
                for (name, template) in named {
                    self.add(name, template.as_str().unwrap_or_default());
                }
            }
            _ => {}
        }
    }
}

/// The templates of a model; `None` where its files have none.
///
/// # Errors
/// [`Error::Io`] and [`Error::Format`] for files that cannot be read.
pub(super) fn near_weights(weights: &ModelPath) -> Result<Option<Sources>> {
    let sources = if is_gguf(weights) { of_gguf(weights)? } else { of_folder(&weights.folder())? };
    Ok(Some(sources).filter(|sources| !sources.is_empty()))
}

/// A folder's, in the order in which transformers' tokenizers look: `chat_template.jinja`, then
/// `tokenizer_config.json`; last the `chat_template.json` of processors.
fn of_folder(folder: &ModelPath) -> Result<Sources> {
    let mut sources = Sources { tokens: default_tokens(), ..Sources::default() };
    let settings = json(&folder.join("tokenizer_config.json"))?;
    if let Some(Value::Object(fields)) = &settings {
        for (key, value) in fields.iter().filter(|(key, _)| key.ends_with("_token") && !key.starts_with("add_")) {
            // An added token, or its text alone.
            if let Value::String(text) = value.get("content").unwrap_or(value) {
                sources.tokens.insert(key.clone(), text.clone().into());
            }
        }
    }
    let jinja = folder.join("chat_template.jinja");
    if let Some(template) = text(&jinja)? {
        sources.add("default", &template);
        sources.origin = "chat_template.jinja".into();
    }
    let tools = folder.join("additional_chat_templates").join("tool_use.jinja");
    if let Some(template) = text(&tools)? {
        sources.add("tool_use", &template);
        sources.origin = "chat_template.jinja".into();
    }
    if sources.is_empty()
        && let Some(template) = settings.as_ref().and_then(|settings| settings.get("chat_template"))
    {
        sources.add_json(template);
        sources.origin = "tokenizer_config.json".into();
    }
    if sources.is_empty()
        && let Some(processor) = json(&folder.join("chat_template.json"))?
    {
        sources.add_json(processor.get("chat_template").unwrap_or(&Value::Null));
        sources.origin = "chat_template.json".into();
    }
    Ok(sources)
}

fn of_gguf(path: &ModelPath) -> Result<Sources> {
    let files = GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, limits: FileLimits::default() })?;
    let metadata = &files.metadata;
    let read = || -> std::result::Result<Sources, String> {
        let mut sources = Sources { tokens: default_tokens(), origin: "tokenizer.chat_template".into(), ..Sources::default() };
        sources.bos_in_front = metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(true);
        let names = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
        for key in ["bos", "eos", "unknown", "padding"] {
            let id = metadata.size(&format!("tokenizer.ggml.{key}_token_id"))?;
            if let Some(name) = id.and_then(|id| names.get(id)) {
                let variable = match key {
                    "unknown" => "unk_token".to_string(),
                    "padding" => "pad_token".to_string(),
                    _ => format!("{key}_token"),
                };
                sources.tokens.insert(variable, (*name).into());
            }
        }
        if let Some(template) = metadata.text("tokenizer.chat_template")? {
            sources.add("default", template);
        }
        for name in ["default", "tool_use"] {
            if let Some(template) = metadata
                .text(&format!("tokenizer.chat_template.{name}"))?
                .filter(|_| name != "default" || sources.default.is_none())
            {
                sources.add(name, template);
            }
        }
        Ok(sources)
    };
    read().map_err(|problem| files.error(problem))
}

/// The names that Gemma's tokenizers have where a file gives no others.
fn default_tokens() -> Map<String, Value> {
    let names = [("bos_token", "<bos>"), ("eos_token", "<eos>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];
    names.into_iter().map(|(key, name)| (key.to_string(), name.into())).collect()
}

fn text(path: &ModelPath) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = text_file::read(path)?;
    if text.len() as u64 > MOST_BYTES {
        let problem = format!("it has {} bytes, at most {MOST_BYTES} are read of a chat template", text.len());
        return Err(format_error(path, problem));
    }
    Ok(Some(text))
}

fn json(path: &ModelPath) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    serde_json::from_str(&text_file::read(path)?).map(Some).map_err(|e| format_error(path, e.to_string()))
}

fn format_error(path: &ModelPath, problem: String) -> Error {
    Error::Format { path: path.to_path_buf(), problem }
}
