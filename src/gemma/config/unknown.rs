//! Keys that no reader knows, judged by the effect that they may have on a model's results.
//!
//! transformers ignores them all. They come from programs that train, merge and convert models, from other versions of
//! transformers, and from families that compute more than this crate does. So each is judged by its name. A key with a
//! word of the mathematics is refused, unless it is known to say nothing of it or has a value at which it does nothing.

use serde_json::Value;

/// Keys with a word of the mathematics in their name that say nothing of it: how to train, how fast to compute, how to
/// save.
#[rustfmt::skip]
const HARMLESS: &[&str] = &[
    // Which kernels compute attention or experts.
    "attn_implementation", "_attn_implementation_internal", "experts_implementation", "_experts_implementation_internal",
    "_flash_attn_2_enabled", "flash_attention", "use_flash_attention", "use_flash_attention_2", "use_flash_attn", "use_sdpa_attention",
    "use_cache_attention", "use_fused_rms_norm", "use_fused_rope", "use_liger_kernel", "use_flex_attention", "use_kernels",
    // Sharding and pipelines, whose size does not change sums but for rounding.
    "pretraining_tp", "base_model_tp_plan", "base_model_pp_plan", "base_model_ep_plan", "tensor_parallel_size", "sequence_parallel",
    // Lengths of training samples and of what programs return.
    "model_max_length", "tokenizer_model_max_length", "max_seq_length", "max_seq_len", "max_sequence_length", "seq_length",
    "num_logits_to_keep", "logits_to_keep", "max_new_tokens", "return_logits", "output_logits",
    // Training: what is dropped, clipped, frozen, recomputed or added to the loss.
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "attention_probs_dropout_prob", "hidden_dropout_prob", "hidden_dropout",
    "attn_pdrop", "resid_pdrop", "embd_pdrop", "embed_pdrop", "attn_dropout", "residual_dropout", "embedding_dropout", "embd_dropout",
    "ffn_dropout", "mlp_dropout", "layerdrop", "neftune_noise_alpha", "router_aux_loss_coef", "router_jitter_noise", "router_z_loss_coef",
    "output_router_logits", "initializer_factor", "max_grad_norm", "grad_clip", "freeze_embeddings", "layer_norm_dropout",
    "altup_lr_multiplier", "z_loss_multiplier", "loss_scale", "num_items_scale", "keys_to_ignore_at_inference",
    // The origin of the file.
    "_pre_quantization_dtype", "base_model_name_or_path", "attention_probs", "embedding_model_name", "num_key_value_heads_original",
    "sentence_transformers", "output_attention_weights", "mask_token_id", "mask_token", "vocab_file", "vocab_files",
];

/// Keys of a multimodal wrapper that concern only images, sounds and films; text models that were taken out of one keep
/// some.
#[rustfmt::skip]
pub(super) const MULTIMODAL: &[&str] = &[
    "audio_config", "audio_soft_tokens_per_image", "audio_token_id", "boa_token_id", "boi_token_id", "boi_token_index",
    "eoa_token_id", "eoa_token_index", "eoi_token_id", "eoi_token_index", "image_seq_length", "image_token_id", "image_token_index",
    "mm_embed_dim", "mm_tokens_per_image", "projection_dim", "video_token_id", "vision_config", "vision_feature_layer",
    "vision_feature_select_strategy", "vision_soft_tokens_per_image",
];

/// The value at which a switch of another family does nothing.
#[derive(Clone, Copy)]
enum Idle {
    Off,
    On,
    One,
    None,
}

