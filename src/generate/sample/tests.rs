//! Draws and penalties against their definitions.

use super::*;
use crate::error::SamplingError;

fn row() -> Vec<f32> {
    crate::ir::Case::numbers(500, 5, 4.0)
}

fn frequencies(row: &[f32], opts: impl Fn(u64) -> SampleOpts) -> Vec<f64> {
    let mut counts = vec![0.0; row.len()];
    let rounds = 40_000;
    for seed in 0..rounds {
        counts[sample_token_after(row, &opts(seed), &[0; 7]).unwrap() as usize] += 1.0 / rounds as f64;
    }
    counts
}

#[test]
fn greedy_takes_the_first_of_equals() {
    assert_eq!(sample_token(&[1.0, 3.0, 3.0, 2.0], &SampleOpts::greedy()).unwrap(), 1);
}

#[test]
fn draws_follow_the_softmax() {
    let row = [2.0, 1.0, 0.0, -1.0];
    let z: f64 = row.iter().map(|x: &f32| (f64::from(*x) / 0.7).exp()).sum();
    for (i, f) in frequencies(&row, |seed| SampleOpts::temperature(0.7, seed)).into_iter().enumerate() {
        assert!((f - (f64::from(row[i]) / 0.7).exp() / z).abs() < 0.01, "{i}: {f}");
    }
}

#[test]
fn filters_keep_what_they_say() {
    let row = [3.0, 2.0, 1.0, 0.0];
    let kept = |opts: &dyn Fn(u64) -> SampleOpts| frequencies(&row, opts).iter().filter(|f| **f > 0.0).count();
    assert_eq!(kept(&|s| SampleOpts::temperature(1.0, s).with_top_k(2)), 2);
    // Probabilities 0.64, 0.24, 0.09, 0.03.
    assert_eq!(kept(&|s| SampleOpts::temperature(1.0, s).with_top_p(0.7)), 2);
    assert_eq!(kept(&|s| SampleOpts::temperature(1.0, s).with_top_p(0.9)), 3);
    assert_eq!(kept(&|s| SampleOpts::temperature(1.0, s).with_min_p(0.3)), 2);
}

#[test]
fn a_short_list_decides_as_the_row_does_or_not_at_all() {
    let row = row();
    let all = ShortList::of_row(&row, 0.8, row.len());
    let short = ShortList { entries: all.entries[..SHORT_LIST].to_vec(), total: all.total, complete: false };
    let mut decided = 0;
    for seed in 0..2000 {
        let base = SampleOpts::temperature(0.8, seed);
        let several = [base.with_top_k(40), base.with_top_k(100), base.with_top_k(100).with_top_p(0.5)];
        for opts in several.into_iter().chain([base, base.with_top_p(0.5), base.with_top_p(0.999), base.with_min_p(0.2)]) {
            if let Some(token) = short.choose(&opts, 3) {
                decided += 1;
                assert_eq!(Some(token), all.choose(&opts, 3), "{opts:?}");
            }
        }
    }
    assert!(decided > 5000 && decided < 10_000, "{decided}");
}

#[test]
fn the_draw_depends_on_the_position_and_the_seed_alone() {
    let row = row();
    let at = |seed, position| sample_token_after(&row, &SampleOpts::temperature(1.0, seed), &vec![0; position]).unwrap();
    assert_eq!(at(1, 5), at(1, 5));
    assert!((0..50).map(|p| at(1, p)).collect::<std::collections::BTreeSet<_>>().len() > 20);
    assert!((0..50).map(|s| at(s, 5)).collect::<std::collections::BTreeSet<_>>().len() > 20);
}

/// Against the definition with logarithms: log |l'| = log |l| ∓ log θ, which has no case in common with the code.
#[test]
fn the_penalty_is_that_of_keskar_et_al() {
    let row = row();
    let history = [3, 499, 3, 17, 250, 3, 7000];
    for theta in [1.3f32, 0.8, 5.0] {
        let found = SampleOpts::greedy().with_repetition_penalty(theta).penalised(&row, &history).into_owned();
        for (id, (before, after)) in row.iter().zip(&found).enumerate() {
            let exponent = if history.contains(&(id as u32)) { -f64::from(before.signum()) } else { 0.0 };
            let magnitude = (f64::from(before.abs()).ln() + exponent * f64::from(theta).ln()).exp();
            let expected = magnitude * f64::from(before.signum());
            assert!((f64::from(*after) - expected).abs() <= 1e-6 * expected.abs(), "{theta} {id}: {after}, {expected}");
        }
    }
    let untouched = SampleOpts::temperature(1.0, 3).with_repetition_penalty(1.0);
    assert!(matches!(untouched.penalised(&row, &history), Cow::Borrowed(_)));
}

#[test]
fn a_penalty_moves_the_choice_away_from_the_history() {
    let row = [2.0, 1.9, -1.0, 1.5];
    let opts = SampleOpts::greedy().with_repetition_penalty(1.2);
    assert_eq!(sample_token_after(&row, &opts, &[]).unwrap(), 0);
    assert_eq!(sample_token_after(&row, &opts, &[0]).unwrap(), 1);
    assert_eq!(sample_token_after(&row, &opts, &[0, 1]).unwrap(), 0, "both are divided: 1.67 and 1.58");
    assert_eq!(sample_token_after(&row, &opts.with_repetition_penalty(2.0), &[0, 1, 0]).unwrap(), 3);
    // A draw follows the softmax of the penalised row.
    let drawn = SampleOpts::temperature(1.0, 5).with_repetition_penalty(1.2);
    let by_hand: Vec<f32> = vec![2.0 / 1.2, 1.9, -1.2, 1.5];
    for length in 2..200 {
        let history: Vec<u32> = (0..length).map(|i| if i % 2 == 0 { 0 } else { 2 }).collect();
        let expected = sample_token_after(&by_hand, &SampleOpts::temperature(1.0, 5), &history).unwrap();
        assert_eq!(sample_token_after(&row, &drawn, &history).unwrap(), expected);
    }
}

#[test]
fn numbers_without_meaning_are_refused() {
    for opts in [
        SampleOpts::temperature(f32::NAN, 0),
        SampleOpts::temperature(-1.0, 0),
        SampleOpts::greedy().with_top_p(0.0),
        SampleOpts::greedy().with_min_p(2.0),
        SampleOpts::greedy().with_repetition_penalty(0.0),
        SampleOpts::greedy().with_repetition_penalty(-1.2),
        SampleOpts::greedy().with_repetition_penalty(f32::INFINITY),
    ] {
        assert!(matches!(sample_token(&[1.0], &opts), Err(Error::Sampling(SamplingError::Options(_)))), "{opts:?}");
    }
}
