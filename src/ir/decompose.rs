//! Replaces composites without a kernel by their definitions and drops what no output needs.

use crate::{
    Error, Result,
    ir::{Graph, NodeId, ops::Lowering},
};

/// The same outputs without ops whose lowering is [`Lowering::Decompose`] and without nodes that no output reaches.
///
/// # Errors
/// [`Error::Graph`] when an op says that it decomposes and does not, or a definition has another type than its op.
pub fn decompose(graph: &Graph) -> Result<Graph> {
    let mut graph = rebuild(graph)?;
    while graph.nodes().iter().any(|node| node.op.lowering() == Lowering::Decompose) {
        graph = rebuild(&graph)?;
    }
    // Definitions may leave nodes behind that their result does not read.
    let graph = rebuild(&graph)?;
    graph.verify()?;
    Ok(graph)
}

fn rebuild(graph: &Graph) -> Result<Graph> {
    let mut live = vec![false; graph.nodes().len()];
    graph.outputs().iter().for_each(|(_, id)| live[id.index()] = true);
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if live[index] {
            node.inputs.iter().for_each(|x| live[x.index()] = true);
        }
    }
    let mut out = Graph::new(graph.name.clone());
    graph.limits().iter().for_each(|(symbol, most)| out.set_limit(*symbol, *most));
    // A node that is not live keeps an id that nothing looks up.
    let mut moved: Vec<NodeId> = Vec::with_capacity(live.len());
    for (node, live) in graph.nodes().iter().zip(live) {
        if !live {
            moved.push(NodeId(u32::MAX));
            continue;
        }
        let inputs: Vec<NodeId> = node.inputs.iter().map(|x| moved[x.index()]).collect();
        if node.op.lowering() != Lowering::Decompose {
            moved.push(out.copy(node, inputs));
            continue;
        }
        let first = out.nodes().len();
        let broken = |problem: String| Error::Graph { graph: graph.name.clone(), problem };
        let result = node.op.decompose(&mut out, &inputs);
        let result = result.ok_or_else(|| broken(format!("{} has no decomposition", node.op.name())))??;
        if *out.ty(result) != node.ty {
            return Err(broken(format!("{} is {}, its decomposition {}", node.op.name(), node.ty, out.ty(result))));
        }
        for id in out.ids().skip(first) {
            if !node.name.is_empty() && out.node(id).name.is_empty() {
                out.label(id, &node.name);
            }
        }
        moved.push(result);
    }
    for (name, id) in graph.outputs() {
        out.output(name.clone(), moved[id.index()]);
    }
    Ok(out)
}
