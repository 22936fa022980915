//! Inputs on which every attention kernel must agree with the meaning.

use std::ops::Range;

use super::{Attention, DEAD_KEY};
use crate::ir::{Case, MaskKind, Value};

/// The first and the last position that queries at `positions` see by a rule.
fn visible(mask: MaskKind, positions: &[i32]) -> Value {
    let bounds = positions.iter().flat_map(|&position| mask.visible(position));
    Value::i32([1, positions.len(), 2], bounds.collect::<Vec<_>>())
}

/// Rings, padding, windows of both sorts, tokens that see each other, narrow caches and heads of every width.
pub(super) fn cases() -> Vec<Case> {
    let causal = MaskKind::Causal;
    let all = MaskKind::None;
    let window = MaskKind::SlidingWindow(9);
    let around = MaskKind::SymmetricWindow(4);
    let plain = Attention { scale: 0.3, softcap: None, keep: false };
    let capped = Attention { softcap: Some(4.0), ..plain.clone() };
    let faint = Attention { scale: 0.05, ..plain.clone() };
    let keep = Attention { keep: true, ..plain.clone() };
    let capped_kept = Attention { keep: true, ..capped.clone() };
    let case = |name: &str, op: &Attention, mask: MaskKind, sizes: [usize; 4], positions: Vec<i32>, keys: Vec<i32>| {
        seen(name, op, sizes, visible(mask, &positions), keys)
    };
    let ring = vec![24, 25, 26, 15, 16, 17, 18, 19, 20, 21, 22, 23];
    let dead = vec![0, 1, 2, 3, 4, DEAD_KEY, DEAD_KEY, DEAD_KEY, DEAD_KEY];
    let padded = vec![DEAD_KEY, DEAD_KEY, 0, 1, 2, 3, 4, 5, 6];
    vec![
        narrow(case("one", &plain, causal, [1, 1, 1, 2], count(0, 1), count(0, 1))),
        narrow(case("decode", &capped, causal, [1, 8, 4, 64], count(299, 1), count(0, 300))),
        narrow(case("long decode", &plain, causal, [1, 4, 1, 256], count(1029, 1), count(0, 1030))),
        narrow(case("ring", &plain, window, [3, 4, 2, 12], count(24, 3), ring.clone())),
        narrow(case("chunk", &plain, causal, [16, 4, 1, 70], count(100, 16), count(0, 116))),
        case("one", &plain, causal, [1, 1, 1, 2], count(0, 1), count(0, 1)),
        case("causal", &plain, causal, [33, 4, 2, 20], count(0, 33), count(0, 33)),
        case("decode", &plain, causal, [1, 8, 4, 64], count(299, 1), count(0, 300)),
        case("long decode", &plain, causal, [1, 4, 1, 256], count(1029, 1), count(0, 1030)),
        case("window", &plain, window, [33, 4, 1, 16], count(0, 33), count(0, 33)),
        case("ring", &plain, window, [3, 4, 2, 12], count(24, 3), ring.clone()),
        case("softcap", &capped, causal, [7, 4, 4, 20], count(0, 7), count(0, 7)),
        case("bidirectional", &plain, all, [5, 2, 1, 16], count(0, 5), count(0, 5)),
        case("symmetric window", &plain, around, [33, 4, 1, 16], count(0, 33), count(0, 33)),
        case("symmetric window, wide heads", &plain, around, [20, 4, 1, 256], count(0, 20), count(0, 20)),
        case("symmetric window, padding", &plain, around, [9, 4, 2, 16], padded.clone(), padded),
        case("symmetric ring", &capped_kept, around, [3, 4, 2, 12], count(20, 3), ring.clone()),
        case("itself alone", &plain, MaskKind::SymmetricWindow(0), [5, 2, 1, 16], count(0, 5), count(0, 5)),
        case("keep", &keep, window, [3, 4, 2, 12], count(24, 3), ring),
        case("dead rows", &plain, causal, [1, 4, 2, 16], count(4, 1), dead),
        case("nothing visible", &plain, window, [2, 2, 1, 16], count(50, 2), count(0, 9)),
        case("wide heads", &plain, causal, [5, 4, 1, 256], count(36, 5), count(0, 41)),
        case("widest heads", &faint, causal, [5, 4, 1, 512], count(36, 5), count(0, 41)),
        case("widest decode", &faint, causal, [1, 8, 1, 512], count(1029, 1), count(0, 1030)),
        narrow(case("widest chunk", &faint, causal, [20, 4, 2, 512], count(60, 20), count(0, 80))),
        case("chunk", &plain, causal, [16, 4, 1, 64], count(100, 16), count(0, 116)),
        case("wide heads, many queries", &faint, causal, [40, 2, 1, 256], count(30, 40), count(0, 70)),
        narrow(case("widest heads, many queries", &capped_kept, window, [36, 2, 1, 512], count(40, 36), count(0, 76))),
        narrow(case("many queries", &plain, causal, [33, 4, 1, 16], count(100, 33), count(0, 133))),
        case("many kept queries", &capped_kept, window, [36, 2, 1, 20], count(40, 36), count(0, 76)),
        case("many queries, long", &plain, causal, [32, 2, 2, 12], count(1008, 32), count(0, 1040)),
        rising(case("rising scores", &plain, causal, [40, 4, 2, 64], count(100, 40), count(0, 140))),
        seen("a block", &plain, [33, 4, 2, 20], with_block(causal, 0..33, 5..24), count(0, 33)),
        seen("a block in a window", &plain, [33, 4, 1, 64], with_block(window, 20..53, 30..50), count(0, 53)),
        narrow(seen("a block in f16", &capped, [20, 4, 1, 256], with_block(causal, 60..80, 62..75), count(0, 80))),
    ]
}

