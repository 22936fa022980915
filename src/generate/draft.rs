//! Tokens that a step tries before the model has chosen them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{ModelGraphs, token_order::TokenOrder};
use crate::{
    Error, Result,
    checkpoint::load_from_path,
    files::ModelPath,
    flow::BuiltModel,
    gemma::{GemmaDrafterConfig, TARGET_EMBED, TOKEN_ORDER, WeightPosition, drafter_flow},
    ir::DType,
    weights::{EMBED_KEY, HEAD_KEY, WeightLoader, WeightMap},
};

/// Tokens that are tried at once unless [`Drafter::with_tokens`] says otherwise: with the one before them they fill a
/// bucket of runs.
const TOKENS: usize = 3;

/// Most tokens that are tried at once.
pub(crate) const MOST_DRAFTED: usize = 63;

/// The longest end of a text that is looked for in it, and the shortest.
const LONGEST_END: usize = 4;
const SHORTEST_END: usize = 2;

/// Where the tokens come from that a generator tries before its model has chosen them
/// ([`GemmaGenerator::with_drafter`](super::GemmaGenerator::with_drafter)).
///
/// Source: speculative decoding, Leviathan et al. 2023. A drafted token counts only if it is the one that the model
/// itself takes at its position, by its own logits and its own draw: so the text is the one without a drafter, and
/// follows the model's distribution.
#[derive(Debug, Clone)]
pub struct Drafter {
    tokens: usize,
    /// None: what followed earlier in the text.
    model: Option<Arc<DraftModel>>,
}

impl Drafter {
    /// Takes what followed when the last few tokens occurred before, prompt included: nothing to load, and much found
    /// where a text repeats what it was given, as code, tables and quotations do.
    ///
    /// Source: Saxena 2023, Prompt Lookup Decoding.
    pub fn prompt_lookup() -> Self {
        Self { tokens: TOKENS, model: None }
    }

    /// Takes what a drafter says, a small model that was trained beside the generator's own (`gemma4_assistant`): the
    /// files of a folder, or one file.
    ///
    /// # Errors
    /// As [`GemmaDrafterConfig::near_weights`], [`load_from_path`] and [`from_loader`](Self::from_loader). A drafter of another model is
    /// refused when it is given to a generator.
    pub fn from_path(path: impl Into<ModelPath>) -> Result<Self> {
        Self::from_files(&path.into())
    }

    fn from_files(path: &ModelPath) -> Result<Self> {
        let config = GemmaDrafterConfig::near_weights(path)?;
        Self::from_loader(config, load_from_path(path)?.as_mut())
    }

    /// As [`from_path`](Self::from_path), with the weights that are left in the loader.
    ///
    /// # Errors
    /// A weight that cannot be read.
    pub fn from_loader(config: GemmaDrafterConfig, loader: &mut dyn WeightLoader) -> Result<Self> {
        let mut config = config;
        config.layers.settle_head(loader)?;
        let mut weights = WeightMap::take_all(loader)?.kept();
        config.tell_unused(weights.remaining_keys());
        let order = if config.centroids.is_some() { Some(order_head(&mut weights, &config)?) } else { None };
        let model = DraftModel { config, order, weights, built: Mutex::default() };
        Ok(Self { tokens: TOKENS, model: Some(Arc::new(model)) })
    }

    /// Tries up to `tokens` at once, 1 to 63. Runs come in sizes of 4, 16 and 64, the last known token included: 3, 15
    /// and 63 fill one.
    ///
    /// # Errors
    /// [`Error::Option`] for another number.
    pub fn with_tokens(self, tokens: usize) -> Result<Self> {
        match tokens {
            1..=MOST_DRAFTED => Ok(Self { tokens, ..self }),
            found => Err(Error::Option { option: "Drafter::with_tokens", found, expected: format!("1 to {MOST_DRAFTED}") }),
        }
    }

    /// Most tokens that are tried at once.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The model that drafts; none where the text itself does.
    pub(super) fn model(&self) -> Option<&Arc<DraftModel>> {
        self.model.as_ref()
    }
}

/// Adds the head's rows in the order of the centroids' tokens, and says which that is.
fn order_head(weights: &mut WeightMap, config: &GemmaDrafterConfig) -> Result<TokenOrder> {
    let order = TokenOrder::read(&weights.clone().take(TOKEN_ORDER)?, config)?;
    let head = if config.layers.tie_word_embeddings { EMBED_KEY } else { HEAD_KEY };
    let ordered = order.ordered(weights.clone().take(head)?);
    weights.insert(ordered);
    Ok(order)
}

/// A drafter that is a model.
pub(crate) struct DraftModel {
    pub(crate) config: GemmaDrafterConfig,
    /// Where the head has logits of some tokens: which.
    pub(crate) order: Option<TokenOrder>,
    weights: WeightMap,
    built: Mutex<BTreeMap<DType, Arc<BuiltModel>>>,
}

impl DraftModel {
    /// Its graph beside `target`, whose caches are of type `kv`. The target's embedding is among the weights.
    pub(crate) fn built(&self, target: &ModelGraphs, kv: DType) -> Result<Arc<BuiltModel>> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = built.get(&kv) {
            return Ok(found.clone());
        }
        let embed = target.weight(WeightPosition::Embed)?;
        let flow = drafter_flow(&self.config, &target.config, embed.dtype(), kv)?;
        let mut made = flow.build(&mut self.weights.clone())?;
        made.params.insert(TARGET_EMBED.to_string(), embed);
        let made = Arc::new(made);
        built.insert(kv, made.clone());
        Ok(made)
    }
}

impl std::fmt::Debug for DraftModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftModel").field("layers", &self.config.layers.num_hidden_layers).finish_non_exhaustive()
    }
}

/// Counts of drafted and accepted tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftStats {
    /// Runs that tried tokens.
    pub runs: u64,
    /// Tokens that were tried.
    pub drafted: u64,
    /// Those among them that the model took.
    pub accepted: u64,
}

impl DraftStats {
    /// The share of the tokens tried that the model took; 0 before the first.
    pub fn acceptance(&self) -> f64 {
        self.accepted as f64 / self.drafted.max(1) as f64
    }
}

/// `count` tokens that followed the latest earlier place in `text` that has its longest end; where the text ends
/// before, it goes round.
pub(super) fn look_up(text: &[u32], count: usize) -> Vec<u32> {
    for length in (SHORTEST_END..=LONGEST_END.min(text.len().saturating_sub(1))).rev() {
        let end = &text[text.len() - length..];
        // The windows that end before the last token.
        let earlier = text[..text.len() - 1].windows(length).rposition(|window| window == end);
        if let Some(at) = earlier {
            return text[at + length..].iter().copied().cycle().take(count).collect();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
