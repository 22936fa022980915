//! The generator's rules about history, cache, sampling and ends, on the reference and on the GPU.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::{collections::BTreeSet, ops::ControlFlow};

use gemmaflow::{
    Error,
    error::{PromptError, SamplingError},
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts, sample_token_after},
    runtime::Device,
};
use oracle::{GATE, Oracle, worst};

const GREEDY: SampleOpts = SampleOpts::greedy();

/// Sliding layers with a window of 9, full layers, two rotary tables.
const MODEL: &str = "gemma3-text";

fn devices() -> [Device; 2] {
    [Device::Cpu, Device::Gpu]
}

fn generator(oracle: &Oracle, device: &Device, chunk: Option<usize>, context: Option<usize>) -> GemmaGenerator {
    let options = GeneratorOptions { prefill_chunk: chunk, context, ..GeneratorOptions::default() };
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options).unwrap()
}

fn submits(generator: &GemmaGenerator) -> u64 {
    generator.counters().map_or(0, |c| c.submits)
}

#[test]
fn steps_and_the_low_level_pair_leave_the_rows_that_they_promise_and_mix() {
    let oracle = Oracle::open(MODEL);
    let prompt = oracle.tokens("p7.input_ids");
    let expected = oracle.tokens("p7.gen_tokens");
    let expected_logits = oracle.f32("p7.gen_logits");
    let vocab = oracle.config.vocab_size;
    for device in devices() {
        let mut generator = generator(&oracle, &device, Some(16), None);
        assert_eq!((generator.tokens().len(), generator.cached_rows()), (0, 0));
        generator.prefill(&prompt).unwrap();
        assert_eq!(generator.tokens(), prompt);
        // Steps append a token whose row is computed by the next one; the pair computes every row at once.
        for (i, token) in expected.iter().enumerate() {
            let before = generator.tokens().len();
            match i % 4 {
                0 => {
                    assert_eq!(generator.step_cached(&GREEDY).unwrap(), *token, "{device} {i}");
                    assert_eq!((generator.tokens().len(), generator.cached_rows()), (before + 1, before), "{device} {i}");
                }
                1 => {
                    // After a step the last token has no row yet: the pair computes that one and its own.
                    let next = oracle.tokens("p7.gen_tokens")[i];
                    let logits = generator.decode_get_logits(next).unwrap();
                    assert_eq!((generator.tokens().len(), generator.cached_rows()), (before + 1, before + 1), "{device} {i}");
                    let error = worst(&logits, &expected_logits[(i + 1) * vocab..][..vocab]);
                    assert!(error < GATE, "{device} {i}: {error}");
                }
                2 => {
                    assert_eq!(generator.step(&GREEDY).unwrap(), *token, "{device} {i}");
                    assert_eq!((generator.tokens().len(), generator.cached_rows()), (before + 1, before), "{device} {i}");
                }
                _ => {
                    // A prefill of what is there already keeps the rows of all but the last token.
                    let rows = generator.cached_rows();
                    let history = generator.tokens().to_vec();
                    let logits = generator.prefill_get_last_logits(&history).unwrap();
                    assert_eq!(generator.cached_rows(), history.len(), "{device} {i}");
                    assert!(rows <= history.len());
                    let error = worst(&logits, &expected_logits[i * vocab..][..vocab]);
                    assert!(error < GATE, "{device} {i}: {error}");
                    assert_eq!(generator.step_cached(&GREEDY).unwrap(), *token, "{device} {i}");
                    assert_eq!((generator.tokens().len(), generator.cached_rows()), (before + 1, before), "{device} {i}");
                }
            }
        }
        assert_eq!(generator.tokens(), [prompt.clone(), expected.clone()].concat());
    }
}

#[test]
fn recomputed_and_cached_generation_agree() {
    let oracle = Oracle::open(MODEL);
    let prompt = oracle.tokens("p33.input_ids");
    for device in devices() {
        let mut generator = generator(&oracle, &device, Some(16), None);
        for opts in [GREEDY, SampleOpts::temperature(0.9, 11), GREEDY.with_repetition_penalty(1.3)] {
            generator.prefill(&prompt).unwrap();
            let recomputed = generator.generate(12, &opts).unwrap();
            generator.prefill(&prompt).unwrap();
            let cached = generator.generate_cached(12, &opts).unwrap();
            assert_eq!(recomputed, cached, "{device} {opts:?}");
            assert!(cached.iter().collect::<BTreeSet<_>>().len() >= 4);
        }
    }
}

