//! Shorthands for building graphs.

use super::{
    BinaryFn, DType, Graph, NodeId, Type, UnaryFn,
    ops::{
        Binary, Broadcast, Const, Gain, Gather, Input, LayerNorm, Linear, Reduce, ReduceFn, Reshape, RmsNorm, Role, Unary, Weight,
    },
};
use crate::{Result, ir::Shape};

impl Graph {
    /// An input, by name.
    #[track_caller]
    pub fn input(&mut self, name: impl Into<String>, role: Role, dtype: DType, shape: impl Into<Shape>) -> Result<NodeId> {
        let name = name.into();
        let id = self.push(Input { name: name.clone(), role, ty: Type::new(dtype, shape) }, &[])?;
        Ok(self.label(id, &name))
    }

    /// A weight by its key; the same key gives the same node.
    #[track_caller]
    pub fn weight(&mut self, name: impl Into<String>, dtype: DType, shape: &[usize]) -> Result<NodeId> {
        let op = super::Op::from(Weight { name: name.into(), ty: Type::new(dtype, shape) });
        match self.ids().find(|id| self.node(*id).op == op) {
            Some(id) => Ok(id),
            None => self.push(op, &[]),
        }
    }

    /// A scalar.
    #[track_caller]
    pub fn constant(&mut self, value: f32) -> Result<NodeId> {
        self.push(Const { value }, &[])
    }

    /// `f(a, b)`; the operand of lower rank, or with dimensions of 1, is broadcast to the other.
    #[track_caller]
    pub fn binary(&mut self, f: BinaryFn, a: NodeId, b: NodeId) -> Result<NodeId> {
        let mut a = a;
        let mut b = b;
        if self.shape(a) != self.shape(b) {
            let spreads = |from: &Shape, to: &Shape| {
                let mut pairs = from.0.iter().rev().zip(to.0.iter().rev());
                from.rank() <= to.rank() && pairs.all(|(x, y)| x == y || x.fixed() == Some(1))
            };
            if spreads(self.shape(b), self.shape(a)) {
                b = self.push(Broadcast { shape: self.shape(a).clone() }, &[b])?;
            } else if spreads(self.shape(a), self.shape(b)) {
                a = self.push(Broadcast { shape: self.shape(b).clone() }, &[a])?;
            }
        }
        self.push(Binary { f }, &[a, b])
    }

    /// `a + b`.
    #[track_caller]
    pub fn add(&mut self, a: NodeId, b: NodeId) -> Result<NodeId> {
        self.binary(BinaryFn::Add, a, b)
    }

    /// `a · b`.
    #[track_caller]
    pub fn mul(&mut self, a: NodeId, b: NodeId) -> Result<NodeId> {
        self.binary(BinaryFn::Mul, a, b)
    }

    /// `factor · x`.
    #[track_caller]
    pub fn scale(&mut self, x: NodeId, factor: f32) -> Result<NodeId> {
        let factor = self.constant(factor)?;
        self.mul(x, factor)
    }

    /// The mean over the innermost dimension, which stays as one element.
    #[track_caller]
    pub fn mean(&mut self, x: NodeId) -> Result<NodeId> {
        let columns = self.shape(x).last().and_then(|dim| dim.fixed()).unwrap_or(1);
        let sum = self.push(Reduce { f: ReduceFn::Sum }, &[x])?;
        self.scale(sum, 1.0 / columns as f32)
    }

    /// The tanh form of GELU.
    #[track_caller]
    pub fn gelu(&mut self, x: NodeId) -> Result<NodeId> {
        self.push(Unary { f: UnaryFn::GeluTanh }, &[x])
    }

    /// `x · Wᵀ` with a weight `[N, K]`.
    #[track_caller]
    pub fn linear(&mut self, x: NodeId, weight: NodeId) -> Result<NodeId> {
        self.push(Linear, &[x, weight])
    }

    /// RMSNorm with a stored gain.
    #[track_caller]
    pub fn rms_norm(&mut self, x: NodeId, weight: NodeId, eps: f32, gain: Gain) -> Result<NodeId> {
        self.push(RmsNorm { eps, gain }, &[x, weight])
    }

    /// LayerNorm with a stored gain and bias.
    #[track_caller]
    pub fn layer_norm(&mut self, x: NodeId, weight: NodeId, bias: NodeId, eps: f32) -> Result<NodeId> {
        self.push(LayerNorm { eps, bias: true }, &[x, weight, bias])
    }

    /// The same elements under other dimensions.
    #[track_caller]
    pub fn reshape(&mut self, x: NodeId, shape: impl Into<Shape>) -> Result<NodeId> {
        self.push(Reshape { shape: shape.into() }, &[x])
    }

    /// Rows of a table.
    #[track_caller]
    pub fn gather(&mut self, table: NodeId, ids: NodeId) -> Result<NodeId> {
        self.push(Gather { per_batch: false, or_first: false, first: 0 }, &[table, ids])
    }
}
