//! Tokens from short lists and rows against the definition, on rows made at random.

use crate::error::{CallbackError, SamplingError};
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::generate::{SampleOpts, ShortList};

/// A stream of numbers (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    fn unit(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 24) as f32
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// One case: a row, what is asked of it, and how.
#[derive(Debug)]
struct Asked {
    row: Vec<f32>,
    biases: BTreeMap<u32, f32>,
    allowed: Option<BTreeSet<u32>>,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    opts: SampleOpts,
    position: usize,
}

impl Asked {
    fn new(n: &mut Numbers) -> Self {
        let vocab = n.of(&[3, 40, 64, 65, 200, 3000]);
        let spread = n.of(&[0.5f32, 4.0, 12.0]);
        let mut row: Vec<f32> = (0..vocab).map(|_| (n.unit() + n.unit() + n.unit() - 1.5) * spread).collect();
        if n.below(3) == 0 {
            // Many equals.
            row.iter_mut().for_each(|logit| *logit = (*logit * 2.0).round() / 2.0);
        }
        let mut by_logit: Vec<u32> = (0..vocab as u32).collect();
        by_logit.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        let mut biases = BTreeMap::new();
        for _ in 0..n.of(&[0, 0, 1, 5, 40, 90]) {
            let rank = if n.below(2) == 0 { n.below(vocab.min(20)) } else { n.below(vocab) };
            let bias = n.of(&[f32::NEG_INFINITY, -100.0, -1.5, 0.5, 0.0, 3.0, 30.0]);
            biases.insert(by_logit[rank], if n.below(4) == 0 { bias } else { (n.unit() - 0.5) * 4.0 });
        }
        if n.below(8) == 0 {
            biases.extend(by_logit[..n.below(100).min(vocab)].iter().map(|token| (*token, f32::NEG_INFINITY)));
        }
        let allowed = match n.below(5) {
            0 => Some((0..n.of(&[0, 1, 3])).map(|_| n.below(vocab) as u32).collect()),
            1 => Some((0..vocab as u32).filter(|_| n.below(2) == 0).collect()),
            2 => Some((0..vocab as u32).filter(|_| n.below(50) > 0).collect()),
            _ => None,
        };
        let temperature = n.of(&[0.0, 0.0, 0.3, 1.0, 1.0, 2.5]);
        let top_k = n.of(&[0, 0, 1, 10, 64, 100]);
        let top_p = n.of(&[1.0, 1.0, 0.3, 0.9, 0.999]);
        let min_p = n.of(&[0.0, 0.0, 0.05, 0.5]);
        let opts = SampleOpts::temperature(temperature, n.next()).with_top_k(top_k).with_top_p(top_p).with_min_p(min_p);
        Self { row, biases, allowed, temperature, top_k, top_p, min_p, opts, position: n.below(1000) }
    }

    fn changes(&self) -> LogitChanges {
        let mut changes = LogitChanges::new(self.row.len());
        self.biases.iter().for_each(|(token, bias)| changes.bias(*token, *bias));
        if let Some(allowed) = &self.allowed {
            let mut set = TokenSet::none(self.row.len());
            allowed.iter().for_each(|token| set.insert(*token));
            changes.allow_only(set);
        }
        changes
    }

    /// As the documentation says it, on the whole row.
    fn definition(&self) -> Option<u32> {
        let allowed = |token: u32| self.allowed.as_ref().is_none_or(|set| set.contains(&token));
        let logit = |token: u32| self.row[token as usize] + self.biases.get(&token).copied().unwrap_or(0.0);
        let mut entries: Vec<(u32, f32)> = (0..self.row.len() as u32).filter(|t| allowed(*t)).map(|t| (t, logit(t))).collect();
        entries.retain(|e| e.1 != f32::NEG_INFINITY);
        entries.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        let max = entries.first()?.1;
        if self.temperature == 0.0 {
            return Some(entries[0].0);
        }
        let mut weights: Vec<f64> = entries.iter().map(|e| f64::from((e.1 - max) / self.temperature).exp()).collect();
        if self.top_k > 0 {
            weights.truncate(self.top_k);
        }
        if self.top_p < 1.0 {
            let mass = weights.iter().sum::<f64>();
            let mut sum = 0.0;
            let enough = weights.iter().position(|w| {
                sum += w;
                sum >= f64::from(self.top_p) * mass
            });
            weights.truncate(enough.map_or(weights.len(), |last| last + 1));
        }
        weights.retain(|w| *w >= f64::from(self.min_p));
        let mut left = self.opts.draw(self.position) * weights.iter().sum::<f64>();
        let last = weights.len() - 1;
        let hit = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        Some(entries[hit.unwrap_or(last)].0)
    }

    /// The list that a device hands over: 64 tokens, and a sum that is as far off as it may be.
    fn list(&self, temperature: f32, off: f64) -> ShortList {
        let list = ShortList::of_row(&self.row, temperature, SHORT_LIST);
        ShortList { total: list.total * (1.0 + off), complete: false, ..list }
    }

    fn named(&self, changes: &LogitChanges) -> Option<Vec<(u32, f32)>> {
        Some(changes.named(64)?.into_iter().map(|token| (token, self.row[token as usize])).collect())
    }
}

