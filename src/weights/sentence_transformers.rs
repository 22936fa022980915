//! Files of sentence-transformers beside a checkpoint: `modules.json` with a folder for each module, the prompts of
//! tasks, and the lengths of texts and vectors.
//!
//! The meaning of absent keys:
//!
//! | File | Key | Absent |
//! |---|---|---|
//! | `modules.json` | the file | no products after the mean; an embedder tells so by a warning |
//! | pooling | `pooling_mode`, `pooling_mode_mean_tokens` | refused: files always name one |
//! | pooling | `include_prompt` | true, the class's default and the one way that is computed |
//! | dense | `bias` | true, the class's default, which is refused |
//! | dense | `activation_function` | tanh, the class's default, which is refused |
//! | dense | `use_residual` | false, the class's default |
//! | dense | `module_input_name`, `module_output_name` | `sentence_embedding`, the class's default |
//! | `sentence_bert_config.json` | `max_seq_length` | the tokenizer's `model_max_length`, at most `max_position_embeddings` |
//! | `sentence_bert_config.json` | `do_lower_case` | false, the class's default |
//! | `config_sentence_transformers.json` | `prompts` | those of EmbeddingGemma's model card |
//! | `config_sentence_transformers.json` | `truncate_dim` | whole vectors |

use std::{collections::BTreeMap, path::Component};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, Result, files::ModelPath, text_file};

/// The prompts of a model by the names of tasks.
type Prompts = BTreeMap<String, String>;

/// How a checkpoint's hidden states become a text's vector: the mean of its tokens, then products.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentenceModules {
    /// The widths that each dense module reads and writes, in order.
    pub(crate) dense: Vec<(usize, usize)>,
}

/// One entry of `modules.json`.
struct Module {
    kind: String,
    folder: ModelPath,
}

impl SentenceModules {
    /// The modules that lie beside `file`; `None` where there are none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`] for files that are not what they should be, [`Error::Unsupported`] for modules
    /// that compute something else.
    pub(crate) fn beside(file: &ModelPath) -> Result<Option<Self>> {
        let path = modules_path(file);
        let Some(modules) = modules(&path)? else { return Ok(None) };
        let mut dense = Vec::new();
        let mut pooled = false;
        for (at, Module { kind, folder }) in modules.iter().enumerate() {
            match (kind.as_str(), pooled) {
                ("Transformer", _) if at == 0 => {}
                ("Pooling", false) if at == 1 => {
                    check_pooling(&folder.join("config.json"))?;
                    pooled = true;
                }
                ("Dense", true) => dense.push(dense_sizes(&folder.join("config.json"))?),
                ("Normalize", true) if at + 1 == modules.len() => {}
                (other, _) => {
                    let order = "a Transformer, a Pooling, any Dense, and a Normalize at the end are";
                    let what = format!("{}: module {at}, '{other}' ({order}),", path.display());
                    return Err(Error::Unsupported(what));
                }
            }
        }
        if !pooled {
            return Err(Error::Unsupported(format!("{}: modules without a Pooling, one vector a token,", path.display())));
        }
        Ok(Some(Self { dense }))
    }
}

/// Settings of texts and vectors in sentence-transformers' own files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SentenceSettings {
    pub(crate) prompts: Prompts,
    /// Numbers of a vector that are kept; more than it has keeps all.
    pub(crate) truncate_dim: Option<usize>,
    /// Most tokens of a text; more than the model takes says nothing.
    pub(crate) max_seq_length: Option<usize>,
}

impl SentenceSettings {
    /// The settings that lie beside `file`; none of a file that is not there.
    ///
    /// # Errors
    /// As [`SentenceModules::beside`].
    pub(crate) fn beside(file: &ModelPath) -> Result<Self> {
        #[derive(Deserialize, Default)]
        struct Settings {
            #[serde(default)]
            prompts: Prompts,
            #[serde(default)]
            truncate_dim: Option<usize>,
        }
        #[derive(Deserialize, Default)]
        struct Transformer {
            #[serde(default)]
            max_seq_length: Option<usize>,
            #[serde(default)]
            do_lower_case: Option<bool>,
        }
        #[derive(Deserialize, Default)]
        struct Tokenizer {
            #[serde(default)]
            model_max_length: Option<f64>,
        }
        let folder = file.folder();
        let own: Settings = parse_if_there(&folder.join("config_sentence_transformers.json"))?;
        let path = folder.join("sentence_bert_config.json");
        let transformer: Transformer = parse_if_there(&path)?;
        if transformer.do_lower_case == Some(true) {
            return Err(Error::Unsupported(format!("{}: do_lower_case (false is), which", path.display())));
        }
        let tokenizer: Tokenizer = parse_if_there(&folder.join("tokenizer_config.json"))?;
        // Tokenizers without a limit have 1e30.
        let tokens = tokenizer.model_max_length.filter(|tokens| (1.0..1e9).contains(tokens)).map(|tokens| tokens as usize);
        let max_seq_length = transformer.max_seq_length.or(tokens);
        Ok(Self { prompts: own.prompts, truncate_dim: own.truncate_dim, max_seq_length })
    }
}

