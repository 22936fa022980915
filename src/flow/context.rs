//! The context that stages emit into: graph, weights, shared values, inputs.

mod inputs;

use std::{collections::BTreeMap, sync::Arc};

use super::Adapter;
use crate::{
    Error, Result,
    error::{CallbackError, WeightError},
    ir::{
        DType, Dim, Graph, NodeId, Shape,
        ops::{Cast, ExpertLinear, Gather, PositionRule},
    },
    weights::{Tensor, WeightLoader},
};

/// The weights of a built graph by their names in it: handles, no bytes.
pub type ModelParams = BTreeMap<String, Tensor>;

/// Where attention finds the keys and values of earlier tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum KvSource {
    /// There are none: the run holds the whole sequence.
    None,
    /// The caller holds them and gives `past_k_{i}`, `past_v_{i}` `[B, past, K·H]` with every run.
    Caller {
        /// Rows of the caller's cache.
        past: Dim,
        /// True if the caller also gives `mask` `[B, past + T]`, whose entries below 0.5 drop a key.
        mask: bool,
    },
    /// In caches that live beside the weights and are written in place: linear for full layers, a ring for sliding
    /// ones.
    Resident {
        /// The element type of keys and values in the caches.
        dtype: DType,
    },
}

/// A product with a weight, as an adapter sees it.
#[derive(Debug, Clone)]
pub struct Projection<'a> {
    /// The weight's name in the graph, such as `layer.3.query`. A tied LM head is called as the embedding is, `embed`;
    /// the kinds differ.
    pub name: &'a str,
    /// The operand, `[…, K]`; of rows of a table the token ids.
    pub input: NodeId,
    /// The product, `[…, N]`.
    pub output: NodeId,
    /// How the weight is multiplied.
    pub kind: ProjectionKind,
}

/// How a weight is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProjectionKind {
    /// `W · x` with a weight `[N, K]`.
    Matrix,
    /// The rows of a weight `[V, N]` that token ids `[B, T]` u32 name.
    Rows {
        /// True if an id past the last row takes the first; otherwise there is none such.
        or_first: bool,
    },
    /// `Wₑ · x` with the matrices `[N, K]` that a route chooses of a stack `[E·N, K]`: x is `[B, T, 1 or k, K]`, the
    /// product `[B, T, k, N]`.
    Experts {
        /// E.
        count: usize,
        /// Which k experts each token takes, and how much of each: `[B, T, 2, k]`, as [`Route`](crate::ir::ops::Route)
        /// gives them.
        route: NodeId,
    },
}

/// The graph being built, the weights it may name, and values that stages share.
pub struct EmitContext<'a> {
    /// The graph.
    pub graph: &'a mut Graph,
    /// Batch size B.
    pub batch: usize,
    /// New tokens T.
    pub seq: Dim,
    /// Keys and values of earlier tokens.
    pub kv: KvSource,
    /// How the positions of the new tokens follow from what the caller gives.
    pub positions: PositionRule,
    loader: &'a mut dyn WeightLoader,
    params: ModelParams,
    /// The loader's key of each weight; none for weights that stages brought.
    keys: BTreeMap<String, String>,
    shared: BTreeMap<String, NodeId>,
    scope: Vec<String>,
    adapters: Vec<Arc<Adapter>>,
    outputs: Vec<(String, NodeId)>,
    side_outputs: Vec<(String, NodeId)>,
}

impl<'a> EmitContext<'a> {
    /// A context over an empty graph; the sequences begin at position 0 and have no past.
    pub fn new(graph: &'a mut Graph, loader: &'a mut dyn WeightLoader, batch: usize, seq: impl Into<Dim>) -> Self {
        Self {
            graph,
            batch,
            seq: seq.into(),
            kv: KvSource::None,
            positions: PositionRule::From(0),
            loader,
            params: ModelParams::new(),
            keys: BTreeMap::new(),
            shared: BTreeMap::new(),
            scope: Vec::new(),
            adapters: Vec::new(),
            outputs: Vec::new(),
            side_outputs: Vec::new(),
        }
    }

