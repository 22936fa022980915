//! The meaning of absent keys: the tables of all formats, each row with its reason.
//!
//! Readers take what is absent from here and have no defaults of their own. A key without a row is required: a file
//! that leaves it out is refused by the key's name.

/// The meaning of an absent key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Absent {
    /// A size, a count or a token id.
    Size(usize),
    /// A number.
    Number(f32),
    /// A switch.
    Switch(bool),
    /// Nothing: what the key would set is not done.
    Off,
    /// It follows from other keys or tensors of the file; the reason says how.
    Derived,
}

use super::family::GemmaArch;

use Absent::{Derived, Number, Off, Size, Switch};

/// One key of one format.
pub(super) struct Row {
    pub(super) key: &'static str,
    /// Model types of `config.json`, or architectures of GGUF files.
    pub(super) of: &'static [&'static str],
    pub(super) absent: Absent,
    /// True if a load warns that the key was absent.
    pub(super) told: bool,
    pub(super) why: &'static str,
}

const fn row(key: &'static str, of: &'static [&'static str], absent: Absent, why: &'static str) -> Row {
    Row { key, of, absent, told: false, why }
}

const fn told(key: &'static str, of: &'static [&'static str], absent: Absent, why: &'static str) -> Row {
    Row { told: true, ..row(key, of, absent, why) }
}

/// The rows of one family in one format.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    rows: &'static [Row],
    /// The `model_type` or architecture; empty for an unknown one.
    family: &'static str,
    /// That of its family, and that of the family that it is like: their rows hold where it has none.
    like: [&'static str; 2],
}

impl Defaults {
    /// Of a text model's `config.json` with this `model_type`, or a drafter's.
    pub(super) fn config_json(model_type: &'static str) -> Self {
        let first = |arch: GemmaArch| arch.family().model_types.first().copied();
        let arch = GemmaArch::of_model_type(model_type).map(|(arch, _)| arch);
        Self { rows: CONFIG_JSON, family: model_type, like: like(arch, first) }
    }

    /// Of a GGUF file of this architecture.
    pub(super) fn gguf(architecture: &str) -> Self {
        let first = |arch: GemmaArch| arch.family().architectures.first().copied();
        let arch = GemmaArch::of_architecture(architecture).or_else(|| GemmaArch::of_drafter(architecture));
        let named = |arch: GemmaArch| {
            let family = arch.family();
            let mut names = family.architectures.iter().chain(&family.drafter);
            names.find(|name| **name == architecture).copied()
        };
        Self { rows: GGUF, family: arch.and_then(named).unwrap_or(""), like: like(arch, first) }
    }

    /// The `model_type` or architecture; empty for an unknown one.
    pub(super) fn family(&self) -> &'static str {
        self.family
    }

    fn row(&self, key: &str) -> Option<&'static Row> {
        let row_of = |family: &str| self.rows.iter().find(|row| row.key == key && row.of.contains(&family));
        std::iter::once(self.family).chain(self.like).find_map(row_of)
    }

    fn absent(&self, key: &str) -> Option<Absent> {
        let row = self.row(key)?;
        if row.told {
            tracing::warn!(key, value = ?row.absent, family = self.family, reason = row.why, "the file leaves a key out");
        }
        Some(row.absent)
    }

    pub(super) fn size(&self, key: &str) -> Option<usize> {
        if let Some(Size(size)) = self.absent(key) { Some(size) } else { None }
    }

    pub(super) fn number(&self, key: &str) -> Option<f32> {
        if let Some(Number(number)) = self.absent(key) { Some(number) } else { None }
    }

    pub(super) fn switch(&self, key: &str) -> Option<bool> {
        if let Some(Switch(switch)) = self.absent(key) { Some(switch) } else { None }
    }

    /// A softcap: `Some(None)` where an absent key is none.
    pub(super) fn cap(&self, key: &str) -> Option<Option<f32>> {
        match self.absent(key)? {
            Number(cap) => Some(Some(cap)),
            Off => Some(None),
            _ => None,
        }
    }
}

/// The name of a family in one format, and that of the family that it is like.
fn like(arch: Option<GemmaArch>, name: impl Fn(GemmaArch) -> Option<&'static str>) -> [&'static str; 2] {
    let like = arch.and_then(|arch| arch.family().like);
    [arch, like].map(|arch| arch.and_then(&name).unwrap_or(""))
}

