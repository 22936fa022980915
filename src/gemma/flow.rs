//! `GemmaFlow`: from a configuration to a graph.

mod assemble;

use std::{fmt, sync::Arc};

use super::{GemmaConfig, GemmaLayerCtx};
use crate::{
    Result,
    files::ModelPath,
    flow::{Adapter, BuiltModel, EmitContext, FlowStage, ModelFlow, Projection},
    ir::NodeId,
    profile::CompileProfile,
    weights::WeightLoader,
};

/// The purpose of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GemmaMode {
    /// Whole sequences, or a chunk of new tokens with resident caches.
    Prefill,
    /// One new token after rows that the caller holds.
    Decode,
}

/// The end of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// The final norm's output at every position.
    Hidden,
    /// Logits at every position.
    AllLogits,
    /// Logits at one position a sequence.
    LastLogits,
    /// One vector a sequence.
    Pooled,
}

/// Where the compile profile comes from.
#[derive(Debug, Clone)]
enum ProfileSource {
    /// The preset of the mode.
    Preset,
    /// The caller.
    Given(CompileProfile),
    /// The file beside these weights.
    Near(ModelPath),
}

type LayerHook = dyn Fn(GemmaLayerCtx) -> FlowStage + Send + Sync;
type PatchHook = dyn Fn(ModelFlow) -> ModelFlow + Send + Sync;

/// Builds the graph of a Gemma model. Consumed by [`build`](Self::build).
///
/// A flow emits, in this order and in both modes: scaled embedding, `before_layers`, layers, `after_layers`,
/// `patch_flow`, gather of the last token, final norm, head, softcap, `at_end`. With AltUp (Gemma 3n) the value between
/// layers is `[B, T, N, D]`, N streams; before the first and after the last layer it is `[B, T, D]` as in every family.
///
/// # Which options go together
///
/// | option | prefill | decode |
/// |---|---|---|
/// | `batch` | yes; from 2 on the input `attention_mask` may be given | yes |
/// | `seq`, `dynamic_seq` | yes; with both, `seq` is the most | no: there is one new token |
/// | `past`, `dynamic_past` | no: there is no past | one of them; with both, `past` is the most |
/// | `lm_head`, `hidden_only` | yes (without either: hidden) | yes (without either: logits) |
/// | `last_token_logits` | yes | no: there is one token |
/// | `sentence_vectors` | yes | no: there is one token |
/// | `export_kv` | yes | no: K and V are always outputs |
/// | `custom_mask` | no | yes |
/// | hooks | yes | yes |
///
/// A model whose attention looks both ways (EmbeddingGemma) has no decode, no resident caches and no logits.
///
/// `build` refuses all other combinations and names the option. Where an option is called twice the later call holds.
///
/// # Inputs and outputs
///
/// Prefill, graph `gemma`: inputs `input_ids` `[B, T]` u32; from B = 2 on, optionally, `attention_mask` `[B, T]` f32 (1
/// live, 0 padding, on either side); with `dynamic_seq` and `last_token_logits`, `last_token_idx` `[B]` u32. Outputs
/// `logits` `[B, T, V]` (or `[B, 1, V]`), or `hidden` `[B, T, D]`, or `sentence` `[B, W]`. With `export_kv` then `k_0`,
/// `v_0`, `k_1`, … `[B, T, K·H]`, K and H those of the layer, for each layer that owns keys and values
/// ([`GemmaConfig::num_kv_layers`]).
///
/// Decode, graph `gemma_decode`: inputs `input_ids` `[B, 1]` u32, and `past_k_0`, `past_v_0`, `past_k_1`, …
/// `[B, past, K·H]`. With `dynamic_past` also `position` `[B]` u32, the number of live rows and so the new token's
/// position. With `custom_mask` also `mask` `[B, past + 1]` f32, whose entries below 0.5 drop a key. The caller may
/// give rotary rows of its own, `rope_cos`, `rope_sin` `[1, H/2]` (models with two tables: `rope_cos_sliding`,
/// `rope_sin_sliding`, `rope_cos_full`, `rope_sin_full`). Outputs `logits` `[B, 1, V]` (or `hidden` `[B, 1, D]`), then
/// `k_0`, `v_0`, `k_1`, … `[B, past + 1, K·H]`, the new row last. Of `past_k_i` and `past_v_i` the first `position`
/// rows of each sequence are live: in a batch of unequal lengths
/// [`KvCacheState::live_rows_first`](crate::generate::KvCacheState::live_rows_first) makes that so again after a step.
#[derive(Clone)]
pub struct GemmaFlow<'a> {
    config: &'a GemmaConfig,
    mode: GemmaMode,
    resident: bool,
    batch: usize,
    seq: Option<usize>,
    dynamic_seq: bool,
    past: Option<usize>,
    dynamic_past: bool,
    head: Option<Head>,
    export_kv: bool,
    custom_mask: bool,
    host_tables: bool,
    soft_tokens: bool,
    profile: ProfileSource,
    before_layers: Vec<FlowStage>,
    after_layers: Vec<FlowStage>,
    layer: Option<Arc<LayerHook>>,
    patch_flow: Option<Arc<PatchHook>>,
    adapters: Vec<Arc<Adapter>>,
    at_end: Vec<FlowStage>,
}

