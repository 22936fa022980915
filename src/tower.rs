//! A tower on a device: its weights once, and a compiled graph for each size of input.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    Result,
    flow::{BuiltModel, ModelFlow},
    ir::{Compute, Value},
    profile::{CompileProfile, Precision},
    runtime::{CompileOptions, CompiledGraph, GpuContext, Lru, RunInput, Session, SessionWeights},
    weights::{WeightLoader, WeightMap},
};

/// Compiled graphs that are kept, those of the sizes that were run last.
const KEPT_GRAPHS: usize = 5;

/// Bytes of soft tokens that are kept, unless the options say otherwise.
const KEPT_BYTES: usize = 64 << 20;

/// How to load a tower.
#[derive(Debug, Clone, Default)]
pub struct TowerOptions {
    /// How the tower is compiled. Default: the preset, with products in f32.
    pub profile: Option<CompileProfile>,
    /// Most bytes of soft tokens that are kept on the host, those that were asked for last: what they are of is not
    /// encoded again. Default: 64 MiB.
    pub kept_bytes: Option<usize>,
}

impl TowerOptions {
    /// How many results are kept of which one has at most `tokens` soft tokens of `width` numbers.
    pub(crate) fn kept(&self, tokens: usize, width: usize) -> usize {
        let one = tokens * width * size_of::<f32>();
        (self.kept_bytes.unwrap_or(KEPT_BYTES) / one.max(1)).max(1)
    }
}

/// The flow of a tower for one size of input.
type FlowOf = Box<dyn Fn(usize) -> Result<ModelFlow> + Send + Sync>;

/// See the module.
pub(crate) struct Tower {
    flow: FlowOf,
    profile: CompileProfile,
    session: Session,
    /// Handles, from which graphs for other sizes are built.
    loader: WeightMap,
    weights: SessionWeights,
    compiled: Mutex<Lru<usize, CompiledGraph>>,
}

impl Tower {
    /// The tower of `flow`, which is built for `size` first, with the weights of `loader`; on `gpu`, or on the reference
    /// without one.
    pub(crate) fn new(
        flow: FlowOf,
        size: usize,
        loader: &mut dyn WeightLoader,
        gpu: Option<Arc<GpuContext>>,
        options: &TowerOptions,
    ) -> Result<Self> {
        let session = gpu.map_or_else(Session::reference, |gpu| Session::on(&gpu));
        let loader = WeightMap::take_all(loader)?;
        let built = flow(size)?.build(&mut loader.clone())?;
        let weights = session.load(&built.params)?;
        // Numbers of a tower may exceed what f16 holds.
        let exact = || {
            let preset = CompileProfile::gemma_prefill();
            CompileProfile { precision: Precision { compute: Compute::F32, ..preset.precision }, ..preset }
        };
        let profile = options.profile.clone().unwrap_or_else(exact);
        Ok(Self { flow, profile, session, loader, weights, compiled: Mutex::new(Lru::new(KEPT_GRAPHS)) })
    }

    /// The outputs of the graph for `size`, and the values of nodes by their labels.
    pub(crate) fn run(&self, size: usize, inputs: &[(&'static str, Value)], labels: &[&str]) -> Result<Vec<(String, Value)>> {
        let given: Vec<(&str, RunInput)> = inputs.iter().map(|(name, value)| (*name, RunInput::Value(value))).collect();
        if !labels.is_empty() {
            let built = self.build(size)?.with_extra_hir_outputs(labels.iter().copied())?;
            return self.compile(&built)?.run(&given);
        }
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.get_or_try_insert(&size, || self.compile(&self.build(size)?))?.run(&given)
    }

    fn build(&self, size: usize) -> Result<BuiltModel> {
        (self.flow)(size)?.build(&mut self.loader.clone())
    }

    fn compile(&self, built: &BuiltModel) -> Result<CompiledGraph> {
        let options = CompileOptions::default().with_weights(&self.weights).with_profile(&self.profile);
        self.session.compile_with(&built.graph, &options)
    }
}
