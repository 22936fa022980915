//! The tower and its runs.

mod graph;

pub use graph::{clip_graph, clip_inputs, clip_profile};

use std::sync::Arc;

use crate::{
    Error, Result,
    audio::{Audio, AudioFeatureExtractor, Features, gemma3n_encoder_frames, gemma4_soft_tokens, raw_frame_count, raw_frames},
    cancel::CancelToken,
    checkpoint::load_towers_from_path,
    error::{GraphError, PromptError},
    files::ModelPath,
    gemma::{
        AudioConfig, ConformerConfig, ConformerKind, GemmaConfig, MediaTokens,
        audio::{FRAME_MULTIPLE, MASK_HALF, MASK_QUARTER, SHARE_HALF, SHARE_QUARTER},
        tower::SOFT_TOKENS,
    },
    ir::Value,
    platform,
    prompt::{Modality, Prompt, SoftTokens},
    runtime::{Capabilities, GpuContext},
    tower::{Found, Tower, TowerInputs, TowerMemory, TowerOptions, Turn},
    weights::WeightLoader,
};

/// The token `\n\n` of Gemma's vocabulary, which Gemma 3n's processor puts around a clip.
const DOUBLE_NEWLINE: u32 = 108;

/// Frames for which a tower is built as it is loaded.
const FIRST_SIZE: usize = 64;

/// Samples of 30 s, the longest clip that Gemma 4 E2B, E4B and Gemma 3n hear.
const LONG_CLIP: usize = 480_000;

/// Soft tokens of so many samples in Gemma 4, by which the number of kept clips is reckoned.
const LONG_CLIP_TOKENS: usize = 750;

/// Frames of features that Gemma 3n's tower makes one soft token of.
const GEMMA3N_FRAMES_OF_A_TOKEN: usize = 16;

/// The work that is cancelled, as errors name it.
const ENCODING: &str = "the encoding of a clip";

/// Makes soft tokens of sounds, on the device of the generator that they are for.
///
/// `Send + Sync`, and a clone shares the weights. Without a device it runs on the reference.
#[derive(Clone)]
pub struct AudioEncoder {
    shared: Arc<Shared>,
    cancel: CancelToken,
}

struct Shared {
    config: AudioConfig,
    /// D of the text model.
    width: usize,
    ids: MediaTokens,
    tower: Tower,
}

const _: () = {
    const fn shareable<T: Send + Sync + 'static>() {}
    shareable::<AudioEncoder>();
};