const GEMMA: &[&str] = &["gemma"];
const TWO: &[&str] = &["gemma2"];
const ONE_TABLE: &[&str] = &["gemma", "gemma2"];
const WITH_SCALAR: &[&str] = &["gemma2", "gemma3_text"];
const THREE: &[&str] = &["gemma3_text"];
const THREE_N: &[&str] = &["gemma3n_text"];
const THREES: &[&str] = &["gemma3_text", "gemma3n_text"];
const FOUR: &[&str] = &["gemma4_text"];
const UNIFIED: &[&str] = &["gemma4_unified_text"];
const EMBEDS: &[&str] = &["embedding_gemma2_text"];
const MIDDLE: &[&str] = &["gemma2", "gemma3_text", "gemma4_text"];
const DRAFTERS: &[&str] = &["gemma4_assistant", "gemma4_unified_assistant"];
const ALL: &[&str] = &["gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text"];

/// Files that transformers writes leave out what is the default of its class, so that its defaults are part of the
/// format.
const CLASS: &str = "the default of the family's class in transformers, which leaves such keys out of files";

#[rustfmt::skip]
pub(super) const CONFIG_JSON: &[Row] = &[
    row("vocab_size", ONE_TABLE, Size(256_000), CLASS),
    row("vocab_size", THREE, Size(262_208), CLASS),
    row("vocab_size", THREE_N, Size(262_400), CLASS),
    row("vocab_size", FOUR, Size(262_144), CLASS),
    row("hidden_size", GEMMA, Size(3072), CLASS),
    row("hidden_size", MIDDLE, Size(2304), CLASS),
    row("hidden_size", THREE_N, Size(2048), CLASS),
    row("hidden_size", EMBEDS, Size(512), CLASS),
    row("intermediate_size", GEMMA, Size(24_576), CLASS),
    row("intermediate_size", MIDDLE, Size(9216), CLASS),
    row("intermediate_size", THREE_N, Size(16_384), CLASS),
    row("intermediate_size", EMBEDS, Size(2048), CLASS),
    row("num_hidden_layers", GEMMA, Size(28), CLASS),
    row("num_hidden_layers", WITH_SCALAR, Size(26), CLASS),
    row("num_hidden_layers", THREE_N, Size(35), CLASS),
    row("num_hidden_layers", FOUR, Size(30), CLASS),
    row("num_hidden_layers", EMBEDS, Size(24), CLASS),
    row("num_attention_heads", GEMMA, Size(16), CLASS),
    row("num_attention_heads", MIDDLE, Size(8), CLASS),
    row("num_attention_heads", THREE_N, Size(8), CLASS),
    row("num_attention_heads", EMBEDS, Size(4), CLASS),
    row("num_key_value_heads", GEMMA, Size(16), CLASS),
    row("num_key_value_heads", MIDDLE, Size(4), CLASS),
    row("num_key_value_heads", THREE_N, Size(2), CLASS),
    row("num_key_value_heads", EMBEDS, Size(2), CLASS),
    row("head_dim", ALL, Size(256), CLASS),
    row("max_position_embeddings", ONE_TABLE, Size(8192), CLASS),
    row("max_position_embeddings", THREE, Size(131_072), CLASS),
    row("max_position_embeddings", THREE_N, Size(32_768), CLASS),
    row("max_position_embeddings", FOUR, Size(131_072), CLASS),
    row("max_position_embeddings", UNIFIED, Size(262_144), CLASS),
    row("max_position_embeddings", EMBEDS, Size(262_144), CLASS),
    row("rms_norm_eps", ALL, Number(1e-6), CLASS),
    row("hidden_activation", ALL, Derived, "the tanh form of GELU, which every family has; Gemma 1's hidden_act \"gelu\" means it too"),
    row("tie_word_embeddings", ALL, Switch(true), CLASS),
    row("use_bidirectional_attention", EMBEDS, Switch(true), "the class has no such key and always looks both ways"),
    row("use_bidirectional_attention", ALL, Switch(false), "its class: false, or in Gemma 4 \"vision\", which is of pictures"),
    row("query_pre_attn_scalar", WITH_SCALAR, Number(256.0), CLASS),
    row("attn_logit_softcapping", TWO, Number(50.0), CLASS),
    row("attn_logit_softcapping", THREE, Off, "the class has the key and no code that reads it"),
    row("final_logit_softcapping", TWO, Number(30.0), CLASS),
    row("final_logit_softcapping", THREE_N, Number(30.0), CLASS),
    row("final_logit_softcapping", THREE, Off, CLASS),
    row("final_logit_softcapping", FOUR, Off, CLASS),
    row("sliding_window", WITH_SCALAR, Size(4096), CLASS),
    row("sliding_window", THREE_N, Size(512), CLASS),
    row("sliding_window", FOUR, Size(512), CLASS),
    row("sliding_window", UNIFIED, Size(1024), CLASS),
    row("sliding_window", EMBEDS, Size(512), CLASS),
    row("layer_types", ALL, Derived, "sliding_window_pattern; the last layer of Gemma 4 and EmbeddingGemma 2 is full"),
    row("sliding_window_pattern", GEMMA, Size(1), "every layer is full"),
    row("sliding_window_pattern", TWO, Size(2), CLASS),
    row("sliding_window_pattern", THREE, Size(6), CLASS),
    row("sliding_window_pattern", THREE_N, Size(5), CLASS),
    row("sliding_window_pattern", FOUR, Size(6), CLASS),
    row("rope_theta", ONE_TABLE, Number(1e4), CLASS),
    row("rope_theta", THREES, Number(1e6), CLASS),
    row("rope_local_base_freq", THREES, Number(1e4), CLASS),
    row("rope_scaling", ONE_TABLE, Off, CLASS),
    row("rope_scaling", THREES, Off, CLASS),
    row("rope_parameters", ONE_TABLE, Derived, "the older keys rope_theta and rope_scaling"),
    row("rope_parameters", THREES, Derived, "the older keys rope_theta, rope_local_base_freq and rope_scaling"),
    row("rope_parameters.full_attention.rope_theta", FOUR, Number(1e6), CLASS),
    row("rope_parameters.full_attention.partial_rotary_factor", FOUR, Number(0.25), CLASS),
    row("rope_parameters.full_attention.partial_rotary_factor", EMBEDS, Off, CLASS),
    row("rope_parameters.sliding_attention.rope_theta", FOUR, Number(1e4), CLASS),
    row("num_kv_shared_layers", THREE_N, Size(15), CLASS),
    row("num_kv_shared_layers", FOUR, Size(0), CLASS),
    row("hidden_size_per_layer_input", THREE_N, Size(256), CLASS),
    row("hidden_size_per_layer_input", FOUR, Size(256), CLASS),
    row("hidden_size_per_layer_input", UNIFIED, Size(0), "the class has no such tables"),
    row("hidden_size_per_layer_input", EMBEDS, Size(512), CLASS),
    row("vocab_size_per_layer_input", THREE_N, Size(262_144), CLASS),
    row("vocab_size_per_layer_input", FOUR, Size(262_144), CLASS),
    row("altup_num_inputs", THREE_N, Size(4), CLASS),
    row("altup_active_idx", THREE_N, Size(0), CLASS),
    row("altup_correct_scale", THREE_N, Switch(true), CLASS),
    row("laurel_rank", THREE_N, Size(64), CLASS),
    row("activation_sparsity_pattern", THREE_N, Derived, "the class: 0.95 in the first ten of more than ten layers, else 0"),
    row("per_layer_config", FOUR, Derived, "global_head_dim and num_global_key_value_heads, for all full layers"),
    row("global_head_dim", FOUR, Size(512), CLASS),
    row("num_global_key_value_heads", FOUR, Off, CLASS),
    row("num_global_key_value_heads", EMBEDS, Size(1), CLASS),
    row("attention_k_eq_v", FOUR, Switch(false), CLASS),
    row("use_double_wide_mlp", FOUR, Switch(false), CLASS),
    row("enable_moe_block", FOUR, Switch(false), CLASS),
    row("embedding_dim", EMBEDS, Size(768), CLASS),
    row("eos_token_id", ALL, Size(1), CLASS),
    row("bos_token_id", ALL, Size(2), CLASS),
    row("pad_token_id", ALL, Size(0), CLASS),
    row("backbone_hidden_size", DRAFTERS, Size(1536), CLASS),
    row("use_ordered_embeddings", DRAFTERS, Switch(false), CLASS),
    row("num_centroids", DRAFTERS, Size(2048), CLASS),
    row("centroid_intermediate_top_k", DRAFTERS, Size(32), CLASS),
];

