//! Runs a graph on host arrays, plainly and on all cores. Every kernel is measured against it.
//!
//! It shares nothing with shaders but the scalar table and never sees kernels, plans or the runtime.

mod deviation;

use std::{collections::BTreeMap, sync::Arc};

pub use deviation::{Deviation, compare, compare_with, deviation, expected};

use crate::{
    Error, Result,
    cancel::CancelToken,
    error::{GraphError, WeightError},
    ir::{
        Data, DimBinding, FixedType, Graph, NodeId, Op, Type, Value,
        derive::Inputs,
        ops::{CacheWrite, Role},
    },
    weights::Tensor,
};

/// The results of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The graph's outputs in order.
    pub outputs: Vec<(String, Value)>,
    /// The new contents of every cache input.
    pub caches: Vec<(String, Value)>,
}

/// Weights by name.
pub type Weights = BTreeMap<String, Tensor>;

/// Runs `graph` with its sizes bound.
///
/// # Errors
/// [`Error::Input`] for a missing or misshapen input, [`WeightError::NotGiven`], and an op's error for its operands.
pub fn run(graph: &Graph, binding: &DimBinding, inputs: &Inputs, weights: &Weights) -> Result<Outcome> {
    run_observed(graph, binding, inputs, weights, &mut |_, _| Ok(()))
}

/// As [`run`], and shows the value of every node to `observe`, in order.
///
/// # Errors
/// As [`run`], and the errors of `observe`.
pub fn run_observed(
    graph: &Graph,
    binding: &DimBinding,
    inputs: &Inputs,
    weights: &Weights,
    observe: &mut dyn FnMut(NodeId, &Value) -> Result<()>,
) -> Result<Outcome> {
    // Caches that the caller still holds are copied before they are written.
    let mut inputs = inputs.clone();
    let mut run = Run::new(graph, binding, &mut inputs, weights)?;
    let outputs = run.all(observe)?;
    let written = run.undo.into_iter().filter_map(|(cache, _)| inputs.remove_entry(&cache));
    Ok(Outcome { outputs, caches: written.map(owned).collect() })
}

/// As [`run`] with caches that are written where they are, until `cancel` is cancelled: between two nodes, and before a
/// part of a weight is read. After an error the caches are as they were.
///
/// # Errors
/// As [`run`], and [`Error::Cancelled`].
pub(crate) fn run_unless(
    graph: &Graph,
    binding: &DimBinding,
    inputs: &mut Inputs,
    weights: &Weights,
    cancel: &CancelToken,
) -> Result<Vec<(String, Value)>> {
    let weights = weights.iter().map(|(name, tensor)| (name.clone(), tensor.unless(cancel))).collect();
    // On one of the threads that share the work: from outside, each op would wait for one to wake.
    rayon::scope(|_| {
        let mut run = Run::new(graph, binding, inputs, &weights)?;
        let outputs = run.all(&mut |_, _| cancel.check("a run of the model"));
        if outputs.is_err() {
            run.restore()?;
        }
        outputs
    })
}

fn owned<K>((name, value): (K, Arc<Value>)) -> (K, Value) {
    (name, Arc::unwrap_or_clone(value))
}

/// The rows that put a cache back as it was.
enum Undo {
    /// The rows that a write replaced.
    Rows { op: CacheWrite, rows: Value, positions: Arc<Value> },
    /// All of it.
    Whole(Arc<Value>),
}

/// A run of a graph on the way.
struct Run<'a> {
    graph: &'a Graph,
    inputs: &'a mut Inputs,
    weights: &'a Weights,
    types: Vec<FixedType>,
    values: Vec<Option<Arc<Value>>>,
    /// Readers of each value that are still to come.
    left: Vec<usize>,
    /// Of each write, with the cache's name.
    undo: Vec<(String, Undo)>,
}

impl<'a> Run<'a> {
    fn new(graph: &'a Graph, binding: &DimBinding, inputs: &'a mut Inputs, weights: &'a Weights) -> Result<Self> {
        let types = graph.fixed_types(binding)?;
        let values = vec![None; types.len()];
        Ok(Self { graph, inputs, weights, types, values, left: graph.use_counts(), undo: Vec::new() })
    }

    /// Every node in order; gives the outputs.
    fn all(&mut self, observe: &mut dyn FnMut(NodeId, &Value) -> Result<()>) -> Result<Vec<(String, Value)>> {
        let graph = self.graph;
        for id in graph.ids() {
            let node = graph.node(id);
            if matches!(node.op, Op::Input(_)) && self.left[id.index()] == 0 {
                // Nothing reads it: others are derived from it, or it is optional and not given.
                continue;
            }
            let value = self.value(id)?;
            observe(id, &value)?;
            self.values[id.index()] = Some(value);
            for input in &node.inputs {
                self.left[input.index()] -= 1;
                if self.left[input.index()] == 0 {
                    self.values[input.index()] = None;
                }
            }
        }
        let outputs = graph.outputs().iter().filter_map(|(name, id)| Some((name.clone(), self.values[id.index()].clone()?)));
        let outputs: Vec<_> = outputs.collect();
        self.values.clear();
        Ok(outputs.into_iter().map(owned).collect())
    }

