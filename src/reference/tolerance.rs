//! How far a kernel may be from the reference in the cases of its op, in one table, with reasons.

use std::sync::Arc;

use super::evaluate;
use crate::{
    Error, Result,
    ir::{
        BinaryFn, Case, Compute, DType, Data, DimBinding, Op, UnaryFn, Value,
        ops::{ReduceFn, RmsNorm},
    },
    weights::Tensor,
};

const EPS: f64 = f32::EPSILON as f64;

/// What an error is measured against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// The result itself.
    Result,
    /// The op on the absolute values of its operands: Σ|x·w| for a product.
    Absolute,
    /// The largest absolute value of operand `n`.
    Largest(usize),
}

/// |found − expected| ≤ relative · scale + absolute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Part of the scale that an error may be.
    pub relative: f64,
    /// The scale.
    pub scale: Scale,
    /// What an error may be besides.
    pub absolute: f64,
}

fn of(relative: f64, scale: Scale, absolute: f64) -> Tolerance {
    Tolerance { relative, scale, absolute }
}

/// How far a kernel in f32 may be off in a case: the table.
pub fn tolerance(case: &Case) -> Tolerance {
    let exact = of(0.0, Scale::Result, 0.0);
    let inner = case.inputs.first().and_then(|v| v.shape.last()).map_or(1.0, |&n| n as f64);
    // A sum of n products in any order is off by at most n·ε·Σ|products|, and with rounding errors that are independent by
    // about √n·ε (Higham & Mary 2019).
    let sum = |n: f64| 4.0 * n.sqrt().max(1.0) * EPS;
    match &case.op {
        Op::Unary(op) => match op.f {
            UnaryFn::Neg | UnaryFn::Abs => exact,
            // WGSL: exp within 3 + 2|x| ULP, |x| ≤ 4 in the cases.
            UnaryFn::Exp => of(12.0 * EPS, Scale::Result, 0.0),
            // WGSL: log within 2⁻²¹ on [0.5, 2], else 3 ULP.
            UnaryFn::Log => of(3.0 * EPS, Scale::Result, 4.8e-7),
            // WGSL: sqrt is 1/inverseSqrt: 2 ULP, then 2.5.
            UnaryFn::Sqrt => of(5.0 * EPS, Scale::Result, 0.0),
            UnaryFn::Recip => of(2.5 * EPS, Scale::Result, 0.0),
            // WGSL: tanh is sinh/cosh, each a difference or sum of two exp of up to 3 + 2|x| ULP; WGSL bounds it absolutely.
            UnaryFn::Tanh => of(0.0, Scale::Result, 1e-6),
            // ½x(1 + tanh): the error of tanh times x where tanh is not ±1, and a ULP of tanh times x where it is.
            UnaryFn::GeluTanh => of(EPS, Scale::Largest(0), 4e-6),
        },
        Op::Binary(op) => match op.f {
            // WGSL: division within 2.5 ULP.
            BinaryFn::Div => of(2.5 * EPS, Scale::Result, 0.0),
            // IEEE 754 rounds these correctly, and no case has subnormals.
            _ => exact,
        },
        Op::MatMul(_) | Op::Linear(_) | Op::ExpertLinear(_) => of(sum(inner), Scale::Absolute, 0.0),
        Op::Reduce(op) if op.f == ReduceFn::Sum => of(sum(inner), Scale::Absolute, 0.0),
        // A sum of squares under a root (half its error), a division, a root, the gain's 1 + γ and two products.
        Op::RmsNorm(RmsNorm { .. }) => of(sum(inner) + 10.0 * EPS, Scale::Result, 1e-7),
        // exp of up to 3 + 2|x − max| ULP, which vanishes together with what it multiplies; a sum, a division. Indices
        // of experts are whole numbers, far below where this is a half.
        Op::Softmax(_) | Op::Route(_) => of(sum(inner) + 50.0 * EPS, Scale::Result, 1e-7),
        // Two products and a sum; cosines and sines are given.
        Op::Rope(_) => of(4.0 * EPS, Scale::Largest(0), 0.0),
        // Keys and values of 16 bits are the same numbers for both sides. Weights are off by the error of a score, √H·ε·|q||k|, and
        // their mean of v is off by as much of the largest v.
        Op::Attention(_) => of(16.0 * sum(inner), Scale::Largest(2), 0.0),
        // They move elements, widen them without rounding, round them to nearest in the same way (f16 caches), or choose one.
        Op::Reduce(_) | Op::Select(_) | Op::Cast(_) | Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) => exact,
        // Packed numbers are a product less an offset, which devices may fuse; the offset may be as large as the table's numbers.
        Op::Gather(_) if matches!(case.inputs[0].dtype(), DType::Packed(_)) => of(2.0 * EPS, Scale::Largest(0), 0.0),
        Op::Slice(_) | Op::Concat(_) | Op::Gather(_) | Op::CacheWrite(_) => exact,
        Op::Input(_) | Op::Weight(_) | Op::Const(_) => exact,
    }
}

