//! From a [`GemmaFlow`] to stages: the checks of its options, and the assembly.

use std::sync::Arc;

use super::{DEFAULT_SEQ, GemmaFlow, GemmaMode, Head, ProfileSource};
use crate::{
    Error, Result,
    flow::{FlowStage, ModelFlow, SideOutputs},
    gemma::{
        AltUpMergeStage, AltUpSplitStage, DecodeRopeParamsStage, EmbedScaleStage, GemmaConfig, GemmaDecodeLayerSpec,
        GemmaLayerCtx, GemmaRmsNormStage, LmHeadStage, LogitSoftcapStage, PleInputsStage, PoolingStage, RopeTablesStage,
        SelfAttnPrefillSpec, WeightPosition,
        blocks::{SoftTokensStage, weight_key},
        hard_tokens::HardTokensStage,
    },
    ir::{DType, Dim, Shape, sym},
    profile::CompileProfile,
};

impl GemmaFlow<'_> {
    pub(super) fn resolve_profile(&self) -> Result<CompileProfile> {
        let decode = self.mode == GemmaMode::Decode;
        match &self.profile {
            ProfileSource::Given(profile) => Ok(profile.clone()),
            ProfileSource::Near(weights) => CompileProfile::near_weights(weights, decode),
            ProfileSource::Preset if decode => Ok(CompileProfile::gemma_decode()),
            ProfileSource::Preset => Ok(CompileProfile::gemma_prefill()),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let decode = self.mode == GemmaMode::Decode;
        let last = self.head == Some(Head::LastLogits);
        let refused = [
            (self.batch == 0, "batch is 0, expected at least 1"),
            (self.seq == Some(0), "seq is 0, expected at least 1"),
            (decode && self.seq.is_some(), "seq has no effect in decode, where there is one new token"),
            (decode && self.dynamic_seq, "dynamic_seq has no effect in decode, where there is one new token"),
            (decode && last, "last_token_logits has no effect in decode, where there is one token; use lm_head"),
            (decode && self.head == Some(Head::Pooled), "sentence_vectors has no effect in decode, where there is one token"),
            (decode && self.export_kv, "export_kv has no effect in decode, whose K and V are outputs already"),
            (decode && self.past.is_none() && !self.dynamic_past, "decode needs past or dynamic_past"),
            (decode && self.past == Some(0), "past is 0: a first token has no past, use prefill for it"),
            (!decode && self.past.is_some(), "past has no effect in prefill"),
            (!decode && self.dynamic_past, "dynamic_past has no effect in prefill"),
            (!decode && self.custom_mask, "custom_mask has no effect in prefill; padding goes by the input attention_mask"),
            (self.resident && decode, "decode does not go with resident caches, which the resident graph has in both modes"),
            (self.resident && self.seq.is_some(), "seq has no effect with resident caches, whose runs have any number of tokens"),
            (self.resident && self.batch > 1, "resident caches hold one sequence, batch must be 1"),
        ];
        if let Some((_, problem)) = refused.iter().find(|(refuse, _)| *refuse) {
            return Err(Error::Builder((*problem).into()));
        }
        if self.config.use_bidirectional_attention {
            let asked = match self.head {
                _ if decode || self.resident => Some("generating text"),
                Some(Head::AllLogits | Head::LastLogits) => Some("logits"),
                _ => None,
            };
            if let Some(asked) = asked {
                let why = "whose attention looks both ways, and which embeds whole texts by GemmaEmbedder,";
                return Err(Error::Unsupported(format!("{asked} with a model {why}")));
            }
        }
        let capacity = self.config.max_position_embeddings;
        let needed = if decode { self.past.map_or(0, |past| past.saturating_add(1)) } else { self.seq.unwrap_or(0) };
        if needed > capacity {
            return Err(Error::ContextFull { needed, capacity });
        }
        Ok(())
    }

    /// The whole model.
    pub(super) fn assemble(&self, profile: &CompileProfile) -> Result<ModelFlow> {
        let config = self.config;
        let key = weight_key(config.arch, WeightPosition::Embed)?;
        let flow = self
            .inputs(profile)
            .with_profile(profile.clone())
            .token_embed(&WeightPosition::Embed.to_string(), &key, [config.vocab_size, config.hidden_size])
            .stage(EmbedScaleStage);
        let flow = match HardTokensStage::of(config) {
            Some(hard) => flow.stage(hard),
            None => flow,
        };
        let flow = if self.soft_tokens { flow.stage(SoftTokensStage) } else { flow };
        let flow = match PleInputsStage::of(config) {
            Some(inputs) => flow.stage(inputs.on_host(self.host_tables)),
            None => flow,
        };
        let flow = match self.mode {
            GemmaMode::Prefill => flow.stage(RopeTablesStage::new(config)?),
            GemmaMode::Decode => flow.stage(DecodeRopeParamsStage::new(config)?),
        };
        let shared = Arc::new(config.clone());
        let flow = flow.raw_stages(self.before_layers.clone());
        let flow = match AltUpSplitStage::of(config) {
            Some(split) => flow.stage(split),
            None => flow,
        };
        let flow = flow.repeat_layers(config.active_num_layers(), |index| self.layer_stage(index, &shared));
        let flow = match AltUpMergeStage::of(config) {
            Some(merge) => flow.stage(merge),
            None => flow,
        };
        let flow = flow.raw_stages(self.after_layers.clone());
        let flow = match &self.patch_flow {
            Some(patch) => patch(flow),
            None => flow,
        };
        let mut flow = self.end(flow);
        self.adapters.iter().for_each(|adapter| flow.adapt(adapter.clone()));
        Ok(flow.raw_stages(self.at_end.clone()))
    }

    /// The inputs, with the sizes and the past.
    fn inputs(&self, profile: &CompileProfile) -> ModelFlow {
        let context = self.config.max_position_embeddings;
        let symbolic = |dynamic: bool, symbol, size: usize| if dynamic { Dim::from(symbol) } else { size.into() };
        let seq = match self.mode {
            GemmaMode::Prefill => symbolic(self.dynamic_seq, sym::SEQ, self.seq.unwrap_or(DEFAULT_SEQ)),
            GemmaMode::Decode => 1.into(),
        };
        let ids = Shape(vec![self.batch.into(), seq]);
        if self.mode == GemmaMode::Decode {
            let past = symbolic(self.dynamic_past, sym::PAST_SEQ, self.past.unwrap_or(1));
            let flow = ModelFlow::new("gemma_decode", self.batch, seq).input("input_ids", DType::U32, ids);
            let flow = if self.dynamic_past { flow.limit(sym::PAST_SEQ, self.past.unwrap_or(context - 1)) } else { flow };
            return flow.bind_decode_inputs(past, self.custom_mask);
        }
        let name = if self.resident { "gemma_resident" } else { "gemma" };
        let flow = ModelFlow::new(name, self.batch, seq).input("input_ids", DType::U32, ids);
        let flow = if self.dynamic_seq { flow.limit(sym::SEQ, self.seq.unwrap_or(context)) } else { flow };
        let flow = if self.batch > 1 { flow.bind_attention_mask() } else { flow };
        if self.resident { flow.bind_resident_cache(profile.precision.kv) } else { flow }
    }

    /// One layer, as the hook decides.
    fn layer_stage(&self, index: usize, config: &Arc<GemmaConfig>) -> FlowStage {
        let outputs = SideOutputs::new();
        let context = match self.mode {
            GemmaMode::Prefill => GemmaLayerCtx::Prefill {
                index,
                style: config.layer_style(),
                attn: SelfAttnPrefillSpec::of(config, index),
                kv_sink: outputs,
                export_kv: self.export_kv,
                head_dim: config.layer_head_dim(index),
                eps: config.rms_norm_eps,
                config: config.clone(),
            },
            GemmaMode::Decode => GemmaLayerCtx::Decode {
                index,
                spec: GemmaDecodeLayerSpec::of(config, index, self.batch, self.custom_mask),
                kv_out: outputs,
                config: config.clone(),
            },
        };
        match &self.layer {
            Some(hook) => hook(context),
            None => context.default_stage(),
        }
    }

    /// Gather of the last token, final norm, head, softcap, output.
    fn end(&self, flow: ModelFlow) -> ModelFlow {
        let config = self.config;
        let head = self.head.unwrap_or(if self.mode == GemmaMode::Decode { Head::AllLogits } else { Head::Hidden });
        let flow = match head {
            Head::LastLogits if self.dynamic_seq || self.batch > 1 => flow.gather_last_token_dynamic(self.dynamic_seq),
            Head::LastLogits => flow.gather_last_token_at(self.seq.unwrap_or(DEFAULT_SEQ) - 1),
            Head::Hidden | Head::AllLogits | Head::Pooled => flow,
        };
        let flow = flow.stage(GemmaRmsNormStage::final_norm(config));
        if head == Head::Pooled {
            return flow.stage(PoolingStage::of(config)).output("sentence");
        }
        if head == Head::Hidden {
            return flow.output("hidden");
        }
        let flow = flow.stage(if config.tie_word_embeddings { LmHeadStage::tied(config) } else { LmHeadStage::separate(config) });
        let flow = match config.final_logit_softcapping {
            Some(cap) => flow.stage(LogitSoftcapStage::new(cap)),
            None => flow,
        };
        flow.output("logits")
    }
}
