//! The memory plan of a model, before anything is allocated.

use std::fmt;

use super::{
    GeneratorOptions, ModelGraphs, PREFILL_CHUNK, Profiles,
    engine::{MemoryAsked, plan_memory},
};
use crate::{
    Error, Result,
    checkpoint::load_from_path,
    files::ModelPath,
    gemma::GemmaConfig,
    runtime::{Capabilities, Device, Opened},
    weights::WeightLoader,
};

/// The device memory of a generator, from the headers of a model's files alone.
///
/// The figures are those of the buffers that the generator makes, to the byte, for prompts that fill the context in
/// runs of the longest kind, followed by greedy steps. Each of several conversations takes that for itself, and steps
/// of all together are counted besides. The figures leave out `all_logits` and the paths without caches, whose scratch
/// grows with the request. They also leave out runs that come in ascending sizes, which may make scratch up to four
/// times as large. A few KiB for reading results back are not counted, nor is the driver's own memory for pipelines and
/// buffers.
///
/// wgpu tells nobody how much memory a device has free: [`GeneratorOptions::memory_budget`] is the caller's to give.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// The adapter.
    pub device: String,
    /// Tokens that the caches hold, of each conversation.
    pub context: usize,
    /// Conversations that run at once ([`GeneratorOptions::conversations`]).
    pub conversations: usize,
    /// Number of weights.
    pub tensors: usize,
    /// Bytes of the weights as they lie on the device, with the padding between them.
    pub weights: u64,
    /// Keys, values and their positions of the layers that see everything, of all conversations.
    pub full_cache: CacheMemory,
    /// Keys, values and their positions of the layers that see a window, of all conversations.
    pub sliding_cache: CacheMemory,
    /// Bytes of intermediate results and inputs.
    pub scratch: u64,
    /// Bytes of the towers for pictures and sounds, while they are loaded or run; 0 for a generator, which has none.
    pub towers: u64,
    /// Bytes of the buffers that weights pass through, which are free again before caches and scratch are made.
    pub loading: u64,
    /// Bytes of the largest binding, and its name.
    pub largest_binding: (u64, String),
    /// Most bytes that the device binds at once.
    pub max_binding: u64,
    /// Most bytes that the caller allows.
    pub budget: Option<u64>,
    /// The longest context, up to the model's own limit, that fits the device's limits and the budget; 0 where none
    /// does.
    pub longest_context: usize,
}

/// The caches of one kind of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheMemory {
    /// Bytes of all buffers.
    pub bytes: u64,
    /// Positions that each layer holds.
    pub rows: usize,
    /// Number of buffers: for each conversation two a layer, and one for the positions of all.
    pub buffers: usize,
}

impl MemoryPlan {
    /// The plan of a model (a folder, a safetensors file or index, or a GGUF file) whose caches hold `context` tokens,
    /// on a device, compiled as the profile beside the weights says. Reads headers; opens the device and allocates
    /// nothing on it.
    ///
    /// # Errors
    /// Those of reading the files, as [`GemmaGenerator::from_path`](super::GemmaGenerator::from_path); as
    /// [`Device::open`]; as [`for_options`](Self::for_options); [`Error::Unsupported`] for the reference, which has no
    /// device.
    pub fn for_model(path: impl Into<ModelPath>, context: usize, device: Device) -> Result<Self> {
        Self::from_files(&path.into(), context, device)
    }

    fn from_files(path: &ModelPath, context: usize, device: Device) -> Result<Self> {
        let config = GemmaConfig::near_weights(path)?;
        let options = GeneratorOptions { context: Some(context), ..GeneratorOptions::near_weights(path)? };
        match device.open(&options.gpu)? {
            Opened::Gpu(gpu) => Self::for_options(config, load_from_path(path)?.as_mut(), gpu.capabilities(), &options),
            Opened::Reference => Err(no_device()),
        }
    }

    /// The plan of a generator with these options on a device with these capabilities. Takes all weights of the loader
    /// and reads none.
    ///
    /// # Errors
    /// [`Error::Option`] or [`Error::ContextFull`] for options out of their range; a weight that is missing or
    /// misshapen; [`DeviceError::Limit`](crate::error::DeviceError::Limit) for one that no kernel could bind,
    /// [`Error::Unsupported`] for a run that the device could not.
    pub fn for_options(
        config: GemmaConfig,
        loader: &mut dyn WeightLoader,
        device: &Capabilities,
        options: &GeneratorOptions,
    ) -> Result<Self> {
        let context = options.capacity(&config)?;
        let profiles = Profiles::new(options.prefill_profile.clone(), options.decode_profile.clone())?;
        let model = options.placed(device, options.model(&config, loader)?, &profiles, context)?;
        Self::of(device, &model, &profiles, context, options)
    }

    pub(super) fn of(
        device: &Capabilities,
        model: &ModelGraphs,
        profiles: &Profiles,
        context: usize,
        options: &GeneratorOptions,
    ) -> Result<Self> {
        let chunk = options.prefill_chunk.unwrap_or(PREFILL_CHUNK);
        let conversations = options.conversations.unwrap_or(1);
        plan_memory(device, model, profiles, MemoryAsked { context, conversations, chunk, budget: options.memory_budget })
    }

    /// Bytes of all caches.
    pub fn caches(&self) -> u64 {
        self.full_cache.bytes + self.sliding_cache.bytes
    }

    /// Bytes that a generator holds once it runs: weights, caches and scratch, and the towers of a model.
    pub fn running(&self) -> u64 {
        self.weights + self.caches() + self.scratch + self.towers
    }

    /// Most bytes that are held at any moment, loading among them, where the caches are reserved at once, as they are
    /// under a budget. Caches that grow as they are needed are held twice while they are copied.
    pub fn peak(&self) -> u64 {
        self.towers + self.weights + self.loading.max(self.caches() + self.scratch)
    }

    /// Returns `true` if the context fits the device's limits and the budget.
    pub fn fits(&self) -> bool {
        self.context <= self.longest_context
    }

    /// Refuses a context that does not fit.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] with every figure.
    pub fn check(&self) -> Result<()> {
        if self.fits() { Ok(()) } else { Err(Error::DoesNotFit(Box::new(self.clone()))) }
    }
}

/// The error of a plan for the reference.
pub(crate) fn no_device() -> Error {
    Error::Unsupported("a plan of device memory for the CPU reference, which has no device,".into())
}

impl fmt::Display for MemoryPlan {
    /// One line with every figure.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { context, conversations, device, weights, scratch, towers, max_binding, longest_context, .. } = self;
        let full = self.full_cache.bytes;
        let sliding = self.sliding_cache.bytes;
        let peak = self.peak();
        write!(f, "with a context of {context} tokens")?;
        if *conversations > 1 {
            write!(f, " for each of {conversations} conversations")?;
        }
        write!(f, " it takes {peak} bytes of '{device}' (weights {weights}, caches of ")?;
        write!(f, "full layers {full} and of sliding layers {sliding}, scratch {scratch}")?;
        if *towers > 0 {
            write!(f, ", towers {towers}")?;
        }
        f.write_str(")")?;
        match self.budget {
            Some(budget) => write!(f, ", the budget is {budget}")?,
            None => write!(f, ", which binds at most {max_binding} at once")?,
        }
        match longest_context {
            0 => f.write_str("; no context fits"),
            longest => write!(f, "; the longest context that fits has {longest} tokens"),
        }
    }
}
