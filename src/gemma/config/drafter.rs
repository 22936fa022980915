//! Configurations of drafters, the small models beside a Gemma 4 that propose tokens (docs/gemma.md, Drafters).

use super::{
    GemmaConfig, LayerKind, PerLayerInput,
    absent::Defaults,
    family::DRAFTER,
    gguf,
    json::{self, HARMLESS, named, parse},
    quantised,
};
use crate::{
    Error, Result,
    files::ModelPath,
    gemma::{TOKEN_ORDER, WeightPosition},
    ir::ops::MOST_UNGROUPED,
    text_file,
    weights::{GgufFiles, ReadMode, ReadOptions, is_gguf},
};

/// The `model_type`s of drafters, and of the text models in them.
const MODEL_TYPES: [(&str, &str); 2] = [("gemma4_assistant", "gemma4_text"), ("gemma4_unified_assistant", "gemma4_unified_text")];

/// The configuration of a drafter (`gemma4_assistant`): a few layers of Gemma 4 that attend to the keys and values of
/// the model that it drafts for, its target, and own none.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GemmaDrafterConfig {
    /// Its layers, embedding and norms. Its fields for keys and values have no meaning: the drafter attends to the
    /// target's.
    pub layers: GemmaConfig,
    /// Model dimension B of the target.
    pub backbone_hidden_size: usize,
    /// Keys before the drafted token that a sliding layer sees.
    pub draft_window: usize,
    /// The centroids by which the head chooses among tokens (`use_ordered_embeddings`); `None`: it has logits of all
    /// tokens.
    pub centroids: Option<Centroids>,
}

/// Centroids of a drafter's tokens, each of V/C tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Centroids {
    /// Centroids C (`num_centroids`).
    pub num_centroids: usize,
    /// Centroids whose tokens have logits (`centroid_intermediate_top_k`).
    pub intermediate_top_k: usize,
}

impl GemmaDrafterConfig {
    /// Reads the configuration of a drafter that is given as its weights: a GGUF file, a folder with a `config.json`,
    /// or a file with one beside it.
    ///
    /// transformers lets sliding layers see one key more than the target's window, llama.cpp one less; files of each
    /// keep its rule. It changes what is drafted, never what is generated.
    ///
    /// # Errors
    /// As [`GemmaConfig::near_weights`]; [`Error::Config`] where the file is no drafter's.
    pub fn near_weights(weights: impl Into<ModelPath>) -> Result<Self> {
        Self::from_files(&weights.into())
    }