fn parse_if_there<T: serde::de::DeserializeOwned + Default>(path: &ModelPath) -> Result<T> {
    if path.is_file() { parse(path) } else { Ok(T::default()) }
}

/// The files with the weights of the dense modules beside `file`, by their order; those that are not there are left
/// out.
pub(crate) fn dense_files(file: &ModelPath) -> Result<Vec<(usize, ModelPath)>> {
    let modules = modules(&modules_path(file))?.unwrap_or_default();
    let dense = modules.into_iter().filter(|module| module.kind == "Dense");
    let files = dense.map(|module| module.folder.join("model.safetensors")).enumerate();
    Ok(files.filter(|(_, path)| path.is_file()).collect())
}

fn modules_path(file: &ModelPath) -> ModelPath {
    file.folder().join("modules.json")
}

/// The modules that `path` lists; `None` where there is no such file.
fn modules(path: &ModelPath) -> Result<Option<Vec<Module>>> {
    #[derive(Deserialize)]
    struct Listed {
        #[serde(default)]
        path: String,
        #[serde(rename = "type")]
        kind: String,
    }
    if !path.is_file() {
        return Ok(None);
    }
    let module = |listed: Listed| {
        let mut parts = std::path::Path::new(&listed.path).components();
        // A module lies in a folder of its own or beside the list: a list must not lead elsewhere.
        if !matches!((parts.next(), parts.next()), (None | Some(Component::Normal(_)), None)) {
            let problem = format!("a module lies in {:?}, expected the name of a folder beside it", listed.path);
            return Err(Error::Format { path: path.to_path_buf(), problem });
        }
        let kind = listed.kind.rsplit('.').next().unwrap_or_default().to_string();
        Ok(Module { kind, folder: path.folder().join(&listed.path) })
    };
    parse::<Vec<Listed>>(path)?.into_iter().map(module).collect::<Result<_>>().map(Some)
}

/// Refuses every pooling but the mean of all tokens.
fn check_pooling(path: &ModelPath) -> Result<()> {
    let config: Map<String, Value> = parse(path)?;
    let refuse = |what: String| Err(Error::Unsupported(format!("{}: {what} (the mean of all tokens is)", path.display())));
    let mut mean = false;
    for (key, value) in &config {
        match (key.as_str(), value) {
            ("pooling_mode", Value::String(mode)) if mode == "mean" => mean = true,
            ("pooling_mode", Value::Array(modes)) if modes[..] == [Value::from("mean")] => mean = true,
            ("pooling_mode", mode) => return refuse(format!("pooling_mode {mode}")),
            ("pooling_mode_mean_tokens", Value::Bool(on)) => mean = *on,
            (mode, Value::Bool(true)) if mode.starts_with("pooling_mode_") => return refuse(mode.to_string()),
            ("include_prompt", Value::Bool(false)) => return refuse("include_prompt false".to_string()),
            _ => {}
        }
    }
    if mean { Ok(()) } else { refuse("no pooling_mode_mean_tokens".to_string()) }
}

/// The widths that a dense module reads and writes; refuses one that computes more than a product.
fn dense_sizes(path: &ModelPath) -> Result<(usize, usize)> {
    #[derive(Deserialize)]
    struct Dense {
        in_features: usize,
        out_features: usize,
        #[serde(default = "yes")]
        bias: bool,
        #[serde(default)]
        activation_function: Option<String>,
        #[serde(default)]
        use_residual: bool,
        #[serde(default)]
        module_input_name: Option<String>,
        #[serde(default)]
        module_output_name: Option<String>,
    }
    let dense: Dense = parse(path)?;
    let refuse = |what: String| Err(Error::Unsupported(format!("{}: {what}", path.display())));
    for (key, name) in [("module_input_name", &dense.module_input_name), ("module_output_name", &dense.module_output_name)] {
        if let Some(name) = name.as_ref().filter(|name| *name != "sentence_embedding") {
            return refuse(format!("{key} {name:?} of a dense module (\"sentence_embedding\" is), which"));
        }
    }
    if dense.use_residual {
        return refuse("use_residual of a dense module (false is), which".into());
    }
    match dense.activation_function.as_deref().and_then(|name| name.rsplit('.').next()) {
        Some("Identity") if !dense.bias => Ok((dense.in_features, dense.out_features)),
        Some("Identity") => refuse("a dense module with a bias".into()),
        // sentence-transformers takes tanh where nothing is said.
        Some(other) => refuse(format!("the activation_function {other:?} of a dense module (Identity is)")),
        None => refuse("a dense module without an activation_function (Identity is)".into()),
    }
}

const fn yes() -> bool {
    true
}

fn parse<T: serde::de::DeserializeOwned>(path: &ModelPath) -> Result<T> {
    let format = |problem| Error::Format { path: path.to_path_buf(), problem };
    serde_json::from_str(&text_file::read(path)?).map_err(|e| format(e.to_string()))
}
