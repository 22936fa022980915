//! A graph ready to run.

use std::sync::Arc;

use super::{
    Backend, RunInput, ScratchPool, Session, SessionWeights,
    gpu::{Begun, GpuGraph},
    inputs::{check, is_callers, sizes},
    pace::SubmitBound,
    padding::Padding,
};
use crate::{
    Error, Result,
    cancel::CancelToken,
    error::WeightError,
    flow::ModelParams,
    ir::{
        DimBinding, Graph, LowerOptions, NodeId, Op, PassReport, Value,
        derive::{Inputs, derive},
        ops::{DEAD_KEY, Input, Weight},
        passes::prepare_reference,
        sym,
    },
    lower::lower,
    plan::Plan,
    platform, reference,
    runtime::{Clock, RunTimes, Step, resident::Replaceable},
    weights::{Tensor, nearest},
};

/// A graph ready to run any number of times, at any sizes up to those that it is compiled for.
#[derive(Debug)]
pub struct CompiledGraph {
    session: Session,
    graph: Graph,
    dims: DimBinding,
    weights: SessionWeights,
    gpu: Option<GpuGraph>,
}

impl CompiledGraph {
    pub(super) fn new(
        session: &Session,
        graph: &Graph,
        options: &LowerOptions,
        dims: DimBinding,
        weights: SessionWeights,
        scratch: &mut ScratchPool,
        cancel: &CancelToken,
    ) -> Result<Self> {
        let mut graph = graph.clone();
        for weight in weights_of(&graph) {
            weights.params.get(&weight.name).map_or(Ok(()), |tensor| fits(weight, tensor, &dims))?;
        }
        let gpu = match &session.backend {
            Backend::Reference => {
                graph = prepare_reference(&graph, options, &mut PassReport::default())?.into_owned();
                graph.fixed_types(&dims)?;
                None
            }
            Backend::Gpu { pipelines, target } => {
                let plan = lower(&graph, &dims, target, options, &Replaceable(&weights.resident))?;
                pipelines.prepare_unless(plan.dispatches.iter().map(|dispatch| &dispatch.kernel), cancel)?;
                Some(GpuGraph::new(pipelines, plan, &weights, scratch)?)
            }
        };
        Ok(Self { session: session.clone(), graph, dims, weights, gpu })
    }

    /// The inputs that a run takes, in order; those whose role is [`Optional`](crate::ir::ops::Role::Optional) may be
    /// left out.
    pub fn inputs(&self) -> impl Iterator<Item = &Input> {
        self.graph.inputs().map(|(_, input)| input).filter(|input| is_callers(input))
    }

    /// The names of the outputs in order.
    pub fn output_names(&self) -> Vec<&str> {
        self.graph.outputs().iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The sizes that the graph is compiled for.
    pub fn dims(&self) -> &DimBinding {
        &self.dims
    }

    /// The plan as it runs, or `None` on the reference.
    pub fn plan(&self) -> Option<&Plan> {
        self.gpu.as_ref().map(|gpu| &gpu.plan)
    }

    /// Bytes of device memory that the graph holds for itself: inputs and scratch, without weights; 0 on the reference.
    pub fn bytes(&self) -> u64 {
        self.gpu.as_ref().map_or(0, |gpu| gpu.own_bytes() + gpu.scratch_bytes())
    }

    /// Bytes of the buffers that are not shared with other graphs.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.gpu.as_ref().map_or(0, GpuGraph::own_bytes)
    }

    /// Gives or replaces a weight by its name in the graph.
    ///
    /// # Errors
    /// [`WeightError::NotInGraph`] where the graph names no such weight, [`WeightError::Shape`] and
    /// [`WeightError::Type`] where the graph says otherwise, and as
    /// [`WeightUploader::upload`](super::super::WeightUploader::upload).
    pub fn set_param(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        let Some(weight) = weights_of(&self.graph).find(|weight| weight.name == name) else {
            let nearest = nearest(name, weights_of(&self.graph).map(|weight| &weight.name));
            return Err(Error::Weight(WeightError::NotInGraph { name: name.into(), nearest }));
        };
        fits(weight, &tensor, &self.dims)?;
        let given = ModelParams::from([(name.to_string(), tensor)]);
        platform::wait("uploading a weight", self.session.upload(&mut self.weights, &given, None))?;
        if let Some(gpu) = &mut self.gpu {
            gpu.forget_bindings();
        }
        Ok(())
    }

