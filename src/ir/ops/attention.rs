//! Grouped-query attention over keys with positions.

use super::{
    Broadcast, Cast, Lowering, MatMul, OpDef, Permute, Reshape, Select, Slice, Softmax, Unary, attend::attend, attention_kernels,
};
use crate::{
    Result,
    ir::{
        BinaryFn, Case, DType, Data, FixedType, Graph, NodeId, Shape, Type, UnaryFn, Value,
        emit::Emit,
        expect_dtype,
        tolerance::{Scale, Tolerance},
    },
};

/// The position of a cache row that holds nothing: no query sees it.
pub const DEAD_KEY: i32 = i32::MAX;

/// The score of a key that is not visible: large and finite, as fast mathematics knows no infinity.
const MASKED: f32 = -1e30;

/// `softmax(mask(cap(scale · q·kᵀ))) · v` per head; query head n uses KV head n / G (docs/gemma.md, Attention).
///
/// Operands: q `[B, T, N, H]` f32, k and v `[B, S, K, H]` f32 or both f16, the first and the last position that each
/// query sees `[B, T, 2]` i32, and key positions `[B, S]` i32. With `keep` also a mask `[B, S]` f32 whose entries below
/// 0.5 drop the key. Result `[B, T, N, H]`.
///
/// Masks are data: a query sees the keys between two positions, never rows of a buffer. So one kernel serves causal and
/// sliding layers, those that look both ways, and tokens that see each other within a causal sequence; a ring, a padded
/// batch and a bucket with a gap are the same to it. [`MaskKind::visible`](crate::ir::MaskKind::visible) gives the
/// positions of the usual rules. A key at [`DEAD_KEY`] is never visible. A query that sees no key gives zeros.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Multiplies the scores.
    pub scale: f32,
    /// `cap · tanh(score / cap)` after the scale and before the mask.
    pub softcap: Option<f32>,
    /// True if there is a keep-mask operand; a key must be visible and kept.
    pub keep: bool,
}

impl Attention {
    pub(super) fn example() -> Self {
        Self { scale: 1.0, softcap: None, keep: false }
    }

    /// 1 where a query sees a key, else 0, `[B, 1, 1, T, S]` broadcast to `shape`.
    fn visible(&self, g: &mut Graph, inputs: &[NodeId], shape: &Shape) -> Result<NodeId> {
        let batch = shape.0[0];
        let new = shape.0[3];
        let cached = shape.0[4];
        let one_by = |rows, columns| Shape(vec![batch, 1.into(), 1.into(), rows, columns]);
        let spread = |g: &mut Graph, node, from: Shape| -> Result<NodeId> {
            let wide = g.push(Cast, &[node])?;
            let placed = g.push(Reshape { shape: from }, &[wide])?;
            g.push(Broadcast { shape: shape.clone() }, &[placed])
        };
        let bound = |g: &mut Graph, start| -> Result<NodeId> {
            let bound = g.push(Slice { axis: 2, start, len: 1.into() }, &[inputs[3]])?;
            spread(g, bound, one_by(new, 1.into()))
        };
        let first = bound(g, 0)?;
        let last = bound(g, 1)?;
        let key = spread(g, inputs[4], one_by(1.into(), cached))?;
        let dead = g.constant(DEAD_KEY as f32)?;
        let mut visible = g.binary(BinaryFn::Less, key, dead)?;
        let before = g.constant(-0.5)?;
        for (from, to) in [(key, first), (last, key)] {
            let distance = g.binary(BinaryFn::Sub, from, to)?;
            let within = g.binary(BinaryFn::Less, before, distance)?;
            visible = g.binary(BinaryFn::Mul, visible, within)?;
        }
        if self.keep {
            let keep = spread(g, inputs[5], one_by(1.into(), cached))?;
            let half = g.constant(0.5)?;
            let dropped = g.binary(BinaryFn::Less, keep, half)?;
            let one = g.constant(1.0)?;
            let kept = g.binary(BinaryFn::Sub, one, dropped)?;
            visible = g.binary(BinaryFn::Mul, visible, kept)?;
        }
        Ok(visible)
    }

