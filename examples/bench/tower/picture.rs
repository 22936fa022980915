//! A picture of noise through a vision tower.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use gemmaflow::{
    flow::BuiltModel,
    gemma::{GemmaConfig, MediaTokens, VisionConfig, random_vision_weights},
    image::{Image, ImageProcessor},
    internals::tower::{TowerInputs, picture_graph, picture_inputs, picture_profile},
    ir::DType,
    runtime::GpuContext,
    vision::{TowerOptions, VisionEncoder},
};

use super::{Graph, Tower};

/// A picture's size in pixels, as in `896x896`.
#[derive(Clone, Copy)]
pub struct Size {
    width: usize,
    height: usize,
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().filter(|number| (1..=8192).contains(number));
        let sides = text.split_once('x').and_then(|(width, height)| Some((number(width)?, number(height)?)));
        let (width, height) =
            sides.ok_or_else(|| format!("'{text}' is no size of a picture, expected WxH, each of 1 to 8192"))?;
        Ok(Self { width, height })
    }
}

pub struct Picture {
    encoder: VisionEncoder,
    vision: VisionConfig,
    size: Size,
}

impl Picture {
    /// The first `layers` layers of the tower of `shape`.
    pub fn new(
        shape: &str,
        layers: Option<usize>,
        mut config: GemmaConfig,
        dtype: DType,
        size: Size,
        gpu: Arc<GpuContext>,
    ) -> Result<Self> {
        let vision = cut(VisionConfig::preset(shape), layers).ok_or_else(|| {
            anyhow!(
                "--image: '{shape}' has no tower whose shape is known; try gemma-3-4b, gemma-3n-e2b, gemma-4-e2b or gemma-4-31b"
            )
        })?;
        let mut weights = random_vision_weights(&vision, config.hidden_size, dtype, 1)?;
        config.multimodal.vision = Some(vision.clone());
        // No text is made, so that any ids do.
        config.multimodal.image = Some(MediaTokens { begin: 0, soft: 1, end: 2 });
        let encoder = VisionEncoder::from_loader(&config, &mut weights, Some(gpu), TowerOptions::default())?;
        Ok(Self { encoder, vision, size })
    }

    fn image(&self, seed: u32) -> Result<Image> {
        let Size { width, height } = self.size;
        let noise = |at: usize| (at as u32 ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b).to_le_bytes()[3];
        let pixels: Vec<u8> = (0..3 * width * height).map(noise).collect();
        Ok(Image::from_rgb8(width, height, pixels)?)
    }
}

impl Tower for Picture {
    fn subject(&self) -> &'static str {
        "picture"
    }

    fn encode(&self, seed: u32) -> Result<()> {
        self.encoder.encode(&self.image(seed)?)?;
        Ok(())
    }

    fn graph(&self) -> Result<Graph> {
        let budget = self.encoder.max_soft_tokens();
        let processor =
            ImageProcessor::new(&self.vision, budget).ok_or_else(|| anyhow!("--image: this tower is not computed"))?;
        let patches = processor.patches(&self.image(0)?)?;
        let built: BuiltModel = picture_graph(&self.encoder, budget)?;
        let inputs: TowerInputs = picture_inputs(&self.encoder, &patches, budget)?;
        let tokens = patches.rows * patches.columns;
        let Size { width, height } = self.size;
        let profile = picture_profile(&self.encoder).clone();
        let heading = format!("a picture of {width} × {height} as {tokens} patches");
        Ok(Graph { built, inputs, profile, tokens, heading })
    }
}

/// The first `layers` layers of a tower; MobileNet-V5, whose blocks differ, is always whole.
fn cut(vision: Option<VisionConfig>, layers: Option<usize>) -> Option<VisionConfig> {
    let mut vision = vision?;
    let count = match &mut vision {
        VisionConfig::Siglip(config) => &mut config.num_hidden_layers,
        VisionConfig::Gemma4(config) => &mut config.num_hidden_layers,
        VisionConfig::MobileNet(_) => return Some(vision),
        _ => return None,
    };
    *count = layers.map_or(*count, |layers| layers.min(*count));
    Some(vision)
}