    /// Runs `f` with `name` added to the labels of the nodes it makes.
    pub fn scoped<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(name.to_string());
        self.graph.set_scope(self.scope.join("."));
        let value = f(self);
        self.scope.pop();
        self.graph.set_scope(self.scope.join("."));
        value
    }

    /// Runs `f`; every product with a weight that it makes goes through `adapter`.
    pub fn adapted<T>(&mut self, adapter: &Arc<Adapter>, f: impl FnOnce(&mut Self) -> T) -> T {
        self.adapters.push(adapter.clone());
        let value = f(self);
        self.adapters.pop();
        value
    }

    /// The shape of the weight `key` in the loader; its bytes are not read. `None` once it was taken, or where it is
    /// missing.
    pub fn weight_shape(&self, key: &str) -> Option<Vec<usize>> {
        self.loader.peek(key).ok().map(|info| info.shape.to_vec())
    }

    /// The keys of the loader that begin with `prefix` and were not taken, in ascending order.
    #[cfg(feature = "vision")]
    pub(crate) fn keys_left(&self, prefix: &str) -> Vec<String> {
        self.loader.remaining_keys().into_iter().filter(|key| key.starts_with(prefix)).collect()
    }

    /// Takes the weight `key` out of the loader, for a stage that makes another one of it.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub(crate) fn take(&mut self, key: &str, shape: &[usize]) -> Result<Tensor> {
        let found = self.loader.peek(key)?.shape;
        if found != shape {
            let error = WeightError::Shape { name: key.into(), found: found.to_vec(), expected: shape.to_vec() };
            return Err(Error::Weight(error));
        }
        self.loader.take(key)
    }

    /// The weight called `name` in the graph and `key` in the loader, which must have `shape`. Its bytes are not read.
    ///
    /// # Errors
    /// [`WeightError::Missing`], [`WeightError::Shape`], [`WeightError::Type`]; [`Error::Builder`] where the name is
    /// another weight's.
    pub fn weight(&mut self, name: &str, key: &str, shape: &[usize]) -> Result<NodeId> {
        self.take_weight(name, key, shape, shape)?;
        self.graph.weight(name, self.params[name].dtype(), shape)
    }

    /// As [`weight`](Self::weight), for a weight that no node of the graph is: it is among the model's and stays on the
    /// host.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub(crate) fn host_weight(&mut self, name: &str, key: &str, shape: &[usize]) -> Result<()> {
        self.take_weight(name, key, shape, shape)
    }

    /// Takes a weight of `stored` dimensions in the loader and `shape` in the model: those, or others of as many elements
    /// in the same order.
    fn take_weight(&mut self, name: &str, key: &str, stored: &[usize], shape: &[usize]) -> Result<()> {
        let misshapen = |found: &[usize]| {
            Error::Weight(WeightError::Shape { name: key.into(), found: found.to_vec(), expected: stored.to_vec() })
        };
        match self.params.get(name) {
            Some(_) if self.keys.get(name).is_none_or(|known| known != key) => {
                return Err(Error::Builder(format!("two weights are called '{name}'; '{key}' needs another name")));
            }
            Some(known) if known.shape() != shape => return Err(misshapen(known.shape())),
            Some(_) => {}
            None => {
                let info = self.loader.peek(key)?;
                if info.shape != stored {
                    return Err(misshapen(info.shape));
                }
                let tensor = self.loader.take(key)?;
                let tensor = if stored == shape { tensor } else { tensor.with_shape(shape) };
                self.params.insert(name.to_string(), tensor);
                self.keys.insert(name.to_string(), key.to_string());
            }
        }
        Ok(())
    }

    /// The weight called `name` in the graph and `key` in the loader, a stack of matrices `[E, N, K]` that the graph
    /// has as one, `[E·N, K]`. Its bytes are not read.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub fn stacked_weight(&mut self, name: &str, key: &str, shape: [usize; 3]) -> Result<NodeId> {
        self.reshaped_weight(name, key, &shape, &[shape[0] * shape[1], shape[2]])
    }

    /// The weight called `name` in the graph and `key` in the loader, an array of `shape` that the graph has as a matrix
    /// of its first dimension. Its bytes are not read.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub fn flattened_weight(&mut self, name: &str, key: &str, shape: &[usize]) -> Result<NodeId> {
        let rows = shape.first().copied().unwrap_or(1);
        self.reshaped_weight(name, key, shape, &[rows, shape.iter().product::<usize>() / rows.max(1)])
    }

    /// The weight called `name` in the graph and `key` in the loader, an array of `stored` dimensions that the graph has
    /// in those of `shape`, as many elements in the same order. Its bytes are not read.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub(crate) fn reshaped_weight(&mut self, name: &str, key: &str, stored: &[usize], shape: &[usize]) -> Result<NodeId> {
        self.take_weight(name, key, stored, shape)?;
        self.graph.weight(name, self.params[name].dtype(), shape)
    }

    /// The weight called `name` in the graph and `key` in the loader, one number, stored with a dimension or without.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub fn scalar_weight(&mut self, name: &str, key: &str) -> Result<NodeId> {
        let has_dimension = self.weight_shape(key).is_some_and(|shape| shape == [1]);
        let stored: &[usize] = if has_dimension { &[1] } else { &[] };
        self.take_weight(name, key, stored, &[1])?;
        let weight = self.graph.weight(name, self.params[name].dtype(), &[1])?;
        self.graph.push(Cast, &[weight])
    }

    /// The weight called `name` in the graph, a matrix of `shape` that the loader has as its transpose, as `key`. Its
    /// bytes are not read.
    ///
    /// # Errors
    /// As [`weight`](Self::weight); [`Error::Input`] for a packed one.
    pub fn transposed_weight(&mut self, name: &str, key: &str, shape: [usize; 2]) -> Result<NodeId> {
        let [rows, columns] = shape;
        if !self.params.contains_key(name) {
            let found = self.loader.peek(key)?.shape;
            if found != [columns, rows] {
                let error = WeightError::Shape { name: key.into(), found: found.to_vec(), expected: vec![columns, rows] };
                return Err(Error::Weight(error));
            }
            self.params.insert(name.to_string(), self.loader.take_transposed(key)?);
            self.keys.insert(name.to_string(), key.to_string());
        }
        self.graph.weight(name, self.params[name].dtype(), &shape)
    }

    /// Adds a weight that is not in the checkpoint, such as an adapter's.
    ///
    /// # Errors
    /// [`Error::Builder`] when the name is taken.
    pub fn own_weight(&mut self, name: &str, tensor: Tensor) -> Result<NodeId> {
        if self.params.contains_key(name) {
            return Err(Error::Builder(format!("two weights are called '{name}'")));
        }
        let node = self.graph.weight(name, tensor.dtype(), tensor.shape())?;
        self.params.insert(name.to_string(), tensor);
        Ok(node)
    }

    /// `W · x` with the weight called `name` in the graph and `key` in the loader, `[out, last dimension of x]`,
    /// through the adapters in effect.
    ///
    /// # Errors
    /// As [`weight`](Self::weight); what an adapter says, as [`CallbackError::Stage`].
    pub fn project(&mut self, x: NodeId, name: &str, key: &str, out: usize) -> Result<NodeId> {
        let weight = self.weight(name, key, &[out, self.width(x)?])?;
        let y = self.graph.linear(x, weight)?;
        self.graph.label(y, name.rsplit('.').next().unwrap_or(name));
        self.through_adapters(Projection { name, input: x, output: y, kind: ProjectionKind::Matrix })
    }

    /// The rows `[B, T, width]` that `ids` `[B, T]` name of the weight called `name` in the graph and `key` in the
    /// loader, `[rows, width]`, through the adapters in effect. An id past the last row takes the first where
    /// `or_first`.
    ///
    /// # Errors
    /// As [`project`](Self::project).
    pub fn look_up(&mut self, ids: NodeId, name: &str, key: &str, shape: [usize; 2], or_first: bool) -> Result<NodeId> {
        let table = self.weight(name, key, &shape)?;
        let output = self.graph.push(Gather { per_batch: false, or_first, first: 0 }, &[table, ids])?;
        self.through_adapters(Projection { name, input: ids, output, kind: ProjectionKind::Rows { or_first } })
    }

    /// The products `[B, T, k, out]` of `x` `[B, T, 1 or k, K]` with the matrices that `route` `[B, T, 2, k]` chooses,
    /// through the adapters in effect. The matrices are those of the stack `[experts, out, K]` called `name` in the
    /// graph and `key` in the loader.
    ///
    /// # Errors
    /// As [`project`](Self::project).
    pub fn project_experts(
        &mut self,
        [x, route]: [NodeId; 2],
        name: &str,
        key: &str,
        [count, out]: [usize; 2],
    ) -> Result<NodeId> {
        let weight = self.stacked_weight(name, key, [count, out, self.width(x)?])?;
        let output = self.graph.push(ExpertLinear { experts: count }, &[x, weight, route])?;
        self.graph.label(output, name.rsplit('.').next().unwrap_or(name));
        self.through_adapters(Projection { name, input: x, output, kind: ProjectionKind::Experts { count, route } })
    }

    /// A product after the adapters in effect, those around the whole model first.
    pub(crate) fn through_adapters(&mut self, projection: Projection) -> Result<NodeId> {
        // An adapter's own products are not adapted again.
        let adapters = std::mem::take(&mut self.adapters);
        let mut projection = projection;
        for adapter in &adapters {
            let stage = || format!("adapter of {}", projection.name);
            let output =
                adapter(self, &projection).map_err(|source| Error::Callback(CallbackError::Stage { stage: stage(), source }))?;
            projection.output = output;
        }
        self.adapters = adapters;
        Ok(projection.output)
    }

    /// The weight called `name` in the graph, once a stage has taken it: a handle to its bytes.
    pub fn taken_weight(&self, name: &str) -> Option<&Tensor> {
        self.params.get(name)
    }

    /// The innermost size of a value.
    ///
    /// # Errors
    /// [`Error::Builder`] where it is a symbol.
    pub fn width(&self, x: NodeId) -> Result<usize> {
        let last = self.graph.shape(x).last().and_then(Dim::fixed);
        last.ok_or_else(|| Error::Builder(format!("the innermost size of {} must be a number", self.graph.ty(x))))
    }

    /// The value that all stages know as `name`, made by `make` the first time.
    ///
    /// # Errors
    /// Errors of `make`.
    pub fn shared(&mut self, name: &str, make: impl FnOnce(&mut Self) -> Result<NodeId>) -> Result<NodeId> {
        match self.shared.get(name) {
            Some(node) => Ok(*node),
            None => {
                let node = make(self)?;
                self.shared.insert(name.to_string(), node);
                Ok(node)
            }
        }
    }

    /// Lets later stages find `node` as `name`.
    pub fn share(&mut self, name: impl Into<String>, node: NodeId) {
        self.shared.insert(name.into(), node);
    }

    /// The value that an earlier stage shared as `name`.
    pub fn find_shared(&self, name: &str) -> Option<NodeId> {
        self.shared.get(name).copied()
    }

    /// `[B, T, …rest]`.
    pub fn shape(&self, rest: &[usize]) -> Shape {
        Shape([self.batch.into(), self.seq].into_iter().chain(rest.iter().map(|&n| n.into())).collect())
    }

    /// Adds a named output of the graph beside the model's own; they come after it, in the order in which they were
    /// added.
    pub fn side_output(&mut self, name: impl Into<String>, node: NodeId) {
        self.side_outputs.push((name.into(), node));
    }

    /// Adds one of the model's own outputs.
    pub fn output(&mut self, name: impl Into<String>, node: NodeId) {
        self.outputs.push((name.into(), node));
    }

    /// Ends the context: names the graph's outputs and hands over the weights that were named.
    pub fn finish(self) -> ModelParams {
        let outputs = self.outputs.into_iter().chain(self.side_outputs);
        outputs.for_each(|(name, node)| self.graph.output(name, node));
        self.params
    }
}
