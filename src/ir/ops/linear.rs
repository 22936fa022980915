//! A matrix product with a stored weight.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Cast, Lowering, MatMul, OpDef, Permute, expect_operands,
    linear_coop::HalfRows,
    linear_vec::{Division, Few},
    product::{Matrix, Scratch},
};
use crate::{
    Result,
    ir::{
        Case, Compute, DType, Data, FixedType, Graph, NodeId, Packed, Type, Value,
        emit::{Arg, Emit},
        expect_dtype, expect_weight,
        fusion::{FusedNorm, Fusion},
        kernel::{Kernel, Target, Tier, weight_option, words_option},
        tolerance::{Scale, Tolerance},
        work::Work,
    },
};

/// `y[…, n] = Σₖ x[…, k] · W[n, k]`: x f32, W `[N, K]` as stored, packed or not, and widened in registers, sums in f32.
///
/// A kernel may round both operands to f16 where [`LowerOptions::compute`](crate::ir::LowerOptions) asks for it; the
/// meaning, and so the reference, knows nothing of that.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear;

/// The most rows of x for which lanes split k.
pub(super) const FEW_ROWS: usize = 8;

/// Columns that a lane has of a product of one row on a software driver.
const ONE_ROW_COLUMNS: usize = 2;

/// Lanes of a workgroup of `linear_each`, and its columns.
const EACH_LANES: usize = 16;
pub(super) const EACH_COLUMNS: usize = 4 * EACH_LANES;

impl Linear {
    pub(super) fn example() -> Self {
        Self
    }

    fn definition(g: &mut Graph, x: NodeId, weight: NodeId) -> Result<NodeId> {
        let wide = g.push(Cast, &[weight])?;
        let transposed = g.push(Permute { order: vec![1, 0] }, &[wide])?;
        let lead = g.shape(x).0[..g.shape(x).rank() - 2].to_vec();
        let shape = crate::ir::Shape(lead.into_iter().chain(g.shape(transposed).0.clone()).collect());
        let right = g.push(super::Broadcast { shape }, &[transposed])?;
        g.push(MatMul, &[x, right])
    }

    /// Returns `true` if the kernel for `rows` rows can norm its operand on the way. On a software driver that costs
    /// each workgroup more than the dispatch that it saves.
    pub(crate) fn has_norm_prologue(target: &Target, rows: usize, compute: Compute) -> bool {
        !target.software && rows <= FEW_ROWS && compute != Compute::F16
    }

    /// Returns `true` if the kernel for one row can keep the largest of each slice of the result: the columns of a
    /// workgroup must lie in one slice, whatever multiple of 64 a shard begins at.
    pub(crate) fn has_block_maxima(target: &Target) -> bool {
        let columns = |lanes| ONE_ROW_COLUMNS * lanes;
        !matches!(target.tier, Tier::Subgroup(lanes) if target.software && 64 % columns(lanes as usize) != 0)
    }

    /// The matrices of the kernel: one, a pair, or several that are read as one.
    fn weights(emit: &mut Emit) -> Vec<Arg> {
        let first = emit.inputs.remove(1);
        for fusion in &emit.fusions {
            match fusion {
                Fusion::Pair(second) => return vec![first, second.clone()],
                Fusion::Concatenated(rest) => return vec![Arg::concatenated(&first, rest)],
                _ => {}
            }
        }
        vec![first]
    }

    /// The work of products with `columns` columns of each of so many weights.
    fn work(emit: &Emit, weights: usize, columns: usize) -> Work {
        let sizes = [emit.output.ty.rows(), emit.inputs[0].ty.last(), weights, columns, 1 + emit.epilogue.operands.len()];
        let [rows, inner, weights, columns, written_and_extras] = sizes.map(|size| size as u64);
        let norm = if emit.norm_prologue().is_some() { 4 } else { 0 };
        Work::of(4 * rows * (inner + columns * written_and_extras), rows * inner * (2 * columns * weights + norm))
    }