/// Keys of other families and of other programs with the value at which they do nothing to a Gemma.
#[rustfmt::skip]
const IDLE: &[(&str, Idle)] = &[
    ("use_bias", Idle::Off), ("qkv_bias", Idle::Off), ("use_qkv_bias", Idle::Off), ("add_bias_linear", Idle::Off),
    ("add_qkv_bias", Idle::Off), ("lm_head_bias", Idle::Off), ("attention_out_bias", Idle::Off), ("bias", Idle::Off),
    ("alibi", Idle::Off), ("use_alibi", Idle::Off), ("parallel_attn", Idle::Off), ("use_parallel_residual", Idle::Off),
    ("rope_interleaved", Idle::Off), ("rope_traditional", Idle::Off), ("is_moe", Idle::Off), ("use_moe", Idle::Off),
    ("use_mla", Idle::Off), ("use_mrope", Idle::Off), ("use_lora", Idle::Off), ("use_attention_sinks", Idle::Off),
    ("is_causal", Idle::On), ("scale_attn_weights", Idle::On), ("scale_embeddings", Idle::On), ("use_rms_norm", Idle::On),
    ("partial_rotary_factor", Idle::One), ("rotary_pct", Idle::One), ("rotary_percent", Idle::One),
    ("rope_scaling_factor", Idle::One), ("embedding_multiplier", Idle::One), ("residual_multiplier", Idle::One),
    ("logit_scale", Idle::One), ("logits_scaling", Idle::One), ("lm_head_multiplier", Idle::One), ("mup_width_multiplier", Idle::One),
    ("num_experts", Idle::None), ("num_local_experts", Idle::None), ("n_routed_experts", Idle::None),
    ("num_experts_per_tok", Idle::None), ("num_experts_per_token", Idle::None), ("n_shared_experts", Idle::None),
    ("num_nextn_predict_layers", Idle::None), ("mtp_num_hidden_layers", Idle::None), ("attention_sink_size", Idle::None),
    ("clip_qkv", Idle::None), ("logits_soft_cap", Idle::None), ("attention_softcap", Idle::None),
];

/// Words of the mathematics; those with a star begin longer words too.
#[rustfmt::skip]
const MATHEMATICS: &[&str] = &[
    "act", "activation*", "adapter*", "alibi", "altup", "attn*", "attention*", "bias*", "cap", "capping", "causal", "chunk*", "clamp*",
    "clip*", "compress*", "conv", "conv1d", "convolution*", "dim*", "divisor", "embed*", "embd*", "eps", "epsilon", "expert*", "extrapol*",
    "factor", "factors", "ffn*", "ffw", "freq*", "gate*", "gating", "gelu*", "groups", "head*", "hidden*", "hybrid", "intermediate*",
    "interleave*", "interpol*", "inv", "kernel", "kv*", "laurel", "layer*", "logit*", "longrope", "lora*", "mamba", "mask*", "mlp*", "moe*",
    "mscale", "mtp*", "multiplier*", "mup*", "norm*", "ntk", "partial", "pattern", "pool*", "position*", "proj", "projection*",
    "projector*", "prun*", "qk*", "quant*", "query*", "rank", "recurren*", "residual*", "rms*", "rope*", "rotary*", "router*", "routing",
    "scal*", "silu", "sink*", "sliding*", "soft", "softcap*", "softmax*", "sparse*", "sparsity*", "ssm*", "stride*", "swa", "swiglu",
    "theta*", "tie", "tied", "vocab*", "width*", "window*", "yarn*",
];

/// True if a key that no reader knows cannot change the mathematics.
pub(super) fn changes_nothing(key: &str, value: &Value) -> bool {
    let idle = |idle: Idle| match idle {
        Idle::Off => *value == Value::Bool(false),
        Idle::On => *value == Value::Bool(true),
        Idle::One => value.as_f64() == Some(1.0),
        Idle::None => value.as_f64() == Some(0.0) || *value == Value::Bool(false),
    };
    if HARMLESS.contains(&key) || MULTIMODAL.contains(&key) {
        return true;
    }
    match IDLE.iter().find(|(known, _)| *known == key) {
        Some((_, needed)) => idle(*needed),
        None => !is_mathematics(key),
    }
}

/// True if a key's name has a word of the mathematics.
pub(super) fn is_mathematics(key: &str) -> bool {
    words(key).iter().any(|word| {
        MATHEMATICS.iter().any(|known| match known.strip_suffix('*') {
            Some(stem) => word.starts_with(stem),
            None => word == known,
        })
    })
}

/// The words of `num_heads`, `attention.head_count` or `numHeads`.
fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for letter in key.chars() {
        if !letter.is_alphanumeric() || (letter.is_uppercase() && lower) {
            words.push(String::new());
        }
        lower = letter.is_lowercase();
        if let (true, Some(word)) = (letter.is_alphanumeric(), words.last_mut()) {
            word.extend(letter.to_lowercase());
        }
    }
    words
}
