//! From logits to a token.

mod recommended;

use std::{borrow::Cow, collections::BTreeSet, fmt};

use super::numbers;
use crate::{Error, Result, error::SamplingError};

/// Logits that the device hands over for a draw; more only where they do not suffice.
pub(crate) const SHORT_LIST: usize = 64;

/// Tokens of a row on the host that are sorted before all of them are.
const FIRST_OF_ROW: usize = 1024;

/// How the next token is chosen.
///
/// The draw at position p is a function of the seed and p alone: the same seed gives the same text however it was
/// reached. A device hands over its 64 likeliest tokens; where they decide, it has drawn the same token itself (but for
/// rounding) and gone on with it.
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

    /// Another temperature; 0 is greedy.
    pub const fn with_temperature(mut self, temperature: f32) -> Self {
        self.temperature = temperature;
        self
    }

    /// Another seed.
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
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

    /// Makes every token of the history (prompt and generated tokens) less likely, before temperature and filters. Its
    /// logit is divided by `penalty` where it is positive and multiplied where it is negative, once however often the
    /// token occurs (Keskar et al. 2019, CTRL, §4.1; `repetition_penalty` of transformers). 1 changes nothing; less
    /// than 1 favours repetition.
    ///
    /// With a penalty the device hands over the whole row of logits (4·V bytes) for each token, greedy or drawn: which
    /// tokens are the likeliest is not known before.
    pub const fn with_repetition_penalty(mut self, penalty: f32) -> Self {
        self.repetition_penalty = penalty;
        self
    }

    /// Returns `true` if no draw is made.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Returns `true` if the history changes the logits.
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

    /// The numbers that the device needs to predict the draw at `position`.
    pub(crate) fn on_device(&self, position: usize) -> DeviceDraw {
        let draw = self.draw(position) as f32;
        let top_k = u32::try_from(self.top_k).unwrap_or(u32::MAX);
        DeviceDraw { temperature: self.temperature, draw, top_k, top_p: self.top_p, min_p: self.min_p }
    }

    /// Checks that the numbers have a meaning.
    ///
    /// # Errors
    /// [`SamplingError::Options`] names the option, its value and its range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |what: &str, value: f32, range: &str| {
            Err(Error::Sampling(SamplingError::Options(format!("{what} is {value}, expected {range}"))))
        };
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

impl fmt::Display for SampleOpts {
    /// The options that have an effect, such as `temperature 1, top-k 64, top-p 0.95` or `greedy`; not the seed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filters = [
            (self.top_k != 0).then(|| format!("top-k {}", self.top_k)),
            (self.top_p != 1.0).then(|| format!("top-p {}", self.top_p)),
            (self.min_p != 0.0).then(|| format!("min-p {}", self.min_p)),
        ];
        if self.is_greedy() {
            f.write_str("greedy")?
        } else {
            write!(f, "temperature {}", self.temperature)?
        }
        let penalty = self.penalises().then(|| format!("repetition penalty {}", self.repetition_penalty));
        let filters = filters.into_iter().flatten().filter(|_| !self.is_greedy());
        filters.chain(penalty).try_for_each(|part| write!(f, ", {part}"))
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
    /// True if `entries` is the whole row.
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
        if self.total.is_nan() || !max.is_finite() {
            Err(Error::Sampling(SamplingError::BrokenLogits { tokens }))
        } else {
            Ok(())
        }
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

/// The token that `opts` choose from a row of logits `[V]` as the first of a text: at position 0, with no history to
/// penalise. [`sample_token_after`] takes the history.
///
/// # Errors
/// [`SamplingError::Options`] for options without meaning or an empty row; [`SamplingError::BrokenLogits`].
pub fn sample_token(row: &[f32], opts: &SampleOpts) -> Result<u32> {
    sample_token_after(row, opts, &[])
}

/// The token that `opts` choose from a row of logits `[V]` to follow `history`: what the generator does at each step.
/// The draw is that of the position `history.len()`; the repetition penalty concerns the tokens of `history`.
///
/// # Errors
/// As [`sample_token`].
pub fn sample_token_after(row: &[f32], opts: &SampleOpts, history: &[u32]) -> Result<u32> {
    opts.validate()?;
    if row.is_empty() {
        return Err(Error::Sampling(SamplingError::Options("there are no logits to choose from".into())));
    }
    let chosen = choose_from_row(&opts.penalised(row, history), opts, history.len())?;
    chosen.ok_or(Error::Sampling(SamplingError::BrokenLogits { tokens: history.len() }))
}

/// The token that greedy or a draw at `position` chooses from a row to which nothing is to be done any more; `None`
/// where every logit is −∞.
pub(crate) fn choose_from_row(row: &[f32], opts: &SampleOpts, position: usize) -> Result<Option<u32>> {
    let broken = |x: &f32| x.is_nan() || (!opts.is_greedy() && *x == f32::INFINITY);
    if row.iter().any(broken) {
        return Err(Error::Sampling(SamplingError::BrokenLogits { tokens: position }));
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
mod tests;
