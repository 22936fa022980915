//! Shares of a normal distribution, in standard deviations.

/// The inverse of the normal distribution function: the number of standard deviations below which the share `p` lies, 0
/// < p < 1, to f64's precision or so.
pub(super) fn deviations(p: f64) -> f64 {
    let mut low = -9.0;
    let mut high = 9.0;
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if share_below(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Φ(x) by the series ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …) (Marsaglia 2004).
fn share_below(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    let mut odd = 1.0;
    while term.abs() > sum.abs() * 1e-18 {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
}

#[cfg(test)]
mod tests;
