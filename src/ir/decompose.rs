//! Replaces composites by their definitions and drops nodes that no output needs.

use super::{Graph, Node, NodeId, ops::Lowering};
use crate::{Error, Result, error::GraphError};

/// The same outputs without ops whose lowering is [`Lowering::Decompose`] and without nodes that no output reaches.
///
/// # Errors
/// [`GraphError::Malformed`] when an op says that it decomposes and does not, or a definition has another type than its
/// op.
pub fn decompose(graph: &Graph) -> Result<Graph> {
    let decomposed = rewritten(graph, &|node| node.op.lowering() == Lowering::Decompose, true)?;
    // Definitions may leave nodes behind that their result does not read.
    let graph = rewritten(&decomposed, &|_| false, true)?;
    graph.verify()?;
    Ok(graph)
}

/// The graph with composites that are `chosen` replaced by their definitions, as are those that the definitions bring;
/// with `drop_dead` also without the nodes that no output reaches. Primitives have no definition and stay.
pub(super) fn rewritten(graph: &Graph, chosen: &dyn Fn(&Node) -> bool, drop_dead: bool) -> Result<Graph> {
    let (mut graph, mut changed) = rewritten_once(graph, chosen, drop_dead)?;
    while changed {
        (graph, changed) = rewritten_once(&graph, chosen, drop_dead)?;
    }
    Ok(graph)
}

/// One walk over the graph; the flag is true if anything was replaced.
fn rewritten_once(graph: &Graph, chosen: &dyn Fn(&Node) -> bool, drop_dead: bool) -> Result<(Graph, bool)> {
    let live = live(graph, drop_dead);
    let mut changed = false;
    let mut out = graph.emptied();
    // A node that is not live keeps an id that nothing looks up.
    let mut moved: Vec<NodeId> = Vec::with_capacity(live.len());
    for (node, live) in graph.nodes().iter().zip(live) {
        if !live {
            moved.push(NodeId(u32::MAX));
            continue;
        }
        let inputs: Vec<NodeId> = node.inputs.iter().map(|x| moved[x.index()]).collect();
        let definition = if chosen(node) { defined(graph, node, &inputs, &mut out)? } else { None };
        changed |= definition.is_some();
        moved.push(definition.unwrap_or_else(|| out.copy(node, inputs)));
    }
    for (name, id) in graph.outputs() {
        out.output(name.clone(), moved[id.index()]);
    }
    Ok((out, changed))
}

/// Which nodes some output reaches; all of them unless dead ones are dropped.
fn live(graph: &Graph, drop_dead: bool) -> Vec<bool> {
    let mut live = vec![!drop_dead; graph.nodes().len()];
    graph.outputs().iter().for_each(|(_, id)| live[id.index()] = true);
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if live[index] {
            node.inputs.iter().for_each(|x| live[x.index()] = true);
        }
    }
    live
}

/// Adds the definition of a node to `out` under the node's name; `None` for a primitive.
fn defined(graph: &Graph, node: &Node, inputs: &[NodeId], out: &mut Graph) -> Result<Option<NodeId>> {
    let first = out.nodes().len();
    let broken = |problem: String| Error::Graph(GraphError::Malformed { graph: graph.name.clone(), problem });
    let Some(result) = node.op.decompose(out, inputs) else {
        let needs_one = node.op.lowering() == Lowering::Decompose;
        return if needs_one { Err(broken(format!("{} has no decomposition", node.op.name()))) } else { Ok(None) };
    };
    let result = result?;
    if *out.ty(result) != node.ty {
        return Err(broken(format!("{} is {}, its decomposition {}", node.op.name(), node.ty, out.ty(result))));
    }
    for id in out.ids().skip(first) {
        if !node.name.is_empty() && out.node(id).name.is_empty() {
            out.label(id, &node.name);
        }
    }
    Ok(Some(result))
}