    fn value(&mut self, id: NodeId) -> Result<Arc<Value>> {
        let node = self.graph.node(id);
        let ty = &self.types[id.index()];
        let operands = |run: &Self| node.inputs.iter().filter_map(|i| run.values[i.index()].clone()).collect::<Vec<_>>();
        match &node.op {
            Op::Input(input) => given(&input.name, self.inputs.get(&input.name), ty),
            Op::Weight(weight) => Ok(Arc::new(Value::stored(stored(&weight.name, self.weights)?))),
            Op::CacheWrite(op) if let Op::Input(cache) = &self.graph.node(node.inputs[0]).op => {
                debug_assert_eq!(cache.role, Role::Cache);
                self.write(op, &cache.name, [0, 1, 2].map(|i| node.inputs[i].index()))
            }
            op => Ok(Arc::new(evaluate(op, &operands(self), ty)?)),
        }
    }

    /// Writes into a cache: where it is, if nobody else has it and nothing reads it as it was.
    fn write(&mut self, op: &CacheWrite, name: &str, [cache, rows, positions]: [usize; 3]) -> Result<Arc<Value>> {
        let operands = (self.values[cache].clone(), self.values[rows].clone(), self.values[positions].clone());
        let ((Some(mut written), Some(rows), Some(positions)), Some(held)) = (operands, self.inputs.get(name).cloned()) else {
            return Err(Error::Input { name: name.into(), problem: "missing".into() });
        };
        let undo = if self.left[cache] == 1 && Arc::ptr_eq(&held, &written) {
            let rows = op.replaced(&held, &positions)?;
            self.values[cache] = None;
            self.inputs.remove(name);
            drop(held);
            Undo::Rows { op: op.clone(), rows, positions: positions.clone() }
        } else {
            Undo::Whole(held)
        };
        // A copy, if it is shared.
        let done = op.write(Arc::make_mut(&mut written), &rows, &positions);
        self.inputs.insert(name.into(), written.clone());
        self.undo.push((name.into(), undo));
        done.map(|()| written)
    }

    /// Puts the caches back as they were, the last write first.
    fn restore(&mut self) -> Result<()> {
        self.values.clear();
        while let Some((cache, undo)) = self.undo.pop() {
            match (undo, self.inputs.get_mut(&cache)) {
                (Undo::Rows { op, rows, positions }, Some(held)) => op.write(Arc::make_mut(held), &rows, &positions)?,
                (Undo::Whole(value), Some(held)) => *held = value,
                (_, None) => {}
            }
        }
        Ok(())
    }
}

/// The value of one op: by its own rule, or by running its decomposition.
///
/// # Errors
/// Those of the op about its operands.
pub fn evaluate(op: &Op, operands: &[Arc<Value>], ty: &FixedType) -> Result<Value> {
    if !op.runs_decomposed() {
        let refs: Vec<&Value> = operands.iter().map(Arc::as_ref).collect();
        return Ok(Value { shape: ty.shape.clone(), data: op.eval(&refs, ty)? });
    }
    run_definition(op, operands)
}

/// The value of a composite by its decomposition.
fn run_definition(op: &Op, operands: &[Arc<Value>]) -> Result<Value> {
    let mut graph = Graph::new(op.name());
    let mut values = Inputs::new();
    let mut weights = Weights::new();
    let mut inputs = Vec::new();
    for (i, operand) in operands.iter().enumerate() {
        let name = format!("operand {i}");
        let shape = operand.shape.as_slice();
        inputs.push(match &operand.data {
            Data::Stored(tensor) => {
                weights.insert(name.clone(), tensor.clone());
                graph.weight(name, tensor.dtype(), shape)?
            }
            _ => {
                values.insert(name.clone(), operand.clone());
                let ty = Type::new(operand.dtype(), shape);
                graph.push(crate::ir::ops::Input { name, role: Role::Caller, ty }, &[])?
            }
        });
    }
    let result = op.decompose(&mut graph, &inputs).unwrap_or_else(|| {
        let problem = "says that it runs decomposed and has no decomposition".into();
        Err(Error::Graph(GraphError::Malformed { graph: op.name().into(), problem }))
    })?;
    graph.output("result", result);
    let mut outcome = run(&graph, &DimBinding::new(), &values, &weights)?;
    match outcome.outputs.pop() {
        Some((_, value)) => Ok(value),
        None => Err(Error::Graph(GraphError::Malformed {
            graph: op.name().into(),
            problem: "its decomposition gave no value".into(),
        })),
    }
}

fn given(name: &str, value: Option<&Arc<Value>>, ty: &FixedType) -> Result<Arc<Value>> {
    let wrong = |problem: String| Err(Error::Input { name: name.into(), problem });
    match value {
        Some(value) if value.shape == ty.shape && value.dtype() == ty.dtype => Ok(value.clone()),
        Some(v) => wrong(format!("found {}{:?}, expected {}{:?}", v.dtype(), v.shape, ty.dtype, ty.shape)),
        None => wrong(format!("missing; expected {}{:?}", ty.dtype, ty.shape)),
    }
}

fn stored(name: &str, weights: &Weights) -> Result<Tensor> {
    weights.get(name).cloned().ok_or_else(|| Error::Weight(WeightError::NotGiven { name: name.into() }))
}

#[cfg(test)]
mod tests;
