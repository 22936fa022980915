//! How an embedder comes to be.

use std::sync::{Arc, Mutex};

use super::{
    GemmaEmbedder, TaskPrompts,
    memory::plan,
    runs::{EmbedModel, Room, Runs, build},
};
use crate::{
    Error, Result,
    checkpoint::load_from_path,
    files::ModelPath,
    gemma::{GemmaConfig, GemmaFlow, family::Pooling},
    generate::{CancelToken, FlowHook, OnProgress},
    platform,
    profile::CompileProfile,
    runtime::{Device, GpuOptions, Opened, Session},
    weights::{Quantise, QuantisedLoader, SentenceSettings, WeightLoader, WeightMap, is_gguf},
};

/// Tokens of a run of several texts, unless the options say otherwise.
const RUN_TOKENS: usize = 2048;

/// How to load a model that embeds texts.
#[derive(Default)]
pub struct EmbedderOptions {
    /// Most tokens of a text. Upper limit: the model's own `max_position_embeddings`; default: `max_seq_length`, or
    /// that limit.
    pub context: Option<usize>,
    /// Most tokens of a text as sentence-transformers has it, without effect beside `context` and above the model's own
    /// limit. [`near_weights`](Self::near_weights) takes what lies beside the weights.
    pub max_seq_length: Option<usize>,
    /// Cut a text that is too long, as sentence-transformers does: the tokens that go around a text stay, of those
    /// between them as many of the first as there is room for. Default: such a text is refused. No effect on texts that
    /// are given as token ids.
    pub truncate: bool,
    /// Numbers of a vector that are kept, as [`GemmaEmbedder::with_dimensions`] keeps them; more than it has keeps all.
    /// [`near_weights`](Self::near_weights) takes what lies beside the weights. Default: all.
    pub truncate_dim: Option<usize>,
    /// Most tokens of a run of several texts, padding included; a longer text is a run of its own. Intermediate results
    /// grow with it. Default: 2048.
    pub run_tokens: Option<usize>,
    /// Most bytes of device memory that loading and running may take, as [`GemmaEmbedder::memory_plan`] counts them; a
    /// model that needs more is refused before anything is allocated. No effect on the reference. Default: no limit.
    pub memory_budget: Option<u64>,
    /// How to open the GPU.
    pub gpu: GpuOptions,
    /// How runs are compiled. Default: the preset.
    pub profile: CompileProfile,
    /// Packs f32, f16 and bf16 matrices as they are loaded ([`QuantisedLoader`] says which). Default: they stay as they
    /// are.
    pub quantise: Option<Quantise>,
    /// The prompts before texts. Default: those of EmbeddingGemma's model card; [`GemmaEmbedder::from_path`] takes
    /// those beside the weights.
    pub prompts: TaskPrompts,
    /// The checkpoint that has the towers for pictures and sounds, each of which is loaded when it is first asked for
    /// ([`near_weights`](Self::near_weights): that of the weights). Without one there is no room for them in the plan
    /// of memory, and their soft tokens come from elsewhere. No effect for a model of texts. Default: none.
    pub towers: Option<ModelPath>,
    /// Load progress.
    pub on_progress: Option<OnProgress>,
    /// Changes the flow; see [`with_flow`](Self::with_flow).
    pub flow: Option<FlowHook>,
}

impl EmbedderOptions {
    /// The defaults with what lies beside the weights: the profile of the file
    /// [`GEMMA_PROFILE_FILE`](crate::profile::GEMMA_PROFILE_FILE), and beside safetensors the prompts and
    /// `truncate_dim` of `config_sentence_transformers.json` and the `max_seq_length` of `sentence_bert_config.json`
    /// (else the `model_max_length` of `tokenizer_config.json`). Towers are those of the same checkpoint.
    ///
    /// # Errors
    /// As [`CompileProfile::near_weights`] and [`TaskPrompts::near_weights`]; [`Error::Unsupported`] for texts that are
    /// to be lower-cased.
    pub fn near_weights(weights: impl Into<ModelPath>) -> Result<Self> {
        Self::from_files(weights.into())
    }

    fn from_files(weights: ModelPath) -> Result<Self> {
        let profile = CompileProfile::near_weights(&weights, false)?;
        let settings = if is_gguf(&weights) { SentenceSettings::default() } else { SentenceSettings::beside(&weights)? };
        Ok(Self {
            profile,
            prompts: TaskPrompts::new(settings.prompts),
            truncate_dim: settings.truncate_dim,
            max_seq_length: settings.max_seq_length,
            towers: Some(weights),
            ..Self::default()
        })
    }