    fn definition(&self, g: &mut Graph, inputs: &[NodeId]) -> Result<NodeId> {
        let q_shape = g.shape(inputs[0]).clone();
        let k_shape = g.shape(inputs[1]).clone();
        let fixed = |s: &Shape, i: usize| s.0[i].fixed().unwrap_or(1);
        let heads = fixed(&q_shape, 2);
        let kv_heads = fixed(&k_shape, 2);
        let head_dim = fixed(&q_shape, 3);
        let group = heads / kv_heads.max(1);
        let batch = q_shape.0[0];
        let new = q_shape.0[1];
        let cached = k_shape.0[1];
        let dims = |rest: [crate::ir::Dim; 2]| Shape(vec![batch, kv_heads.into(), group.into(), rest[0], rest[1]]);

        let grouped = Shape(vec![batch, new, kv_heads.into(), group.into(), head_dim.into()]);
        let q = g.push(Reshape { shape: grouped.clone() }, &[inputs[0]])?;
        let q = g.push(Permute { order: vec![0, 2, 3, 1, 4] }, &[q])?;
        let per_head = |g: &mut Graph, node, order: Vec<usize>, shape: Shape| -> Result<NodeId> {
            let node = if g.ty(node).dtype == DType::F32 { node } else { g.push(Cast, &[node])? };
            let one = Shape(vec![batch, cached, kv_heads.into(), 1.into(), head_dim.into()]);
            let x = g.push(Reshape { shape: one }, &[node])?;
            let x = g.push(Permute { order }, &[x])?;
            g.push(Broadcast { shape }, &[x])
        };
        let k = per_head(g, inputs[1], vec![0, 2, 3, 4, 1], dims([head_dim.into(), cached]))?;
        let v = per_head(g, inputs[2], vec![0, 2, 3, 1, 4], dims([cached, head_dim.into()]))?;

        let scores = g.push(MatMul, &[q, k])?;
        let mut scores = g.scale(scores, self.scale)?;
        if let Some(cap) = self.softcap {
            scores = g.softcap(scores, cap)?;
        }
        let shape = g.shape(scores).clone();
        let visible = self.visible(g, inputs, &shape)?;
        let masked = g.constant(MASKED)?;
        let masked = g.push(Broadcast { shape }, &[masked])?;
        let scores = g.push(Select, &[visible, scores, masked])?;
        let weights = g.push(Softmax, &[scores])?;
        let weights = g.binary(BinaryFn::Mul, weights, visible)?;
        let mixed = g.push(MatMul, &[weights, v])?;
        let out = g.push(Permute { order: vec![0, 3, 1, 2, 4] }, &[mixed])?;
        g.push(Reshape { shape: q_shape }, &[out])
    }
}

impl OpDef for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn attributes(&self) -> String {
        let cap = self.softcap.map(|c| format!(", softcap={c}")).unwrap_or_default();
        let keep = if self.keep { ", keep" } else { "" };
        format!("{{scale={}{cap}{keep}}}", self.scale)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let operands = 5 + usize::from(self.keep);
        if inputs.len() != operands {
            return Err(format!("{} operands, expected {operands}", inputs.len()));
        }
        let [q, k, v, visible, key] = [inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]];
        expect_dtype("q", q, &[DType::F32])?;
        expect_dtype("k", k, &[DType::F32, DType::F16])?;
        expect_dtype("visible positions", visible, &[DType::I32])?;
        expect_dtype("key positions", key, &[DType::I32])?;
        let rank = q.shape.rank() == 4 && k.shape.rank() == 4 && k == v;
        if !rank || q.shape.0[0] != k.shape.0[0] || q.shape.0[3] != k.shape.0[3] {
            return Err("expected q [B, T, N, H] and equal k and v [B, S, K, H]".into());
        }
        let bounds = [q.shape.0[0], q.shape.0[1], 2.into()];
        if visible.shape.0[..] != bounds || key.shape.0[..] != k.shape.0[..2] {
            return Err("expected visible positions [B, T, 2] and key positions [B, S]".into());
        }
        match (q.shape.0[2].fixed(), k.shape.0[2].fixed()) {
            (Some(heads), Some(kv_heads)) if kv_heads > 0 && heads % kv_heads == 0 => Ok(q.clone()),
            _ => Err("query heads must be a multiple of KV heads".into()),
        }
    }

    fn decompose(&self, graph: &mut Graph, inputs: &[NodeId]) -> Option<Result<NodeId>> {
        Some(self.definition(graph, inputs))
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        attend(self, inputs, output)
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        attention_kernels::emit(self, emit)
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        // Keys and values of 16 bits are the same numbers for both sides. Weights are off by the error of a score,
        // √H·ε·|q||k|, and their mean of v is off by as much of the largest v.
        Tolerance::new(16.0 * Tolerance::of_sum(case.width()), Scale::Largest(2), 0.0)
    }

    fn half_tolerance(&self, case: &Case) -> Tolerance {
        // Each term of a score is off by 2⁻¹⁰ of itself at most, a score by 2⁻¹⁰/√H of Σ|terms|; a weight is off by as
        // much of itself, and once more as it is rounded, as are values.
        let score = f64::from(self.scale) * (case.width() as f64).sqrt() * case.largest(0) * case.largest(1);
        let rounding = f64::exp2(-10.0) * (1.0 + 0.5 * score);
        Tolerance::new(self.tolerance(case).relative + rounding, Scale::Largest(2), 0.0)
    }

    fn cases(&self) -> Vec<Case> {
        super::attention_cases::cases()
    }
}

impl Graph {
    /// `cap · tanh(x / cap)`, of scores and of the final logits.
    #[track_caller]
    pub fn softcap(&mut self, x: NodeId, cap: f32) -> Result<NodeId> {
        let scaled = self.scale(x, 1.0 / cap)?;
        let bent = self.push(Unary { f: UnaryFn::Tanh }, &[scaled])?;
        self.scale(bent, cap)
    }
}
