//! Shapes of the released models.

use super::{GemmaArch, GemmaConfig, LayerKind, RopeConfig, RopeScaling};

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
}

const fn shape(name: &'static str, arch: GemmaArch, sizes: [usize; 7], window: Option<usize>, context: usize) -> Shape {
    let query_pre_attn_scalar = match arch {
        GemmaArch::Gemma => None,
        _ => Some(256.0),
    };
    Shape { name, arch, sizes, window, query_pre_attn_scalar, context, rope_factor: None }
}

impl Shape {
    const fn scalar(mut self, query_pre_attn_scalar: f32) -> Self {
        self.query_pre_attn_scalar = Some(query_pre_attn_scalar);
        self
    }

    const fn rope_linear(mut self, factor: f32) -> Self {
        self.rope_factor = Some(factor);
        self
    }
}

#[rustfmt::skip]
const SHAPES: [Shape; 11] = {
    use GemmaArch::{Gemma, Gemma2, Gemma3, VaultGemma};
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
    ]
};

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|s| s.name)
}

pub(super) fn by_name(name: &str) -> Option<GemmaConfig> {
    SHAPES.iter().find(|s| s.name == name).map(Shape::config)
}

/// The kinds of `layers` layers where the configuration names none: every `period`-th is full, Gemma 1's all.
pub(super) fn layer_pattern(arch: GemmaArch, layers: usize, period: Option<usize>) -> Vec<LayerKind> {
    let period = match arch {
        GemmaArch::Gemma => 1,
        GemmaArch::Gemma2 | GemmaArch::VaultGemma => 2,
        GemmaArch::Gemma3 => period.unwrap_or(6),
    };
    (1..=layers).map(|i| if i % period == 0 { LayerKind::Full } else { LayerKind::Sliding }).collect()
}

impl Shape {
    fn config(&self) -> GemmaConfig {
        let [hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size, vocab_size] =
            self.sizes;
        let caps = matches!(self.arch, GemmaArch::Gemma2 | GemmaArch::VaultGemma);
        let theta = if self.arch == GemmaArch::Gemma3 { 1e6 } else { 1e4 };
        let scaling = self.rope_factor.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor });
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
            layer_types: layer_pattern(self.arch, num_hidden_layers, None),
            sliding_window: self.window,
            query_pre_attn_scalar: self.query_pre_attn_scalar,
            attn_logit_softcapping: caps.then_some(50.0),
            final_logit_softcapping: caps.then_some(30.0),
            tie_word_embeddings: true,
            eos_token_ids: vec![1],
            bos_token_id: Some(2),
            pad_token_id: Some(0),
            rope_full: RopeConfig { theta, scaling },
            rope_sliding: RopeConfig::new(1e4),
            effective_num_layers: None,
        }
    }
}

pub(super) fn tiny() -> GemmaConfig {
    let shape = shape("tiny", GemmaArch::Gemma3, [64, 2, 4, 2, 16, 128, 256], Some(8), 512).scalar(16.0);
    GemmaConfig { layer_types: vec![LayerKind::Sliding, LayerKind::Full], ..shape.config() }
}
