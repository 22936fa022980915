//! A model's fingerprint and the layout of its caches, which saved rows are checked against.

use std::collections::BTreeMap;

use super::{ModelGraphs, Outputs};
use crate::{
    Result,
    checksum::Fnv,
    gemma::{AltUp, GemmaConfig, HardTokens, LayerKind, Moe, RopeConfig, RopeScaling},
    ir::{
        DType, DimBinding, FixedType,
        ops::{Input, Role},
        sym,
    },
    weights::{RandomFill, WeightLoader},
};

/// Bytes of the beginning and of the end of each weight that a fingerprint looks at.
const SAMPLE: usize = 256;

/// A row of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheRow {
    /// True if the cache is a ring.
    pub(crate) slides: bool,
    /// Bytes of a row.
    pub(crate) bytes: usize,
}

impl ModelGraphs {
    /// A number that other weights, other shapes or another configuration change: the hash of what the configuration
    /// says of values ([`described`]) and of each weight's name, type, shape, and first and last bytes.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub(crate) fn fingerprint(&self) -> Result<u64> {
        let mut weights = self.weights.clone();
        let mut sum = Fnv::new();
        sum.add(described(&self.config).as_bytes());
        for name in self.weights.remaining_keys() {
            let tensor = weights.take(&name)?;
            let shape: Vec<String> = tensor.shape().iter().map(usize::to_string).collect();
            sum.add(format!("{name} {} {}\n", tensor.dtype(), shape.join("x")).as_bytes());
            if let Some(RandomFill { seed, scale }) = tensor.random() {
                sum.add(format!("random {seed} {}\n", bits(scale)).as_bytes());
                continue;
            }
            let mut sample = vec![0; tensor.byte_len().min(SAMPLE)];
            for start in [0, tensor.byte_len() - sample.len()] {
                tensor.read_bytes(start, &mut sample)?;
                sum.add(&sample);
            }
        }
        Ok(sum.value())
    }

    /// Which caches of keys and values of type `kv` are rings, and the bytes of a row of each, by name.
    pub(crate) fn caches(&self, kv: DType) -> Result<BTreeMap<String, CacheRow>> {
        let built = self.built(true, Outputs::Nothing, kv)?;
        let one = DimBinding::new().with(sym::SEQ, 1).with(sym::CACHE, 1).with(sym::RING, 1);
        let caches = built.graph.inputs().map(|(_, input)| input).filter(|input| input.role == Role::Cache);
        let row = |input: &Input| -> Result<(String, CacheRow)> {
            let ty = FixedType { dtype: input.ty.dtype, shape: input.ty.shape.bind(&one)? };
            let slides = input.ty.shape.0.iter().any(|dim| dim.symbols().any(|symbol| symbol == sym::RING));
            Ok((input.name.clone(), CacheRow { slides, bytes: ty.byte_len().unwrap_or(0) }))
        };
        caches.map(row).collect()
    }
}