/// Tokens of a prefill where nothing else is said.
const DEFAULT_SEQ: usize = 128;

impl<'a> GemmaFlow<'a> {
    /// Prefill of one sequence of 128 tokens, final hidden states, no hooks.
    pub fn new(config: &'a GemmaConfig) -> Self {
        Self {
            config,
            mode: GemmaMode::Prefill,
            resident: false,
            batch: 1,
            seq: None,
            dynamic_seq: false,
            past: None,
            dynamic_past: false,
            head: None,
            export_kv: false,
            custom_mask: false,
            host_tables: false,
            soft_tokens: false,
            profile: ProfileSource::Preset,
            before_layers: Vec::new(),
            after_layers: Vec::new(),
            layer: None,
            patch_flow: None,
            adapters: Vec::new(),
            at_end: Vec::new(),
        }
    }

    /// Prefill of `batch` sequences of `seq` tokens.
    pub fn for_prefill(config: &'a GemmaConfig, batch: usize, seq: usize) -> Self {
        Self::new(config).batch(batch).seq(seq)
    }

    /// One decode step of `batch` sequences after `past_seq` rows that the caller holds, with the LM head.
    pub fn for_decode(config: &'a GemmaConfig, batch: usize, past_seq: usize) -> Self {
        Self::new(config).decode().batch(batch).past(past_seq)
    }

    /// The form that generation uses, for prefill chunks and decode steps alike: any number of new tokens of one
    /// sequence, keys and values in caches that stay on the device. The sizes [`sym::SEQ`](crate::ir::sym::SEQ),
    /// [`sym::CACHE`](crate::ir::sym::CACHE) and [`sym::RING`](crate::ir::sym::RING) are bound when it is compiled.
    pub fn resident(config: &'a GemmaConfig) -> Self {
        Self { resident: true, ..Self::new(config) }.dynamic_seq()
    }

    /// Leaves the table of per-layer embeddings on the host, for a generator.
    pub(crate) fn host_tables(mut self, host: bool) -> Self {
        self.host_tables = host;
        self
    }

    /// Takes soft tokens in place of token embeddings, for a generator.
    pub(crate) fn soft_tokens(mut self, soft: bool) -> Self {
        self.soft_tokens = soft;
        self
    }

    /// Whole sequences.
    pub fn prefill(mut self) -> Self {
        self.mode = GemmaMode::Prefill;
        self
    }

    /// One new token after rows that the caller holds.
    pub fn decode(mut self) -> Self {
        self.mode = GemmaMode::Decode;
        self
    }