const G1: &[&str] = &["gemma"];
const G2: &[&str] = &["gemma2"];
const G1_2: &[&str] = &["gemma", "gemma2"];
const G3: &[&str] = &["gemma3"];
const G3N: &[&str] = &["gemma3n"];
const G4: &[&str] = &["gemma4"];
const EMBEDDING: &[&str] = &["gemma-embedding"];
const DRAFTER: &[&str] = &["gemma4-assistant"];
const FROM_3: &[&str] = &["gemma3", "gemma3n", "gemma4"];
const ANY: &[&str] = &["gemma", "gemma2", "gemma3", "gemma3n", "gemma4"];

/// No converter has a key for it in this family: it is part of what the architecture's name says.
const CONSTANT: &str = "llama.cpp's converter has no such key for the family, whose models and class in transformers all have it";

/// The row of `rope.scaling.factor` for a Gemma 3 of 4B and larger whose converter left the scaling out.
pub(super) const LARGE_SCALING: &str = "rope.scaling.factor of 4B and larger";

/// llama.cpp fails to convert a Gemma 2 whose configuration says `null`.
const FIRST: &str = "the first converters left it out; every Gemma 2 has this, and one without fails to convert";

/// Keys after the architecture and a dot. `block_count`, `context_length`, `embedding_length`, `feed_forward_length`
/// and `attention.head_count` have no row in any family, `attention.sliding_window` none from Gemma 3 on, and
/// `attention.sliding_window_pattern` and `final_logit_softcapping` none in Gemma 4: files of one family differ in
/// them.
#[rustfmt::skip]
pub(super) const GGUF: &[Row] = &[
    told("attention.layer_norm_rms_epsilon", ANY, Number(1e-6), "Ollama's converter leaves it out; every Gemma has this"),
    row("attention.key_length", ANY, Derived, "the rows of blk.N.attn_q.weight for each head, or the length of its norm"),
    row("attention.key_length_swa", ANY, Derived, "as attention.key_length, of the first sliding layer"),
    row("attention.value_length", ANY, Derived, "attention.key_length: no Gemma has others"),
    row("rope.dimension_count", ANY, Derived, "attention.key_length: the tables span whole heads"),
    row("attention.head_count_kv", ANY, Derived, "the rows of blk.N.attn_k.weight for each head dimension"),
    row("attention.sliding_window", G2, Size(4096), "the first converters left it out; every Gemma 2 has this"),
    row("attention.sliding_window_pattern", G2, Size(2), CONSTANT),
    row("attention.sliding_window_pattern", G3, Size(6), CONSTANT),
    row("attention.sliding_window_pattern", G3N, Size(5), "the first converters left it out; every Gemma 3n has this"),
    row("attn_logit_softcapping", G2, Number(50.0), FIRST),
    row("final_logit_softcapping", G2, Number(30.0), FIRST),
    row("final_logit_softcapping", G3, Off, "llama.cpp's converter writes the key only for a model that has a cap"),
    row("final_logit_softcapping", G3N, Number(30.0), CONSTANT),
    row("final_logit_softcapping", DRAFTER, Off, "the head of a drafter has no cap"),
    row("rope.freq_base", G1_2, Number(1e4), CONSTANT),
    told("rope.freq_base", FROM_3, Number(1e6), "every model of the family has this; llama.cpp would take 1e4"),
    row("rope.freq_base_swa", FROM_3, Number(1e4), "converters wrote no such key before 2026; every model has this"),
    row("rope.scaling.factor", ANY, Off, "unscaled, but for files of the larger Gemma 3 that Ollama made"),
    told(LARGE_SCALING, G3, Number(8.0), "Ollama's converter leaves it out; 4B, 12B and 27B have linear 8 on full layers"),
    row("rope_freqs.weight", &["gemma", "gemma2", "gemma3", "gemma3n"], Off, "tables without divisors"),
    row("query_pre_attn_scalar", G1, Derived, "the head dimension: the family has no such number"),
    row("query_pre_attn_scalar", G2, Derived, "no key says it: the head dimension, in 27B (46 layers, or its heads) D/N"),
    row("query_pre_attn_scalar", G3, Derived, "no key says it: the head dimension, in 27B (62 layers, or its heads) D/N"),
    row("query_pre_attn_scalar", &["gemma3n", "gemma4"], Number(1.0), "scores are not scaled in the family"),
    row("attention.shared_kv_layers", G3N, Derived, "llama.cpp's constant: all but the first 20 layers, as in every Gemma 3n"),
    row("attention.shared_kv_layers", G4, Size(0), "only models with tables for single layers share keys, and must say it"),
    row("embedding_length_per_layer_input", ANY, Derived, "per_layer_token_embd.weight's columns for each layer, or 0"),
    row("altup.num_inputs", G3N, Size(4), CONSTANT),
    row("altup.active_idx", G3N, Size(0), CONSTANT),
    row("activation_sparsity_scale", G3N, Derived, "llama.cpp's constant, that of every Gemma 3n: 1.6448536 in the first ten layers"),
    row("laurel_rank", G3N, Derived, "the rows of blk.0.laurel_l.weight"),
    row("expert_count", ANY, Size(0), "a model without blk.N.ffn_gate_inp.weight has no experts; a file with it must say how many"),
    row("pooling_type", EMBEDDING, Size(1), "the mean, as every EmbeddingGemma has it"),
    row("dense_2_feat_out", EMBEDDING, Derived, "the rows of dense_2.weight"),
    row("tokenizer.ggml.eos_token_id", ANY, Size(1), "the id of <eos> in every Gemma vocabulary"),
    row("tokenizer.ggml.bos_token_id", ANY, Size(2), "the id of <bos> in every Gemma vocabulary"),
    row("tokenizer.ggml.padding_token_id", ANY, Size(0), "the id of <pad> in every Gemma vocabulary"),
];

#[cfg(test)]
mod tests;
