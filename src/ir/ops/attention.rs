//! Grouped-query attention over keys with positions.

use super::{Broadcast, Cast, Gain, Lowering, MatMul, OpDef, Permute, Reshape, Select, Softmax, Unary, attend::attend};
use crate::{
    Result,
    ir::{
        BinaryFn, Case, DType, Data, FixedType, Graph, MaskKind, NodeId, Shape, Type, UnaryFn, Value, expect_dtype,
        kernel::{Emit, Kernel, NewRow, NormArg, Operand, Target, weight_option},
    },
};

/// The position of a cache row that holds nothing: no query sees it.
pub const DEAD_KEY: i32 = i32::MAX;

/// The score of a key that is not visible: large and finite, as fast mathematics knows no infinity.
const MASKED: f32 = -1e30;

/// `softmax(mask(cap(scale · q·kᵀ))) · v` per head; query head n uses KV head n / G (gemma-spec §1).
///
/// Operands: q `[B, T, N, H]` f32, k and v `[B, S, K, H]` f32 or both f16, query positions `[B, T]` i32, key positions `[B, S]` i32, and
/// with `keep` a mask `[B, S]` f32 whose entries below 0.5 drop the key. Result `[B, T, N, H]`.
///
/// The mask compares positions, never rows of a buffer: a ring, a padded batch and a bucket with a gap are the same to it. A
/// row at [`DEAD_KEY`] is never visible. A query that sees no key gives zeros.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Which keys a query sees.
    pub mask: MaskKind,
    /// Multiplies the scores.
    pub scale: f32,
    /// `cap · tanh(score / cap)` after the scale and before the mask.
    pub softcap: Option<f32>,
    /// Whether there is a keep-mask operand; it combines with `mask`.
    pub keep: bool,
}

impl Attention {
    pub(super) fn example() -> Self {
        Self { mask: MaskKind::Causal, scale: 1.0, softcap: None, keep: false }
    }