#[test]
fn a_common_prefix_is_not_computed_again() {
    let oracle = Oracle::open(MODEL);
    let tokens = oracle.tokens("p70.input_ids");
    // A ring of 9 + 64 rows holds all of it.
    for device in devices() {
        let mut generator = generator(&oracle, &device, Some(64), None);
        let mut fresh = self::generator(&oracle, &device, Some(64), None);
        generator.prefill_get_last_logits(&tokens[..60]).unwrap();
        let mut other = tokens[..50].to_vec();
        other.extend(tokens[..8].iter().rev());
        generator.prefill(&other).unwrap();
        // The first tokens that differ decide: rows before stay.
        let common = tokens.iter().zip(&other).take_while(|(a, b)| a == b).count();
        assert!((50..58).contains(&common));
        assert_eq!((generator.cached_rows(), generator.tokens()), (common, other.as_slice()), "{device}");
        let reused = generator.prefill_get_last_logits(&other).unwrap();
        let error = worst(&reused, &fresh.prefill_get_last_logits(&other).unwrap());
        assert!(error < GATE, "{device}: {error}");

        // The longer text again, and one that is a part of what is cached: the last token alone is run.
        generator.prefill(&tokens).unwrap();
        assert_eq!(generator.cached_rows(), common, "{device}");
        let error = worst(&generator.prefill_get_last_logits(&tokens).unwrap(), &oracle.f32("p70.logits")[69 * 150..]);
        assert!(error < GATE, "{device}: {error}");
        assert_eq!(generator.rows_computed(), (60 + other.len() - common + 70 - common) as u64, "{device}");
        generator.prefill(&tokens[..66]).unwrap();
        assert_eq!(generator.cached_rows(), 65, "{device}");
        let before = submits(&generator);
        let logits = generator.prefill_get_last_logits(&tokens[..66]).unwrap();
        assert!(submits(&generator) - before <= 1, "{device}");
        let error = worst(&logits, &oracle.f32("p70.logits")[65 * 150..][..150]);
        assert!(error < GATE, "{device}: {error}");
    }
}

#[test]
fn a_ring_that_has_moved_on_is_computed_anew() {
    let oracle = Oracle::open(MODEL);
    let tokens = oracle.tokens("p70.input_ids");
    let expected = oracle.f32("p70.logits");
    // A ring of 9 + 8 rows: after 70 tokens it holds positions 53 to 69.
    for device in devices() {
        let mut generator = generator(&oracle, &device, Some(8), None);
        let check = |generator: &mut GemmaGenerator, len: usize, kept: usize| {
            let before = generator.rows_computed();
            generator.prefill(&tokens[..len]).unwrap();
            assert_eq!(generator.cached_rows(), kept, "{device} {len}");
            let logits = generator.prefill_get_last_logits(&tokens[..len]).unwrap();
            assert_eq!(generator.rows_computed() - before, (len - kept) as u64, "{device} {len}");
            let error = worst(&logits, &expected[(len - 1) * 150..][..150]);
            assert!(error < GATE, "{device} {len}: {error}");
        };
        // Position p reads p − 8 to p: 61 is the first that the ring after 70 tokens can serve.
        for len in [70, 62, 70, 61, 70, 20, 70] {
            let kept = match (len, generator.cached_rows()) {
                (_, 0) => 0,
                (70, rows) => rows,
                (62, 70) => 61,
                (61, 70) | (20, 70) => 0,
                other => panic!("{other:?}"),
            };
            check(&mut generator, len, kept);
        }
        // Single steps move the ring by one.
        generator.prefill(&tokens[..12]).unwrap();
        generator.generate_cached(30, &GREEDY).unwrap();
        let reached = generator.tokens().to_vec();
        generator.prefill(&reached[..36]).unwrap();
        let kept = generator.cached_rows();
        let logits = generator.prefill_get_last_logits(&reached[..36]).unwrap();
        let error = worst(&logits, &generator.recompute_all_logits(&reached[..36]).unwrap()[35 * 150..]);
        assert!(error < GATE, "{device}: {error}, kept {kept}");
    }
}

