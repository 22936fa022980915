//! Which experts a token takes, and how much of each.

use super::{Lowering, OpDef, Softmax, expect_operands};
use crate::{
    Result,
    ir::{
        Case, DType, Data, Dim, FixedType, Type, Value,
        emit::Emit,
        expect_dtype, expect_weight,
        kernel::{Kernel, weight_option},
        tolerance::Tolerance,
        work::Work,
    },
};

/// The largest and smallest logit that counts as it is: others are taken for these, and what is no number for the
/// smallest.
const MOST: f32 = 3.4e38;

/// Of each row of logits `[…, E]` the k largest, largest first and of equals the lowest index first; their softmax
/// among themselves; and that times the scale of each, from a weight `[E]`. The result `[…, 2, k]` holds the indices,
/// as whole numbers in f32, then the shares.
///
/// The softmax over all E, divided by the sum of the k, is the softmax among the k (docs/gemma.md, Experts).
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Experts that a row takes.
    pub k: usize,
}

impl Route {
    pub(super) fn example() -> Self {
        Self { k: 2 }
    }

    fn choose(&self, logits: &[f32], scales: &[f32], out: &mut [f32]) {
        let value = |e: &usize| if logits[*e] > -MOST { logits[*e].min(MOST) } else { -MOST };
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| value(b).total_cmp(&value(a)));
        let chosen = &order[..self.k];
        let most = chosen.first().map_or(0.0, value);
        let share = |e: &usize| f64::from((value(e) - most).max(-100.0)).exp();
        let sum: f64 = chosen.iter().map(share).sum();
        let (ids, shares) = out.split_at_mut(self.k);
        for ((id, part), e) in ids.iter_mut().zip(shares).zip(chosen) {
            (*id, *part) = (*e as f32, (share(e) / sum) as f32 * scales[*e]);
        }
    }
}

impl OpDef for Route {
    fn name(&self) -> &'static str {
        "route"
    }

    fn attributes(&self) -> String {
        format!("{{k={}}}", self.k)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [logits, scales] = expect_operands(inputs)?;
        expect_dtype("the logits", logits, &[DType::F32])?;
        expect_weight("the scales", scales)?;
        let experts = logits.shape.last().and_then(Dim::fixed);
        let fits = experts.is_some_and(|experts| (1..=experts).contains(&self.k));
        if !fits
            || scales.shape.rank() != 1
            || scales.shape.last() != logits.shape.last()
            || scales.dtype.scalar_bytes().is_none()
        {
            return Err(format!("expected logits […, E] of at least {} experts and scales [E]", self.k));
        }
        let lead = logits.shape.0[..logits.shape.rank() - 1].iter().copied();
        Ok(Type::new(DType::F32, crate::ir::Shape(lead.chain([2.into(), self.k.into()]).collect())))
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let logits = inputs[0].to_f32()?;
        let scales = inputs[1].to_f32()?;
        let mut out = vec![0.0; output.len()];
        let rows = logits.chunks_exact(scales.len().max(1)).zip(out.chunks_exact_mut(2 * self.k));
        rows.for_each(|(logits, out)| self.choose(logits, &scales, out));
        Ok(Data::F32(out))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let rows = emit.inputs[0].ty.rows();
        let experts = emit.inputs[0].ty.last();
        let (tier, lanes) = emit.target.reduction_option();
        let options = [("TIER", tier.into()), ("LANES", lanes.to_string()), weight_option(emit.inputs[1].ty.dtype)];
        let options = options.into_iter().chain([("VEC", "1".into()), ("WEIGHTS", "1".into())]).collect();
        let overrides = vec![("R", rows as f64), ("E", experts as f64), ("TOP", self.k as f64)];
        let kernel = Kernel { shader: "route", options, overrides, hole: String::new() };
        let bindings = vec![(0, emit.inputs[0].operand()), (1, emit.output.operand()), (2, emit.inputs[1].operand())];
        emit.dispatch(kernel, bindings, [rows, 1], Work::moves(4 * rows as u64 * (experts + 2 * self.k) as u64));
        Ok(())
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        // That of a softmax. Indices of experts are whole numbers, far below where this is a half.
        Softmax.tolerance(case)
    }

    fn cases(&self) -> Vec<Case> {
        let scales = |experts: usize, dtype| Case::weight(&[experts], 9, 2.0, dtype);
        let case = |rows: usize, experts: usize, k, dtype| {
            let operands = vec![Case::values(&[1, rows, experts], 3, 4.0), scales(experts, dtype)];
            Case::new(format!("{rows} rows, {k} of {experts}, {dtype}"), Route { k }, operands)
        };
        let own = |name: &str, k, experts: usize, logits: Vec<f32>| {
            let operands = vec![Value::f32([logits.len() / experts, experts], logits), scales(experts, DType::F32)];
            Case::new(name, Route { k }, operands)
        };
        let ties: Vec<f32> = (0..3 * 70).map(|i| ((i * 7 % 5) as f32) * 0.5).collect();
        let odd = vec![f32::NAN, 1.0, f32::NAN, 2.0, f32::NEG_INFINITY, f32::NAN, f32::NAN, f32::NAN, f32::INFINITY, 1.0];
        vec![
            case(1, 1, 1, DType::F32),
            case(3, 5, 2, DType::BF16),
            case(33, 6, 6, DType::F16),
            case(2, 65, 3, DType::F32),
            case(9, 128, 8, DType::BF16),
            case(1, 2048, 32, DType::F32),
            own("ties", 6, 70, ties),
            own("all equal", 4, 9, vec![0.25; 18]),
            own("no numbers", 4, 5, odd),
        ]
    }
}

#[cfg(test)]
mod tests;
