//! The tower and its runs.

use std::sync::Arc;

use crate::{
    Error, Result,
    cancel::CancelToken,
    checkpoint::load_towers_from_path,
    error::{GraphError, PromptError},
    files::ModelPath,
    flow::BuiltModel,
    gemma::{
        GemmaConfig, MOST_SOFT_TOKENS, MediaTokens, VisionConfig,
        tower::SOFT_TOKENS,
        vision::{ROPE_COLUMNS, ROPE_ROWS},
    },
    image::{Image, ImageProcessor, Patches},
    ir::{Value, ops::rope_row},
    platform,
    profile::CompileProfile,
    prompt::{Modality, Prompt, SoftTokens},
    runtime::{Capabilities, GpuContext},
    tower::{Found, Tower, TowerInputs, TowerMemory, TowerOptions, Turn},
    weights::WeightLoader,
};

/// The token `\n\n` of Gemma's vocabulary, which the processors of Gemma 3 and 3n put around a picture.
const DOUBLE_NEWLINE: u32 = 108;

/// Makes soft tokens of pictures, on the device of the generator that they are for.
///
/// `Send + Sync`, and a clone shares the weights. Where a model has none of its own device, it runs on the reference.
#[derive(Clone)]
pub struct VisionEncoder {
    shared: Arc<Shared>,
    cancel: CancelToken,
}

struct Shared {
    vision: VisionConfig,
    /// D of the text model.
    width: usize,
    ids: MediaTokens,
    tower: Tower,
}

const _: () = {
    const fn shareable<T: Send + Sync + 'static>() {}
    shareable::<VisionEncoder>();
};

impl VisionEncoder {
    /// The tower of the checkpoint at `path`, on `gpu`, or on the reference without one
    /// ([`GemmaGenerator::gpu`](crate::GemmaGenerator::gpu)). Of a model in GGUF files `path` is the projector's
    /// (`mmproj`), whose keys take the place of the configuration's tower, or the text model's that it lies beside.
    ///
    /// # Errors
    /// As [`from_loader`](Self::from_loader) and [`load_towers_from_path`], and what is wrong with the files.
    pub fn from_path(config: &GemmaConfig, path: impl Into<ModelPath>, gpu: Option<Arc<GpuContext>>) -> Result<Self> {
        Self::from_path_with(config, path, gpu, TowerOptions::default())
    }

    /// As [`from_path`](Self::from_path), with options.
    ///
    /// # Errors
    /// As [`from_path`](Self::from_path).
    pub fn from_path_with(
        config: &GemmaConfig,
        path: impl Into<ModelPath>,
        gpu: Option<Arc<GpuContext>>,
        options: TowerOptions,
    ) -> Result<Self> {
        Self::from_files(config, &path.into(), gpu, options)
    }

    fn from_files(config: &GemmaConfig, path: &ModelPath, gpu: Option<Arc<GpuContext>>, options: TowerOptions) -> Result<Self> {
        let config = config.with_towers_of(path)?;
        Self::from_loader(&config, load_towers_from_path(path)?.as_mut(), gpu, options)
    }

    /// As [`from_path`](Self::from_path), with the weights of a loader, by their names in a checkpoint.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without a tower, or with one that is not computed; a weight that is missing or
    /// misshapen, and what the device says.
    pub fn from_loader(
        config: &GemmaConfig,
        loader: &mut dyn WeightLoader,
        gpu: Option<Arc<GpuContext>>,
        options: TowerOptions,
    ) -> Result<Self> {
        platform::wait("loading a tower", Self::from_loader_async(config, loader, gpu, options))
    }

