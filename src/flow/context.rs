//! What a stage works with.

use std::collections::BTreeMap;

use crate::{
    Error, Result,
    ir::{Dim, Graph, NodeId},
    weights::{Tensor, WeightLoader},
};

/// The weights of a built graph by their names in it: handles, no bytes.
pub type ModelParams = BTreeMap<String, Tensor>;

/// The graph being built, the weights it may name, and values that stages share.
pub struct EmitContext<'a> {
    /// The graph.
    pub graph: &'a mut Graph,
    /// Batch size B.
    pub batch: usize,
    /// New tokens T.
    pub seq: Dim,
    loader: &'a mut dyn WeightLoader,
    params: ModelParams,
    shared: BTreeMap<String, NodeId>,
    scope: Vec<String>,
}

impl<'a> EmitContext<'a> {
    /// A context over an empty graph.
    pub fn new(graph: &'a mut Graph, loader: &'a mut dyn WeightLoader, batch: usize, seq: impl Into<Dim>) -> Self {
        let (params, shared) = (ModelParams::new(), BTreeMap::new());
        Self { graph, batch, seq: seq.into(), loader, params, shared, scope: Vec::new() }
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

    /// The weight called `name` in the graph and `key` in the loader, which must have `shape`. Its bytes are not read.
    ///
    /// # Errors
    /// [`Error::MissingWeight`], [`Error::WeightShape`], [`Error::WeightType`].
    pub fn weight(&mut self, name: &str, key: &str, shape: &[usize]) -> Result<NodeId> {
        if !self.params.contains_key(name) {
            let info = self.loader.peek(key)?;
            if info.shape != shape {
                let (found, expected) = (info.shape.to_vec(), shape.to_vec());
                return Err(Error::WeightShape { name: key.into(), found, expected });
            }
            let tensor = self.loader.take(key)?;
            self.params.insert(name.to_string(), tensor);
        }
        self.graph.weight(name, self.params[name].dtype(), shape)
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

    /// The value that all stages know as `name`, made by `make` the first time.
    ///
    /// # Errors
    /// What `make` says.
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

    /// Adds a named output of the graph beside the model's own.
    pub fn side_output(&mut self, name: impl Into<String>, node: NodeId) {
        self.graph.output(name, node);
    }

    /// Ends the context and hands over the weights that were named.
    pub fn into_params(self) -> ModelParams {
        self.params
    }
}
