//! Nodes in order, and how they are added.

use std::{collections::BTreeMap, fmt, panic::Location};

use super::{DType, DimBinding, FixedType, Op, Shape, Symbol, Type, ops::Input};
use crate::{Error, Result, error::GraphError};

/// A node's place in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// As an index into [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// One occurrence of an op.
#[derive(Debug, Clone)]
pub struct Node {
    /// The op that it computes.
    pub op: Op,
    /// Operands; each comes before this node.
    pub inputs: Vec<NodeId>,
    /// Inferred type of the result.
    pub ty: Type,
    /// Position in the model, such as `layer.3.attention`; empty where nobody named it.
    pub name: String,
}

/// A list of nodes in topological order with named outputs. It knows names, shapes and types, never bytes.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The graph's name.
    pub name: String,
    nodes: Vec<Node>,
    outputs: Vec<(String, NodeId)>,
    limits: BTreeMap<Symbol, usize>,
    scope: String,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The nodes, operands before users.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Ids in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The named outputs in order.
    pub fn outputs(&self) -> &[(String, NodeId)] {
        &self.outputs
    }

    /// Adds a named output.
    pub fn output(&mut self, name: impl Into<String>, node: NodeId) {
        self.outputs.push((name.into(), node));
    }

    /// The same graph with other outputs.
    pub fn with_outputs(&self, outputs: Vec<(String, NodeId)>) -> Self {
        Self { outputs, ..self.clone() }
    }

    /// The inputs in order, whoever provides them.
    pub fn inputs(&self) -> impl Iterator<Item = (NodeId, &Input)> {
        let input = |id: NodeId| match &self.node(id).op {
            Op::Input(input) => Some((id, input)),
            _ => None,
        };
        self.ids().filter_map(input)
    }

    /// The largest value of each symbolic size that has one; also the value it has where a binding says nothing.
    pub fn limits(&self) -> &BTreeMap<Symbol, usize> {
        &self.limits
    }

    /// Sets the largest value of a symbolic size.
    pub fn set_limit(&mut self, symbol: Symbol, most: usize) {
        self.limits.insert(symbol, most);
    }

    /// A graph of this name and these limits without nodes and outputs.
    pub(crate) fn emptied(&self) -> Self {
        Self { limits: self.limits.clone(), ..Self::new(self.name.clone()) }
    }

    /// The prefix that names of new nodes get, such as `layer.3`.
    pub fn set_scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// Adds a node after inferring its type.
    ///
    /// # Errors
    /// [`GraphError::Operands`] names the op, the operands' types and the caller's line.
    #[track_caller]
    pub fn push(&mut self, op: impl Into<Op>, inputs: &[NodeId]) -> Result<NodeId> {
        let op = op.into();
        let location = Location::caller();
        let types: Vec<&Type> = inputs.iter().map(|i| &self.nodes[i.index()].ty).collect();
        let ty = op.infer(&types).map_err(|problem| {
            Error::Graph(GraphError::Operands {
                op: op.name().into(),
                problem: format!("{problem}; operands are {types:?}"),
                location: format!("{}:{}", location.file(), location.line()),
            })
        })?;
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { op, inputs: inputs.to_vec(), ty, name: String::new() });
        Ok(id)
    }

    /// Names a node by its position in the model, within the current scope.
    pub fn label(&mut self, node: NodeId, name: &str) -> NodeId {
        let separator = if self.scope.is_empty() { "" } else { "." };
        self.nodes[node.index()].name = format!("{}{separator}{name}", self.scope);
        node
    }

    /// Copies a node of another graph (already inferred) with its operands replaced.
    pub(crate) fn copy(&mut self, node: &Node, inputs: Vec<NodeId>) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { inputs, ..node.clone() });
        id
    }

    /// Replaces the op of a node by one that infers the same type: for tests that plant a mistake and for passes.
    pub fn replace_op(&mut self, node: NodeId, op: impl Into<Op>) {
        self.nodes[node.index()].op = op.into();
    }

    /// Replaces operand `index` of `node`.
    pub fn replace_input(&mut self, node: NodeId, index: usize, input: NodeId) {
        self.nodes[node.index()].inputs[index] = input;
    }

    /// How many operands and outputs refer to each node.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.nodes.len()];
        let operands = self.nodes.iter().flat_map(|n| &n.inputs);
        operands.chain(self.outputs.iter().map(|(_, id)| id)).for_each(|id| counts[id.index()] += 1);
        counts
    }

    /// The types of all nodes with every symbol replaced.
    pub fn fixed_types(&self, binding: &DimBinding) -> Result<Vec<FixedType>> {
        self.nodes.iter().map(|n| Ok(FixedType { dtype: n.ty.dtype, shape: n.ty.shape.bind(binding)? })).collect()
    }

    /// The type of a node.
    pub fn ty(&self, id: NodeId) -> &Type {
        &self.nodes[id.index()].ty
    }

    /// The shape of a node.
    pub fn shape(&self, id: NodeId) -> &Shape {
        &self.nodes[id.index()].ty.shape
    }

    /// Checks the rules of the IR: operands come first, types are what the ops infer, outputs exist and are named once.
    pub fn verify(&self) -> Result<()> {
        let broken = |problem: String| Err(Error::Graph(GraphError::Malformed { graph: self.name.clone(), problem }));
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some(late) = node.inputs.iter().find(|i| i.index() >= index) {
                return broken(format!("%{index} ({}) uses {late}, which comes later", node.op.name()));
            }
            let types: Vec<&Type> = node.inputs.iter().map(|i| self.ty(*i)).collect();
            match node.op.infer(&types) {
                Ok(ty) if ty == node.ty => {}
                Ok(ty) => return broken(format!("%{index} ({}) says {}, its operands give {ty}", node.op.name(), node.ty)),
                Err(problem) => return broken(format!("%{index} ({}): {problem}", node.op.name())),
            }
        }
        for (i, (name, id)) in self.outputs.iter().enumerate() {
            if id.index() >= self.nodes.len() {
                return broken(format!("output '{name}' is {id}, which does not exist"));
            }
            if self.outputs[..i].iter().any(|(other, _)| other == name) {
                return broken(format!("two outputs are called '{name}'"));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {}", self.name)?;
        for (symbol, most) in &self.limits {
            writeln!(f, "  {} <= {most}", symbol.0)?;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let inputs: Vec<String> = node.inputs.iter().map(NodeId::to_string).collect();
            let name = if node.name.is_empty() { String::new() } else { format!("  ; {}", node.name) };
            writeln!(f, "  %{index} = {}({}){} : {}{name}", node.op.name(), inputs.join(", "), node.op.attributes(), node.ty)?;
        }
        for (name, id) in &self.outputs {
            writeln!(f, "  output {name} = {id}")?;
        }
        Ok(())
    }
}

/// As [`expect_dtype`], for a matrix whose rows a kernel widens: any type of weights.
pub(crate) fn expect_weight(what: &str, ty: &Type) -> Result<(), String> {
    let stored = matches!(ty.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::Packed(_));
    if stored { Ok(()) } else { Err(format!("{what} is {}, expected f32, f16, bf16 or a packed format", ty.dtype)) }
}

/// Shorthand for checks in `infer`.
pub(crate) fn expect_dtype(what: &str, ty: &Type, allowed: &[DType]) -> Result<(), String> {
    let names: Vec<&str> = allowed.iter().map(|d| d.name()).collect();
    if allowed.contains(&ty.dtype) { Ok(()) } else { Err(format!("{what} is {}, expected {}", ty.dtype, names.join(" or "))) }
}