impl AudioEncoder {
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
        let audio = tower_of(config)?;
        let no_ids = || {
            let of_gguf = "in a GGUF file they are the places of <start_of_audio> or <|audio> and its like in the vocabulary";
            Error::Config(format!("the configuration has an audio tower, but not the ids of a clip's tokens; {of_gguf}"))
        };
        let ids = config.multimodal.audio.ok_or_else(no_ids)?;
        let width = config.hidden_size;
        let tower = audio.clone();
        let flow = Box::new(move |frames| tower.flow(width, frames));
        let tower = Tower::new(flow, FIRST_SIZE, loader, gpu, &options.computing(audio.compute())).await?;
        let shared = Arc::new(Shared { config: audio, width, ids, tower });
        Ok(Self { shared, cancel: CancelToken::new() })
    }

    /// The memory of the tower on a device with these capabilities, for clips of 30 s or, in Gemma 3n, of as many soft
    /// tokens as a clip has. Takes the weights out of
    /// the loader and reads none.
    ///
    /// # Errors
    /// As [`from_loader`](Self::from_loader), but for those of the device.
    pub fn memory_plan(
        config: &GemmaConfig,
        loader: &mut dyn WeightLoader,
        device: &Capabilities,
        options: &TowerOptions,
    ) -> Result<TowerMemory> {
        let audio = tower_of(config)?;
        let frames = match &audio {
            AudioConfig::Unified(config) => raw_frame_count(LONG_CLIP, config.audio_embed_dim),
            AudioConfig::Conformer(config) => {
                let most = match config.kind {
                    ConformerKind::Gemma3n { soft_tokens, .. } => soft_tokens.saturating_mul(GEMMA3N_FRAMES_OF_A_TOKEN),
                    ConformerKind::Gemma4 { .. } => usize::MAX,
                };
                extractor(config.kind).frames(LONG_CLIP).min(most)
            }
            AudioConfig::Unsupported(what) => return Err(Error::Unsupported(what.clone())),
        };
        let flow = audio.flow(config.hidden_size, size_for(frames.max(1)))?;
        let options = options.clone().computing(audio.compute());
        TowerMemory::of(&flow, [LONG_CLIP_TOKENS, config.hidden_size], loader, device, &options)
    }

    /// A handle whose encoding ends with [`Error::Cancelled`] when `cancel` is cancelled: between two submits, or while
    /// it waits for another's.
    pub fn with_cancel(self, cancel: CancelToken) -> Self {
        Self { cancel, ..self }
    }

    /// A clip as a part of a prompt: its soft tokens with the ids around them, as the model's processor lays them out.
    /// The text before and after it is tokenised apart.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn prompt(&self, audio: &Audio) -> Result<Prompt> {
        Ok(self.lay_out(self.encode(audio)?))
    }

    /// As [`prompt`](Self::prompt), of soft tokens that were made before.
    pub fn lay_out(&self, soft: SoftTokens) -> Prompt {
        let MediaTokens { begin, end, .. } = self.shared.ids;
        let clip = Prompt::from([begin]).then(soft).then([end]);
        match self.shared.kind() {
            Some(ConformerKind::Gemma3n { .. }) => Prompt::from([DOUBLE_NEWLINE]).then(clip).then([DOUBLE_NEWLINE]),
            _ => clip,
        }
    }

    /// The ids around a clip's soft tokens, and in their place.
    pub fn ids(&self) -> MediaTokens {
        self.shared.ids
    }

    /// The soft tokens of a clip. Of one that was heard before they are those kept; the tower does not run.
    ///
    /// Gemma 4 E2B, E4B and Gemma 3n hear the first 30 s of a clip, as in transformers.
    ///
    /// # Errors
    /// [`AudioError::TooShort`](crate::error::AudioError::TooShort) for a clip without one whole frame, and what the
    /// device says.
    pub fn encode(&self, audio: &Audio) -> Result<SoftTokens> {
        platform::wait("encoding a sound", self.encode_async(audio))
    }

    /// [`encode`](Self::encode) without blocking the calling thread while a device computes; needs no particular
    /// executor. On the reference, and where a tower is compiled for the first time, the thread that polls does the
    /// work.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub async fn encode_async(&self, audio: &Audio) -> Result<SoftTokens> {
        let samples = audio.samples().len();
        self.encode_beside(audio, samples).await
    }

    /// The soft tokens of several clips of one prompt, which are a batch in transformers: Gemma 3n's tower sees silence
    /// where a clip is shorter than the longest. In other models they are those of [`encode`](Self::encode).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_together(&self, clips: &[Audio]) -> Result<Vec<SoftTokens>> {
        platform::wait("encoding a sound", self.encode_together_async(clips))
    }

    /// [`encode_together`](Self::encode_together) as [`encode_async`](Self::encode_async).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub async fn encode_together_async(&self, clips: &[Audio]) -> Result<Vec<SoftTokens>> {
        let longest = clips.iter().map(|clip| clip.samples().len()).max().unwrap_or(0);
        let mut together = Vec::new();
        for clip in clips {
            together.push(self.encode_beside(clip, longest).await?);
        }
        Ok(together)
    }

    /// The soft tokens of a clip beside others, of which the longest has so many samples.
    async fn encode_beside(&self, audio: &Audio, longest: usize) -> Result<SoftTokens> {
        let shared = &*self.shared;
        let depends = matches!(shared.kind(), Some(ConformerKind::Gemma3n { .. }));
        let longest = if depends { longest } else { audio.samples().len() };
        let source = (audio.content_hash(), longest);
        let mut turn = match shared.tower.find(&source, &self.cancel).await? {
            Found::Kept(soft) => return Ok(soft),
            Found::Turn(turn) => turn,
        };
        self.cancel.check(ENCODING)?;
        let soft = self.encode_in(&mut turn, &self.features(audio, longest)?).await?;
        turn.keep(&source, &soft)?;
        Ok(soft)
    }

    /// What the tower is given of a clip, beside clips of `longest` samples.
    ///
    /// # Errors
    /// [`AudioError::TooShort`](crate::error::AudioError::TooShort).
    pub fn features(&self, audio: &Audio, longest: usize) -> Result<Features> {
        let samples = audio.samples();
        let features = match &self.shared.config {
            AudioConfig::Unified(config) => raw_frames(samples, config.audio_embed_dim),
            AudioConfig::Conformer(config) => extractor(config.kind).extract_padded(samples, longest),
            AudioConfig::Unsupported(what) => return Err(Error::Unsupported(what.clone())),
        };
        Ok(features.map_err(PromptError::from)?)
    }

    /// The soft tokens of features.
    ///
    /// # Errors
    /// [`PromptError::SoftTokens`] for features that are not of this tower, or more than Gemma 3n takes; what the device
    /// says.
    pub fn encode_features(&self, features: &Features) -> Result<SoftTokens> {
        platform::wait("encoding a sound", async {
            self.encode_in(&mut self.shared.tower.turn(&self.cancel).await?, features).await
        })
    }

    async fn encode_in(&self, turn: &mut Turn<'_>, features: &Features) -> Result<SoftTokens> {
        let outputs = self.run_in(turn, features, &[]).await?;
        let shared = &*self.shared;
        let soft = outputs.into_iter().find(|(name, _)| name == SOFT_TOKENS).ok_or_else(no_output)?.1;
        let mut values = soft.to_f32()?.into_owned();
        let tokens = shared.soft_tokens(features);
        let padded = match shared.kind() {
            Some(ConformerKind::Gemma3n { soft_tokens, .. }) => soft_tokens,
            _ => tokens,
        };
        if tokens > padded {
            let problem = format!("a clip of {tokens} soft tokens, expected at most {padded}; give a shorter one");
            return Err(Error::Prompt(PromptError::SoftTokens(problem)));
        }
        // Gemma 3n's last row is that of padding.
        let padding = values[values.len() - shared.width..].to_vec();
        values.truncate(tokens * shared.width);
        (tokens..padded).for_each(|_| values.extend(&padding));
        SoftTokens::new(Modality::Audio, shared.ids.soft, shared.width, values)
    }

    /// Runs the tower: its soft tokens, and the values of nodes by their labels, such as `audio.layer.3.output`, with the
    /// frames that fill the graph up.
    ///
    /// # Errors
    /// As [`encode_features`](Self::encode_features); [`Error::Builder`] for a label that no node has.
    pub fn run(&self, features: &Features, labels: &[&str]) -> Result<Vec<(String, Value)>> {
        platform::wait("encoding a sound", async {
            self.run_in(&mut self.shared.tower.turn(&self.cancel).await?, features, labels).await
        })
    }

    async fn run_in(&self, turn: &mut Turn<'_>, features: &Features, labels: &[&str]) -> Result<Vec<(String, Value)>> {
        turn.run(size_for(features.frames), &clip_inputs(self, features)?, labels, &self.cancel).await
    }
}