    /// Number of sequences.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Tokens in each sequence; with [`dynamic_seq`](Self::dynamic_seq) the most.
    pub fn seq(mut self, seq: usize) -> Self {
        self.seq = Some(seq);
        self
    }

    /// Rows of the cache that the caller holds; with [`dynamic_past`](Self::dynamic_past) the most.
    pub fn past(mut self, past: usize) -> Self {
        self.past = Some(past);
        self
    }

    /// [`sym::SEQ`](crate::ir::sym::SEQ) instead of a number: one graph for every length, up to [`seq`](Self::seq)
    /// where it is given, else up to the model's context.
    pub fn dynamic_seq(mut self) -> Self {
        self.dynamic_seq = true;
        self
    }

    /// [`sym::PAST_SEQ`](crate::ir::sym::PAST_SEQ) instead of a number: one graph for every length of the past, up to
    /// [`past`](Self::past) where it is given, else up to the model's context.
    pub fn dynamic_past(mut self) -> Self {
        self.dynamic_past = true;
        self
    }

    /// Logits of all positions.
    pub fn lm_head(mut self) -> Self {
        self.head = Some(Head::AllLogits);
        self
    }

    /// Final hidden states instead of logits.
    pub fn hidden_only(mut self) -> Self {
        self.head = Some(Head::Hidden);
        self
    }

    /// Logits of one position a sequence: the last, in a batch the last live one, or with
    /// [`dynamic_seq`](Self::dynamic_seq) the one that the input `last_token_idx` names.
    pub fn last_token_logits(mut self) -> Self {
        self.head = Some(Head::LastLogits);
        self
    }

    /// One vector a sequence, as a model that embeds texts has it before it is made a unit vector: the mean of the live
    /// tokens' final hidden states (EmbeddingGemma 2: projected), then the products of
    /// [`GemmaConfig::embedding_dense`].
    pub fn sentence_vectors(mut self) -> Self {
        self.head = Some(Head::Pooled);
        self
    }

    /// Adds each layer's K (after RoPE) and V as outputs `k_0`, `v_0`, `k_1`, … `[B, T, K·H]`.
    pub fn export_kv(mut self) -> Self {
        self.export_kv = true;
        self
    }

    /// Decode takes the input `mask`; it drops keys besides those that the layer's own mask drops, and replaces
    /// nothing.
    pub fn custom_mask(mut self) -> Self {
        self.custom_mask = true;
        self
    }

    /// Lets every product of a weight go through `adapter`, in the whole model: layers, whatever hook makes them, and
    /// what stands before and behind them, embedding and LM head included. [`FlowStage::adapted`] does so for one
    /// stage.
    pub fn adapted(
        mut self,
        adapter: impl Fn(&mut EmitContext, &Projection) -> anyhow::Result<NodeId> + Send + Sync + 'static,
    ) -> Self {
        self.adapters.push(Arc::new(adapter));
        self
    }

    /// Emits `stages` behind all else: they get the model's output and see what all stages shared. The values that they
    /// return are not read.
    pub fn at_end(mut self, stages: impl IntoIterator<Item = FlowStage>) -> Self {
        self.at_end.extend(stages);
        self
    }

    /// Compiles as `profile` says instead of as the mode's preset does.
    pub fn profile(mut self, profile: CompileProfile) -> Self {
        self.profile = ProfileSource::Given(profile);
        self
    }

    /// Compiles as the preset of prefill says, in either mode.
    pub fn profile_prefill(self) -> Self {
        self.profile(CompileProfile::gemma_prefill())
    }

    /// Compiles as the preset of decode says, in either mode.
    pub fn profile_decode(self) -> Self {
        self.profile(CompileProfile::gemma_decode())
    }

