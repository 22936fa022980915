//! Rotary position embedding.

use super::{Broadcast, Concat, Lowering, OpDef, Reshape, Slice, expect_operands};
use crate::{
    Result,
    ir::{
        BinaryFn, Case, DType, Data, FixedType, Graph, NodeId, Shape, Type, Value,
        emit::Emit,
        expect_dtype,
        kernel::Kernel,
        tolerance::{EPS, Scale, Tolerance},
        work::Work,
    },
};

/// Rotates the pairs (j, j + n/2) of the first n dimensions of every head by the angle of its position; the other
/// dimensions pass through (Su et al. 2021, half-split form; docs/gemma.md, RoPE).
///
/// Operands: x `[B, T, heads, H]`, table `[B, T, W]`: W/2 cosines, then W/2 sines, of each position's angles. Pair j
/// takes angle j, so that of a table with W > n the first n/2 angles count.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rope {
    /// n, even; none: all dimensions of a head.
    pub n_rot: Option<usize>,
}

impl Rope {
    pub(super) fn example() -> Self {
        Self::default()
    }

    /// The rotation of the first `n_rot` of `head_dim` dimensions.
    pub fn first(n_rot: usize, head_dim: usize) -> Self {
        Self { n_rot: Some(n_rot).filter(|n| *n != head_dim) }
    }

    /// Rotated dimensions of a head of `head_dim`.
    pub fn rotated(&self, head_dim: usize) -> usize {
        self.n_rot.unwrap_or(head_dim)
    }

    fn definition(&self, g: &mut Graph, x: NodeId, table: NodeId) -> Result<NodeId> {
        let shape = g.shape(x).clone();
        let fixed = |shape: &Shape| shape.last().and_then(|d| d.fixed()).unwrap_or(0);
        let head_dim = fixed(&shape);
        let width = fixed(g.shape(table));
        let rotated = self.rotated(head_dim);
        let half = rotated / 2;
        let table_shape = Shape(vec![shape.0[0], shape.0[1], 1.into(), width.into()]);
        let table = g.push(Reshape { shape: table_shape }, &[table])?;
        let part = |g: &mut Graph, node, start| g.push(Slice { axis: 3, start, len: half.into() }, &[node]);
        let cos = part(g, table, 0)?;
        let sin = part(g, table, width / 2)?;
        let half_shape = shape.with_last(half);
        let cos = g.push(Broadcast { shape: half_shape.clone() }, &[cos])?;
        let sin = g.push(Broadcast { shape: half_shape }, &[sin])?;
        let a = part(g, x, 0)?;
        let b = part(g, x, half)?;
        let ac = g.binary(BinaryFn::Mul, a, cos)?;
        let bs = g.binary(BinaryFn::Mul, b, sin)?;
        let bc = g.binary(BinaryFn::Mul, b, cos)?;
        let as_ = g.binary(BinaryFn::Mul, a, sin)?;
        let first = g.binary(BinaryFn::Sub, ac, bs)?;
        let second = g.binary(BinaryFn::Add, bc, as_)?;
        let turned = g.push(Concat { axis: 3 }, &[first, second])?;
        if rotated == head_dim {
            return Ok(turned);
        }
        let rest = g.push(Slice { axis: 3, start: rotated, len: (head_dim - rotated).into() }, &[x])?;
        g.push(Concat { axis: 3 }, &[turned, rest])
    }
}

