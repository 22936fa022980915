//! Layer normalisation.

use super::{
    Binary, Cast, Lowering, OpDef, Unary,
    reduce::{each_row, sum},
};
use crate::{
    Result,
    ir::{
        BinaryFn, Case, DType, Data, FixedType, Graph, NodeId, Type, UnaryFn, Value,
        emit::Emit,
        expect_dtype,
        kernel::{Kernel, weight_option},
        tolerance::{EPS, Scale, Tolerance},
        work::Work,
    },
};

/// `y = (x − mean(x)) · (var(x) + eps)^-½ · γ + β` over the innermost dimension, in f32 (Ba, Kiros & Hinton 2016). The
/// variance is that of the row itself, divided by C.
///
/// Operands: x `[…, C]`, the gain γ `[C]` as stored, and with `bias` β `[C]` of the same type.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance, inside the root.
    pub eps: f32,
    /// True if there is a β.
    pub bias: bool,
}

impl LayerNorm {
    pub(super) fn example() -> Self {
        Self { eps: 1e-6, bias: true }
    }

    fn definition(&self, g: &mut Graph, inputs: &[NodeId]) -> Result<NodeId> {
        let x = inputs[0];
        let mean = g.mean(x)?;
        let centred = g.binary(BinaryFn::Sub, x, mean)?;
        let squares = g.push(Binary { f: BinaryFn::Mul }, &[centred, centred])?;
        let variance = g.mean(squares)?;
        let eps = g.constant(self.eps)?;
        let shifted = g.binary(BinaryFn::Add, variance, eps)?;
        let root = g.push(Unary { f: UnaryFn::Sqrt }, &[shifted])?;
        let normed = g.binary(BinaryFn::Div, centred, root)?;
        let gain = g.push(Cast, &[inputs[1]])?;
        let y = g.binary(BinaryFn::Mul, normed, gain)?;
        if !self.bias {
            return Ok(y);
        }
        let bias = g.push(Cast, &[inputs[2]])?;
        g.binary(BinaryFn::Add, y, bias)
    }
}

impl OpDef for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn attributes(&self) -> String {
        format!("{{eps={:e}, bias={}}}", self.eps, self.bias)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let operands = 2 + usize::from(self.bias);
        if inputs.len() != operands {
            return Err(format!("{} operands, expected {operands}", inputs.len()));
        }
        expect_dtype("x", inputs[0], &[DType::F32])?;
        let is_row = |weight: &Type| weight.shape.rank() == 1 && weight.shape.last() == inputs[0].shape.last();
        if !is_row(inputs[1]) {
            return Err("the gain must be one row as wide as x".into());
        }
        if inputs[2..].iter().any(|bias| *bias != inputs[1]) {
            return Err("the bias must have the gain's type and shape".into());
        }
        Ok(inputs[0].clone())
    }

    fn decompose(&self, graph: &mut Graph, inputs: &[NodeId]) -> Option<Result<NodeId>> {
        Some(self.definition(graph, inputs))
    }

    fn eval(&self, inputs: &[&Value], _: &FixedType) -> Result<Data> {
        let x = inputs[0].to_f32()?;
        let gain = inputs[1].to_f32()?;
        let width = gain.len().max(1);
        let bias = match inputs.get(2) {
            Some(bias) => bias.to_f32()?.into_owned(),
            None => vec![0.0; width],
        };
        Ok(Data::F32(each_row(&x, width, |x, out| {
            let mean = sum(x, |x| x) / width as f64;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f64;
            let factor = 1.0 / (variance + f64::from(self.eps)).sqrt();
            for (((out, x), gain), bias) in out.iter_mut().zip(x).zip(gain.iter()).zip(&bias) {
                *out = ((f64::from(*x) - mean) * factor * f64::from(*gain) + f64::from(*bias)) as f32;
            }
        })))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let rows = emit.output.ty.rows();
        let columns = emit.output.ty.last();
        let (tier, lanes) = emit.target.row_option();
        let (bias, weights) = if self.bias { ("yes", "2") } else { ("no", "1") };
        let mut options = vec![("TIER", tier.into()), ("LANES", lanes.to_string()), weight_option(emit.inputs[1].ty.dtype)];
        options.extend([("VEC", "1".into()), ("WEIGHTS", weights.into()), ("BIAS", bias.into())]);
        let overrides = vec![("R", rows as f64), ("C", columns as f64), ("EPS", f64::from(self.eps))];
        let kernel = Kernel { shader: "layer_norm", options, overrides, hole: emit.epilogue.text.clone() };
        let mut bindings = vec![(0, emit.inputs[0].operand()), (1, emit.output.operand())];
        bindings.extend((2..).zip(emit.inputs[1..].iter().map(|weight| weight.operand())));
        bindings.extend(emit.epilogue_bindings(0));
        let elements = (rows * columns) as u64;
        let work = Work::of(4 * elements * (2 + emit.epilogue.operands.len() as u64), 7 * elements);
        emit.dispatch(kernel, bindings, [rows, 1], work);
        Ok(())
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        // The mean is off by a sum's error of the largest distance from the first element, which the division by the
        // deviation enlarges; the rest is as in a root-mean-square norm. A deviation is at least √eps.
        let width = case.width();
        let numbers = case.inputs[0].numbers();
        let enlarged = numbers.chunks(width).map(|row| {
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
            row.iter().fold(0.0, |most: f64, x| most.max((x - row[0]).abs())) / (variance + f64::from(self.eps)).sqrt()
        });
        let absolute = Tolerance::of_sum(width) * enlarged.fold(0.0, f64::max) * case.largest(1) + 1e-7;
        Tolerance::new(Tolerance::of_sum(width) + 12.0 * EPS, Scale::Result, absolute)
    }

    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, x: Value, bias: bool, dtype| {
            let columns = x.shape.last().copied().unwrap_or(1);
            let weights = (2..).take(1 + usize::from(bias)).map(|seed| Case::weight(&[columns], seed, 1.0, dtype));
            let operands = std::iter::once(x).chain(weights).collect();
            Case::new(format!("{name} {dtype}"), LayerNorm { eps: 1e-6, bias }, operands)
        };
        let shifted = |by: f32| Value::f32([2, 70], Case::numbers(140, 1, 1.0).iter().map(|x| x + by).collect());
        let near = Case::numbers(432, 1, 0.002).iter().map(|x| x + 0.7).collect();
        vec![
            case("one element", Case::values(&[1, 1], 1, 1.0), true, DType::F32),
            case("3x63", Case::values(&[3, 63], 1, 3.0), true, DType::BF16),
            case("5x64 without a bias", Case::values(&[5, 64], 1, 3.0), false, DType::F16),
            case("a large mean", shifted(100.0), true, DType::F32),
            case("equal elements", Value::f32([1, 66], vec![2.5; 66]), true, DType::F32),
            case("nearly equal elements", Value::f32([1, 432], near), true, DType::F32),
            case("70x20 small", Case::values(&[70, 20], 1, 1e-4), true, DType::F32),
            case("1x1152", Case::values(&[1, 1152], 1, 8.0), true, DType::BF16),
        ]
    }
}
