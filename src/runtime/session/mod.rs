//! Compiles single graphs and runs them by named inputs, on a GPU or on the reference.

mod compiled;
mod gpu;
mod inputs;
mod memory;
mod pace;
mod padding;

use std::{collections::HashMap, sync::Arc};

pub use compiled::CompiledGraph;
pub(crate) use compiled::Running;
pub use inputs::RunInput;
pub(super) use inputs::sizes;
#[cfg(any(feature = "audio", feature = "vision"))]
pub(crate) use pace::SubmitBound;

use super::{
    Device, GpuContext, GpuOptions, OnProgress, Opened, ResidentWeight, WeightUploader, pipeline::PipelineCache,
    scratch::ScratchPool,
};
use crate::{
    Error, Result,
    cancel::CancelToken,
    flow::ModelParams,
    ir::{DimBinding, Graph, LowerOptions, Symbol, kernel::Target, sym},
    platform,
    profile::CompileProfile,
    weights::Tensor,
};

/// An opened device with its pipelines; cheap to clone.
#[derive(Debug, Clone)]
pub struct Session {
    backend: Backend,
}

#[derive(Debug, Clone)]
enum Backend {
    Reference,
    Gpu { pipelines: Arc<PipelineCache>, target: Target },
}

/// Weights where a session's graphs find them; shared by all of them, cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SessionWeights {
    params: Arc<ModelParams>,
    resident: Arc<HashMap<String, ResidentWeight>>,
}

const _: () = {
    const fn shareable<T: Send + Sync + 'static>() {}
    shareable::<Session>();
    shareable::<SessionWeights>();
    shareable::<CompiledGraph>();
};

/// How to compile a graph.
#[derive(Debug, Clone, Default)]
pub struct CompileOptions {
    /// The value of each symbolic size: what the graph is compiled for, and the most that a run may have. A size that
    /// is not here is at its limit in the graph.
    pub dims: DimBinding,
    /// The weights, as [`Session::load`] made them; those that are missing come by [`CompiledGraph::set_param`].
    pub weights: SessionWeights,
    /// How the graph is lowered. Its `precision.kv` is decided when a graph is built and has no effect here.
    pub profile: CompileProfile,
}

impl CompileOptions {
    /// Compiles for these sizes.
    pub fn with_dims(mut self, dims: DimBinding) -> Self {
        self.dims = dims;
        self
    }

    /// Takes weights that are on the device.
    pub fn with_weights(mut self, weights: &SessionWeights) -> Self {
        self.weights = weights.clone();
        self
    }

    /// Lowers as a profile says.
    pub fn with_profile(mut self, profile: &CompileProfile) -> Self {
        self.profile = profile.clone();
        self
    }
}

impl Session {
    /// The options of lowering that `profile` gives on this device.
    fn lower_options(&self, profile: &CompileProfile) -> LowerOptions {
        profile.options(self.context().map_or("cpu", |context| &context.capabilities().backend))
    }

