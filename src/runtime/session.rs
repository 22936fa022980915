//! Compiles single graphs and runs them by named inputs, on a GPU or on the reference.

use std::{collections::HashMap, rc::Rc, sync::Arc};

use super::{
    Buffer, Device, GpuContext, GpuOptions, Opened, ResidentWeight, WeightUploader,
    pipeline::PipelineCache,
    prepared::{Bound, PreparedPlan, ScratchPool, Step},
    wgpu,
};
use crate::{
    Error, Result,
    flow::ModelParams,
    ir::{DType, Data, DimBinding, FixedType, Graph, Op, Value, kernel::Target},
    lower::lower,
    plan::{Plan, SlotKind},
    reference::{self, Source},
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
#[derive(Debug, Clone)]
pub struct SessionWeights {
    params: Arc<ModelParams>,
    resident: Arc<HashMap<String, ResidentWeight>>,
}

const _: () = {
    const fn shareable<T: Send + Sync + 'static>() {}
    shareable::<Session>();
    shareable::<SessionWeights>();
};

impl Session {
    /// Opens a device.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn new(device: &Device, options: &GpuOptions) -> Result<Self> {
        Ok(match device.open(options)? {
            Opened::Reference => Self { backend: Backend::Reference },
            Opened::Gpu(context) => Self::on(&context),
        })
    }

    /// A session on an opened device.
    pub fn on(context: &Arc<GpuContext>) -> Self {
        let (pipelines, target) = (Arc::new(PipelineCache::new(context, false)), context.capabilities().target());
        Self { backend: Backend::Gpu { pipelines, target } }
    }

    /// Puts weights on the device.
    ///
    /// # Errors
    /// As [`WeightUploader::upload`].
    pub fn load(&self, params: &ModelParams) -> Result<SessionWeights> {
        let mut resident = HashMap::new();
        if let Backend::Gpu { pipelines, .. } = &self.backend
            && !params.is_empty()
        {
            let mut uploader = WeightUploader::new(pipelines.context())?;
            uploader.reserve(params.values().map(|t| (t.dtype(), t.shape())))?;
            for (name, tensor) in params {
                resident.insert(name.clone(), uploader.upload(tensor)?);
            }
            uploader.finish()?;
        }
        Ok(SessionWeights { params: Arc::new(params.clone()), resident: Arc::new(resident) })
    }

    /// Compiles a graph with its sizes bound. Inputs that are caches are read and written by each run's own copies.
    ///
    /// # Errors
    /// An unbound size, an op or size that the device cannot run, [`Error::OutOfMemory`].
    pub fn compile(&self, graph: &Graph, binding: &DimBinding, weights: &SessionWeights) -> Result<CompiledGraph> {
        let gpu = match &self.backend {
            Backend::Reference => None,
            Backend::Gpu { pipelines, target } => {
                let shards = |name: &str| weights.resident.get(name).map(|w| w.shards.iter().map(|s| s.rows.clone()).collect());
                let plan = lower(graph, binding, target, &shards)?;
                Some(GpuGraph::new(pipelines, plan, weights)?)
            }
        };
        Ok(CompiledGraph { graph: graph.clone(), binding: binding.clone(), weights: weights.clone(), gpu })
    }
}

/// A graph ready to run any number of times.
#[derive(Debug)]
pub struct CompiledGraph {
    graph: Graph,
    binding: DimBinding,
    weights: SessionWeights,
    gpu: Option<GpuGraph>,
}

impl CompiledGraph {
    /// Runs the graph; every input is given by name. Returns the outputs in order.
    ///
    /// # Errors
    /// [`Error::Input`] for an input that is unknown, missing, or of another type than the graph says.
    pub fn run(&mut self, inputs: &[(&str, Value)]) -> Result<Vec<(String, Value)>> {
        self.check(inputs)?;
        match &mut self.gpu {
            Some(gpu) => gpu.run(inputs),
            None => {
                let values = inputs.iter().map(|(name, value)| (name.to_string(), Rc::new(value.clone()))).collect();
                let source = HostSource { values, params: &self.weights.params };
                Ok(reference::run(&self.graph, &self.binding, &source)?.outputs)
            }
        }
    }

    /// The plan as it runs, or `None` on the reference.
    pub fn plan(&self) -> Option<&Plan> {
        self.gpu.as_ref().map(|gpu| &gpu.plan)
    }

