//! `--image`: one picture through the vision tower of a shape, stage by stage, beside prefill of text.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, anyhow};
use gemmaflow::{
    gemma::{GemmaConfig, MediaTokens, VisionConfig, random_vision_weights},
    generate::GemmaGenerator,
    image::{Image, ImageProcessor},
    internals::tower::{picture_graph, picture_inputs, profile},
    ir::DType,
    runtime::{Clock, CompileOptions, GpuContext, RunInput, RunTimes, Session},
    vision::{TowerOptions, VisionEncoder},
};

use crate::{Arguments, common, dispatches, roofline::Roofline, tokens};

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

/// Measures the tower, and one chunk of the text model, which has the same number of layers.
pub fn run(name: &str, mut generator: GemmaGenerator, dtype: DType, size: Size, arguments: &Arguments) -> Result<()> {
    let gpu = generator.gpu().ok_or_else(|| anyhow!("--image needs a GPU adapter; the CPU reference has no dispatches"))?;
    let shape = arguments.shape.as_deref().unwrap_or_default();
    let vision = cut(VisionConfig::preset(shape), arguments.layers).ok_or_else(|| {
        anyhow!("--image: '{shape}' has no tower whose shape is known; try gemma-3-4b, gemma-4-e2b or gemma-4-31b")
    })?;
    let tower = Tower::new(generator.config().clone(), vision, dtype, gpu)?;
    let times = tower.times(&picture(size, 0)?, arguments)?;
    let encoding = tower.encode(size, arguments.reps)?;
    generator.prefill(tokens(arguments.prompt[0], 1, generator.config().vocab_size))?;
    let text = generator.time_dispatches(arguments.reps, arguments.clock.map(Clock::from))?;
    let roofline = Roofline::measure(&tower.gpu)?;
    let heading = format!("tower, a picture of {} × {} as {} patches", size.width, size.height, times.tokens);
    let of_tower = rate(&times);
    let of_text = rate(&text);
    let Encoding { first, median, kept, kept_submits } = encoding;
    let summary = format!(
        "\nencoding: {median:.3} s a picture ({first:.3} s the first, with its pipelines); kept, {:.1} µs and {kept_submits} submits\n\
         tower: {:.3} s on the device, {:.2} GFLOP/s; text prefill: {:.2} GFLOP/s; the tower has {:.2} of its rate\n",
        kept * 1e6,
        times.whole,
        of_tower / 1e9,
        of_text / 1e9,
        of_tower / of_text.max(1e-12),
    );
    let head = format!("{name}, on {}\n{}", generator.stats().device, dispatches::ceilings(&roofline));
    let tables = [dispatches::table(&heading, &times, &roofline), dispatches::table(&dispatches::title(&text), &text, &roofline)];
    Ok(common::print(&(head + &tables.concat() + &summary))?)
}

/// The first `layers` layers of a tower.
fn cut(vision: Option<VisionConfig>, layers: Option<usize>) -> Option<VisionConfig> {
    let mut vision = vision?;
    let count = match &mut vision {
        VisionConfig::Siglip(config) => &mut config.num_hidden_layers,
        VisionConfig::Gemma4(config) => &mut config.num_hidden_layers,
        _ => return None,
    };
    *count = layers.map_or(*count, |layers| layers.min(*count));
    Some(vision)
}

/// Multiplications and additions a second, of the run as one pass.
fn rate(times: &RunTimes) -> f64 {
    let flops: u64 = times.dispatches.iter().map(|dispatch| dispatch.cost.flops).sum();
    flops as f64 / times.whole.max(1e-12)
}

/// A picture of noise, another one for each seed.
fn picture(size: Size, seed: u32) -> Result<Image> {
    let noise = |at: usize| (at as u32 ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b).to_le_bytes()[3];
    let pixels: Vec<u8> = (0..3 * size.width * size.height).map(noise).collect();
    Ok(Image::from_rgb8(size.width, size.height, pixels)?)
}

struct Tower {
    encoder: VisionEncoder,
    vision: VisionConfig,
    gpu: Arc<GpuContext>,
}

/// Seconds of an encoding, picture to soft tokens.
struct Encoding {
    first: f64,
    median: f64,
    /// Of a picture that was encoded before.
    kept: f64,
    kept_submits: u64,
}

impl Tower {
    fn new(mut config: GemmaConfig, vision: VisionConfig, dtype: DType, gpu: Arc<GpuContext>) -> Result<Self> {
        let mut weights = random_vision_weights(&vision, config.hidden_size, dtype, 1)?;
        config.multimodal.vision = Some(vision.clone());
        // No text is made, so that any ids do.
        config.multimodal.image = Some(MediaTokens { begin: 0, soft: 1, end: 2 });
        let encoder = VisionEncoder::from_loader(&config, &mut weights, Some(gpu.clone()), TowerOptions::default())?;
        Ok(Self { encoder, vision, gpu })
    }

    fn encode(&self, size: Size, reps: usize) -> Result<Encoding> {
        let timed = |seed: u32| -> Result<f64> {
            let picture = picture(size, seed)?;
            let start = Instant::now();
            self.encoder.encode(&picture)?;
            Ok(start.elapsed().as_secs_f64())
        };
        let first = timed(0)?;
        let times = (1..=reps as u32).map(timed).collect::<Result<Vec<_>>>()?;
        let submits = self.gpu.counters().snapshot().submits;
        let kept = timed(reps as u32)?;
        let kept_submits = self.gpu.counters().snapshot().submits - submits;
        Ok(Encoding { first, median: common::median(times), kept, kept_submits })
    }

    /// The tower's dispatches. Its graph is compiled beside the encoder's, with the encoder's profile.
    fn times(&self, picture: &Image, arguments: &Arguments) -> Result<RunTimes> {
        let budget = self.encoder.max_soft_tokens();
        let processor =
            ImageProcessor::new(&self.vision, budget).ok_or_else(|| anyhow!("--image: this tower is not computed"))?;
        let patches = processor.patches(picture)?;
        let built = picture_graph(&self.encoder, budget)?;
        let session = Session::on(&self.gpu);
        let options = CompileOptions::default().with_weights(&session.load(built.params())?).with_profile(&profile());
        let mut graph = session.compile_with(&built.graph, &options)?;
        let inputs = picture_inputs(&self.encoder, &patches, budget)?;
        let given: Vec<(&str, RunInput)> = inputs.iter().map(|(name, value)| (*name, RunInput::Value(value))).collect();
        Ok(graph.time_dispatches(&given, patches.rows * patches.columns, arguments.reps, arguments.clock.map(Clock::from))?)
    }
}
