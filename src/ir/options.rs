//! How a graph is lowered, as plain data: a compile profile for one device comes down to these options.

use super::{Graph, Node, Op};

/// The numbers that products of weights, and attention by matrices, are computed with. Sums are f32 in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compute {
    /// As `F16` where a product or an attention goes through cooperative matrices, else as `F32`: those of many rows on
    /// a device that multiplies tiles of f16 and sums them in f32, and no step of several sequences.
    Auto,
    /// Both operands as f32.
    #[default]
    F32,
    /// Both operands rounded to f16, within ±65504, or with rows scaled to lie there; needs WGSL's `f16`.
    F16,
}

impl Compute {
    /// The word used in profiles, and but for `auto` as a shader's option.
    pub const fn name(self) -> &'static str {
        match self {
            Compute::Auto => "auto",
            Compute::F32 => "f32",
            Compute::F16 => "f16",
        }
    }
}

/// Choices of lowering. They change how a graph is computed, never what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerOptions {
    /// True if ops may share a dispatch.
    pub fuse: bool,
    /// Nodes that share no dispatch: the last part of a label (`geglu`), a whole label (`layer.3.geglu`) or an op's
    /// name.
    pub unfused: Vec<String>,
    /// True if elementwise arithmetic in a dispatch of its own is an error.
    pub assert_clean: bool,
    /// True if nodes that no output needs are dropped.
    pub dce: bool,
    /// True if arithmetic on constants is done while lowering.
    pub constant_folding: bool,
    /// True if the report holds the graph as text after each pass.
    pub verbose: bool,
    /// The numbers that products and attention are computed with.
    pub compute: Compute,
    /// True if the products that suffer most from f16 stay f32 ([`keeps_f32`](Self::keeps_f32)), and all of them on a
    /// device without f16. Otherwise such a device is an error with [`Compute::F16`].
    pub mixed: bool,
    /// True if attention stays f32 with [`mixed`](Self::mixed), as in a graph with experts
    /// ([`for_graph`](Self::for_graph)).
    pub exact_attention: bool,
    /// The output that a token is chosen from: where its kernel can, it keeps the largest of each slice as a further
    /// output of the plan ([`sampling::maxima_of`](crate::plan::sampling::maxima_of)).
    pub chosen_from: Option<String>,
    /// True if each new token is of a sequence of its own, whose caches lie apart from those of the others: one plan
    /// for a step of several sequences. The graph is one with resident caches, bound to as many new tokens as there are
    /// sequences. Ops that read or write caches are dispatched for each sequence, all others for all of them.
    pub batched: bool,
}

impl Default for LowerOptions {
    fn default() -> Self {
        let unfused = Vec::new();
        let compute = Compute::F32;
        Self {
            fuse: true,
            unfused,
            assert_clean: false,
            dce: true,
            constant_folding: true,
            verbose: false,
            compute,
            mixed: true,
            exact_attention: false,
            chosen_from: None,
            batched: false,
        }
    }
}

impl LowerOptions {
    /// Returns `true` if the node is computed on its own.
    pub fn is_unfused(&self, node: &Node) -> bool {
        !self.fuse || self.unfused.iter().any(|name| names(name, node))
    }

    /// The entries of [`unfused`](Self::unfused) that name none of `nodes`.
    pub fn unmatched<'a>(&'a self, nodes: &[Node]) -> Vec<&'a str> {
        let matches = |name: &&String| !nodes.iter().any(|node| names(name, node));
        self.unfused.iter().filter(matches).map(String::as_str).collect()
    }

    /// The same for `graph`, and for parts of it: where routers choose experts, a score that is off can choose another
    /// one.
    #[must_use]
    pub fn for_graph(self, graph: &Graph) -> Self {
        let routes = graph.nodes().iter().any(|node| matches!(node.op, Op::Route(_)));
        Self { exact_attention: self.exact_attention || routes, ..self }
    }

    /// The numbers that attention is computed with.
    pub fn compute_of_attention(&self) -> Compute {
        if self.mixed && self.exact_attention { Compute::F32 } else { self.compute }
    }

    /// The numbers that the product with the weight called `weight` is computed with.
    pub fn compute_of(&self, weight: &str) -> Compute {
        if self.mixed && Self::keeps_f32(weight) { Compute::F32 } else { self.compute }
    }

    /// Returns `true` if a product stays f32 with [`mixed`](Self::mixed). One such is the projection out of the FFW or
    /// of an expert: its operand is a product of two activations and the largest of a Gemma layer. The others are the
    /// LM head and routers, whose results are compared with each other.
    pub fn keeps_f32(weight: &str) -> bool {
        matches!(weight.rsplit('.').next(), Some("ffw_down" | "expert_down" | "unembed" | "embed" | "router" | "altup_router"))
    }
}

fn names(name: &str, node: &Node) -> bool {
    node.name == name || node.op.name() == name || node.name.rsplit('.').next() == Some(name)
}