    fn check(&self, inputs: &[(&str, Value)]) -> Result<()> {
        let wrong = |name: &str, problem: String| Err(Error::Input { name: name.into(), problem });
        let mut expected = HashMap::new();
        for node in self.graph.nodes() {
            if let Op::Input(input) = &node.op {
                let ty = FixedType { dtype: input.ty.dtype, shape: input.ty.shape.bind(&self.binding)? };
                expected.insert(input.name.as_str(), ty);
            }
        }
        for (name, value) in inputs {
            let Some(ty) = expected.remove(name) else {
                return wrong(name, "the graph has no such input, or it is given twice".into());
            };
            let len = match &value.data {
                Data::F32(v) => v.len(),
                Data::I32(v) => v.len(),
                Data::U32(v) => v.len(),
                Data::Stored(_) => return wrong(name, "a stored weight is not an input".into()),
            };
            if value.dtype() != ty.dtype || value.shape != ty.shape || len != ty.len() {
                let problem =
                    format!("found {}{:?} of {len} elements, expected {}{:?}", value.dtype(), value.shape, ty.dtype, ty.shape);
                return wrong(name, problem);
            }
        }
        match expected.into_iter().next() {
            Some((name, ty)) => wrong(name, format!("missing; expected {}{:?}", ty.dtype, ty.shape)),
            None => Ok(()),
        }
    }
}

struct HostSource<'a> {
    values: HashMap<String, Rc<Value>>,
    params: &'a ModelParams,
}

impl Source for HostSource<'_> {
    fn input(&self, name: &str) -> Option<Rc<Value>> {
        self.values.get(name).cloned()
    }

    fn weight(&self, name: &str) -> Option<Tensor> {
        self.params.get(name).cloned()
    }
}

#[derive(Debug)]
struct GpuGraph {
    context: Arc<GpuContext>,
    plan: Plan,
    prepared: PreparedPlan,
    inputs: HashMap<String, (Arc<Buffer>, u64)>,
    step: Arc<Buffer>,
}

impl GpuGraph {
    fn new(pipelines: &Arc<PipelineCache>, plan: Plan, weights: &SessionWeights) -> Result<Self> {
        let context = pipelines.context().clone();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let mut inputs = HashMap::new();
        for slot in &plan.slots {
            if let SlotKind::Input { name, .. } = &slot.kind {
                let buffer = context.create_buffer(name, slot.bytes.next_multiple_of(16) + 16, usage)?;
                inputs.insert(name.clone(), (Arc::new(buffer), 0));
            }
        }
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let step = Arc::new(context.create_buffer("step", size_of::<Step>() as u64, uniform)?);
        let bound = Bound { weights: &weights.resident, inputs: &inputs, step: &step };
        let prepared = PreparedPlan::new(pipelines, &plan, bound, &mut ScratchPool::default())?;
        Ok(Self { context, plan, prepared, inputs, step })
    }

    fn run(&mut self, inputs: &[(&str, Value)]) -> Result<Vec<(String, Value)>> {
        for (name, value) in inputs {
            let bytes: &[u8] = match &value.data {
                Data::F32(v) => bytemuck::cast_slice(v),
                Data::I32(v) => bytemuck::cast_slice(v),
                Data::U32(v) => bytemuck::cast_slice(v),
                Data::Stored(_) => &[],
            };
            // An input that no output depends on is in no dispatch.
            if let Some((buffer, offset)) = self.inputs.get(*name) {
                self.context.write(buffer, *offset, bytes)?;
            }
        }
        self.context.write(&self.step, 0, bytemuck::bytes_of(&Step::all(u32::MAX)))?;
        let submission = self.context.run(&self.plan.name, |encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.prepared.record(&mut pass);
            Ok(())
        })?;
        self.context.wait(&submission, &self.plan.name)?;
        self.plan.outputs.iter().map(|output| Ok((output.name.clone(), self.read(&output.name, &output.ty)?))).collect()
    }

    fn read(&self, name: &str, ty: &FixedType) -> Result<Value> {
        let missing = || Error::Graph { graph: self.plan.name.clone(), problem: format!("output '{name}' has no buffer") };
        let (buffer, offset, bytes) = self.prepared.output(name).ok_or_else(missing)?;
        let mut raw = vec![0u8; bytes as usize];
        // A read-back holds at most 16 MiB.
        for start in (0..raw.len()).step_by(16 << 20) {
            let end = raw.len().min(start + (16 << 20));
            self.context.read_back(buffer, offset + start as u64, &mut raw[start..end])?;
        }
        let data = match ty.dtype {
            DType::I32 => Data::I32(bytemuck::pod_collect_to_vec(&raw)),
            DType::U32 => Data::U32(bytemuck::pod_collect_to_vec(&raw)),
            _ => Data::F32(bytemuck::pod_collect_to_vec(&raw)),
        };
        Ok(Value { shape: ty.shape.clone(), data })
    }
}
