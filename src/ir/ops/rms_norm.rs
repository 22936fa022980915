//! Root-mean-square normalisation.

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

/// The factor that the stored weight γ stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gain {
    /// 1 + γ (Gemma 1 to 3)
    OnePlus,
    /// γ (Gemma 3n and 4, GGUF files)
    Plain,
    /// No weight.
    None,
}

impl Gain {
    /// The text option `GAIN`.
    pub(crate) fn option(self) -> (&'static str, String) {
        let word = match self {
            Gain::OnePlus => "one_plus",
            Gain::Plain => "plain",
            Gain::None => "none",
        };
        ("GAIN", word.into())
    }
}

/// `y = x · (mean(x²) + eps)^-½ · gain` over the innermost dimension, in f32 (docs/gemma.md, RMSNorm; Zhang & Sennrich
/// 2019).
///
/// Operands: x `[…, C]`, and unless the gain is `None` the weight `[C]` as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean square, inside the root.
    pub eps: f32,
    /// The meaning of the weight.
    pub gain: Gain,
}

impl RmsNorm {
    pub(super) fn example() -> Self {
        Self { eps: 1e-6, gain: Gain::OnePlus }
    }

    fn definition(&self, g: &mut Graph, inputs: &[NodeId]) -> Result<NodeId> {
        let x = inputs[0];
        let squares = g.push(Binary { f: BinaryFn::Mul }, &[x, x])?;
        let mean = g.mean(squares)?;
        let eps = g.constant(self.eps)?;
        let shifted = g.binary(BinaryFn::Add, mean, eps)?;
        let root = g.push(Unary { f: UnaryFn::Sqrt }, &[shifted])?;
        let y = g.binary(BinaryFn::Div, x, root)?;
        if self.gain == Gain::None {
            return Ok(y);
        }
        let mut gain = g.push(Cast, &[inputs[1]])?;
        if self.gain == Gain::OnePlus {
            let one = g.constant(1.0)?;
            gain = g.binary(BinaryFn::Add, gain, one)?;
        }
        g.binary(BinaryFn::Mul, y, gain)
    }
}

impl OpDef for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn attributes(&self) -> String {
        format!("{{eps={:e}, gain={:?}}}", self.eps, self.gain)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let operands = if self.gain == Gain::None { 1 } else { 2 };
        if inputs.len() != operands {
            return Err(format!("{} operands, expected {operands}", inputs.len()));
        }
        expect_dtype("x", inputs[0], &[DType::F32])?;
        if let Some(gain) = inputs.get(1)
            && (gain.shape.rank() != 1 || gain.shape.last() != inputs[0].shape.last())
        {
            return Err("the gain must be one row as wide as x".into());
        }
        Ok(inputs[0].clone())
    }

    fn decompose(&self, graph: &mut Graph, inputs: &[NodeId]) -> Option<Result<NodeId>> {
        Some(self.definition(graph, inputs))
    }

    fn eval(&self, inputs: &[&Value], _: &FixedType) -> Result<Data> {
        let x = inputs[0].to_f32()?;
        let width = inputs[0].shape.last().copied().unwrap_or(1).max(1);
        let mut gain = inputs.get(1).map_or(Ok(vec![1.0; width]), |gain| Ok::<_, crate::Error>(gain.to_f32()?.into_owned()))?;
        if self.gain == Gain::OnePlus {
            gain.iter_mut().for_each(|gain| *gain += 1.0);
        }
        Ok(Data::F32(each_row(&x, width, |x, out| {
            let squares: f64 = sum(x, |x| x * x);
            let factor = 1.0 / (squares / width as f64 + f64::from(self.eps)).sqrt();
            for ((out, x), gain) in out.iter_mut().zip(x).zip(&gain) {
                *out = (f64::from(*x) * factor * f64::from(*gain)) as f32;
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
        let stored = emit.inputs.get(1).map_or(DType::F32, |a| a.ty.dtype);
        let second = emit.second_norm();
        let (has_second, weights) = if second.is_some() { ("yes", "2") } else { ("no", "1") };
        let mut options = vec![("TIER", tier.into()), self.gain.option(), ("LANES", lanes.to_string())];
        options.extend([weight_option(stored), ("VEC", "1".into()), ("WEIGHTS", weights.into())]);
        options.push(("SECOND_NORM", has_second.into()));
        let mut overrides = vec![("R", rows as f64), ("C", columns as f64), ("EPS", f64::from(self.eps))];
        let mut bindings = vec![(0, emit.inputs[0].operand()), (1, emit.output.operand())];
        bindings.extend(emit.inputs.get(1).map(|gain| (2, gain.operand())));
        if let Some(norm) = second {
            overrides.push(("SECOND_EPS", f64::from(norm.op.eps)));
            bindings.extend(norm.gain.as_ref().map(|gain| (3, gain.operand())));
        }
        bindings.extend(emit.second_output.as_ref().map(|result| (4, result.operand())));
        let kernel = Kernel { shader: "rms_norm", options, overrides, hole: emit.epilogue.text.clone() };
        bindings.extend(emit.epilogue_bindings(0));
        let norms = 1 + u64::from(emit.second_norm().is_some());
        let elements = (rows * columns) as u64;
        let work = Work::of(4 * elements * (1 + norms + emit.epilogue.operands.len() as u64), 4 * elements * norms);
        emit.dispatch(kernel, bindings, [rows, 1], work);
        Ok(())
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        // A sum of squares under a root (half its error), a division, a root, the gain's 1 + γ and two products.
        Tolerance::new(Tolerance::of_sum(case.width()) + 10.0 * EPS, Scale::Result, 1e-7)
    }

    fn cases(&self) -> Vec<Case> {
        let case = |rows: usize, columns: usize, gain, dtype, scale| {
            let mut operands = vec![Case::values(&[rows, columns], 1, scale)];
            if gain != Gain::None {
                operands.push(Case::weight(&[columns], 2, 1.0, dtype));
            }
            Case::new(format!("{rows}x{columns} {gain:?} {dtype} ±{scale:e}"), RmsNorm { eps: 1e-6, gain }, operands)
        };
        vec![
            case(1, 1, Gain::OnePlus, DType::F32, 1.0),
            case(3, 63, Gain::OnePlus, DType::BF16, 3.0),
            case(5, 64, Gain::Plain, DType::F16, 3.0),
            case(2, 65, Gain::None, DType::F32, 1e-4),
            case(70, 20, Gain::OnePlus, DType::F32, 1e4),
            case(1, 2304, Gain::OnePlus, DType::BF16, 8.0),
        ]
    }
}
