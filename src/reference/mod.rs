//! Runs a graph on host arrays: plain, on all cores, and what every kernel is measured against.
//!
//! It shares nothing with shaders but the scalar table and never sees kernels, plans or the runtime.

pub mod tolerance;

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    Error, Result,
    cancel::CancelToken,
    ir::{Data, DimBinding, FixedType, Graph, NodeId, Op, Type, Value, derive::Inputs, ops::Role},
    weights::Tensor,
};

/// What a run gives back.
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
/// [`Error::Input`] for a missing or misshapen input, [`Error::MissingWeight`], and what an op says of its operands.
pub fn run(graph: &Graph, binding: &DimBinding, inputs: &Inputs, weights: &Weights) -> Result<Outcome> {
    run_observed(graph, binding, inputs, weights, &mut |_, _| Ok(()))
}

/// As [`run`], until `cancel` is cancelled: between two nodes, and before a part of a weight is read.
///
/// # Errors
/// As [`run`]; [`Error::Cancelled`].
pub(crate) fn run_unless(
    graph: &Graph,
    binding: &DimBinding,
    inputs: &Inputs,
    weights: &Weights,
    cancel: &CancelToken,
) -> Result<Outcome> {
    let weights = weights.iter().map(|(name, tensor)| (name.clone(), tensor.unless(cancel))).collect();
    run_observed(graph, binding, inputs, &weights, &mut |_, _| cancel.check("a run of the model"))
}

/// As [`run`], and shows the value of every node to `observe`, in order.
///
/// # Errors
/// As [`run`], and what `observe` says.
pub fn run_observed(
    graph: &Graph,
    binding: &DimBinding,
    inputs: &Inputs,
    weights: &Weights,
    observe: &mut dyn FnMut(NodeId, &Value) -> Result<()>,
) -> Result<Outcome> {
    let types = graph.fixed_types(binding)?;
    let mut left = graph.use_counts();
    let mut values: Vec<Option<Rc<Value>>> = vec![None; types.len()];
    let mut caches = Vec::new();
    for id in graph.ids() {
        let node = graph.node(id);
        if matches!(node.op, Op::Input(_)) && left[id.index()] == 0 {
            // Nothing reads it: others are derived from it, or it is optional and not given.
            continue;
        }
        let operands: Vec<Rc<Value>> = node.inputs.iter().filter_map(|i| values[i.index()].clone()).collect();
        let value = match &node.op {
            Op::Input(input) => given(&input.name, inputs.get(&input.name), &types[id.index()])?,
            Op::Weight(weight) => Rc::new(Value::stored(stored(&weight.name, weights)?)),
            op => Rc::new(evaluate(op, &operands, &types[id.index()])?),
        };
        if let (Op::CacheWrite(_), Op::Input(cache)) = (&node.op, node.inputs.first().map_or(&node.op, |i| &graph.node(*i).op)) {
            debug_assert_eq!(cache.role, Role::Cache);
            caches.push((cache.name.clone(), value.clone()));
        }
        observe(id, &value)?;
        values[id.index()] = Some(value);
        for input in &node.inputs {
            left[input.index()] -= 1;
            if left[input.index()] == 0 {
                values[input.index()] = None;
            }
        }
    }
    let outputs = graph.outputs().iter().filter_map(|(name, id)| Some((name.clone(), values[id.index()].clone()?)));
    let outputs: Vec<_> = outputs.collect();
    drop(values);
    let owned = |(name, value)| (name, Rc::unwrap_or_clone(value));
    Ok(Outcome { outputs: outputs.into_iter().map(owned).collect(), caches: caches.into_iter().map(owned).collect() })
}

/// The value of one op: by its own rule, or by running its decomposition.
///
/// # Errors
/// What the op says of its operands.
pub fn evaluate(op: &Op, operands: &[Rc<Value>], ty: &FixedType) -> Result<Value> {
    if !op.runs_decomposed() {
        let refs: Vec<&Value> = operands.iter().map(Rc::as_ref).collect();
        return Ok(Value { shape: ty.shape.clone(), data: op.eval(&refs, ty)? });
    }
    run_definition(op, operands)
}

/// The value of a composite by its decomposition.
fn run_definition(op: &Op, operands: &[Rc<Value>]) -> Result<Value> {
    let mut graph = Graph::new(op.name());
    let (mut values, mut weights) = (Inputs::new(), Weights::new());
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
        Err(Error::Graph { graph: op.name().into(), problem })
    })?;
    graph.output("result", result);
    let mut outcome = run(&graph, &DimBinding::new(), &values, &weights)?;
    match outcome.outputs.pop() {
        Some((_, value)) => Ok(value),
        None => Err(Error::Graph { graph: op.name().into(), problem: "its decomposition gave no value".into() }),
    }
}

fn given(name: &str, value: Option<&Rc<Value>>, ty: &FixedType) -> Result<Rc<Value>> {
    let wrong = |problem: String| Err(Error::Input { name: name.into(), problem });
    match value {
        Some(value) if value.shape == ty.shape && value.dtype() == ty.dtype => Ok(value.clone()),
        Some(v) => wrong(format!("found {}{:?}, expected {}{:?}", v.dtype(), v.shape, ty.dtype, ty.shape)),
        None => wrong(format!("missing; expected {}{:?}", ty.dtype, ty.shape)),
    }
}

fn stored(name: &str, weights: &Weights) -> Result<Tensor> {
    weights.get(name).cloned().ok_or_else(|| Error::MissingWeight { name: name.into(), nearest: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::ops::{Attention, Linear};

    #[test]
    fn an_op_with_a_rule_of_its_own_means_its_definition() {
        let ops: [Op; 2] = [Attention { scale: 1.0, softcap: None, keep: false }.into(), Linear.into()];
        for case in ops.iter().flat_map(|op| op.cases()) {
            let operands: Vec<_> = case.inputs.iter().cloned().map(Rc::new).collect();
            let defined = run_definition(&case.op, &operands).unwrap();
            let ty = FixedType { dtype: defined.dtype(), shape: defined.shape.clone() };
            let own = evaluate(&case.op, &operands, &ty).unwrap();
            let (own, defined) = (own.to_f32().unwrap(), defined.to_f32().unwrap());
            let largest = defined.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (a, b) in own.iter().zip(defined.iter()) {
                // Sums of the same f32 products in another order.
                assert!((a - b).abs() <= 1e-5 * largest.max(1e-3), "{}: {a} and {b}", case.name);
            }
        }
    }
}