    /// 1 where a query sees a key, else 0, `[B, 1, 1, T, S]` broadcast to `shape`.
    fn visible(&self, g: &mut Graph, inputs: &[NodeId], shape: &Shape) -> Result<NodeId> {
        let (batch, new, cached) = (shape.0[0], shape.0[3], shape.0[4]);
        let one_by = |rows, columns| Shape(vec![batch, 1.into(), 1.into(), rows, columns]);
        let spread = |g: &mut Graph, node, from: Shape| -> Result<NodeId> {
            let wide = g.push(Cast, &[node])?;
            let placed = g.push(Reshape { shape: from }, &[wide])?;
            g.push(Broadcast { shape: shape.clone() }, &[placed])
        };
        let query = spread(g, inputs[3], one_by(new, 1.into()))?;
        let key = spread(g, inputs[4], one_by(1.into(), cached))?;
        let dead = g.constant(DEAD_KEY as f32)?;
        let mut visible = g.binary(BinaryFn::Less, key, dead)?;
        let age = g.binary(BinaryFn::Sub, query, key)?;
        if let MaskKind::Causal | MaskKind::SlidingWindow(_) = self.mask {
            let before_self = g.constant(-0.5)?;
            let past = g.binary(BinaryFn::Less, before_self, age)?;
            visible = g.binary(BinaryFn::Mul, visible, past)?;
        }
        if let MaskKind::SlidingWindow(window) = self.mask {
            let window = g.constant(window as f32)?;
            let near = g.binary(BinaryFn::Less, age, window)?;
            visible = g.binary(BinaryFn::Mul, visible, near)?;
        }
        if let MaskKind::SymmetricWindow(radius) = self.mask {
            let distance = g.push(Unary { f: UnaryFn::Abs }, &[age])?;
            let past_it = g.constant(radius as f32 + 0.5)?;
            let near = g.binary(BinaryFn::Less, distance, past_it)?;
            visible = g.binary(BinaryFn::Mul, visible, near)?;
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
        let (heads, kv_heads, head_dim) = (fixed(&q_shape, 2), fixed(&k_shape, 2), fixed(&q_shape, 3));
        let group = heads / kv_heads.max(1);
        let (batch, new, cached) = (q_shape.0[0], q_shape.0[1], k_shape.0[1]);
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

    /// The option `MASK` and the window or radius. Where sizes are data all layers share a kernel: no position is `i32::MAX` behind
    /// another, and none further away.
    fn mask_options(&self, target: &Target) -> Option<(&'static str, usize)> {
        match self.mask {
            MaskKind::None if target.software => Some(("symmetric", i32::MAX as usize)),
            MaskKind::None => Some(("none", 0)),
            MaskKind::SymmetricWindow(radius) => Some(("symmetric", radius.min(i32::MAX as usize))),
            MaskKind::Causal if target.software => Some(("window", i32::MAX as usize)),
            MaskKind::Causal => Some(("causal", 0)),
            MaskKind::SlidingWindow(window) => Some(("window", window)),
            MaskKind::Custom | MaskKind::Bias => None,
        }
    }
}

impl OpDef for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn attributes(&self) -> String {
        let cap = self.softcap.map(|c| format!(", softcap={c}")).unwrap_or_default();
        let keep = if self.keep { ", keep" } else { "" };
        format!("{{mask={}, scale={}{cap}{keep}}}", self.mask, self.scale)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let operands = 5 + usize::from(self.keep);
        if inputs.len() != operands {
            return Err(format!("{} operands, expected {operands}", inputs.len()));
        }
        if matches!(self.mask, MaskKind::Custom | MaskKind::Bias) {
            return Err(
                "the mask is none, causal or a window of either sort; further masking goes through the keep operand".into()
            );
        }
        let [q, k, v, query, key] = [inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]];
        expect_dtype("q", q, &[DType::F32])?;
        expect_dtype("k", k, &[DType::F32, DType::F16])?;
        expect_dtype("query positions", query, &[DType::I32])?;
        expect_dtype("key positions", key, &[DType::I32])?;
        let rank = q.shape.rank() == 4 && k.shape.rank() == 4 && k == v;
        if !rank || q.shape.0[0] != k.shape.0[0] || q.shape.0[3] != k.shape.0[3] {
            return Err("expected q [B, T, N, H] and equal k and v [B, S, K, H]".into());
        }
        if query.shape.0[..] != q.shape.0[..2] || key.shape.0[..] != k.shape.0[..2] {
            return Err("expected query positions [B, T] and key positions [B, S]".into());
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
        let Some((mask, window)) = self.mask_options(emit.target) else { return Err(emit.refuse("no kernel for this mask")) };
        let (q, k) = (emit.inputs[0].ty.shape.clone(), emit.inputs[1].ty.shape.clone());
        let (batch, new, heads, head_dim) = (q[0], q[1], q[2], q[3]);
        let (cached, kv_heads) = (k[1], k[2]);
        let rows = new * (heads / kv_heads);
        let new_row = emit.new_row.take();
        let Tiles { tier, lanes, vector, held, queries, shuffles } = Tiles::of(emit, new, rows, head_dim, new_row.is_some())?;
        let groups = batch * kv_heads * rows.div_ceil(queries);
        let parts = parts(groups, cached, emit.target.software);
        let yes = |b: bool| if b { "yes" } else { "no" }.to_string();
        let mut options = vec![
            ("TIER", tier.into()),
            ("LANES", lanes.to_string()),
            ("QUERIES", queries.to_string()),
            ("MASK", mask.into()),
            ("SOFTCAP", yes(self.softcap.is_some())),
            ("KEEP", yes(self.keep)),
            ("SPLITS", yes(parts > 1)),
            ("READ", if shuffles { "shuffle" } else { "load" }.into()),
            ("KV", emit.inputs[1].ty.dtype.name().into()),
            ("VEC", vector.to_string()),
            ("HV", held.to_string()),
            ("WIDE", yes(shuffles && emit.target.int64 && vector == 4)),
            ("NEW", yes(new_row.is_some())),
        ];
        let mut overrides = vec![
            ("B", batch as f64),
            ("T", new as f64),
            ("S", emit.inputs[1].rows_override()),
            ("N", heads as f64),
            ("K", kv_heads as f64),
            ("H", head_dim as f64),
            ("SCALE", f64::from(self.scale)),
            ("CAP", f64::from(self.softcap.unwrap_or(1.0))),
            ("WINDOW", window as f64),
            ("PARTS", parts as f64),
        ];
        let mut bindings: Vec<(u32, Operand)> = (0..5).zip(&emit.inputs).map(|(i, arg)| (i, arg.operand())).collect();
        bindings.push((8, Operand::Step));
        if let Some(new_row) = new_row {
            overrides.extend(new_row.rope.overrides(head_dim, new_row.table.ty.last()));
            new_row_bindings(new_row, &mut options, &mut overrides, &mut bindings);
        }
        let kernel = Kernel { shader: "attention", options, overrides, hole: String::new() };
        if self.keep {
            bindings.push((6, emit.inputs[5].operand()));
        }
        if parts == 1 {
            bindings.push((5, emit.output.operand()));
            emit.dispatch(kernel, bindings, groups, 1);
            return Ok(());
        }
        let results = batch * new * heads;
        let partial = Operand::Slot(emit.scratch((results * parts * (head_dim + 2) * 4) as u64), 0);
        bindings.push((7, partial.clone()));
        emit.dispatch(kernel, bindings, groups, parts);
        combine(emit, [("B", batch), ("T", new), ("N", heads), ("H", head_dim), ("PARTS", parts)], partial, results);
        Ok(())
    }

    fn cases(&self) -> Vec<Case> {
        super::attention_cases::cases()
    }
}

/// How a workgroup is laid out.
struct Tiles {
    tier: &'static str,
    lanes: usize,
    /// Elements of a vector.
    vector: usize,
    /// Vectors of a head that a lane holds.
    held: usize,
    /// Queries of a workgroup.
    queries: usize,
    shuffles: bool,
}

impl Tiles {
    fn of(emit: &Emit, new: usize, rows: usize, head_dim: usize, new_row: bool) -> Result<Self> {
        let (tier, lanes) = emit.target.tier.option();
        let lanes = lanes as usize;
        let vector = match head_dim {
            h if h.is_multiple_of(4) => 4,
            h if h.is_multiple_of(2) => 2,
            _ => return Err(emit.refuse("no kernel for an odd head dimension")),
        };
        let held = head_dim.div_ceil(vector * lanes);
        let software = emit.target.software;
        let shuffles = software && tier == "subgroup" && lanes >= 8 && head_dim.is_multiple_of(8);
        // As many queries at a time as registers hold; each key is read once for all of them. On the CPU a spilled register is
        // read faster than a key, but one token's queries are few and fill the cores as small groups. Software drivers take
        // seconds to compile what is unrolled over many queries and barriers.
        let most = if software && tier != "subgroup" { 2 } else { 8 };
        let vectors = match new {
            1 => 16,
            2..=16 if shuffles => 32,
            _ if shuffles => 64,
            _ => 16,
        };
        let queries = (vectors / held).clamp(1, most).min(rows.next_power_of_two());
        // Queries of a new row lie in workgroup memory, beside its key and value.
        let room = (NEW_ROW_BYTES / (held * lanes * vector * 4)).saturating_sub(2).max(1);
        let queries = if new_row { queries.min(room) } else { queries };
        Ok(Self { tier, lanes, vector, held, queries, shuffles })
    }
}

/// Workgroup memory for queries, key and value that the kernel makes itself, of the 16 KiB that every device has.
const NEW_ROW_BYTES: usize = 10 << 10;

impl Attention {
    /// Whether the kernel can make a new row with heads of `width`: queries, key and value lie in workgroup memory.
    pub(crate) fn makes_rows(target: &Target, width: usize) -> bool {
        let (tier, lanes) = target.tier.option();
        // A driver on the CPU compiles the barriers of such a kernel for many seconds.
        if target.software && tier != "subgroup" {
            return false;
        }
        let lanes = lanes as usize;
        width.is_multiple_of(2) && 3 * 4 * width.next_multiple_of(4 * lanes) <= NEW_ROW_BYTES
    }
}

/// What the kernel needs to make a new row.
fn new_row_bindings(
    new_row: NewRow,
    options: &mut Vec<(&'static str, String)>,
    overrides: &mut Vec<(&'static str, f64)>,
    bindings: &mut Vec<(u32, Operand)>,
) {
    bindings.extend([(9, new_row.key.operand()), (10, new_row.value.operand()), (11, new_row.table.operand())]);
    let Some(norms) = new_row.norms else {
        options.push(NormArg::option(Gain::None));
        return;
    };
    options.push(NormArg::option(norms[0].op.gain));
    overrides.push(("EPS", f64::from(norms[0].op.eps)));
    for (norm, binding) in norms.into_iter().zip(12..) {
        let Some(gain) = norm.gain else { continue };
        if binding == 12 {
            options.extend([weight_option(gain.ty.dtype), ("WEIGHTS", "2".into())]);
        }
        bindings.push((binding, gain.operand()));
    }
}

/// Puts the parts of `results` rows together.
fn combine(emit: &mut Emit, sizes: [(&'static str, usize); 5], partial: Operand, results: usize) {
    let overrides = sizes.map(|(name, size)| (name, size as f64)).to_vec();
    let options = vec![("LANES", "64".into())];
    let kernel = Kernel { shader: "attention_combine", options, overrides, hole: String::new() };
    emit.dispatch(kernel, vec![(5, emit.output.operand()), (7, partial), (8, Operand::Step)], results, 1);
}

/// Parts that the keys are split into, so that the workgroups of a decode step fill the device.
fn parts(groups: usize, cached: usize, software: bool) -> usize {
    let (wanted, least_keys) = if software { (8, 512) } else { (512, 64) };
    (wanted / groups.max(1)).min(cached / least_keys).clamp(1, 64)
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