impl std::fmt::Debug for AudioEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AudioEncoder").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// The frames of the graph that takes `frames`: the next multiple of an eighth of the next power of two, so that few
/// graphs are compiled for clips of all lengths.
fn size_for(frames: usize) -> usize {
    frames.next_multiple_of((frames.next_power_of_two() / 8).max(FRAME_MULTIPLE))
}

/// The tower that the configuration has.
fn tower_of(config: &GemmaConfig) -> Result<AudioConfig> {
    let missing = || Error::Unsupported("sounds with a model whose configuration has no audio_config".into());
    config.multimodal.audio_tower.clone().ok_or_else(missing)
}

/// What makes the features of a clip.
fn extractor(kind: ConformerKind) -> AudioFeatureExtractor {
    match kind {
        ConformerKind::Gemma3n { .. } => AudioFeatureExtractor::gemma3n(),
        ConformerKind::Gemma4 { .. } => AudioFeatureExtractor::gemma4(),
    }
}

fn no_output() -> Error {
    Error::Graph(GraphError::Malformed { graph: "audio".into(), problem: format!("it has no output '{SOFT_TOKENS}'") })
}

impl Shared {
    fn kind(&self) -> Option<ConformerKind> {
        match &self.config {
            AudioConfig::Conformer(config) => Some(config.kind),
            _ => None,
        }
    }

    /// The soft tokens that are of the clip.
    fn soft_tokens(&self, features: &Features) -> usize {
        let valid = features.valid.iter().filter(|valid| **valid).count();
        match self.kind() {
            None => valid,
            Some(ConformerKind::Gemma4 { .. }) => gemma4_soft_tokens(valid),
            Some(ConformerKind::Gemma3n { .. }) => gemma3n_encoder_frames(valid),
        }
    }

    /// The inputs of the graph for `size` frames.
    fn inputs(&self, features: &Features, size: usize) -> TowerInputs {
        let width = features.width;
        let mut values = features.values.clone();
        values.resize(size * width, 0.0);
        let mut inputs = vec![("features", Value::f32([1, size, width], values))];
        let AudioConfig::Conformer(config) = &self.config else { return inputs };
        let valid = |frame: usize| features.valid.get(frame).copied().unwrap_or(false);
        let half: Vec<bool> = match config.kind {
            ConformerKind::Gemma4 { .. } => (0..size / 2).map(|frame| valid(2 * frame)).collect(),
            // Frames of silence behind the clip are seen; there are none behind those.
            ConformerKind::Gemma3n { .. } => (0..size / 2).map(|frame| 2 * frame < features.frames).collect(),
        };
        let kept = |is_kept: bool| f32::from(u8::from(is_kept));
        // Behind the batch there are no frames.
        let quarter = |frame: usize| if 4 * frame < features.frames { kept(valid(4 * frame)) } else { -1.0 };
        let mask = |numbers: Vec<f32>| Value::f32([1, numbers.len()], numbers);
        inputs.push((MASK_HALF, mask(half.into_iter().map(kept).collect())));
        inputs.push((MASK_QUARTER, mask((0..size / 4).map(quarter).collect())));
        if let ConformerKind::Gemma3n { .. } = config.kind {
            inputs.push((SHARE_HALF, shares(config, size / 2, 0)));
            inputs.push((SHARE_QUARTER, shares(config, size / 4, 1)));
        }
        inputs
    }
}

/// One over how many numbers the convolution `index` has made up to each of `frames` frames.
fn shares(config: &ConformerConfig, frames: usize, index: usize) -> Value {
    let numbers = (config.input_feat_size >> (index + 1)) * config.conv_channels[index];
    let share = |frame: usize| (1.0 / ((frame + 1) * numbers) as f64) as f32;
    Value::f32([1, frames, 1], (0..frames).map(share).collect::<Vec<f32>>())
}
