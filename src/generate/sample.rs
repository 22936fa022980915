//! From logits to a token.

use std::{borrow::Cow, collections::BTreeSet};

use super::numbers;
use crate::{Error, Result};

/// Logits that the device hands over for a draw; more only where they do not suffice.
pub(crate) const SHORT_LIST: usize = 64;

/// Tokens of a row on the host that are sorted before all of them are.
const FIRST_OF_ROW: usize = 1024;

/// How the next token is chosen.
///
/// The draw at position p is a function of the seed and p alone: the same seed gives the same text however it was reached. A device
/// hands over its 64 likeliest tokens; where they decide, it has drawn the same token itself (but for rounding) and gone on with it.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SampleOpts {
    #[serde(with = "numbers::one")]
    temperature: f32,
    seed: u64,
    top_k: usize,
    #[serde(with = "numbers::one")]
    top_p: f32,
    #[serde(with = "numbers::one")]
    min_p: f32,
    #[serde(with = "numbers::one")]
    repetition_penalty: f32,
}

impl Default for SampleOpts {
    fn default() -> Self {
        Self::greedy()
    }
}

impl SampleOpts {
    /// The token with the largest logit; among equals the smallest id.
    pub const fn greedy() -> Self {
        Self { temperature: 0.0, seed: 0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 }
    }

    /// A draw from softmax(logits / `temperature`). A temperature of 0 is greedy.
    pub const fn temperature(temperature: f32, seed: u64) -> Self {
        Self { temperature, seed, ..Self::greedy() }
    }

    /// Keeps the `k` likeliest tokens; 0 keeps all.
    pub const fn with_top_k(mut self, k: usize) -> Self {
        self.top_k = k;
        self
    }

    /// Keeps the smallest set of likeliest tokens whose probabilities sum to at least `p`; 1 keeps all.
    pub const fn with_top_p(mut self, p: f32) -> Self {
        self.top_p = p;
        self
    }

    /// Keeps the tokens at least `p` times as likely as the likeliest; 0 keeps all.
    pub const fn with_min_p(mut self, p: f32) -> Self {
        self.min_p = p;
        self
    }

    /// Makes every token of the history (prompt and generated tokens) less likely: its logit is divided by `penalty` where it is
    /// positive and multiplied where it is negative, once however often the token occurs, before temperature and filters
    /// (Keskar et al. 2019, CTRL, §4.1; `repetition_penalty` of transformers). 1 changes nothing; less than 1 favours repetition.
    ///
    /// With a penalty the device hands over the whole row of logits (4·V bytes) for each token, greedy or drawn: which tokens
    /// are the likeliest is not known before.
    pub const fn with_repetition_penalty(mut self, penalty: f32) -> Self {
        self.repetition_penalty = penalty;
        self
    }

