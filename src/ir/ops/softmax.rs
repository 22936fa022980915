//! Softmax over the innermost dimension.

use super::{Lowering, OpDef, Reduce, ReduceFn, Unary, expect_operands};
use crate::{
    Result,
    ir::{
        BinaryFn, Case, DType, Graph, NodeId, Type, UnaryFn, expect_dtype,
        tolerance::{EPS, Scale, Tolerance},
    },
};

/// `exp(x − max) / Σ exp(x − max)` over the innermost dimension, f32. Attention carries its own; this one is for custom
/// stages.
#[derive(Debug, Clone, PartialEq)]
pub struct Softmax;

impl Softmax {
    pub(super) fn example() -> Self {
        Self
    }

    fn definition(g: &mut Graph, x: NodeId) -> Result<NodeId> {
        let max = g.push(Reduce { f: ReduceFn::Max }, &[x])?;
        let shifted = g.binary(BinaryFn::Sub, x, max)?;
        let exp = g.push(Unary { f: UnaryFn::Exp }, &[shifted])?;
        let sum = g.push(Reduce { f: ReduceFn::Sum }, &[exp])?;
        g.binary(BinaryFn::Div, exp, sum)
    }
}

impl OpDef for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x] = expect_operands(inputs)?;
        expect_dtype("x", x, &[DType::F32])?;
        if x.shape.rank() == 0 { Err("a scalar has no dimension".into()) } else { Ok(x.clone()) }
    }

    fn decompose(&self, graph: &mut Graph, inputs: &[NodeId]) -> Option<Result<NodeId>> {
        Some(Self::definition(graph, inputs[0]))
    }

    fn runs_decomposed(&self) -> bool {
        true
    }

    fn lowering(&self) -> Lowering {
        Lowering::Decompose
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        // exp of up to 3 + 2|x − max| ULP, which vanishes together with what it multiplies; a sum, a division.
        Tolerance::new(Tolerance::of_sum(case.width()) + 50.0 * EPS, Scale::Result, 1e-7)
    }

    fn cases(&self) -> Vec<Case> {
        let case =
            |shape: &[usize], scale| Case::new(format!("{shape:?} ±{scale}"), Softmax, vec![Case::values(shape, 1, scale)]);
        vec![case(&[1, 1], 1.0), case(&[3, 65], 50.0), case(&[2, 2, 7], 3.0)]
    }
}