    /// As [`from_loader`](Self::from_loader), for where no thread may wait for a device, as in a browser: the future
    /// waits for it, and others of its thread have their turn meanwhile. Elsewhere the thread that polls it does the
    /// work.
    ///
    /// # Errors
    /// As [`from_loader`](Self::from_loader).
    pub async fn from_loader_async(
        config: &GemmaConfig,
        loader: &mut dyn WeightLoader,
        gpu: Option<Arc<GpuContext>>,
        options: TowerOptions,
    ) -> Result<Self> {
        let vision = tower_of(config)?;
        let no_ids = || {
            let of_gguf = "in a GGUF file they are the places of <start_of_image> or <|image> and its like in the vocabulary";
            Error::Config(format!("the configuration has a vision tower, but not the ids of a picture's tokens; {of_gguf}"))
        };
        let ids = config.multimodal.image.ok_or_else(no_ids)?;
        let most = vision.max_soft_tokens();
        let text = config.clone();
        let towered = vision.clone();
        let flow = Box::new(move |budget| towered.flow(&text, budget));
        let tower = Tower::new(flow, most, loader, gpu, &options.computing(vision.compute())).await?;
        let shared = Arc::new(Shared { vision, width: config.hidden_size, ids, tower });
        Ok(Self { shared, cancel: CancelToken::new() })
    }

    /// The memory of the tower on a device with these capabilities, for pictures of at most `budget` soft tokens, or of
    /// as many as the model gives them. Takes the weights out of the loader and reads none.
    ///
    /// # Errors
    /// As [`from_loader`](Self::from_loader) and [`encode_within`](Self::encode_within), but for those of the device.
    pub fn memory_plan(
        config: &GemmaConfig,
        loader: &mut dyn WeightLoader,
        device: &Capabilities,
        budget: Option<usize>,
        options: &TowerOptions,
    ) -> Result<TowerMemory> {
        let vision = tower_of(config)?;
        let budget = checked(&vision, budget.unwrap_or(vision.max_soft_tokens()))?;
        let options = options.clone().computing(vision.compute());
        TowerMemory::of(&vision.flow(config, budget)?, [budget, config.hidden_size], loader, device, &options)
    }

    /// A handle whose encoding ends with [`Error::Cancelled`] when `cancel` is cancelled: between two submits, or while
    /// it waits for another's.
    pub fn with_cancel(self, cancel: CancelToken) -> Self {
        Self { cancel, ..self }
    }

