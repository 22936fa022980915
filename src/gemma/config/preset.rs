//! Shapes of the released models.

use std::collections::BTreeMap;

use super::{
    AltUp, GemmaConfig, LayerKind, LayerOverrides, Moe, PerLayerInput, RopeConfig, RopeScaling,
    absent::Defaults,
    family::{Family, GemmaArch, Ple, Pooling, ScoreScale, SoftcapKey},
    rope,
    sparsity::deviations,
};

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
    final_softcap: Option<f32>,
    wide: Wide,
    /// Of a model that embeds texts: the widths of the products after the mean.
    embeds: Option<&'static [usize]>,
    moe: Option<Moe>,
}

/// The layers of Gemma 3n, 4 and EmbeddingGemma 2.
#[derive(Clone, Copy)]
struct Wide {
    /// Every so many-th layer is full.
    period: Option<usize>,
    /// The head dimension of full layers.
    head_dim: Option<usize>,
    /// KV heads of full layers, whose keys are values in Gemma 4.
    kv_heads: Option<usize>,
    /// Layers at the end without K and V of their own.
    shared: usize,
    /// True if those have an FFW of double width.
    double: bool,
    /// Width of per-layer embeddings; 0 without.
    ple: usize,
}

/// Rows of the tables of per-layer embeddings.
const PER_LAYER_ROWS: usize = 262_144;

const fn shape(name: &'static str, arch: GemmaArch, sizes: [usize; 7], window: Option<usize>, context: usize) -> Shape {
    let query_pre_attn_scalar = match arch.family().score_scale {
        ScoreScale::HeadDim => None,
        ScoreScale::QueryPreAttnScalar => Some(256.0),
        ScoreScale::One => Some(1.0),
    };
    let wide = Wide { period: None, head_dim: None, kv_heads: None, shared: 0, double: false, ple: 0 };
    Shape {
        name,
        arch,
        sizes,
        window,
        query_pre_attn_scalar,
        context,
        rope_factor: None,
        final_softcap: None,
        wide,
        embeds: None,
        moe: None,
    }
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

    const fn experts(mut self, num_experts: usize, top_k_experts: usize, intermediate_size: usize) -> Self {
        self.moe = Some(Moe { num_experts, top_k_experts, intermediate_size });
        self
    }

    const fn capped(mut self) -> Self {
        self.final_softcap = Some(30.0);
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
    const N2B: Wide = Wide { period: None, head_dim: None, kv_heads: None, shared: 10, double: false, ple: 256 };
    const N4B: Wide = Wide { shared: 15, ..N2B };
    const E2B: Wide = Wide { period: Some(5), head_dim: Some(512), kv_heads: None, shared: 20, double: true, ple: 256 };
    const E4B: Wide = Wide { period: Some(6), head_dim: Some(512), kv_heads: None, shared: 18, double: false, ple: 256 };
    const EMBED: Wide = Wide { period: Some(6), head_dim: Some(512), kv_heads: Some(1), shared: 0, double: false, ple: 512 };
    const DENSE: Wide = Wide { period: Some(6), head_dim: Some(512), kv_heads: Some(4), shared: 0, double: false, ple: 0 };
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
        shape("gemma-4-e2b", Gemma4, [1536, 35, 8, 1, 256, 6144, 262144], Some(512), 131072).wide(E2B).capped(),
        shape("gemma-4-e4b", Gemma4, [2560, 42, 8, 2, 256, 10240, 262144], Some(512), 131072).wide(E4B).capped(),
        shape("embeddinggemma-2", EmbeddingGemma2, [512, 24, 4, 2, 256, 2048, 262144], Some(512), 262144).wide(EMBED).embeds(&[]),
        shape("gemma-4-26b-a4b", Gemma4, [2816, 30, 16, 8, 256, 2112, 262144], Some(1024), 131072).wide(A4B).experts(128, 8, 704).capped(),
        shape("gemma-4-31b", Gemma4, [5376, 60, 32, 16, 256, 21504, 262144], Some(1024), 131072).wide(DENSE).capped(),
    ]
};

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|s| s.name)
}

