//! Shapes of the released models.

use std::collections::BTreeMap;

use super::{GemmaArch, GemmaConfig, LayerKind, LayerOverrides, RopeConfig, RopeScaling, absent::Defaults, sparsity::deviations};

/// One released model: the numbers in which it differs from its family.
struct Shape {
    name: &'static str,
    arch: GemmaArch,
    /// D, layers, N, K, H, F, V.
    sizes: [usize; 7],
    window: Option<usize>,
    query_pre_attn_scalar: Option<f32>,
    context: usize,
    rope_factor: Option<f32>,
    wide: Wide,
    /// Of a model that embeds texts: the widths of the products after the mean.
    embeds: Option<&'static [usize]>,
    /// Experts, those of a token, and their width.
    experts: [usize; 3],
}

/// What Gemma 3n, 4 and EmbeddingGemma 2 have of their own.
#[derive(Clone, Copy)]
struct Wide {
    /// Every so many-th layer is full.
    period: Option<usize>,
    /// KV heads of full layers, whose keys are values in Gemma 4.
    kv_heads: Option<usize>,
    /// Layers at the end without K and V of their own.
    shared: usize,
    /// Whether those have an FFW of double width.
    double: bool,
    /// What each layer gets of each token.
    per_layer: usize,
}

/// Rows of the tables of each layer's own input.
const PER_LAYER_ROWS: usize = 262_144;

/// The width of the heads of full layers in Gemma 4 and EmbeddingGemma 2.
const WIDE_HEAD: usize = 512;

const fn shape(name: &'static str, arch: GemmaArch, sizes: [usize; 7], window: Option<usize>, context: usize) -> Shape {
    let query_pre_attn_scalar = match arch {
        GemmaArch::Gemma => None,
        GemmaArch::Gemma3n | GemmaArch::Gemma4 | GemmaArch::EmbeddingGemma2 => Some(1.0),
        _ => Some(256.0),
    };
    let wide = Wide { period: None, kv_heads: None, shared: 0, double: false, per_layer: 0 };
    Shape { name, arch, sizes, window, query_pre_attn_scalar, context, rope_factor: None, wide, embeds: None, experts: [0; 3] }
}

impl Shape {
    const fn scalar(mut self, query_pre_attn_scalar: f32) -> Self {
        self.query_pre_attn_scalar = Some(query_pre_attn_scalar);
        self
    }

    const fn wide(mut self, wide: Wide) -> Self {
        self.wide = wide;
        self
    }

    const fn embeds(mut self, dense: &'static [usize]) -> Self {
        self.embeds = Some(dense);
        self
    }

    const fn experts(mut self, count: usize, top: usize, width: usize) -> Self {
        self.experts = [count, top, width];
        self
    }

    const fn rope_linear(mut self, factor: f32) -> Self {
        self.rope_factor = Some(factor);
        self
    }
}