    /// A picture as a part of a prompt: its soft tokens with the ids around them, as the model's processor lays them out
    /// (HF: `full_image_sequence` and its like). The text before and after it is tokenised apart.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn prompt(&self, image: &Image) -> Result<Prompt> {
        Ok(self.lay_out(self.encode(image)?))
    }

    /// As [`prompt`](Self::prompt), of soft tokens that were made before.
    pub fn lay_out(&self, soft: SoftTokens) -> Prompt {
        let MediaTokens { begin, end, .. } = self.shared.ids;
        let picture = Prompt::from([begin]).then(soft).then([end]);
        match &self.shared.vision {
            VisionConfig::Siglip(_) | VisionConfig::MobileNet(_) => {
                Prompt::from([DOUBLE_NEWLINE]).then(picture).then([DOUBLE_NEWLINE])
            }
            _ => picture,
        }
    }

    /// The ids around a picture's soft tokens, and in their place.
    pub fn ids(&self) -> MediaTokens {
        self.shared.ids
    }

    /// The soft tokens of a picture, at most [`max_soft_tokens`](Self::max_soft_tokens) of them. Of a picture that was
    /// seen before they are those kept; the tower does not run.
    ///
    /// # Errors
    /// As [`encode_within`](Self::encode_within).
    pub fn encode(&self, image: &Image) -> Result<SoftTokens> {
        self.encode_within(image, self.max_soft_tokens())
    }

    /// [`encode`](Self::encode) without blocking the calling thread while a device computes; needs no particular
    /// executor. On the reference, and where a tower is compiled for the first time, the thread that polls does the
    /// work.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub async fn encode_async(&self, image: &Image) -> Result<SoftTokens> {
        self.encode_within_async(image, self.max_soft_tokens()).await
    }

    /// As [`encode`](Self::encode), with at most `budget` soft tokens; the towers of Gemma 3 and 3n have one number of them.
    ///
    /// # Errors
    /// [`ImageError::Aspect`](crate::error::ImageError::Aspect) for a picture that the budget has no room for;
    /// [`Error::Option`] for a budget that the tower does not take, [`Error::Cancelled`], and what the device says.
    pub fn encode_within(&self, image: &Image, budget: usize) -> Result<SoftTokens> {
        platform::wait("encoding a picture", self.encode_within_async(image, budget))
    }

    /// [`encode_within`](Self::encode_within) as [`encode_async`](Self::encode_async).
    ///
    /// # Errors
    /// As [`encode_within`](Self::encode_within).
    pub async fn encode_within_async(&self, image: &Image, budget: usize) -> Result<SoftTokens> {
        let shared = &*self.shared;
        let budget = checked(&shared.vision, budget)?;
        let source = (image.content_hash(), budget);
        let mut turn = match shared.tower.find(&source, &self.cancel).await? {
            Found::Kept(soft) => return Ok(soft),
            Found::Turn(turn) => turn,
        };
        self.cancel.check(ENCODING)?;
        let computed = || Error::Unsupported("this model's vision tower".into());
        let processor = ImageProcessor::new(&shared.vision, budget).ok_or_else(computed)?;
        let patches = processor.patches(image).map_err(PromptError::from)?;
        let soft = self.encode_in(&mut turn, &patches, budget).await?;
        turn.keep(&source, &soft)?;
        Ok(soft)
    }

    /// Most soft tokens of a picture, unless another budget is asked for.
    pub fn max_soft_tokens(&self) -> usize {
        self.shared.vision.max_soft_tokens()
    }

    /// The soft tokens of a picture's patches, of which it may have at most `budget`.
    ///
    /// # Errors
    /// [`PromptError::SoftTokens`] for patches that are not of this tower; what the device says.
    pub fn encode_patches(&self, patches: &Patches, budget: usize) -> Result<SoftTokens> {
        platform::wait("encoding a picture", async {
            self.encode_in(&mut self.shared.tower.turn(&self.cancel).await?, patches, budget).await
        })
    }

    async fn encode_in(&self, turn: &mut Turn<'_>, patches: &Patches, budget: usize) -> Result<SoftTokens> {
        let outputs = self.run_in(turn, patches, budget, &[]).await?;
        let shared = &*self.shared;
        let grid = shared.vision.grid(budget)?;
        let by_size = patches.rows * patches.columns / (grid.pooled * grid.pooled);
        let tokens = shared.vision.fixed_soft_tokens().unwrap_or(by_size);
        let soft = outputs.into_iter().find(|(name, _)| name == SOFT_TOKENS).ok_or_else(no_output)?.1;
        let mut values = soft.to_f32()?.into_owned();
        values.truncate(tokens * shared.width);
        SoftTokens::new(Modality::Image, shared.ids.soft, shared.width, values)
    }

    /// Runs the tower: its soft tokens, and the values of nodes by their labels, such as `vision.layer.3.output`, with
    /// the padding of the budget.
    ///
    /// # Errors
    /// As [`encode_patches`](Self::encode_patches); [`Error::Builder`] for a label that no node has.
    pub fn run(&self, patches: &Patches, budget: usize, labels: &[&str]) -> Result<Vec<(String, Value)>> {
        platform::wait("encoding a picture", async {
            self.run_in(&mut self.shared.tower.turn(&self.cancel).await?, patches, budget, labels).await
        })
    }

    async fn run_in(
        &self,
        turn: &mut Turn<'_>,
        patches: &Patches,
        budget: usize,
        labels: &[&str],
    ) -> Result<Vec<(String, Value)>> {
        turn.run(budget, &picture_inputs(self, patches, budget)?, labels, &self.cancel).await
    }
}

/// The graph of a tower for pictures of at most `budget` soft tokens.
///
/// # Errors
/// As [`VisionEncoder::encode_within`].
pub fn picture_graph(encoder: &VisionEncoder, budget: usize) -> Result<BuiltModel> {
    encoder.shared.tower.build(checked(&encoder.shared.vision, budget)?)
}

/// How [`picture_graph`] is compiled.
pub fn picture_profile(encoder: &VisionEncoder) -> &CompileProfile {
    encoder.shared.tower.profile()
}