    /// Emits `y = W·x` (or, with two weights, both products into one epilogue).
    fn emit_products(emit: &mut Emit, weights: &[Arg]) -> Result<()> {
        let rows = emit.output.ty.rows();
        let columns = emit.output.ty.last();
        let inner = emit.inputs[0].ty.last();
        let shards: Vec<_> = weights.iter().map(Arg::shards).collect();
        let halves = HalfRows::emit(emit, weights);
        if emit.compute == Compute::Auto {
            emit.compute = Compute::F32;
        }
        for s in 0..shards[0].len() {
            let (range, _) = &shards[0][s];
            if !range.start.is_multiple_of(64) {
                return Err(emit.refuse(format!("a shard begins at row {}, which is no multiple of 64", range.start)));
            }
            let (kernel, count, layers) = match &halves {
                Some(halves) => {
                    let (kernel, count) = halves.kernel(emit, weights, range.len());
                    (kernel, count, 1)
                }
                None => Part { rows, inner, columns: range.clone(), stride: columns }.kernel(emit, weights),
            };
            let operand = halves.as_ref().map_or_else(|| emit.inputs[0].operand(), HalfRows::operand);
            let mut bindings = vec![(0, operand), (1, emit.output.operand_at(range.start))];
            bindings.extend(shards.iter().zip(2..).map(|(shard, binding)| (binding, shard[s].1.clone())));
            bindings.extend(emit.epilogue_bindings(range.start));
            bindings.extend(emit.norm_prologue().and_then(|norm| Some((4, norm.gain.as_ref()?.operand()))));
            bindings.extend(halves.iter().map(|halves| (4, halves.scales())));
            bindings.extend(emit.second_output.iter().map(|maxima| (5, maxima.operand())));
            let work = Self::work(emit, weights.len(), range.len());
            emit.dispatch(kernel, bindings, [count, layers], work);
        }
        Ok(())
    }
}

/// Facts of the device that a kernel is chosen by, beside the sizes.
#[derive(Clone, Copy)]
pub(super) struct LinearParams {
    /// Lanes of a workgroup of one subgroup.
    pub(super) lanes: usize,
    /// True if the kernels for drivers on the CPU run: such a driver pays for each lane's loads and for barriers, and
    /// little for shuffles.
    pub(super) software: bool,
    /// True if loads of 64 bits cost the same as loads of 32: a driver on the CPU pays for each load of a lane,
    /// whatever its width.
    pub(super) wide: bool,
}

impl LinearParams {
    pub(super) fn of(target: &Target) -> Self {
        let software = target.lanes_shuffle();
        Self { lanes: target.tier.option().1 as usize, software, wide: software && target.int64 }
    }

    /// The options of a kernel whose workgroups have `tile` columns (a lane) and `held` rows.
    pub(super) fn options(
        &self,
        emit: &Emit,
        weights: &[Arg],
        lanes: (&'static str, usize),
        tile: usize,
        held: usize,
    ) -> Vec<(&'static str, String)> {
        let dtype = weights[0].ty.dtype;
        let vector = if emit.inputs[0].ty.last().is_multiple_of(8) { 8 } else { 1 };
        let sizes = [lanes, ("NR", tile), ("ROWS", held), ("VEC", vector), ("WEIGHTS", weights.len())];
        let mut options = vec![weight_option(dtype), ("COMPUTE", emit.compute.name().into())];
        options.extend(sizes.map(|(name, size)| (name, size.to_string())));
        options.extend(words_option(dtype, self.wide));
        options
    }

    /// The options of `linear_each`.
    pub(super) fn each_options(&self, emit: &Emit, weights: &[Arg], held: usize) -> Vec<(&'static str, String)> {
        let mut options = self.options(emit, weights, ("LANES", EACH_LANES), 4, held);
        options.retain(|(name, _)| *name != "NR");
        options
    }
}

/// The options of `linear_vec` for the norm of its operand.
fn norm_options(norm: Option<&FusedNorm<Arg>>) -> Vec<(&'static str, String)> {
    match norm.and_then(|norm| Some((norm.op.gain.option().1, norm.gain.as_ref()?.ty.dtype))) {
        Some((gain, dtype)) => vec![("NORM", gain), ("GAIN_WEIGHT", dtype.name().into())],
        None => vec![("NORM", "none".into())],
    }
}

/// One product's kernel for some columns of the result, with its workgroups and layers.
type LinearKernel = (Kernel, usize, usize);

/// Sizes of the part of a product that a dispatch computes.
struct Part {
    rows: usize,
    inner: usize,
    columns: Range<usize>,
    /// Elements from one row of the result to the next.
    stride: usize,
}

impl Part {
    /// The kernel; `shaders/README.md` says what was measured.
    fn kernel(&self, emit: &mut Emit, weights: &[Arg]) -> LinearKernel {
        let means = LinearParams::of(emit.target);
        let narrow = weights[0].ty.dtype.is_half_word();
        if means.wide && narrow && self.inner.is_multiple_of(16) {
            self.wide(emit, weights, means)
        } else if means.software {
            self.tile(emit, weights, means)
        } else if emit.target.lanes_work_alone() {
            self.each(emit, weights, means)
        } else if self.rows <= FEW_ROWS {
            self.few(emit, weights)
        } else {
            self.tile_shared(emit, weights, means)
        }
    }