#[rustfmt::skip]
const SHAPES: [Shape; 19] = {
    use GemmaArch::{EmbeddingGemma2, Gemma, Gemma2, Gemma3, Gemma3n, Gemma4, VaultGemma};
    const N2B: Wide = Wide { period: None, kv_heads: None, shared: 10, double: false, per_layer: 256 };
    const N4B: Wide = Wide { shared: 15, ..N2B };
    const E2B: Wide = Wide { period: Some(5), kv_heads: None, shared: 20, double: true, per_layer: 256 };
    const E4B: Wide = Wide { period: Some(6), kv_heads: None, shared: 18, double: false, per_layer: 256 };
    const EMBED: Wide = Wide { period: Some(6), kv_heads: Some(1), shared: 0, double: false, per_layer: 512 };
    const DENSE: Wide = Wide { period: Some(6), kv_heads: Some(4), shared: 0, double: false, per_layer: 0 };
    const A4B: Wide = Wide { kv_heads: Some(2), ..DENSE };
    [
        shape("gemma-2b", Gemma, [2048, 18, 8, 1, 256, 16384, 256000], None, 8192),
        shape("gemma-7b", Gemma, [3072, 28, 16, 16, 256, 24576, 256000], None, 8192),
        shape("gemma-2-2b", Gemma2, [2304, 26, 8, 4, 256, 9216, 256000], Some(4096), 8192),
        shape("gemma-2-9b", Gemma2, [3584, 42, 16, 8, 256, 14336, 256000], Some(4096), 8192),
        shape("gemma-2-27b", Gemma2, [4608, 46, 32, 16, 128, 36864, 256000], Some(4096), 8192).scalar(144.0),
        shape("vaultgemma-1b", VaultGemma, [1152, 26, 4, 4, 256, 6912, 256000], Some(512), 1024),
        shape("gemma-3-270m", Gemma3, [640, 18, 4, 1, 256, 2048, 262144], Some(512), 32768),
        shape("gemma-3-1b", Gemma3, [1152, 26, 4, 1, 256, 6912, 262144], Some(512), 32768),
        shape("gemma-3-4b", Gemma3, [2560, 34, 8, 4, 256, 10240, 262208], Some(1024), 131072).rope_linear(8.0),
        shape("gemma-3-12b", Gemma3, [3840, 48, 16, 8, 256, 15360, 262208], Some(1024), 131072).rope_linear(8.0),
        shape("gemma-3-27b", Gemma3, [5376, 62, 32, 16, 128, 21504, 262208], Some(1024), 131072).rope_linear(8.0).scalar(168.0),
        shape("embeddinggemma-300m", Gemma3, [768, 24, 3, 1, 256, 1152, 262144], Some(512), 2048).embeds(&[3072, 768]),
        shape("gemma-3n-e2b", Gemma3n, [2048, 30, 8, 2, 256, 8192, 262400], Some(512), 32768).wide(N2B),
        shape("gemma-3n-e4b", Gemma3n, [2048, 35, 8, 2, 256, 16384, 262400], Some(512), 32768).wide(N4B),
        shape("gemma-4-e2b", Gemma4, [1536, 35, 8, 1, 256, 6144, 262144], Some(512), 131072).wide(E2B),
        shape("gemma-4-e4b", Gemma4, [2560, 42, 8, 2, 256, 10240, 262144], Some(512), 131072).wide(E4B),
        shape("embeddinggemma-2", EmbeddingGemma2, [512, 24, 4, 2, 256, 2048, 262144], Some(512), 262144).wide(EMBED).embeds(&[]),
        shape("gemma-4-26b-a4b", Gemma4, [2816, 30, 16, 8, 256, 2112, 262144], Some(1024), 131072).wide(A4B).experts(128, 8, 704),
        shape("gemma-4-31b", Gemma4, [5376, 60, 32, 16, 256, 21504, 262144], Some(1024), 131072).wide(DENSE),
    ]
};

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|s| s.name)
}

pub(super) fn by_name(name: &str) -> Option<GemmaConfig> {
    SHAPES.iter().find(|s| s.name == name).map(Shape::config)
}

/// The kinds of `layers` layers of which every `period`-th is full, and in Gemma 4 and EmbeddingGemma 2 the last; without a period all.
pub(super) fn layer_pattern(arch: GemmaArch, layers: usize, period: Option<usize>) -> Vec<LayerKind> {
    let period = period.unwrap_or(1).max(1);
    let forced = |i: usize| matches!(arch, GemmaArch::Gemma4 | GemmaArch::EmbeddingGemma2) && i == layers;
    (1..=layers).map(|i| if i % period == 0 || forced(i) { LayerKind::Full } else { LayerKind::Sliding }).collect()
}

