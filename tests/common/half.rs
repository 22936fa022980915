//! The gates of f16 (docs/gemma.md, Numerical precision).

use gemmaflow::gemma::GemmaArch;

use super::oracle::worst;

/// The root mean square error of logits, also as a share of theirs.
pub const RMS: f64 = 1e-2;

/// The same for f16 activations from Gemma 3n on.
pub const RMS_FROM_3N: f64 = 3e-2;

/// Where the oracle's likeliest token is ahead of the second by more, it must be the likeliest.
const MARGIN: f32 = 0.05;

/// The gate of a family.
pub fn gate(arch: GemmaArch) -> f64 {
    match arch {
        GemmaArch::Gemma | GemmaArch::Gemma2 | GemmaArch::VaultGemma | GemmaArch::Gemma3 => RMS,
        _ => RMS_FROM_3N,
    }
}

fn best_two(row: &[f32]) -> (usize, f32) {
    let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("a row");
    let second = row.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, x)| *x).fold(f32::MIN, f32::max);
    (best, row[best] - second)
}

/// The root of the mean of the squares.
fn size(numbers: impl ExactSizeIterator<Item = f32>) -> f64 {
    let count = numbers.len() as f64;
    (numbers.map(|x| f64::from(x).powi(2)).sum::<f64>() / count).sqrt()
}

/// The root mean square error, as a share of what is expected.
pub fn share(found: &[f32], expected: &[f32]) -> f64 {
    size(found.iter().zip(expected).map(|(a, b)| a - b)) / size(expected.iter().copied())
}

/// Holds logits to a gate and to the oracle's likeliest tokens, and gives the largest error.
pub fn within(gate: f64, what: &str, found: &[f32], expected: &[f32], vocab: usize) -> f32 {
    let largest = worst(found, expected);
    let rms = size(found.iter().zip(expected).map(|(a, b)| a - b));
    let share = share(found, expected);
    let rows = found.chunks(vocab).zip(expected.chunks(vocab));
    let clear: Vec<bool> =
        rows.filter(|(_, row)| best_two(row).1 > MARGIN).map(|(found, row)| best_two(found).0 == best_two(row).0).collect();
    let wrong = clear.iter().filter(|same| !**same).count();
    let right = clear.len() - wrong;
    println!("{what} rms {rms:.1e} ({share:.1e} of the logits'), largest {largest:.1e}, top-1 {right}/{}", clear.len());
    assert!(rms <= gate && share <= gate, "{what}: rms {rms}, {share} of the logits'");
    assert!(clear.len() > 10 && wrong == 0, "{what}: {wrong} of {} top-1", clear.len());
    largest
}