#[test]
fn a_full_context_ends_generation_and_loses_nothing() {
    let oracle = Oracle::open(MODEL);
    let prompt = oracle.tokens("p7.input_ids");
    let expected = oracle.tokens("p7.gen_tokens");
    let full = |error: &Error, needed: usize, capacity: usize| {
        let right = matches!(error, Error::ContextFull { needed: n, capacity: c } if (*n, *c) == (needed, capacity));
        let text = error.to_string();
        assert!(right && text.contains(&needed.to_string()) && text.contains(&capacity.to_string()), "{error}");
    };
    for device in devices() {
        let mut generator = generator(&oracle, &device, Some(16), Some(12));
        assert_eq!(generator.max_context(), 12);
        generator.prefill(&prompt).unwrap();
        assert_eq!(generator.generate_cached(20, &GREEDY).unwrap(), expected[..5], "{device}: what fits");
        let history = generator.tokens().to_vec();
        assert_eq!(history, [prompt.clone(), expected[..5].to_vec()].concat(), "{device}");
        full(&generator.generate_cached(20, &GREEDY).unwrap_err(), 13, 12);
        full(&generator.step(&GREEDY).unwrap_err(), 13, 12);
        full(&generator.step_cached(&GREEDY).unwrap_err(), 13, 12);
        full(&generator.decode_get_logits(5).unwrap_err(), 13, 12);
        full(&generator.prefill(oracle.tokens("p33.input_ids")).unwrap_err(), 33, 12);
        full(&generator.recompute_all_logits(oracle.tokens("p33.input_ids")).unwrap_err(), 33, 12);
        assert_eq!(generator.tokens(), history, "{device}");
        generator.prefill(&history[..10]).unwrap();
        assert_eq!(generator.generate_cached(2, &GREEDY).unwrap(), expected[3..5], "{device}: generation goes on");
    }
    let options = GeneratorOptions { context: Some(600), ..GeneratorOptions::default() };
    let result = GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Cpu, options);
    full(&result.unwrap_err(), 600, 512);
}

#[test]
fn empty_prompts_and_strange_tokens_are_refused_and_nothing_is_lost() {
    let oracle = Oracle::open(MODEL);
    let prompt = oracle.tokens("p7.input_ids");
    let expected = oracle.tokens("p7.gen_tokens");
    for device in devices() {
        let mut generator = generator(&oracle, &device, Some(16), None);
        let text = generator.step(&GREEDY).unwrap_err().to_string();
        assert_eq!(text, "step() called with empty token history; call prefill() first");
        let text = generator.step_cached(&GREEDY).unwrap_err().to_string();
        assert_eq!(text, "step_cached() called with empty token history; call prefill() first");
        let text = generator.decode_get_logits(3).unwrap_err().to_string();
        assert_eq!(text, "decode_get_logits() called with empty token history; call prefill() first");
        assert!(matches!(generator.generate(3, &GREEDY), Err(Error::Prompt(PromptError::EmptyHistory(_)))));

        generator.prefill(&prompt).unwrap();
        assert_eq!(generator.generate_cached(2, &GREEDY).unwrap(), expected[..2]);
        let history = generator.tokens().to_vec();
        assert!(matches!(generator.prefill([]), Err(Error::Prompt(PromptError::Empty))));
        assert!(matches!(generator.recompute_all_logits([]), Err(Error::Prompt(PromptError::Empty))));
        let strange = |error: Error, at: usize| {
            let right = matches!(error, Error::Prompt(PromptError::TokenOutOfRange { token: 150, index, vocab_size: 150 }) if index == at);
            assert!(right && error.to_string().contains(&format!("position {at}")), "{error}");
        };
        strange(generator.prefill([2, 7, 150, 3]).unwrap_err(), 2);
        strange(generator.prefill_get_last_logits([150]).unwrap_err(), 0);
        strange(generator.decode_get_logits(150).unwrap_err(), history.len());
        assert!(matches!(
            generator.step_cached(&SampleOpts::temperature(-1.0, 0)),
            Err(Error::Sampling(SamplingError::Options(_)))
        ));
        assert!(matches!(generator.step(&SampleOpts::greedy().with_top_p(0.0)), Err(Error::Sampling(SamplingError::Options(_)))));
        assert_eq!(generator.tokens(), history, "{device}");
        assert_eq!(generator.generate_cached(3, &GREEDY).unwrap(), expected[2..5], "{device}: generation goes on");
    }
}

