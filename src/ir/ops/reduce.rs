//! Sums and maxima over the innermost dimension.

use rayon::prelude::*;

use super::{Lowering, OpDef, elementwise::SHARE, expect_operands};
use crate::{
    Result,
    ir::{
        Case, DType, Data, FixedType, Type, Value,
        emit::Emit,
        expect_dtype,
        kernel::Kernel,
        tolerance::{Scale, Tolerance},
        work::Work,
    },
};

/// The accumulated function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceFn {
    /// Σ
    Sum,
    /// max
    Max,
}

/// Applies `f` to each row of `x` and its row of the result, on all cores.
pub(super) fn each_row(x: &[f32], width: usize, f: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    let rows = out.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).with_min_len((SHARE / width).max(1));
    rows.for_each(|(out, x)| f(x, out));
    out
}

/// `Σ f(x)` in f64, in an order that is the same for every row of one length.
pub(super) fn sum(row: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let (parts, rest) = row.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += f(f64::from(*x)));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| f(f64::from(*x))).sum::<f64>()
}

/// Reduces the innermost dimension to 1, f32; the reference sums in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Reduce {
    /// The accumulated function.
    pub f: ReduceFn,
}

impl Reduce {
    pub(super) fn example() -> Self {
        Self { f: ReduceFn::Sum }
    }
}

impl OpDef for Reduce {
    fn name(&self) -> &'static str {
        match self.f {
            ReduceFn::Sum => "reduce_sum",
            ReduceFn::Max => "reduce_max",
        }
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x] = expect_operands(inputs)?;
        expect_dtype("the operand", x, &[DType::F32])?;
        if x.shape.rank() == 0 {
            return Err("a scalar has no dimension to reduce".into());
        }
        Ok(Type { dtype: DType::F32, shape: x.shape.with_last(1) })
    }

    fn eval(&self, inputs: &[&Value], _: &FixedType) -> Result<Data> {
        let x = inputs[0].to_f32()?;
        let width = inputs[0].shape.last().copied().unwrap_or(1).max(1);
        let reduce = |row: &[f32]| match self.f {
            ReduceFn::Sum => sum(row, |x| x) as f32,
            ReduceFn::Max => row.iter().copied().fold(f32::MIN, f32::max),
        };
        Ok(Data::F32(x.chunks_exact(width).map(reduce).collect()))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let rows = emit.inputs[0].ty.rows();
        let columns = emit.inputs[0].ty.last();
        let (tier, lanes) = emit.target.reduction_option();
        let reduce = if self.f == ReduceFn::Sum { "sum" } else { "max" };
        let kernel = Kernel {
            shader: "reduce",
            options: vec![("TIER", tier.into()), ("LANES", lanes.to_string()), ("REDUCE", reduce.into())],
            overrides: vec![("R", rows as f64), ("C", columns as f64)],
            hole: String::new(),
        };
        let bindings = vec![(0, emit.inputs[0].operand()), (1, emit.output.operand())];
        let [elements, results] = [rows * columns, rows].map(|count| count as u64);
        let adds = if self.f == ReduceFn::Sum { elements } else { 0 };
        emit.dispatch(kernel, bindings, [rows, 1], Work::of(4 * (elements + results), adds));
        Ok(())
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        match self.f {
            ReduceFn::Sum => Tolerance::new(Tolerance::of_sum(case.width()), Scale::Absolute, 0.0),
            ReduceFn::Max => Tolerance::EXACT,
        }
    }

    fn cases(&self) -> Vec<Case> {
        let shapes: [&[usize]; 4] = [&[1, 1], &[3, 65], &[70, 33], &[2, 5000]];
        let case = |f, s: &[usize]| Case::new(format!("{f:?} {s:?}"), Reduce { f }, vec![Case::values(s, 1, 2.0)]);
        [ReduceFn::Sum, ReduceFn::Max].into_iter().flat_map(|f| shapes.map(|s| case(f, s))).collect()
    }
}