    /// Whether no draw is made.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether the history changes the logits.
    pub(crate) fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
    }

    /// Tokens that are kept; 0 keeps all.
    pub(crate) fn top_k(&self) -> usize {
        self.top_k
    }

    /// The row as the repetition penalty leaves it. Ids outside of the row are passed over.
    pub(crate) fn penalised<'a>(&self, row: &'a [f32], history: &[u32]) -> Cow<'a, [f32]> {
        if !self.penalises() || history.is_empty() {
            return Cow::Borrowed(row);
        }
        let mut row = row.to_vec();
        for token in history.iter().collect::<BTreeSet<_>>() {
            if let Some(logit) = row.get_mut(*token as usize) {
                *logit = if *logit > 0.0 { *logit / self.repetition_penalty } else { *logit * self.repetition_penalty };
            }
        }
        Cow::Owned(row)
    }

    /// What the device needs to foresee the draw at `position`.
    pub(crate) fn on_device(&self, position: usize) -> DeviceDraw {
        let (draw, top_k) = (self.draw(position) as f32, u32::try_from(self.top_k).unwrap_or(u32::MAX));
        DeviceDraw { temperature: self.temperature, draw, top_k, top_p: self.top_p, min_p: self.min_p }
    }

    /// Checks that the numbers have a meaning.
    ///
    /// # Errors
    /// [`Error::Sampling`] names the option, its value and its range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |what: &str, value: f32, range: &str| Err(Error::Sampling(format!("{what} is {value}, expected {range}")));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong("temperature", self.temperature, "a finite number of at least 0");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top-p", self.top_p, "more than 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return wrong("min-p", self.min_p, "0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return wrong("repetition penalty", self.repetition_penalty, "a finite number above 0");
        }
        Ok(())
    }

    /// A number in [0, 1) for `position`: SplitMix64 (Steele et al. 2014) of seed and position.
    pub(crate) fn draw(&self, position: usize) -> f64 {
        let mix = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let state = mix(self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15))
            .wrapping_add((position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (mix(state) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A draw as the device makes it, in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DeviceDraw {
    pub(crate) temperature: f32,
    /// Where the walk down the list ends, as a part of the mass.
    pub(crate) draw: f32,
    pub(crate) top_k: u32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
}

/// The likeliest tokens of a row, and what is needed to turn their logits into probabilities.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShortList {
    /// Ids and logits, the largest logit first, the smallest id first among equals.
    pub(crate) entries: Vec<(u32, f32)>,
    /// Σ exp((l − max) / temperature) over the whole row.
    pub(crate) total: f64,
    /// Whether `entries` is the whole row.
    pub(crate) complete: bool,
}

impl ShortList {
    /// The `count` likeliest tokens of a row that holds a number; tokens that cannot be drawn are none of them.
    pub(crate) fn of_row(row: &[f32], temperature: f32, count: usize) -> Self {
        let mut entries: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).filter(|e| e.1 > f32::NEG_INFINITY).collect();
        let max = entries.iter().map(|e| e.1).fold(f32::NEG_INFINITY, f32::max);
        let total = entries.iter().map(|e| f64::from((e.1 - max) / temperature).exp()).sum();
        let complete = count >= entries.len();
        if !complete && count > 0 {
            entries.select_nth_unstable_by(count - 1, likelier);
            entries.truncate(count);
        }
        entries.sort_unstable_by(likelier);
        Self { entries, total, complete }
    }

    /// Refuses a list of a row that nothing can be drawn from.
    pub(crate) fn check(&self, tokens: usize) -> Result<()> {
        let max = self.entries.first().map_or(f32::NAN, |e| e.1);
        if self.total.is_nan() || !max.is_finite() { Err(Error::BrokenLogits { tokens }) } else { Ok(()) }
    }

    /// Draws by walking down the list; `None` when the list is too short to decide.
    pub(crate) fn choose(&self, opts: &SampleOpts, position: usize) -> Option<u32> {
        let max = self.entries.first()?.1;
        let weights: Vec<f64> = self.entries.iter().map(|e| f64::from((e.1 - max) / opts.temperature).exp()).collect();
        // The entries that top-k leaves, and their mass. Without top-k it is the row's.
        let limit = if opts.top_k == 0 { usize::MAX } else { opts.top_k };
        if !self.complete && opts.top_k > weights.len() {
            // The mass of the top k is not known.
            return None;
        }
        let mut known = self.complete || limit <= weights.len();
        let mut kept = weights.len().min(limit);
        let mut mass = if limit <= weights.len() { weights[..kept].iter().sum() } else { self.total };
        if opts.top_p < 1.0 {
            let mut sum = 0.0;
            if let Some(last) = weights[..kept].iter().position(|w| {
                sum += w;
                sum >= f64::from(opts.top_p) * mass
            }) {
                (kept, mass, known) = (last + 1, sum, true);
            }
        }
        if opts.min_p > 0.0
            && let Some(first) = weights[..kept].iter().position(|w| *w < f64::from(opts.min_p))
        {
            (kept, mass, known) = (first, weights[..first].iter().sum(), true);
        }
        let restricted = opts.top_p < 1.0 || opts.min_p > 0.0;
        if !known && restricted {
            return None;
        }
        let target = opts.draw(position) * mass;
        let mut sum = 0.0;
        let hit = weights[..kept].iter().position(|w| {
            sum += w;
            sum > target
        });
        match hit {
            Some(i) => Some(self.entries[i].0),
            // Rounding can leave the target a hair above the sum of all that was kept.
            None if known => self.entries[..kept].last().map(|e| e.0),
            None => None,
        }
    }
}

/// The order of tokens with their logits: the largest logit first, the smallest id first among equals, −0 being 0.
pub(crate) fn likelier(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0))
}

/// The token that `opts` choose from a row of logits `[V]` as the first of a text: at position 0, with no history to penalise.
/// [`sample_token_after`] takes the history.
///
/// # Errors
/// [`Error::Sampling`] for options without meaning or an empty row; [`Error::BrokenLogits`].
pub fn sample_token(row: &[f32], opts: &SampleOpts) -> Result<u32> {
    sample_token_after(row, opts, &[])
}

/// The token that `opts` choose from a row of logits `[V]` to follow `history`: what the generator does at each step. The draw is
/// that of the position `history.len()`; the repetition penalty concerns the tokens of `history`.
///
/// # Errors
/// As [`sample_token`].
pub fn sample_token_after(row: &[f32], opts: &SampleOpts, history: &[u32]) -> Result<u32> {
    opts.validate()?;
    if row.is_empty() {
        return Err(Error::Sampling("there are no logits to choose from".into()));
    }
    let chosen = choose_from_row(&opts.penalised(row, history), opts, history.len())?;
    chosen.ok_or(Error::BrokenLogits { tokens: history.len() })
}

/// The token that greedy or a draw at `position` chooses from a row to which nothing is to be done any more; `None` where every logit
/// is −∞.
pub(crate) fn choose_from_row(row: &[f32], opts: &SampleOpts, position: usize) -> Result<Option<u32>> {
    let broken = |x: &f32| x.is_nan() || (!opts.is_greedy() && *x == f32::INFINITY);
    if row.iter().any(broken) {
        return Err(Error::BrokenLogits { tokens: position });
    }
    if opts.is_greedy() {
        let entries = (0..).zip(row.iter().copied()).filter(|e| e.1 > f32::NEG_INFINITY);
        return Ok(entries.min_by(likelier).map(|e| e.0));
    }
    // Most draws end among the first: the whole row is sorted for the others alone.
    let first = ShortList::of_row(row, opts.temperature, FIRST_OF_ROW);
    if first.complete {
        return Ok(first.choose(opts, position));
    }
    Ok(first.choose(opts, position).or_else(|| ShortList::of_row(row, opts.temperature, row.len()).choose(opts, position)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(matches!(sample_token(&[1.0], &opts), Err(Error::Sampling(_))), "{opts:?}");
        }
    }
}