#[test]
fn a_list_chooses_what_the_row_does_or_leaves_it_to_the_row() {
    let mut n = Numbers(77);
    let mut decided = BTreeMap::from([(true, [0, 0]), (false, [0, 0])]);
    for _ in 0..20_000 {
        let asked = Asked::new(&mut n);
        let changes = asked.changes();
        let expected = asked.definition();
        let history = vec![0; asked.position];
        let by_row = choose_from_whole_row(&asked.row, &changes, &mut SampleHooks::new(), &asked.opts, &history);
        match expected {
            Some(token) => assert_eq!(by_row.unwrap(), token, "{asked:?}"),
            None => assert!(
                matches!(by_row, Err(Error::Sampling(SamplingError::NoTokenAllowed { tokens })) if tokens == asked.position),
                "{asked:?}"
            ),
        }
        let temperature = if asked.temperature == 0.0 { 1.0 } else { asked.temperature };
        let Some(named) = asked.named(&changes) else { continue };
        let list = asked.list(temperature, f64::from(n.unit() - 0.5) * 1.6e-4);
        let by_list = choose_from_list(&list, &named, &changes, &asked.opts, asked.position);
        assert!(by_list.is_none() || by_list == expected, "{by_list:?} {expected:?} {asked:?}");
        let counts = decided.get_mut(&(asked.temperature == 0.0)).unwrap();
        counts[usize::from(by_list.is_some())] += 1;
    }
    let [none, some] = decided[&true];
    assert!(some > 4 * none, "greedy: {some} by the list, {none} not");
    let [none, some] = decided[&false];
    assert!(some > none, "drawn: {some} by the list, {none} not");
}

#[test]
fn log_probabilities_are_those_of_the_softmax() {
    let mut n = Numbers(5);
    for _ in 0..2000 {
        let asked = Asked::new(&mut n);
        let z: f64 = asked.row.iter().map(|x| f64::from(*x).exp()).sum();
        let token = n.below(asked.row.len()) as u32;
        let named = [(token, asked.row[token as usize])];
        let top = n.below(65);
        let (logprob, top) = list_logprobs(&asked.list(1.0, 0.0), &named, token, top);
        let of = |token: u32| (f64::from(asked.row[token as usize]).exp() / z).ln();
        assert!((f64::from(logprob.unwrap()) - of(token)).abs() < 1e-4);
        assert!(top.iter().all(|(token, logprob)| (f64::from(*logprob) - of(*token)).abs() < 1e-4));
        let rank = |t: u32| asked.row.iter().filter(|x| **x > asked.row[t as usize]).count();
        assert!(top.iter().enumerate().all(|(i, (token, _))| rank(*token) <= i), "{top:?}");
    }
}

#[test]
fn rows_that_are_no_numbers_are_refused() {
    let none = LogitChanges::new(3);
    let hooks = &mut SampleHooks::new();
    for opts in [SampleOpts::greedy(), SampleOpts::temperature(1.0, 1)] {
        for row in [[1.0, f32::NAN, 0.0], [f32::NEG_INFINITY; 3]] {
            let outcome = choose_from_whole_row(&row, &none, hooks, &opts, &[4, 5]);
            assert!(matches!(outcome, Err(Error::Sampling(SamplingError::BrokenLogits { tokens: 2 }))), "{outcome:?}");
            let plain = crate::generate::sample_token_after(&row, &opts, &[4, 5]);
            assert!(matches!(plain, Err(Error::Sampling(SamplingError::BrokenLogits { tokens: 2 }))), "{plain:?}");
        }
    }
    let infinite = [1.0, f32::INFINITY, 0.0];
    assert_eq!(choose_from_whole_row(&infinite, &none, hooks, &SampleOpts::greedy(), &[]).unwrap(), 1);
    assert!(choose_from_whole_row(&infinite, &none, hooks, &SampleOpts::temperature(1.0, 1), &[]).is_err());
}

type Process = fn(&mut LogitChanges) -> anyhow::Result<()>;

/// Does as it is told.
struct Told(Process);

fn bias(changes: &mut LogitChanges, token: u32, bias: f32) -> anyhow::Result<()> {
    changes.bias(token, bias);
    Ok(())
}

impl LogitProcessor for Told {
    fn name(&self) -> &str {
        "told"
    }

    fn process(&mut self, _: &[u32], changes: &mut LogitChanges) -> anyhow::Result<()> {
        self.0(changes)
    }
}

#[test]
fn a_processors_fault_is_an_error_with_its_name() {
    let cases: [(Process, &str); 5] = [
        (|_| anyhow::bail!("no thanks"), "told: no thanks"),
        (|_| panic!("at {}", 3), "told: it panicked: at 3"),
        (|changes| bias(changes, 1, f32::NAN), "told: the bias of token 1 is NaN"),
        (|changes| bias(changes, 1, f32::INFINITY), "told: the bias of token 1 is inf"),
        (|changes| bias(changes, 50, f32::NEG_INFINITY), "told: token 50 is outside the vocabulary of 50"),
    ];
    for (process, expected) in cases {
        let mut hooks = SampleHooks::new().with_processor(LogitBias::new().with(1, 2.0)).with_processor(Told(process));
        let error = hooks.changes(&[], 50).unwrap_err();
        assert!(matches!(&error, Error::Callback(CallbackError::Hook { hook, .. }) if hook == "told"), "{error:?}");
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let mut hooks = SampleHooks::new().with_processor(LogitBias::new().with(1, 2.0).with(1, 0.5).banning([3, 4]));
    let changes = hooks.changes(&[], 50).unwrap();
    assert_eq!([1, 2, 3].map(|token| changes.of(token, 1.0)), [3.5, 1.0, f32::NEG_INFINITY]);
    assert!(SampleHooks::new().with_logprobs(64).validate().is_ok() && SampleHooks::new().with_logprobs(65).validate().is_err());
}