    fn wide(&self, emit: &Emit, weights: &[Arg], means: LinearParams) -> LinearKernel {
        let tile = if self.rows <= 2 { ONE_ROW_COLUMNS } else { 4 / weights.len() };
        let held = self.rows.min(8);
        let mut options = means.options(emit, weights, ("LANES", means.lanes), tile, held);
        options.retain(|(name, _)| *name != "VEC");
        options.extend([no_experts(), maxima(emit)]);
        let count = self.rows.div_ceil(held) * self.columns.len().div_ceil(tile * means.lanes);
        (self.of("linear_wide", options, emit), count, 1)
    }

    fn tile(&self, emit: &Emit, weights: &[Arg], means: LinearParams) -> LinearKernel {
        let tile = if self.rows == 1 || weights.len() == 2 { ONE_ROW_COLUMNS } else { 4 };
        let held = self.rows.min(6);
        let mut options = means.options(emit, weights, ("LANES", means.lanes), tile, held);
        options.extend([no_experts(), maxima(emit), groups(weights[0].ty.dtype, self.rows)]);
        let count = self.rows.div_ceil(held) * self.columns.len().div_ceil(tile * means.lanes);
        (self.of("linear_tile", options, emit), count, 1)
    }

    fn each(&self, emit: &Emit, weights: &[Arg], means: LinearParams) -> LinearKernel {
        let held = self.rows.min(4);
        let mut options = means.each_options(emit, weights, held);
        options.extend([no_experts(), maxima(emit)]);
        (self.of("linear_each", options, emit), self.columns.len().div_ceil(EACH_COLUMNS), self.rows.div_ceil(held))
    }

    fn few(&self, emit: &mut Emit, weights: &[Arg]) -> LinearKernel {
        let few = Few {
            dtype: weights[0].ty.dtype,
            weights: weights.len(),
            held: self.rows.min(4),
            normed: emit.norm_prologue().is_some(),
            inner: self.inner,
            columns: self.columns.len(),
            layers: self.rows.div_ceil(4),
            tier: emit.target.tier,
        };
        let division = Division::choose(emit, &few);
        let mut options = division.options(&few, emit.compute);
        options.extend([no_experts(), maxima(emit)]);
        options.extend(norm_options(emit.norm_prologue()));
        let mut kernel = self.of("linear_vec", options, emit);
        kernel.overrides.extend(emit.norm_prologue().map(|norm| ("EPS", f64::from(norm.op.eps))));
        (kernel, self.columns.len().div_ceil(division.width()), few.layers)
    }

    fn tile_shared(&self, emit: &mut Emit, weights: &[Arg], means: LinearParams) -> LinearKernel {
        let tile = 4;
        let most = self.rows.div_ceil(16).next_power_of_two().min(4);
        let held = most >> emit.choose(self.work("linear_tile_shared", weights), most.min(2));
        let mut options = means.options(emit, weights, ("DEPTH", 16), tile, held);
        options.push(no_experts());
        let count = self.rows.div_ceil(16 * held) * self.columns.len().div_ceil(16 * tile);
        (self.of("linear_tile_shared", options, emit), count, 1)
    }

    /// The work of the kernel `shader`, for [`Emit::choose`].
    fn work(&self, shader: &str, weights: &[Arg]) -> String {
        let dtype = weights[0].ty.dtype;
        let count = weights.len();
        let Self { rows, inner, columns, .. } = self;
        format!("{shader}: {count} {dtype} weights of {}x{inner}, {rows} rows", columns.len())
    }

    fn of(&self, shader: &'static str, options: Vec<(&'static str, String)>, emit: &Emit) -> Kernel {
        let sizes = [("T", self.rows), ("IN", self.inner), ("OUT", self.columns.len()), ("OUT_STRIDE", self.stride)];
        let mut overrides = Vec::from(sizes.map(|(name, size)| (name, size as f64)));
        if let Some(block) = emit.block_maxima() {
            overrides.extend([("FIRST", self.columns.start as f64), ("SLICE", block as f64)]);
        }
        Kernel { shader, options, overrides, hole: emit.epilogue.text.clone() }
    }
}