    /// Compiles as the file [`GEMMA_PROFILE_FILE`](crate::profile::GEMMA_PROFILE_FILE) beside the weights says for the
    /// mode that the flow has when it is built; as the mode's preset where there is none.
    pub fn profile_near(mut self, weights: impl Into<ModelPath>) -> Self {
        self.profile = ProfileSource::Near(weights.into());
        self
    }

    /// True if a profile was chosen.
    pub(crate) fn has_profile(&self) -> bool {
        !matches!(self.profile, ProfileSource::Preset)
    }

    /// Stages between the scaled embedding and the first layer.
    pub fn before_layers(mut self, stages: impl IntoIterator<Item = FlowStage>) -> Self {
        self.before_layers.extend(stages);
        self
    }

    /// Stages between the last layer and the final norm.
    pub fn after_layers(mut self, stages: impl IntoIterator<Item = FlowStage>) -> Self {
        self.after_layers.extend(stages);
        self
    }

    /// Decides each layer; [`GemmaLayerCtx::default_stage`] is the stock one.
    pub fn layer(mut self, f: impl Fn(GemmaLayerCtx) -> FlowStage + Send + Sync + 'static) -> Self {
        self.layer = Some(Arc::new(f));
        self
    }

    /// Changes the assembled flow: called once, after the layers and `after_layers`, before gather and final norm.
    pub fn patch_flow(mut self, f: impl Fn(ModelFlow) -> ModelFlow + Send + Sync + 'static) -> Self {
        self.patch_flow = Some(Arc::new(f));
        self
    }

    /// Emits the graph. Weights are taken from the loader as handles, and none of their bytes are read but where a head
    /// is stored beside the embedding: then of both as much as tells whether they are the same
    /// ([`GemmaConfig::settle_head`]). Warns of weights that are left in the loader and not known to be of no use.
    ///
    /// # Errors
    /// [`Error::Profile`](crate::Error::Profile) for a profile that cannot be understood.
    /// [`Error::Builder`](crate::Error::Builder) for sizes of zero and for an option that can have no effect (see the
    /// table above). [`Error::Unsupported`](crate::Error::Unsupported) for decode, resident caches or logits with a
    /// model whose attention looks both ways. [`Error::ContextFull`](crate::Error::ContextFull) for sizes past the
    /// model's context. [`Error::Config`](crate::Error::Config), errors of a hook's stages, and those of the loader for
    /// a weight.
    pub fn build(self, loader: &mut dyn WeightLoader) -> Result<BuiltModel> {
        self.config.validate()?;
        let mut config = self.config.clone();
        config.settle_head(loader)?;
        let built = GemmaFlow { config: &config, ..self }.emit(loader)?;
        config.tell_unused(loader.remaining_keys());
        Ok(built)
    }

    /// As [`build`](Self::build), of a configuration whose head is settled; says nothing of weights that are left.
    pub(crate) fn emit(self, loader: &mut dyn WeightLoader) -> Result<BuiltModel> {
        self.config.validate()?;
        self.check()?;
        let profile = self.resolve_profile()?;
        self.assemble(&profile)?.build(loader)
    }
}

impl fmt::Debug for GemmaFlow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GemmaFlow")
            .field("arch", &self.config.arch)
            .field("mode", &self.mode)
            .field("resident", &self.resident)
            .field("batch", &self.batch)
            .field("seq", &self.seq)
            .field("dynamic_seq", &self.dynamic_seq)
            .field("past", &self.past)
            .field("dynamic_past", &self.dynamic_past)
            .field("head", &self.head)
            .field("export_kv", &self.export_kv)
            .field("custom_mask", &self.custom_mask)
            .field("profile", &self.profile)
            .field("before_layers", &self.before_layers.len())
            .field("after_layers", &self.after_layers.len())
            .field("layer hooks", &usize::from(self.layer.is_some()))
            .field("patch hooks", &usize::from(self.patch_flow.is_some()))
            .field("adapters", &self.adapters.len())
            .field("at_end", &self.at_end.len())
            .finish()
    }
}