/// The table for products whose operands are rounded to f16.
fn half_tolerance(case: &Case) -> Tolerance {
    let full = tolerance(case);
    let inner = case.inputs.first().and_then(|v| v.shape.last()).map_or(1.0, |&n| n as f64);
    match &case.op {
        // Each operand is off by 2⁻¹¹ of itself at most and so a product by 2⁻¹⁰; over n products whose errors are independent
        // that is 2⁻¹⁰/√n of Σ|products|, here with room for 7 standard deviations of operands in ±1. Below 2⁻¹⁴ f16 rounds
        // to multiples of 2⁻²⁴.
        Op::Linear(_) => {
            let rounding = f64::min(1.0, 4.0 / inner.sqrt()) * f64::exp2(-10.0);
            of(full.relative + rounding, Scale::Absolute, inner * f64::exp2(-24.0))
        }
        // As above each term of a score is off by 2⁻¹⁰ of itself at most, a score by 2⁻¹⁰/√H of Σ|terms|; a weight is off by as much of
        // itself, and once more as it is rounded, as are values.
        Op::Attention(op) => {
            let largest = |n: usize| numbers(&case.inputs[n]).iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            let score = f64::from(op.scale) * inner.sqrt() * largest(0) * largest(1);
            of(full.relative + f64::exp2(-10.0) * (1.0 + 0.5 * score), Scale::Largest(2), 0.0)
        }
        _ => full,
    }
}

/// What the reference says of a case.
///
/// # Errors
/// What the op says of its operands.
pub fn expected(case: &Case) -> Result<Value> {
    let graph = case.graph()?;
    let operands: Vec<Arc<Value>> = case.inputs.iter().cloned().map(Arc::new).collect();
    match graph.fixed_types(&DimBinding::new())?.pop() {
        Some(ty) => evaluate(&case.op, &operands, &ty),
        None => Err(Error::Graph { graph: graph.name.clone(), problem: "a case without a result".into() }),
    }
}

/// As [`compare_with`] in f32.
///
/// # Errors
/// As [`compare_with`].
pub fn compare(case: &Case, expected: &Value, found: &Value) -> Result<f64, String> {
    compare_with(case, Compute::F32, expected, found)
}

/// Compares a result with the reference's: the largest error as a share of what is allowed.
///
/// # Errors
/// Which element is wrong, and by how much.
pub fn compare_with(case: &Case, compute: Compute, expected: &Value, found: &Value) -> Result<f64, String> {
    let deviation = deviation(case, compute, expected, found)?;
    if deviation.fits() { Ok(deviation.share) } else { Err(deviation.to_string()) }
}

/// How far a result is from the reference's: its worst element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// The error as a share of what is allowed; infinite where the result is no number, or differs and must not.
    pub share: f64,
    /// The element with the largest share, the first of equals.
    pub element: usize,
    /// The device's number.
    pub found: f64,
    /// The reference's number.
    pub expected: f64,
    /// How far the two may be apart.
    pub allowed: f64,
    /// Elements that are further off than allowed.
    pub wrong: usize,
    /// All elements.
    pub elements: usize,
}