    /// Changes the flow of every graph, such as with a [`layer`](GemmaFlow::layer) hook.
    pub fn with_flow(mut self, f: impl for<'a> Fn(GemmaFlow<'a>) -> GemmaFlow<'a> + Send + Sync + 'static) -> Self {
        self.flow = Some(Arc::new(f));
        self
    }

    /// Most tokens of a text, and of a run of several.
    pub(super) fn sizes(&self, config: &GemmaConfig) -> Result<(usize, usize)> {
        let limit = config.max_position_embeddings;
        let most = self.context.unwrap_or(self.max_seq_length.unwrap_or(limit).min(limit));
        if !(1..=limit).contains(&most) {
            let expected = format!("1 to {limit}, the model's max_position_embeddings");
            return Err(Error::Option { option: "EmbedderOptions::context", found: most, expected });
        }
        match self.run_tokens.unwrap_or(RUN_TOKENS) {
            0 => Err(Error::Option { option: "EmbedderOptions::run_tokens", found: 0, expected: "1 or more".into() }),
            tokens => Ok((most, tokens)),
        }
    }
}

impl GemmaEmbedder {
    /// Loads a folder with `config.json` and safetensors weights (as sentence-transformers lays it out, dense modules
    /// and prompts included), a file of weights in such a folder, or a GGUF file.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options), and what is wrong with the files.
    pub fn from_path(path: impl Into<ModelPath>, device: Device) -> Result<Self> {
        Self::from_files(&path.into(), device)
    }

    fn from_files(path: &ModelPath, device: Device) -> Result<Self> {
        let config = GemmaConfig::near_weights(path)?;
        let options = EmbedderOptions::near_weights(path)?;
        Self::with_options(config, load_from_path(path)?.as_mut(), device, options)
    }

    /// Takes the weights out of a loader and puts them on the device.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    pub fn from_loader(config: GemmaConfig, loader: &mut dyn WeightLoader, device: Device) -> Result<Self> {
        Self::with_options(config, loader, device, EmbedderOptions::default())
    }

    /// As [`from_loader`](Self::from_loader), with options.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that generates text instead of embedding it; [`Error::Option`] for options
    /// out of their range; a weight that is missing or misshapen; a device that cannot be opened or is too small;
    /// [`Error::DoesNotFit`] under a budget; [`Error::Cancelled`].
    pub fn with_options(
        config: GemmaConfig,
        loader: &mut dyn WeightLoader,
        device: Device,
        options: EmbedderOptions,
    ) -> Result<Self> {
        platform::wait("loading an embedder", Self::with_options_async(config, loader, device, options))
    }

    /// As [`with_options`](Self::with_options), for where no thread may wait for a device, as in a browser: the future
    /// waits for it, and others of its thread have their turn meanwhile. Elsewhere the thread that polls it does the
    /// work.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    pub async fn with_options_async(
        config: GemmaConfig,
        loader: &mut dyn WeightLoader,
        device: Device,
        options: EmbedderOptions,
    ) -> Result<Self> {
        config.validate()?;
        if !config.use_bidirectional_attention {
            let why = "whose attention looks back alone, and which generates text (GemmaGenerator),";
            return Err(Error::Unsupported(format!("embedding texts with a model {why}")));
        }
        let (most, run_tokens) = options.sizes(&config)?;
        if options.truncate_dim == Some(0) {
            let expected = "1 or more".into();
            return Err(Error::Option { option: "EmbedderOptions::truncate_dim", found: 0, expected });
        }
        let flow = options.flow.clone();
        let room = Room { texts: 1, tokens: most, soft: false };
        let single = match options.quantise {
            Some(to) => build(&config, room, flow.as_ref(), &mut QuantisedLoader::new(loader, to))?,
            None => build(&config, room, flow.as_ref(), loader)?,
        };
        if config.arch.family().pooling == Pooling::MeanThenDense && config.embedding_dense.is_empty() {
            tracing::warn!(
                "there are no dense modules after the mean, so that vectors differ from those of EmbeddingGemma and compare with none of \
                 them: are modules.json, 2_Dense and 3_Dense there, or dense_2.weight and dense_3.weight in a GGUF file (converted with \
                 --sentence-transformers-dense-modules)?"
            );
        }
        let session = match device.open_async(&options.gpu).await? {
            Opened::Gpu(context) => {
                if options.memory_budget.is_some() {
                    plan(&config, &single.params, context.capabilities(), &options)?.check()?;
                }
                Session::on(&context)
            }
            Opened::Reference => Session::reference(),
        };
        let resident = session.load_async(&single.params, options.on_progress).await?;
        let weights = WeightMap::from_tensors(single.params.values().cloned().collect());
        let width = config.embedding_width();
        let dimensions = options.truncate_dim.unwrap_or(width).min(width);
        let model = EmbedModel {
            config,
            prompts: options.prompts,
            most,
            #[cfg(feature = "tokenizer")]
            truncate: options.truncate,
            run_tokens,
            flow,
            profile: options.profile,
            weights,
            session,
            resident,
            #[cfg(any(feature = "audio", feature = "vision"))]
            towers: super::towers::Towers::new(options.towers),
            runs: Mutex::new(Runs::new(single)),
        };
        Ok(Self { model: Arc::new(model), dimensions, cancel: CancelToken::new() })
    }
}
