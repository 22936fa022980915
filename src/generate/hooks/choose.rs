//! A token by the logits and what processors change in them: from a short list where that decides, else from the whole
//! row.

use std::collections::BTreeMap;

use super::{LogitChanges, SampleHooks};
use crate::{
    Error, Result,
    error::SamplingError,
    generate::{
        SampleOpts, ShortList,
        sample::{choose_from_row, likelier},
    },
};

/// The largest error of a sum of exponentials from the device, as a part of it: exp in WGSL errs by 3 + 2|x| units in
/// the last place.
const SUM_ERROR: f64 = 1e-4;
/// The largest error of sums of f32 differences here, as a part of them.
const ROUNDING: f64 = 1e-6;

/// The token that follows a history of `position` tokens, from the likeliest tokens `list` (their sum being at `opts`'
/// temperature, or at any where `opts` are greedy) and the logits of `named` ones; `None` where these do not decide.
pub(crate) fn choose_from_list(
    list: &ShortList,
    named: &[(u32, f32)],
    changes: &LogitChanges,
    opts: &SampleOpts,
    position: usize,
) -> Option<u32> {
    let last = *list.entries.last()?;
    let known: BTreeMap<u32, f32> = list.entries.iter().chain(named).copied().collect();
    let mut changed: Vec<(u32, f32)> = known.iter().map(|(token, logit)| (*token, changes.of(*token, *logit))).collect();
    changed.retain(|e| e.1 > f32::NEG_INFINITY);
    changed.sort_unstable_by(likelier);
    // Only what is ahead of the list's last entry is ahead of all that is not known.
    let certain = if list.complete { changed.len() } else { changed.partition_point(|e| likelier(e, &last).is_le()) };
    let first = changed[..certain].first()?;
    if opts.is_greedy() {
        return Some(first.0);
    }
    let [least, most] = masses(list, &known, &changed, certain, changes, opts);
    // Without top-k where its cut lies among what is not certain: that is mass which may be there or not.
    let beyond = opts.top_k() > certain && !list.complete;
    let opts = if beyond { opts.with_top_k(0) } else { *opts };
    let choose = |total: f64| {
        let entries = changed[..certain].to_vec();
        ShortList { entries, total, complete: list.complete }.choose(&opts, position)
    };
    // The walk down the list ends no earlier the larger the mass is.
    let token = choose(least)?;
    (choose(most)? == token).then_some(token)
}

/// The least and the most that Σ exp((l − max) / temperature) over the changed row can be, `max` being its largest
/// logit.
fn masses(
    list: &ShortList,
    known: &BTreeMap<u32, f32>,
    changed: &[(u32, f32)],
    certain: usize,
    changes: &LogitChanges,
    opts: &SampleOpts,
) -> [f64; 2] {
    let temperature = f64::from(opts.on_device(0).temperature);
    let largest = |entries: &[(u32, f32)]| entries.first().map_or(0.0, |e| f64::from(e.1));
    // Relative to the larger one, so that nothing overflows.
    let before = largest(&list.entries);
    let after = largest(changed);
    let weight = |logit: f64| ((logit - before.max(after)) / temperature).exp();
    let sum = |entries: &[(u32, f32)]| entries.iter().map(|e| weight(f64::from(e.1))).sum::<f64>();
    let kept = sum(changed);
    let total = list.total * weight(before);
    if list.complete {
        return [kept / weight(after); 2];
    }
    let hidden = (total - known.values().map(|logit| weight(f64::from(*logit))).sum::<f64>()).max(0.0);
    // Hidden tokens may be forbidden, in part or altogether; those that are not certain may lie behind the cut of
    // top-k.
    let masked = changes.has_mask() || changes.banned().any(|token| !known.contains_key(&token));
    let least = match opts.top_k() > certain {
        true => sum(&changed[..certain]) * (1.0 - ROUNDING),
        false if masked => kept * (1.0 - ROUNDING),
        false => (kept + hidden - total * SUM_ERROR).max(kept * (1.0 - ROUNDING)),
    };
    [least, kept + hidden + total * SUM_ERROR].map(|mass| mass / weight(after))
}

/// As [`choose_from_list`], from all logits, by the sampler where there is one.
pub(crate) fn choose_from_whole_row(
    row: &[f32],
    changes: &LogitChanges,
    hooks: &mut SampleHooks,
    opts: &SampleOpts,
    history: &[u32],
) -> Result<u32> {
    let tokens = history.len();
    if row.iter().any(|logit| logit.is_nan()) {
        return Err(Error::Sampling(SamplingError::BrokenLogits { tokens }));
    }
    let changed = changes.applied(opts.penalised(row, history));
    if let Some(chosen) = hooks.sample(&changed, history) {
        return chosen;
    }
    choose_from_row(&changed, opts, tokens)?.ok_or(if row.iter().any(|logit| *logit > f32::NEG_INFINITY) {
        Error::Sampling(SamplingError::NoTokenAllowed { tokens })
    } else {
        Error::Sampling(SamplingError::BrokenLogits { tokens })
    })
}

/// The log-probabilities of `token`, whose logit is among those that are known, and of the `top` likeliest, by a list
/// whose sum is at temperature 1.
pub(crate) fn list_logprobs(list: &ShortList, named: &[(u32, f32)], token: u32, top: usize) -> (Option<f32>, Vec<(u32, f32)>) {
    let most = f64::from(list.entries.first().map_or(0.0, |e| e.1));
    let of = |logit: f32| (f64::from(logit) - most - list.total.ln()) as f32;
    let logit = list.entries.iter().chain(named).find(|e| e.0 == token).map(|e| of(e.1));
    (logit, list.entries.iter().take(top).map(|e| (e.0, of(e.1))).collect())
}