    /// The sizes of a run, and all its inputs: on a device as large as the graph is compiled for.
    fn given<'i, I>(&self, inputs: &'i [(&str, I)]) -> Result<(DimBinding, Inputs)>
    where
        &'i I: Into<RunInput<'i>>,
    {
        let inputs: Vec<(&str, RunInput)> = inputs.iter().map(|(name, input)| (*name, input.into())).collect();
        let live = sizes(&self.graph, &inputs, &self.dims)?;
        let mut given = check(&self.graph, &inputs, &live)?;
        derive(&self.graph, &live, &mut given)?;
        if self.gpu.is_some() {
            pad(&self.graph, &live, &self.dims, &mut given)?;
        }
        Ok((live, given))
    }

    /// As [`run`](Self::run), for a graph whose outputs have no symbolic size and at most 16 MiB each. On a device the
    /// run is only begun. Another, of this graph or of one that shares its scratch, may begin before its outputs are
    /// waited for. On the reference it ends when `cancel` is cancelled.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Error::Cancelled`].
    pub(crate) fn begin<'i, I>(&mut self, inputs: &'i [(&str, I)], cancel: &CancelToken) -> Result<Running>
    where
        &'i I: Into<RunInput<'i>>,
    {
        let (live, mut given) = self.given(inputs)?;
        let names = self.graph.outputs().iter().map(|(name, _)| name.clone()).collect();
        match &mut self.gpu {
            None => Ok(Running::Done(reference::run_unless(&self.graph, &live, &mut given, &self.weights.params, cancel)?)),
            Some(gpu) => {
                gpu.prepare(&self.weights)?;
                Ok(Running::Submitted(names, gpu.begin(&given, step(&live, &self.dims))?))
            }
        }
    }

    /// Runs the graph; inputs are given by name, as slices of the graph's own shapes or as arrays. Returns the outputs
    /// in order.
    ///
    /// # Errors
    /// [`Error::Input`] for an input that is unknown, missing, given twice, or of another type than the graph says, and
    /// for sizes past those that the graph is compiled for;
    /// [`PromptError::TokenOutOfRange`](crate::error::PromptError::TokenOutOfRange); [`WeightError::NotGiven`].
    pub fn run<'i, I>(&mut self, inputs: &'i [(&str, I)]) -> Result<Vec<(String, Value)>>
    where
        &'i I: Into<RunInput<'i>>,
    {
        platform::wait("a run of a graph", self.run_async(inputs))
    }

    /// As [`run`](Self::run), without blocking the calling thread while a device computes; needs no particular executor.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_async<'i, I>(&mut self, inputs: &'i [(&str, I)]) -> Result<Vec<(String, Value)>>
    where
        &'i I: Into<RunInput<'i>>,
    {
        let inputs: Vec<(&str, RunInput)> = inputs.iter().map(|(name, input)| (*name, input.into())).collect();
        self.run_within(&inputs, &SubmitBound::default()).await
    }

    /// As [`run`](Self::run), in submits as `bound` says, without blocking the calling thread while a device computes.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Error::Cancelled`].
    pub(crate) async fn run_within(
        &mut self,
        inputs: &[(&str, RunInput<'_>)],
        bound: &SubmitBound,
    ) -> Result<Vec<(String, Value)>> {
        let (live, mut given) = self.given(inputs)?;
        let Some(gpu) = &mut self.gpu else {
            return reference::run_unless(&self.graph, &live, &mut given, &self.weights.params, &bound.cancel);
        };
        gpu.prepare(&self.weights)?;
        let outputs = gpu.run(&given, step(&live, &self.dims), bound).await?;
        let cropped = |((name, id), value): (&(String, NodeId), Value)| {
            let padding = Padding::new(self.graph.shape(*id), &live, &self.dims)?;
            Ok((name.clone(), if padding.is_none() { value } else { padding.crop(&value) }))
        };
        self.graph.outputs().iter().zip(outputs).map(cropped).collect()
    }
}

impl CompiledGraph {
    /// Times the run of these inputs, `tokens` tokens that see each other, dispatch by dispatch: `reps` times after one
    /// that is not counted. By the best clock of the device, unless one is given.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Error::Unsupported`] for the reference, which has no dispatches, and for timestamps
    /// that the device does not have.
    pub fn time_dispatches<'i, I>(
        &mut self,
        inputs: &'i [(&str, I)],
        tokens: usize,
        reps: usize,
        clock: Option<Clock>,
    ) -> Result<RunTimes>
    where
        &'i I: Into<RunInput<'i>>,
    {
        let (live, given) = self.given(inputs)?;
        let Some(gpu) = &mut self.gpu else {
            return Err(Error::Unsupported("timing the CPU reference, which has no dispatches; choose a GPU adapter".into()));
        };
        gpu.prepare(&self.weights)?;
        gpu.time(&given, step(&live, &self.dims), tokens, reps, clock, &self.weights)
    }
}

