//! Names and shapes of MobileNet-V5's weights. Source: `mobilenetv5_300m_enc` in timm's `mobilenetv5.py`.

use super::towers::TowerShapes;

const TOWER: &str = "vision_tower.timm_model";

/// Channels of the stem.
const STEM: usize = 64;

/// Channels of the tower's result.
const OUT: usize = 2048;

/// A block's shape; channels are multiplied by `expand` within it.
enum Kind {
    /// A convolution of 3×3 to more channels, and a product back.
    Edge { expand: usize },
    /// Products to more channels and back, with convolutions of each channel of so many places before and between them,
    /// 0 for none.
    Bottleneck { start: usize, middle: usize, expand: usize },
    /// Attention; `smaller` if keys and values are of a smaller picture.
    Attention { heads: usize, head_dim: usize, smaller: bool },
}

/// Channels of each stage and its blocks.
fn stages() -> [(usize, Vec<Kind>); 4] {
    let bottleneck = |start, middle, expand| Kind::Bottleneck { start, middle, expand };
    let pairs = |count, attention: fn() -> Kind| {
        (0..count).flat_map(move |_| [attention(), Kind::Bottleneck { start: 0, middle: 0, expand: 2 }])
    };
    let first = (0..3).map(|_| Kind::Edge { expand: 4 }).collect();
    let mut second = vec![bottleneck(3, 5, 6)];
    second.extend([5, 3, 5, 3].map(|start| bottleneck(start, 0, 4)));
    let mut third = vec![bottleneck(5, 5, 6)];
    third.extend((0..7).map(|_| bottleneck(5, 0, 4)));
    third.push(bottleneck(0, 0, 1));
    third.extend(pairs(14, || Kind::Attention { heads: 12, head_dim: 64, smaller: true }));
    let mut fourth = vec![bottleneck(5, 5, 6)];
    fourth.extend(pairs(19, || Kind::Attention { heads: 16, head_dim: 96, smaller: false }));
    [(128, first), (256, second), (640, third), (1280, fourth)]
}

/// Of the tower, and of the embedder for a text model of `width`, as `MobileNetStage` asks for them.
pub(super) fn shapes(width: usize) -> TowerShapes {
    let mut shapes = Shapes(Vec::new());
    shapes.add("embed_vision.soft_embedding_norm", &[OUT]);
    shapes.add("embed_vision.embedding_projection", &[width, OUT]);
    shapes.conv(&format!("{TOWER}.conv_stem"), [STEM, 3], 3);
    shapes.0.push((format!("{TOWER}.conv_stem.conv.bias"), vec![STEM]));
    let mut taken = STEM;
    let mut ends = Vec::new();
    for (stage, (channels, blocks)) in stages().into_iter().enumerate() {
        for (block, kind) in blocks.into_iter().enumerate() {
            shapes.block(&format!("{TOWER}.blocks.{stage}.{block}"), &kind, [taken, channels]);
            taken = channels;
        }
        ends.push(channels);
    }
    let both: usize = ends.iter().rev().take(2).sum();
    shapes.products(&format!("{TOWER}.msfa.ffn"), [both, 2 * both, OUT]);
    shapes.add(&format!("{TOWER}.msfa.norm"), &[OUT]);
    shapes.0
}

struct Shapes(TowerShapes);

impl Shapes {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push((format!("{name}.weight"), shape.to_vec()));
    }

    /// A convolution of `kernel` × `kernel` places, and its norm.
    fn conv(&mut self, name: &str, [out, depth]: [usize; 2], kernel: usize) {
        self.add(&format!("{name}.conv"), &[out, depth, kernel, kernel]);
        self.add(&format!("{name}.bn"), &[out]);
    }

    /// Two products, from and to so many channels.
    fn products(&mut self, name: &str, [taken, within, out]: [usize; 3]) {
        self.conv(&format!("{name}.pw_exp"), [within, taken], 1);
        self.conv(&format!("{name}.pw_proj"), [out, within], 1);
    }

    fn block(&mut self, name: &str, kind: &Kind, [taken, channels]: [usize; 2]) {
        match *kind {
            Kind::Edge { expand } => {
                let within = taken * expand;
                self.add(&format!("{name}.conv_exp"), &[within, taken, 3, 3]);
                self.add(&format!("{name}.bn1"), &[within]);
                self.add(&format!("{name}.conv_pwl"), &[channels, within, 1, 1]);
                self.add(&format!("{name}.bn2"), &[channels]);
                return;
            }
            Kind::Bottleneck { start, middle, expand } => {
                let within = taken * expand;
                if start > 0 {
                    self.conv(&format!("{name}.dw_start"), [taken, 1], start);
                }
                self.products(name, [taken, within, channels]);
                if middle > 0 {
                    self.conv(&format!("{name}.dw_mid"), [within, 1], middle);
                }
            }
            Kind::Attention { heads, head_dim, smaller } => {
                self.add(&format!("{name}.norm"), &[channels]);
                self.add(&format!("{name}.attn.query.proj"), &[heads * head_dim, channels, 1, 1]);
                self.add(&format!("{name}.attn.output.proj"), &[channels, heads * head_dim, 1, 1]);
                for part in ["key", "value"] {
                    if smaller {
                        self.add(&format!("{name}.attn.{part}.down_conv"), &[channels, 1, 3, 3]);
                        self.add(&format!("{name}.attn.{part}.norm"), &[channels]);
                    }
                    self.add(&format!("{name}.attn.{part}.proj"), &[head_dim, channels, 1, 1]);
                }
            }
        }
        self.0.push((format!("{name}.layer_scale.gamma"), vec![channels]));
    }
}
