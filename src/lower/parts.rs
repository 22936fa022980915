//! The groups of a plan as graphs of their own, so that a kernel can run apart from its model.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Residency,
    bound::Bound,
    fuse::{self, Group},
    possible,
};
use crate::{
    Result,
    ir::{
        DimBinding, Graph, LowerOptions, NodeId, Op, PassReport,
        kernel::Target,
        ops::{Concat, Input, Role},
        passes::prepare,
    },
};

/// The ops of one kernel of a plan.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its position in the model.
    pub label: String,
    /// The op whose kernel it is; `region` for generated text.
    pub op: &'static str,
    /// From the values that it reads, which are inputs, to those that it writes.
    pub graph: Graph,
}

/// The parts of a plan, a kernel each, in order. Lowered as the whole was, with its
/// [`options`](LowerOptions::for_graph), each part takes the kernels that it has there; a part that reads a cache
/// writes its new rows too.
///
/// # Errors
/// As [`lower`](super::lower).
pub fn parts(
    graph: &Graph,
    binding: &DimBinding,
    target: &Target,
    options: &LowerOptions,
    residency: &dyn Residency,
) -> Result<Vec<Part>> {
    let mut report = PassReport::default();
    let options = &possible(target, options, &mut report)?.for_graph(graph);
    let graph = prepare(graph, options, &mut report)?;
    let bound = Bound::new(&graph, binding, target, options, residency)?;
    let groups = fuse::groups(&bound)?;
    let stored = groups.iter().flat_map(Group::results).collect();
    groups.iter().map(|group| part(&bound, group, &stored)).collect()
}

fn part(bound: &Bound, group: &Group, stored: &BTreeSet<NodeId>) -> Result<Part> {
    let results = group.results();
    let is_given = |id: NodeId| {
        let follows = matches!(bound.op(id), Op::CacheWrite(_) | Op::Route(_) | Op::Input(_));
        stored.contains(&id) && !results.contains(&id) && !follows
    };
    let mut graph = bound.graph.emptied();
    let mut copies = BTreeMap::new();
    for id in needed(bound, &results, is_given) {
        let node = bound.graph.node(id);
        let copy = if is_given(id) {
            let input = Input { name: format!("value {}", id.index()), role: Role::Caller, ty: node.ty.clone() };
            let given = crate::ir::Node { op: input.into(), inputs: Vec::new(), ..node.clone() };
            graph.copy(&given, Vec::new())
        } else {
            graph.copy(node, node.inputs.iter().map(|x| copies[x]).collect())
        };
        copies.insert(id, copy);
    }
    let copied: Vec<NodeId> = results.iter().map(|result| copies[result]).collect();
    if group.is_concatenated() {
        // Outputs are not concatenated, but values that something else reads are.
        let last = graph.shape(copied[0]).rank() - 1;
        let mut all = copied[0];
        for more in &copied[1..] {
            all = graph.push(Concat { axis: last }, &[all, *more])?;
        }
        graph.output("results", all);
    } else {
        for (index, (result, copy)) in results.iter().zip(copied).enumerate() {
            let mut outputs = bound.graph.outputs().iter();
            let known = outputs.find(|(_, id)| bound.resolve(*id) == *result);
            graph.output(known.map_or_else(|| format!("result {index}"), |(name, _)| name.clone()), copy);
        }
    }
    let root = group.roots.first().copied();
    let op = root.map_or("region", |root| bound.op(root).name());
    Ok(Part { label: bound.label(root.unwrap_or(group.sink)), op, graph })
}

/// All nodes from the given ones to `results`, in order.
fn needed(bound: &Bound, results: &[NodeId], is_given: impl Fn(NodeId) -> bool) -> BTreeSet<NodeId> {
    let mut needed = BTreeSet::new();
    let mut stack = results.to_vec();
    while let Some(id) = stack.pop() {
        if needed.insert(id) && !is_given(id) {
            stack.extend(&bound.graph.node(id).inputs);
        }
    }
    needed
}