/// A run that was begun.
pub(crate) enum Running {
    /// On the reference, which is done.
    Done(Vec<(String, Value)>),
    /// On a device; outputs by their names.
    Submitted(Vec<String>, Begun),
}

impl Running {
    /// The outputs in order, unless `cancel` is cancelled before they are there.
    ///
    /// # Errors
    /// As [`GpuContext::wait`](crate::runtime::GpuContext::wait); [`Error::Cancelled`].
    pub(crate) async fn outputs(self, cancel: &CancelToken) -> Result<Vec<(String, Value)>> {
        match self {
            Running::Done(outputs) => Ok(outputs),
            Running::Submitted(names, begun) => Ok(names.into_iter().zip(begun.outputs(cancel).await?).collect()),
        }
    }
}

/// The step uniform of a run of so many tokens.
fn step(live: &DimBinding, dims: &DimBinding) -> Step {
    let rows = live.get(sym::SEQ).map_or(u32::MAX, |rows| rows as u32);
    let cache = dims.get(sym::CACHE).map_or(0, |rows| rows as u32);
    Step { capacity: cache, ..Step::all(rows) }
}

/// The weights that the graph names.
fn weights_of(graph: &Graph) -> impl Iterator<Item = &Weight> {
    graph.nodes().iter().filter_map(|node| match &node.op {
        Op::Weight(weight) => Some(weight),
        _ => None,
    })
}

/// Checks that a weight is what the graph is built for: kernels do not look at it again.
fn fits(weight: &Weight, tensor: &Tensor, dims: &DimBinding) -> Result<()> {
    let expected = weight.ty.shape.bind(dims)?;
    if tensor.shape() != expected {
        return Err(Error::Weight(WeightError::Shape { name: weight.name.clone(), found: tensor.shape().to_vec(), expected }));
    }
    if tensor.dtype() != weight.ty.dtype {
        let found = format!("{}, where the graph is built for {}", tensor.dtype(), weight.ty.dtype);
        let advice = "build the graph from weights of that type".to_string();
        return Err(Error::Weight(WeightError::Type { name: weight.name.clone(), found, advice }));
    }
    Ok(())
}

/// Enlarges every input to the sizes that the graph is compiled for.
fn pad(graph: &Graph, live: &DimBinding, dims: &DimBinding, given: &mut Inputs) -> Result<()> {
    for (_, input) in graph.inputs() {
        let Some(value) = given.get_mut(&input.name) else { continue };
        let padding = Padding::new(&input.ty.shape, live, dims)?;
        if !padding.is_none() {
            *value = Arc::new(padding.pad(value, DEAD_KEY));
        }
    }
    Ok(())
}