impl Deviation {
    /// Whether no element is further off than allowed.
    pub fn fits(&self) -> bool {
        self.wrong == 0
    }
}

impl std::fmt::Display for Deviation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { element, found, expected, allowed, wrong, elements, .. } = self;
        write!(
            f,
            "element {element}: {found:.6e}, expected {expected:.6e} within {allowed:.1e} ({wrong} of {elements} differ by more)"
        )
    }
}

/// The element of a result that is furthest from the reference's, measured by what is allowed.
///
/// # Errors
/// A result of another type or shape.
pub fn deviation(case: &Case, compute: Compute, expected: &Value, found: &Value) -> Result<Deviation, String> {
    if expected.shape != found.shape || expected.dtype() != found.dtype() {
        let ty = |v: &Value| format!("{}{:?}", v.dtype(), v.shape);
        return Err(format!("found {}, expected {}", ty(found), ty(expected)));
    }
    let tolerance = if compute == Compute::F16 { half_tolerance(case) } else { tolerance(case) };
    let want = numbers(expected);
    let have = numbers(found);
    let absolute = match tolerance.scale {
        Scale::Absolute => numbers(&self::expected(&absolute(case)).map_err(|e| e.to_string())?),
        _ => Vec::new(),
    };
    let largest = match tolerance.scale {
        Scale::Largest(n) => numbers(&case.inputs[n]).iter().fold(0.0, |m: f64, v| m.max(v.abs())),
        _ => 0.0,
    };
    let none = Deviation { share: -1.0, element: 0, found: 0.0, expected: 0.0, allowed: 0.0, wrong: 0, elements: want.len() };
    let mut worst = none;
    for (element, (&expected, &found)) in want.iter().zip(&have).enumerate() {
        let scale = match tolerance.scale {
            Scale::Result => expected.abs(),
            Scale::Absolute => absolute[element].abs(),
            Scale::Largest(_) => largest,
        };
        let allowed = tolerance.relative * scale + tolerance.absolute;
        let share = share(found, expected, allowed);
        worst.wrong += usize::from(share > 1.0);
        if share > worst.share {
            worst = Deviation { share, element, found, expected, allowed, ..worst };
        }
    }
    worst.share = worst.share.max(0.0);
    Ok(worst)
}

/// An error as a share of what is allowed.
fn share(found: f64, expected: f64, allowed: f64) -> f64 {
    let error = (found - expected).abs();
    match found == expected {
        true => 0.0,
        false if error <= allowed => error / allowed,
        // Also where nothing is allowed, and where one of the two is no number.
        false if allowed > 0.0 && error.is_finite() => error / allowed,
        false => f64::INFINITY,
    }
}

/// The same case with absolute values.
fn absolute(case: &Case) -> Case {
    let positive = |v: &Value| match &v.data {
        Data::Stored(tensor) => {
            let values: Vec<f32> = numbers(v).iter().map(|x| x.abs() as f32).collect();
            Value::stored(Tensor::from_f32(tensor.name(), v.shape.clone(), &values))
        }
        Data::F32(x) => Value::f32(v.shape.clone(), x.iter().map(|x| x.abs()).collect()),
        Data::F16(_) => Value::f16(v.shape.clone(), &numbers(v).iter().map(|x| x.abs() as f32).collect::<Vec<_>>()),
        _ => v.clone(),
    };
    Case { inputs: case.inputs.iter().map(positive).collect(), ..case.clone() }
}

/// All elements in f64; none of a stored value that cannot be read.
pub fn numbers(value: &Value) -> Vec<f64> {
    match &value.data {
        Data::I32(v) => v.iter().map(|&x| x.into()).collect(),
        Data::U32(v) => v.iter().map(|&x| x.into()).collect(),
        _ => value.to_f32().map_or_else(|_| Vec::new(), |values| values.iter().map(|&x| x.into()).collect()),
    }
}