/// The positions from `from` on.
fn count(from: i32, len: usize) -> Vec<i32> {
    (from..from + len as i32).collect()
}

/// As [`visible`], but those in `block` see each other too, as the tokens of a picture do.
fn with_block(mask: MaskKind, positions: Range<i32>, block: Range<i32>) -> Value {
    let bounds = positions.clone().flat_map(|position| {
        let [first, last] = mask.visible(position);
        if block.contains(&position) { [first.min(block.start), last.max(block.end - 1)] } else { [first, last] }
    });
    Value::i32([1, positions.len(), 2], bounds.collect::<Vec<_>>())
}

/// A case of q `[1, T, N, H]` over K heads, for `[T, N, K, H]`.
fn seen(name: &str, op: &Attention, [new, heads, kv_heads, head_dim]: [usize; 4], visible: Value, keys: Vec<i32>) -> Case {
    let cached = keys.len();
    let mut operands = vec![
        Case::values(&[1, new, heads, head_dim], 1, 2.0),
        Case::values(&[1, cached, kv_heads, head_dim], 2, 2.0),
        Case::values(&[1, cached, kv_heads, head_dim], 3, 1.0),
        visible,
        Value::i32([1, cached], keys),
    ];
    if op.keep {
        operands.push(Value::f32([1, cached], (0..cached).map(|i| f32::from(i % 3 != 0)).collect::<Vec<_>>()));
    }
    Case::new(format!("{name} {new}x{heads}/{kv_heads}x{head_dim} over {cached}"), op.clone(), operands)
}

/// The same with keys that grow, so that the largest score of each run of keys exceeds all before it.
fn rising(case: Case) -> Case {
    let mut inputs = case.inputs;
    let shape = inputs[1].shape.clone();
    let per_key = shape[2] * shape[3];
    let drawn = inputs[0].to_f32().unwrap_or_default();
    let key = |i: usize| drawn[i % drawn.len()] * (i / per_key) as f32 / shape[1] as f32;
    inputs[1] = Value::f32(shape.clone(), (0..shape.iter().product()).map(key).collect::<Vec<_>>());
    Case { inputs, ..case }
}

/// The same keys and values in a narrow cache.
fn narrow(case: Case) -> Case {
    let half = |value: &Value| Value::f16(value.shape.clone(), &value.to_f32().unwrap_or_default());
    let mut inputs = case.inputs;
    inputs[1..3].iter_mut().for_each(|value| *value = half(value));
    Case { name: format!("f16 {}", case.name), inputs, ..case }
}