    /// Opens a device.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn new(device: &Device) -> Result<Self> {
        Self::with_options(device, &GpuOptions::default())
    }

    /// Opens a device with options.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn with_options(device: &Device, options: &GpuOptions) -> Result<Self> {
        Ok(match device.open(options)? {
            Opened::Reference => Self::reference(),
            Opened::Gpu(context) => Self::on(&context),
        })
    }

    /// A session on the reference, which needs no device.
    pub(crate) fn reference() -> Self {
        Self { backend: Backend::Reference }
    }

    /// A session on an opened device.
    pub fn on(context: &Arc<GpuContext>) -> Self {
        let pipelines = Arc::new(PipelineCache::new(context));
        let target = context.target();
        Self { backend: Backend::Gpu { pipelines, target } }
    }

    /// The opened device; `None` on the reference.
    pub fn context(&self) -> Option<&Arc<GpuContext>> {
        match &self.backend {
            Backend::Reference => None,
            Backend::Gpu { pipelines, .. } => Some(pipelines.context()),
        }
    }

    /// Puts weights on the device, once for all graphs that name them.
    ///
    /// # Errors
    /// As [`WeightUploader::upload`].
    pub fn load(&self, params: &ModelParams) -> Result<SessionWeights> {
        self.load_with(params, None)
    }

    /// As [`load`](Self::load); `on_progress` is called as [`WeightUploader::on_progress`] says, and may cancel.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`Error::Cancelled`].
    pub fn load_with(&self, params: &ModelParams, on_progress: Option<OnProgress>) -> Result<SessionWeights> {
        platform::wait("loading weights", self.load_async(params, on_progress))
    }

    /// As [`load_with`](Self::load_with). Where no thread may wait for the device, as in a browser, the future does;
    /// elsewhere the thread that polls it does the work.
    ///
    /// # Errors
    /// As [`load_with`](Self::load_with).
    pub async fn load_async(&self, params: &ModelParams, on_progress: Option<OnProgress>) -> Result<SessionWeights> {
        let mut weights = SessionWeights::default();
        self.upload(&mut weights, params, on_progress).await?;
        Ok(weights)
    }

    async fn upload(&self, weights: &mut SessionWeights, params: &ModelParams, on_progress: Option<OnProgress>) -> Result<()> {
        if let (Backend::Gpu { pipelines, .. }, false) = (&self.backend, params.is_empty()) {
            let resident = Arc::make_mut(&mut weights.resident);
            let mut uploader = WeightUploader::new(pipelines.context())?;
            if let Some(on_progress) = on_progress {
                uploader = uploader.on_progress(on_progress);
            }
            uploader.reserve(params.values().map(|t| (t.dtype(), t.shape())))?;
            for (name, tensor) in params {
                resident.insert(name.clone(), uploader.upload_async(tensor).await?);
            }
            uploader.finish_async().await?;
        }
        let own = Arc::make_mut(&mut weights.params);
        own.extend(params.iter().map(|(name, tensor): (&String, &Tensor)| (name.clone(), tensor.clone())));
        Ok(())
    }

    /// Compiles a graph for its own sizes (those of its limits where they are symbolic); weights come by
    /// [`CompiledGraph::set_param`].
    ///
    /// # Errors
    /// As [`compile_with`](Self::compile_with).
    pub fn compile(&self, graph: &Graph) -> Result<CompiledGraph> {
        self.compile_with(graph, &CompileOptions::default())
    }

    /// Compiles a graph.
    ///
    /// A run may have any sizes up to those that the graph is compiled for, without compiling again. Arrays are padded
    /// at the end of each symbolic size. Padding is at no position, so that attention does not see it. On the reference
    /// a run computes its own sizes alone. A stage of your own that mixes rows by other means than attention wants a
    /// graph for each size: [`CompileCache`](super::CompileCache).
    ///
    /// # Errors
    /// [`Error::Input`] for a size without a value or past its limit, an op or size that the device cannot run,
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory); what the profile asks for and the device
    /// lacks or lowering finds, as [`lower`](crate::lower::lower).
    pub fn compile_with(&self, graph: &Graph, options: &CompileOptions) -> Result<CompiledGraph> {
        self.compile_into(graph, options, &mut ScratchPool::default(), &CancelToken::new())
    }

    /// As [`compile_with`](Self::compile_with), with scratch buffers shared by graphs that never run at once, until
    /// `cancel` is cancelled.
    pub(crate) fn compile_into(
        &self,
        graph: &Graph,
        options: &CompileOptions,
        scratch: &mut ScratchPool,
        cancel: &CancelToken,
    ) -> Result<CompiledGraph> {
        let dims = capacity(graph, &options.dims)?;
        CompiledGraph::new(self, graph, &self.lower_options(&options.profile), dims, options.weights.clone(), scratch, cancel)
    }
}

/// Returns `true` if a size of the graph has the symbol.
fn has(graph: &Graph, symbol: Symbol) -> bool {
    graph.nodes().iter().flat_map(|node| &node.ty.shape.0).any(|dim| dim.symbols().any(|other| other == symbol))
}

/// Every symbolic size with its value: as bound, else its limit.
pub(super) fn capacity(graph: &Graph, bound: &DimBinding) -> Result<DimBinding> {
    let wrong = |name: &str, problem: String| Err(Error::Input { name: name.into(), problem });
    let mut dims = DimBinding::new();
    for (symbol, most) in graph.limits() {
        dims = dims.with(*symbol, *most);
    }
    for (symbol, value) in bound.iter() {
        let most = graph.limits().get(&symbol).copied().unwrap_or(usize::MAX);
        if value == 0 || value > most {
            return wrong(symbol.0, format!("bound to {value}, the graph '{}' takes 1 to {most}", graph.name));
        }
        let built_for = graph.inputs().next().and_then(|(_, input)| input.ty.shape.0.first()?.fixed());
        match (symbol, built_for) {
            (sym::BATCH, Some(batch)) if batch != value => {
                return wrong(symbol.0, format!("bound to {value}, the graph '{}' is built for {batch} sequences", graph.name));
            }
            (sym::BATCH, _) => {}
            _ if !has(graph, symbol) => {
                return wrong(symbol.0, format!("bound to {value}, the graph '{}' has no such size", graph.name));
            }
            _ => dims = dims.with(symbol, value),
        }
    }
    Ok(dims)
}
