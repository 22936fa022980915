//! The kernels of the cases on which every op is tested.

use anyhow::Result;
use gemmaflow::{
    ir::{
        Case, Data, DimBinding, Graph, LowerOptions, Op, Type,
        kernel::Target,
        ops::{Input, Role},
    },
    lower::{Unplaced, lower},
};

use crate::models::Kernels;

impl Kernels {
    /// All that the cases of all ops need on a device.
    pub fn add_cases(&mut self, target: &Target) -> Result<()> {
        for case in Op::examples().iter().flat_map(|op| op.cases()) {
            let plan = lower(&graph(&case)?, &DimBinding::new(), target, &LowerOptions::default(), &Unplaced)?;
            self.add(plan, &format!("{} '{}'", case.op.name(), case.name));
        }
        Ok(())
    }
}

/// A graph of one op. Stored operands are weights; a cache that is written is a cache.
fn graph(case: &Case) -> Result<Graph> {
    let mut graph = Graph::new(case.op.name());
    let mut operands = Vec::new();
    for (i, value) in case.inputs.iter().enumerate() {
        let name = format!("operand {i}");
        let role = if i == 0 && matches!(case.op, Op::CacheWrite(_)) { Role::Cache } else { Role::Caller };
        operands.push(match &value.data {
            Data::Stored(tensor) => graph.weight(name, tensor.dtype(), &value.shape)?,
            _ => graph.push(Input { name, role, ty: Type::new(value.dtype(), value.shape.as_slice()) }, &[])?,
        });
    }
    let result = graph.push(case.op.clone(), &operands)?;
    graph.output("result", result);
    Ok(graph)
}