impl Shape {
    fn config(&self) -> GemmaConfig {
        let [hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size, vocab_size] =
            self.sizes;
        let caps = matches!(self.arch, GemmaArch::Gemma2 | GemmaArch::VaultGemma);
        let (four, streams) = (self.arch == GemmaArch::Gemma4, self.arch == GemmaArch::Gemma3n);
        let projects = self.arch == GemmaArch::EmbeddingGemma2;
        let theta = if four || streams || projects || self.arch == GemmaArch::Gemma3 { 1e6 } else { 1e4 };
        let scaling = match self.rope_factor {
            Some(factor) => RopeScaling::Linear { factor },
            None if four => RopeScaling::Proportional { partial_rotary_factor: 0.25, factor: 1.0 },
            None => RopeScaling::None,
        };
        let family = Defaults::config_json(self.arch.model_type());
        let period = self.wide.period.or_else(|| family.size("sliding_window_pattern"));
        let layer_types = layer_pattern(self.arch, num_hidden_layers, period);
        GemmaConfig {
            arch: self.arch,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size,
            rms_norm_eps: 1e-6,
            max_position_embeddings: self.context,
            per_layer_config: self.wide.overrides(&layer_types, intermediate_size, four || projects),
            layer_types,
            sliding_window: self.window,
            use_bidirectional_attention: self.embeds.is_some(),
            query_pre_attn_scalar: self.query_pre_attn_scalar,
            attn_logit_softcapping: caps.then_some(50.0),
            final_logit_softcapping: (caps || streams || four).then_some(30.0),
            tie_word_embeddings: true,
            eos_token_ids: vec![1],
            bos_token_id: Some(2),
            pad_token_id: Some(0),
            rope_full: RopeConfig { theta, scaling },
            rope_sliding: RopeConfig::new(1e4),
            attention_k_eq_v: four && self.wide.kv_heads.is_some(),
            num_kv_shared_layers: self.wide.shared,
            hidden_size_per_layer_input: self.wide.per_layer,
            vocab_size_per_layer_input: if self.wide.per_layer > 0 && !projects { PER_LAYER_ROWS } else { 0 },
            altup_num_inputs: if streams { 4 } else { 0 },
            altup_active_idx: 0,
            altup_correct_scale: streams,
            laurel_rank: if streams { 64 } else { 0 },
            num_experts: self.experts[0],
            top_k_experts: self.experts[1],
            moe_intermediate_size: self.experts[2],
            activation_sparsity: if streams { sparse(num_hidden_layers) } else { Vec::new() },
            embedding_dim: if projects { 768 } else { 0 },
            embedding_dense: self.embeds.map(<[usize]>::to_vec).unwrap_or_default(),
            effective_num_layers: None,
        }
    }
}

/// The gates of Gemma 3n's first ten layers count where they are among the largest twentieth.
fn sparse(layers: usize) -> Vec<Option<f32>> {
    (0..layers).map(|layer| (layers > 10 && layer < 10).then(|| deviations(0.95) as f32)).collect()
}

impl Wide {
    fn overrides(&self, kinds: &[LayerKind], width: usize, wide_heads: bool) -> BTreeMap<usize, LayerOverrides> {
        let own = kinds.len() - self.shared;
        let of = |(layer, kind): (usize, &LayerKind)| {
            let full = *kind == LayerKind::Full;
            let overrides = LayerOverrides {
                head_dim: (full && wide_heads).then_some(WIDE_HEAD),
                num_key_value_heads: self.kv_heads.filter(|_| full),
                intermediate_size: (self.double && layer >= own).then_some(2 * width),
            };
            (overrides != LayerOverrides::default()).then_some((layer, overrides))
        };
        kinds.iter().enumerate().filter_map(of).collect()
    }
}

pub(super) fn tiny() -> GemmaConfig {
    let shape = shape("tiny", GemmaArch::Gemma3, [64, 2, 4, 2, 16, 128, 256], Some(8), 512).scalar(16.0);
    GemmaConfig { layer_types: vec![LayerKind::Sliding, LayerKind::Full], ..shape.config() }
}