/// The inputs of [`picture_graph`] for a picture.
///
/// # Errors
/// As [`VisionEncoder::encode_patches`].
pub fn picture_inputs(encoder: &VisionEncoder, patches: &Patches, budget: usize) -> Result<TowerInputs> {
    let shared = &*encoder.shared;
    let grid = shared.vision.grid(budget)?;
    if let Some(problem) = patches.problem(grid, shared.vision.places()) {
        return Err(Error::Prompt(PromptError::SoftTokens(problem)));
    }
    Ok(shared.inputs(patches, grid.most))
}

impl std::fmt::Debug for VisionEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VisionEncoder").field("vision", &self.shared.vision).finish_non_exhaustive()
    }
}

/// The work that is cancelled, as errors name it.
const ENCODING: &str = "the encoding of a picture";

/// The tower that the configuration has.
fn tower_of(config: &GemmaConfig) -> Result<VisionConfig> {
    let missing = || Error::Unsupported("pictures with a model whose configuration has no vision_config".into());
    config.multimodal.vision.clone().ok_or_else(missing)
}

/// The budget that a tower takes where `budget` is asked for.
fn checked(vision: &VisionConfig, budget: usize) -> Result<usize> {
    if let Some(tokens) = vision.fixed_soft_tokens() {
        return Ok(tokens);
    }
    if (1..=MOST_SOFT_TOKENS).contains(&budget) {
        return Ok(budget);
    }
    let expected = format!("1 to {MOST_SOFT_TOKENS}, the largest budget of a released processor");
    Err(Error::Option { option: "soft tokens of a picture", found: budget, expected })
}

fn no_output() -> Error {
    Error::Graph(GraphError::Malformed { graph: "vision".into(), problem: format!("it has no output '{SOFT_TOKENS}'") })
}

impl Shared {
    /// The inputs of the graph for `most` patches.
    fn inputs(&self, patches: &Patches, most: usize) -> TowerInputs {
        let width = patches.values.len() / (patches.rows * patches.columns).max(1);
        let mut values = vec![0.0; most * width];
        let side = match &self.vision {
            VisionConfig::Siglip(_) | VisionConfig::MobileNet(_) => {
                values[..patches.values.len()].copy_from_slice(&patches.values);
                return vec![("patches", Value::f32([1, most, width], values))];
            }
            VisionConfig::Gemma4(config) => config.pooling_kernel_size,
            _ => 1,
        };
        let order = patches.by_square(side);
        let mut columns = vec![0; most];
        let mut rows = vec![0; most];
        for (at, [column, row]) in order.iter().enumerate() {
            let from = (row * patches.columns + column) * width;
            values[at * width..(at + 1) * width].copy_from_slice(&patches.values[from..from + width]);
            [columns[at], rows[at]] = self.vision.place(*column, *row);
        }
        let places = |ids| Value::u32([1, most], ids);
        let mut live = vec![1.0; order.len()];
        live.resize(most, 0.0);
        let mut inputs = vec![
            ("patches", Value::f32([1, most, width], values)),
            ("columns", places(columns)),
            ("rows", places(rows)),
            ("attention_mask", Value::f32([1, most], live)),
        ];
        if let VisionConfig::Gemma4(config) = &self.vision {
            // Each half of a head turns by one of the two, with frequencies of half a head.
            let half = config.head_dim / 2;
            let frequency = |pair: usize| (f64::from(config.rope_theta)).powf(-2.0 * pair as f64 / half as f64) as f32;
            let frequencies: Vec<f32> = (0..half / 2).map(frequency).collect();
            // Padding is at −1, as in transformers: the sines of 1 the other way.
            let turn = |(at, value): (usize, f32)| if at < half / 2 { value } else { -value };
            let padding: Vec<f32> = rope_row(&frequencies, 1).enumerate().map(turn).collect();
            for (axis, name) in [ROPE_COLUMNS, ROPE_ROWS].into_iter().enumerate() {
                let mut table: Vec<f32> = order.iter().flat_map(|place| rope_row(&frequencies, place[axis])).collect();
                table.extend(padding.repeat(most - order.len()));
                inputs.push((name, Value::f32([1, most, half], table)));
            }
        }
        inputs
    }
}