/// The facts of a configuration that determine the values that a model computes, a line each. Where a text ends and how
/// long it may be does not change them, and may differ between files of one model.
///
/// Conversations are saved with the hash of it: names and spelling are the fingerprint's own, whatever the fields are
/// called. A field that is new gets a line only where it is not what all models had before.
fn described(config: &GemmaConfig) -> String {
    #[rustfmt::skip]
    let GemmaConfig {
        arch, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, vocab_size,
        rms_norm_eps, layer_types, sliding_window, use_bidirectional_attention, query_pre_attn_scalar, attn_logit_softcapping,
        final_logit_softcapping, tie_word_embeddings, rope_full, rope_sliding, per_layer_config, attention_k_eq_v,
        num_kv_shared_layers, per_layer_input, altup, laurel_rank, activation_sparsity, embedding_dim, embedding_dense, moe,
        effective_num_layers,
        multimodal, bidirectional_pictures: _, max_position_embeddings: _, eos_token_ids: _, bos_token_id: _, pad_token_id: _,
    } = config;
    // Absent features have zeros here.
    let Moe { num_experts, top_k_experts, intermediate_size: moe_intermediate_size } =
        moe.unwrap_or(Moe { num_experts: 0, top_k_experts: 0, intermediate_size: 0 });
    let AltUp { num_inputs, active_idx, correct_scale } =
        altup.unwrap_or(AltUp { num_inputs: 0, active_idx: 0, correct_scale: false });
    let ple_width = per_layer_input.map_or(0, |input| input.hidden_size);
    let ple_rows = per_layer_input.and_then(|input| input.vocab_size).unwrap_or(0);
    let rank = laurel_rank.unwrap_or(0);
    let embedding_dim = embedding_dim.unwrap_or(0);
    let kind = |kind: &LayerKind| if *kind == LayerKind::Sliding { "s" } else { "f" };
    let layers: String = layer_types.iter().map(kind).collect();
    let overrides = per_layer_config.iter().map(|(layer, own)| {
        let sizes = [own.head_dim, own.num_key_value_heads, own.intermediate_size].map(|size| or_none(size, |n| n.to_string()));
        format!("{layer}:{}", sizes.join(","))
    });
    let (overrides, of_bits) = (overrides.collect::<Vec<_>>().join(" "), |value: &Option<f32>| or_none(*value, bits));
    let sparsity = activation_sparsity.iter().map(of_bits).collect::<Vec<_>>().join(" ");
    let dense = embedding_dense.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
    let (window, first_layers) = [sliding_window, effective_num_layers].map(|n| or_none(*n, |n| n.to_string())).into();
    let (scalar, attention_cap, cap) =
        [query_pre_attn_scalar, attn_logit_softcapping, final_logit_softcapping].map(of_bits).into();
    [
        format!("arch {}", arch.model_type()),
        format!("stream {hidden_size} vocabulary {vocab_size} tied {tie_word_embeddings} epsilon {}", bits(*rms_norm_eps)),
        format!("layers {num_hidden_layers} run {first_layers} {layers} window {window} both {use_bidirectional_attention}"),
        format!("heads {num_attention_heads} {num_key_value_heads} {head_dim} scale {scalar} caps {attention_cap} {cap}"),
        format!("rotary {} {}", rotary(rope_full), rotary(rope_sliding)),
        format!("own {overrides} keys {attention_k_eq_v} shared {num_kv_shared_layers}"),
        format!("feed {intermediate_size} sparse {sparsity} experts {num_experts} {top_k_experts} {moe_intermediate_size}"),
        format!("inputs {ple_width} {ple_rows}"),
        format!("streams {num_inputs} {active_idx} {correct_scale} rank {rank}"),
        format!("vector {embedding_dim} {dense}\n"),
    ]
    .join("\n")
        + &multimodal.hard_tokens.iter().map(embedder).collect::<String>()
}

/// The ids that an embedder has of its own, a line.
fn embedder(tokens: &HardTokens) -> String {
    let HardTokens { embedder: _, first, count, width, rms_norm_eps } = tokens;
    format!("embedder {first} {count} {width} epsilon {}\n", bits(*rms_norm_eps))
}

fn rotary(table: &RopeConfig) -> String {
    let theta = bits(table.theta);
    match table.scaling {
        RopeScaling::None => theta,
        RopeScaling::Linear { factor } => format!("{theta} linear {}", bits(factor)),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let [factor, low, high] = [factor, low_freq_factor, high_freq_factor].map(bits);
            format!("{theta} llama3 {factor} {low} {high} {original_max_position_embeddings}")
        }
        RopeScaling::Proportional { partial_rotary_factor, factor } => {
            format!("{theta} proportional {} {}", bits(partial_rotary_factor), bits(factor))
        }
    }
}

/// A number as it is, not as it is printed.
fn bits(number: f32) -> String {
    format!("{:08x}", number.to_bits())
}

fn or_none<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "none".into(), text)
}
