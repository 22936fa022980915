//! Batched matrix product of two activations.

use gemm::Parallelism;

use super::{Lowering, OpDef, expect_operands};
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

/// `c[…, m, n] = Σₖ a[…, m, k] · b[…, k, n]`, f32, with equal leading dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct MatMul;

impl MatMul {
    pub(super) fn example() -> Self {
        Self
    }

    /// `out[m, n] = a[m, k] · b`, where `b` has element strides `(row, column)`.
    pub(crate) fn multiply(out: &mut [f32], a: &[f32], b: &[f32], [m, k, n]: [usize; 3], b_strides: (isize, isize)) {
        assert!(out.len() >= m * n && a.len() >= m * k && b.len() >= k * n, "operands of a product hold its elements");
        // SAFETY: the assertion above keeps every address that the sizes and strides reach inside the three slices; `b`
        // is dense in one of the two orders, so its largest index is k·n − 1.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                1,
                n as isize,
                false,
                a.as_ptr(),
                1,
                k as isize,
                b.as_ptr(),
                b_strides.1,
                b_strides.0,
                0.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

impl OpDef for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [a, b] = expect_operands(inputs)?;
        expect_dtype("the left operand", a, &[DType::F32])?;
        expect_dtype("the right operand", b, &[DType::F32])?;
        let rank = a.shape.rank();
        let fits = rank >= 2 && rank == b.shape.rank() && a.shape.0[..rank - 2] == b.shape.0[..rank - 2];
        if !fits || a.shape.0[rank - 1] != b.shape.0[rank - 2] {
            return Err("expected […, m, k] and […, k, n]".into());
        }
        Ok(Type { dtype: DType::F32, shape: a.shape.with_last(b.shape.0[rank - 1]) })
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let a = inputs[0].to_f32()?;
        let b = inputs[1].to_f32()?;
        let rank = output.shape.len();
        let m = output.shape[rank - 2];
        let n = output.shape[rank - 1];
        let k = inputs[0].shape[rank - 1];
        let mut out = vec![0.0; output.len()];
        for (i, c) in out.chunks_exact_mut((m * n).max(1)).enumerate() {
            Self::multiply(c, &a[i * m * k..], &b[i * k * n..], [m, k, n], (n as isize, 1));
        }
        Ok(Data::F32(out))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let shape = emit.output.ty.shape.clone();
        let rank = shape.len();
        let [m, n, k] = [shape[rank - 2], shape[rank - 1], emit.inputs[0].ty.last()];
        let overrides = vec![("M", m as f64), ("N", n as f64), ("K", k as f64), ("TOTAL", emit.output.ty.len() as f64)];
        let kernel = Kernel { shader: "matmul", options: vec![], overrides, hole: String::new() };
        let bindings = vec![(0, emit.inputs[0].operand()), (1, emit.inputs[1].operand()), (2, emit.output.operand())];
        let count = emit.output.ty.len().div_ceil(64);
        let results = emit.output.ty.len() as u64;
        let elements = emit.inputs.iter().map(|x| x.ty.len() as u64).sum::<u64>() + results;
        emit.dispatch(kernel, bindings, [count, 1], Work::of(4 * elements, 2 * k as u64 * results));
        Ok(())
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        Tolerance::new(Tolerance::of_sum(case.width()), Scale::Absolute, 0.0)
    }

    fn cases(&self) -> Vec<Case> {
        let case = |batch: usize, m: usize, k: usize, n: usize| {
            let operands = vec![Case::values(&[batch, m, k], 1, 1.0), Case::values(&[batch, k, n], 2, 1.0)];
            Case::new(format!("{batch}x{m}x{k}x{n}"), MatMul, operands)
        };
        vec![case(1, 1, 1, 1), case(2, 3, 17, 5), case(3, 8, 64, 9)]
    }
}