#[test]
fn stop_tokens_and_break_end_generation() {
    let oracle = Oracle::open(MODEL);
    let prompt = oracle.tokens("p7.input_ids");
    let expected = oracle.tokens("p7.gen_tokens");
    // The first token that does not occur before.
    let stop_at = (3..expected.len()).find(|i| !expected[..*i].contains(&expected[*i])).expect("a text that varies");
    for device in devices() {
        let mut generator = generator(&oracle, &device, Some(16), None);
        assert!(generator.is_stop(1) && !generator.is_stop(expected[stop_at]));
        generator.prefill(&prompt).unwrap();
        let mut seen = Vec::new();
        let new = generator.generate_cached_with(20, &GREEDY, |token| {
            seen.push(token);
            if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((new.unwrap(), seen), (expected[..3].to_vec(), expected[..3].to_vec()), "{device}");
        assert_eq!(generator.tokens().len(), prompt.len() + 3);

        let mut generator = generator.with_stop_tokens(&[expected[stop_at]]);
        assert!(generator.is_stop(1) && generator.is_stop(expected[stop_at]));
        generator.prefill(&prompt).unwrap();
        assert_eq!(generator.generate_cached(24, &GREEDY).unwrap(), expected[..=stop_at], "{device}");
        generator.prefill(&prompt).unwrap();
        assert_eq!(generator.generate(24, &GREEDY).unwrap(), expected[..=stop_at], "{device}");
        // The stop token is part of the history; a caller that goes on gets the next token.
        assert_eq!(generator.step_cached(&GREEDY).unwrap(), expected[stop_at + 1], "{device}");
    }
    let mut config = oracle.config.clone();
    config.eos_token_ids = vec![1, expected[stop_at]];
    let mut generator = GemmaGenerator::from_loader(config, oracle.loader().as_mut(), Device::Cpu).unwrap();
    generator.prefill(&prompt).unwrap();
    assert_eq!(generator.generate_cached(24, &GREEDY).unwrap(), expected[..=stop_at]);
}

#[test]
fn a_seed_gives_one_text_however_it_is_reached() {
    let oracle = Oracle::open(MODEL);
    let prompt = oracle.tokens("p7.input_ids");
    let [mut reference, mut gpu] = devices().map(|device| generator(&oracle, &device, Some(16), None).with_stop_tokens(&[]));
    let mut texts = BTreeSet::new();
    for seed in 0..6 {
        let filtered = SampleOpts::temperature(0.7, seed).with_top_k(12).with_top_p(0.9);
        for opts in [SampleOpts::temperature(1.0, seed), filtered, filtered.with_repetition_penalty(1.4)] {
            let text = |generator: &mut GemmaGenerator, cached: bool| -> Vec<u32> {
                generator.prefill(&prompt).unwrap();
                let step = |_| if cached { generator.step_cached(&opts) } else { generator.step(&opts) };
                (0..10).map(step).collect::<Result<_, _>>().unwrap()
            };
            let first = text(&mut reference, false);
            assert_eq!(text(&mut reference, true), first, "{opts:?}");
            assert_eq!(text(&mut gpu, true), first, "{opts:?}");
            assert_eq!(text(&mut gpu, true), first, "{opts:?}, a second time");
            assert_eq!(text(&mut gpu, false), first, "{opts:?}");
            texts.insert(first);
        }
    }
    assert!(texts.len() >= 15, "{} texts of 18 seeds and options", texts.len());
}

#[test]
fn the_short_list_of_the_device_decides_as_the_whole_row_does() {
    let oracle = Oracle::open(MODEL);
    let prompt = oracle.tokens("p7.input_ids");
    let vocab_bytes = oracle.config.vocab_size as u64 * 4;
    let mut generator = generator(&oracle, &Device::Gpu, Some(16), None);
    let mut fallbacks = 0;
    for seed in 0..25 {
        let base = SampleOpts::temperature(0.8, seed);
        let hot = SampleOpts::temperature(4.0, seed);
        let options = [
            (base.with_top_k(5), false),
            (base.with_top_k(40), false),
            (base.with_top_k(1), false),
            (base.with_top_p(0.3), false),
            (base.with_min_p(0.3), false),
            (base.with_top_k(20).with_top_p(0.8).with_min_p(0.05), false),
            // Nearly flat: 0.999 of the mass is in more than 64 of the 150 tokens.
            (hot.with_top_p(0.999), true),
            (hot.with_top_k(100), true),
            (hot.with_top_k(100).with_top_p(0.97), true),
        ];
        for (opts, needs_the_row) in options {
            let row = generator.prefill_get_last_logits(&prompt).unwrap();
            let expected = sample_token_after(&row, &opts, &prompt).unwrap();
            let before = generator.counters().unwrap().bytes_read_back;
            assert_eq!(generator.step_cached(&opts).unwrap(), expected, "{opts:?}");
            let read = generator.counters().unwrap().bytes_read_back - before;
            fallbacks += u64::from(read > vocab_bytes);
            if needs_the_row && opts != hot.with_top_k(100) {
                assert!(read > vocab_bytes, "{opts:?} read {read} bytes")
            } else {
                assert!(read <= 4096, "{opts:?} read {read} bytes")
            }
        }
    }
    assert!(fallbacks >= 50, "{fallbacks}");
}

#[test]
fn a_repetition_penalty_reads_the_whole_row_and_chooses_from_it() {
    let oracle = Oracle::open(MODEL);
    let prompt = oracle.tokens("p7.input_ids");
    let row_bytes = oracle.config.vocab_size as u64 * 4;
    let mut plain = 0;
    let mut generator = generator(&oracle, &Device::Gpu, Some(16), None);
    for opts in [GREEDY.with_repetition_penalty(1.5), SampleOpts::temperature(0.8, 3).with_repetition_penalty(1.5)] {
        generator.prefill(&prompt).unwrap();
        for _ in 0..12 {
            let history = generator.tokens().to_vec();
            let mut row = generator.recompute_all_logits(&history).unwrap();
            let mut row = row.split_off((history.len() - 1) * oracle.config.vocab_size);
            let greedy = sample_token_after(&row, &GREEDY, &history).unwrap();
            // The rule by hand, on logits of another path.
            let distinct: BTreeSet<u32> = history.iter().copied().collect();
            for token in distinct {
                let logit = &mut row[token as usize];
                *logit *= if *logit < 0.0 { 1.5 } else { 1.0 / 1.5 };
            }
            let unpenalised = opts.with_repetition_penalty(1.0);
            let expected = sample_token_after(&row, &unpenalised, &history).unwrap();
            let before = generator.counters().unwrap().bytes_read_back;
            let token = generator.step_cached(&opts).unwrap();
            assert_eq!(token, expected, "{opts:?} {history:?}");
            assert_eq!(generator.counters().unwrap().bytes_read_back - before, row_bytes);
            plain += u64::from(token == greedy);
        }
    }
    assert!(plain < 20, "the penalty changed nothing");
}

/// Runs that only give logits and runs that choose a token share a plan: what one finds of its logits is nothing to the
/// next.
#[test]
fn a_token_is_chosen_by_the_logits_of_its_own_run() {
    let oracle = Oracle::open(MODEL);
    let mut generator = generator(&oracle, &Device::Gpu, None, None);
    generator.prefill(oracle.tokens("p7.input_ids")).unwrap();
    for token in 3..23 {
        let logits = generator.decode_get_logits(token).unwrap();
        let history = generator.tokens().to_vec();
        generator.decode_get_logits(token + 1).unwrap();
        generator.prefill(&history).unwrap();
        let expected = sample_token_after(&logits, &GREEDY, &history).unwrap();
        assert_eq!(generator.step_cached(&GREEDY).unwrap(), expected, "after {token}");
    }
}
