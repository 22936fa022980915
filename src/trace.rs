//! Reference and device side by side: the first node whose values differ.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Result,
    flow::ModelParams,
    ir::{
        Compute, Data, DimBinding, Graph, NodeId, Value,
        derive::{Inputs, derive},
    },
    reference,
    runtime::{CompileOptions, Session, SessionWeights},
};

/// Where a device's values leave the reference's.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The node.
    pub node: NodeId,
    /// Its position in the model.
    pub label: String,
    /// The largest absolute difference.
    pub error: f32,
    /// The largest magnitude of the reference's values.
    pub magnitude: f32,
}

/// Runs `graph` on the reference and `on_device`, which has the same nodes in the same order, on the session's device,
/// and returns the first labelled node whose values differ by more than `tolerance` times the largest magnitude of the
/// reference's. Layers are compared by their outputs first, then the nodes of the first layer that differs.
///
/// Each comparison runs the graph up to that node as it would run in the model, fused kernels included.
///
/// # Errors
/// Those of compiling and running either graph.
pub fn first_difference(
    session: &Session,
    graph: &Graph,
    on_device: &Graph,
    params: &ModelParams,
    binding: &DimBinding,
    inputs: &[(&str, Value)],
    tolerance: f32,
) -> Result<Option<Difference>> {
    let mut expected: HashMap<NodeId, Vec<f32>> = HashMap::new();
    let mut given: Inputs = inputs.iter().map(|(name, value)| (name.to_string(), Arc::new(value.clone()))).collect();
    derive(graph, binding, &mut given)?;
    reference::run_observed(graph, binding, &given, params, &mut |id, value| {
        if let (false, Data::F32(values)) = (graph.node(id).name.is_empty(), &value.data) {
            expected.insert(id, values.clone());
        }
        Ok(())
    })?;
    let weights = session.load(params)?;
    let device = DeviceRun { session, graph: on_device, weights, binding, inputs };
    // Inputs are given and need no comparison.
    let mut labelled: Vec<NodeId> = expected.keys().copied().filter(|id| !graph.node(*id).inputs.is_empty()).collect();
    labelled.sort_unstable();
    let is_output = |id: &NodeId| graph.node(*id).name.ends_with("output") || !graph.node(*id).name.contains("layer.");
    let mut from = 0;
    for (at, id) in labelled.iter().enumerate().filter(|(_, id)| is_output(id)) {
        if device.difference(*id, &expected[id], tolerance)?.is_some() {
            for inner in &labelled[from..=at] {
                if let Some(difference) = device.difference(*inner, &expected[inner], tolerance)? {
                    return Ok(Some(difference));
                }
            }
        }
        from = at + 1;
    }
    Ok(None)
}

struct DeviceRun<'a> {
    session: &'a Session,
    graph: &'a Graph,
    weights: SessionWeights,
    binding: &'a DimBinding,
    inputs: &'a [(&'a str, Value)],
}

impl DeviceRun<'_> {
    fn difference(&self, node: NodeId, expected: &[f32], tolerance: f32) -> Result<Option<Difference>> {
        let graph = self.graph.with_outputs(vec![("value".into(), node)]);
        let mut options = CompileOptions::default().with_dims(self.binding.clone()).with_weights(&self.weights);
        options.profile.precision.compute = Compute::F32;
        let mut outputs = self.session.compile_with(&graph, &options)?.run(self.inputs)?;
        let found = outputs.pop().map(|(_, value)| value);
        let found = found.as_ref().map(Value::to_f32).transpose()?.unwrap_or_default();
        let magnitude = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        // A value that is no number differs by more than any tolerance.
        let apart = |(a, b): (&f32, &f32)| if a.is_finite() { (a - b).abs() } else { f32::MAX };
        let error = found.iter().zip(expected).map(apart).fold(0.0, f32::max);
        if found.len() == expected.len() && error <= tolerance * magnitude.max(f32::MIN_POSITIVE) {
            return Ok(None);
        }
        let label = self.graph.node(node).name.clone();
        Ok(Some(Difference { node, label, error, magnitude }))
    }
}
