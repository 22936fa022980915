//! The builder's options as plain structs, for callers that read them from a configuration.

use super::{GemmaConfig, GemmaFlow};
use crate::{
    Result,
    flow::{BuiltModel, HirModule, ModelParams},
    ir::Graph,
    profile::CompileProfile,
    weights::WeightLoader,
};

/// Options of a prefill graph; each field is the method of [`GemmaFlow`] with its name.
#[derive(Debug, Clone, Default)]
pub struct GemmaPrefillOpts {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each; with `dynamic_seq` the most.
    pub seq: usize,
    /// Any number of tokens.
    pub dynamic_seq: bool,
    /// Logits instead of final hidden states.
    pub with_lm_head: bool,
    /// K and V of each layer as outputs.
    pub with_kv_outputs: bool,
    /// Logits of the last position alone; without effect unless `with_lm_head`, and so an error.
    pub last_logits_only: bool,
    /// How the graph is to be compiled; the preset of prefill where nothing is said.
    pub profile: Option<CompileProfile>,
}

impl GemmaPrefillOpts {
    /// `batch` sequences of `seq` tokens, final hidden states.
    pub fn static_prefill(batch: usize, seq: usize) -> Self {
        Self { batch, seq, ..Self::default() }
    }

    fn flow<'a>(&self, config: &'a GemmaConfig) -> Result<GemmaFlow<'a>> {
        let mut flow = GemmaFlow::for_prefill(config, self.batch, self.seq);
        flow = if self.dynamic_seq { flow.dynamic_seq() } else { flow };
        flow = if self.with_kv_outputs { flow.export_kv() } else { flow };
        flow = match &self.profile {
            Some(profile) => flow.profile(profile.clone()),
            None => flow,
        };
        match (self.with_lm_head, self.last_logits_only) {
            (false, false) => Ok(flow),
            (true, false) => Ok(flow.lm_head()),
            (true, true) => Ok(flow.last_token_logits()),
            (false, true) => {
                let problem = "last_logits_only has no effect without with_lm_head: set both, or neither";
                Err(crate::Error::Builder(problem.into()))
            }
        }
    }
}

/// Options of a decode graph; each field is the method of [`GemmaFlow`] with its name.
#[derive(Debug, Clone, Default)]
pub struct GemmaDecodeOpts {
    /// Sequences.
    pub batch: usize,
    /// Rows of the caller's cache; with `dynamic_past` the most.
    pub past_seq: usize,
    /// Any number of rows.
    pub dynamic_past: bool,
    /// The caller gives a mask over the keys.
    pub use_custom_mask: bool,
    /// How the graph is to be compiled; the preset of decode where nothing is said.
    pub profile: Option<CompileProfile>,
}

impl GemmaDecodeOpts {
    fn flow<'a>(&self, config: &'a GemmaConfig) -> GemmaFlow<'a> {
        let mut flow = GemmaFlow::for_decode(config, self.batch, self.past_seq);
        flow = if self.dynamic_past { flow.dynamic_past() } else { flow };
        flow = match &self.profile {
            Some(profile) => flow.profile(profile.clone()),
            None => flow,
        };
        if self.use_custom_mask { flow.custom_mask() } else { flow }
    }
}

/// A prefill graph with its weights.
///
/// # Errors
/// As [`GemmaFlow::build`].
pub fn build_gemma_prefill_built(
    config: &GemmaConfig,
    opts: &GemmaPrefillOpts,
    loader: &mut dyn WeightLoader,
) -> Result<BuiltModel> {
    opts.flow(config)?.build(loader)
}

/// A decode graph with its weights.
///
/// # Errors
/// As [`GemmaFlow::build`].
pub fn build_gemma_decode_built(
    config: &GemmaConfig,
    opts: &GemmaDecodeOpts,
    loader: &mut dyn WeightLoader,
) -> Result<BuiltModel> {
    opts.flow(config).build(loader)
}

/// A prefill graph as it is authored.
///
/// # Errors
/// As [`GemmaFlow::build`].
pub fn build_gemma_prefill_flow(
    config: &GemmaConfig,
    opts: &GemmaPrefillOpts,
    loader: &mut dyn WeightLoader,
) -> Result<(HirModule, ModelParams)> {
    Ok(build_gemma_prefill_built(config, opts, loader)?.into_parts())
}

/// A decode graph as it is authored.
///
/// # Errors
/// As [`GemmaFlow::build`].
pub fn build_gemma_decode_flow(
    config: &GemmaConfig,
    opts: &GemmaDecodeOpts,
    loader: &mut dyn WeightLoader,
) -> Result<(HirModule, ModelParams)> {
    Ok(build_gemma_decode_built(config, opts, loader)?.into_parts())
}

/// A decode graph, lowered.
///
/// # Errors
/// As [`GemmaFlow::build`].
pub fn build_gemma_decode_graph(
    config: &GemmaConfig,
    opts: &GemmaDecodeOpts,
    loader: &mut dyn WeightLoader,
) -> Result<(Graph, ModelParams)> {
    build_gemma_decode_built(config, opts, loader)?.into_graph_parts()
}
