//! Changed values against those that they were made from.

use super::*;

fn changed(of: fn(Tensor) -> Tensor, values: &[f32]) -> Vec<f32> {
    of(Tensor::from_f32("x", vec![values.len()], values)).to_f32().unwrap()
}

#[test]
fn softplus_is_undone() {
    // Below -87 the numbers of y have fewer bits.
    let x: Vec<f32> = (-340..=400).map(|i| i as f32 * 0.25).collect();
    let y: Vec<f32> = x.iter().map(|x| f64::from(*x).exp().ln_1p() as f32).collect();
    for ((x, y), found) in x.iter().zip(&y).zip(changed(before_softplus, &y)) {
        let again = f64::from(found).exp().ln_1p();
        let error = (again - f64::from(*y)).abs() / f64::from(*y).max(1e-37);
        assert!(error < 1e-5 && (found - x).abs() <= 1e-5 * x.abs().max(1.0), "{x} through {y} is {found}: {error}");
    }
    assert_eq!(changed(before_softplus, &[0.0]), [-104.0]);
    assert!(changed(before_softplus, &[-0.5])[0].is_nan());
}

#[test]
fn one_is_taken_off_and_wide_values_stay() {
    assert_eq!(changed(minus_one, &[1.5, 0.25, -2.0]), [0.5, -0.75, -3.0]);
    assert_eq!(changed(widened, &[1.5, 0.1]), [1.5, 0.1]);
}