    fn from_files(path: &ModelPath) -> Result<Self> {
        if is_gguf(path) {
            let files = GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, ..ReadOptions::default() })?;
            return Self::from_gguf(&files).map_err(|error| named(path, error));
        }
        let file = path.folder().join("config.json");
        Self::from_json(&text_file::read(&file)?).map_err(|error| named(&file, error))
    }

    fn from_gguf(files: &GgufFiles) -> Result<Self> {
        let found = files.architecture()?;
        if found != DRAFTER {
            return Err(not_a_drafter("general.architecture", found, DRAFTER));
        }
        let (layers, backbone_hidden_size) = gguf::read_drafter(files)?;
        let draft_window = layers.sliding_window.unwrap_or(1).saturating_sub(1);
        // The converter drops centroids; logits of all tokens need none.
        Self { layers, backbone_hidden_size, draft_window, centroids: None }.checked()
    }

    /// Reads the text of a drafter's `config.json`.
    ///
    /// # Errors
    /// As [`GemmaConfig::from_json`]; [`Error::Config`] where it is no drafter's.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut top = parse(text)?;
        top.take("architectures");
        quantised::refuse(&mut top)?;
        let found = top.text("model_type")?.unwrap_or_default();
        let Some((model_type, text_model)) = MODEL_TYPES.iter().find(|(drafter, _)| *drafter == found) else {
            return Err(not_a_drafter("model_type", &found, MODEL_TYPES[0].0));
        };
        let defaults = Defaults::config_json(model_type);
        let Some(mut layers) = top.object("text_config")? else {
            return Err(Error::Config(format!("model_type is {found:?}, but there is no text_config")));
        };
        layers.take("model_type");
        // All layers attend to the target's keys and values.
        layers.set("num_kv_shared_layers", 0.into());
        let backbone_hidden_size = top.size_or(&defaults, "backbone_hidden_size")?;
        let ordered = top.switch_or(&defaults, "use_ordered_embeddings")?;
        let centroids = Centroids {
            num_centroids: top.size_or(&defaults, "num_centroids")?,
            intermediate_top_k: top.size_or(&defaults, "centroid_intermediate_top_k")?,
        };
        let centroids = Some(centroids).filter(|_| ordered);
        if let Some(tied) = top.take("tie_word_embeddings") {
            layers.set("tie_word_embeddings", tied);
        }
        top.drop_repeated(&layers);
        top.finish(&[HARMLESS])?;
        let layers = json::from_text(layers, text_model)?;
        let draft_window = layers.sliding_window.unwrap_or(0).saturating_add(1);
        Self { layers, backbone_hidden_size, draft_window, centroids }.checked()
    }

    fn checked(self) -> Result<Self> {
        let most = 1 << 20;
        let problem = if self.backbone_hidden_size == 0 || self.backbone_hidden_size > most {
            format!("backbone_hidden_size is {}, expected 1 to {most}", self.backbone_hidden_size)
        } else if let Some(PerLayerInput { hidden_size, .. }) = self.layers.per_layer_input {
            format!("hidden_size_per_layer_input is {hidden_size}, expected 0: drafters have no per-layer embeddings")
        } else if let Some(centroids) = self.centroids.filter(|centroids| !centroids.fit(self.layers.vocab_size)) {
            let Centroids { num_centroids, intermediate_top_k } = centroids;
            let vocab = self.layers.vocab_size;
            format!(
                "num_centroids is {num_centroids}, centroid_intermediate_top_k {intermediate_top_k}; expected a divisor of vocab_size \
                 {vocab}, at most {MOST_UNGROUPED}, and 1 to {num_centroids}"
            )
        } else {
            return Ok(self);
        };
        Err(Error::Config(problem))
    }

    /// As [`GemmaConfig::tell_unused`], of a drafter's weights.
    pub(crate) fn tell_unused(&self, left: impl IntoIterator<Item = String>) {
        let own = |key: &str| {
            let position = WeightPosition::from_hugging_face(self.layers.arch, key);
            let drafts = [WeightPosition::DraftInput, WeightPosition::DraftOutput, WeightPosition::DraftCentroids];
            key == TOKEN_ORDER || position.is_some_and(|position| drafts.contains(&position))
        };
        self.layers.tell_unused(left.into_iter().filter(|key| !own(key)));
    }

    /// The layer of `target` whose keys and values a layer of this drafter attends to.
    ///
    /// # Errors
    /// [`Error::Config`] where the two do not belong together; it names what differs.
    pub fn kv_source(&self, layer: usize, target: &GemmaConfig) -> Result<usize> {
        let kind = self.layers.layer_types[layer];
        let own = &target.layer_types[..target.num_kv_layers()];
        let none = || {
            let kind = if kind == LayerKind::Full { "full" } else { "sliding" };
            Error::Config(format!(
                "layer {layer} of the drafter attends to a {kind} layer's keys, and the target has no such layer"
            ))
        };
        let source = own.iter().rposition(|other| *other == kind).ok_or_else(none)?;
        let heads = (self.layers.num_attention_heads, target.layer_kv_heads(source));
        let dims = (self.layers.layer_head_dim(layer), target.layer_head_dim(source));
        if dims.0 != dims.1 || !heads.0.is_multiple_of(heads.1.max(1)) {
            return Err(Error::Config(format!(
                "layer {layer} of the drafter has {} heads of {}, and layer {source} of the target has {} of {}: \
                 the drafter is another model's",
                heads.0, dims.0, heads.1, dims.1
            )));
        }
        Ok(source)
    }

    /// Checks that this drafter is one for `target`.
    ///
    /// # Errors
    /// [`Error::Config`] names what differs.
    pub fn validate_for(&self, target: &GemmaConfig) -> Result<()> {
        for (what, own, other) in [
            ("backbone_hidden_size", self.backbone_hidden_size, target.hidden_size),
            ("vocab_size", self.layers.vocab_size, target.vocab_size),
        ] {
            if own != other {
                let problem = format!("the drafter's {what} is {own}, the target has {other}: the drafter is another model's");
                return Err(Error::Config(problem));
            }
        }
        (0..self.layers.num_hidden_layers).try_for_each(|layer| self.kv_source(layer, target).map(|_| ()))
    }
}

impl Centroids {
    fn fit(&self, vocab_size: usize) -> bool {
        let counted = (1..=MOST_UNGROUPED).contains(&self.num_centroids);
        counted && vocab_size.is_multiple_of(self.num_centroids) && (1..=self.num_centroids).contains(&self.intermediate_top_k)
    }
}

fn not_a_drafter(key: &str, found: &str, expected: &str) -> Error {
    let shown: String = found.chars().take(60).collect();
    Error::Config(format!("{key} is {shown:?}, a drafter's is {expected:?}"))
}