/// Packed formats whose factors a driver on the CPU applies to sums at a gain: those of many instructions a weight.
const FOLDED: [&str; 6] = ["Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"];

/// How `linear_tile` takes weights of a type, for so many rows of a workgroup.
pub(super) fn groups(dtype: DType, rows: usize) -> (&'static str, String) {
    let value = match dtype {
        DType::Packed(format) if rows == 1 && FOLDED.contains(&format.name()) => "folded",
        DType::Packed(_) if rows <= 2 => "yes",
        _ => "no",
    };
    ("GROUPS", value.into())
}

fn no_experts() -> (&'static str, String) {
    ("EXPERTS", "no".into())
}

fn maxima(emit: &Emit) -> (&'static str, String) {
    ("MAXIMA", if emit.block_maxima().is_some() { "yes" } else { "no" }.into())
}

impl OpDef for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x, weight] = expect_operands(inputs)?;
        expect_dtype("x", x, &[DType::F32])?;
        expect_weight("the weight", weight)?;
        if weight.shape.rank() != 2 || x.shape.rank() < 2 || weight.shape.last() != x.shape.last() {
            return Err("expected x […, K] and a weight [N, K]".into());
        }
        Ok(Type { dtype: DType::F32, shape: x.shape.with_last(weight.shape.0[0]) })
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let x = inputs[0].to_f32()?;
        let rows = output.rows();
        let columns = output.last();
        let matrix = Matrix::new(inputs[1])?;
        matrix.keep()?;
        let tile = matrix.tile(rows);
        let starts = (0..columns).into_par_iter().step_by(tile);
        let product = |scratch: &mut Scratch, start| matrix.multiply(&x, start..columns.min(start + tile), scratch);
        let parts = starts.map_init(Scratch::default, product).collect::<Result<Vec<_>>>()?;
        let mut out = Vec::with_capacity(output.len());
        for r in 0..rows {
            parts.iter().for_each(|part| out.extend_from_slice(&part[part.len() / rows * r..][..part.len() / rows]));
        }
        Ok(Data::F32(out))
    }

    fn decompose(&self, graph: &mut Graph, inputs: &[NodeId]) -> Option<Result<NodeId>> {
        Some(Self::definition(graph, inputs[0], inputs[1]))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let weights = Self::weights(emit);
        Self::emit_products(emit, &weights)
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn takes_shards(&self, operand: usize) -> bool {
        operand == 1
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        Tolerance::new(Tolerance::of_sum(case.width()), Scale::Absolute, 0.0)
    }

    fn half_tolerance(&self, case: &Case) -> Tolerance {
        self.tolerance(case).of_half_products(case.width())
    }

    fn cases(&self) -> Vec<Case> {
        let case = |rows: usize, inner: usize, out: usize, dtype| {
            let operands = vec![Case::values(&[1, rows, inner], 1, 1.0), Case::weight(&[out, inner], 2, 1.0, dtype)];
            Case::new(format!("{rows}x{inner}x{out} {dtype}"), Linear, operands)
        };
        let sizes = [
            (1, 1, 1),
            (1, 20, 63),
            (1, 64, 65),
            (2, 76, 33),
            (3, 640, 64),
            (5, 84, 7),
            (7, 72, 65),
            (8, 128, 130),
            (9, 80, 63),
            (15, 76, 65),
            (16, 64, 64),
            (17, 48, 129),
            (33, 256, 66),
        ];
        let types = [DType::F32, DType::F16, DType::BF16];
        let scalar = types.into_iter().flat_map(|d| sizes.map(|(rows, inner, out)| case(rows, inner, out, d)));
        // A row that is padded and one that is not, tiles that end within the columns. Kernels differ in how they ask
        // for a packed format's elements by these numbers of rows alone, so that two formats have them all.
        let packed = Packed::all().flat_map(|format| {
            let blocks = [(1, 2, 130), (33, 2, 66), (3, 1, 65), (9, 3, 70)];
            let count = if ["Q4_0", "Q6_K"].contains(&format.name()) { 4 } else { 2 };
            let case = move |(rows, blocks, out)| case(rows, blocks * format.block_elements(), out, DType::Packed(format));
            blocks.into_iter().take(count).map(case)
        });
        scalar.chain(packed).collect()
    }
}