pub(super) fn by_name(name: &str) -> Option<GemmaConfig> {
    SHAPES.iter().find(|s| s.name == name).map(Shape::config)
}

/// The kinds of `layers` layers of which every `period`-th is full, and in some families the last; without a period
/// all.
pub(super) fn layer_pattern(family: &Family, layers: usize, period: Option<usize>) -> Vec<LayerKind> {
    let period = period.unwrap_or(1).max(1);
    let forced = |i: usize| family.last_layer_full && i == layers;
    (1..=layers).map(|i| if i % period == 0 || forced(i) { LayerKind::Full } else { LayerKind::Sliding }).collect()
}

impl Shape {
    fn config(&self) -> GemmaConfig {
        let [hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size, vocab_size] =
            self.sizes;
        let family = self.arch.family();
        let defaults = Defaults::config_json(self.arch.model_type());
        let period = self.wide.period.or_else(|| defaults.size("sliding_window_pattern"));
        let layer_types = layer_pattern(&family, num_hidden_layers, period);
        let (rope_full, rope_sliding) = self.rope(&defaults);
        GemmaConfig {
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size,
            rms_norm_eps: 1e-6,
            max_position_embeddings: self.context,
            per_layer_config: self.wide.overrides(&layer_types, intermediate_size),
            layer_types,
            sliding_window: self.window,
            use_bidirectional_attention: self.embeds.is_some(),
            query_pre_attn_scalar: self.query_pre_attn_scalar,
            attn_logit_softcapping: (family.attention_softcap == SoftcapKey::Cap).then_some(50.0),
            final_logit_softcapping: self.final_softcap.or_else(|| defaults.cap("final_logit_softcapping").flatten()),
            eos_token_ids: vec![1],
            bos_token_id: Some(2),
            pad_token_id: Some(0),
            rope_full,
            rope_sliding,
            attention_k_eq_v: self.arch == GemmaArch::Gemma4 && self.wide.kv_heads.is_some(),
            num_kv_shared_layers: self.wide.shared,
            per_layer_input: self.ple(&family),
            altup: family.altup.then_some(AltUp { num_inputs: 4, active_idx: 0, correct_scale: true }),
            laurel_rank: family.altup.then_some(64),
            moe: self.moe,
            activation_sparsity: if family.altup { sparse(num_hidden_layers) } else { Vec::new() },
            embedding_dim: (family.pooling == Pooling::ProjectionThenMean).then_some(768),
            embedding_dense: self.embeds.map(<[usize]>::to_vec).unwrap_or_default(),
            ..GemmaConfig::bare(self.arch)
        }
    }

    fn ple(&self, family: &Family) -> Option<PerLayerInput> {
        let vocab_size = (family.ple != Ple::Projection).then_some(PER_LAYER_ROWS);
        (self.wide.ple > 0).then_some(PerLayerInput { hidden_size: self.wide.ple, vocab_size })
    }

    /// The rotary tables of full and of sliding layers.
    fn rope(&self, defaults: &Defaults) -> (RopeConfig, RopeConfig) {
        let stock = rope::stock(defaults, "full_attention").ok();
        let theta = defaults.number("rope_theta").unwrap_or(1e6);
        let full = match self.rope_factor {
            Some(factor) => RopeConfig { theta, scaling: RopeScaling::Linear { factor } },
            None => stock.unwrap_or(RopeConfig::new(theta)),
        };
        (full, RopeConfig::new(1e4))
    }
}

/// The gates of Gemma 3n's first ten layers count where they are among the largest twentieth.
fn sparse(layers: usize) -> Vec<Option<f32>> {
    (0..layers).map(|layer| (layers > 10 && layer < 10).then(|| deviations(0.95) as f32)).collect()
}

impl Wide {
    fn overrides(&self, kinds: &[LayerKind], width: usize) -> BTreeMap<usize, LayerOverrides> {
        let own = kinds.len() - self.shared;
        let of = |(layer, kind): (usize, &LayerKind)| {
            let full = *kind == LayerKind::Full;
            let overrides = LayerOverrides {
                head_dim: self.head_dim.filter(|_| full),
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
