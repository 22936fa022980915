//! Compares the result of a kernel with the reference, by the tolerance of its op.

use std::sync::Arc;

use super::evaluate;
use crate::{
    Error, Result,
    error::GraphError,
    ir::{Case, Compute, Data, DimBinding, Value, tolerance::Scale},
    weights::Tensor,
};

/// The reference's value of a case.
///
/// # Errors
/// Those of the op about its operands.
pub fn expected(case: &Case) -> Result<Value> {
    let graph = case.graph()?;
    let operands: Vec<Arc<Value>> = case.inputs.iter().cloned().map(Arc::new).collect();
    match graph.fixed_types(&DimBinding::new())?.pop() {
        Some(ty) => evaluate(&case.op, &operands, &ty),
        None => Err(Error::Graph(GraphError::Malformed { graph: graph.name.clone(), problem: "a case without a result".into() })),
    }
}

/// As [`compare_with`] in f32.
///
/// # Errors
/// As [`compare_with`].
pub fn compare(case: &Case, expected: &Value, found: &Value) -> Result<f64, String> {
    compare_with(case, Compute::F32, expected, found)
}

/// Compares a result with the reference's: the largest error as a share of the tolerance.
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
    /// The error as a share of the tolerance; infinite where the result is no number, or differs and must not.
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
    /// Returns `true` if no element is further off than allowed.
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

/// The element of a result that is furthest from the reference's, measured by the tolerance.
///
/// # Errors
/// A result of another type or shape.
pub fn deviation(case: &Case, compute: Compute, expected: &Value, found: &Value) -> Result<Deviation, String> {
    if expected.shape != found.shape || expected.dtype() != found.dtype() {
        let ty = |v: &Value| format!("{}{:?}", v.dtype(), v.shape);
        return Err(format!("found {}, expected {}", ty(found), ty(expected)));
    }
    let tolerance = if compute == Compute::F16 { case.op.half_tolerance(case) } else { case.op.tolerance(case) };
    let want = expected.numbers();
    let have = found.numbers();
    let absolute = match tolerance.scale {
        Scale::Absolute => self::expected(&absolute(case)).map_err(|e| e.to_string())?.numbers(),
        _ => Vec::new(),
    };
    let largest = match tolerance.scale {
        Scale::Largest(n) => case.largest(n),
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

/// An error as a share of the tolerance.
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
            let values: Vec<f32> = v.numbers().iter().map(|x| x.abs() as f32).collect();
            Value::stored(Tensor::from_f32(tensor.name(), v.shape.clone(), &values))
        }
        Data::F32(x) => Value::f32(v.shape.clone(), x.iter().map(|x| x.abs()).collect()),
        Data::F16(_) => Value::f16(v.shape.clone(), &v.numbers().iter().map(|x| x.abs() as f32).collect::<Vec<_>>()),
        _ => v.clone(),
    };
    Case { inputs: case.inputs.iter().map(positive).collect(), ..case.clone() }
}
