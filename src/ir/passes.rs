//! The passes over a graph before it is lowered or run, and their report.

use std::{borrow::Cow, collections::HashMap, fmt};

use super::{
    BinaryFn, Graph, LowerOptions, Node, NodeId, Op,
    decompose::rewritten,
    ops::{Binary, Broadcast, Const, Lowering},
};
use crate::Result;

/// One pass over a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct PassCount {
    /// Its name.
    pub name: &'static str,
    /// Nodes before the pass.
    pub before: usize,
    /// After it: nodes, or groups of nodes that share dispatches after fusion.
    pub after: usize,
    /// The graph after it, where the options ask for it.
    pub graph: Option<String>,
}

/// The passes in order, with their counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PassReport {
    /// The passes that ran.
    pub passes: Vec<PassCount>,
    /// Requests that could not be met as asked.
    pub notes: Vec<String>,
}

impl PassReport {
    pub(crate) fn add(&mut self, name: &'static str, before: usize, after: usize, graph: Option<String>) {
        self.passes.push(PassCount { name, before, after, graph });
    }

    /// Adds a note and logs it.
    pub(crate) fn note(&mut self, note: String) {
        tracing::warn!("{note}");
        self.notes.push(note);
    }
}

impl fmt::Display for PassReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for PassCount { name, before, after, graph } in &self.passes {
            writeln!(f, "pass {name}: {before} -> {after}")?;
            graph.as_ref().map_or(Ok(()), |graph| f.write_str(graph))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

/// The graph that is lowered: composites without a kernel replaced, constants folded, dead nodes dropped, as `options`
/// say.
///
/// # Errors
/// As `decompose`; [`GraphError::Malformed`](crate::error::GraphError::Malformed) where a pass broke a rule of the IR.
pub fn prepare(graph: &Graph, options: &LowerOptions, report: &mut PassReport) -> Result<Graph> {
    let mut graph = graph.clone();
    let mut pass = |name, graph: &mut Graph, run: &dyn Fn(&Graph) -> Result<Graph>| -> Result<()> {
        let after = run(graph)?;
        after.verify()?;
        report.add(name, graph.nodes().len(), after.nodes().len(), options.verbose.then(|| after.to_string()));
        *graph = after;
        Ok(())
    };
    let drop_dead = |graph: &Graph| rewritten(graph, &|_| false, true);
    if options.dce {
        pass("dce", &mut graph, &drop_dead)?;
    }
    let has_no_kernel = |node: &Node| node.op.lowering() == Lowering::Decompose;
    pass("decompose", &mut graph, &|graph| rewritten(graph, &has_no_kernel, false))?;
    if options.constant_folding {
        pass("constant_folding", &mut graph, &fold)?;
    }
    if options.dce {
        pass("dce", &mut graph, &drop_dead)?;
    }
    Ok(graph)
}

/// The graph that the reference runs: composites that `options` leave unfused are replaced by their definitions;
/// nothing else changes, as the reference says what is right.
///
/// # Errors
/// As `decompose`.
pub fn prepare_reference<'g>(graph: &'g Graph, options: &LowerOptions, report: &mut PassReport) -> Result<Cow<'g, Graph>> {
    if options.fuse && options.unfused.is_empty() {
        return Ok(Cow::Borrowed(graph));
    }
    for name in options.unmatched(graph.nodes()) {
        report.note(unmatched(graph, name));
    }
    let after = rewritten(graph, &|node| options.is_unfused(node), false)?;
    after.verify()?;
    report.add("decompose", graph.nodes().len(), after.nodes().len(), options.verbose.then(|| after.to_string()));
    Ok(Cow::Owned(after))
}

pub(crate) fn unmatched(graph: &Graph, name: &str) -> String {
    format!("'{name}' is to stay unfused, and nothing in graph '{}' is called so", graph.name)
}

/// Does arithmetic on constants, joins factors (and summands) of one value, and drops those that change nothing.
fn fold(graph: &Graph) -> Result<Graph> {
    let mut folder = Folder {
        uses: graph.use_counts(),
        out: graph.emptied(),
        moved: Vec::new(),
        splats: HashMap::new(),
        constants: HashMap::new(),
    };
    for node in graph.nodes() {
        let id = folder.node(graph, node)?;
        folder.moved.push(id);
    }
    let Folder { mut out, moved, .. } = folder;
    for (name, id) in graph.outputs() {
        out.output(name.clone(), moved[id.index()]);
    }
    Ok(out)
}

