//! A caller's inputs to a run, checked against those of the graph.

use std::sync::Arc;

use crate::{
    Error, Result,
    error::PromptError,
    ir::{
        DType, Data, Dim, DimBinding, Graph, NodeId, Op, Shape, Value,
        derive::Inputs,
        ops::{Gather, Input, Role},
    },
};

/// The values of one input: a slice, whose shape is the graph's, or an array with a shape of its own.
#[derive(Debug, Clone, Copy)]
pub enum RunInput<'a> {
    /// Row-major f32 elements.
    F32(&'a [f32]),
    /// Row-major u32 elements: token ids, positions, indices.
    U32(&'a [u32]),
    /// Row-major i32 elements.
    I32(&'a [i32]),
    /// An array with its shape.
    Value(&'a Value),
}

macro_rules! from {
    ($($ty:ty => $variant:ident),+ $(,)?) => {$(
        impl<'x, 'a: 'x> From<&'x $ty> for RunInput<'x> {
            fn from(values: &'x $ty) -> Self {
                RunInput::$variant(values)
            }
        }
    )+};
}

from!(&'a [f32] => F32, Vec<f32> => F32, &'a [u32] => U32, Vec<u32> => U32, &'a [i32] => I32, &'a Value => Value);

impl<'x> From<&'x Value> for RunInput<'x> {
    fn from(value: &'x Value) -> Self {
        RunInput::Value(value)
    }
}

impl<'x, 'a: 'x> From<&'x RunInput<'a>> for RunInput<'x> {
    fn from(input: &'x RunInput<'a>) -> Self {
        *input
    }
}

impl RunInput<'_> {
    fn dtype(&self) -> DType {
        match self {
            RunInput::F32(_) => DType::F32,
            RunInput::U32(_) => DType::U32,
            RunInput::I32(_) => DType::I32,
            RunInput::Value(value) => value.dtype(),
        }
    }

    fn len(&self) -> usize {
        match self {
            RunInput::F32(v) => v.len(),
            RunInput::U32(v) => v.len(),
            RunInput::I32(v) => v.len(),
            RunInput::Value(value) => match &value.data {
                Data::F32(v) => v.len(),
                Data::F16(v) => v.len(),
                Data::I32(v) => v.len(),
                Data::U32(v) => v.len(),
                Data::Stored(tensor) => tensor.shape().iter().product(),
            },
        }
    }

    fn found(&self) -> String {
        match self {
            RunInput::Value(value) => format!("{}{:?} of {} elements", value.dtype(), value.shape, self.len()),
            slice => format!("{} elements of {}", slice.len(), slice.dtype()),
        }
    }

    fn to_value(self, shape: Vec<usize>) -> Value {
        match self {
            RunInput::F32(v) => Value::f32(shape, v.to_vec()),
            RunInput::U32(v) => Value::u32(shape, v.to_vec()),
            RunInput::I32(v) => Value::i32(shape, v.to_vec()),
            RunInput::Value(value) => value.clone(),
        }
    }
}

fn wrong<T>(name: &str, problem: String) -> Result<T> {
    Err(Error::Input { name: name.into(), problem })
}

/// Returns `true` if the caller may give the input.
pub(super) fn is_callers(input: &Input) -> bool {
    matches!(input.role, Role::Caller | Role::Optional | Role::SoftRows | Role::IsText | Role::Cache)
}

fn find<'g>(graph: &'g Graph, name: &str) -> Result<&'g Input> {
    let takes: Vec<&Input> = graph.inputs().map(|(_, input)| input).filter(|input| is_callers(input)).collect();
    match takes.iter().find(|input| input.name == name) {
        Some(input) => Ok(input),
        None => {
            let names: Vec<&str> = takes.iter().map(|input| input.name.as_str()).collect();
            wrong(name, format!("the graph '{}' has no such input; it takes {}", graph.name, names.join(", ")))
        }
    }
}

