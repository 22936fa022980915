//! DoRA's factor on each element of a product: the trained length of a row of the adapted weight, divided by its
//! present length.

use rayon::prelude::*;

use super::LoraPart;
use crate::{Result, weights::Tensor};

/// `magnitude / ‖W + scale · B·A‖` by row, `[N]`. The weight is widened a row at a time.
pub(super) fn factors(weight: &Tensor, part: &LoraPart, magnitude: &Tensor) -> Result<Tensor> {
    let inner = weight.shape().last().copied().unwrap_or(1);
    let rank = part.a.shape().first().copied().unwrap_or(1);
    let a = part.a.to_f32()?;
    let b = part.b.to_f32()?;
    let wanted = magnitude.to_f32()?;
    let factor = |(row, wanted): (usize, &f32)| -> Result<f32> {
        let mut sum = vec![0.0; inner];
        weight.read_f32(row * inner, &mut sum)?;
        for (a, b) in a.chunks_exact(inner).zip(&b[row * rank..]) {
            let b = b * part.scale;
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
        let length = sum.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        Ok((f64::from(*wanted) / length) as f32)
    };
    let factors: Vec<f32> = wanted.par_iter().enumerate().map(factor).collect::<Result<_>>()?;
    Ok(Tensor::from_f32("factor", vec![factors.len()], &factors))
}