struct Folder {
    /// How often each old node is read.
    uses: Vec<usize>,
    out: Graph,
    /// The new node of each old one.
    moved: Vec<NodeId>,
    /// New nodes all of whose elements are one number.
    splats: HashMap<NodeId, f32>,
    /// New constants by their bits.
    constants: HashMap<u32, NodeId>,
}

impl Folder {
    /// The node in the new graph that stands for `node`.
    fn node(&mut self, graph: &Graph, node: &Node) -> Result<NodeId> {
        let inputs: Vec<NodeId> = node.inputs.iter().map(|x| self.moved[x.index()]).collect();
        let known: Vec<Option<f32>> = inputs.iter().map(|x| self.splats.get(x).copied()).collect();
        let number = match (&node.op, &known[..]) {
            (Op::Const(constant), _) => return self.constant(constant.value),
            (Op::Unary(op), [Some(x)]) => Some(op.f.eval(f64::from(*x)) as f32),
            (Op::Binary(op), [Some(a), Some(b)]) => Some(op.f.eval(f64::from(*a), f64::from(*b)) as f32),
            _ => None,
        };
        if let Some(number) = number.filter(|number| number.is_finite()) {
            return self.splat(number, node);
        }
        if let (Op::Binary(Binary { f }), [None, Some(number)]) = (&node.op, &known[..]) {
            if changes_nothing(*f, *number) {
                if self.out.node(inputs[0]).name.is_empty() {
                    self.out.label(inputs[0], &node.name);
                }
                return Ok(inputs[0]);
            }
            let only_reader = self.uses[node.inputs[0].index()] == 1;
            if let Some((x, joined)) = self.joined(*f, inputs[0], *number).filter(|_| only_reader) {
                let wide = self.splat(joined, &Node { name: String::new(), ..node.clone() })?;
                return Ok(self.out.copy(node, vec![x, wide]));
            }
        }
        let spreads = matches!(node.op, Op::Broadcast(_) | Op::Reshape(_) | Op::Permute(_) | Op::Slice(_));
        let number = known.first().copied().flatten().filter(|_| spreads);
        let id = self.out.copy(node, inputs);
        number.into_iter().for_each(|number| _ = self.splats.insert(id, number));
        debug_assert_eq!(graph.ty(NodeId(self.moved.len() as u32)), self.out.ty(id));
        Ok(id)
    }

    fn constant(&mut self, value: f32) -> Result<NodeId> {
        if let Some(id) = self.constants.get(&value.to_bits()) {
            return Ok(*id);
        }
        let id = self.out.push(Const { value }, &[])?;
        self.constants.insert(value.to_bits(), id);
        self.splats.insert(id, value);
        Ok(id)
    }

    /// A value of the node's shape with `number` everywhere, under its name.
    fn splat(&mut self, number: f32, node: &Node) -> Result<NodeId> {
        let constant = self.constant(number)?;
        if node.ty.shape.rank() == 0 {
            return Ok(constant);
        }
        let id = self.out.push(Broadcast { shape: node.ty.shape.clone() }, &[constant])?;
        self.out.label(id, &node.name);
        self.splats.insert(id, number);
        Ok(id)
    }

    /// `x` and the number in `f(f(x, a), number) = f(x, joined)`.
    fn joined(&self, f: BinaryFn, inner: NodeId, number: f32) -> Option<(NodeId, f32)> {
        let node = self.out.node(inner);
        let Op::Binary(Binary { f: before }) = node.op else { return None };
        let a = *self.splats.get(node.inputs.get(1)?)?;
        let joined = match (before, f) {
            (BinaryFn::Mul, BinaryFn::Mul) => a * number,
            (BinaryFn::Add, BinaryFn::Add) => a + number,
            _ => return None,
        };
        // Two small factors may vanish together where one after the other does not.
        (joined.is_normal() || a == 0.0 || number == 0.0).then_some((node.inputs[0], joined))
    }
}

/// Returns `true` if `f(x, number)` is `x`.
fn changes_nothing(f: BinaryFn, number: f32) -> bool {
    match f {
        BinaryFn::Mul | BinaryFn::Div => number == 1.0,
        BinaryFn::Add | BinaryFn::Sub => number == 0.0,
        BinaryFn::Max | BinaryFn::Min | BinaryFn::Less => false,
    }
}

#[cfg(test)]
mod tests;