/// The symbolic sizes that the inputs have, where `capacity` bounds them; sizes that no input shows are at their
/// capacity.
pub(in crate::runtime) fn sizes(graph: &Graph, inputs: &[(&str, RunInput)], capacity: &DimBinding) -> Result<DimBinding> {
    let mut live = capacity.clone();
    for (name, given) in inputs {
        let input = find(graph, name)?;
        let dims = &input.ty.shape.0;
        let shown: Vec<(Dim, usize)> = match given {
            RunInput::Value(value) if value.shape.len() == dims.len() => {
                dims.iter().copied().zip(value.shape.iter().copied()).collect()
            }
            RunInput::Value(_) => Vec::new(),
            slice => only_symbolic(&input.ty.shape, slice.len()).into_iter().collect(),
        };
        for (dim, size) in shown {
            let mut symbols = dim.symbols();
            let (Some(symbol), None) = (symbols.next(), symbols.next()) else { continue };
            let most = capacity.get(symbol).unwrap_or(usize::MAX);
            match size.checked_sub(dim.offset()) {
                Some(0) => {
                    return wrong(name, format!("found {}; its size {} is 0, expected at least 1", given.found(), symbol.0));
                }
                Some(value) if value > most => {
                    let problem = format!(
                        "found {}; its size {} = {value} exceeds {most}, for which the graph is compiled",
                        given.found(),
                        symbol.0
                    );
                    return wrong(name, problem);
                }
                Some(value) => live = live.with(symbol, value),
                None => {}
            }
        }
    }
    Ok(live)
}

/// The one dimension of a shape that has symbols, with its size in an array of `len` elements.
fn only_symbolic(shape: &Shape, len: usize) -> Option<(Dim, usize)> {
    let mut symbolic = shape.0.iter().filter(|dim| dim.fixed().is_none());
    let (dim, None) = (*symbolic.next()?, symbolic.next()) else { return None };
    let rest: usize = shape.0.iter().filter_map(|dim| dim.fixed()).product();
    (rest > 0 && len.is_multiple_of(rest)).then(|| (dim, len / rest))
}

/// The inputs by name, each of the type that the graph says with its sizes bound to `live`.
pub(super) fn check(graph: &Graph, inputs: &[(&str, RunInput)], live: &DimBinding) -> Result<Inputs> {
    let mut checked = Inputs::new();
    for (name, given) in inputs {
        let input = find(graph, name)?;
        let shape = input.ty.shape.bind(live)?;
        let len: usize = shape.iter().product();
        let same = match given {
            RunInput::Value(value) if matches!(value.data, Data::Stored(_)) => {
                return wrong(name, "found a stored weight, expected an array on the host".into());
            }
            RunInput::Value(value) => value.shape == shape,
            _ => true,
        };
        if !same || given.dtype() != input.ty.dtype || given.len() != len {
            return wrong(name, format!("found {}, expected {}{shape:?}", given.found(), input.ty.dtype));
        }
        if checked.insert(name.to_string(), Arc::new(given.to_value(shape))).is_some() {
            return wrong(name, "given twice".into());
        }
    }
    // An optional input that nothing reads may be left out: others are derived from it.
    let uses = graph.use_counts();
    let needed = |(id, input): &(NodeId, &Input)| match input.role {
        Role::Caller | Role::SoftRows | Role::IsText | Role::Cache => true,
        Role::Optional => uses[id.index()] > 0,
        _ => false,
    };
    for (_, input) in graph.inputs().filter(needed) {
        if !checked.contains_key(&input.name) {
            let shape = input.ty.shape.bind(live)?;
            return wrong(&input.name, format!("missing; expected {}{shape:?}", input.ty.dtype));
        }
    }
    check_indices(graph, &checked, live)?;
    Ok(checked)
}

/// Refuses ids and indices outside of the tables that they index: a kernel would leave their rows as they were.
fn check_indices(graph: &Graph, inputs: &Inputs, live: &DimBinding) -> Result<()> {
    for node in graph.nodes() {
        let Op::Gather(gather @ Gather { or_first: false, .. }) = &node.op else { continue };
        let Op::Input(input) = &graph.node(source(graph, node.inputs[1])).op else { continue };
        let Some(value) = inputs.get(&input.name) else { continue };
        let rows = graph.shape(node.inputs[0]).0[usize::from(gather.per_batch)].bind(live)?;
        let indices = value.to_indices()?;
        let in_table = |index: &usize| index.checked_sub(gather.first).is_some_and(|row| row < rows);
        let Some(index) = indices.iter().position(|index| !in_table(index)) else { continue };
        return if gather.per_batch {
            wrong(&input.name, format!("entry {index} is {}, there are {rows} rows", indices[index]))
        } else {
            Err(Error::Prompt(PromptError::TokenOutOfRange { token: indices[index] as u32, index, vocab_size: rows }))
        };
    }
    Ok(())
}

/// The node that holds the same elements, below all reshapes.
fn source(graph: &Graph, mut id: NodeId) -> NodeId {
    while let (Op::Reshape(_), [operand]) = (&graph.node(id).op, graph.node(id).inputs.as_slice()) {
        id = *operand;
    }
    id
}