impl Rope {
    /// The sizes of the rotation that kernels take: `N_ROT`, and `TABLE`, the columns of the table.
    pub(super) fn overrides(&self, head_dim: usize, width: usize) -> [(&'static str, f64); 2] {
        [("N_ROT", self.rotated(head_dim) as f64), ("TABLE", width as f64)]
    }
}

/// Cosine and sine of `position · inv_freq`: the angle is the product in f32, as transformers computes it, its cosine
/// and sine are taken in f64 and rounded.
pub fn cos_sin(inv_freq: f32, position: usize) -> (f32, f32) {
    let angle = f64::from(position as f32 * inv_freq);
    (angle.cos() as f32, angle.sin() as f32)
}

/// One row `[W]` of a rotary table: W/2 cosines, then W/2 sines.
pub fn rope_row(inv_freq: &[f32], position: usize) -> impl Iterator<Item = f32> {
    let cos = inv_freq.iter().map(move |&f| cos_sin(f, position).0);
    cos.chain(inv_freq.iter().map(move |&f| cos_sin(f, position).1))
}

/// Rows `[rows, W]` of the positions from `start` on.
pub fn rope_rows(inv_freq: &[f32], start: usize, rows: usize) -> Vec<f32> {
    (start..start + rows).flat_map(|position| rope_row(inv_freq, position)).collect()
}

impl OpDef for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn attributes(&self) -> String {
        self.n_rot.map(|n| format!("{{n_rot={n}}}")).unwrap_or_default()
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x, table] = expect_operands(inputs)?;
        expect_dtype("x", x, &[DType::F32])?;
        expect_dtype("the table", table, &[DType::F32])?;
        let [head_dim, width] = [x, table].map(|ty| ty.shape.last().and_then(|d| d.fixed()).filter(|n| n % 2 == 0));
        let (Some(head_dim), Some(width), 4, 3) = (head_dim, width, x.shape.rank(), table.shape.rank()) else {
            return Err("expected x [B, T, heads, H] and a table [B, T, W] with even H and W".into());
        };
        if x.shape.0[..2] != table.shape.0[..2] {
            return Err("expected as many rows of the table as of x".into());
        }
        let rotated = self.rotated(head_dim);
        if rotated == 0 || !rotated.is_multiple_of(2) || rotated > head_dim {
            return Err(format!("n_rot is {rotated}, expected an even number from 2 to the head's {head_dim} dimensions"));
        }
        if self.n_rot.is_none() && width != head_dim || rotated > width {
            return Err(format!(
                "a table of {width} columns for {rotated} rotated dimensions of {head_dim}; a table needs two columns for each pair"
            ));
        }
        Ok(x.clone())
    }

    fn decompose(&self, graph: &mut Graph, inputs: &[NodeId]) -> Option<Result<NodeId>> {
        Some(self.definition(graph, inputs[0], inputs[1]))
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let x = inputs[0].to_f32()?;
        let table = inputs[1].to_f32()?;
        let heads = output.shape[2];
        let head_dim = output.last();
        let width = inputs[1].shape.last().copied().unwrap_or(head_dim);
        let half = self.rotated(head_dim) / 2;
        let mut out = x.into_owned();
        for (row, table) in out.chunks_exact_mut((heads * head_dim).max(1)).zip(table.chunks_exact(width.max(1))) {
            for head in row.chunks_exact_mut(head_dim) {
                let (first, second) = head.split_at_mut(half);
                let angles = table[..half].iter().zip(&table[width / 2..]);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    let wide_a = f64::from(*a);
                    let wide_b = f64::from(*b);
                    let cos = f64::from(*cos);
                    let sin = f64::from(*sin);
                    *a = (wide_a * cos - wide_b * sin) as f32;
                    *b = (wide_b * cos + wide_a * sin) as f32;
                }
            }
        }
        Ok(Data::F32(out))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let ty = emit.output.ty.clone();
        let heads = ty.shape[2];
        let head_dim = ty.shape[3];
        let rows = ty.shape[0] * ty.shape[1];
        let width = emit.inputs[1].ty.last();
        let mut overrides = vec![("ROWS", rows as f64), ("HEADS", heads as f64), ("H", head_dim as f64)];
        overrides.extend(self.overrides(head_dim, width));
        let options = vec![("LANES", "64".into())];
        let kernel = Kernel { shader: "rope", options, overrides, hole: String::new() };
        let bindings = vec![(0, emit.inputs[0].operand()), (1, emit.output.operand()), (2, emit.inputs[1].operand())];
        let rotated = self.rotated(head_dim);
        let [moved, turned] = [2 * heads * head_dim + rotated, heads * rotated].map(|count| count as u64);
        let work = Work::of(4 * rows as u64 * moved, 3 * rows as u64 * turned);
        emit.dispatch(kernel, bindings, [(ty.len() / 2).div_ceil(64), 1], work);
        Ok(())
    }

    fn tolerance(&self, _: &Case) -> Tolerance {
        // Two products and a sum; cosines and sines are given.
        Tolerance::new(4.0 * EPS, Scale::Largest(0), 0.0)
    }

    fn cases(&self) -> Vec<Case> {
        // The table of a far position: angles as f32 products, cosine and sine in f64.
        let table = |first: usize, rows: usize, head_dim: usize| {
            let half = head_dim / 2;
            let angle = |p: usize, j: usize| (p as f32 * (1.0e4f32).powf(-2.0 * j as f32 / head_dim as f32)) as f64;
            let row = |p: usize| {
                let cos = (0..half).map(move |j| angle(p, j).cos() as f32);
                cos.chain((0..half).map(move |j| angle(p, j).sin() as f32)).collect::<Vec<f32>>()
            };
            Value::f32([1, rows, head_dim], (first..first + rows).flat_map(row).collect::<Vec<f32>>())
        };
        let case = |first, rows: usize, heads: usize, head_dim: usize| {
            let operands = vec![Case::values(&[1, rows, heads, head_dim], 1, 2.0), table(first, rows, head_dim)];
            Case::new(format!("position {first}, {rows} rows, {heads} heads of {head_dim}"), Rope::default(), operands)
        };
        // With a table of the rotated dimensions, of the whole head and of a width between them.
        let partial = |rows: usize, heads: usize, [n_rot, head_dim, width]: [usize; 3]| {
            let operands = vec![Case::values(&[1, rows, heads, head_dim], 3, 2.0), table(77, rows, width)];
            let name = format!("{rows} rows, {heads} heads, {n_rot} of {head_dim} by a table of {width}");
            Case::new(name, Rope::first(n_rot, head_dim), operands)
        };
        vec![
            case(0, 1, 1, 2),
            case(5, 3, 4, 20),
            case(32_768, 2, 1, 256),
            case(131_071, 1, 4, 64),
            partial(3, 4, [6, 20, 6]),
            partial(2, 3, [10, 20, 20]),
            partial(5, 2, [2, 24, 12]),
            partial(1, 4, [64, 256, 256]),
            partial(70, 1, [128, 256, 128]),
        ]
    }
}
